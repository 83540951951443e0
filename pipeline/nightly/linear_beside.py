"""The linear tower of a nightly job, fitted in a process of its own while the two towers train: neither asks the other."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from pipeline.nightly.process import JobProcess
from pipeline.settings.config import Config


class LinearFit(JobProcess):
    """A process that runs the linear stage of a job that goes on from an earlier one.

    It writes the stage's folder as the job's own process would, which then finds it made, and makes it itself where this one
    failed.

    Args:
        method: see `JobProcess`.
    """

    def __init__(self, method: Literal["spawn", "fork"] = "spawn"):
        super().__init__(_fitted, method)

    def begin(self, source: Path, folder: Path, config: Config, parent: Path) -> None:
        """Fit; everything that the towers learn from is there.

        Args:
            source, folder, config: of the job. parent: the run that it goes on from.
        """
        self.order(source, folder, config, parent)

    def finish(self) -> None:
        """Wait until it has ended, where it was begun."""
        if self._begun and self._process is not None:
            self.answer()


def _fitted(source: Path, folder: Path, config: Config, parent: Path, *, ready: Callable[[], Any]) -> bool:
    from pipeline.nightly.training import JobTraining

    run = JobTraining(source, folder, config, lambda line: None, parent=parent)
    for name, modalities in run._variants().items():
        run._fit_linear(name, modalities)
    return True
