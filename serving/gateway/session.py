"""What a user did just now, which the next request takes into account before any training does."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import NamedTuple

from cachetools import TTLCache

from data.schema import NEGATIVE_EVENTS

MAX_POSITIVE, MAX_SKIPPED = 50, 200
"""Items kept of one session; the oldest go first."""


class Session(NamedTuple):
    """Items of one session, most recent first, each once.

    Attributes:
        positive: wanted. skipped: skipped or disliked, and not wanted since.
    """

    positive: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()

    def after(self, item_id: str, event: str) -> Session:
        """The session after one more event: the last word on an item counts.

        Example:
            >>> Session().after("a", "click").after("b", "skip").after("c", "like").after("b", "purchase")
            Session(positive=('b', 'c', 'a'), skipped=())
        """
        positive = tuple(other for other in self.positive if other != item_id)
        skipped = tuple(other for other in self.skipped if other != item_id)
        if event in NEGATIVE_EVENTS:
            return Session(positive, (item_id, *skipped)[:MAX_SKIPPED])
        return Session((item_id, *positive)[:MAX_POSITIVE], skipped)


class Sessions:
    """Sessions by user or by session id; thread safe, and bounded: the least recently used and the expired are dropped.

    Args:
        seconds: after its last event a session is forgotten.
        users: how many are kept.
        clock: seconds that never go back.

    Example:
        >>> now = [0.0]
        >>> sessions = Sessions(seconds=10, users=2, clock=lambda: now[0])
        >>> sessions.add("ann", "i1", "click")
        >>> sessions.of("ann").positive, sessions.of("bob").positive
        (('i1',), ())
        >>> now[0] = 11.0
        >>> sessions.of("ann").positive
        ()
    """

    def __init__(self, seconds: float, users: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._lock = threading.Lock()
        self._sessions: TTLCache[str, Session] = TTLCache(users, seconds, timer=clock)

    def add(self, key: str, item_id: str, event: str) -> None:
        """Takes in one event; events without a user or a session belong to nobody's session."""
        if key:
            with self._lock:
                self._sessions[key] = self._sessions.get(key, Session()).after(item_id, event)

    def of(self, key: str) -> Session:
        """The session, empty where there is none."""
        with self._lock:
            return self._sessions.get(key, Session())

    def __len__(self) -> int:
        with self._lock:
            return len(self._sessions)
