"""The scaling requests of lambdas/domain/scaling.py, against the simulator in tests/simulation/scaling.py.

Whatever the documentation leaves open is tried in each of its readings, and SageMaker is supposed to end what runs on
an instance that it removes. Each check is then shown to fail for requests that are made wrong on purpose.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import botocore.session
import pytest
from botocore.validate import ParamValidator

from contracts.generation import REQUEST_TTL_SECONDS
from inference_container.platform import DRAIN_SECONDS
from lambdas.domain.endpoints import EndpointPlan
from lambdas.domain.scaling import BACKLOG_PER_INSTANCE, SCALE_IN_COOLDOWN_SECONDS, Scaling, alarm_names
from tests.simulation import arrivals
from tests.simulation.cloudwatch import MINUTE
from tests.simulation.scaling import (
    HOUR,
    LOW_PERIODS,
    NAMESPACE,
    Behaviour,
    Request,
    Requests,
    Result,
    Trace,
    ideal_hours,
    ideal_wait,
    simulate,
)

DOCUMENTED = Behaviour()
QUICK = Behaviour(start_seconds=120, removal_seconds=60)
BEHAVIOURS = {
    "documented": DOCUMENTED,
    "quick": QUICK,
    "slow": Behaviour(start_seconds=900, removal_seconds=300, metric_delay_seconds=180),
    "slow to remove": Behaviour(removal_seconds=600),
    "a share without instances": Behaviour(share_at_zero=True),
    "one at a time": Behaviour(gradual=True),
    "alarms act once": Behaviour(alarms_repeat=False),
    "alarms look far back": Behaviour(extra_datapoints=6),
    "only ones are published": Behaviour(published_zeros=False),
    "only what waits is counted": Behaviour(counts_running=False),
}
TRACES = (
    arrivals.lone(),
    arrivals.burst(),
    arrivals.steady(),
    arrivals.steady(gap=20 * MINUTE),
    arrivals.evening(),
    arrivals.wave(),
    arrivals.flood(),
    arrivals.flood_then_steady(),
    arrivals.generated(seed=0),
)
SANDBOX, PRODUCTION = 1, 4  # inference_max_instances


def requests_for(max_instances: int) -> Requests:
    return Requests.of(
        EndpointPlan(
            prefix="dreamdrop", base_model="sd-2.1", base_model_checksum="c", bucket="b", image="i", role_arn="r",
            instance_type="ml.g5.xlarge", success_topic_arn="s", error_topic_arn="e",
        ),
        max_instances,
    )  # fmt: skip


@functools.cache
def simulated(trace: Trace, behaviour: Behaviour, max_instances: int) -> Result:
    return simulate(trace, requests_for(max_instances), behaviour)


# ---- the checks


def waking_seconds(behaviour: Behaviour) -> int:
    """At most: a removal that is under way, two datapoints and their delay, the alarm's turn, and the start."""
    alarm = 3 * MINUTE + behaviour.metric_delay_seconds
    return behaviour.removal_seconds + alarm + MINUTE + behaviour.start_seconds


def sleeping_seconds(behaviour: Behaviour, max_instances: int) -> int:
    """At most: what AWS's alarm wants to see, its delay and its turn, a start that is under way, and the removals."""
    seen = (LOW_PERIODS + 2) * MINUTE + behaviour.metric_delay_seconds
    removals = max_instances if behaviour.gradual else 1
    between = max(behaviour.removal_seconds, SCALE_IN_COOLDOWN_SECONDS) + MINUTE
    return seen + behaviour.start_seconds + behaviour.removal_seconds + (removals - 1) * between


def ends_soon(trace: Trace, result: Result, behaviour: Behaviour, max_instances: int) -> None:
    """No request waits longer than for one instance to wake, besides for those before it. Far below its TTL."""
    waking = waking_seconds(behaviour) + sum(end - start for start, end in trace.updates)
    bound = waking + ideal_wait(trace.requests, requests_for(max_instances).concurrency)
    assert result.longest_wait <= bound < REQUEST_TTL_SECONDS / 3
    assert {work.outcome for work in result.works} <= {"done", "cut off"}


