"""What AWS does with the requests of lambdas/domain/endpoints.py: a simulator of an asynchronous endpoint that sleeps.

It reads the very requests that let_it_sleep sends and replays arrivals against them, second by second, jumping over
seconds in which nothing happens. Nothing is random in here: the same trace gives the same result.

Documented, and modelled so:

- metrics: https://docs.aws.amazon.com/sagemaker/latest/dg/async-inference-monitor.html
- the two policies and the alarm: https://docs.aws.amazon.com/sagemaker/latest/dg/async-inference-autoscale.html
- a change of capacity makes the endpoint Updating, which refuses another one:
  https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_UpdateEndpointWeightsAndCapacities.html
- target tracking follows two alarms of its own, scales out in proportion, rounds so that it never removes too much,
  does not scale in on INSUFFICIENT_DATA, and can reach 0 only when the metric is really 0; cooldowns; of several
  policies the largest capacity wins:
  https://docs.aws.amazon.com/autoscaling/application/userguide/target-tracking-scaling-policy-overview.html
- step scaling: https://docs.aws.amazon.com/autoscaling/application/userguide/step-scaling-policy-overview.html
- an alarm repeats a scaling action every minute for as long as it stays on, and looks at more datapoints than it has
  periods: https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/alarm-evaluation.html
- a stopped container has 30 seconds: https://docs.aws.amazon.com/sagemaker/latest/dg/your-algorithms-inference-code.html

Seen, not documented: how many datapoints the two alarms of target tracking want (HIGH_PERIODS, LOW_PERIODS).

Documented nowhere, so taken at its worst: SageMaker does not wait for the work of an instance that it removes, it
removes the busiest one, and what it cuts off is lost; a metric is read once at the end of its minute, so that short
work may escape it; the newest datapoint decides. What else is open is a field of Behaviour.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from contracts.generation import INVOCATION_TIMEOUT_SECONDS, REQUEST_TTL_SECONDS
from lambdas.domain.endpoints import EndpointPlan
from lambdas.domain.scaling import Scaling as EndpointScaling
from tests.simulation.cloudwatch import MINUTE, Alarm, Key, Metrics, State

HOUR = 3600
NAMESPACE = "AWS/SageMaker"
ALARM_TOPIC_ARN = "arn:aws:sns:eu-central-1:1:alarms"
WAKE_POLICY_ARN = "arn:aws:autoscaling:eu-central-1:1:scalingPolicy:1:resource/sagemaker/e:policyName/wake"

# What Application Auto Scaling sets in the alarms that it makes for a target tracking policy.
HIGH_PERIODS = 3
LOW_PERIODS = 15
LOW_SHARE_OF_TARGET = 0.9

AFTERWARDS_SECONDS = 2 * HOUR
"""For so long after everything has ended it is watched whether the endpoint sleeps, and stays asleep."""


@dataclass(frozen=True, kw_only=True)
class Behaviour:
    """What the documentation leaves open, or what differs between accounts and days."""

    start_seconds: int = 300
    """From the decision to an instance that takes work. Three to eleven minutes were seen."""

    removal_seconds: int = 120
    """For so long the endpoint is Updating, and billed, while it loses instances."""

    grace_seconds: int = 25
    """What runs on an instance that is removed may end within so many: DRAIN_SECONDS of our container."""

    metric_delay_seconds: int = 60
    evaluated_at: int = 30
    """The second of the minute at which alarms are evaluated and act."""

    extra_datapoints: int = 2
    """That an alarm looks at besides its periods."""

    counts_running: bool = True
    """Documented for the backlog; some users report that only what waits is counted."""

    share_at_zero: bool = False
    """Whether there is a backlog for each instance while there is no instance. Sources contradict each other."""

    published_from_start: bool = True
    """Or only from the first request on."""

    published_zeros: bool = True
    """Whether HasBacklogWithoutCapacity is there when it is 0."""

    gradual: bool = False
    """One instance each time, instead of all that are too many."""

    alarms_repeat: bool = True


@dataclass(frozen=True, kw_only=True)
class Requests:
    """All that is sent to AWS about one endpoint's scaling."""

    config: dict[str, Any]
    target: dict[str, Any]
    backlog_policy: dict[str, Any]
    wake_policy: dict[str, Any]
    wake_alarm: dict[str, Any] | None

    @classmethod
    def of(cls, plan: EndpointPlan, max_instances: int) -> Requests:
        scaling = EndpointScaling(plan.endpoint_name, max_instances, ALARM_TOPIC_ARN)
        return cls(
            config=plan.config(),
            target=scaling.target(),
            backlog_policy=scaling.backlog_policy(),
            wake_policy=scaling.wake_policy(),
            wake_alarm=scaling.wake_alarm(WAKE_POLICY_ARN),
        )

    @property
    def endpoint_name(self) -> str:
        return str(self.target["ResourceId"].split("/")[1])

    @property
    def concurrency(self) -> int:
        return int(self.config["AsyncInferenceConfig"]["ClientConfig"]["MaxConcurrentInvocationsPerInstance"])


