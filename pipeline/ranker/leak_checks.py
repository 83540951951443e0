"""Checks that stop a run whose model knows what it is about to be asked.

Every check recomputes from the log what an honest model could know and compares; none trusts the code that made the
features. A run that fails one stops with a `LeakError`, which names the feature, an example and what to do.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from data.dataset import Dataset
from data.schema import SPLIT_CODES, TRAIN, VALID
from pipeline.ranker.event_labels import event_labels
from pipeline.training.record import splits_of

TELLING = 0.3
"""A context column that explains this much of a label's entropy is no context: it was written down afterwards."""
TOLERANCE = 5e-3
"""What the precision of the popularity table costs."""
PROBABILITIES = ("click", "like", "purchase", "skip")


class LeakError(ValueError):
    """A feature or an index knows the labels it is judged on."""

    def __init__(self, feature: str, example: str, advice: str):
        super().__init__(f"leak in {feature}: {example}. {advice}")
        self.feature = feature


def split_by_time(dataset: Dataset) -> bool:
    """Whether the splits are periods one after the other; in other splits later events may be known, by design."""
    return dataset.schema.has_timestamps and dataset.report.get("split") == "global_time"


def before(split: str) -> tuple[str, ...]:
    """The splits that lie before one."""
    return tuple(name for name, code in SPLIT_CODES.items() if code < SPLIT_CODES[split])


def check_split_order(dataset: Dataset) -> None:
    """Of a split by time, each part must begin after the one before has ended.

    Raises:
        LeakError: an event of a later part that is not later.
    """
    if not split_by_time(dataset):
        return
    time, part = dataset.events["timestamp"].to_numpy(), dataset.events["split"].to_numpy()
    for name, code in SPLIT_CODES.items():
        earlier, mine = time[part < code], part == code
        if not len(earlier) or not mine.any() or time[mine].min() > earlier.max():
            continue
        event = int(np.flatnonzero(mine)[time[mine].argmin()])
        raise LeakError(
            f"the split ({name})",
            f"{event_words(dataset, event)} is in {name}, and an earlier part lasts until {int(earlier.max())}",
            "Split by one moment for all users (data.split = 'global_time') and ingest again",
        )


def check_counts(dataset: Dataset, counts: np.ndarray) -> None:
    """How often each item was chosen, as the features of the valid split's requests know it, must be counted before it.

    Recomputed from the positive events of the train split, of which, in a split by time, none is as late as the first
    label.

    Args:
        counts: [N + 1].

    Raises:
        LeakError: they differ; tells whether the labels' own events are in them, or popularity of the future.
    """
    item, part = dataset.events["item"].to_numpy(), dataset.events["split"].to_numpy()
    labels, known = part == VALID, dataset.positive & (part == TRAIN)
    if split_by_time(dataset) and labels.any():
        known &= dataset.events["timestamp"].to_numpy() < dataset.events["timestamp"].to_numpy()[labels].min()
    count = lambda chosen: np.bincount(item[chosen], minlength=dataset.schema.item_rows)  # noqa: E731
    honest, asked = count(known), count(labels & dataset.positive)
    wrong = np.flatnonzero(np.asarray(counts)[1:] != honest[1:]) + 1
    if not len(wrong):
        return
    # The item that tells most of the labels makes the plainest example.
    row = int(wrong[np.argmax(asked[wrong])])
    mine, fair = _correlation(counts[1:], asked[1:]), _correlation(honest[1:], asked[1:])
    raise LeakError(
        "the items' counts",
        f"item {dataset.items['item_id'].iloc[row]!r} (row {row}) counts {counts[row]:g} times, {honest[row]} before the "
        f"valid split, whose own events name it {asked[row]} times; over all items the feature correlates {mine:.3f} "
        f"with the labels' counts, an honest one {fair:.3f}",
        "Count the events of the train split alone (`data.dataset.train_counts`)",
    )


