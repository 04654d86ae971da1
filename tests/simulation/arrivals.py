"""When requests come: traces as they are seen, and generated ones. The same seed gives the same trace."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence

from tests.simulation.scaling import HOUR, Request, Trace

MINUTE = 60
DAY = 24 * HOUR
RATES = (0, 0, 1, 3, 6, 20, 120, 900)

# One evening of one user: minute and second of each request, and what the drawing took.
EVENING = (
    (0, 4, 9), (1, 40, 8), (1, 58, 8), (2, 31, 9), (4, 12, 18), (6, 5, 9), (6, 50, 9), (9, 33, 21), (14, 2, 8),
    (22, 47, 9), (23, 15, 9), (41, 9, 8), (58, 30, 10), (59, 2, 9), (59, 44, 22), (76, 20, 9), (93, 1, 9), (110, 55, 8),
    (127, 58, 9), (128, 40, 9), (161, 13, 8), (200, 5, 23), (203, 16, 8),
)  # fmt: skip


def evening() -> Trace:
    requests = tuple(Request(HOUR + minute * MINUTE + second, seconds) for minute, second, seconds in EVENING)
    return Trace(name="an evening of one user", requests=requests)


def lone(arrival: int = 6 * HOUR, seconds: int = 20) -> Trace:
    return Trace(name="a lone request", requests=(Request(arrival, seconds),))


def burst(count: int = 40, start: int = 6 * HOUR, seconds: int = 20) -> Trace:
    requests = tuple(Request(start + 2 * index, seconds) for index in range(count))
    return Trace(name="a burst after hours of silence", requests=requests)


def steady(gap: int = 11 * MINUTE, hours: int = 24, seconds: int = 15) -> Trace:
    requests = tuple(Request(HOUR + at, seconds) for at in range(0, hours * HOUR, gap))
    return Trace(name=f"one every {gap // MINUTE} minutes", requests=requests)


def flood(count: int = 500, seconds: int = 60) -> Trace:
    return Trace(name=f"{count} at once", requests=(Request(2 * HOUR, seconds),) * count)


def flood_then_steady() -> Trace:
    after = steady(gap=7 * MINUTE, hours=6).requests
    return Trace(name="a flood, then a trickle", requests=flood().requests + tuple(_later(after, 2 * HOUR)))


def ebb() -> Trace:
    """A flood that needs every instance, then for two hours three or four long drawings at any time."""
    after = tuple(Request(2 * HOUR + 1800 + at, 200) for at in range(0, 2 * HOUR, MINUTE))
    return Trace(name="a flood, then long drawings", requests=flood().requests + after)


def wave(days: int = 1, peak_per_hour: float = 150, seed: int = 1) -> Trace:
    """Nobody at midnight, most at noon."""
    draw = random.Random(seed)

    def rate(at: int) -> float:
        return peak_per_hour * max(0.0, -math.cos(2 * math.pi * at / DAY))

    return Trace(name="days and nights", requests=_poisson(draw, rate, days * DAY, lambda: draw.randint(5, 24)))


def generated(seed: int, hours: int = 12, longest: int = 24, rates_per_hour: Sequence[float] = RATES) -> Trace:
    """Every half hour another rate, from none at all to what keeps an instance busy."""
    draw = random.Random(seed)
    rates = [draw.choice(rates_per_hour) for _ in range(2 * hours)]
    length = hours * HOUR
    requests = _poisson(draw, lambda at: rates[2 * at // HOUR], length, lambda: draw.randint(3, longest))
    return Trace(name=f"generated {seed}", requests=requests)


def _poisson(
    draw: random.Random, rate_per_hour: Callable[[int], float], length: int, seconds: Callable[[], int]
) -> tuple[Request, ...]:
    """Thinned from the highest rate."""
    highest = max(rate_per_hour(at) for at in range(0, length, MINUTE))

    def arrivals() -> Iterator[Request]:
        at = 0.0
        while highest and (at := at + draw.expovariate(highest / HOUR)) < length:
            if draw.random() * highest < rate_per_hour(int(at)):
                yield Request(int(at), seconds())

    return tuple(arrivals())


def _later(requests: tuple[Request, ...], by: int) -> Iterator[Request]:
    return (Request(request.arrival + by, request.seconds) for request in requests)