def cuts_nothing_off(trace: Trace, result: Result, behaviour: Behaviour, max_instances: int) -> None:
    assert not result.cut_off


def spares_what_is_shown(trace: Trace, result: Result, behaviour: Behaviour, max_instances: int) -> None:
    """For drawings that take longer than a container has to stop."""
    assert not [cut for cut in result.cut_off if cut.shown]


def sleeps_again(trace: Trace, result: Result, behaviour: Behaviour, max_instances: int) -> None:
    assert result.asleep_after is not None
    assert result.asleep_after <= sleeping_seconds(behaviour, max_instances)


def keeps_its_limits(trace: Trace, result: Result, behaviour: Behaviour, max_instances: int) -> None:
    assert result.most_instances <= max_instances
    assert result.most_scalings_an_hour <= 4 + 2 * max_instances
    assert not [scaling for scaling in result.scalings if scaling.reason == "wake" and scaling.after < scaling.before]


def costs_what_it_must(trace: Trace, result: Result, behaviour: Behaviour, max_instances: int) -> None:
    """Nobody pays for an instance but from a request's arrival until it may sleep after it."""
    tail = sleeping_seconds(behaviour, max_instances)
    awake = tuple(Request(work.request.arrival, work.ends + tail - work.request.arrival) for work in result.works)
    assert result.instance_hours <= max_instances * ideal_hours(awake, concurrency=len(awake))


Check = Callable[[Trace, Result, Behaviour, int], None]
CHECKS: tuple[Check, ...] = (ends_soon, cuts_nothing_off, sleeps_again, keeps_its_limits, costs_what_it_must)


# ---- what must hold


def check_all(trace: Trace, behaviour: Behaviour, max_instances: int) -> None:
    for check in CHECKS:
        check(trace, simulated(trace, behaviour, max_instances), behaviour, max_instances)


@pytest.mark.parametrize("max_instances", [SANDBOX, PRODUCTION])
@pytest.mark.parametrize("behaviour", BEHAVIOURS.values(), ids=BEHAVIOURS)
@pytest.mark.parametrize("trace", TRACES, ids=lambda trace: trace.name)
def test_requests_end_and_the_endpoint_sleeps(trace: Trace, behaviour: Behaviour, max_instances: int) -> None:
    check_all(trace, behaviour, max_instances)


@pytest.mark.parametrize("behaviour", BEHAVIOURS.values(), ids=BEHAVIOURS)
@pytest.mark.parametrize("trace", [arrivals.lone(), arrivals.burst(), arrivals.evening()], ids=lambda trace: trace.name)
def test_the_alarm_wakes_when_the_submitting_call_is_throttled(trace: Trace, behaviour: Behaviour) -> None:
    check_all(replace(trace, wakes=False), behaviour, SANDBOX)


@pytest.mark.parametrize("seed", range(1, 21))
def test_generated_arrivals(seed: int) -> None:
    behaviours = list(BEHAVIOURS.values())
    check_all(arrivals.generated(seed), behaviours[seed % len(behaviours)], PRODUCTION if seed % 3 else SANDBOX)


@pytest.mark.parametrize("seed", range(1, 9))
def test_generated_long_drawings_are_ended_only_where_no_metric_could_tell_of_them(seed: int) -> None:
    trace = arrivals.generated(seed, longest=300, rates_per_hour=(0, 1, 3, 6, 20, 60))
    behaviour = Behaviour(gradual=seed % 2 == 0, share_at_zero=seed % 3 == 0)
    for check in (ends_soon, spares_what_is_shown, sleeps_again, keeps_its_limits, costs_what_it_must):
        check(trace, simulated(trace, behaviour, PRODUCTION), behaviour, PRODUCTION)


def test_a_submit_wakes_sooner_than_the_alarm() -> None:
    woken = simulated(arrivals.lone(), DOCUMENTED, SANDBOX)
    alarmed = simulated(replace(arrivals.lone(), wakes=False), DOCUMENTED, SANDBOX)
    assert woken.longest_wait == DOCUMENTED.start_seconds
    assert 2 * MINUTE <= alarmed.longest_wait - woken.longest_wait <= 4 * MINUTE
    assert alarmed.most_instances == 1


