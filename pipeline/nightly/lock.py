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
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from data.durable_file import WriteError, write_durably
from pipeline.stage import StageError

LOCK_FILE, GUARD_FILE = ".job-lock.json", ".job-lock.guard"
RENEW_SECONDS = 20.0
"""At least so often a lock is renewed, so that whoever waits for one soon sees that its owner lives."""
LOOK_SECONDS, RETRY_SECONDS = 1.0, 2.0
"""Between two looks at a lock that may end; between two tries to renew one on a disk that refuses."""


class LockedError(RuntimeError):
    """Somebody else has the lock; the message says who and until when."""


@dataclasses.dataclass
class JobLock:
    """A held lock.

    Attributes:
        folder: of the jobs. token: tells this holding from any other. seconds: until it ends, unless it is renewed.
        expires: when it ends, as far as this process could renew it; UTC seconds.
    """

    folder: Path
    token: str
    seconds: float
    expires: float

    def check(self) -> None:
        """Whether it is still held. One that has ended and that nobody has taken is held again.

        Raises:
            LockedError: it had ended, for instance while the machine slept, and another job has taken it.
            StageError: it has ended, since the disk refuses.
        """
        try:
            if self._is_mine(owner := read_owner(self.folder)) and (time.time() < self.expires or self.renew()):
                return
        except (OSError, WriteError) as error:
            if time.time() < self.expires:  # until then nobody else takes it
                return
            raise StageError(
                f"{self.folder}: this job's lock has ended, as it could not be renewed ({error}); check the disk, then start "
                "the job again: what was finished is kept."
            ) from error
        raise LockedError(
            f"{self.folder}: this job's lock has ended and {owner_words(owner) if owner else 'nobody'} has it; what was "
            "finished is kept, start the job again when the other has ended"
        )

    def renew(self) -> bool:
        """Hold it for `seconds` from now. Returns: False once another has it; nothing is done then.

        Raises:
            OSError, WriteError: the disk refused.
        """
        with _guarded(self.folder):
            owner = read_owner(self.folder)
            if owner is None or not self._is_mine(owner):
                return False
            expires = time.time() + self.seconds
            _write(self.folder, {**owner, "expires": expires})
            self.expires = expires
            return True

    def keep(self, ended: threading.Event) -> None:
        """Renew it until `ended`. What the disk refuses is tried again soon; `check` says when that took too long."""
        every = min(self.seconds / 3, RENEW_SECONDS)
        pause = every
        while not ended.wait(pause):
            try:
                self.renew()
                pause = every
            except (OSError, WriteError):
                pause = min(every, RETRY_SECONDS)

    def _is_mine(self, owner: dict[str, Any] | None) -> bool:
        return owner is not None and owner["token"] == self.token


@contextlib.contextmanager
def held(folder: Path, purpose: str, seconds: float, say: Callable[[str], None] = print) -> Iterator[JobLock]:
    """Hold the lock for the length of the block, renewed by a thread.

    It is free where nobody has it, where its owner has not renewed it in time, and where its owner was a process of this
    machine that is no more: after a kill the next job need not wait. An owner on another machine may be alive or not: it is
    waited for until its time is over, or until it renews its lock.

    Args:
        folder: of the jobs; made if need be. purpose: what others are told. say: is told, once, that this process waits.

    Raises:
        LockedError: somebody has it, and is alive.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = _acquire(folder, purpose, seconds, say)
    ended = threading.Event()
    thread = threading.Thread(target=lock.keep, args=(ended,), name="job-lock", daemon=True)
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


def _acquire(folder: Path, purpose: str, seconds: float, say: Callable[[str], None]) -> JobLock:
    """The lock, as soon as it is free; see `held`."""
    first: dict[str, Any] | None = None
    while True:
        with _guarded(folder):
            owner, now = read_owner(folder), time.time()
            if owner is None or is_free(owner, now):
                lock = JobLock(folder, uuid.uuid4().hex, seconds, now + seconds)
                _write(folder, {
                    "token": lock.token, "host": socket.gethostname(), "process": os.getpid(),
                    "began": process_start(os.getpid()), "doing": purpose, "since": now, "expires": lock.expires,
                })  # fmt: skip
                return lock
        renewed = first is not None and any(owner[name] != first[name] for name in ("token", "expires"))
        if renewed or owner["host"] == socket.gethostname():
            raise LockedError(f"{folder}: locked by {owner_words(owner)}")
        if first is None:
            first = owner
            say(f"{folder}: waiting for {owner_words(owner)}, to see whether it is still at work")
        time.sleep(min(LOOK_SECONDS, max(owner["expires"] - now, 0.01)))


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
    """Who holds the lock, expired or not; None where nobody does, or a file that no job wrote.

    Raises:
        OSError: the disk does not say.
    """
    try:
        owner = json.loads((folder / LOCK_FILE).read_text())
        return owner if {"token", "host", "process", "began", "expires"} <= owner.keys() else None
    except (FileNotFoundError, NotADirectoryError, ValueError, AttributeError):
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
