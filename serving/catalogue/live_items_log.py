"""What has been added, changed and deleted since the release, on disk: a log of changes, and the media of added items."""

from __future__ import annotations

import base64
import dataclasses
import fcntl
import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from data.durable_file import sync, write_durably
from serving.release_number import base_version

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
        version: of the release, never of an update of it. known: whether the release holds the id itself, so that its own
            place must be hidden.
        embedding: f32 [D]; None = the release's own place is right. search: f32 [E]; None = it has no such search.
        content: modality -> f32 [E], of those that the item has and the release is searched by.
    """

    version: int
    known: bool
    embedding: np.ndarray | None
    search: np.ndarray | None
    content: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)


class LiveItemsLog:
    """A log of changes, each forced to disk before it counts. Several gateways may share the folder: each adds to the log
    under its lock, and reads what the others added.

    It is never rewritten. The others, and the next training run (`serving.catalogue.handed_over`), know how far they have
    read by its bytes; and an item that the newest release holds is still needed by a gateway of another one, and after a
    roll back.

    Args:
        folder: made at the first change.

    Example:
        >>> import tempfile
        >>> log = LiveItemsLog(Path(tempfile.mkdtemp()))
        >>> log.add({"delete": "i1"})
        >>> log.read(), log.read()
        ([{'delete': 'i1'}], [])
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self._read = 0

    @property
    def position(self) -> int:
        """Bytes of the log that have been read."""
        return self._read

    def read(self, until: int | None = None) -> list[dict[str, Any]]:
        """The changes since the last reading, in order, whoever made them.

        A line is read when it is whole; one that a kill cut off never is, and is left out.

        Args:
            until: an earlier `position`, beyond which nothing is read yet; None = all.
        """
        path = self.folder / CHANGES
        if not path.is_file():
            return []
        with path.open("rb") as file:
            file.seek(self._read)
            content = file.read() if until is None else file.read(max(until - self._read, 0))
        content = content[: content.rfind(b"\n") + 1]
        self._read += len(content)
        changes = []
        for line in content.splitlines():
            try:
                change = json.loads(line)
            except ValueError:
                continue
            if isinstance(change, dict):
                changes.append(change)
        return changes

    def add(self, change: dict[str, Any]) -> None:
        """Puts a change on disk; the next `read` has it.

        Raises:
            OSError: the disk refused, and nothing has changed.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.folder / CHANGES, "ab+", buffering=0) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            size = os.fstat(file.fileno()).st_size
            line = json.dumps(change, ensure_ascii=True, separators=(",", ":")).encode() + b"\n"
            if size and os.pread(file.fileno(), 1, size - 1) != b"\n":  # a kill cut the last line off
                line = b"\n" + line
            try:
                view = memoryview(line)
                while view:
                    view = view[file.write(view) :]
                os.fsync(file.fileno())
            except OSError:
                os.ftruncate(file.fileno(), size)  # half a line must not swallow the next one
                raise
            if not size:
                sync(self.folder)

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


def put(item: LiveItem, vector: LiveVector) -> dict[str, Any]:
    """The change that adds or changes an item."""
    return {"put": dataclasses.asdict(item), **place([(item.item_id, vector)])}


def delete(item_id: str) -> dict[str, Any]:
    """The change that deletes an item."""
    return {"delete": item_id}


def place(vectors: Iterable[tuple[str, LiveVector]]) -> dict[str, Any]:
    """The change that says where another release puts some items."""
    return {"vectors": {item_id: _write_vector(vector) for item_id, vector in vectors}}


@dataclasses.dataclass
class LiveState:
    """What the changes have led to.

    Attributes:
        items: by id. deleted: ids. vectors: by id, of at most the two releases that placed an item last.
    """

    items: dict[str, LiveItem] = dataclasses.field(default_factory=dict)
    deleted: set[str] = dataclasses.field(default_factory=set)
    vectors: dict[str, list[LiveVector]] = dataclasses.field(default_factory=dict)

    def count(self, version: int) -> int:
        """How many items a release does not hold as they are. One that it has not placed yet counts by the release that
        placed it last: what that held, its successor was trained on."""
        held = 0
        for vectors in self.vectors.values():
            last = next((one for one in vectors if one.version == version), vectors[-1] if vectors else None)
            held += last is not None and last.embedding is None
        return len(self.items) - held

    def apply(self, change: dict[str, Any]) -> None:
        """Takes in one change."""
        if "put" in change:
            item = LiveItem(**change["put"])
            self.items[item.item_id] = item
            self.vectors[item.item_id] = []
            self.deleted.discard(item.item_id)
        elif "delete" in change:
            self.items.pop(change["delete"], None)
            self.vectors.pop(change["delete"], None)
            self.deleted.add(change["delete"])
        for item_id, written in change.get("vectors", {}).items():
            if item_id in self.items:
                vector = _read_vector(written)
                others = [one for one in self.vectors[item_id] if one.version != vector.version]
                self.vectors[item_id] = [*others, vector][-2:]


def _write_vector(vector: LiveVector) -> dict[str, Any]:
    return {
        "version": vector.version,
        "known": vector.known,
        "embedding": _text(vector.embedding),
        "search": _text(vector.search),
        "content": {name: _text(array) for name, array in vector.content.items()},
    }


def _read_vector(written: dict[str, Any]) -> LiveVector:
    # A log from before content was searched has none, and an older one may have placed items by an update's number.
    content = {name: array for name, text in written.get("content", {}).items() if (array := _array(text)) is not None}
    embedding, search = _array(written["embedding"]), _array(written["search"])
    return LiveVector(base_version(written["version"]), written["known"], embedding, search, content)


def _text(array: np.ndarray | None) -> str | None:
    return None if array is None else base64.b64encode(np.asarray(array, "<f4").tobytes()).decode()


def _array(text: str | None) -> np.ndarray | None:
    return None if text is None else np.frombuffer(base64.b64decode(text), "<f4").astype(np.float32)