def test_many_instances_draw_a_flood_in_less_than_half_the_time() -> None:
    alone, together = (simulated(arrivals.flood(), DOCUMENTED, most) for most in (SANDBOX, PRODUCTION))
    assert together.most_instances == PRODUCTION
    assert together.longest_wait < alone.longest_wait / 2


@pytest.mark.parametrize(
    ("trace", "max_instances", "hours"),
    [  # ideal_hours: of one instance that starts and stops at once
        (arrivals.lone(), SANDBOX, 0.4),  # 0.01
        (arrivals.burst(), SANDBOX, 0.42),  # 0.03
        (arrivals.steady(), SANDBOX, 24.2),  # 0.55
        (arrivals.steady(gap=20 * MINUTE), SANDBOX, 23.5),  # 0.3; AWS waits 15 minutes after each, a start takes five
        (arrivals.evening(), SANDBOX, 3.0),  # 0.07
        (arrivals.wave(), SANDBOX, 12),  # 3.6
        (arrivals.flood(), SANDBOX, 1.5),  # 1.04
        (arrivals.flood(), PRODUCTION, 2.7),
        (arrivals.flood_then_steady(), SANDBOX, 7.4),  # 1.07
        (arrivals.flood_then_steady(), PRODUCTION, 9),
        (arrivals.ebb(), PRODUCTION, 11),  # 2.06; four stay for what two could draw: nobody says which one is idle
    ],
    ids=lambda value: value.name if isinstance(value, Trace) else str(value),
)
def test_what_it_costs(trace: Trace, max_instances: int, hours: float) -> None:
    assert simulated(trace, DOCUMENTED, max_instances).instance_hours <= hours


# ---- moments


def around_a_removal(seconds: int, step: int) -> list[Trace]:
    """A lone drawing, and another one that comes at every moment from long before its instance goes to long after."""
    first = Request(HOUR, 20)
    alone = simulated(Trace(name="first", requests=(first,)), DOCUMENTED, SANDBOX)
    (removed,) = [scaling.at for scaling in alone.scalings if scaling.after == 0]
    moments = range(removed - 5 * MINUTE, removed + 5 * MINUTE, step)
    return [Trace(name=f"at {at - removed}", requests=(first, Request(at, seconds))) for at in moments]


@pytest.mark.parametrize("wakes", [True, False], ids=["woken", "the call to wake fails"])
def test_a_request_at_the_moment_of_the_removal_is_drawn(wakes: bool) -> None:
    for trace in around_a_removal(seconds=int(DRAIN_SECONDS), step=7):
        check_all(replace(trace, wakes=wakes), DOCUMENTED, SANDBOX)


def test_a_long_drawing_is_ended_only_if_it_came_after_the_newest_datapoint() -> None:
    """No policy can see it; it is told as failed, and can be asked for again."""
    step = 5
    results = [simulated(trace, DOCUMENTED, SANDBOX) for trace in around_a_removal(seconds=200, step=step)]
    ended = [cut for result in results for cut in result.cut_off]
    assert ended
    assert not [cut for cut in ended if cut.shown]
    assert len(ended) * step <= DOCUMENTED.metric_delay_seconds + MINUTE


UPDATE = (6 * HOUR - MINUTE, 6 * HOUR + 15 * MINUTE)
REPEATING = {name: behaviour for name, behaviour in BEHAVIOURS.items() if behaviour.alarms_repeat}


@pytest.mark.parametrize("behaviour", REPEATING.values(), ids=REPEATING)
def test_requests_while_the_endpoint_is_updated(behaviour: Behaviour) -> None:
    asleep = replace(arrivals.burst(start=6 * HOUR), updates=(UPDATE,))
    at_the_end = replace(arrivals.lone(arrival=UPDATE[1] - 1), updates=(UPDATE,))
    awake = replace(arrivals.burst(start=MINUTE), updates=((0, 15 * MINUTE),), instances=1)
    for trace in (asleep, at_the_end, awake):
        check_all(trace, behaviour, SANDBOX)


