"""Leak checks of what the ranker is about to learn from: its lists, and the tables it reads."""

from __future__ import annotations

import dataclasses

import keras
import numpy as np

from data.dataset import Dataset
from data.schema import TRAIN, VALID
from pipeline.ranker.leak_checks import LeakError, check_counts, check_popularity
from ranking.lists import RankingLists
from ranking.model import Ranker
from ranking.popularity import SMALLEST_SPREAD
from ranking.tables import ITEM_NUMBERS

NEVER = np.iinfo(np.int64).max


@dataclasses.dataclass(frozen=True)
class FirstTimes:
    """When each (user, item) pair first occurred among some events.

    Attributes:
        keys: int64 [P], ascending. times: int64 [P]. width: N + 1.
    """

    keys: np.ndarray
    times: np.ndarray
    width: int

    @classmethod
    def of(cls, dataset: Dataset, chosen: np.ndarray) -> FirstTimes:
        """Of the events of a mask [E]."""
        width = dataset.schema.item_rows
        user, item, time = (dataset.events[name].to_numpy()[chosen] for name in ("user", "item", "timestamp"))
        keys, place = np.unique(user.astype(np.int64) * width + item, return_inverse=True)
        times = np.full(len(keys), NEVER)
        np.minimum.at(times, place.reshape(-1), time)
        return cls(keys, times, width)

    def __call__(self, user: np.ndarray, item: np.ndarray) -> np.ndarray:
        """The first time of each pair, `NEVER` where there is none. Shapes: user [R], item [R, K] -> int64 [R, K]."""
        if not len(self.keys):
            return np.full(item.shape, NEVER)
        keys = user.astype(np.int64)[:, None] * self.width + item
        place = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        return np.where(self.keys[place] == keys, self.times[place], NEVER)


def check_lists(dataset: Dataset, lists: RankingLists, *, window_seconds: int) -> None:
    """Nothing in a list that the user had seen, that was not yet released, or that is a wrong negative; and nothing in a
    history that was not yet chosen.

    Args:
        lists: made from the events of the valid split; those of the train split are the past. window_seconds: of a request.

    Raises:
        LeakError: the first such element.
    """
    part = dataset.events["split"].to_numpy()
    known, own = part == TRAIN, part == VALID
    time = lists.timestamp[:, None]
    past = FirstTimes.of(dataset, known)(lists.user, lists.candidates) != NEVER
    first = FirstTimes.of(dataset, own)(lists.user, lists.candidates)
    released = dataset.items["created_at"].to_numpy(np.int64)[lists.candidates]
    shown = (first != NEVER) & ((first < time + window_seconds) | (window_seconds == 0))
    chosen = FirstTimes.of(dataset, own & dataset.positive)(lists.user, lists.candidates) != NEVER
    remembered = (FirstTimes.of(dataset, known & dataset.positive)(lists.user, lists.history) != NEVER) | (
        FirstTimes.of(dataset, own & dataset.positive)(lists.user, lists.history) < time
    )
    clicked = lists.labels["click"] > 0
    rules = {
        "what the user had seen before": lists.mask & (past | (first < time)),
        "what was not released by then": lists.mask & (released > time) & (time > 0),
        "a click that the log does not hold": lists.mask & clicked & ~(shown & chosen),
        "an item that the user chooses later, as a negative": lists.mask & ~clicked & ~shown & chosen,
    }
    for rule, broken in rules.items():
        if broken.any():
            line, place = (int(found[0]) for found in np.nonzero(broken))
            raise LeakError(
                f"the lists ({rule})", _element(dataset, lists, line, lists.candidates[line, place]), ADVICE
            )
    wrong = (lists.history > 0) & ~remembered
    if wrong.any():
        line, place = (int(found[0]) for found in np.nonzero(wrong))
        row = lists.history[line, place]
        raise LeakError("the history (an item not chosen by then)", _element(dataset, lists, line, row), ADVICE)


ADVICE = "Build requests with `pipeline.ranker.lists.retrieve_fold`, and give it only splits that lie before"


def check_counts_read(dataset: Dataset, ranker: Ranker) -> None:
    """The item counts that a ranker reads must be those of the train split.

    Raises:
        LeakError: counts that know the labels' events, or a table that is not made of the dataset's counts.
    """
    check_counts(dataset, dataset.counts)
    numbers = keras.ops.convert_to_numpy(ranker.network.features.side.tables["numbers"])
    count = np.log1p(dataset.counts[1:])
    column = numbers[1:, ITEM_NUMBERS.index("log popularity")]
    apart = np.abs(column - (count - count.mean()) / max(float(count.std()), 1e-6))
    if len(apart) and apart.max() > 1e-3:
        row = 1 + int(apart.argmax())
        raise LeakError(
            "log popularity",
            f"item {dataset.items['item_id'].iloc[row]!r} (row {row}) has {column[row - 1]:.3f}, which is not that of its "
            f"{dataset.counts[row]} training events",
            "Fill the table from `dataset.counts`",
        )


def check_popularity_read(dataset: Dataset, ranker: Ranker, first_request: int) -> None:
    """Popularity as of a day must be that of the events before it, and the first day must not come after any request.

    Args:
        first_request: UTC seconds of the earliest request.

    Raises:
        LeakError: popularity of the future.
    """
    spec, half_lives = ranker.spec, ranker.config.popularity_half_lives
    if not half_lives:
        return
    if dataset.schema.has_timestamps and spec.popularity_start > first_request:
        raise LeakError(
            "decayed popularity",
            f"its first moment is {spec.popularity_start}, and a request is at {first_request}, which would read it",
            "Begin the table with the day of the earliest request",
        )
    values = keras.ops.convert_to_numpy(ranker.network.features.side.popularity_table).astype(np.float64)
    moments = spec.popularity_start + spec.popularity_step * np.arange(spec.popularity_moments)
    values = values.reshape(len(moments), -1, len(half_lives))
    check_popularity(dataset, values, moments, half_lives, smallest_spread=SMALLEST_SPREAD)


def _element(dataset: Dataset, lists: RankingLists, line: int, row: int) -> str:
    user, item = dataset.users["user_id"].iloc[int(lists.user[line])], dataset.items["item_id"].iloc[int(row)]
    return f"list {line} of user {user!r} at {int(lists.timestamp[line])} holds item {item!r} (row {int(row)})"
