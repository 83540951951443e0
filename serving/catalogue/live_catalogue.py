"""The catalogue of a run with the changes since: what the gateway shows, offers when no model answers, and hands out."""

from __future__ import annotations

import datetime
import threading
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from cachetools import LRUCache

from data.media import MediaError, read_media
from serving.catalogue.catalogue import MEDIA_TYPES, Catalogue, Event, Item
from serving.catalogue.live_items_log import ADDED, LiveItem, LiveItemsLog
from serving.catalogue.released_run import ingested_folder

SHOWN = 50_000
"""Items kept as they are shown."""


class LiveCatalogue:
    """A `Catalogue` of what the answering release was made from, under the changes of a `LiveItems`.

    Args:
        run: the run folder, see `ingested_folder`. media: see `Catalogue`.
        log: holds the media that came with added items.
        version: of the release that answers at first.

    Raises:
        FileNotFoundError: see `Catalogue`.
    """

    def __init__(self, run: Path, media: Path | None, log: LiveItemsLog, version: int = 0) -> None:
        self._run, self._media, self._log = run, media, log
        self._ingest = ingested_folder(run, version)
        self._items: dict[str, LiveItem] = {}
        self._deleted: frozenset[str] = frozenset()
        self._domains: dict[str, tuple[str, ...]] | None = None
        self._stamp = _read_stamp(self._ingest)
        self._base = Catalogue(self._ingest, media)
        # Reading one line out of a table costs a hundred times what finding it here does.
        self._found: LRUCache[str, Item | None] = LRUCache(SHOWN)
        self._lock = threading.Lock()
        self._loading = threading.Lock()  # held while a folder is read, which takes long and much memory

    def change(self, items: Iterable[LiveItem], deleted: frozenset[str]) -> None:
        """Takes over added and changed items, and ids of those deleted."""
        by_id = {item.item_id: item for item in items}
        with self._lock:
            self._items, self._deleted, self._domains = by_id, deleted, None

    def reload(self, version: int) -> bool:
        """Reads what another release was made from, or the same folder if it has been ingested anew; whether it had to.

        Until it is read, and where it cannot be, all that is shown is of the folder before.
        """
        with self._loading:
            ingest = ingested_folder(self._run, version)
            stamp = _read_stamp(ingest)
            if (ingest, stamp) == (self._ingest, self._stamp):
                return False
            base = Catalogue(ingest, self._media)
            with self._lock:
                self._base, self._ingest, self._stamp, self._domains = base, ingest, stamp, None
                self._found.clear()
        return True

    def released(self, item: LiveItem) -> bool:
        """Whether the run's own catalogue has an item with the very content of this one."""
        catalogue = self._base
        base = catalogue.item(item.item_id)
        if base is None or item.item_id in catalogue.gone:
            return False
        texts = (base.title, base.description, base.categories.replace(", ", "|"))
        mine = (item.title, item.description, item.categories.replace(", ", "|"))
        return texts == mine and (base.image, base.audio, base.video) == (item.image, item.audio, item.video)

    def holds(self, item_id: str) -> bool:
        """Whether the release could answer the item, as far as what it was made from tells: it is there, and not gone."""
        base = self._base
        return base.knows_item(item_id) and item_id not in base.gone

    def is_deleted(self, item_id: str) -> bool:
        return item_id in self._deleted

    @property
    def last_timestamp(self) -> int:
        return self._base.last_timestamp

    @property
    def item_count(self) -> int:
        base = self._base
        added = sum(not base.knows_item(name) for name in self._items)
        return base.item_count + added - sum(base.knows_item(name) for name in self._deleted)

    @property
    def domains(self) -> dict[str, tuple[str, ...]]:
        """Ids of the items of each domain as they are now, the largest domain first."""
        with self._lock:
            domains, base, mine, gone = self._domains, self._base, self._items, self._deleted
        if domains is None:
            found = {
                name: [one for one in ids if one not in mine and one not in gone] for name, ids in base.domains().items()
            }
            for item in mine.values():
                if item.domain and item.item_id not in gone:
                    found.setdefault(item.domain, []).append(item.item_id)
            by_size = sorted(found.items(), key=lambda pair: (-len(pair[1]), pair[0]))
            domains = {name: tuple(ids) for name, ids in by_size if ids}
            with self._lock:
                if base is self._base and mine is self._items:
                    self._domains = domains
        return domains

    @property
    def user_count(self) -> int:
        return self._base.user_count

    def knows_user(self, user_id: str) -> bool:
        return self._base.knows_user(user_id)

    def item(self, item_id: str) -> Item | None:
        """The item of that id as it is now; None when there is none, or no longer."""
        if item_id in self._deleted:
            return None
        live = self._items.get(item_id)
        if live is not None:
            return _shown(live)
        with self._lock:
            if item_id in self._found:
                return self._found[item_id]
        base = self._base
        item = base.item(item_id)
        with self._lock:
            if base is self._base and item is not None:
                self._found[item_id] = item
        return item

    def history(self, user_id: str, limit: int) -> list[Event]:
        return self._base.history(user_id, limit)

    def profile(self, user_id: str) -> dict[str, str]:
        return self._base.profile(user_id)

    def profile_choices(self) -> dict[str, list[str]]:
        return self._base.profile_choices()

    def popular(self, k: int, exclude: Iterable[str] = (), among: Iterable[str] | None = None) -> list[str]:
        """As `Catalogue.popular`, without deleted items. Nothing is known of how popular an added one is."""
        return self._base.popular(k, {*exclude, *self._deleted}, among)

    def example_users(self, count: int) -> list[str]:
        return self._base.example_users(count)

    def event_count(self, user_id: str) -> int:
        return self._base.event_count(user_id)

    def media_file(self, path: str) -> Path | None:
        """The file behind a media path that an item has, or None; see `Catalogue.media_file` for the gates."""
        if PurePosixPath(path).suffix.lower() not in MEDIA_TYPES:
            return None
        if path.startswith(f"{ADDED}/") and any(path in (i.image, i.audio, i.video) for i in self._items.values()):
            return self._log.media_file(path)
        return self._base.media_file(path)

    def read_media(self, path: str) -> bytes:
        """The content of a media path: of one that came with an added item, or under the dataset folder's `media/`.

        Raises:
            MediaError: there is no such file, or its path leads out of the folder.
        """
        file = self._log.media_file(path)
        if file is not None:
            return read_media(file.parent, file.name)
        if self._media is None:
            raise MediaError("path: this gateway has no media folder; send the file itself")
        return read_media(self._media, path)


def _read_stamp(ingest: Path) -> int:
    items = ingest / "items.parquet"
    return items.stat().st_mtime_ns if items.is_file() else 0


def _shown(item: LiveItem) -> Item:
    day = datetime.datetime.fromtimestamp(item.created_at, tz=datetime.UTC).date() if item.created_at else None
    return Item(
        item_id=item.item_id,
        title=item.title,
        description=item.description,
        categories=item.categories.replace("|", ", "),
        price=None if item.price is None else round(item.price, 2),
        created=None if day is None else day.isoformat(),
        domain=item.domain,
        image=item.image,
        audio=item.audio,
        video=item.video,
    )
