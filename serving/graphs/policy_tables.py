"""What re-ranking looks at by row, beside the models: creators, categories, popularity, dates, groups, and context words."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from ranking.adjustments import BUCKETS, popularity_buckets

ITEM_CODES = ("creator", "category", "protected", "bucket", "events")


@dataclasses.dataclass(frozen=True)
class PolicyTables:
    """Facts of items and users that policies weigh; 28 bytes an item and 4 a user.

    Attributes:
        counts: int [N + 1], positive events of each item: its popularity, and the evidence of its scores.
        released: int64 [N + 1], UTC seconds, 0 = unknown.
        creator, category: int32 [N + 1] codes, 0 = unknown; None = items have none, and no cap holds.
        protected: bool [N + 1], the group whose exposure may be boosted or floored; None = nobody.
        user_group: int32 [U + 1], and group_floors: f32 [G], the least share of the protected group that each users' group
            is shown; None = the policy's own for all.
        context: column -> its words, index 0 is "", in the order of the ranker's context columns.

    Raises:
        ValueError: at construction, where tables are of different sizes, a count is negative or a floor is no share.
    """

    counts: np.ndarray
    released: np.ndarray
    creator: np.ndarray | None = None
    category: np.ndarray | None = None
    protected: np.ndarray | None = None
    user_group: np.ndarray | None = None
    group_floors: np.ndarray | None = None
    context: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        sizes = {
            name: len(values)
            for name in ("counts", "released", "creator", "category", "protected")
            if (values := getattr(self, name)) is not None
        }
        if len(set(sizes.values())) != 1:
            raise ValueError(f"item tables: need one line an item row, received {sizes}; use one ingested run")
        if np.min(self.counts, initial=0) < 0:
            raise ValueError(f"counts: must be at least 0, received {np.min(self.counts)}")
        if (self.user_group is None) != (self.group_floors is None):
            raise ValueError("user_group, group_floors: need both or neither, received one; leave it out or add the other")
        if self.user_group is not None and self.group_floors is not None:
            floors = np.asarray(self.group_floors)
            if not ((floors >= 0) & (floors <= 1)).all():
                raise ValueError(f"group_floors: must be shares in [0, 1], received {floors.tolist()}")
            if len(self.user_group) and not 0 <= np.min(self.user_group) <= np.max(self.user_group) < len(floors):
                raise ValueError(
                    f"user_group: must lie in 0..{len(floors) - 1}, received {np.min(self.user_group)} to "
                    f"{np.max(self.user_group)}; give every group a floor"
                )

    def item_codes(self) -> np.ndarray:
        """int32 [N + 1, 5] in the order of `ITEM_CODES`; row 0 is 0.

        Example:
            >>> PolicyTables(np.array([0, 9, 1]), np.zeros(3), creator=np.array([0, 4, 4])).item_codes().tolist()
            [[0, 0, 0, 0, 0], [4, 0, 0, 0, 9], [4, 0, 0, 2, 1]]
        """
        nothing = np.zeros(len(self.counts), np.int32)
        given = {name: getattr(self, name) for name in ("creator", "category", "protected")}
        columns = [nothing if values is None else np.asarray(values, np.int32) for values in given.values()]
        columns += [popularity_buckets(self.counts), np.minimum(self.counts, 2**31 - 1).astype(np.int32)]
        codes = np.stack(columns, axis=1).astype(np.int32)
        codes[0] = 0
        return codes

    def bucket_prior(self) -> np.ndarray:
        """f32 [3]: the share of all events in each bucket of popularity; even where there are none."""
        counts = np.asarray(self.counts, np.float64)[1:]
        weights = np.bincount(popularity_buckets(self.counts)[1:], weights=counts, minlength=BUCKETS)
        return (weights / weights.sum() if weights.sum() else np.full(BUCKETS, 1 / BUCKETS)).astype(np.float32)
