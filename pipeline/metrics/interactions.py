"""Which items belong to which user, in compressed rows: the form every metric, mask and baseline reads.

`offsets` and `rows` are the CSR pair of a user × item matrix of ones, without the ones. A user's items are a set:
sorted by row, each once, never row 0.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclasses.dataclass(frozen=True, eq=False)
class Interactions:
    """Item sets of U users in compressed sparse rows.

    Attributes:
        offsets: int64 [U + 1]; the items of user u are `rows[offsets[u]:offsets[u + 1]]`.
        rows: int32 [nnz]; item rows, ascending and unique within a user, never 0.

    Example:
        >>> liked = Interactions.from_pairs(user=[2, 1, 1, 2, 1], item=[7, 5, 3, 7, 3], users=4)
        >>> liked.offsets.tolist(), liked.rows.tolist()
        ([0, 0, 2, 3, 3], [3, 5, 7])
        >>> liked[1].tolist(), len(liked), liked.counts.tolist()
        ([3, 5], 4, [0, 2, 1, 0])
    """

    offsets: NDArray[np.int64]
    rows: NDArray[np.int32]

    @classmethod
    def from_pairs(cls, user: ArrayLike, item: ArrayLike, users: int) -> Interactions:
        """Groups (user row, item row) pairs; repeats collapse, pairs with item row 0 (unknown) are left out.

        Args:
            user: integer user rows, each in [0, users).
            item: integer item rows, each >= 0, of the same length.
            users: how many user rows there are (row 0 included).

        Raises:
            ValueError: a user row or an item row is out of range, or the lengths differ.
        """
        user_rows, item_rows = np.asarray(user, dtype=np.int64), np.asarray(item, dtype=np.int64)
        if user_rows.ndim != 1 or user_rows.shape != item_rows.shape:
            raise ValueError(
                f"user, item: must be flat and of one length, received shapes {user_rows.shape} and {item_rows.shape}; "
                "pass one entry per pair"
            )
        if user_rows.size and (user_rows.min() < 0 or user_rows.max() >= users):
            raise ValueError(
                f"user: rows must lie in [0, {users}), received {user_rows.min()} to {user_rows.max()}; "
                "pass users= the number of user rows, row 0 included"
            )
        if item_rows.size and item_rows.min() < 0:
            raise ValueError(f"item: rows must be >= 0, received {item_rows.min()}; map unknown ids to row 0")
        known = item_rows != 0
        user_rows, item_rows = user_rows[known], item_rows[known]
        width = int(item_rows.max()) + 1 if item_rows.size else 1
        keys = np.unique(user_rows * width + item_rows)
        counts = np.bincount(keys // width, minlength=users)
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        return cls(offsets, (keys % width).astype(np.int32))

    @classmethod
    def from_lists(cls, lists: Iterable[Sequence[int] | NDArray[np.integer]]) -> Interactions:
        """The same from one collection of item rows per user: small inputs, tests and examples.

        >>> Interactions.from_lists([[3, 1], [], [2]]).offsets.tolist()
        [0, 2, 2, 3]
        """
        parts = [np.asarray(rows, dtype=np.int64).ravel() for rows in lists]
        user = np.repeat(np.arange(len(parts)), [part.size for part in parts])
        return cls.from_pairs(user, np.concatenate(parts) if parts else np.zeros(0, np.int64), len(parts))

    @classmethod
    def empty(cls, users: int) -> Interactions:
        """Nothing for anyone."""
        return cls(np.zeros(users + 1, np.int64), np.zeros(0, np.int32))

    @property
    def counts(self) -> NDArray[np.int64]:
        """int64 [U]: how many items each user has."""
        return np.diff(self.offsets)

    @property
    def users(self) -> NDArray[np.int64]:
        """int64 [nnz]: the user row of each entry, so that `(users, rows)` are the pairs again."""
        return np.repeat(np.arange(len(self)), self.counts)

    def select(self, users: ArrayLike) -> Interactions:
        """The sets of the given user rows, renumbered 0, 1, ... in the order asked (rows may repeat).

        >>> Interactions.from_lists([[3, 1], [], [2]]).select([2, 0]).rows.tolist()
        [2, 1, 3]
        """
        chosen = np.asarray(users, dtype=np.int64)
        if chosen.size and (chosen.min() < 0 or chosen.max() >= len(self)):
            raise ValueError(f"users: rows must lie in [0, {len(self)}), received {chosen.min()} to {chosen.max()}")
        counts = self.counts[chosen]
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        # One gather for all users: position inside the block, shifted to where the user's run starts in `rows`.
        source = np.arange(offsets[-1]) + np.repeat(self.offsets[chosen] - offsets[:-1], counts)
        return Interactions(offsets, self.rows[source])

    def with_sets(self, users: ArrayLike, others: Interactions) -> Interactions:
        """These sets, but for the given users those of `others`, which has as many users.

        >>> mine, others = Interactions.from_lists([[3, 1], [], [2]]), Interactions.from_lists([[9], [4], [7, 8]])
        >>> [rows.tolist() for rows in mine.with_sets([1, 2], others)]
        [[1, 3], [4], [7, 8]]
        """
        if len(self) != len(others):
            raise ValueError(f"others: must have {len(self)} users, received {len(others)}")
        places = np.arange(len(self))
        places[np.asarray(users, dtype=np.int64)] += len(self)
        both = Interactions(
            np.concatenate([self.offsets, others.offsets[1:] + self.offsets[-1]]), np.concatenate([self.rows, others.rows])
        )
        return both.select(places)

    def restrict(self, keep: NDArray[np.bool_]) -> Interactions:
        """Only the items whose flag is set; `keep` is bool [N + 1], for instance the items never seen in training.

        >>> Interactions.from_lists([[3, 1], [2]]).restrict(np.array([False, True, True, False])).rows.tolist()
        [1, 2]
        """
        mask = np.asarray(keep, dtype=bool)[self.rows]
        offsets = np.concatenate([[0], np.cumsum(mask)]).astype(np.int64)[self.offsets]
        return Interactions(offsets, self.rows[mask])

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, user: int) -> NDArray[np.int32]:
        if not 0 <= user < len(self):
            raise IndexError(f"user: must lie in [0, {len(self)}), received {user}")
        return self.rows[self.offsets[user] : self.offsets[user + 1]]

    def __iter__(self) -> Iterator[NDArray[np.int32]]:
        return (self[user] for user in range(len(self)))