@dataclass(frozen=True, order=True)
class Request:
    arrival: int
    seconds: int
    """In the container, from its first byte to its last."""


@dataclass(frozen=True, kw_only=True)
class Trace:
    name: str
    requests: tuple[Request, ...]
    wakes: bool = True
    """Whether the submitting function's call gets through."""

    updates: tuple[tuple[int, int], ...] = ()
    """From when to when somebody else changes the endpoint: UpdateEndpoint, which refuses every other change."""

    instances: int = 0
    """At the beginning."""


Outcome = Literal["waiting", "running", "done", "expired", "timed out", "cut off"]


@dataclass
class Work:
    request: Request
    outcome: Outcome = "waiting"
    started: int | None = None
    ends: int = 0

    @property
    def waited(self) -> int:
        return (self.ends if self.started is None else self.started) - self.request.arrival


@dataclass(frozen=True)
class CutOff:
    request: Request
    at: int
    shown: bool
    """Whether the newest datapoint at the decision could tell of it. A request that came later cannot be seen."""


@dataclass(frozen=True)
class Scaling:
    at: int
    before: int
    after: int
    reason: str


@dataclass
class Instance:
    ready: int
    running: list[Work] = field(default_factory=list)
    leaves: int | None = None
    shown_until: int = 0


class Refused(Exception):
    """The endpoint is Updating."""


