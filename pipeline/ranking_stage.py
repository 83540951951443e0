"""Ranking between its neighbours: the trained towers and the built index on one side, the evaluation on the other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from data.dataset import Dataset
from data.features import FeatureStore
from data.schema import MODALITIES
from pipeline.config import Config
from pipeline.epochs import Progress
from pipeline.leak_checks import check_context, check_retrieval, check_split_order
from pipeline.ranking_lists import QueryFunction, SearchFunction, search_released
from pipeline.served import FULL, UNSEEN, load_served, served_folder
from pipeline.top_k import select_top_k
from pipeline.training_record import read_records
from ranking.config import RankingConfig
from ranking.serving_form import RankingServingForm
from serving.index_build import load_index


class RetrievalSide:
    """The trained towers and the built index of a run, as the plain functions that ranking asks.

    Args:
        dataset: the ingested data. run: the run folder. kind: which index answers ("scann" or "exact").
        unseen: what has not been fitted again on the validation split, where the served one has; searched exactly.

    Attributes:
        records: what the models behind it were trained on.
    """

    def __init__(self, dataset: Dataset, run: Path, kind: str, *, unseen: bool = False):
        apart = unseen and (served_folder(run) / UNSEEN).is_dir()
        variant = f"{FULL}/{UNSEEN}" if apart else FULL
        self._served = load_served(run, variant)
        self.records = read_records(served_folder(run, variant))
        self.item_embeddings = self._served.items
        self.history_length = self._served.history_length
        self._profile = dataset.profile
        self._index = None if apart else load_index(run / "index", kind)

    @property
    def query(self) -> QueryFunction:
        return lambda users, history: self._served.queries(self._profile, users, history)

    @property
    def search(self) -> SearchFunction:
        def search(queries: np.ndarray, k: int, excluded: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            if self._index is None:
                return exact_search(queries, self.item_embeddings, k, excluded)
            rows, scores = self._index.search(queries, np.int32(k), excluded)
            return np.asarray(rows), np.asarray(scores)

        return search


def exact_search(
    queries: np.ndarray, items: np.ndarray, k: int, excluded: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The k best items of each query without the excluded rows, as an index answers.

    Shapes: queries [B, D], items [N + 1, D], excluded [B, E] padded with 0 -> rows, scores [B, k], padded with row 0 and
    the lowest float.

    Example:
        >>> items = np.array([[0.0], [1.0], [3.0], [2.0]], np.float32)
        >>> exact_search(np.ones((1, 1), np.float32), items, 2, np.array([[2]]))[0].tolist()
        [[3, 1]]
    """
    scores = queries @ items.T
    np.put_along_axis(scores, excluded.astype(np.int64), -np.inf, axis=1)
    scores[:, 0] = -np.inf
    rows, found = select_top_k(scores, min(k, len(items) - 1))
    short = ((0, 0), (0, k - rows.shape[1]))
    rows, found = np.pad(rows, short), np.pad(found, short, constant_values=-np.inf)
    return np.where(np.isfinite(found), rows, 0), np.maximum(found, np.finfo(np.float32).min)


def ranking_config(config: Config) -> RankingConfig:
    """The ranking room's own settings."""
    return RankingConfig(**config.ranking.model_dump())


def train_ranking_stage(
    dataset: Dataset, store: FeatureStore, run: Path, out: Path, checkpoints: Path, config: Config, progress: Progress
) -> dict[str, Any]:
    """Train the ranker on what the built index proposes; see `pipeline.train_ranking`."""
    from pipeline.train_ranking import train_ranking

    side = RetrievalSide(dataset, run, config.index.kind, unseen=True)
    check_split_order(dataset)
    check_context(dataset, "valid")
    check_retrieval(dataset, side.records, "valid")
    return train_ranking(
        dataset,
        store,
        side.item_embeddings,
        side.query,
        side.search,
        out,
        checkpoints,
        ranking_config(config),
        query_history=side.history_length,
        baseline=True,
        progress=progress,
    )


def evaluate_ranking_stage(
    dataset: Dataset, store: FeatureStore, run: Path, out: Path, config: Config, progress: Progress
) -> dict[str, Any]:
    """Judge the full path on the test split; writes `ranking.json`, each user's values and `examples.json` into `out`."""
    from pipeline.evaluate_ranking import answer, evaluate_ranking
    from pipeline.examples import make_requests
    from pipeline.exposure_quality import content_vectors

    side = RetrievalSide(dataset, run, config.index.kind)
    check_retrieval(dataset, side.records, "test")
    settings, form = ranking_config(config), RankingServingForm.load(run / "ranking" / "serving_form")
    known_splits = config.evaluation.mask_splits
    requests = make_requests(dataset, "test", known_splits=known_splits, history_length=side.history_length)
    progress("ranking", 0, 2)
    result = evaluate_ranking(
        dataset,
        form,
        side.item_embeddings,
        requests,
        side.query,
        side.search,
        settings,
        known_splits=known_splits,
        query_history=side.history_length,
        vectors=content_vectors(*_content(store)),
        trained=run / "ranking",
        out=out,
    )
    (out / "ranking.json").write_text(json.dumps(result, indent=2))
    progress("ranking", 1, 2)
    # People who chose more can tell more easily whether a list suits them.
    shown = requests.take(np.sort(np.argsort(-requests.relevant.counts, kind="stable")[: config.evaluation.examples]))
    rows, scores = search_released(
        side.search,
        side.query(shown.users, shown.history),
        settings.retrieved,
        shown.seen.offsets,
        shown.seen.rows,
        dataset.items["created_at"].to_numpy(np.int64),
        shown.timestamps,
    )
    ranked = answer(form, shown.users, shown.history, rows, scores, shown.timestamps, context=shown.context)["score"]
    users, items = dataset.users["user_id"].to_numpy(), dataset.items["item_id"].to_numpy()
    examples = []
    for number, user in enumerate(shown.users):
        order = np.argsort(-ranked[number], kind="stable")
        examples.append(
            {
                "user_id": str(users[user]),
                "history": [str(items[row]) for row in shown.history[number] if row],
                "retrieved": [[str(items[row]), float(score)] for row, score in zip(rows[number], scores[number],
                strict=True) if row][:20],
                "ranked": [[str(items[rows[number, place]]), float(ranked[number, place])] for place in order if
                rows[number, place]][:20],
                "held_out": [str(items[row]) for row in shown.relevant[number]],
            }
        )  # fmt: skip
    (out / "examples.json").write_text(json.dumps(examples, indent=2, ensure_ascii=False))
    progress("ranking", 2, 2)
    return result


def _content(store: FeatureStore) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The store's vectors [N + 1, F] and the items that have them, by modality."""
    present = np.asarray(store.present)
    tables = {name: np.asarray(store.pooled(name)) for name in store.modalities}
    return tables, {name: present[:, MODALITIES.index(name)] for name in tables}
