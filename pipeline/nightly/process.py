"""A process beside a job's own: begun before TensorFlow is used, it waits for one order, and ends when the job does."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import tempfile
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.context import ForkProcess, SpawnProcess
from multiprocessing.process import BaseProcess
from types import TracebackType
from typing import Any, Literal, Self

from pipeline.cores import compute_on

PARENT_DEATH_SIGNAL = 1
"""Linux's `PR_SET_PDEATHSIG`."""
NICENESS = 3
"""Nice value of helper processes, so that the job itself keeps its core where cores are few."""


class JobEndedError(Exception):
    """There is nobody left to work for."""


class JobProcess:
    """A process that does one piece of work for a job. It ends with its parent, however that ends.

    Its temporary files, tables of ids among them, lie in a folder that the job removes: what a process registers for its exit
    is not done in a forked one, nor in one that is killed.

    Args:
        work: called in the process with an order, and with `ready`, which waits until the job goes on and returns what that
            brings; what the work returns is the answer.
        method: `fork`: saves five seconds; only from a process with one Python thread that has imported TensorFlow and run no
            operation. `spawn`: from any process.
    """

    def __init__(self, work: Callable[..., Any], method: Literal["spawn", "fork"] = "spawn"):
        self.work, self.method = work, method
        self._process: BaseProcess | None = None
        self._begun, self._told = False, set[str]()

    def start(self) -> Self:
        """Begin the process; `order` does where nobody has before."""
        if self._process is None:
            kind = ForkProcess if self.method == "fork" else SpawnProcess
            self._connection, theirs = multiprocessing.Pipe()
            self._scratch = tempfile.TemporaryDirectory(prefix="triptych_job_", ignore_cleanup_errors=True)
            self._process = kind(target=_serve, args=(os.getpid(), self.work, self._connection, theirs, self._scratch.name))
            self._process.start()
            theirs.close()
        return self

    def order(self, *order: Any) -> None:
        """Ask for the work; only the first order counts."""
        if not self._begun:
            self._begun = True
            self.start()
            self._send(order)

    def go_on(self, there: str = "", what: Any = True) -> None:
        """Let it go on where it waits, with what it waits for; of what is there now the first time counts, and only where it
        was asked for anything."""
        if self._begun and self._process is not None and there not in self._told:
            self._told.add(there)
            self._send(what)

    def answer(self) -> tuple[Any, str]:
        """Wait for the answer, and the end of the process: what the work returned, or None and why it failed."""
        if not self._begun or self._process is None:
            return None, "nothing was asked for"
        try:
            made, failure = self._connection.recv()
        except (EOFError, ConnectionError):
            made, failure = None, "its process ended without a word"
        self.close()
        return made, failure

    def wait(self) -> None:
        """Wait for its end, where it was asked for anything; what it answers, or why it cannot, is not looked at."""
        self.answer()

    def close(self) -> None:
        """Wait for the end of the process, which has nothing more to do."""
        if self._process is not None:
            if not self._begun:
                self._send(None)
            self._connection.close()
            self._process.join()
            self._process = None
            self._scratch.cleanup()

    def end(self) -> None:
        """End the process, whatever it does: nobody waits any more for what it is about to write."""
        if self._process is not None and self._begun:
            self._process.kill()
        self.close()

    def _send(self, message: Any) -> None:
        try:
            self._connection.send(message)
        except ConnectionError:
            return  # it has ended, and `answer` says with which words

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()


def _serve(parent: int, work: Callable[..., Any], theirs: Connection, connection: Connection, scratch: str) -> None:
    """Do the work that is asked for.

    Args:
        theirs: the parent's end of the connection, closed here, so that the parent's end is the only one.
        scratch: folder of temporary files.
    """
    ctypes.CDLL(None).prctl(PARENT_DEATH_SIGNAL, signal.SIGKILL)
    if os.getppid() != parent:  # it died before it could be asked for
        return
    theirs.close()
    tempfile.tempdir = scratch
    compute_on(1)

    def told() -> Any:
        try:
            return connection.recv()
        except EOFError:
            raise JobEndedError from None

    try:
        order = told()
        if order is not None:  # else a job that has no use for it
            os.nice(NICENESS)
            connection.send((work(*order, ready=told), ""))
    except JobEndedError:
        return
    except Exception as error:
        connection.send((None, f"{type(error).__name__}: {error}"))
        raise