class Endpoint:
    """SageMaker's side: a queue, and instances that take from it."""

    def __init__(self, behaviour: Behaviour, concurrency: int, instances: int) -> None:
        self._behaviour = behaviour
        self._concurrency = concurrency
        self.desired = instances
        self.instances = [Instance(ready=0) for _ in range(instances)]
        self.leaving: list[Instance] = []
        self.waiting: deque[Work] = deque()
        self.cut_off: list[CutOff] = []
        self.updating_until = 0

    def ready(self, now: int) -> list[Instance]:
        return [instance for instance in self.instances if instance.ready <= now]

    @property
    def idle(self) -> bool:
        return not self.waiting and not any(instance.running for instance in (*self.instances, *self.leaving))

    def backlog(self) -> int:
        running = sum(len(instance.running) for instance in (*self.instances, *self.leaving))
        return len(self.waiting) + (running if self._behaviour.counts_running else 0)

    def set_desired(self, count: int, now: int, shown_until: int) -> None:
        """UpdateEndpointWeightsAndCapacities. Raises Refused."""
        if now < self.updating_until:
            raise Refused
        if count > self.desired:
            takes = self._behaviour.start_seconds
            self.instances += [Instance(ready=now + takes) for _ in range(count - self.desired)]
        else:
            takes = self._behaviour.removal_seconds
            by_work = sorted(self.instances, key=lambda instance: len(instance.running))
            self.instances, leaving = by_work[:count], by_work[count:]
            for instance in leaving:
                instance.leaves, instance.shown_until = now, shown_until
            self.leaving += leaving
        self.desired = count
        self.updating_until = now + takes

    def advance(self, now: int) -> None:
        """Ends what has ended, and gives what waits to whoever is free."""
        for instance in (*self.instances, *self.leaving):
            for work in [work for work in instance.running if work.ends <= now]:
                instance.running.remove(work)
                work.outcome = "timed out" if work.request.seconds > INVOCATION_TIMEOUT_SECONDS else "done"
        for instance in self.leaving:
            self._cut_off(instance, now)
        self.leaving = [i for i in self.leaving if now < (i.leaves or 0) + self._behaviour.removal_seconds]
        while self.waiting and self.waiting[0].request.arrival + REQUEST_TTL_SECONDS <= now:
            late = self.waiting.popleft()
            late.outcome, late.ends = "expired", now
        for instance in sorted(self.ready(now), key=lambda instance: len(instance.running)):
            while self.waiting and len(instance.running) < self._concurrency:
                work = self.waiting.popleft()
                work.outcome, work.started = "running", now
                work.ends = now + min(work.request.seconds, INVOCATION_TIMEOUT_SECONDS)
                instance.running.append(work)

    def _cut_off(self, instance: Instance, now: int) -> None:
        if instance.leaves is None or now < instance.leaves + self._behaviour.grace_seconds:
            return
        for work in instance.running:
            work.outcome, work.ends = "cut off", now
            shown = work.request.arrival <= instance.shown_until
            self.cut_off.append(CutOff(work.request, now, shown))
        instance.running = []

    def next_event(self, now: int) -> int:
        """The next second at which something ends or begins by itself."""
        times = [i.ready for i in self.instances]
        for instance in (*self.instances, *self.leaving):
            times += [work.ends for work in instance.running]
            if instance.leaves is not None:
                times += [instance.leaves + self._behaviour.grace_seconds]
                times += [instance.leaves + self._behaviour.removal_seconds]
        return min((time for time in times if time > now), default=now + HOUR)


class AutoScaling:
    """Application Auto Scaling with one target tracking policy, and one step policy behind an alarm of ours."""

    def __init__(self, requests: Requests, metrics: Metrics, behaviour: Behaviour) -> None:
        self._behaviour = behaviour
        self._metrics = metrics
        self._target = requests.target
        self._tracking = requests.backlog_policy["TargetTrackingScalingPolicyConfiguration"]
        self._step = requests.wake_policy["StepScalingPolicyConfiguration"]
        self._backlog = metrics.series(self._tracking["CustomizedMetricSpecification"])
        goal = self._tracking["TargetValue"]
        self._alarms = {
            "high": self._tracking_alarm("GreaterThanThreshold", goal, HIGH_PERIODS),
            "low": self._tracking_alarm("LessThanThreshold", goal * LOW_SHARE_OF_TARGET, LOW_PERIODS),
        }
        alarm = requests.wake_alarm
        if alarm and WAKE_POLICY_ARN in alarm["AlarmActions"]:
            self._alarms["wake"] = Alarm.of(alarm, metrics)
        self._states: dict[str, State] = dict.fromkeys(self._alarms, "INSUFFICIENT_DATA")
        self._out_until = dict.fromkeys(self._alarms, 0)
        self._out_to = dict.fromkeys(self._alarms, 0)
        self._in_until = 0

    def _tracking_alarm(self, comparison: str, threshold: float, periods: int) -> Alarm:
        return Alarm(
            series=self._backlog, comparison=comparison, threshold=threshold, periods=periods, datapoints=periods
        )

    def evaluate(self, now: int) -> list[str]:
        """The alarms that act in this minute."""
        newest = self._metrics.newest_minute(now)
        acting = []
        for name, alarm in self._alarms.items():
            before = self._states[name]
            state = self._states[name] = alarm.state(newest, self._behaviour.extra_datapoints, before)
            if state == "ALARM" and (before != "ALARM" or self._behaviour.alarms_repeat):
                acting.append(name)
        return acting

    def decide(self, now: int, current: int) -> tuple[int, str] | None:
        """The capacity wanted in this minute, and by which alarm. None: it stays."""
        wanted = {name: self._wanted(name, now, current) for name in self.evaluate(now)}
        wanted = {name: count for name, count in wanted.items() if count is not None}
        if not wanted:
            return None
        by = max(wanted, key=lambda name: wanted[name] or 0)
        count = max(self._target["MinCapacity"], min(self._target["MaxCapacity"], wanted[by] or 0))
        if count == current:
            return None
        if count > current and now < self._out_until[by] and count <= self._out_to[by]:
            return None
        return (count, by) if count > current or now >= self._in_until else None

    def done(self, now: int, before: int, after: int, by: str) -> None:
        """Cooldowns begin. A scale-out ends the cooldown of a scale-in."""
        if after < before:
            self._in_until = now + self._tracking.get("ScaleInCooldown", 300)
        else:
            cooldown = self._step.get("Cooldown", 300) if by == "wake" else self._tracking.get("ScaleOutCooldown", 300)
            self._out_until[by], self._out_to[by], self._in_until = now + cooldown, after, 0

    def _wanted(self, name: str, now: int, current: int) -> int | None:
        alarm = self._alarms[name]
        value = self._newest(alarm, now)
        if value is None:
            return None
        if name == "wake":
            return stepped(self._step, value - alarm.threshold, current)
        tracked: int = math.ceil(max(current, 1) * value / self._tracking["TargetValue"])
        if name == "high":
            return max(current, tracked)
        if self._tracking.get("DisableScaleIn") or tracked >= current:
            return current
        return current - 1 if self._behaviour.gradual else tracked

    def _newest(self, alarm: Alarm, now: int) -> float | None:
        newest = self._metrics.newest_minute(now)
        values = (alarm.series(newest - age) for age in range(alarm.periods + self._behaviour.extra_datapoints))
        return next((value for value in values if value is not None), None)