def check_popularity(
    dataset: Dataset,
    values: np.ndarray,
    moments: np.ndarray,
    half_lives: Iterable[float],
    *,
    smallest_spread: float,
) -> None:
    """Popularity as of a moment must be that of the events strictly before it, and none of the test split's.

    Looked at: the first moment, the last, and two between.

    Args:
        values: [P, N + 1, H], standardised over the items of each moment. moments: [P] UTC seconds.
        half_lives: H, in days. smallest_spread: see `ranking.popularity`.

    Raises:
        LeakError: another value than recomputed.
    """
    if not dataset.schema.has_timestamps:
        return
    part = dataset.events["split"].to_numpy()
    usable = dataset.positive & (part <= VALID)
    item, time = dataset.events["item"].to_numpy()[usable], dataset.events["timestamp"].to_numpy()[usable]
    for place in np.unique(np.linspace(0, len(moments) - 1, 4).astype(int)):
        past = time < moments[place]
        for column, half_life in enumerate(half_lives):
            fade = 2.0 ** (-(moments[place] - time[past]) / (half_life * 86_400))
            counted = np.log1p(np.bincount(item[past], fade, minlength=dataset.schema.item_rows))
            honest = (counted - counted[1:].mean()) / max(float(counted[1:].std()), smallest_spread)
            found = np.asarray(values[place, :, column], np.float64)
            apart = np.abs(found - honest)[1:] / (1 + np.abs(honest[1:]))
            if not len(apart) or apart.max() <= TOLERANCE:
                continue
            row = 1 + int(apart.argmax())
            later = np.bincount(item[~past], minlength=dataset.schema.item_rows)
            raise LeakError(
                f"popularity with a half-life of {half_life:g} days",
                f"item {dataset.items['item_id'].iloc[row]!r} (row {row}) has {found[row]:.3f} as of {int(moments[place])}, "
                f"its events before then give {honest[row]:.3f}; over all items the feature correlates "
                f"{_correlation(found[1:], later[1:]):.3f} with what came later, an honest one "
                f"{_correlation(honest[1:], later[1:]):.3f}",
                "Count only events strictly before each moment, and none of a later split",
            )


def check_context(dataset: Dataset) -> None:
    """No context column may tell the label.

    Rates of each code are measured in the train split; on the valid split they may explain at most `TELLING` of the
    label's entropy.

    Raises:
        LeakError: a column that explains more: it was written down afterwards.
    """
    part = dataset.events["split"].to_numpy()
    known, asked = part == TRAIN, part == VALID
    labels = event_labels(dataset)
    for axis, (column, size) in enumerate(dataset.schema.context.items()):
        codes = dataset.context[:, axis]
        for head in PROBABILITIES:
            truth = labels[head]
            rate = truth[known].mean() if known.any() else 0.0
            if not asked.any() or not 0 < rate < 1 or not 0 < truth[asked].mean() < 1:
                continue
            seen = np.bincount(codes[known], minlength=size)
            rates = (np.bincount(codes[known], truth[known], minlength=size) + rate) / (seen + 1)
            explained = 1 - _log_loss(truth[asked], rates[codes[asked]]) / _log_loss(truth[asked], truth[asked].mean())
            if explained > TELLING:
                event = int(np.flatnonzero(asked & (truth > 0))[0])
                word = dataset.context_vocabulary[column][codes[event]]
                raise LeakError(
                    f"the context column {column!r}",
                    f"it explains {explained:.0%} of the entropy of {head!r}: {event_words(dataset, event)} has {word!r}",
                    "Name the columns that are known beforehand in data.context and ingest again",
                )


def check_retrieval(dataset: Dataset, records: list[dict[str, Any]], split: str) -> None:
    """No model behind the index may have been trained on the split that it is judged on, or on a later one.

    Args:
        records: of every model behind the index, see `pipeline.training.record`.

    Raises:
        LeakError: a model was, or no record says that it was not.
    """
    advice = f"Train it on {' and '.join(before(split)) or 'an earlier log'} alone and build the index again"
    if not records:
        raise LeakError("the index", "no record says what its models were trained on", "Run train-retrieval again")
    asked = np.flatnonzero(dataset.positive & (dataset.events["split"].to_numpy() == SPLIT_CODES[split]))
    for record in records:
        splits = splits_of(dataset, record["digest"])
        if splits is None or set(splits) - set(before(split)):
            told = "pairs that are no union of this dataset's splits" if splits is None else " and ".join(splits)
            raise LeakError(
                "the index",
                f"a model behind it was trained on {told} ({record['pairs']} pairs) and is asked about {split}"
                + (f", such as {event_words(dataset, int(asked[0]))}" if len(asked) else ""),
                advice,
            )
        if split_by_time(dataset) and len(asked):
            first = int(asked[np.argmin(dataset.events["timestamp"].to_numpy()[asked])])
            if record["last_timestamp"] >= dataset.events["timestamp"].iloc[first]:
                raise LeakError(
                    "the index",
                    f"a model behind it was trained on events until {record['last_timestamp']}, and "
                    f"{event_words(dataset, first)} is to be predicted",
                    advice,
                )


def event_words(dataset: Dataset, event: int) -> str:
    """One event in words."""
    line = dataset.events.iloc[event]
    user, item = dataset.users["user_id"].iloc[int(line["user"])], dataset.items["item_id"].iloc[int(line["item"])]
    return f"event {event} (user {user!r}, item {item!r}, time {int(line['timestamp'])})"


def _correlation(one: np.ndarray, other: np.ndarray) -> float:
    spread = np.std(one) * np.std(other)
    return float(np.mean((one - np.mean(one)) * (other - np.mean(other))) / spread) if spread > 0 else 0.0


def _log_loss(truth: np.ndarray, probability: Any) -> float:
    p = np.clip(probability, 1e-6, 1 - 1e-6)
    return float(-(truth * np.log(p) + (1 - truth) * np.log(1 - p)).mean())