def test_an_alarm_that_acted_only_once_would_leave_a_refused_wake_to_the_next_submit() -> None:
    """Why it matters that CloudWatch repeats a scaling action for as long as its alarm is on."""
    once = BEHAVIOURS["alarms act once"]
    alone = replace(arrivals.lone(), updates=(UPDATE,))
    (left,) = simulated(alone, once, SANDBOX).works
    assert (left.outcome, left.waited) == ("expired", REQUEST_TTL_SECONDS)
    followed = replace(alone, requests=(*alone.requests, Request(7 * HOUR, 20)))
    assert {work.outcome for work in simulated(followed, once, SANDBOX).works} == {"done"}


def test_an_endpoint_that_is_never_asked() -> None:
    made = Trace(name="made and never asked", requests=(), instances=1)
    sleeps_again(made, simulated(made, DOCUMENTED, SANDBOX), DOCUMENTED, SANDBOX)
    silent = Behaviour(published_from_start=False)  # then no policy helps: it has to be set to zero once it is made
    assert simulated(made, silent, SANDBOX).asleep_after is None
    set_to_zero = replace(made, instances=0)
    assert simulated(set_to_zero, silent, SANDBOX).instance_hours == 0


# ---- that the checks notice


def changed(change: Callable[[Requests], object], max_instances: int = SANDBOX) -> Requests:
    made = copy.deepcopy(requests_for(max_instances))
    change(made)
    return made


def tracking(made: Requests) -> dict[str, Any]:
    configuration: dict[str, Any] = made.backlog_policy["TargetTrackingScalingPolicyConfiguration"]
    return configuration


def bare_metric(made: Requests) -> None:
    """As in AWS's example."""
    dimensions = [{"Name": "EndpointName", "Value": made.endpoint_name}]
    name = {"MetricName": "ApproximateBacklogSizePerInstance", "Namespace": NAMESPACE, "Statistic": "Average"}
    tracking(made)["CustomizedMetricSpecification"] = {**name, "Dimensions": dimensions}


def share_alone(made: Requests) -> None:
    queries = tracking(made)["CustomizedMetricSpecification"]["Metrics"]
    queries[2]["Expression"] = queries[2]["Expression"].replace("backlog", "share")


def other_dimension(made: Requests) -> None:
    for query in tracking(made)["CustomizedMetricSpecification"]["Metrics"][:2]:
        query["MetricStat"]["Metric"]["Dimensions"][0]["Name"] = "Endpoint"


def bare_metric_without_cooldown(made: Requests) -> None:
    bare_metric(made)
    tracking(made)["ScaleInCooldown"] = 0


def another_target(made: Requests) -> None:
    """Than what work counts for."""
    tracking(made)["TargetValue"] = 2 * BACKLOG_PER_INSTANCE


def alarm_of(made: Requests) -> dict[str, Any]:
    assert made.wake_alarm is not None
    return made.wake_alarm


THROTTLED = replace(arrivals.lone(), wakes=False)


def soon_after_a_removal(seconds_later: int) -> Trace:
    """Woken while the alarm for scaling in still stands on old datapoints."""
    return Trace(name="soon after", requests=(Request(HOUR, 20), Request(HOUR + seconds_later, 200)))