def stepped(step: dict[str, Any], over_threshold: float, current: int) -> int:
    for adjustment in step["StepAdjustments"]:
        low = adjustment.get("MetricIntervalLowerBound", -math.inf)
        high = adjustment.get("MetricIntervalUpperBound", math.inf)
        if low <= over_threshold < high:
            change = int(adjustment["ScalingAdjustment"])
            return {"ExactCapacity": change, "ChangeInCapacity": current + change}[step["AdjustmentType"]]
    return current


@dataclass(frozen=True, kw_only=True)
class Result:
    works: tuple[Work, ...]
    cut_off: tuple[CutOff, ...]
    scalings: tuple[Scaling, ...]
    instance_hours: float
    most_instances: int
    asleep_after: int | None
    """Seconds from the end of the last work to no instance at all. None: it never slept again."""

    @property
    def longest_wait(self) -> int:
        return max((work.waited for work in self.works), default=0)

    @property
    def unfinished(self) -> list[Work]:
        return [work for work in self.works if work.outcome != "done"]

    @property
    def most_scalings_an_hour(self) -> int:
        times = [scaling.at for scaling in self.scalings]
        return max((sum(start <= time < start + HOUR for time in times) for start in times), default=0)


def simulate(trace: Trace, requests: Requests, behaviour: Behaviour | None = None) -> Result:
    """Until some time after everything has ended."""
    return _Simulation(trace, requests, behaviour or Behaviour()).run()


