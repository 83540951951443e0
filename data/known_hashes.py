"""What media files hashed to before: one that is still the same file is not read again."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

import pyarrow
import pyarrow.parquet as parquet

from data.content_key import HASH_BYTES
from data.durable_file import write_durably

RECENT = 2.0
"""Seconds. A file that changed so short a time before may change once more within the same tick of the file system's clock."""
Stamp = tuple[int, int, int, int]
"""Inode, bytes, and nanoseconds of the last change of the content and of the entry; the last of which nobody can set."""
SCHEMA = pyarrow.schema(
    [("name", pyarrow.string()), *((name, pyarrow.int64()) for name in ("inode", "bytes", "changed", "entry_changed")),
     ("hash", pyarrow.binary(HASH_BYTES))]
)  # fmt: skip


def stamp_of(path: Path) -> Stamp:
    """What the system says of a file without reading it, links followed.

    Raises:
        OSError: as `os.stat`.
    """
    told = os.stat(path)
    return told.st_ino, told.st_size, told.st_mtime_ns, told.st_ctime_ns


class KnownHashes:
    """Content hashes of one media folder, kept in the content store from run to run.

    A catalogue of a million pictures is a hundred gigabytes, of which a nightly job needs the new ones; to ask the system for
    the others' times takes seconds. A file counts as the same where its name and its whole `Stamp` are, as in git's index.
    What was not asked for is forgotten at the next `save`, so that the file does not grow for ever; one that cannot be read
    is as good as none.

    Args:
        store: folder of the content store. media: the folder that names are relative to; another folder has its own file.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> known = KnownHashes(folder, folder / "media")
        >>> known.remember("a.png", (7, 3, 0, 0), bytes(32))
        >>> known.save()
        >>> again = KnownHashes(folder, folder / "media")
        >>> again.find("a.png", (7, 3, 0, 0)) == bytes(32), again.find("a.png", (7, 4, 0, 0))
        (True, None)
    """

    def __init__(self, store: str | Path, media: str | Path) -> None:
        place = hashlib.blake2b(os.fsencode(os.path.realpath(media)), digest_size=8).hexdigest()
        self.file = Path(store) / f"media-{place}.parquet"
        self._before = _read(self.file)
        self._now: dict[str, tuple[Stamp, bytes]] = {}

    def find(self, name: str, stamp: Stamp) -> bytes | None:
        """The hash of a file that is what it was; None where it has to be read."""
        entry = self._before.get(name)
        if entry is None or entry[0] != stamp:
            return None
        self._now[name] = entry
        return entry[1]

    def remember(self, name: str, stamp: Stamp, hash_: bytes) -> None:
        """Keep what a file hashed to. `stamp`: from before it was read, so that a change meanwhile is seen next time."""
        if abs(time.time() - max(stamp[2:]) / 1e9) >= RECENT:
            self._now[name] = stamp, hash_

    def save(self) -> None:
        """Write what was found or remembered, where there is anything and it is another than what lies there.

        Raises:
            data.durable_file.WriteError: it cannot be written.
        """
        if not self._now or self._now == self._before:
            return
        rows = [(name, *stamp, hash_) for name, (stamp, hash_) in sorted(self._now.items())]
        columns = zip(*rows, strict=True)
        table = pyarrow.table([pyarrow.array(column, field.type) for column, field in zip(columns, SCHEMA, strict=True)],
                              schema=SCHEMA)  # fmt: skip
        sink = pyarrow.BufferOutputStream()
        parquet.write_table(table, sink)
        self.file.parent.mkdir(parents=True, exist_ok=True)
        write_durably(self.file, [sink.getvalue()])
        self._before = dict(self._now)


def _read(file: Path) -> dict[str, tuple[Stamp, bytes]]:
    if not file.is_file():
        return {}
    try:
        names, *stamps, hashes = (column.to_pylist() for column in parquet.read_table(file, schema=SCHEMA).columns)
    except (OSError, pyarrow.ArrowException):
        return {}
    return dict(zip(names, zip(zip(*stamps, strict=True), hashes, strict=True), strict=True))
