"""Hedged calls: a call that takes unusually long is sent a second time, and the first answer counts."""

from __future__ import annotations

import collections
import queue
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np

QUANTILE = 0.95
KEPT, LEAST = 512, 50
"""How many latencies are remembered, and how many are needed before there is a 95th percentile to speak of."""
SHORTEST_SECONDS = 0.005
BUDGET, BURST = 0.1, 10.0
"""Hedges a call, and how many may be saved up: when everything is slow, the load grows by a tenth and not by two."""


class HedgePolicy:
    """When to send a call again: after the 95th percentile of the last latencies, and within a budget. Thread safe.

    Dean and Barroso 2013, "The Tail at Scale", Communications of the ACM 56(2), "hedged requests".

    Example:
        >>> policy = HedgePolicy()
        >>> policy.delay() is None  # nothing known yet
        True
        >>> for milliseconds in range(1, 101):
        ...     policy.observe(milliseconds / 1000)
        >>> round(policy.delay(), 3), policy.spend()
        (0.095, True)
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seconds: collections.deque[float] = collections.deque(maxlen=KEPT)
        self._tokens = BURST
        self._delay: float | None = None
        self._observed = 0

    def observe(self, seconds: float) -> None:
        """Takes in the latency of a call that was answered."""
        with self._lock:
            self._seconds.append(seconds)
            self._tokens = min(self._tokens + BUDGET, BURST)
            self._observed += 1
            # The percentile moves slowly, and sorting for every call would cost more than it tells.
            if len(self._seconds) >= LEAST and (self._delay is None or self._observed % 50 == 0):
                self._delay = max(float(np.quantile(self._seconds, QUANTILE)), SHORTEST_SECONDS)

    def delay(self) -> float | None:
        """Seconds after which a call should be sent again; None while too little is known."""
        with self._lock:
            return self._delay

    def spend(self) -> bool:
        """Takes one hedge from the budget; False when there is none left."""
        with self._lock:
            if self._tokens < 1.0 - 1e-9:  # tenths do not add up to one exactly
                return False
            self._tokens -= 1.0
            return True


def hedged(start: Callable[[float], Any], deadline: float, delay: float | None, spend: Callable[[], bool]) -> Any:
    """The first good answer of a call and, where it takes longer than `delay`, of the same call sent once more.

    Args:
        start: sends the call with a deadline in seconds and returns its `grpc.Future`.
        deadline: seconds for both together.
        delay: seconds until the second is sent; None = never.
        spend: asked before the second is sent.

    Returns:
        The finished future: a good one if there is one, else the last to fail. The other one is cancelled.
    """
    started = time.perf_counter()
    done: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def send(seconds: float) -> Any:
        call = start(seconds)
        call.add_done_callback(done.put)
        return call

    calls = [send(deadline)]
    try:
        if delay is not None and delay < deadline:
            try:
                return done.get(timeout=delay)
            except queue.Empty:
                if spend():
                    calls.append(send(max(deadline - (time.perf_counter() - started), 0.001)))
        first = done.get()
        if len(calls) == 1 or first.exception() is None:
            return first
        return done.get()
    finally:
        for call in calls:
            call.cancel()  # does nothing to one that has ended