class _Simulation:
    def __init__(self, trace: Trace, requests: Requests, behaviour: Behaviour) -> None:
        self._trace = trace
        self._behaviour = behaviour
        self._metrics = Metrics(behaviour.metric_delay_seconds)
        self._endpoint = Endpoint(behaviour, requests.concurrency, trace.instances)
        self._scaling = AutoScaling(requests, self._metrics, behaviour)
        self._name = requests.endpoint_name
        self._works = [Work(request) for request in sorted(trace.requests)]
        self._arriving = deque(self._works)
        self._updates = deque(sorted(trace.updates))
        self._scalings: list[Scaling] = []
        self._asked = False

    def run(self) -> Result:
        endpoint, now, billed, most = self._endpoint, 0, 0, self._trace.instances
        asleep: int | None = 0
        ended: int | None = None
        last = max((work.request.arrival for work in self._works), default=0)
        end = last + REQUEST_TTL_SECONDS + 2 * HOUR
        while now < end:
            self._at(now)
            held = len(endpoint.instances) + len(endpoint.leaving)
            most = max(most, endpoint.desired)
            asleep = None if held else now if asleep is None else asleep
            if ended is None and not self._arriving and endpoint.idle:
                ended = now
                end = min(end, ended + AFTERWARDS_SECONDS)
            after = self._next_time(now)
            billed += held * (after - now)
            now = after
        return Result(
            works=tuple(self._works),
            cut_off=tuple(endpoint.cut_off),
            scalings=tuple(self._scalings),
            instance_hours=billed / HOUR,
            most_instances=most,
            asleep_after=None if asleep is None else max(0, asleep - (ended or 0)),
        )

    def _at(self, now: int) -> None:
        self._endpoint.advance(now)
        while self._updates and self._updates[0][0] <= now:
            self._endpoint.updating_until = max(self._endpoint.updating_until, self._updates.popleft()[1])
        while self._arriving and self._arriving[0].request.arrival <= now:
            self._asked = True
            self._endpoint.waiting.append(self._arriving.popleft())
            self._endpoint.advance(now)
            self._wake(now)
        if now and now % MINUTE == 0:
            self._publish(now)
        if now % MINUTE == self._behaviour.evaluated_at:
            self._scale(now)

    def _wake(self, now: int) -> None:
        """lambdas/adapters/hosting.py:wake: only from zero, and only while the endpoint is InService."""
        if self._trace.wakes and self._endpoint.desired == 0:
            self._set_desired(1, now, "submit")

    def _publish(self, now: int) -> None:
        if not (self._asked or self._behaviour.published_from_start):
            return
        endpoint, minute = self._endpoint, now // MINUTE - 1
        ready, backlog = len(endpoint.ready(now)), endpoint.backlog()
        self._metrics.put(self._key("ApproximateBacklogSize"), minute, backlog)
        unserved = bool(endpoint.waiting) and not ready
        if unserved or self._behaviour.published_zeros:
            self._metrics.put(self._key("HasBacklogWithoutCapacity"), minute, float(unserved))
        if ready or self._behaviour.share_at_zero:
            self._metrics.put(self._key("ApproximateBacklogSizePerInstance"), minute, backlog / max(ready, 1))

    def _key(self, name: str) -> Key:
        return NAMESPACE, name, frozenset({("EndpointName", self._name)})

    def _scale(self, now: int) -> None:
        before = self._endpoint.desired
        decision = self._scaling.decide(now, before)
        if decision and self._set_desired(decision[0], now, decision[1]):
            self._scaling.done(now, before, *decision)

    def _set_desired(self, count: int, now: int, reason: str) -> bool:
        before = self._endpoint.desired
        shown_until = (self._metrics.newest_minute(now) + 1) * MINUTE
        try:
            self._endpoint.set_desired(count, now, shown_until)
        except Refused:
            return False
        self._scalings.append(Scaling(now, before, count, reason))
        return True

    def _next_time(self, now: int) -> int:
        times = [self._endpoint.next_event(now)]
        times += [offset + (now - offset) // MINUTE * MINUTE + MINUTE for offset in (0, self._behaviour.evaluated_at)]
        if self._arriving:
            times.append(self._arriving[0].request.arrival)
        return min(time for time in times if time > now)


# ---- what an instance that is always there would do


def ideal_hours(requests: Sequence[Request], concurrency: int) -> float:
    """Of one instance that is there, without a start, exactly while it is needed."""
    covered, until = 0, 0
    for request in sorted(requests):
        covered += max(0, request.arrival + request.seconds - max(until, request.arrival))
        until = max(until, request.arrival + request.seconds)
    return max(covered, sum(request.seconds for request in requests) / concurrency) / HOUR


def ideal_wait(requests: Sequence[Request], concurrency: int) -> int:
    """The longest in the queue of one instance that never sleeps."""
    free, longest = [0] * concurrency, 0
    for request in sorted(requests):
        start = max(request.arrival, heapq.heappop(free))
        heapq.heappush(free, start + request.seconds)
        longest = max(longest, start - request.arrival)
    return longest
