"""A release's log with the events since, by user: an update looks at the people whom it concerns, not at everybody's past."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import pandas as pd

from data.dataset import CONTEXT, Dataset
from data.splits import newest_time

SAME_EVENT = ["user", "item", "event", "timestamp"]
"""Two lines that agree in these say the same."""


class FollowedLog:
    """The log as it was released, and what came since. An event's place is its number in the one followed by the other.

    Only what is asked for once, at the start, passes over the whole log. To count everybody's past anew takes half a minute
    with 8 million events, and what an update asks for a tenth of a second.

    Args:
        dataset: of the release; its events are sorted by user.
    """

    def __init__(self, dataset: Dataset) -> None:
        self.released = dataset
        self._starts = np.searchsorted(dataset.events["user"].to_numpy(), np.arange(dataset.schema.user_rows + 1))
        self._positive = np.flatnonzero(dataset.positive)
        self._since, self._newest = dataset.events.iloc[:0], 0

    @functools.cached_property
    def newest_released(self) -> int:
        """When the release's last event happened, UTC seconds, and not later than it was read: a log may lie in the future."""
        times, folder = self.released.events["timestamp"].to_numpy(), self.released.folder
        newest = newest_time(times) if len(times) else 0
        return newest if folder is None else min(newest, int((folder / "schema.json").stat().st_mtime))

    @property
    def touched(self) -> np.ndarray:
        """Rows of the users of whom anything came since. [T]"""
        return np.unique(self._since["user"].to_numpy())

    @property
    def newest(self) -> np.ndarray:
        """Places of the positive events added last."""
        places = len(self.released.events) + np.arange(len(self._since))
        return places[self._since["positive"].to_numpy(bool) & (np.arange(len(self._since)) >= self._newest)]

    def add(self, lines: pd.DataFrame) -> None:
        """Events of `Dataset.EVENT_COLUMNS`; what else the log has of its own is unknown of them."""
        columns = self.released.events.dtypes
        codes = {name: 0 for name in map(str, columns.index) if name.startswith(CONTEXT) or name == "position"}
        lines = lines.reindex(columns=columns.index).fillna(codes).astype(columns.to_dict())
        self._newest = len(self._since)
        self._since = pd.concat([self._since, lines], ignore_index=True)

    def holds(self, lines: pd.DataFrame, *, since: bool = True) -> np.ndarray:
        """Which of some lines the log has, or the lines themselves further up. [E] bool

        Args:
            since: what came after the release counts, too.
        """
        learned = self.of(np.unique(lines["user"].to_numpy()), since=since)[0].events
        later = learned.loc[learned["timestamp"] >= lines["timestamp"].min(), SAME_EVENT]
        return pd.concat([later, lines[SAME_EVENT]]).duplicated().to_numpy()[len(later) :]

    def older(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """Places of so many positive events from before the ones added last, or of all there are; each at most once."""
        later = np.flatnonzero(self._since["positive"].to_numpy(bool)[: self._newest])
        total = len(self._positive) + len(later)
        drawn = rng.choice(total, min(count, total), replace=False)
        in_release = drawn < len(self._positive)
        places = np.empty(len(drawn), np.int64)
        places[in_release] = self._positive[drawn[in_release]]
        places[~in_release] = len(self.released.events) + later[drawn[~in_release] - len(self._positive)]
        return places

    def users_at(self, places: np.ndarray) -> np.ndarray:
        """Rows of the users whose events stand there, each once."""
        length = len(self.released.events)
        before, since = places[places < length], places[places >= length] - length
        frames = (self.released.events["user"].to_numpy()[before], self._since["user"].to_numpy()[since])
        return np.unique(np.concatenate(frames))

    def of(self, users: np.ndarray, *, since: bool = True) -> tuple[Dataset, np.ndarray]:
        """The dataset with the events of these users alone, in its order, and their places.

        Args:
            users: rows, each once. since: without what came after the release, where False.
        """
        starts, counts = self._starts[users], self._starts[users + 1] - self._starts[users]
        shift = np.repeat(starts - np.concatenate([[0], np.cumsum(counts)[:-1]]), counts) if len(users) else 0
        places = np.arange(counts.sum()) + shift
        events = self.released.events.iloc[places]
        if since:
            later = np.flatnonzero(np.isin(self._since["user"].to_numpy(), users))
            events = pd.concat([events, self._since.iloc[later]])
            places = np.concatenate([places, len(self.released.events) + later])
        order = np.lexsort((events["timestamp"].to_numpy(), events["user"].to_numpy()))
        return dataclasses.replace(self.released, events=events.iloc[order].reset_index(drop=True)), places[order]
