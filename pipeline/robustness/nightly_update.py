"""What a run serves, updated on another log from its own models, as a night's job does: towers, linear tower and ranker."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np

from data.dataset import Dataset
from data.features import FeatureStore
from pipeline.nightly.linear import refit_linear
from pipeline.ranker.click_trees import ClickTrees
from pipeline.ranker.retrieval_side import exact_search
from pipeline.ranker.train import train_ranking
from pipeline.ranker.warm import WarmRanker
from pipeline.retrieval.served import Served, load_served
from pipeline.retrieval.served_stage import build_served
from pipeline.retrieval.train_retrieval import train_retrieval
from pipeline.settings.config import Config
from pipeline.stage import read_manifest
from pipeline.stages.ranking import ranking_config
from pipeline.training.epochs import Progress
from pipeline.training.warm import WarmTowers
from ranking.serving_form import RankingServingForm


@dataclasses.dataclass(frozen=True, eq=False)
class ServedModels:
    """Retrieval and ranking together, and the folder of the ranking stage."""

    served: Served
    form: RankingServingForm
    ranking: Path

    @classmethod
    def of(cls, run: Path) -> ServedModels:
        """What a finished run serves. Errors: FileNotFoundError where a stage has not run."""
        return cls(load_served(run), RankingServingForm.load(run / "ranking" / "serving_form"), run / "ranking")


def updated_models(
    dataset: Dataset, store: FeatureStore, run: Path, folder: Path, config: Config, since: int, progress: Progress
) -> ServedModels:
    """The models of a run, taught a log that begins to differ at `since`.

    The two towers train `job.epochs` on the events after `since` and a replay of older ones, the linear parts are fitted
    again or go on for `job.linear_epochs`, the mixture stays, and the ranker goes on from there.

    Args:
        dataset: with the rows of the run's, and users of its own after them. folder: for what is trained; made here.
        since: UTC seconds; what comes later is new to the models.
    """
    shutil.rmtree(folder, ignore_errors=True)  # of an interrupted run
    towers, linear, served = (folder / name / "full" for name in ("retrieval", "linear", "served"))
    for path in (towers, linear, served):
        path.mkdir(parents=True)
    modalities = tuple(store.modalities)
    warm = WarmTowers(run / "retrieval" / "full", since, config.job, config.retrieval.seed)
    train_retrieval(
        dataset, store, towers, folder / "towers", config.retrieval, modalities=modalities, progress=progress, warm=warm
    )
    refit_linear(
        dataset, store, run / "linear" / "full", linear, folder / "parts", config.linear, config.job,
        modalities=modalities, progress=progress,
    )  # fmt: skip
    before = (read_manifest(run / "served" / "full") or {"counts": {"kind": "two_tower"}})["counts"]
    if before["kind"] != "two_tower":
        mixture = (before["share"], before["boost"])
        build_served(dataset, store, towers, linear, served, config.linear, modalities=modalities, fixed=mixture)
    return updated_ranker(dataset, store, load_served(folder), ServedModels.of(run), folder, config, progress)


def updated_ranker(
    dataset: Dataset, store: FeatureStore, served: Served, before: ServedModels, folder: Path, config: Config,
    progress: Progress,
) -> ServedModels:  # fmt: skip
    """Other retrieval models with the ranker that was, gone on to them for `job.ranking_epochs` on the validation split.

    Args:
        before: what it goes on from. folder: takes the ranking stage.
    """
    job, out = config.job, folder / "ranking"
    out.mkdir(parents=True, exist_ok=True)
    settings = dataclasses.replace(
        ranking_config(config), catch_up_epochs=job.ranking_epochs, catch_up_rate=job.learning_rate
    )
    items = served.items

    def search(queries: np.ndarray, k: int, excluded: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return exact_search(queries, items, k, excluded)

    train_ranking(
        dataset, store, items, lambda users, history: served.queries(dataset.profile, users, history), search, out,
        folder / "ranker", settings, query_history=served.history_length,
        start=WarmRanker(before.ranking, before.served.items, items),
        trees=ClickTrees.load(before.ranking) if settings.trees else None, progress=progress,
    )  # fmt: skip
    return ServedModels(served, RankingServingForm.load(out / "serving_form"), out)
