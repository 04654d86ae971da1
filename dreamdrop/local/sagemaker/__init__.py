"""A SageMaker that runs training jobs and endpoints as ordinary processes of this machine.

It knows nothing of the emulator: it needs an AWS endpoint URL (S3 and SNS), a function image -> command and a function
role -> credentials. Shapes and error codes are those of the AWS API, times are seconds since the epoch.

    engine.py        the facade: one door for every operation
    training.py      CreateTrainingJob and its kin; job_run.py carries one job out
    catalog.py       models and endpoint configurations
    endpoints.py     CreateEndpoint and its kin; endpoint_controller.py keeps one endpoint as it should be
    async_queue.py   what waits for an endpoint; async_delivery.py serves one request
    autoscaling.py   Application Auto Scaling, with a real scale to zero
"""

from dreamdrop.local.sagemaker.engine import LocalSageMaker
from dreamdrop.local.sagemaker.errors import SageMakerError
from dreamdrop.local.sagemaker.settings import EngineSettings

__all__ = ["EngineSettings", "LocalSageMaker", "SageMakerError"]
