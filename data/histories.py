"""Who chose what before when: every user's positive events in order, and the window that a tower may look at."""

from __future__ import annotations

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Histories:
    """Positive events grouped by user in time order, as flat arrays (CSR).

    Attributes:
        offsets: [users + 1] int64; user u owns positions `offsets[u]:offsets[u + 1]`.
        items: [E] int32 rows.
        timestamps: [E] int64, non-decreasing inside a user.

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

    @classmethod
    def from_events(cls, users: np.ndarray, items: np.ndarray, timestamps: np.ndarray, *, user_rows: int) -> Histories:
        """Group events; the order of events with equal user and time is kept."""
        order = np.lexsort((timestamps, users))
        counts = np.bincount(users, minlength=user_rows)
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        return cls(offsets, items[order].astype(np.int32), timestamps[order].astype(np.int64))

    @property
    def users(self) -> np.ndarray:
        """User row of every position. [E] int32."""
        return np.repeat(np.arange(len(self.offsets) - 1, dtype=np.int32), np.diff(self.offsets))

    def _window(self, starts: np.ndarray, ends: np.ndarray, length: int) -> np.ndarray:
        """Most recent first: positions end - 1, end - 2, ... down to start, padded with row 0."""
        positions = ends[:, None] - 1 - np.arange(length)[None, :]
        inside = positions >= starts[:, None]
        if not len(self.items):
            return np.zeros((len(ends), length), np.int32)
        return np.where(inside, self.items[np.maximum(positions, 0)], 0).astype(np.int32)

    def latest(self, users: np.ndarray, length: int) -> np.ndarray:
        """The last `length` items of each user, most recent first. [B] -> [B, L]."""
        return self._window(self.offsets[users], self.offsets[users + 1], length)

    def as_of(self, users: np.ndarray, timestamps: np.ndarray, length: int) -> np.ndarray:
        """The last `length` items strictly before a time. [B], [B] -> [B, L]."""
        ends = np.array(
            [
                start + np.searchsorted(self.timestamps[start:end], moment, side="left")
                for start, end, moment in zip(self.offsets[users], self.offsets[users + 1], timestamps, strict=True)
            ],
            dtype=np.int64,
        ).reshape(-1)
        return self._window(self.offsets[users], ends, length)

    def _strict_ends(self, positions: np.ndarray) -> np.ndarray:
        """First position of the run of equal (user, timestamp) that each position belongs to."""
        changed = np.empty(len(self.items), bool)
        changed[:1] = True
        changed[1:] = self.timestamps[1:] != self.timestamps[:-1]
        changed[self.offsets[:-1][np.diff(self.offsets) > 0]] = True
        run_starts = np.maximum.accumulate(np.where(changed, np.arange(len(self.items)), 0))
        return run_starts[positions]

    def before(self, positions: np.ndarray, length: int) -> np.ndarray:
        """The items of the same user strictly before each event: what a query could know. [B] -> [B, L]."""
        users = np.searchsorted(self.offsets, positions, side="right") - 1
        return self._window(self.offsets[users], self._strict_ends(positions), length)

    def shuffled(self, rng: np.random.Generator) -> Histories:
        """Every user's items in a random order: what stands in for time where a log has none."""
        order = np.lexsort((rng.random(len(self.items)), self.users))
        return dataclasses.replace(self, items=self.items[order])

    def others(self, positions: np.ndarray, length: int) -> np.ndarray:
        """A window of the same user's *other* items, going round from each event; used after `shuffled`. [B] -> [B,
        L]."""
        users = np.searchsorted(self.offsets, positions, side="right") - 1
        starts, sizes = self.offsets[users], np.diff(self.offsets)[users]
        steps = np.arange(1, length + 1)[None, :]
        around = starts[:, None] + (positions - starts)[:, None] + steps
        around = np.where(around >= (starts + sizes)[:, None], around - sizes[:, None], around)
        inside = steps < sizes[:, None]
        return np.where(inside, self.items[np.where(inside, around, 0)], 0).astype(np.int32)
