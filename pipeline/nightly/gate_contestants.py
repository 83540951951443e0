"""The two sides of the release gate: the candidate of a job and the current release, asked in the same rows."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from data.dataset import Dataset
from pipeline.nightly.grow_vocabulary import check_same_rows
from pipeline.ranker.lists import QueryFunction, SearchFunction
from pipeline.ranker.retrieval_side import RetrievalSide
from pipeline.stage import read_manifest
from ranking.serving_form import RankingServingForm

LOWEST = np.finfo(np.float32).min


@dataclasses.dataclass(frozen=True)
class Contestant:
    """Models of one run as functions of the job's rows.

    Attributes:
        query, search: see `pipeline.ranker.lists`. form: called as a `RankingServingForm`. heads: those that were trained.
        item_embeddings: [N + 1, D], zero for items that it does not know.
        history_length: how much of a history its queries read. ranker_history: how much of it its ranker does.
    """

    query: QueryFunction
    search: SearchFunction
    form: Callable[..., Mapping[str, Any]]
    heads: tuple[str, ...]
    item_embeddings: np.ndarray
    history_length: int
    ranker_history: int


def candidate_of(dataset: Dataset, run: Path, kind: str) -> Contestant:
    """What a job has trained."""
    side, form = RetrievalSide(dataset, run, kind), RankingServingForm.load(run / "ranking" / "serving_form")
    lengths = side.history_length, form.config.history_length
    return Contestant(side.query, side.search, form, form.spec.heads, side.item_embeddings, *lengths)


def current_of(dataset: Dataset, parent: Path) -> Contestant:
    """What is released now, as it would answer today: of users and items that came since it knows nothing, it recommends
    none of these, and its histories are without them.

    Args:
        dataset: the job's, in whose rows it is asked. parent: the run folder that the current release was made from.

    Raises:
        DatasetError: an id has another row than then.
    """
    then = Dataset.load(parent / "ingest")
    check_same_rows(dataset, then)
    kind = (read_manifest(parent / "index") or {}).get("config", {}).get("kind", "exact")
    side, form = RetrievalSide(then, parent, kind), RankingServingForm.load(parent / "ranking" / "serving_form")
    items, users, sizes = then.schema.item_rows, then.schema.user_rows, tuple(then.schema.context.values())
    # A column that is gone by now is unknown to it, as in the last place, which is added to what is asked.
    now = list(dataset.schema.context)
    columns = [now.index(name) if name in now else len(now) for name in then.schema.context]

    def known(rows: np.ndarray, count: int) -> np.ndarray:
        return np.where(np.asarray(rows) < count, rows, 0).astype(np.int32)

    def query(who: np.ndarray, history: np.ndarray) -> np.ndarray:
        return side.query(known(who, users), known(history, items))

    def search(queries: np.ndarray, k: int, excluded: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        most = min(k, items - 1)
        rows, scores = side.search(queries, most, known(excluded, items))
        short = ((0, 0), (0, k - most))
        return np.pad(rows, short), np.pad(scores, short, constant_values=LOWEST)

    def answer(who, history, candidates, scores, times, ranks=None, context=None):
        if context is not None:
            given = np.pad(np.asarray(context), ((0, 0), (0, 1)))[:, columns]
            context = np.where(given < np.array(sizes, np.int32).reshape(1, -1), given, 0).astype(np.int32)
        # What it does not know it would not have been asked about: it scores as padding does.
        given = known(candidates, items)
        return form(known(who, users), known(history, items), given, scores, times, ranks, context)

    embeddings = np.zeros((dataset.schema.item_rows, side.item_embeddings.shape[1]), np.float32)
    embeddings[:items] = side.item_embeddings
    return Contestant(
        query, search, answer, form.spec.heads, embeddings, side.history_length, form.config.history_length
    )
