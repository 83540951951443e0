"""Who chose what before when: every user's positive events in order, and the window that a tower may look at."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np


@dataclasses.dataclass(frozen=True)
class Histories:
    """Positive events grouped by user in time order, as flat arrays (CSR).

    Attributes:
        offsets: [users + 1] int64; user u owns positions `offsets[u]:offsets[u + 1]`.
        items: [E] int32 rows.
        timestamps: [E] int64, non-decreasing inside a user.
        kinds: [E] int8, `EVENT_CODES` + 1, 0 unknown; None where nobody asks for them.

    Example:
        >>> users, items, times = np.array([[1, 1, 1], [5, 6, 7], [10, 20, 20]])
        >>> histories = Histories.from_events(users, items, times, user_rows=2)
        >>> histories.before(np.array([0, 1, 2]), length=2).tolist()
        [[0, 0], [5, 0], [5, 0]]
        >>> histories.latest(np.array([0, 1]), length=2).tolist()
        [[0, 0], [7, 6]]
    """

    offsets: np.ndarray
    items: np.ndarray
    timestamps: np.ndarray
    kinds: np.ndarray | None = None

    @classmethod
    def from_events(
        cls,
        users: np.ndarray,
        items: np.ndarray,
        timestamps: np.ndarray,
        *,
        user_rows: int,
        kinds: np.ndarray | None = None,
    ) -> Histories:
        """Group events; the order of events with equal user and time is kept."""
        order = np.lexsort((timestamps, users))
        counts = np.bincount(users, minlength=user_rows)
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        ordered_kinds = None if kinds is None else kinds[order].astype(np.int8)
        return cls(offsets, items[order].astype(np.int32), timestamps[order].astype(np.int64), ordered_kinds)

    @functools.cached_property
    def users(self) -> np.ndarray:
        """User row of every position. [E] int32."""
        return np.repeat(np.arange(len(self.offsets) - 1, dtype=np.int32), np.diff(self.offsets))

    def _places(self, starts: np.ndarray, ends: np.ndarray, length: int) -> np.ndarray:
        """Most recent first: positions end - 1, end - 2, ... down to start, then -1. [B, L] int64"""
        positions = ends[:, None] - 1 - np.arange(length)[None, :]
        return np.where(positions >= starts[:, None], positions, -1)

    def items_at(self, places: np.ndarray) -> np.ndarray:
        """Item rows at positions, 0 where a position is -1. [B, L] int32"""
        if not len(self.items):
            return np.zeros(places.shape, np.int32)
        return np.where(places >= 0, self.items[places], 0).astype(np.int32)

    def events_at(self, places: np.ndarray, moments: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """What happened at positions and how long before what came next.

        Args:
            places: [B, L], most recent first, -1 for none. moments: [B] when each is asked for; None = there is no order.

        Returns: `kind` [B, L] int32, 0 unknown; `gap` [B, L] float32 seconds to the next more recent event or, for the
            first, to the moment; -1 unknown.

        Example:
            >>> users, items, times, kinds = np.array([[1, 1, 1], [5, 6, 7], [10, 20, 50], [1, 3, 2]])
            >>> histories = Histories.from_events(users, items, times, user_rows=2, kinds=kinds)
            >>> events = histories.events_at(np.array([[2, 1, 0, -1]]), np.array([60]))
            >>> events["kind"].tolist(), events["gap"].tolist()
            ([[2, 3, 1, 0]], [[10.0, 30.0, 10.0, -1.0]])
        """
        inside = places >= 0
        kind = np.zeros(places.shape, np.int32)
        if self.kinds is not None and len(self.items):
            kind = np.where(inside, self.kinds[places], 0).astype(np.int32)
        gap = np.full(places.shape, -1.0, np.float32)
        if moments is not None and len(self.items):
            times = self.timestamps[places]
            later = np.concatenate([moments[:, None], times[:, :-1]], axis=1)
            gap = np.where(inside, later - times, -1).astype(np.float32)
        return {"kind": kind, "gap": gap}

    def latest(self, users: np.ndarray, length: int) -> np.ndarray:
        """The last `length` items of each user, most recent first. [B] -> [B, L]."""
        return self.items_at(self._places(self.offsets[users], self.offsets[users + 1], length))

    def as_of(self, users: np.ndarray, timestamps: np.ndarray, length: int) -> np.ndarray:
        """The last `length` items strictly before a time. [B], [B] -> [B, L]."""
        ends = np.array(
            [
                start + np.searchsorted(self.timestamps[start:end], moment, side="left")
                for start, end, moment in zip(self.offsets[users], self.offsets[users + 1], timestamps, strict=True)
            ],
            dtype=np.int64,
        ).reshape(-1)
        return self.items_at(self._places(self.offsets[users], ends, length))

    @functools.cached_property
    def _run_starts(self) -> np.ndarray:
        """First position of the run of equal (user, timestamp) that each position belongs to. [E]"""
        changed = np.empty(len(self.items), bool)
        changed[:1] = True
        changed[1:] = self.timestamps[1:] != self.timestamps[:-1]
        changed[self.offsets[:-1][np.diff(self.offsets) > 0]] = True
        return np.maximum.accumulate(np.where(changed, np.arange(len(self.items)), 0))

    def places_before(self, positions: np.ndarray, length: int) -> np.ndarray:
        """Positions of the same user's events strictly before each event, most recent first, then -1. [B] -> [B, L]."""
        if not length:
            return np.empty((len(positions), 0), np.int64)
        users = self.users[positions]
        return self._places(self.offsets[users], self._run_starts[positions], length)

    def before(self, positions: np.ndarray, length: int) -> np.ndarray:
        """The items of the same user strictly before each event: what a query could know. [B] -> [B, L]."""
        return self.items_at(self.places_before(positions, length))

    def shuffled(self, rng: np.random.Generator) -> Histories:
        """Every user's items in a random order: what stands in for time where a log has none."""
        order = np.lexsort((rng.random(len(self.items)), self.users))
        kinds = None if self.kinds is None else self.kinds[order]
        return dataclasses.replace(self, items=self.items[order], kinds=kinds)

    def places_of_others(self, positions: np.ndarray, length: int) -> np.ndarray:
        """Positions of the same user's events of *other* items, going round from each event; used after `shuffled`. [B, L]

        An event of the same item is left out of the window, which then ends earlier: a `like` and a `purchase` of it are two
        events, and who is shown the one learns to repeat it as the other.
        """
        users = self.users[positions]
        starts, sizes = self.offsets[users], self.offsets[users + 1] - self.offsets[users]
        steps = np.arange(1, length + 1)[None, :]
        around = starts[:, None] + (positions - starts)[:, None] + steps
        around = np.where(around >= (starts + sizes)[:, None], around - sizes[:, None], around)
        around = np.where(steps < sizes[:, None], around, -1)
        same = self.items_at(around) == self.items[positions][:, None]
        if same.any():
            around = np.where(same, -1, around)
            around = np.take_along_axis(around, np.argsort(around < 0, axis=1, kind="stable"), axis=1)
        return around

    def others(self, positions: np.ndarray, length: int) -> np.ndarray:
        """A window of the same user's *other* items, going round from each event. [B] -> [B, L]."""
        return self.items_at(self.places_of_others(positions, length))
