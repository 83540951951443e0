"""Files that are whole or not there, whatever happens to the process or the machine that writes them."""

from __future__ import annotations

import errno
import os
import shutil
import socket
import uuid
from collections.abc import Iterable
from pathlib import Path

WRITING = ".writing-"
"""Start of the name of a file that is not finished: host, process and a random part follow."""


class WriteError(RuntimeError):
    """The disk refused to be written; the message says why and what to do."""


def write_durably(final: Path, parts: Iterable[bytes]) -> None:
    """Write beside, force to disk, rename: after a kill or a power cut the file is whole or not there.

    Raises:
        WriteError: the disk is full or refuses to be written; what stood there before still does.
    """
    writing = final.with_name(f"{WRITING}{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:12]}")
    try:
        with open(writing, "xb") as file:
            for part in parts:
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
        os.replace(writing, final)
        sync(final.parent)
    except OSError as error:
        writing.unlink(missing_ok=True)
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        advice = f"the disk is full: free space in {final.parent}" if full else "check the disk and the rights"
        raise WriteError(
            f"{final}: cannot be written ({error.strerror}); {advice}, then run again: what was stored before is intact."
        ) from error


def sync(path: Path) -> None:
    """Force a file, or the names in a folder, to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def link_or_copy(source: Path, target: Path) -> None:
    """The same file under another name; a copy on a file system without hard links, or across two."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
