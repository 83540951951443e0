"""Training batches for retrieval: integers only. Content is gathered on the device by the rows that a batch names."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from data.histories import Histories

Batch = dict[str, np.ndarray]


class RetrievalBatches:
    """Shuffled batches of positive events, each with the history that was known before it.

    A batch names each item once (`items`) and points into that list (`target`, `history`), so the item tower runs once
    per
    distinct item however often an item stands in a history. Shapes are static: U = min(N + 1, B (L + 1) + 1) rows,
    padded
    with row 0; the last batch is padded with weight 0. The same (seed, epoch) gives the same batches in every process.

    Args:
        histories: positive training events.
        item_rows: N + 1.
        batch_size: B.
        history_length: L.
        ordered: whether timestamps order the events. If not, a history is a random set of the user's other items.
        seed: of the shuffle.

    Example:
        >>> histories = Histories.from_events(np.array([1, 1]), np.array([3, 4]), np.array([1, 2]), user_rows=2)
        >>> settings = {"item_rows": 6, "batch_size": 2, "history_length": 2, "ordered": True, "seed": 0}
        >>> batch = next(RetrievalBatches(histories, **settings).epoch(0))
        >>> sorted(batch["items"][batch["target"]].tolist()), batch["weight"].tolist()
        ([3, 4], [1.0, 1.0])
    """

    def __init__(
        self, histories: Histories, *, item_rows: int, batch_size: int, history_length: int, ordered: bool, seed: int
    ):
        if not len(histories.items):
            raise ValueError(
                "histories: training needs at least one positive event in the train split, received none. Check the "
                "split settings and `positive_events`."
            )
        if batch_size < 2:
            raise ValueError(f"batch_size: in-batch softmax needs at least 2 events a batch, received {batch_size}.")
        self.histories, self.item_rows, self.ordered, self.seed = histories, item_rows, ordered, seed
        self.batch_size, self.history_length = batch_size, history_length
        self.users = histories.users
        self.capacity = min(item_rows, batch_size * (history_length + 1) + 1)

    def __len__(self) -> int:
        return math.ceil(len(self.histories.items) / self.batch_size)

    def epoch(self, number: int, start: int = 0) -> Iterator[Batch]:
        """Batches of one epoch from step `start` on, in an order that depends on (seed, number) alone.

        Those before `start` are skipped without being made, so training goes on at once where it was interrupted.
        """
        rng = np.random.default_rng([self.seed, number])
        histories = self.histories if self.ordered else self.histories.shuffled(rng)
        order = rng.permutation(len(histories.items))
        for first in range(start * self.batch_size, len(order), self.batch_size):
            yield self._batch(histories, order[first : first + self.batch_size])

    def _batch(self, histories: Histories, positions: np.ndarray) -> Batch:
        choose = histories.places_before if self.ordered else histories.places_of_others
        places = choose(positions, self.history_length)
        history = histories.items_at(places)
        short = self.batch_size - len(positions)
        target = np.pad(histories.items[positions], (0, short))
        history = np.pad(history, ((0, short), (0, 0)))
        items, target_index, history_index = self._compact(target, history)
        return {
            "user": np.pad(self.users[positions], (0, short)),
            "items": items,
            "target": target_index,
            "history": history_index,
            "weight": np.pad(np.ones(len(positions), np.float32), (0, short)),
            **self._events(histories, positions, places),
        }

    def _events(self, histories: Histories, positions: np.ndarray, places: np.ndarray) -> Batch:
        """Kinds and time gaps of the history's events, as long as the history; nothing where kinds are not kept."""
        if histories.kinds is None:
            return {}
        events = histories.events_at(places, histories.timestamps[positions] if self.ordered else None)
        short = self.batch_size - len(positions)
        return {name: np.pad(values, ((0, short), (0, 0))) for name, values in events.items()}

    def _compact(self, target: np.ndarray, history: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        if self.capacity == self.item_rows:  # the whole catalogue is no larger than a batch: rows are their own index
            return np.arange(self.item_rows, dtype=np.int32), target.astype(np.int32), history
        # Row 0 is put in front, so that index 0 means "padding" in the compact numbering too.
        rows, inverse = np.unique(np.concatenate([[0], target, history.ravel()]), return_inverse=True)
        items = np.pad(rows, (0, self.capacity - len(rows))).astype(np.int32)
        inverse = inverse.astype(np.int32)
        return items, inverse[1 : 1 + len(target)], inverse[1 + len(target) :].reshape(history.shape)
