"""The export of a job in a process of its own: graphs name their functions by what a process has made before."""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
import os
import shutil
import signal
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from multiprocessing.context import ForkProcess, SpawnProcess
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

from pipeline.settings.config import Config
from pipeline.stage import StageError

if TYPE_CHECKING:
    from serving.server.servable import Servable

PARENT_DEATH_SIGNAL = 1
"""Linux's `PR_SET_PDEATHSIG`."""
MEASURED = 30
"""Recommendations that the latency is the median of."""


class JobEndedError(Exception):
    """There is nobody left to export for."""


class Exporter:
    """A process that waits for a job's models and exports them, once.

    In a fresh process the bytes of a release depend on the models alone. In the job's they would depend on whether it has
    also trained them, or was killed in between and only exports. Begun early it costs a job no time: what needs no ranker is
    read while the ranker trains, and the rest is written while the candidate is judged. It ends with its parent, however
    that ends.

    Args:
        method: "spawn", which imports everything anew, from any process; "fork" from one that has imported TensorFlow and
            not used it yet, and has no thread of Python's beside the one that begins this: five seconds less.
    """

    def __init__(self, method: Literal["spawn", "fork"] = "spawn"):
        self.method = method
        self._process: BaseProcess | None = None
        self._begun = self._told = False

    def start(self) -> Exporter:
        """Begin the process; `begin` does where nobody has before."""
        if self._process is None:
            kind = ForkProcess if self.method == "fork" else SpawnProcess
            self._connection, theirs = multiprocessing.Pipe()
            self._process = kind(target=_serve, args=(os.getpid(), self._connection, theirs))
            self._process.start()
            theirs.close()
        return self

    def begin(self, source: Path, folder: Path, config: Config, version: int, previous: Path | None) -> None:
        """Read what is made before the ranker; everything up to the index is there.

        Args:
            source, folder, config: of the job. version: number of the release, in the job's own `releases/`.
            previous: the release that the job goes on from, see `pipeline.release.export_stage`.
        """
        if not self._begun:
            self._begun = True
            self.start()
            self._send((source, folder, config, version, previous))

    def go_on(self) -> None:
        """Write the release, where it has been begun; ranker and policy are there too."""
        if self._begun and not self._told:
            self._told = True
            self._send(True)

    def finish(self) -> dict[str, Any]:
        """Wait for the release; what `export_stage` returned, and `latency_ms` of a recommendation.

        Raises:
            StageError: the export failed; the message is its own.
        """
        try:
            made, failure = self._connection.recv()
        except (EOFError, ConnectionError):
            made, failure = None, "its process ended without a word"
        self.close()
        if made is None:
            raise StageError(f"export: {failure}")
        return made

    def close(self) -> None:
        """Wait for the end of the process, which has nothing more to do."""
        if self._process is not None:
            if not self._begun:
                self._send(None)
            self._connection.close()
            self._process.join()
            self._process = None

    def _send(self, order: Any) -> None:
        try:
            self._connection.send(order)
        except ConnectionError:
            return  # it has ended, and `finish` says with which words

    def __enter__(self) -> Exporter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None and self._begun:
            self._process.kill()  # nobody waits any more for what it is about to write
        self.close()


def begun_early() -> Exporter:
    """The exporter of a command: forked, where nothing has been done with TensorFlow in this process.

    What imports have left is no garbage, and tracing makes objects by the hundred thousand and hardly any: the collector of
    both processes looks for it less often, and not among these, which also lets the two go on sharing their memory.
    """
    from tensorflow.python.eager import context

    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 10, 10)
    used = context.context_safe()
    fresh = (used is None or not used._initialized) and threading.active_count() == 1
    return Exporter("fork").start() if fresh else Exporter()


def _serve(parent: int, theirs: Connection, connection: Connection) -> None:
    """Export what is asked for.

    Args:
        theirs: the parent's end of the connection, closed here, so that the parent's end is the only one.
    """
    ctypes.CDLL(None).prctl(PARENT_DEATH_SIGNAL, signal.SIGKILL)
    if os.getppid() != parent:  # it died before it could be asked for
        return
    theirs.close()

    def told() -> Any:
        try:
            return connection.recv()
        except EOFError:
            raise JobEndedError from None

    try:
        order = told()
        if order is not None:  # else a job without an export
            connection.send((_made(*order, ready=told), ""))
    except JobEndedError:
        return
    except Exception as error:
        connection.send((None, f"{type(error).__name__}: {error}"))
        raise


def _made(
    source: Path, folder: Path, config: Config, version: int, previous: Path | None, *, ready: Callable[[], Any]
) -> dict[str, Any]:
    from pipeline.stages.walk import Run

    run = Run(source, folder, config)
    dataset, store = run.dataset(), run.store()
    from pipeline.release.export_stage import export_stage  # a folder that is not ready says so before

    asked, found = False, {}

    def once() -> None:
        nonlocal asked
        if not asked:
            ready()
        asked = True

    def observe(servable: Servable) -> None:
        found["latency_ms"] = latency_ms(servable, dataset.users["user_id"].to_numpy()[1 : MEASURED + 1])

    while True:
        made = export_stage(
            dataset, folder, config, store=store, search=True, first=version, previous=previous, ready=once, observe=observe
        )
        # One that was published before a kill was not heard of, and not measured in this process.
        if made["version"] == version and found:
            return {**made, **found}
        # A release of other models, or with a number that somebody has taken meanwhile.
        shutil.rmtree(folder / "releases")


def latency_ms(servable: Servable, users: Sequence[str]) -> float:
    """Median milliseconds of `recommend` for one known user, by the released graph."""
    from serving.client.recommend_requests import recommend_inputs
    from serving.server.inference import predict_arrays

    times = []
    for user in [users[0], *users]:
        start = time.perf_counter()
        predict_arrays(servable, "", recommend_inputs([str(user)], k=20))
        times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times[1:])
