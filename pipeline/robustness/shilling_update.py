"""Fake users in a night's update: all that learns goes on from the run's models on the attacked log, final lists tell."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from data.dataset import Dataset
from data.features import FeatureStore
from data.schema import TRAIN
from data.shilling import DAY, shilling_events
from pipeline.metrics.examples import Requests
from pipeline.robustness.content_attack import with_intervals
from pipeline.robustness.full_path import FullPath
from pipeline.robustness.nightly_update import ServedModels, updated_models
from pipeline.robustness.poisoned_log import training_log, with_training_events, without_users
from pipeline.robustness.shilling_attack import detection, suspects_of
from pipeline.robustness.target_exposure import TargetExposure
from pipeline.settings.config import Config
from pipeline.training.epochs import Progress

LINES = ("clean", "none", "quarantine")


def attack_by_update(
    dataset: Dataset,
    store: FeatureStore,
    run: Path,
    scratch: Path,
    config: Config,
    requests: Requests,
    targets: np.ndarray,
    progress: Progress,
) -> dict[str, Any]:
    """Push every target alone; update towers, linear tower and ranker as a night does; look; set suspects aside; once more.

    The update learns the days in which the attack happens, from the models that the run serves; a clean log updates them
    too, for comparison.

    Args:
        dataset: the clean one. scratch: for trainings. requests: whose lists are looked at. targets: [T] item rows.

    Returns: `kind` of the attack, and by line (`clean`, `none`, `quarantine`) the figures of `TargetExposure` over
        `retrieval` and those of `FullPath` over the `final` lists, as [mean, low, high] over targets; with `quarantine` also
        what `detection` says, as means.
    """
    section, kind = config.robustness, config.robustness.shilling_kinds[-1]
    times = dataset.events["timestamp"].to_numpy()[dataset.events["split"].to_numpy() == TRAIN]
    since = int(times.max() - section.days * DAY) if section.days else int(times.min()) - 1
    log, ids = training_log(dataset), dataset.items["item_id"].to_numpy(dtype=object)
    found: dict[str, list[tuple[dict[str, float], dict[str, float]]]] = {name: [] for name in LINES}
    told: list[Mapping[str, float]] = []

    def update(name: str, part: Dataset) -> list[tuple[dict[str, float], dict[str, float]]]:
        folder = scratch / f"update-{name}"
        models = updated_models(part, store, run, folder, config, since, progress)
        figures = final_figures(models, part, requests, targets, config)
        shutil.rmtree(folder)
        return figures

    found["clean"] = update("clean", dataset)
    for number, row in enumerate(targets):
        rows = shilling_events(log, ids[row], section.shilling(kind), seed=section.seed + number)
        attacked = with_training_events(dataset, rows)
        suspects = suspects_of(attacked, section.share, section.seed)
        told.append(detection(suspects, dataset.schema.user_rows))
        found["none"].append(update(f"attacked-{number}", attacked)[number])
        found["quarantine"].append(update(f"defended-{number}", without_users(attacked, suspects.flagged))[number])
    lines: dict[str, dict[str, Any]] = {
        name: {
            part: with_intervals([figures[place] for figures in found[name]], section.seed)
            for place, part in enumerate(("retrieval", "final"))
        }
        for name in LINES
    }
    lines["quarantine"] |= {name: float(np.mean([one[name] for one in told])) for name in told[0]}
    return {"kind": kind, "targets": len(targets), "lines": lines}


def final_figures(
    models: ServedModels, dataset: Dataset, requests: Requests, targets: np.ndarray, config: Config
) -> list[tuple[dict[str, float], dict[str, float]]]:
    """What models show of each target as it is: figures of `TargetExposure` of retrieval, and of `FullPath`."""
    k, released = config.robustness.k, dataset.items["created_at"].to_numpy(np.int64)
    path = FullPath(models, dataset.profile, requests, released, config.ranking.retrieved, k)
    lists = TargetExposure(path.queries @ models.served.items.T, requests.seen, requests.relevant, k)
    return [(lists.figures(int(row), lists.scores[:, row]), path.as_served(int(row))) for row in targets]
