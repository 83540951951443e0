"""A run folder: what every stage shares, from opening the last one's result to skipping what is unchanged."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from data.dataset import Dataset
from data.features import FeatureStore
from pipeline.settings.config import Config
from pipeline.stage import StageError, StageResult, read_manifest, run_stage
from pipeline.training.workers import workers_of

COMMANDS = {
    "encode_tuned": "finetune",
    "checks": "job",
    "retrieval": "train-retrieval",
    "linear": "train-linear",
    "served": "train-linear",
    "ranking": "train-ranking",
    "policy": "choose-policy",
    "search": "train-search",
    "judge": "job",
}
"""The command of a stage and its variants (`retrieval/full`), where it has another name than its folder."""
SHARED = "retrieval/"
"""Stages that several workers can share."""


@dataclasses.dataclass(frozen=True)
class RunFolder:
    """One run folder, the dataset folder it is made from, and the settings.

    Attributes:
        source: dataset folder. folder: where the stages write. config: settings. say: where lines of progress go.
    """

    source: Path
    folder: Path
    config: Config
    say: Callable[[str], None] = print

    def dataset(self) -> Dataset:
        """The ingested data."""
        self.key("ingest")
        return Dataset.load(self.folder / "ingest")

    def store(self) -> FeatureStore:
        """The content features that the towers read: the tuned encoders' where encoders were tuned."""
        return FeatureStore.open(self.folder / self.store_stage)

    @property
    def store_stage(self) -> str:
        """Name of the stage that wrote the features in use."""
        name = "encode_tuned" if self.config.encoders.trained() else "encode"
        self.key(name)
        return name

    def key(self, stage: str) -> str:
        """The key of a finished stage.

        Raises:
            StageError: it is not there; says which command makes it.
        """
        manifest = read_manifest(self.folder / stage)
        if manifest is None:
            made_by = stage.split("/")[0]
            command = COMMANDS.get(made_by, made_by)
            raise StageError(
                f"{self.folder / stage} is not there yet: run `python -m pipeline {command}` first, or `python -m "
                f"pipeline run` for every stage."
            )
        return manifest["key"]

    def keys_of(self, run: str, *stages: str) -> dict[str, str]:
        """The keys of stages of another run that one of this run reads; none where no run is named."""
        if not run:
            return {}
        other = dataclasses.replace(self, folder=Path(run))
        return {f"{stage} of {run}": other.key(stage) for stage in stages}

    def run(
        self,
        name: str,
        work: Callable[[Path, Path], dict[str, Any]],
        config: dict[str, Any],
        inputs: dict[str, str],
    ) -> StageResult:
        """Run one stage of this folder, or skip it; see `pipeline.stage.run_stage`.

        Raises:
            StageError: several workers were told to share a stage that one machine does alone.
        """
        workers = workers_of()
        if workers.number > 1 and not name.startswith(SHARED):
            raise StageError(
                f"{name}: one machine runs this stage; the {workers.number} workers of TF_CONFIG share `python -m pipeline "
                "train-retrieval` alone. Unset TF_CONFIG for the others."
            )
        return run_stage(self.folder, name, work, config=config, inputs=inputs, say=self.say, keeps=workers.first)

    def beside(self, setting: str, name: str) -> Path:
        """A folder shared by runs: where a setting says, else `name` beside the run folder."""
        return Path(setting) if setting else self.folder.parent / name
