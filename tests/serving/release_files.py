"""Releases of a few bytes for tests: what an export leaves, with bytes in the place of graphs."""

from __future__ import annotations

from pathlib import Path

from serving.releases.models_config import (
    ModelEntry,
    write_batching_parameters,
    write_models_config,
    write_monitoring_config,
)
from serving.releases.release import publish

MODELS = ("retrieval", "retrieval_scann", "ranking")
STOCK = ("retrieval", "ranking")


def write_files(folder: Path, version: int, content: bytes = b"graph", models: tuple[str, ...] = MODELS) -> None:
    """What an export leaves; the stock config names the models that need no ScaNN, another config all of them."""
    for name in models:
        model = folder / name / str(version)
        (model / "variables").mkdir(parents=True)
        (model / "saved_model.pb").write_bytes(content + name.encode())
        (model / "variables" / "variables.index").write_bytes(b"\0\1")
    entries = [ModelEntry(name, versions=(version,), labels={"stable": version}) for name in models]
    write_models_config(folder / "models.config", [entry for entry in entries if not entry.name.endswith("_scann")])
    write_models_config(folder / "models_scann.config", entries)
    write_monitoring_config(folder / "monitoring.config")
    write_batching_parameters(folder / "batching_parameters.txt", threads=2)


def publish_all(releases: Path, *versions: int, models: tuple[str, ...] = MODELS) -> Path:
    """Publishes some versions; returns the folder of releases."""
    for version in versions:
        with publish(releases, version, counts={"items": version}) as staging:
            write_files(staging, version, models=models)
    return releases
