"""Judge retrieval on the test split: the towers, what bounds them above (oracle) and below (baselines), and the
ablation."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from data.dataset import Dataset
from data.features import FeatureStore
from data.world import load_oracle
from pipeline.metrics.examples import Requests, interactions, make_requests
from pipeline.metrics.metrics import summarise_ranking
from pipeline.metrics.top_k import ScoreBlock, dot_product_scores, top_k
from pipeline.retrieval.baselines import Baseline, ItemKNN, Popularity, score_users
from pipeline.retrieval.queries import embed_queries
from pipeline.retrieval.served import FULL, Served, load_served, served_history_length
from pipeline.retrieval.train_retrieval import build_task
from pipeline.settings.config import EvaluationConfig
from pipeline.training.checkpoint import put_back, snapshot
from towers.two_tower import TwoTower, load_two_tower

DEPTH = 100
Progress = Callable[[str, int, int], None]


@dataclasses.dataclass(frozen=True)
class Judge:
    """The one protocol that everything is measured by: full catalogue, seen items masked, all targets and cold targets.

    Attributes:
        requests: one per test user.
        counts: [N + 1] training events an item; `counts == 0` is what "never seen in training" means.
    """

    requests: Requests
    counts: np.ndarray

    def rank(self, score_block: ScoreBlock, depth: int = DEPTH) -> np.ndarray:
        """The best unseen rows of every request. [Q, depth]"""
        return top_k(score_block, np.arange(len(self.requests.users)), self.requests.seen, depth)[0]

    def judge(self, score_block: ScoreBlock) -> dict[str, dict[str, float]]:
        """Metrics against all held-out items, and against those never seen in training (candidates: the whole
        catalogue)."""
        ranked = self.rank(score_block)
        result = {"test": summarise_ranking(ranked, self.requests.relevant, self.counts)}
        cold = self.requests.relevant.restrict(self.counts == 0)
        if cold.counts.any():
            result["cold_items"] = summarise_ranking(ranked, cold, self.counts)
        return result


def served_scores(served: Served, dataset: Dataset, requests: Requests) -> ScoreBlock:
    """Scores of what a run serves; its history is cut to the length that it reads."""
    history = requests.history[:, : served.history_length]
    return dot_product_scores(served.queries(dataset.profile, requests.users, history), served.items)


def tower_scores(folder: Path, dataset: Dataset, requests: Requests) -> ScoreBlock:
    """Scores of the two towers that were trained into a folder, served or not."""
    two_tower, items = load_two_tower(folder), np.load(folder / "item_embeddings.npy")
    history = requests.history[:, : two_tower.config.history_length]
    return dot_product_scores(embed_queries(two_tower, items, dataset.profile, requests.users, history), items)


def masked_scores(
    two_tower: TwoTower, dataset: Dataset, store: FeatureStore, requests: Requests, hidden: Collection[str]
) -> ScoreBlock:
    """Scores of the two towers when some modalities of every item are hidden from them."""
    kept = snapshot(two_tower.variables)
    task = build_task(dataset, store, two_tower)
    put_back(two_tower.variables, kept)  # a task takes standardisation, and who is known, from the data once more
    present = np.array(task.tables["present"])
    present[:, [task.modalities.index(name) for name in hidden]] = False
    task.tables["present"].assign(present)
    items, length = task.all_item_embeddings(), two_tower.config.history_length
    queries = embed_queries(two_tower, items, dataset.profile, requests.users, requests.history[:, :length])
    return dot_product_scores(queries, items)


def oracle_scores(source: Path, dataset: Dataset, requests: Requests) -> ScoreBlock | None:
    """The generator's true preference, where the dataset is a generated world; None otherwise."""
    if not (source / "oracle" / "preference.npy").is_file():
        return None
    oracle = load_oracle(source)
    preference = np.full((dataset.schema.user_rows, dataset.schema.item_rows), -np.inf, np.float32)
    users = pd.Index(dataset.users["user_id"]).get_indexer(oracle.user_ids)
    items = pd.Index(dataset.items["item_id"]).get_indexer(oracle.item_ids)
    preference[np.ix_(users[users > 0], items[items > 0])] = np.asarray(oracle.preference, np.float32)[
        np.ix_(users > 0, items > 0)
    ]
    return lambda block: preference[requests.users[block]]


