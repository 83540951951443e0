"""What lies in a content store beside its shards: one folder an encoder, its card, leftovers, and who is using it."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from data.content_shard import SHARD_SUFFIX, StoredEncoder
from data.durable_file import WRITING, WriteError, write_durably

DAMAGED = ".damaged-"
"""Start of the name of a shard that was set aside."""

ENCODER_FILE = "encoder.json"
LOCK_FILE = ".in-use"


class ContentStoreError(WriteError):
    """The content store cannot do what was asked; the message says why and what to do."""


def register(root: Path, encoder: StoredEncoder) -> None:
    """Make an encoder's folder with its `encoder.json`, or check the one that is there.

    Raises:
        ValueError: vectors of another width lie there. ContentStoreError: the folder cannot be made.
    """
    folder = root / encoder.folder_name
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ContentStoreError(f"store: cannot make {folder} ({error.strerror}); choose another folder") from error
    known = read_card(folder)
    if known is None:
        content = {**dataclasses.asdict(encoder), "dtype": "float16"}  # no date: equal vectors make equal stores
        write_durably(folder / ENCODER_FILE, [json.dumps(content, indent=2, ensure_ascii=False).encode()])
    elif known.width != encoder.width:
        raise ValueError(
            f"width: {encoder.name} with fingerprint {encoder.fingerprint} has stored vectors of width {known.width} in "
            f"{folder}, received {encoder.width}; a changed encoder needs another fingerprint"
        )


def read_card(folder: Path) -> StoredEncoder | None:
    """The encoder of a folder; None where there is no readable card."""
    try:
        content = json.loads((folder / ENCODER_FILE).read_text())
        return StoredEncoder(*(content[field.name] for field in dataclasses.fields(StoredEncoder)))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def encoder_folders(root: Path) -> dict[Path, StoredEncoder]:
    """The folders of a store in order of name, each with whose vectors it holds.

    Raises:
        FileNotFoundError: no such store.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"store: must be a folder that `encode` made, received {root}, which is not there")
    cards = {folder: read_card(folder) for folder in sorted(root.iterdir()) if folder.is_dir()}
    return {folder: card for folder, card in cards.items() if card is not None}


def shard_names(folder: Path) -> set[str]:
    """Names of the shards in an encoder's folder, leaving out what is unfinished or set aside."""
    with os.scandir(folder) as entries:
        return {entry.name for entry in entries if entry.name.endswith(SHARD_SUFFIX) and entry.name[0] != "."}


def leftovers(folder: Path) -> tuple[list[Path], list[Path]]:
    """Unfinished files and shards set aside, in an encoder's folder."""
    return sorted(folder.glob(f"{WRITING}*")), sorted(folder.glob(f"{DAMAGED}*"))


class UnlockedStoreWarning(UserWarning):
    """Nobody can tell that a store is in use."""


def hold(root: Path) -> IO[bytes] | None:
    """Say that a store is in use until the handle is closed or the process dies; waits while `gc` clears up.

    Returns: the handle, or None, with an `UnlockedStoreWarning`, where the folder is read-only and nobody has ever held it, or
        its file system knows no locks.
    """
    handle = None
    try:
        root.mkdir(parents=True, exist_ok=True)
        handle = _open_lock(root / LOCK_FILE)
        fcntl.flock(handle, fcntl.LOCK_SH)
    except OSError as error:
        if handle is not None:
            handle.close()
        warnings.warn(
            f"store: {root} cannot be locked ({error.strerror}), and does not look as if it were in use; start no "
            "`features gc` on it before this process has ended",
            UnlockedStoreWarning,
            stacklevel=2,
        )
        return None
    return handle


def _open_lock(file: Path) -> IO[bytes]:
    """The lock file, open for reading, which NFS wants of whoever shares it, and for writing where that can be."""
    try:
        return open(file, "a+b")
    except OSError:
        return open(file, "rb")


@contextlib.contextmanager
def alone(root: Path) -> Iterator[None]:
    """Have a store to oneself.

    Raises:
        ContentStoreError: a process has it open, or locks do not work there.
    """
    with open(root / LOCK_FILE, "ab") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ContentStoreError(f"store: {root} is in use by a run; try again when it has ended") from error
        except OSError as error:
            raise ContentStoreError(
                f"store: {root} lies on a file system without locks ({error.strerror}), so that nobody can tell "
                f"whether it is in use; move it to a local disk"
            ) from error
        yield
