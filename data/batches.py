"""Training batches for retrieval: integers only. Content is gathered on the device by the rows that a batch names."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from data.histories import Histories
from data.loss_columns import LossColumns, distinct_rows, rounded_up

Batch = dict[str, np.ndarray]

RAGGED = {"items": 0, "columns": 0, "copies": 0, "others": 1}
"""Arrays of a batch whose length along this axis may differ from batch to batch."""


class RetrievalBatches:
    """Shuffled batches of positive events, each with the history that was known before it.

    A batch names each item once (`items`) and points into that list (`target`, `history`, `columns`), so the item tower
    runs once per distinct item however often an item stands in a history. What the loss compares with is listed the same
    way, see `LossColumns`: `columns` [C] (positions in `items`), `copies` [C], `own` [B] (each event's column), and
    `others` [B, P] where asked for. Padding is row 0 among items, no copies among columns, weight 0 in the last batch.
    The same (seed, epoch) gives the same batches in every process.

    Args:
        histories: positive training events.
        item_rows: N + 1.
        batch_size: B.
        history_length: L; 0 = none.
        ordered: whether timestamps order the events. If not, a history is a random set of the user's other items.
        seed: of the shuffle.
        columns: what the loss compares with; None = the batch's own items.
        kind_weights: [1 + kinds] how much an event counts by its kind, the first for unknown ones; needs histories that
            keep kinds. None = 1 each.
        static: whether U and C are padded to what the largest batch could have, or to the next of few sizes.
        positions: of the events to learn from, where these are not all; the others are history alone. None = all.

    Example:
        >>> histories = Histories.from_events(np.array([1, 1]), np.array([3, 4]), np.array([1, 2]), user_rows=2)
        >>> settings = {"item_rows": 6, "batch_size": 2, "history_length": 2, "ordered": True, "seed": 0}
        >>> batch = next(RetrievalBatches(histories, **settings).epoch(0))
        >>> sorted(batch["items"][batch["target"]].tolist()), batch["weight"].tolist()
        ([3, 4], [1.0, 1.0])
    """

    def __init__(
        self,
        histories: Histories,
        *,
        item_rows: int,
        batch_size: int,
        history_length: int,
        ordered: bool,
        seed: int,
        columns: LossColumns | None = None,
        kind_weights: np.ndarray | None = None,
        static: bool = True,
        positions: np.ndarray | None = None,
    ):
        if not len(histories.items if positions is None else positions):
            raise ValueError(
                "histories: training needs at least one positive event in the train split, received none. Check the "
                "split settings and `positive_events`."
            )
        if batch_size < 2:
            raise ValueError(f"batch_size: in-batch softmax needs at least 2 events a batch, received {batch_size}.")
        self.histories, self.item_rows, self.ordered, self.seed = histories, item_rows, ordered, seed
        self.batch_size, self.history_length = batch_size, history_length
        if kind_weights is not None and histories.kinds is None:
            raise ValueError("kind_weights: need histories that keep the kinds of events, received some without")
        self.users, self.kind_weights, self.static = histories.users, kind_weights, static
        self.columns = columns or LossColumns(item_rows=item_rows)
        self.positions = np.arange(len(histories.items)) if positions is None else positions
        # Without weights all count, and no array of ones as long as the log is needed to say so.
        weighs = None if kind_weights is None else self._weights(histories, self.positions) > 0
        self._counted = self.positions if weighs is None else self.positions[weighs]
        if not len(self._counted):
            raise ValueError("event_weights: must be above 0 for a kind that the events to be learned are of, or nothing is.")
        self.capacity = min(item_rows, batch_size * history_length + self.columns.capacity(batch_size))

    @property
    def drawn(self) -> np.ndarray | None:
        """[N + 1] events an item that the columns count: of the chosen ones those whose kind weighs anything. None where all
        events are chosen and count."""
        if len(self._counted) == len(self.histories.items):
            return None
        return np.bincount(self.histories.items[self._counted], minlength=self.item_rows)

    def __len__(self) -> int:
        return math.ceil(len(self.positions) / self.batch_size)

    def epoch(self, number: int, start: int = 0) -> Iterator[Batch]:
        """Batches of one epoch from step `start` on, in an order that depends on (seed, number) alone.

        Those before `start` are skipped without being made, so training goes on at once where it was interrupted.
        """
        rng = np.random.default_rng([self.seed, number])
        histories = self.histories if self.ordered else self.histories.shuffled(rng)
        order = self.positions[rng.permutation(len(self.positions))]
        for first in range(start * self.batch_size, len(order), self.batch_size):
            # A generator takes as long to make as a tenth of a batch, and only uniform negatives ask it.
            draws = np.random.default_rng([self.seed, number, first]) if self.columns.uniform else rng
            yield self._batch(histories, order[first : first + self.batch_size], draws)

    def _batch(self, histories: Histories, positions: np.ndarray, draws: np.random.Generator) -> Batch:
        choose = histories.places_before if self.ordered else histories.places_of_others
        places = choose(positions, self.history_length)
        short = self.batch_size - len(positions)
        users = filled_up(self.users[positions], short)
        target = filled_up(histories.items[positions], short)
        history = filled_up(histories.items_at(places), short)
        weight = filled_up(self._weights(histories, positions), short)
        rows, copies, own = self.columns.of(target, weight, draws)
        batch = {"user": users, "weight": weight, "own": own, **self._events(histories, positions, places)}
        if self.columns.others:
            others = self.columns.others_of(rows, own, users, self.histories)
            spare = 2 ** (others.shape[1] - 1).bit_length() - others.shape[1]
            batch["others"] = np.concatenate([others, np.repeat(own[:, None], spare, axis=1)], axis=1)
        spare = self._length(len(rows), self.columns.capacity(self.batch_size)) - len(rows)
        batch["copies"] = filled_up(copies, spare)
        if self.history_length or self._whole:
            items, parts = self._compact(target, filled_up(rows, spare), history)
        else:  # the columns are all that is named
            items, parts = self._with_padding(rows, [own, filled_up(np.arange(len(rows), dtype=np.int32), spare), history])
        batch["target"], batch["columns"], batch["history"] = parts
        return {**batch, "items": items}

    def _weights(self, histories: Histories, positions: np.ndarray | slice) -> np.ndarray:
        if self.kind_weights is None or histories.kinds is None:
            return np.ones(len(histories.items[positions]), np.float32)
        return self.kind_weights[histories.kinds[positions]].astype(np.float32)

    def _length(self, number: int, capacity: int) -> int:
        return capacity if self.static else rounded_up(number, capacity)

    def _events(self, histories: Histories, positions: np.ndarray, places: np.ndarray) -> Batch:
        """Kinds and time gaps of the history's events, as long as the history; nothing where kinds are not kept."""
        if histories.kinds is None:
            return {}
        events = histories.events_at(places, histories.timestamps[positions] if self.ordered else None)
        short = self.batch_size - len(positions)
        return {name: filled_up(values, short) for name, values in events.items()}

    def _compact(self, *parts: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
        """The distinct rows of all parts [U], ascending from row 0, and the parts as positions among them."""
        if self._whole:  # rows are their own index
            return np.arange(self.item_rows, dtype=np.int32), [part.astype(np.int32) for part in parts]
        rows, index = distinct_rows(np.concatenate([part.ravel() for part in parts]), self.item_rows)
        split = np.split(index, np.cumsum([part.size for part in parts])[:-1])
        return self._with_padding(rows, [index.reshape(part.shape) for index, part in zip(split, parts, strict=True)])

    def _with_padding(self, rows: np.ndarray, indices: list[np.ndarray]) -> tuple[np.ndarray, list[np.ndarray]]:
        """Rows filled up to their length. Padding goes in front, so that rows ascend; a position is 0 where it was, for
        "nothing", and moves up elsewhere."""
        spare = self._length(len(rows), self.capacity) - len(rows)
        items = np.concatenate([np.zeros(spare, np.int32), rows])
        return items, [np.where(index > 0, index + spare, 0).astype(np.int32) for index in indices]

    @property
    def _whole(self) -> bool:
        """Whether every batch names the whole catalogue."""
        return self.static and self.capacity == self.item_rows


def filled_up(values: np.ndarray, spare: int) -> np.ndarray:
    """`values` with that many rows of zeros behind them. `np.pad` takes longer than all else that makes a small batch.

    Example:
        >>> filled_up(np.array([[1, 2]]), 1).tolist()
        [[1, 2], [0, 0]]
    """
    return np.concatenate([values, np.zeros((spare, *values.shape[1:]), values.dtype)]) if spare else values
