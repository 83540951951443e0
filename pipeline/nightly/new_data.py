"""What came since the last release, beside the days before."""

from __future__ import annotations

import dataclasses

import numpy as np

from data.dataset import Dataset
from data.splits import newest_time


@dataclasses.dataclass(frozen=True)
class NewData:
    """What came since the last release, in the job's rows.

    Attributes:
        dataset: the job's. previous: the one that the last release was made from.
        new: bool [E], events that it did not have, by time. reference: bool [E], the days before.
        new_items: rows of the items that it did not have.
        until, newest: where the log of either ends, see `newest_time`; UTC seconds.
    """

    dataset: Dataset
    previous: Dataset
    new: np.ndarray
    reference: np.ndarray
    new_items: np.ndarray
    until: int = 0
    newest: int = 0

    @classmethod
    def of(cls, dataset: Dataset, previous: Dataset, reference_days: int) -> NewData:
        """The split of what came. New are the events later than the last one that was known, but for those that are ahead of
        the log: they are new when it has come to them."""
        time = dataset.events["timestamp"].to_numpy()
        until, newest = newest_time(previous.events["timestamp"].to_numpy()), newest_time(time)
        reference = (time <= until) & (time > until - reference_days * 86_400)
        items = np.arange(previous.schema.item_rows, len(dataset.items))
        return cls(dataset, previous, (time > until) & (time <= newest), reference, items, until, newest)

    def visits(self, chosen: np.ndarray) -> np.ndarray:
        """The first event of every user and day among the chosen (bool [E]); events lie by user and time. [V]"""
        rows = np.flatnonzero(chosen)
        user, day = (self.dataset.events[name].to_numpy()[rows] for name in ("user", "timestamp"))
        day = day // 86_400
        first = np.ones(len(rows), bool)
        first[1:] = (user[1:] != user[:-1]) | (day[1:] != day[:-1])
        return rows[first]
