"""A second source for the ranker: the train split's later part, with candidates of a run that was made before it.

The ranker learns from the validation split, because the retrieval model has seen the train split's answers. A run made
earlier, be it last month's release or one of the same log with larger `data.valid_fraction` and `data.test_fraction`, has
not seen those of the days after it; its index is honestly wrong about them.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd

from data.dataset import NEVER, Dataset, train_counts
from data.schema import SPLIT_CODES, TEST, TRAIN, VALID
from data.vocabulary import Vocabulary
from pipeline.ranker.leak_checks import LeakError, event_words
from pipeline.ranker.lists import QueryFunction, RankingFold, SearchFunction, retrieve_fold
from pipeline.ranker.retrieval_side import RetrievalSide
from pipeline.stage import read_manifest
from ranking.config import RankingConfig

SETTING = "ranking.previous_run"
ADVICE = "Name a run whose training events end earlier, or leave ranking.previous_run empty"


@dataclasses.dataclass(frozen=True)
class EarlierFold:
    """Requests of the train split's later part, answered by an earlier run's index, in the rows of the present dataset.

    Attributes:
        dataset: as it was then: the events up to the earlier run's last are `train`, the later ones of today's train
            split `valid`, everything else `test`; counts are of that `train`.
        fold: requests of that `valid`. item_embeddings: [N + 1, D], the earlier run's.
    """

    dataset: Dataset
    fold: RankingFold
    item_embeddings: np.ndarray


def earlier_fold(dataset: Dataset, previous: Path, config: RankingConfig) -> EarlierFold:
    """The fold that an earlier run makes possible.

    Args:
        dataset: the present one. previous: the earlier run's folder.

    Raises:
        LeakError: it was trained on the events it would be asked about: those of the train split after its last one.
        FileNotFoundError, DatasetError: no finished run there.
    """
    then = Dataset.load(previous / "ingest")
    kind = (read_manifest(previous / "index") or {}).get("config", {}).get("kind", "exact")
    side = RetrievalSide(then, previous, kind)
    if not side.records or not (dataset.schema.has_timestamps and then.schema.has_timestamps):
        raise LeakError(SETTING, f"nothing says until when {previous} was trained", ADVICE)
    bound = max(record["last_timestamp"] for record in side.records)
    view = as_of(dataset, bound)
    asked = view.positive & (view.events["split"].to_numpy() == VALID)
    if not asked.any():
        last = int(dataset.events["timestamp"][dataset.events["split"] == TRAIN].max())
        raise LeakError(
            SETTING,
            f"{previous} was trained on events until {bound}, and the last event it could be asked about is at {last}",
            ADVICE,
        )
    rows = Correspondence.of(dataset, then)
    refuse_known_labels(view, then, rows, side.records[0]["splits"], asked)
    # What the earlier index did not hold is, for its requests, not released.
    missing = rows.item_then == 0
    released = np.where(missing, NEVER, view.items["created_at"].to_numpy(np.int64))
    view = dataclasses.replace(view, items=view.items.assign(created_at=released))
    embeddings = np.where(missing[:, None], 0, side.item_embeddings[rows.item_then]).astype(np.float32)
    fold = retrieve_fold(
        view,
        "valid",
        rows.query(side.query),
        rows.search(side.search),
        config,
        known_splits=("train",),
        query_history=side.history_length,
    )
    return EarlierFold(view, fold, embeddings)


def as_of(dataset: Dataset, bound: int) -> Dataset:
    """The dataset as a run saw it whose last training event was at `bound` (UTC seconds); see `EarlierFold.dataset`."""
    time, part = dataset.events["timestamp"].to_numpy(), dataset.events["split"].to_numpy()
    split = np.where(part != TRAIN, TEST, np.where(time <= bound, TRAIN, VALID)).astype(np.int8)
    events = dataset.events.assign(split=split)
    counts = train_counts(events, dataset.schema.item_rows)
    return dataclasses.replace(dataset, events=events, counts=counts, report=dataset.report | {"split": "global_time"})


@dataclasses.dataclass(frozen=True)
class Correspondence:
    """Rows of the present dataset and of an earlier one, by the ids they share; 0 where an id has none.

    Attributes:
        user_then: [user rows], the earlier row of each present user. item_then: [N + 1], of each present item.
        user_now, item_now: the present rows of the earlier ones.
    """

    user_then: np.ndarray
    user_now: np.ndarray
    item_then: np.ndarray
    item_now: np.ndarray

    @classmethod
    def of(cls, now: Dataset, then: Dataset) -> Correspondence:
        return cls(
            _rows(then.user_ids, now.users["user_id"].to_numpy(dtype=object)),
            _rows(now.user_ids, then.users["user_id"].to_numpy(dtype=object)),
            _rows(then.item_ids, now.items["item_id"].to_numpy(dtype=object)),
            _rows(now.item_ids, then.items["item_id"].to_numpy(dtype=object)),
        )

    def pairs_known(self, now: Dataset, asked: np.ndarray, then: pd.DataFrame) -> np.ndarray:
        """Events [E'] of the present dataset that are asked about although earlier events hold the same pair, which is no
        repetition of one in the train split.

        Args:
            asked: bool [E]. then: events in earlier rows.
        """
        width = now.schema.item_rows
        known = self.user_now[then["user"]].astype(np.int64) * width + self.item_now[then["item"]]
        keys = now.events["user"].to_numpy().astype(np.int64) * width + now.events["item"].to_numpy()
        past = keys[now.events["split"].to_numpy() == TRAIN]
        return np.flatnonzero(asked & np.isin(keys, known) & ~np.isin(keys, past))

    def query(self, then: QueryFunction) -> QueryFunction:
        """An earlier run's queries for present rows."""
        return lambda users, history: then(self.user_then[users], self.item_then[history])

    def search(self, then: SearchFunction) -> SearchFunction:
        """An earlier run's index, asked and answering in present rows; what is gone from the catalogue comes last."""

        def search(queries: np.ndarray, k: int, excluded: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            most = min(k, len(self.item_now) - 1)
            rows, scores = then(queries, most, self.item_then[excluded])
            found = np.pad(self.item_now[rows], ((0, 0), (0, k - most)))
            scores = np.pad(scores, ((0, 0), (0, k - most)))
            scores = np.where(found > 0, scores, np.finfo(np.float32).min)
            order = np.argsort(found == 0, axis=1, kind="stable")
            return np.take_along_axis(found, order, 1), np.take_along_axis(scores, order, 1).astype(np.float32)

        return search


def refuse_known_labels(
    view: Dataset, then: Dataset, rows: Correspondence, splits: list[str], asked: np.ndarray
) -> None:
    """An earlier log may date the same event otherwise: what its run was trained on must be no new pair of the labels.

    Raises:
        LeakError: names such a pair.
    """
    trained = then.events[then.positive & then.events["split"].isin([SPLIT_CODES[name] for name in splits])]
    leaked = rows.pairs_known(view, asked, trained)
    if len(leaked):
        raise LeakError(
            SETTING,
            f"it was trained on {len(leaked)} of the pairs it would be asked about, such as {event_words(view, leaked[0])}, "
            "which this log dates after its last training event",
            ADVICE,
        )


def _rows(vocabulary: Vocabulary, ids: np.ndarray) -> np.ndarray:
    """Rows of ids whose first one stands for row 0."""
    rows = np.asarray(vocabulary.rows(ids), np.int32).copy()
    rows[0] = 0
    return rows