def evaluate_retrieval(
    dataset: Dataset,
    store: FeatureStore,
    source: Path,
    run: Path,
    variants: Collection[str],
    out: Path,
    config: EvaluationConfig,
    *,
    progress: Progress,
) -> dict[str, Any]:
    """Write `retrieval.json` and `recommendations.parquet` into `out`.

    Args:
        source: the dataset folder, which may hold an oracle. run: the run folder.
        variants: what was trained there: `full`, `ids_only` where items have ids, `without_<modality>` where it was ablated.

    Returns: the content of `retrieval.json` (see the contract of `pipeline.report.page`).
    """
    served, known_splits = load_served(run), config.mask_splits
    # As long as the longest that any model reads, and each cuts it to its own: another may read more than what is served.
    length = max(served_history_length(run, name) for name in {FULL, *variants})
    judge = Judge(make_requests(dataset, "test", known_splits=known_splits, history_length=length), dataset.counts)
    requests = judge.requests
    if not len(requests.users):
        raise ValueError(
            "evaluation: the test split holds no positive event of a new item; check data.split and its fractions."
        )
    modalities = [name for name in store.modalities if name in served.two_tower.schema.modalities]
    total = 4 + 2 * len(modalities)
    progress("judging", 0, total)
    score_block = served_scores(served, dataset, requests)
    result: dict[str, Any] = judge.judge(score_block)
    recommendations(dataset, requests, score_block, config.recommendations).to_parquet(
        out / "recommendations.parquet", index=False
    )
    progress("judging", 1, total)
    if (oracle := oracle_scores(source, dataset, requests)) is not None:
        result["oracle"] = judge.judge(oracle)
    train, known = interactions(dataset, ("train",)), interactions(dataset, config.mask_splits)
    fitted: dict[str, Baseline] = {"popularity": Popularity(), "item_knn": ItemKNN()}
    result["baselines"] = {}
    for name, model in fitted.items():
        model.fit(train, dataset.schema.item_rows - 1)
        result["baselines"][name] = judge.judge(score_users(model, known, requests.users))
    progress("judging", 3, total)
    if "ids_only" in variants:
        result["baselines"]["ids_only"] = judge.judge(served_scores(load_served(run, "ids_only"), dataset, requests))
    if served.ensemble is not None:
        two_towers = masked_scores(served.two_tower, dataset, store, requests, ())
        result["baselines"]["two_towers"] = judge.judge(two_towers)
    progress("judging", 4, total)
    result["ablation"] = {}
    for number, name in enumerate(modalities):
        others = [other for other in modalities if other != name]
        ablation = {
            "masked": judge.judge(masked_scores(served.two_tower, dataset, store, requests, [name])),
            "alone": judge.judge(masked_scores(served.two_tower, dataset, store, requests, others)),
        }
        if f"without_{name}" in variants:
            ablation["retrained"] = judge.judge(served_scores(load_served(run, f"without_{name}"), dataset, requests))
        # The headline is the honest one: the best that can be done without the modality, not a model surprised by its
        # absence.
        result["ablation"][name] = {**(ablation.get("retrained") or ablation["masked"]), **ablation}
        progress("judging", 6 + 2 * number, total)
    (out / "retrieval.json").write_text(json.dumps(result, indent=2))
    return result


def recommendations(dataset: Dataset, requests: Requests, score_block: ScoreBlock, depth: int) -> pd.DataFrame:
    """The top items of every test user as a table anyone can score: user_id, item_id, rank (from 1), score."""
    rows, scores = top_k(score_block, np.arange(len(requests.users)), requests.seen, depth)
    kept = rows > 0
    users = np.repeat(dataset.users["user_id"].to_numpy()[requests.users], kept.sum(axis=1))
    ranks = np.broadcast_to(np.arange(1, rows.shape[1] + 1, dtype=np.int32), rows.shape)[kept]
    return pd.DataFrame(
        {
            "user_id": users,
            "item_id": dataset.items["item_id"].to_numpy()[rows[kept]],
            "rank": ranks,
            "score": scores[kept].astype(np.float32),
        }
    )
