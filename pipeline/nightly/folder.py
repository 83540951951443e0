"""A nightly job's folder: the run that the current release came from, and what training goes on from."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from pipeline.nightly.export import Exporter
from pipeline.nightly.process import JobProcess
from pipeline.stages.walk import Run


@dataclasses.dataclass(frozen=True)
class JobFolder(Run):
    """A job's folder.

    Attributes:
        parent: the run folder whose models are released now; None = there is none yet.
        full: train everything from nothing, as for the first release; rows keep their numbers all the same.
        version: number that the candidate gets.
        exporter: the process that exports it. linear: the one that fits the linear tower of a warm start beside the others;
            None = this one does. encoder: the one that encodes a part of what is new in a warm start; None = this one does.
            current_judge: the one that judges the current release while the candidate trains; None = this one does.
            reporter: the one that writes the report; None = this one does.
    """

    parent: Path | None = None
    full: bool = False
    version: int = 1
    exporter: Exporter = dataclasses.field(default_factory=Exporter)
    linear: JobProcess | None = None
    encoder: JobProcess | None = None
    current_judge: JobProcess | None = None
    reporter: JobProcess | None = None

    @property
    def warm(self) -> Path | None:
        """The run that training goes on from."""
        return None if self.full else self.parent

    def encode_helper(self) -> JobProcess | None:
        return self.encoder

    @property
    def valid_days(self) -> int:
        """Days that validate retrieval and teach the ranker."""
        return int(getattr(self.config.job, self.valid_setting))

    @property
    def valid_setting(self) -> str:
        """Which setting of `[job]` says how many these are."""
        return "valid_days" if self.warm is None else "warm_days"

    def parent_keys(self, *stages: str) -> dict[str, str]:
        """Keys of the parent's stages, for what is made from them."""
        return {} if self.parent is None else {f"{name} of the parent": key for name, key in
                zip(stages, self.keys_of(str(self.parent), *stages).values(), strict=True)}  # fmt: skip

    def warm_keys(self, *stages: str) -> dict[str, str]:
        return {} if self.warm is None else self.parent_keys(*stages)

    def pace(self) -> dict[str, Any]:
        """The settings that decide how a warm start trains."""
        return self.config.job.model_dump(include={"replay", "epochs", "learning_rate", "linear_epochs"})
