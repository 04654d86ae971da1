"""Every call that every step makes goes wrong in turn, and every service: the dataset is trained once all the same."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import pytest

from dreamdrop.local.faults import STATE_MACHINE, Fault, Kind
from tests.e2e.conftest import Inbox, photo
from tests.resilience.conftest import FaultyCloud, orders

pytestmark = pytest.mark.resilience

STEPS = ("TakeDataset", "CheckDataset", "PlanTraining", "JudgeModel", "PublishModel", "HostModel", "TellReady")
ONE_OF_OURS = "?*"  # a function or the state machine, not the test itself
LONGER_THAN_THE_CLIENT_TRIES = 6  # the SDK in the functions tries a call four times

FAULTS: dict[str, tuple[Kind, int]] = {
    "killed": ("caller killed", 1),
    "lost": ("answer lost", 1),
    "away": ("unavailable", LONGER_THAN_THE_CLIENT_TRIES),
}
SERVICES = ("dynamodb", "s3", "sns", "states", "lambda")
REFUSALS: tuple[Kind, ...] = ("throttled", "error", "unavailable", "unanswered")


@pytest.fixture(scope="module")
def calls(cloud: FaultyCloud) -> dict[str, int]:
    """How many calls each step makes for a dataset when nothing goes wrong."""
    cloud.upset(*(Fault(kind="seen", caller=f"*{step}*", about=["counted"]) for step in STEPS))
    cloud.drop("counted", {"a.png": photo()})
    cloud.assert_trained_once("counted")
    counted = {fault.caller.strip("*"): fault.met for fault in cloud.faults("counted")}
    assert all(counted.values()), counted
    return counted


def assert_each_survives(
    cloud: FaultyCloud, inbox: Inbox, faults: dict[str, Fault], files: Mapping[str, bytes] = MappingProxyType({})
) -> None:
    """Drops a dataset for each fault, all at once. files: of each, beside its photo."""
    cloud.upset(*(fault.model_copy(update={"about": [subject]}) for subject, fault in faults.items()))
    for subject in faults:
        cloud.drop(subject, {"a.png": photo(), **files})
    for subject in faults:
        cloud.assert_trained_once(subject)
        [fault] = cloud.faults(subject)
        assert fault.happened >= 1, f"{subject}: nothing went wrong, so this shows nothing"
        assert {message["event"] for message in inbox.about(subject)} == {"subject.ready"}
    assert cloud.set_aside() == {}


@pytest.mark.parametrize("name", FAULTS)
def test_whichever_call_goes_wrong_the_dataset_is_trained_once(
    cloud: FaultyCloud, inbox: Inbox, calls: dict[str, int], name: str
) -> None:
    kind, times = FAULTS[name]
    faults = {
        f"{name}-{step.lower()}-{number}": Fault(kind=kind, caller=f"*{step}*", skip=number, times=times)
        for step, count in calls.items()
        for number in range(count)
    }
    assert_each_survives(cloud, inbox, faults)


def test_whichever_service_goes_wrong_the_dataset_is_trained_once(cloud: FaultyCloud, inbox: Inbox) -> None:
    """The first call of a dataset to the service and those after it, whoever makes them."""
    times = {"lambda": 3}  # Step Functions' own calls: retried by the machine, not by an SDK
    faults = {
        f"{service}-{kind}": Fault(
            kind=kind, action=f"{service}:*", caller=ONE_OF_OURS, times=times.get(service, LONGER_THAN_THE_CLIENT_TRIES)
        )
        for service in SERVICES
        for kind in REFUSALS
    }
    assert_each_survives(cloud, inbox, faults)


def test_a_training_job_that_is_turned_away_for_now_is_made_later(cloud: FaultyCloud, inbox: Inbox) -> None:
    fault = Fault(kind="throttled", action="sagemaker:CreateTrainingJob", caller=STATE_MACHINE, times=3)
    assert_each_survives(cloud, inbox, {"job-throttled": fault})


def test_a_request_for_a_training_job_that_fails_leaves_no_job_behind(cloud: FaultyCloud, inbox: Inbox) -> None:
    """Also the one that was made although nobody heard so."""
    failures: tuple[Kind, ...] = ("error", "unavailable", "unanswered", "answer lost")
    create = Fault(kind="error", action="sagemaker:CreateTrainingJob", caller=STATE_MACHINE)
    faults = {f"request-{kind.replace(' ', '-')}": create.model_copy(update={"kind": kind}) for kind in failures}
    assert_each_survives(cloud, inbox, faults, {"a.txt": orders(steps=60, step_seconds=0.2)})
    made = {subject: [job["TrainingJobStatus"] for job in cloud.jobs_of(subject)] for subject in faults}
    assert made.pop("request-answer-lost") == ["Stopped", "Completed"]
    assert set(map(tuple, made.values())) == {("Completed",)}
    for subject in faults:
        run = cloud.run(subject)
        assert run is not None
        assert run.receipt is not None
        settled = [job.attempt for job in run.receipt.jobs]
        assert settled == [1, 2], f"{subject}: what was reserved for the first request was never settled"


@pytest.mark.parametrize("service", ["sagemaker", "application-autoscaling", "cloudwatch"])
def test_a_service_that_hosting_needs_goes_wrong_in_every_way_one_after_the_other(
    cloud: FaultyCloud, service: str
) -> None:
    """Such calls name the endpoint that all subjects share, not the subject."""
    each = 2
    cloud.upset(
        *(
            Fault(kind=kind, action=f"{service}:*", caller="*HostModel*", skip=number * each, times=each)
            for number, kind in enumerate(REFUSALS)
        )
    )
    subject = f"{service[:11]}-wrong"
    cloud.drop(subject, {"a.png": photo()})
    cloud.assert_trained_once(subject)
    assert [fault.happened for fault in cloud.faults()[-len(REFUSALS) :]] == [each] * len(REFUSALS)
    assert cloud.set_aside() == {}