@pytest.mark.parametrize(
    ("change", "check", "trace", "behaviour", "max_instances"),
    [
        (lambda made: alarm_of(made).update(AlarmActions=[]), ends_soon, THROTTLED, DOCUMENTED, SANDBOX),
        (lambda made: alarm_of(made).update(Dimensions=[]), ends_soon, THROTTLED, DOCUMENTED, SANDBOX),
        (lambda made: alarm_of(made).update(Threshold=2), ends_soon, THROTTLED, DOCUMENTED, SANDBOX),
        (other_dimension, sleeps_again, arrivals.lone(), DOCUMENTED, SANDBOX),
        (lambda made: made.target.update(MinCapacity=1), sleeps_again, arrivals.lone(), DOCUMENTED, SANDBOX),
        (lambda made: tracking(made).update(DisableScaleIn=True), sleeps_again, arrivals.lone(), DOCUMENTED, SANDBOX),
        (another_target, spares_what_is_shown, arrivals.ebb(), DOCUMENTED, PRODUCTION),
        (bare_metric, spares_what_is_shown, arrivals.ebb(), DOCUMENTED, PRODUCTION),
        (bare_metric, keeps_its_limits, arrivals.steady(), DOCUMENTED, SANDBOX),
        (bare_metric_without_cooldown, cuts_nothing_off, soon_after_a_removal(1350), QUICK, SANDBOX),
        (bare_metric, cuts_nothing_off, soon_after_a_removal(1650), QUICK, SANDBOX),
        (share_alone, cuts_nothing_off, soon_after_a_removal(1650), QUICK, SANDBOX),
    ],
)  # fmt: skip
def test_wrong_requests_are_noticed(
    change: Callable[[Requests], None], check: Check, trace: Trace, behaviour: Behaviour, max_instances: int
) -> None:
    """The cooldown matters for the bare metric only: with ours nothing is removed before there was no work for long."""
    check(trace, simulated(trace, behaviour, max_instances), behaviour, max_instances)
    with pytest.raises(AssertionError):
        check(trace, simulate(trace, changed(change, max_instances), behaviour), behaviour, max_instances)


def test_a_target_out_of_reach_leaves_a_flood_to_one_instance() -> None:
    never = changed(lambda made: tracking(made).update(TargetValue=500.0), PRODUCTION)
    assert simulate(arrivals.flood(), never, DOCUMENTED).most_instances == 1


def test_one_more_instead_of_exactly_one_is_one_too_many() -> None:
    one_more = changed(
        lambda made: made.wake_policy["StepScalingPolicyConfiguration"].update(AdjustmentType="ChangeInCapacity"),
        PRODUCTION,
    )
    slow = BEHAVIOURS["slow"]
    assert simulated(THROTTLED, slow, PRODUCTION).most_instances == 1
    assert simulate(THROTTLED, one_more, slow).most_instances == 2


# ---- the requests


def test_a_person_hears_of_what_waits_and_of_what_idles() -> None:
    waiting, awake = Scaling("e", 1, "topic").watching_alarms()
    assert {waiting["AlarmName"], awake["AlarmName"]} < set(alarm_names("e"))
    assert (waiting["MetricName"], waiting["Threshold"]) == ("ApproximateAgeOfOldestRequest", 1800)
    periods = {query["MetricStat"]["Period"] for query in awake["Metrics"] if "MetricStat" in query}
    assert {period * awake["EvaluationPeriods"] for period in periods} == {3600}
    for alarm in (waiting, awake):
        assert alarm["AlarmActions"] == ["topic"]
        assert alarm["TreatMissingData"] == "notBreaching"  # as at zero instances


def test_the_requests_have_the_shapes_aws_wants() -> None:
    made = requests_for(PRODUCTION)
    session = botocore.session.get_session()
    for service, operation, request in (
        ("application-autoscaling", "RegisterScalableTarget", made.target),
        ("application-autoscaling", "PutScalingPolicy", made.backlog_policy),
        ("application-autoscaling", "PutScalingPolicy", made.wake_policy),
        ("cloudwatch", "PutMetricAlarm", made.wake_alarm),
        *(("cloudwatch", "PutMetricAlarm", alarm) for alarm in Scaling("e", 1, "arn").watching_alarms()),
    ):
        shape = session.get_service_model(service).operation_model(operation).input_shape
        assert request is not None and shape is not None
        report = ParamValidator().validate(request, shape)
        assert not report.has_errors(), report.generate_report()


def test_what_work_counts_for_is_neither_below_nor_above_the_target() -> None:
    configuration = tracking(requests_for(SANDBOX))
    expressions = [q["Expression"] for q in configuration["CustomizedMetricSpecification"]["Metrics"][2:]]
    assert configuration["TargetValue"] == BACKLOG_PER_INSTANCE
    assert expressions[0] == f"IF(backlog > 0, {BACKLOG_PER_INSTANCE}, 0)"


def test_the_simulated_container_stops_as_ours_does() -> None:
    assert DOCUMENTED.grace_seconds == DRAIN_SECONDS
