"""What the gateway, the page and the report know about items, users and histories, read from an ingested run.

Read-only: names, covers, clips and histories come from `<run>/ingest`, media bytes from the dataset folder. Needs no
TensorFlow, so that the gateway can answer popular items while no model does.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote

import numpy as np
import pandas as pd
import pyarrow.parquet as parquet

from data.dataset import gone_rows
from data.media import MediaError, media_path
from data.schema import EVENT_KINDS, UNKNOWN_ROW

MEDIA_TYPES = {
    ".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".webp": "image/webp", ".gif": "image/gif",
    ".wav": "audio/wav", ".flac": "audio/flac", ".mp3": "audio/mpeg", ".ogg": "audio/ogg", ".m4a": "audio/mp4",
    ".mp4": "video/mp4", ".webm": "video/webm",
}  # fmt: skip
"""What is handed out and under which type. Nothing that a browser would run (HTML, SVG) is in it."""

MEDIA_COLUMNS = ("image", "audio", "video")
ITEM_COLUMNS = ("item_id", "title", "description", "categories", "price", "created_at", "domain", *MEDIA_COLUMNS)


@dataclasses.dataclass(frozen=True)
class Item:
    """One catalogue line as the outside sees it; a media path is relative to the media folder and "" when absent."""

    item_id: str
    title: str
    description: str
    categories: str
    price: float | None
    created: str | None
    domain: str
    image: str
    audio: str
    video: str

    def as_json(self) -> dict[str, Any]:
        """The item with its media paths turned into the gateway's addresses; null where there is no file."""
        values = dataclasses.asdict(self)
        for column in MEDIA_COLUMNS:
            values[column] = f"/media/{quote(values[column])}" if values[column] else None
        return values


@dataclasses.dataclass(frozen=True)
class Event:
    """One line of a user's log, with the item's row already turned into its id."""

    item_id: str
    kind: str
    timestamp: int
    positive: bool


