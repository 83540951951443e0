"""Timing whatever answers requests: systems in turns, batches, and a load that does not wait for answers."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np

Ask = Callable[[int], object]
"""Asks request number n and returns when the answer is there."""

WARM = 3


def percentiles(seconds: list[float]) -> dict[str, float]:
    """Median and 99th percentile in milliseconds."""
    p50, p99 = np.percentile(np.array(seconds) * 1e3, [50, 99])
    return {"p50_ms": round(float(p50), 3), "p99_ms": round(float(p99), 3)}


def in_turns(systems: Mapping[str, Ask], repeats: int, turn: int = 25) -> dict[str, dict[str, float]]:
    """Latency of one request after the other, the systems taking turns: what disturbs the machine disturbs them all.

    A turn begins with a few requests that are not counted, since the system before it has emptied the caches.
    """
    seconds: dict[str, list[float]] = {name: [] for name in systems}
    number = itertools.count()
    for _ in range(-(-repeats // turn)):
        for name, ask in systems.items():
            for place in range(-WARM, turn):
                request, start = next(number), time.perf_counter()
                ask(request)
                if place >= 0:
                    seconds[name].append(time.perf_counter() - start)
    return {name: percentiles(some) for name, some in seconds.items()}


def per_second(ask: Ask, size: int, repeats: int) -> float:
    """Requests a second where one call asks `size` of them; the median call."""
    seconds = []
    for number in range(repeats + 1):
        start = time.perf_counter()
        ask(number)
        seconds.append(time.perf_counter() - start)
    return round(size / float(np.median(seconds[1:])), 1)


def at_most(ask: Ask, seconds: float, workers: int) -> float:
    """Requests a second where so many workers each send the next one when theirs is answered: all that a system can do."""
    done, end = itertools.count(), time.perf_counter() + seconds

    def work() -> None:
        while time.perf_counter() < end:
            ask(next(done))

    begun = time.perf_counter()
    run_all(work, workers)
    return round(next(done) / (time.perf_counter() - begun), 1)


def run_all(work: Callable[[], None], workers: int) -> None:
    """Runs the work in so many threads.

    Raises:
        Exception: the first that a thread ended with: a request that failed is no fast one.
    """
    with ThreadPoolExecutor(workers) as pool:
        for each in [pool.submit(work) for _ in range(workers)]:
            each.result()


def open_loop(ask: Ask, rate: float, seconds: float, workers: int = 1, seed: int = 0) -> dict[str, float]:
    """Latency under a load of so many requests a second, sent at random moments whether or not others are answered.

    The moments are drawn before the start (a Poisson process), and a request's time runs from the moment it was due. One
    that waits because the system is busy therefore counts its waiting, where a loop that sends the next request after the
    last answer would have sent it later and never noticed ("coordinated omission").

    Args:
        workers: requests that may be under way at once; those that are due meanwhile wait in line.
    """
    due = np.cumsum(np.random.default_rng(seed).exponential(1.0 / rate, max(1, round(rate * seconds)))).tolist()
    taken, lock, latencies = itertools.count(), threading.Lock(), np.zeros(len(due))
    begun = time.perf_counter() + 0.05

    def work() -> None:
        while True:
            with lock:
                number = next(taken)
            if number >= len(due):
                return
            moment = begun + due[number]
            wait_until(moment)
            ask(number)
            latencies[number] = time.perf_counter() - moment

    run_all(work, workers)
    answered = len(due) / (time.perf_counter() - begun)
    return {"rate": round(rate, 1), "answered_per_second": round(answered, 1), **percentiles(latencies.tolist())}


def wait_until(moment: float) -> None:
    """Returns at the moment: asleep until shortly before it, since a sleep may last a little too long.

    The rest is naps of no length, which let other threads run: one that only looked at the clock would keep an answer that
    has arrived waiting for up to Python's switch interval of 5 ms.
    """
    while (left := moment - time.perf_counter()) > 0:
        time.sleep(left - 0.0003 if left > 0.0005 else 0)
