"""The distinct items that a batch's loss compares with, and how many negatives each of them stands for."""

from __future__ import annotations

import numpy as np

from data.histories import Histories

NEGATIVES = ("batch", "mixed", "sampled", "catalogue")


class LossColumns:
    """Columns of a batch: the distinct items among its targets and negatives, with multiplicities.

    A batch of B events holds far fewer distinct items than events where popularity is skewed; the loss computes a column
    an item and counts it by its copies. It also makes accidental hits a matter of the own column alone.

    Args:
        item_rows: N + 1.
        negatives: `batch`, `mixed`, `sampled` or `catalogue` (see `towers.loss_options`).
        uniform: M, uniform draws from the catalogue for `mixed` and `sampled`.
        others: whether to list the user's other positives among the columns.

    Raises:
        ValueError: an unknown kind of negatives.

    Example:
        >>> columns = LossColumns(item_rows=9)
        >>> rows, copies, own = columns.of(np.array([7, 4, 7, 0]), np.array([1, 1, 1, 0]), np.random.default_rng(0))
        >>> rows.tolist(), copies.tolist(), own.tolist()
        ([0, 4, 7], [0.0, 1.0, 2.0], [2, 1, 2, 0])
    """

    def __init__(self, *, item_rows: int, negatives: str = "batch", uniform: int = 0, others: bool = False):
        if negatives not in NEGATIVES:
            raise ValueError(f"negatives: must be among {NEGATIVES}, received {negatives!r}")
        self.item_rows, self.negatives, self.uniform, self.others = item_rows, negatives, uniform, others
        self._column = np.full(item_rows, -1, np.int32)

    def capacity(self, batch_size: int) -> int:
        """The most columns a batch can have."""
        whole = self.negatives == "catalogue"
        return self.item_rows if whole else min(self.item_rows, batch_size + self.uniform + 1)

    def of(
        self, target: np.ndarray, weight: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Rows [C] in ascending order, row 0 first; copies [C] float32; own column of each event [B]."""
        if self.negatives == "catalogue":
            copies = np.ones(self.item_rows, np.float32)
            copies[0] = 0
            return np.arange(self.item_rows, dtype=np.int32), copies, target.astype(np.int32)
        named = np.concatenate([target, rng.integers(1, self.item_rows, self.uniform)]) if self.uniform else target
        rows, columns = distinct_rows(named, self.item_rows)
        own, drawn = columns[: len(target)], columns[len(target) :]
        counted = drawn if self.negatives == "sampled" else np.concatenate([drawn, own[weight > 0]])
        copies = np.bincount(counted, minlength=len(rows)).astype(np.float32)
        copies[0] = 0
        return rows, copies, own

    def others_of(self, rows: np.ndarray, own: np.ndarray, users: np.ndarray, histories: Histories) -> np.ndarray:
        """Columns of each user's other positives, filled up with the own column. Shapes: own, users [B] -> [B, P].

        P is the longest list of the batch. The table from item to column is kept between batches, and only the batch's
        own items are written to it and taken back.

        Example:
            >>> histories = Histories.from_events(np.array([1, 1, 1]), np.array([4, 7, 8]), np.arange(3), user_rows=2)
            >>> columns = LossColumns(item_rows=9, others=True)
            >>> columns.others_of(np.array([0, 4, 7]), np.array([2, 1]), np.array([1, 1]), histories).tolist()
            [[1], [2]]
        """
        self._column[rows] = np.arange(len(rows), dtype=np.int32)
        starts, sizes = histories.offsets[users], histories.offsets[users + 1] - histories.offsets[users]
        owner = np.repeat(np.arange(len(users)), sizes)
        first = np.cumsum(sizes) - sizes
        column = self._column[histories.items[np.arange(len(owner)) - np.repeat(first - starts, sizes)]]
        self._column[rows] = -1
        kept = (column >= 0) & (column != own[owner])
        # An item that a user chose twice is one column.
        owner, column = np.divmod(np.unique(owner[kept] * len(rows) + column[kept]), len(rows))
        lengths = np.bincount(owner, minlength=len(users))
        others = np.repeat(own[:, None], max(int(lengths.max(initial=0)), 1), axis=1).astype(np.int32)
        others[owner, np.arange(len(owner)) - np.repeat(np.cumsum(lengths) - lengths, lengths)] = column
        return others


def distinct_rows(named: np.ndarray, item_rows: int) -> tuple[np.ndarray, np.ndarray]:
    """The distinct rows, ascending from row 0, and each named one's position among them. [R] -> int32 [U], int32 [R].

    Example:
        >>> [part.tolist() for part in distinct_rows(np.array([7, 4, 7]), 9)]
        [[0, 4, 7], [2, 1, 2]]
    """
    if item_rows <= 16 * len(named):  # marks in a table are faster than sorting while the table is small
        marked = np.zeros(item_rows, bool)
        marked[named] = marked[0] = True
        places = np.cumsum(marked, dtype=np.int32) - 1
        return np.flatnonzero(marked).astype(np.int32), places[named]
    rows, inverse = np.unique(np.concatenate([[0], named]), return_inverse=True)
    return rows.astype(np.int32), inverse[1:].astype(np.int32)


def rounded_up(number: int, most: int) -> int:
    """The next of eight sizes between two powers of two, so that few shapes occur and little is padding.

    Example:
        >>> rounded_up(1025, 10_000), rounded_up(1000, 10_000), rounded_up(1025, 1030), rounded_up(3, 100)
        (1152, 1024, 1030, 3)
    """
    step = 2 ** max(number.bit_length() - 4, 0)
    return min(-(-number // step) * step, most)
