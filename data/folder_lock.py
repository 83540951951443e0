"""The lock of a folder: whoever reads a file in it in order to write it again does so alone."""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from data.durable_file import WriteError

LOCK_FILE = ".lock"
"""Empty, and no part of what a folder holds: fingerprints leave it out."""


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Has a folder to oneself for the length of the block, among all who ask by this function.

    Whoever has it is waited for. The lock is the kernel's, so it ends with its process, however that ends. A block within
    another of the same folder would wait for itself. A folder that is not there needs no lock.

    Args:
        folder: such as a dataset folder, or a gateway's feedback.

    Raises:
        WriteError: the file system knows no locks. OSError: no lock file can be made there.

    Example:
        >>> import tempfile
        >>> with alone(Path(tempfile.mkdtemp())):
        ...     print("read, change, write")
        read, change, write
    """
    if not folder.is_dir():
        yield
        return
    with _opened(folder / LOCK_FILE) as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError as error:
            raise WriteError(
                f"{folder}: lies on a file system without locks ({error.strerror}), where two changes at once could undo "
                "each other; keep it on a local disk or on NFS 4."
            ) from error
        yield


def _opened(path: Path) -> BinaryIO:
    try:
        return path.open("ab")  # NFS locks for one process alone only what it may write
    except PermissionError:  # somebody else's, such as root's: on a local disk it is locked all the same
        return path.open("rb")
