"""Ranking between its neighbours: the trained towers and the built index on one side, the evaluation on the other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from data.dataset import Dataset
from data.features import FeatureStore
from pipeline.ranker.leak_checks import check_context, check_retrieval, check_split_order
from pipeline.ranker.lists import search_released
from pipeline.ranker.retrieval_side import RetrievalSide
from pipeline.ranker.warm import WarmRanker, learned_until
from pipeline.retrieval.served import FULL, served_items
from pipeline.settings.config import Config
from pipeline.stage import StageError
from pipeline.training.epochs import Progress
from ranking.config import RankingConfig
from ranking.serving_form import RankingServingForm


def ranking_config(config: Config) -> RankingConfig:
    """The ranking room's own settings."""
    return RankingConfig(**config.ranking.model_dump(exclude={"previous_run"}))


def train_ranking_stage(
    dataset: Dataset,
    store: FeatureStore,
    run: Path,
    out: Path,
    checkpoints: Path,
    config: Config,
    progress: Progress,
    *,
    previous: Path | None = None,
    baseline: bool = True,
) -> dict[str, Any]:
    """Train the ranker on what the built index proposes; see `pipeline.ranker.train`.

    Args:
        previous: an earlier run, in whose rows this one counts, and from whose ranker it goes on.
        baseline: whether boosted trees are fitted beside it.
    """
    from pipeline.ranker.click_trees import ClickTrees
    from pipeline.ranker.earlier_fold import earlier_fold
    from pipeline.ranker.train import train_ranking

    settings, earlier = ranking_config(config), None
    if config.ranking.previous_run:
        if config.encoders.trained():
            raise StageError(
                "ranking.previous_run: encoders that were tuned on the train split know its answers; leave it empty, or "
                "leave the encoders as they are (encoders.*.train = 'frozen')"
            )
        earlier = earlier_fold(dataset, Path(config.ranking.previous_run), settings)
    side = RetrievalSide(dataset, run, config.index.kind, unseen=True)
    start, trees = None, None
    if previous is not None:
        then = served_items(previous, side.variant if (previous / "served" / side.variant).is_dir() else FULL)
        start = WarmRanker(previous / "ranking", then, side.item_embeddings, learned_until(previous / "ranking"))
        trees = ClickTrees.load(previous / "ranking") if settings.trees else None
    check_split_order(dataset)
    check_context(dataset)
    check_retrieval(dataset, side.records, "valid")
    return train_ranking(
        dataset,
        store,
        side.item_embeddings,
        side.query,
        side.search,
        out,
        checkpoints,
        settings,
        query_history=side.history_length,
        earlier=earlier,
        baseline=baseline,
        start=start,
        trees=trees,
        progress=progress,
    )


def evaluate_ranking_stage(
    dataset: Dataset, store: FeatureStore, run: Path, out: Path, config: Config, progress: Progress
) -> dict[str, Any]:
    """Judge the full path on the test split; writes `ranking.json`, each user's values and `examples.json` into `out`."""
    from pipeline.evaluation.evaluate_ranking import evaluate_ranking
    from pipeline.evaluation.exposure_quality import content_vectors
    from pipeline.metrics.examples import make_requests
    from pipeline.policy.stage import judge_policies
    from pipeline.ranker.rank_requests import answer

    side = RetrievalSide(dataset, run, config.index.kind)
    check_retrieval(dataset, side.records, "test")
    settings, form = ranking_config(config), RankingServingForm.load(run / "ranking" / "serving_form")
    known_splits = config.evaluation.mask_splits
    requests = make_requests(dataset, "test", known_splits=known_splits, history_length=side.history_length)
    progress("ranking", 0, 2)
    vectors = content_vectors(*_content(store))
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
        vectors=vectors,
        trained=run / "ranking",
        policies=lambda visits, people: judge_policies(
            dataset, run, form, visits, people, config, vectors, settings.seed
        ),
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
    tables = {name: np.asarray(store.pooled(name)) for name in store.modalities}
    return tables, {name: store.present_of(name) for name in tables}
