"""Whole histories as training batches: which of the catalogue's items each user chose, as zeros and ones."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from data.histories import Histories

FEWEST_ITEMS = 2
"""A user of one item teaches nothing about what goes together."""


class HistoryBatches:
    """Shuffled batches of users, each with everything they chose. The same (seed, epoch) gives the same batches.

    Args:
        histories: positive training events.
        items: [C] item rows that are columns of a batch; events of other items are left out.
        item_rows: N + 1.
        users_per_batch: B; the last batch is filled up with users of weight 0.
        seed: of the shuffle.

    Raises:
        ValueError: no user has two different items.

    Example:
        >>> histories = Histories.from_events(np.array([1, 1, 2]), np.array([3, 4, 4]), np.zeros(3, int), user_rows=3)
        >>> batch = next(HistoryBatches(histories, np.array([3, 4]), item_rows=5, users_per_batch=2, seed=0).epoch(0))
        >>> batch["taken"].tolist(), batch["weight"].tolist()
        ([[1, 1], [0, 0]], [1.0, 0.0])
    """

    def __init__(
        self, histories: Histories, items: np.ndarray, *, item_rows: int, users_per_batch: int, seed: int
    ) -> None:
        place = np.full(item_rows, -1, np.int64)
        place[items] = np.arange(len(items))
        columns, users = place[histories.items], histories.users.astype(np.int64)
        pairs = np.unique(users[columns >= 0] * len(items) + columns[columns >= 0])
        counts = np.bincount(pairs // len(items), minlength=len(histories.offsets) - 1)
        self.users = np.flatnonzero(counts >= FEWEST_ITEMS)
        if not len(self.users):
            raise ValueError(
                f"histories: at least one user with {FEWEST_ITEMS} different items is needed, received none; whole "
                f"histories cannot teach here"
            )
        self.columns = (pairs % len(items)).astype(np.int32)
        self.offsets = np.concatenate([[0], np.cumsum(counts)])
        self.width, self.size, self.seed = len(items), users_per_batch, seed

    def __len__(self) -> int:
        return math.ceil(len(self.users) / self.size)

    def epoch(self, number: int, start: int = 0) -> Iterator[dict[str, np.ndarray]]:
        """Batches of one epoch from step `start` on: taken uint8 [B, C], weight float32 [B]."""
        order = np.random.default_rng([self.seed, number]).permutation(self.users)
        for first in range(start * self.size, len(order), self.size):
            chosen = order[first : first + self.size]
            taken = np.zeros((self.size, self.width), np.uint8)
            for line, user in enumerate(chosen):
                taken[line, self.columns[self.offsets[user] : self.offsets[user + 1]]] = 1
            yield {"taken": taken, "weight": (np.arange(self.size) < len(chosen)).astype(np.float32)}
