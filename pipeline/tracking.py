"""A finished run told to MLflow or Weights & Biases: settings, every epoch, the report's main figures, the release."""

from __future__ import annotations

import collections
import dataclasses
import importlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from pipeline.reproduce_record import stage_keys
from pipeline.settings.config import Config
from pipeline.settings.tracking import TrackingSection
from pipeline.stage import StageError, digest, read_json

TRACKED = "tracked.json"
AT_ONCE = 100
"""MLflow takes no more settings in one call."""
FIGURES = ("data", "retrieval/test", "retrieval/cold_items", "index", "ranking", "seconds")
"""Parts of the report whose numbers are told; what lies deeper in them stays in `report.json`."""


@dataclasses.dataclass(frozen=True)
class Tracked:
    """What is told of a run.

    Attributes:
        name: of the run folder. settings: by section and key, `retrieval.epochs`.
        epochs: figures by epoch, of all models: `retrieval/full/loss`.
        figures: the report's main figures: `retrieval/test/ndcg@20`. fingerprint: of the release.
    """

    name: str
    settings: dict[str, Any]
    epochs: dict[int, dict[str, float]]
    figures: dict[str, float]
    fingerprint: str


def tracked(run: Path, config: Config, report: Mapping[str, Any]) -> Tracked:
    """Reads what is told out of a finished run folder, its settings and the content of its `report.json`."""
    from pipeline.report.page import histories

    curves: dict[str, list[dict[str, Any]]] = {f"retrieval/{name}": rows for name, rows in histories(run).items()}
    if ranking := read_json(run / "ranking" / "history.json"):
        curves["ranking"] = ranking
    epochs: dict[int, dict[str, float]] = collections.defaultdict(dict)
    for model, rows in curves.items():
        for place, row in enumerate(rows, start=1):
            numbers = {f"{model}/{name}": value for name, value in numbers_of(row) if name != "epoch"}
            epochs[int(row.get("epoch", place))] |= numbers
    figures: dict[str, float] = {}
    for part in FIGURES:
        values: Any = report
        for key in part.split("/"):
            values = (values or {}).get(key)
        figures |= {f"{part}/{name}": value for name, value in numbers_of(values or {})}
    settings = dict(flat(config.model_dump(mode="json", exclude={"tracking"})))
    return Tracked(run.resolve().name, settings, dict(sorted(epochs.items())), figures, str(report.get("fingerprint", "")))


def numbers_of(row: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """The entries of a mapping that are numbers."""
    for name, value in row.items():
        if isinstance(value, int | float) and not isinstance(value, bool):
            yield name, float(value)


def flat(tree: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of nested settings with their dotted names.

    Example:
        >>> list(flat({"retrieval": {"epochs": 3, "loss": {"kind": "softmax"}}}))
        [('retrieval.epochs', 3), ('retrieval.loss.kind', 'softmax')]
    """
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


def tracker(package: str, setting: str) -> ModuleType:
    """An optional package.

    Raises:
        StageError: it is not installed; says how to get it.
    """
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != package:
            raise
        raise StageError(
            f"tracking.{package} = {setting!r} needs a package that is not installed: pip install -r "
            f"requirements-tracking.txt, or leave tracking.{package} empty."
        ) from None


def check_tracking(section: TrackingSection) -> None:
    """Before hours of training: is there what the settings ask for?"""
    for package in ("mlflow", "wandb"):
        setting = getattr(section, package)
        if setting:
            tracker(package, setting)


def track(run: Path, config: Config, report: Mapping[str, Any], say: Callable[[str], None] = print) -> None:
    """Tells of a finished run wherever the settings ask for it; what was told of the same stages is not told twice."""
    section = config.tracking
    if not (section.mlflow or section.wandb):
        return
    told = read_json(run / TRACKED, {})
    key, content = digest(stage_keys(run)), tracked(run, config, report)
    for package, tell in (("mlflow", tell_mlflow), ("wandb", tell_wandb)):
        setting = getattr(section, package)
        if not setting:
            continue
        place = f"{package} {setting} {section.experiment}"
        if told.get(place) == key:
            say(f"[tracking] {package}: told already, unchanged")
            continue
        tell(content, run, section)
        told[place] = key
        (run / TRACKED).write_text(json.dumps(told, indent=2))
        say(f"[tracking] {package}: {len(content.epochs)} epochs, {len(content.figures)} figures to {setting}")


def tell_mlflow(content: Tracked, run: Path, section: TrackingSection) -> None:
    """One MLflow run; `@` is not allowed in its names, so that NDCG@20 is `ndcg_at_20` there."""
    if section.mlflow.startswith("file:"):
        # MLflow wants to hear that a folder is meant; the setting has said it.
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    mlflow = tracker("mlflow", section.mlflow)
    mlflow.set_tracking_uri(section.mlflow)
    mlflow.set_experiment(section.experiment)
    with mlflow.start_run(run_name=content.name):
        settings = list(content.settings.items())
        for start in range(0, len(settings), AT_ONCE):
            mlflow.log_params(dict(settings[start : start + AT_ONCE]))
        for epoch, figures in content.epochs.items():
            mlflow.log_metrics(_mlflow_names(figures), step=epoch)
        mlflow.log_metrics(_mlflow_names(content.figures))
        mlflow.set_tag("release", content.fingerprint)


def _mlflow_names(figures: Mapping[str, float]) -> dict[str, float]:
    return {name.replace("@", "_at_"): value for name, value in figures.items()}


def tell_wandb(content: Tracked, run: Path, section: TrackingSection) -> None:
    """One run of Weights & Biases: settings as its config, an epoch a step, the main figures as its summary."""
    wandb = tracker("wandb", section.wandb)
    offline = section.wandb == "offline"
    told = wandb.init(
        project=section.experiment if offline else section.wandb,
        name=content.name,
        dir=run,
        mode="offline" if offline else "online",
        config=content.settings,
    )
    for epoch, figures in content.epochs.items():
        told.log(figures, step=epoch)
    told.summary.update({**content.figures, "release": content.fingerprint})
    told.finish()
