"""The catalogue's changes since the release, searchable a moment after they are made, whichever release answers."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping

import numpy as np

from data.media import MediaError
from serving.added_items import AddedItems
from serving.gateway_log import FIELDS
from serving.live_items_content import read_item
from serving.live_items_log import LiveItem, LiveItemsLog, LiveVector
from serving.live_items_place import Placing
from serving.new_items import NewItem
from serving.status import ServingError

logger = logging.getLogger(__name__)

BATCH = 8
RETRY_SECONDS, LONGEST_WAIT = 2.0, 60.0


class LiveItems:
    """Added, changed and deleted items. Thread safe; every change is on disk before it is told.

    When another release answers, all items are placed again in the background, by it: until then it answers without
    them, since embeddings of two releases cannot be compared.

    Args:
        log: where changes are kept.
        placing: asks the answering release.
        read_media: the content of a media path; raises MediaError.
        most: how many items there may be. Beyond, a new release is due.
    """

    def __init__(
        self,
        log: LiveItemsLog,
        placing: Placing,
        read_media: Callable[[str], bytes],
        *,
        most: int = 20_000,
    ) -> None:
        self.log, self._placing, self._read_media, self._most = log, placing, read_media, most
        self._lock = threading.Lock()
        self._changing = threading.Lock()  # held through a change, and not while anybody asks
        self._items, self._deleted, self._vectors = log.read()
        self._snapshots: dict[int, AddedItems] = {}
        self._listeners: list[Callable[[], None]] = []
        self._version = 0
        self._wake, self._stop = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None

    def on_change(self, listener: Callable[[], None]) -> None:
        """Adds a function that is called after every change."""
        self._listeners.append(listener)

    def item(self, item_id: str) -> LiveItem | None:
        """An added or changed item; None for any other."""
        with self._lock:
            return self._items.get(item_id)

    def is_deleted(self, item_id: str) -> bool:
        with self._lock:
            return item_id in self._deleted

    @property
    def items(self) -> list[LiveItem]:
        with self._lock:
            return list(self._items.values())

    @property
    def deleted(self) -> frozenset[str]:
        with self._lock:
            return frozenset(self._deleted)

    def snapshot(self) -> AddedItems | None:
        """What a request takes into account, placed by the release that answered last; None = nothing has changed."""
        with self._lock:
            if not self._items and not self._deleted:
                return None
            version = self._version
            if version not in self._snapshots:
                if len(self._snapshots) >= 4:
                    self._snapshots.clear()
                self._snapshots[version] = self._snapshot(version)
            return self._snapshots[version]

    def put(self, item: LiveItem, media: Mapping[str, bytes]) -> LiveVector:
        """Adds or changes an item; on return it is on disk, and found.

        Args:
            item: with its media paths. media: their content.

        Raises:
            MediaError: content that cannot be used. ServingError: the encoder did not answer. OSError: the disk refused.
                Nothing has changed then.
            ValueError: there are too many items.
        """
        with self._lock:
            if len(self._items) >= self._most and item.item_id not in self._items:
                raise ValueError(
                    f"items: at most {self._most} may be added to one release, received one more; train a new release"
                )
        content = read_item(item, media)
        (vector,) = self._placing.place([item], lambda _: content)
        with self._changing:
            self.log.put(item, vector)
            with self._lock:
                self._items[item.item_id] = item
                self._deleted.discard(item.item_id)
                self._vectors[item.item_id] = [vector]
                self._snapshots.clear()
        if vector.version != self._version:
            self._wake.set()
        self._tell()
        return vector

    def delete(self, item_id: str) -> None:
        """Deletes an item, of the release or added; on return no new answer has it.

        Raises:
            OSError: the disk refused, and nothing has changed.
        """
        with self._changing:
            self.log.delete(item_id)
            with self._lock:
                self._items.pop(item_id, None)
                self._vectors.pop(item_id, None)
                self._deleted.add(item_id)
                self._snapshots.clear()
        self._tell()

    def follow(self, version: int) -> None:
        """Another release answers from now on."""
        with self._lock:
            self._version = version
        self._wake.set()

    def start(self) -> None:
        """Begins to encode, in the background, what the answering release has not encoded yet."""
        self._stop.clear()
        self._thread = threading.Thread(target=self._run, name="live-items", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stops that, and gives the log back."""
        self._stop.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join(timeout=10)
        with self._changing:
            self.log.close()

    def refresh(self) -> int:
        """Encodes what the answering release has not encoded; returns how many items that were.

        Raises:
            ServingError: the encoder did not answer.
        """
        count = 0
        while True:
            with self._lock:
                version = self._version
                missing = [
                    item for name, item in self._items.items()
                    if all(one.version != version for one in self._vectors.get(name, []))
                ][:BATCH]  # fmt: skip
            if not missing:
                return count
            placed = self._placing.place(missing, self._reread)
            pairs = [(item.item_id, vector) for item, vector in zip(missing, placed, strict=True)]
            with self._changing:
                with self._lock:  # what was changed or deleted meanwhile has its own vector, or none
                    pairs = [pair for pair, item in zip(pairs, missing, strict=True) if self._items.get(pair[0]) is item]
                self.log.place(pairs)
                with self._lock:
                    for item_id, vector in pairs:
                        self._vectors[item_id] = [*self._vectors.get(item_id, []), vector][-2:]
                    self._snapshots.clear()
            count += len(pairs)
            self._tell()
            if placed[0].version != version:  # the release has changed once more
                return count

    def _snapshot(self, version: int) -> AddedItems:
        placed: dict[str, np.ndarray] = {}
        tables: list[np.ndarray] = []
        hidden = set(self._deleted)
        for name, vectors in self._vectors.items():
            for vector in vectors:
                if vector.version == version and vector.embedding is not None:
                    placed[name] = vector.embedding
                    tables += [] if vector.search is None else [vector.search]
                    hidden |= {name} if vector.known else set()
        empty = np.zeros((0, 0), np.float32)
        return AddedItems(
            version=version,
            ids=tuple(placed),
            embeddings=np.stack(list(placed.values())) if placed else empty,
            search_vectors=(np.stack(tables) if tables else empty) if len(tables) == len(placed) else None,
            hidden=frozenset(hidden),
        )

    def _reread(self, item: LiveItem) -> NewItem:
        media = {}
        try:
            for field in ("image", "audio", "video"):
                path = getattr(item, field)
                if path:
                    media[field] = self._read_media(path)
            return read_item(item, media)
        except MediaError as error:
            # It could be read when the item was added; its texts still can.
            logger.warning("media of an added item is gone", extra={FIELDS: {"reason": str(error)[:200]}})
            return read_item(item, {})

    def _tell(self) -> None:
        for listener in self._listeners:
            listener()

    def _run(self) -> None:
        wait = RETRY_SECONDS
        while not self._stop.is_set():
            self._wake.wait()
            self._wake.clear()
            try:
                if self._version and not self._stop.is_set():
                    count = self.refresh()
                    wait = RETRY_SECONDS
                    if count:
                        logger.info("added items were encoded by another release", extra={FIELDS: {"items": count}})
            except (ServingError, OSError, MediaError) as error:
                logger.warning("added items wait to be encoded", extra={FIELDS: {"error": type(error).__name__}})
                self._stop.wait(wait)
                self._wake.set()
                wait = min(2 * wait, LONGEST_WAIT)
