"""The catalogue's changes since the release, searchable a moment after they are made, whichever release answers."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from data.media import MediaError
from serving.catalogue.live_items_content import read_item
from serving.catalogue.live_items_log import LiveItem, LiveItemsLog, LiveState, LiveVector, delete, place, put
from serving.catalogue.live_items_place import Placing
from serving.client.added_items import AddedItems
from serving.client.new_items import NewItem
from serving.json_log import FIELDS
from serving.release_number import base_version
from serving.status import ServingError

logger = logging.getLogger(__name__)

BATCH = 8
"""Items that a model server is asked to place at a time."""
PLACED = 1_000
"""Items whose new places are one change: each change makes the gateway's tables, and what it keeps, anew."""
NOTICE_SECONDS = 1.0
"""After which another gateway's change is noticed."""
RETRY_SECONDS, LONGEST_WAIT = 2.0, 60.0


class TooManyItemsError(ValueError):
    """Another item does not fit; the message says what to do."""


class LiveItems:
    """Added, changed and deleted items. Thread safe; every change is on disk before it is told, and another gateway's on
    the same folder is noticed within a second.

    When another release answers, all items are placed again in the background, by it: until then it answers without
    them, since embeddings of two releases cannot be compared. An update between two releases leaves them where they are.

    Args:
        log: where changes are kept.
        placing: asks the answering release.
        read_media: the content of a media path; raises MediaError.
        most: how many items there may be that the answering release does not hold as they are. Beyond, a new one is due.
        holds: whether the answering release could answer an id. Of deleted items, which grow ever more, those alone go
            along with every request; None = all of them.
    """

    def __init__(
        self,
        log: LiveItemsLog,
        placing: Placing,
        read_media: Callable[[str], bytes],
        *,
        most: int = 20_000,
        holds: Callable[[str], bool] | None = None,
    ) -> None:
        self.log, self._placing, self._read_media, self._most = log, placing, read_media, most
        self._holds = holds
        self._lock = threading.Lock()
        self._changing = threading.Lock()  # held through a change, and not while anybody asks
        self._state = LiveState()
        for change in log.read():
            self._state.apply(change)
        self._snapshots: dict[int, AddedItems] = {}
        self._listeners: list[Callable[[], None]] = []
        self._version = 0
        self._wake, self._stop = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None

    def on_change(self, listener: Callable[[], None]) -> None:
        """Adds a function that is called after every change, before who made it is answered."""
        self._listeners.append(listener)

    @property
    def items(self) -> list[LiveItem]:
        with self._lock:
            return list(self._state.items.values())

    @property
    def deleted(self) -> frozenset[str]:
        with self._lock:
            return frozenset(self._state.deleted)

    def snapshot(self) -> AddedItems | None:
        """What a request takes into account, placed by the release that answered last; None = nothing has changed."""
        with self._lock:
            if not self._state.items and not self._state.deleted:
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
            TooManyItemsError: see `most`.
        """
        with self._lock:
            if item.item_id not in self._state.items and self._state.count(self._version) >= self._most:
                raise TooManyItemsError(
                    f"items: at most {self._most} may be added to one release, received one more; train a new release"
                )
        content = read_item(item, media)
        (vector,) = self._placing.place([item], lambda _: content)
        self._change(put(item, vector))
        if vector.version != self._version:
            self._wake.set()
        return vector

    def delete(self, item_id: str) -> None:
        """Deletes an item, of the release or added; on return no new answer has it.

        Raises:
            OSError: the disk refused, and nothing has changed.
        """
        self._change(delete(item_id))

    def follow(self, version: int) -> None:
        """Another release answers from now on, or an update of the same one, which moves no item."""
        with self._lock:
            self._version = base_version(version)
            self._snapshots.clear()  # what the release holds may have become another even where it was answering already
        self._wake.set()

    def start(self) -> None:
        """Begins to encode, in the background, what the answering release has not encoded yet."""
        self._stop.clear()
        self._thread = threading.Thread(target=self._run, name="live-items", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stops that."""
        self._stop.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join(timeout=10)

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
                    item for name, item in self._state.items.items()
                    if all(one.version != version for one in self._state.vectors.get(name, []))
                ]  # fmt: skip
            if not missing:
                return count
            same, placed, since = True, list[tuple[LiveItem, LiveVector]](), time.monotonic()
            try:
                for start in range(0, len(missing), BATCH):
                    batch = missing[start : start + BATCH]
                    vectors = self._placing.place(batch, self._reread)
                    placed += zip(batch, vectors, strict=True)
                    same = vectors[0].version == version
                    if not same:  # the release has changed once more
                        break
                    if len(placed) >= PLACED or time.monotonic() - since >= NOTICE_SECONDS:
                        count += self._put_places(placed)
                        placed, since = [], time.monotonic()
            finally:  # what was placed before a fault need not be placed again
                count += self._put_places(placed)
            if not same:
                return count

    def _put_places(self, placed: list[tuple[LiveItem, LiveVector]]) -> int:
        """Keeps where items were put, but those that were changed or deleted meanwhile; returns how many that were."""
        self.catch_up()
        with self._lock:
            pairs = [(item.item_id, vector) for item, vector in placed if self._state.items.get(item.item_id) is item]
        if pairs:
            self._change(place(pairs))
        return len(pairs)

    def _snapshot(self, version: int) -> AddedItems:
        placed: dict[str, tuple[LiveVector, np.ndarray]] = {}
        for name, vectors in self._state.vectors.items():
            for vector in vectors:
                if vector.version == version and vector.embedding is not None:
                    placed[name] = vector, vector.embedding
        empty = np.zeros((0, 0), np.float32)
        deleted = self._state.deleted if self._holds is None else filter(self._holds, self._state.deleted)
        tables = [vector.search for vector, _ in placed.values() if vector.search is not None]
        widths = {name: len(array) for vector, _ in placed.values() for name, array in vector.content.items()}
        return AddedItems(
            version=version,
            ids=tuple(placed),
            embeddings=np.stack([embedding for _, embedding in placed.values()]) if placed else empty,
            search_vectors=(np.stack(tables) if tables else empty) if len(tables) == len(placed) else None,
            content_vectors={
                name: np.stack([one.content.get(name, np.zeros(width, np.float32)) for one, _ in placed.values()])
                for name, width in widths.items()
            },
            hidden=frozenset({*deleted, *(name for name, (vector, _) in placed.items() if vector.known)}),
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

    def catch_up(self) -> int:
        """Takes in what has been added to the log, by whoever; returns how many changes that were."""
        with self._changing:
            changes = self.log.read()
            with self._lock:
                for change in changes:
                    self._state.apply(change)
                if changes:
                    self._snapshots.clear()
            if changes:  # under the lock still: who comes second must not return before everybody has been told
                for listener in self._listeners:
                    listener()
        return len(changes)

    def _change(self, change: dict[str, Any]) -> None:
        self.log.add(change)
        self.catch_up()

    def _run(self) -> None:
        wait, again = RETRY_SECONDS, 0.0
        while not self._stop.is_set():
            woken = self._wake.wait(NOTICE_SECONDS)
            self._wake.clear()
            try:
                changed = self.catch_up() > 0
                if self._version and (woken or changed or again) and time.monotonic() >= again:
                    count = self.refresh()
                    wait, again = RETRY_SECONDS, 0.0
                    if count:
                        logger.info("added items were placed by another release", extra={FIELDS: {"items": count}})
            except (ServingError, OSError, MediaError) as error:
                logger.warning("added items wait to be placed", extra={FIELDS: {"error": type(error).__name__}})
                again, wait = time.monotonic() + wait, min(2 * wait, LONGEST_WAIT)
