"""The linear tower of a nightly job: the parts and weights that a full run chose, fitted again on all events so far."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

from data.dataset import Dataset
from data.features import FeatureStore
from pipeline.metrics.examples import interactions
from pipeline.retrieval.baselines import to_sparse
from pipeline.retrieval.linear_closed_form import refit_closed_form
from pipeline.retrieval.linear_judge import LinearJudge
from pipeline.retrieval.linear_parts import refit_spectral
from pipeline.retrieval.linear_stage import (
    INFO,
    REFIT,
    TRAINED,
    closed_form_content,
    content_of,
    joined,
    keep_trained,
    kept,
    record_of,
)
from pipeline.retrieval.train_history import train_history
from pipeline.settings.job import JobSection
from pipeline.settings.linear import LinearSection
from pipeline.stage import StageError
from pipeline.training.epochs import Progress
from pipeline.training.record import write_records
from pipeline.training.warm import RETRAIN
from towers.linear import FILE, LinearTower


def refit_linear(
    dataset: Dataset,
    store: FeatureStore,
    previous: Path,
    out: Path,
    checkpoints: Path,
    section: LinearSection,
    job: JobSection,
    *,
    modalities: tuple[str, ...],
    progress: Progress,
    refit_splits: tuple[str, ...] = ("train",),
) -> dict[str, Any]:
    """Write into `out` what `pipeline.retrieval.linear_stage.fit_linear` would, without choosing anything again.

    A closed form is cheap, and fitted again in full with the settings chosen before; a part that learns goes on from its
    earlier weights for `job.linear_epochs`. Where no linear tower was fitted before, there is none now.

    Args:
        previous: folder of the earlier linear stage. refit_splits: see `fit_linear`.
    """
    if not (previous / FILE).is_file():
        return {"fitted": False, "reason": "the last release has no linear tower"}
    info = json.loads((previous / INFO).read_text())
    used = {part: weight for part, weight in info["weights"].items() if weight}
    rates = {name: getattr(section, name) * job.learning_rate for name in ("elsa_learning_rate", "softmax_learning_rate")}
    short = section.model_copy(update={"epochs": job.linear_epochs, **rates})
    judge = LinearJudge(dataset, section.validation_users, section.seed, burst_bound=section.burst_bound)
    features = content_of(store, modalities)

    def fit(part: str, splits: tuple[str, ...]) -> tuple[LinearTower, dict[str, Any]]:
        known = judge.train if splits == ("train",) else to_sparse(interactions(dataset, splits), dataset.schema.item_rows)
        if part == "closed_form":
            chosen = info["parts"][part]
            return refit_closed_form(known, closed_form_content(dataset, features, chosen), chosen), {}
        if part == "spectral":
            return refit_spectral(known, features, info["parts"][part], section.seed), {}
        if not (previous / TRAINED / part).is_dir():
            raise StageError(f"job: {previous / TRAINED / part} is missing, from which {part} would go on. {RETRAIN}.")
        name = f"{part}-{len(splits)}"
        return train_history(
            dataset, store, judge, checkpoints / f"{name}-epochs", short,
            loss=part, modalities=modalities, progress=progress, splits=splits, epochs=job.linear_epochs,
            warm=previous / TRAINED / part,
            keep=checkpoints / f"{part}-{TRAINED}" if splits == ("train",) else None,
        )  # fmt: skip

    def fit_all(splits: tuple[str, ...], folder: Path) -> LinearTower:
        towers = {}
        for number, part in enumerate(used):
            progress(part, number, len(used))
            work = functools.partial(fit, part, splits)
            towers[part] = kept(checkpoints / f"{part}-{len(splits)}", work)[0]
        known = judge.train if splits == ("train",) else to_sparse(interactions(dataset, splits), dataset.schema.item_rows)
        tower = joined(towers, used, known, section.width)
        folder.mkdir(exist_ok=True)
        tower.save(folder)
        write_records(folder, [record_of(dataset, known, splits)])
        return tower

    tower = fit_all(("train",), out)
    keep_trained(checkpoints, out, used)
    if set(refit_splits) - {"train"}:
        fit_all(refit_splits, out / REFIT)
    told = {
        **info,
        "valid_ndcg@20": judge.ndcg(judge.scores(tower)),
        "width": tower.width,
        "validation_users": len(judge.requests.users),
        "refitted_on": list(refit_splits),
        "chosen_by": str(previous) if "chosen_by" not in info else info["chosen_by"],
    }
    (out / INFO).write_text(json.dumps(told, indent=2))
    return told
