"""A circuit breaker: callers of a server that fails are answered at once, and it is left alone until it recovers."""

from __future__ import annotations

import collections
import random
import threading
import time
from collections.abc import Callable

CLOSED, HALF_OPEN, OPEN = "closed", "half_open", "open"
STATES = (CLOSED, HALF_OPEN, OPEN)


class CircuitBreaker:
    """Closed while calls succeed; open, refusing every call, once too many fail; half open for one probe at a time.

    It opens when `share` of the last `window` calls failed, of `least` at least. It then waits `seconds`, lets one call
    through, and closes again if that succeeds; if not, it waits twice as long, up to `longest` seconds, each wait drawn
    between half of it and all of it, so that many callers do not come back together. Thread safe; no lock is held during
    a call (that of `pybreaker` is, which would send one call after the other).

    Nygard 2007, *Release It!*, "Circuit Breaker"; the jitter is that of Brooker 2015, "Exponential Backoff And Jitter".

    Args:
        seconds: of the first wait. share, window, least: see above. longest: of any wait.
        clock: seconds that never go back. rng: draws the waits.

    Example:
        >>> now = [0.0]
        >>> breaker = CircuitBreaker(seconds=2.0, least=2, clock=lambda: now[0])
        >>> for _ in range(2):
        ...     assert breaker.allow()
        ...     breaker.record(False)
        >>> breaker.allow(), breaker.state
        (False, 'open')
        >>> now[0] = 2.0
        >>> breaker.allow(), breaker.allow(), breaker.state
        (True, False, 'half_open')
        >>> breaker.record(True)
        >>> breaker.allow(), breaker.state
        (True, 'closed')
    """

    def __init__(
        self,
        seconds: float = 2.0,
        *,
        share: float = 0.5,
        window: int = 20,
        least: int = 5,
        longest: float = 30.0,
        clock: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None,
    ) -> None:
        if not (seconds > 0 and 0 < share <= 1 and 1 <= least <= window and longest >= seconds):
            raise ValueError(
                f"seconds, share, window, least, longest: need seconds > 0, 0 < share <= 1, 1 <= least <= window and "
                f"longest >= seconds, received {seconds}, {share}, {window}, {least}, {longest}"
            )
        self._first, self._share, self._least, self._longest = seconds, share, least, longest
        self._clock, self._rng = clock, rng or random.Random()
        self._lock = threading.Lock()
        self._failed: collections.deque[bool] = collections.deque(maxlen=window)
        self._wait = 0.0
        self._until: float | None = None
        self._probing = False

    @property
    def state(self) -> str:
        """ "closed", "half_open" or "open"."""
        with self._lock:
            return CLOSED if self._until is None else HALF_OPEN if self._probing else OPEN

    def allow(self) -> bool:
        """Whether a call may be made now; every True must be followed by one `record`."""
        with self._lock:
            if self._until is None:
                return True
            if self._probing or self._clock() < self._until:
                return False
            self._probing = True
            return True

    def record(self, succeeded: bool) -> None:
        """Tells how an allowed call ended."""
        with self._lock:
            if self._probing:
                self._probing = False
                if succeeded:
                    self._until, self._wait = None, 0.0
                    self._failed.clear()
                else:
                    self._open()
                return
            if self._until is not None:  # a call from before it opened
                return
            self._failed.append(not succeeded)
            if not succeeded and len(self._failed) >= self._least and sum(self._failed) >= self._share * len(self._failed):
                self._open()

    def _open(self) -> None:
        self._wait = min(2 * self._wait, self._longest) if self._wait else self._first
        self._until = self._clock() + self._wait * (0.5 + 0.5 * self._rng.random())
