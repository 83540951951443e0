"""The lock of a folder of jobs: one job at a time, an owner with a name, and an end that comes by itself."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data.durable_file import write_durably

LOCK_FILE, GUARD_FILE = ".job-lock.json", ".job-lock.guard"


class LockedError(RuntimeError):
    """Somebody else has the lock; the message says who and until when."""


@dataclasses.dataclass(frozen=True)
class JobLock:
    """A held lock.

    Attributes:
        folder: of the jobs. token: tells this holding from any other. seconds: until it ends, unless it is renewed.
    """

    folder: Path
    token: str
    seconds: float

    def check(self) -> None:
        """Whether it is still held.

        Raises:
            LockedError: it had ended, for instance while the machine slept, and another job has taken it.
        """
        owner = read_owner(self.folder)
        if owner is None or owner["token"] != self.token:
            raise LockedError(
                f"{self.folder}: this job's lock has ended and {owner_words(owner) if owner else 'nobody'} has it; what was "
                "finished is kept, start the job again when the other has ended"
            )

    def renew(self) -> None:
        """Hold it for `seconds` from now. Does nothing once another has it."""
        with _guarded(self.folder):
            owner = read_owner(self.folder)
            if owner is not None and owner["token"] == self.token:
                _write(self.folder, {**owner, "expires": time.time() + self.seconds})


@contextlib.contextmanager
def held(folder: Path, purpose: str, seconds: float) -> Iterator[JobLock]:
    """Hold the lock for the length of the block, renewed every third of `seconds` by a thread.

    It is free where nobody has it, where its owner has not renewed it in time, and where its owner was a process of this
    machine that is no more: after a kill the next job need not wait.

    Args:
        folder: of the jobs; made if need be. purpose: what others are told.

    Raises:
        LockedError: somebody has it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = JobLock(folder, uuid.uuid4().hex, seconds)
    with _guarded(folder):
        owner = read_owner(folder)
        if owner is not None and not is_free(owner, time.time()):
            raise LockedError(f"{folder}: locked by {owner_words(owner)}")
        now = time.time()
        _write(folder, {
            "token": lock.token, "host": socket.gethostname(), "process": os.getpid(), "began": process_start(os.getpid()),
            "doing": purpose, "since": now, "expires": now + seconds,
        })  # fmt: skip
    ended = threading.Event()

    def keep() -> None:
        while not ended.wait(seconds / 3):
            lock.renew()

    thread = threading.Thread(target=keep, name="job-lock", daemon=True)
    thread.start()
    try:
        yield lock
    finally:
        ended.set()
        thread.join()
        with _guarded(folder):
            owner = read_owner(folder)
            if owner is not None and owner["token"] == lock.token:
                (folder / LOCK_FILE).unlink()


def is_free(owner: dict[str, Any], now: float) -> bool:
    """Whether an owner has lost the lock: by time, or because its process is gone."""
    if now >= owner["expires"]:
        return True
    return owner["host"] == socket.gethostname() and process_start(owner["process"]) != owner["began"]


def process_start(process: int) -> str:
    """When a process of this machine began, in the kernel's ticks; "" where there is none. With the number it names a process
    for good, as numbers are used again."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def read_owner(folder: Path) -> dict[str, Any] | None:
    """Who holds the lock, expired or not; None where nobody does, or a file that no job wrote."""
    try:
        owner = json.loads((folder / LOCK_FILE).read_text())
        return owner if {"token", "host", "process", "began", "expires"} <= owner.keys() else None
    except (OSError, ValueError, AttributeError):
        return None


def owner_words(owner: dict[str, Any]) -> str:
    since, until = (time.strftime("%H:%M:%S", time.gmtime(owner[name])) for name in ("since", "expires"))
    return f"process {owner['process']} on {owner['host']} ({owner['doing']}, since {since}, until {until} UTC unless renewed)"


def _write(folder: Path, owner: dict[str, Any]) -> None:
    write_durably(folder / LOCK_FILE, [json.dumps(owner).encode()])


@contextlib.contextmanager
def _guarded(folder: Path) -> Iterator[None]:
    """Alone for the moment of reading and writing the owner."""
    with open(folder / GUARD_FILE, "a") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)
        yield
