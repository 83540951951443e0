"""The lock of a folder of releases: one process at a time changes labels or removes releases, and the others learn who."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from serving.releases.manifest import ReleaseError

LOCK_FILE = ".lock"
POLL_SECONDS = 0.05


@contextlib.contextmanager
def alone(releases: Path, purpose: str, wait_seconds: float = 10.0) -> Iterator[None]:
    """Has a folder of releases to oneself for the length of the block.

    The lock is the kernel's, so it ends with the process, however that ends; the text in the file is for people.

    Args:
        releases: the folder of releases.
        purpose: what the others are told, such as "release promote".
        wait_seconds: how long to wait for whoever has it.

    Raises:
        ReleaseError: no such folder, somebody else had it all the time, or the file system knows no locks.
    """
    if not releases.is_dir():
        raise ReleaseError(f"{releases}: no such folder of releases; run the export stage first")
    with open(releases / LOCK_FILE, "a+", encoding="utf-8") as lock:
        _acquire(lock.fileno(), releases, time.monotonic() + wait_seconds)
        owner = {
            "process": os.getpid(),
            "host": socket.gethostname(),
            "since": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "doing": purpose,
        }
        lock.truncate(0)
        lock.write(json.dumps(owner))
        lock.flush()
        try:
            yield
        finally:
            lock.truncate(0)


def lock_owner(releases: Path) -> str:
    """Who holds the lock, in words; what a killed process left there is nobody's once the lock is free."""
    try:
        owner = json.loads((releases / LOCK_FILE).read_text(encoding="utf-8"))
        return f"process {owner['process']} on {owner['host']} ({owner['doing']}, since {owner['since']})"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"


def _acquire(handle: int, releases: Path, until: float) -> None:
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() >= until:
                raise ReleaseError(
                    f"{releases}: {lock_owner(releases)} is changing these releases; try again when it has ended"
                ) from None
            time.sleep(POLL_SECONDS)
        except OSError as error:
            raise ReleaseError(
                f"{releases}: lies on a file system without locks ({error.strerror}), where two changes at once could "
                f"mix releases; keep releases on a local disk or on NFS 4"
            ) from error
