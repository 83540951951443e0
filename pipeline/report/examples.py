"""Ten users to look at: history → retrieved → ranked, with covers small enough to stand inside the page."""

from __future__ import annotations

import base64
import dataclasses
import io
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from serving.catalogue.catalogue import Catalogue

THUMBNAIL = 112
"""Pixels a side: sharp at the size shown, a few kilobytes each."""
USERS, SHOWN = 10, 10


@dataclasses.dataclass(frozen=True)
class Tile:
    """One item in a row of covers. `cover` is a data address or ""; `place` and `note` are words under the title."""

    title: str
    cover: str
    place: str = ""
    note: str = ""
    chosen: bool = False


@dataclasses.dataclass(frozen=True)
class Example:
    """One user: who, how many of the held-out items each row holds, and the three rows."""

    user_id: str
    about: str
    rows: list[tuple[str, list[Tile]]]


class Thumbnails:
    """Covers as JPEG data addresses, each decoded once; an item without a readable cover has none."""

    def __init__(self, catalogue: Catalogue) -> None:
        self.catalogue = catalogue
        self._known: dict[str, str] = {}

    def of(self, path: str) -> str:
        if path not in self._known:
            file = self.catalogue.media_file(path) if path else None
            self._known[path] = "" if file is None else thumbnail(file)
        return self._known[path]


def thumbnail(file: Path) -> str:
    """The picture, cut to a square, as a data address; "" when it cannot be decoded.

    A broken cover is a row of the quarantine, not a reason to be without a report.
    """
    try:
        with warnings.catch_warnings(), Image.open(file) as picture:
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            picture.draft("RGB", (2 * THUMBNAIL, 2 * THUMBNAIL))
            side = min(picture.size)
            left, top = (picture.width - side) // 2, (picture.height - side) // 2
            square = picture.convert("RGB").crop((left, top, left + side, top + side))
            small = square.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError, Image.DecompressionBombWarning):
        return ""
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=72, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def make_examples(entries: Sequence[Mapping[str, Any]], catalogue: Catalogue) -> list[Example]:
    """The examples that the evaluation chose, in words and pictures.

    Args:
        entries: {user_id, history: [item_id], retrieved: [[item_id, score]], ranked: [[item_id, score]],
            held_out: [item_id]}; missing lists count as empty.
        catalogue: titles and covers.
    """
    thumbnails = Thumbnails(catalogue)
    return [_example(entry, thumbnails) for entry in entries[:USERS]]


def _example(entry: Mapping[str, Any], thumbnails: Thumbnails) -> Example:
    held_out = [str(item_id) for item_id in entry.get("held_out") or []]
    retrieved = [(str(item_id), score) for item_id, score in entry.get("retrieved") or []]
    ranked = [(str(item_id), score) for item_id, score in entry.get("ranked") or []]
    place_of = {item_id: place for place, (item_id, _) in enumerate(retrieved, start=1)}

    def was(item_id: str) -> str:
        """The place in the retrieval order, of which the evaluation keeps the beginning."""
        if item_id in place_of:
            return f"was #{place_of[item_id]}"
        return f"was below #{len(retrieved)}" if retrieved else ""

    def tile(item_id: str, place: str = "", note: str = "") -> Tile:
        item = thumbnails.catalogue.item(item_id)
        chosen = bool(place) and item_id in held_out
        title = (item.title if item is not None else "") or item_id
        return Tile(title, thumbnails.of(item.image) if item is not None else "", place, note, chosen)

    rows = [
        ("History", [tile(str(item_id)) for item_id in (entry.get("history") or [])[:SHOWN]]),
        (
            "Retrieved",
            [tile(item_id, f"#{at}", _score(score)) for at, (item_id, score) in enumerate(retrieved[:SHOWN], 1)],
        ),
        (
            "Ranked",
            [
                tile(
                    item_id,
                    f"#{at}",
                    ", ".join(filter(None, [_score(score), was(item_id)])),
                )
                for at, (item_id, score) in enumerate(ranked[:SHOWN], 1)
            ],
        ),
    ]
    hits = [sum(tile.chosen for tile in tiles) for _, tiles in rows[1:]]
    about = f"Went on to choose {len(held_out)} item{'' if len(held_out) == 1 else 's'}"
    if held_out:
        retrieved_count, ranked_count = len(rows[1][1]), len(rows[2][1])
        about += f": {hits[0]} of the first {retrieved_count} retrieved, {hits[1]} of the first {ranked_count} ranked"
    return Example(str(entry.get("user_id", "")), about + ".", [(name, tiles) for name, tiles in rows if tiles])


def _score(score: Any) -> str:
    return f"{float(score):.3f}" if isinstance(score, int | float) else ""
