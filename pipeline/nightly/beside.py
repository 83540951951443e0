"""The processes that work for a nightly job beside its own."""

from __future__ import annotations

import dataclasses
import gc
import threading
from typing import Any

from pipeline.nightly.export import Exporter
from pipeline.nightly.process import JobProcess
from pipeline.nightly.training import fit_linear_tower


@dataclasses.dataclass(frozen=True)
class Beside:
    """The processes that work for a job beside its own, all of which end with it.

    Attributes:
        exporter: exports. linear: fits the linear tower of a warm start; None = the job does.
    """

    exporter: Exporter
    linear: JobProcess | None = None

    def __enter__(self) -> Beside:
        return self

    def __exit__(self, *error: Any) -> None:
        for process in (self.exporter, self.linear):
            if process is not None:
                process.__exit__(*error)


def begun_early() -> Beside:
    """The processes of a command: forked, where nothing has been done with TensorFlow in this process; else the exporter alone.

    What imports have left is no garbage, and tracing makes objects by the hundred thousand and hardly any: the collector of
    all processes looks for it less often, and not among these, which also lets them go on sharing their memory.
    """
    from tensorflow.python.eager import context

    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 10, 10)
    used = context.context_safe()
    fresh = (used is None or not used._initialized) and threading.active_count() == 1
    return Beside(Exporter("fork").start(), JobProcess(fit_linear_tower, "fork").start()) if fresh else Beside(Exporter())
