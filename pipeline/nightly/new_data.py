"""What came since the last release, beside the days before."""

from __future__ import annotations

import dataclasses

import numpy as np

from data.dataset import Dataset
from data.splits import DAY, newest_time

CROWDED = 4
"""Times as many events as hours have had before: more are no part of a day, but a day or days whose hours are wrong."""


@dataclasses.dataclass(frozen=True)
class NewData:
    """What came since the last release, in the job's rows.

    Attributes:
        dataset: the job's. previous: the one that the last release was made from.
        new: bool [E], events that it did not have, by time. reference: bool [E], the days before; of a part of a
            day, the same hours of them.
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
        reference, new = (time <= until) & (time > until - reference_days * DAY), (time > until) & (time <= newest)
        items = np.arange(previous.schema.item_rows, len(dataset.items))
        first = int(time[new].min()) if new.any() else newest
        since = first - 1 if first - until > DAY else until  # after a silence of days the log begins anew
        return cls(dataset, previous, new, like_hours(time, reference, new, since, newest), items, until, newest)

    def visits(self, chosen: np.ndarray) -> np.ndarray:
        """The first event of every user and day among the chosen (bool [E]); events lie by user and time, and days are counted
        back from the newest, so that no night's job makes two of one. [V]"""
        rows = np.flatnonzero(chosen)
        user, day = (self.dataset.events[name].to_numpy()[rows] for name in ("user", "timestamp"))
        day = (day - self.newest - 1) // DAY
        first = np.ones(len(rows), bool)
        first[1:] = (user[1:] != user[:-1]) | (day[1:] != day[:-1])
        return rows[first]


def like_hours(time: np.ndarray, reference: np.ndarray, new: np.ndarray, since: int, newest: int) -> np.ndarray:
    """Of the reference the same hours of every day, where less than a day is new: an evening is not like a whole day, and the
    second job of a day would always be told so. All of it where these hours have been empty, or are too full now (`CROWDED`).

    Shapes: time, reference, new [E] -> bool [E]. since, newest: what is new lies between; UTC seconds.
    """
    span = newest - since
    if span >= DAY or not new.any() or not reference.any():
        return reference
    alike = reference & ((newest - time) % DAY < span)
    past = time[reference]
    days = np.count_nonzero(np.bincount((past.max() - past) // DAY))  # that had any event
    return alike if new.sum() <= CROWDED * alike.sum() / days else reference
