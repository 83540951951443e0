"""The export of a job in a process of its own: graphs name their functions by what a process has made before."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import shutil
import signal
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from pipeline.config import Config
from pipeline.stage import StageError

PARENT_DEATH_SIGNAL = 1
"""Linux's `PR_SET_PDEATHSIG`."""


def export_apart(source: Path, folder: Path, config: Config, version: int, previous: Path | None) -> dict[str, Any]:
    """Export a job's models as release `version` into its own `releases/`; see `pipeline.export_stage`.

    In a fresh process the bytes depend on the models alone. In the job's they would depend on whether it has also trained
    them, or was killed in between and only exports. It ends with its parent, however that ends.

    Args:
        previous: the release that the job goes on from, see `export_stage`.

    Raises:
        StageError: the export failed; the message is its own.
    """
    context = multiprocessing.get_context("spawn")
    mine, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_export, args=(os.getpid(), theirs, source, folder, config, version, previous))
    process.start()
    theirs.close()
    try:
        made, failure = mine.recv()
    except EOFError:
        made, failure = None, "its process ended without a word"
    process.join()
    if made is None:
        raise StageError(f"export: {failure}")
    return made


def _export(
    parent: int, answer: Connection, source: Path, folder: Path, config: Config, version: int, previous: Path | None
) -> None:
    ctypes.CDLL(None).prctl(PARENT_DEATH_SIGNAL, signal.SIGKILL)
    if os.getppid() != parent:  # it died before it could be asked for
        return
    try:
        answer.send((_made(source, folder, config, version, previous), ""))
    except Exception as error:
        answer.send((None, f"{type(error).__name__}: {error}"))
        raise


def _made(source: Path, folder: Path, config: Config, version: int, previous: Path | None) -> dict[str, Any]:
    from pipeline.export_stage import export_stage
    from pipeline.stages import Run

    run = Run(source, folder, config)
    while True:
        made = export_stage(
            run.dataset(), folder, config, store=run.store(), search=True, first=version, previous=previous
        )
        if made["version"] == version:
            return made
        # A release of other models, or with a number that somebody has taken meanwhile.
        shutil.rmtree(folder / "releases")
