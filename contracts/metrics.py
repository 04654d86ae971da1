"""Names of our own metrics: counted by the functions, watched by alarms and the dashboard.

Their namespace is the deployment's prefix; their one dimension, `service`, has the same value.
"""

from __future__ import annotations

DATASETS_TAKEN = "DatasetsTaken"
RUNS_REFUSED = "RunsRefused"
RUNS_FAILED = "RunsFailed"
SUBJECTS_READY = "SubjectsReady"
SUBJECTS_DELETED = "SubjectsDeleted"
GENERATIONS_ACCEPTED = "GenerationsAccepted"
GENERATIONS_FAILED = "GenerationsFailed"
PICTURES_MADE = "PicturesMade"
SECONDS_QUEUED = "SecondsQueued"
TRAINING_DOLLARS = "TrainingDollars"
UNEXPECTED_ERRORS = "UnexpectedErrors"
