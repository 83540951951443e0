"""Answers kept for a moment, and never longer than they are true."""

from __future__ import annotations

import collections
import threading
import time
from collections.abc import Callable, Hashable, Sequence
from typing import Any

from cachetools import TTLCache

MAX_REMEMBERED = 100_000


class AnswerCache:
    """Answers by request. An answer is given again only if nothing has changed since the request that it was made for
    *began*: an answer that was being made while its user clicked is as outdated as one made before.

    Everything that changes anything takes the next number: an event of a user (`forget`), and a new release or a change
    of the catalogue (`forget_all`). An answer carries the number current at its beginning (`begin`), and is good while
    none of its owners, and not everything, has been forgotten since.

    Args:
        seconds: after which an answer is dropped in any case; 0 = nothing is kept.
        entries: how many are kept; the least recently used go first.
        clock: seconds that never go back.

    Example:
        >>> cache = AnswerCache(seconds=30, entries=100)
        >>> stamp = cache.begin()
        >>> cache.put("request", ("ann",), stamp, "answer")
        >>> cache.get("request", ("ann",))
        'answer'
        >>> late = cache.begin()
        >>> cache.forget("ann")
        >>> cache.put("request", ("ann",), late, "made before the event was known")
        >>> cache.get("request", ("ann",)) is None
        True
    """

    def __init__(self, seconds: float, entries: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._lock = threading.Lock()
        self._answers: TTLCache[Hashable, tuple[int, Any]] | None = None
        if seconds > 0:
            self._answers = TTLCache(entries, seconds, timer=clock)
        self._number = 0
        self._everything = 0
        self._owners: collections.OrderedDict[str, int] = collections.OrderedDict()

    def begin(self) -> int:
        """To be called before anything is read that the answer will depend on."""
        with self._lock:
            return self._number

    def get(self, request: Hashable, owners: Sequence[str]) -> Any | None:
        """The answer to an equal request, if it is still true; None otherwise."""
        with self._lock:
            if self._answers is None:
                return None
            stamp, answer = self._answers.get(request, (-1, None))
            return answer if self._good(stamp, owners) else None

    def put(self, request: Hashable, owners: Sequence[str], stamp: int, answer: Any) -> None:
        """Keeps an answer, unless it is outdated already.

        Args:
            owners: whose events make it untrue. stamp: what `begin` returned.
        """
        with self._lock:
            if self._answers is not None and self._good(stamp, owners):
                self._answers[request] = (stamp, answer)

    def forget(self, *owners: str) -> None:
        """Answers of these owners are no longer true."""
        with self._lock:
            self._number += 1
            for owner in owners:
                self._owners[owner] = self._number
                self._owners.move_to_end(owner)
            while len(self._owners) > MAX_REMEMBERED:
                # Who was forgotten is itself forgotten: everything older has to go with it.
                self._everything = max(self._everything, self._owners.popitem(last=False)[1])

    def forget_all(self) -> None:
        """No answer is true any longer: another release answers, or the catalogue has changed."""
        with self._lock:
            self._number += 1
            self._everything = self._number
            self._owners.clear()
            if self._answers is not None:
                self._answers.clear()

    def _good(self, stamp: int, owners: Sequence[str]) -> bool:
        return stamp >= self._everything and all(stamp >= self._owners.get(owner, 0) for owner in owners)
