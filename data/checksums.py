"""`checksums.json` in a folder: length and BLAKE2b of files that are read by mapping, where damage would go unnoticed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

CHECKSUMS_FILE = "checksums.json"
CHECKED_BYTES = 256 * 2**20
"""Folders up to this size are hashed when they are opened, at about 1 GB/s; larger ones when asked."""

_CHECKED: set[tuple[str, int, int, int]] = set()
"""Files this process has hashed already: path, size, time of change, inode."""


def file_checksum(path: Path) -> str:
    """BLAKE2b-256 of a file, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=32)).hexdigest()  # type: ignore[arg-type]


def write_checksums(folder: Path, names: Iterable[str]) -> None:
    """Note what some files of a folder contain.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> _ = (folder / "a.npy").write_bytes(b"whole")
        >>> write_checksums(folder, ["a.npy"])
        >>> damaged_file(folder) is None
        True
        >>> _ = (folder / "a.npy").write_bytes(b"whale")
        >>> damaged_file(folder)
        'a.npy: its checksum is not the one in checksums.json'
    """
    content = {name: {"bytes": (folder / name).stat().st_size, "blake2b": file_checksum(folder / name)} for name in names}
    (folder / CHECKSUMS_FILE).write_text(json.dumps(content, indent=2))


def damaged_file(folder: Path, *, thorough: bool | None = None) -> str | None:
    """What is wrong with the first damaged file of a folder, or None.

    Args:
        folder: one without `checksums.json` counts as whole.
        thorough: True hashes every file; False looks at lengths; None hashes what this process has not hashed yet,
            where the folder is no larger than `CHECKED_BYTES`.
    """
    if not (folder / CHECKSUMS_FILE).is_file():
        return None
    noted = json.loads((folder / CHECKSUMS_FILE).read_text())
    small = sum(entry["bytes"] for entry in noted.values()) <= CHECKED_BYTES
    for name, entry in noted.items():
        path = folder / name
        if not path.is_file():
            return f"{name}: is not there"
        status = path.stat()
        if status.st_size != entry["bytes"]:
            return f"{name}: must be {entry['bytes']} bytes long, received {status.st_size}"
        seen = (str(path.absolute()), status.st_size, status.st_mtime_ns, status.st_ino)
        if thorough or (thorough is None and small and seen not in _CHECKED):
            if file_checksum(path) != entry["blake2b"]:
                return f"{name}: its checksum is not the one in {CHECKSUMS_FILE}"
            _CHECKED.add(seen)
    return None