class Catalogue:
    """Items, users, histories, popularity and media of one ingested run.

    Args:
        ingest: the ingested folder: `items.parquet`, `users.parquet`, `events.parquet`, `counts.npy`.
        media: the folder that item media paths are relative to, or None when no media may be handed out.

    Raises:
        FileNotFoundError: when `ingest` is not an ingested folder.

    Attributes:
        last_timestamp: the time of the log's last event in UTC seconds; 0 when the log has no times.
        gone: ids of items that are gone from the catalogue: histories may name them, nothing recommends them.
    """

    def __init__(self, ingest: str | Path, media: str | Path | None = None) -> None:
        self.ingest = Path(ingest)
        for name in ("items.parquet", "users.parquet", "events.parquet", "counts.npy"):
            if not (self.ingest / name).is_file():
                raise FileNotFoundError(
                    f"ingest: must be an ingested folder with {name}, received {str(self.ingest)!r}; "
                    "run the ingest stage first"
                )
        self.media = Path(media).resolve() if media is not None else None
        self._items = _read_columns(self.ingest / "items.parquet", ITEM_COLUMNS)
        self._users = pd.read_parquet(self.ingest / "users.parquet")
        self._item_rows = {item_id: row for row, item_id in enumerate(self._items["item_id"]) if row != UNKNOWN_ROW}
        self._user_rows = {user_id: row for row, user_id in enumerate(self._users["user_id"]) if row != UNKNOWN_ROW}
        self._media_files = {
            path for column in MEDIA_COLUMNS if column in self._items for path in self._items[column] if _text(path)
        }
        rows: np.ndarray = gone_rows(self._items) if "created_at" in self._items else np.zeros(0, np.int32)
        self.gone = frozenset(self._items["item_id"].iloc[rows])
        events = _read_columns(self.ingest / "events.parquet", ("user", "item", "timestamp", "event", "positive"))
        # Stable, so that the log's own order decides between events of the same second.
        events = events.sort_values(["user", "timestamp"], kind="stable")
        self._event_items = events["item"].to_numpy(np.int32)
        self._event_times = events["timestamp"].to_numpy(np.int64)
        self._event_kinds = events["event"].to_numpy(np.int8)
        self._event_positive = (
            events["positive"].to_numpy(bool) if "positive" in events else np.ones(len(events), dtype=bool)
        )
        self._offsets = np.searchsorted(events["user"].to_numpy(), np.arange(len(self._users) + 1))
        self.last_timestamp = int(self._event_times.max(initial=0))
        counts = np.load(self.ingest / "counts.npy")
        order = np.argsort(-counts, kind="stable")
        self._popular = order[order != UNKNOWN_ROW]
        profile = self.ingest / "profile_vocabulary.json"
        self._profile_words: dict[str, list[str]] = json.loads(profile.read_text()) if profile.is_file() else {}

    @property
    def item_count(self) -> int:
        return len(self._item_rows)

    @property
    def user_count(self) -> int:
        return len(self._user_rows)

    def knows_user(self, user_id: str) -> bool:
        return user_id in self._user_rows

    def knows_item(self, item_id: str) -> bool:
        return item_id in self._item_rows

    def item(self, item_id: str) -> Item | None:
        """The item of that id; None when the catalogue has none."""
        row = self._item_rows.get(item_id)
        if row is None:
            return None
        values: dict[str, Any] = {name: self._items[name].iat[row] for name in self._items.columns}
        created = _whole(values.get("created_at"))
        price = values.get("price")
        return Item(
            item_id=item_id,
            title=_text(values.get("title")),
            description=_text(values.get("description")),
            categories=_text(values.get("categories")).replace("|", ", "),
            price=None if price is None or not math.isfinite(float(price)) else round(float(price), 2),
            created=_day(created) if created else None,
            domain=_text(values.get("domain")),
            image=_text(values.get("image")),
            audio=_text(values.get("audio")),
            video=_text(values.get("video")),
        )

    def domains(self) -> dict[str, list[str]]:
        """Ids of the items of each domain, in the order of their rows; items that name none are in none."""
        if "domain" not in self._items:
            return {}
        table = self._items.iloc[UNKNOWN_ROW + 1 :]
        named = table[(table["domain"].map(_text) != "") & ~table["item_id"].isin(self.gone)]
        return {str(name): ids.astype(str).tolist() for name, ids in named.groupby("domain")["item_id"]}

    def history(self, user_id: str, limit: int) -> list[Event]:
        """The user's events, most recent first, at most `limit`; empty for a user never seen."""
        row = self._user_rows.get(user_id)
        if row is None:
            return []
        start, stop = int(self._offsets[row]), int(self._offsets[row + 1])
        ids = self._items["item_id"]
        return [
            Event(
                item_id=str(ids.iat[int(self._event_items[at])]),
                kind=EVENT_KINDS[int(self._event_kinds[at])],
                timestamp=int(self._event_times[at]),
                positive=bool(self._event_positive[at]),
            )
            for at in range(stop - 1, max(start, stop - limit) - 1, -1)
        ]

    def profile(self, user_id: str) -> dict[str, str]:
        """The user's known profile values in words; empty for a user never seen."""
        row = self._user_rows.get(user_id)
        words: dict[str, str] = {}
        if row is None:
            return words
        for column, vocabulary in self._profile_words.items():
            code = int(self._users[f"profile_{column}"].to_numpy()[row])
            if 0 < code < len(vocabulary):
                words[column] = str(vocabulary[code])
        return words

    def profile_choices(self, users: int = 5, words: int = 50) -> dict[str, list[str]]:
        """What a visitor may say of themselves: the words of each profile column that at least some users share, the most
        frequent first; columns of more words than people can look through are left out."""
        choices: dict[str, list[str]] = {}
        for column, vocabulary in self._profile_words.items():
            counts = np.bincount(self._users[f"profile_{column}"].to_numpy(), minlength=len(vocabulary))
            shared = [code for code, word in enumerate(vocabulary) if word and counts[code] >= users]
            if 0 < len(shared) <= words:
                choices[column] = [str(vocabulary[code]) for code in sorted(shared, key=lambda code: -counts[code])]
        return choices

    def popular(self, k: int, exclude: Iterable[str] = (), among: Iterable[str] | None = None) -> list[str]:
        """Ids of the k items with the most positive training events, without the excluded ones.

        Ties go to the earlier row, so the same run always answers the same.

        Args:
            among: the only items that may be answered; None = all.
        """
        unwanted = {self._item_rows[item_id] for item_id in {*exclude, *self.gone} if item_id in self._item_rows}
        order = self._popular
        if among is not None:
            listed = np.zeros(len(self._items), bool)
            listed[[self._item_rows[item_id] for item_id in among if item_id in self._item_rows]] = True
            order = order[listed[order]]
        ids = self._items["item_id"]
        chosen: list[str] = []
        for row in order:
            if len(chosen) >= k:
                break
            if int(row) not in unwanted:
                chosen.append(str(ids.iat[int(row)]))
        return chosen

    def example_users(self, count: int) -> list[str]:
        """Users spread evenly from long to short histories (none without an event): a fair picture, not the best."""
        lengths = np.diff(self._offsets)
        rows = np.argsort(-lengths, kind="stable")
        rows = rows[(lengths[rows] > 0) & (rows != UNKNOWN_ROW)]
        places = np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(np.int64)
        return [str(self._users["user_id"].iat[int(rows[place])]) for place in places]

    def event_count(self, user_id: str) -> int:
        row = self._user_rows.get(user_id)
        return 0 if row is None else int(self._offsets[row + 1] - self._offsets[row])

    def media_file(self, path: str) -> Path | None:
        """The file behind an item's media path, or None.

        Three gates: the catalogue must name the path, the type must be one that is handed out, and the file, links
        followed, must lie under the media folder.
        """
        if self.media is None or path not in self._media_files:
            return None
        if PurePosixPath(path).suffix.lower() not in MEDIA_TYPES:
            return None
        try:
            return media_path(self.media, path)
        except MediaError:
            return None


def media_folder(source: str | Path | None) -> Path | None:
    """The media folder of a dataset folder; None when there is none."""
    folder = Path(source) / "media" if source is not None else None
    return folder if folder is not None and folder.is_dir() else None


def _read_columns(path: Path, wanted: Sequence[str]) -> pd.DataFrame:
    """Those of the wanted columns that the file has: optional ones may be absent."""
    available = set(parquet.read_schema(path).names)
    return pd.read_parquet(path, columns=[name for name in wanted if name in available])


def _text(value: Any) -> str:
    """A cell as text: lists joined, missing values empty."""
    if isinstance(value, (list, tuple, np.ndarray)):
        return ", ".join(_text(part) for part in value)
    return "" if value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value)) else str(value)


def _whole(value: Any) -> int:
    return 0 if value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value)) else int(value)


def _day(seconds: int) -> str | None:
    """The UTC day of a time, or None when the number is no time a calendar has."""
    try:
        return datetime.datetime.fromtimestamp(seconds, tz=datetime.UTC).date().isoformat()
    except (OverflowError, OSError, ValueError):
        return None
