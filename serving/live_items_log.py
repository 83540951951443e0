"""What has been added, changed and deleted since the release, on disk: a log of changes, and the media of added items."""

from __future__ import annotations

import base64
import dataclasses
import fcntl
import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

import numpy as np

from data.durable_file import sync, write_durably

CHANGES, MEDIA = "changes.jsonl", "media"
ADDED = "added"
"""First part of the media path of whatever came with an item, so that it cannot be mistaken for a file of the dataset."""


@dataclasses.dataclass(frozen=True)
class LiveItem:
    """An added or changed item, in the columns of `items.parquet`.

    Attributes:
        categories: joined by "|". price: None = none. created_at: UTC seconds.
        image, audio, video: `added/<sha256>.<suffix>`, or a path under the dataset folder's `media/`; "" = none.
    """

    item_id: str
    title: str = ""
    description: str = ""
    categories: str = ""
    price: float | None = None
    created_at: int = 0
    domain: str = ""
    image: str = ""
    audio: str = ""
    video: str = ""

    @property
    def content(self) -> tuple[str, ...]:
        """What an item encoder reads of it."""
        return (self.title, self.description, self.categories, self.image, self.audio, self.video)


@dataclasses.dataclass(frozen=True, eq=False)
class LiveVector:
    """Where a release puts an item.

    Attributes:
        version: of the release. known: whether the release holds the id itself, so that its own place must be hidden.
        embedding: f32 [D]; None = the release's own place is right. search: f32 [E]; None = it has no such search.
    """

    version: int
    known: bool
    embedding: np.ndarray | None
    search: np.ndarray | None


class LiveItemsLog:
    """A log of changes, each forced to disk before it counts, and read from the start when a gateway starts.

    One gateway writes a folder at a time; the first change takes its lock.

    Args:
        folder: made at the first change.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self._file: IO[bytes] | None = None

    def read(self) -> tuple[dict[str, LiveItem], set[str], dict[str, list[LiveVector]]]:
        """Items by id, deleted ids, and vectors by id, as the changes leave them; a torn last line is left out."""
        items: dict[str, LiveItem] = {}
        deleted: set[str] = set()
        vectors: dict[str, list[LiveVector]] = {}
        path = self.folder / CHANGES
        for line in path.read_bytes().split(b"\n") if path.is_file() else []:
            try:
                change = json.loads(line)
            except ValueError:
                continue
            if "put" in change:
                item = LiveItem(**change["put"])
                items[item.item_id] = item
                vectors.pop(item.item_id, None)
                deleted.discard(item.item_id)
            elif "delete" in change:
                items.pop(change["delete"], None)
                vectors.pop(change["delete"], None)
                deleted.add(change["delete"])
            for item_id, vector in change.get("vectors", {}).items():
                if item_id in items:
                    vectors[item_id] = [*vectors.get(item_id, []), _read_vector(vector)][-2:]
        return items, deleted, vectors

    def put(self, item: LiveItem, vector: LiveVector) -> None:
        """Adds or changes an item."""
        self._append({"put": dataclasses.asdict(item), "vectors": {item.item_id: _write_vector(vector)}})

    def delete(self, item_id: str) -> None:
        """Deletes an item."""
        self._append({"delete": item_id})

    def place(self, vectors: Iterable[tuple[str, LiveVector]]) -> None:
        """Says where another release puts some items."""
        self._append({"vectors": {item_id: _write_vector(vector) for item_id, vector in vectors}})

    def keep_media(self, content: bytes, suffix: str) -> str:
        """Puts a file on disk under the hash of its content; returns its media path."""
        name = f"{hashlib.sha256(content).hexdigest()}{suffix}"
        final = self.folder / MEDIA / name
        if not final.is_file():
            final.parent.mkdir(parents=True, exist_ok=True)
            write_durably(final, [content])
            sync(self.folder)
        return f"{ADDED}/{name}"

    def media_file(self, path: str) -> Path | None:
        """The file of an `added/...` path; None where there is none."""
        first, _, name = path.partition("/")
        if first != ADDED or "/" in name or name.startswith("."):
            return None
        file = self.folder / MEDIA / name
        return file if file.is_file() else None

    def close(self) -> None:
        """Gives the folder back."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _append(self, change: dict[str, Any]) -> None:
        file = self._file or self._open()
        line = json.dumps(change, ensure_ascii=True, separators=(",", ":")).encode() + b"\n"
        size = os.fstat(file.fileno()).st_size
        try:
            view = memoryview(line)
            while view:
                view = view[file.write(view) :]
            os.fsync(file.fileno())
        except OSError:
            os.ftruncate(file.fileno(), size)  # half a line must not swallow the next one
            raise

    def _open(self) -> IO[bytes]:
        self.folder.mkdir(parents=True, exist_ok=True)
        file = open(self.folder / CHANGES, "ab", buffering=0)  # noqa: SIM115 - stays open as long as it is written
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            raise OSError(
                f"{self.folder}: another gateway writes the items here; give each its own folder (settings `state`)"
            ) from None
        content = (self.folder / CHANGES).read_bytes()
        if content and not content.endswith(b"\n"):  # a kill cut the last line off
            file.write(b"\n")
        sync(self.folder)
        self._file = file
        return file


def _write_vector(vector: LiveVector) -> dict[str, Any]:
    return {
        "version": vector.version,
        "known": vector.known,
        "embedding": _text(vector.embedding),
        "search": _text(vector.search),
    }


def _read_vector(written: dict[str, Any]) -> LiveVector:
    return LiveVector(written["version"], written["known"], _array(written["embedding"]), _array(written["search"]))


def _text(array: np.ndarray | None) -> str | None:
    return None if array is None else base64.b64encode(np.asarray(array, "<f4").tobytes()).decode()


def _array(text: str | None) -> np.ndarray | None:
    return None if text is None else np.frombuffer(base64.b64decode(text), "<f4").astype(np.float32)
