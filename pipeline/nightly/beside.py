"""The processes that work for a nightly job beside its own."""

from __future__ import annotations

import dataclasses
import gc
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.content.encode_beside import encode_some
from pipeline.nightly.export import Exporter
from pipeline.nightly.gate_judge import judge_current
from pipeline.nightly.process import JobProcess
from pipeline.nightly.training import fit_linear_tower


@dataclasses.dataclass(frozen=True)
class Beside:
    """The processes that work for a job beside its own, all of which end with it.

    Attributes:
        exporter: exports. linear: fits the linear tower of a warm start; None = the job does. encoder: encodes a part of what
            is new; None = the job does. current_judge: judges the current release; None = the job does. reporter: writes its
            report; None = the job does.
    """

    exporter: Exporter
    linear: JobProcess | None = None
    encoder: JobProcess | None = None
    current_judge: JobProcess | None = None
    reporter: JobProcess | None = None

    def __enter__(self) -> Beside:
        return self

    def __exit__(self, *error: Any) -> None:
        for process in (self.exporter, self.linear, self.encoder, self.current_judge, self.reporter):
            if process is not None:
                process.__exit__(*error)


def begun_early() -> Beside:
    """The processes of a command: forked, where nothing has been done with TensorFlow in this process; else the exporter alone.

    What imports have left is no garbage: no process looks for any among it, and so they go on sharing its memory.
    """
    from tensorflow.python.eager import context

    gc.freeze()
    used = context.context_safe()
    fresh = (used is None or not used._initialized) and threading.active_count() == 1
    if not fresh:
        return Beside(Exporter())
    works = fit_linear_tower, encode_some, judge_current, report_again
    return Beside(Exporter("fork").start(), *(JobProcess(work, "fork").start() for work in works))


def report_again(folder: Path, source: Path, *, ready: Callable[[], Any]) -> bool:
    """The report of what a job has done so far, in the time that nobody else needs, and once more when the job has decided:
    by then what draws its plots, where there are any, has been imported."""
    os.nice(10)
    from pipeline.report.page import write_report

    write_report(folder, source)
    ready()
    write_report(folder, source)
    return True
