"""Why media could not be used before: content with a fault of its own is not decoded again to find the same fault."""

from __future__ import annotations

import hashlib
import json
import os
from importlib.metadata import version
from pathlib import Path

import pyarrow
import pyarrow.parquet as parquet

from data.content_key import KEY_BYTES
from data.durable_file import write_durably

DECODERS = ("av", "mido", "pillow", "soundfile")
"""Packages that read media: what one version refuses another may read, and no content key tells them apart."""


class KnownRefusals:
    """Reasons by content key, of one media folder and one encoder, kept from run to run.

    A content key stands for the content, the encoder and our decoders' version (`data.content_key`), so that an answer holds
    until one of them changes; beside them it holds for the versions of `DECODERS` that gave it. As with
    `data.known_hashes`, what was not asked for is forgotten at the next `save`, a file that cannot be read is as good as none,
    and of two processes that write at once the later one's file stays: the other's contents are decoded once more.

    Args:
        folder: of the encoder in the content store. media: the folder that the contents come from; another has its own file.

    Example:
        >>> import tempfile
        >>> folder = tempfile.mkdtemp()
        >>> refusals = KnownRefusals(folder, "media")
        >>> refusals.remember(bytes(16), "no sound: the file has no sound track")
        >>> refusals.save()
        >>> again = KnownRefusals(folder, "media")
        >>> again.find(bytes(16)), again.find(bytes([1] * 16))
        ('no sound: the file has no sound track', None)
    """

    def __init__(self, folder: str | Path, media: str | Path) -> None:
        place = hashlib.blake2b(os.fsencode(os.path.realpath(media)), digest_size=8).hexdigest()
        self.file = Path(folder) / f"refused-{place}.parquet"
        decoders = json.dumps({name: version(name) for name in DECODERS})
        fields = [("key", pyarrow.binary(KEY_BYTES)), ("reason", pyarrow.string())]
        self._schema = pyarrow.schema(fields, metadata={"decoders": decoders})
        self._before = self._read()
        self._now: dict[bytes, str] = {}

    def find(self, key: bytes) -> str | None:
        """Why this content was refused; None where it was not, as far as is known."""
        reason = self._before.get(key)
        if reason is not None:
            self._now[key] = reason
        return reason

    def remember(self, key: bytes, reason: str) -> None:
        """Keep a reason that would be the same the next time."""
        self._now[key] = reason

    def save(self) -> None:
        """Write what was found or remembered, where it is another than what lies there.

        Raises:
            data.durable_file.WriteError: it cannot be written.
        """
        if self._now == self._before:
            return
        keys = sorted(self._now)
        table = pyarrow.table([keys, [self._now[key] for key in keys]], schema=self._schema)
        sink = pyarrow.BufferOutputStream()
        parquet.write_table(table, sink)
        write_durably(self.file, [sink.getvalue()])
        self._before = dict(self._now)

    def _read(self) -> dict[bytes, str]:
        try:
            table = parquet.read_table(self.file)
        except (OSError, pyarrow.ArrowException):
            return {}
        if not table.schema.equals(self._schema, check_metadata=True):
            return {}
        return dict(zip(*(column.to_pylist() for column in table.columns), strict=True))
