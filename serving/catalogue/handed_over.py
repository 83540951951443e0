"""How much of a gateway's log of changes each dataset folder has been given."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from data.durable_file import write_durably
from serving.catalogue.live_items_log import CHANGES

FILE = "handed_over.json"


class HandedOver:
    """A mark beside the changes, of one dataset folder. Without it, or with that of another log, nothing was handed over.

    Args:
        folder: a gateway's items. source: the dataset folder; another one has a mark of its own.
    """

    def __init__(self, folder: Path, source: Path) -> None:
        self._file, self._log, self._source = folder / FILE, folder / CHANGES, str(source.resolve())

    def size(self) -> int:
        """Bytes of the log whose changes the dataset folder has been given."""
        told = self._marks().get(self._source, {"bytes": 0, "sha256": ""})
        return int(told["bytes"]) if told["sha256"] == self._digest(int(told["bytes"])) else 0

    def mark(self, size: int) -> None:
        """The dataset folder has the changes of so many bytes, on disk when it returns.

        Raises:
            WriteError: the disk refused; they are handed over again then.
        """
        marks = {**self._marks(), self._source: {"bytes": size, "sha256": self._digest(size)}}
        write_durably(self._file, [json.dumps(marks, indent=2, sort_keys=True).encode()])

    def _marks(self) -> dict[str, dict[str, int | str]]:
        return dict(json.loads(self._file.read_text())) if self._file.is_file() else {}

    def _digest(self, size: int) -> str:
        """Of the log's first bytes: one that was begun anew is another log."""
        if size == 0 or not self._log.is_file():
            return ""
        with self._log.open("rb") as file:
            return hashlib.sha256(file.read(size)).hexdigest()
