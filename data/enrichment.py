"""Text that a language model wrote about items: kept beside the items' own, marked as generated, never in its place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

GENERATED_FILE = "generated.parquet"
FIELDS = ("caption", "summary", "attributes")
"""What is generated, in the order in which it is appended."""
COLUMNS = ("item_id", "field", "text", "model", "prompt")
"""`model` is preset and fingerprint of the writer, `prompt` the hash of everything that went in."""


def write_generated(folder: str | Path, rows: Sequence[Mapping[str, str]]) -> None:
    """Fill a folder with `generated.parquet`, one line an item and field; the caller renames the folder once it is whole.

    Raises:
        ValueError: a row without one of `COLUMNS`, or a field outside `FIELDS`.
    """
    for row in rows:
        if set(row) != set(COLUMNS) or row["field"] not in FIELDS:
            raise ValueError(f"rows: must have {COLUMNS} with a field among {FIELDS}, received {dict(row)}")
    frame = pd.DataFrame(list(rows), columns=list(COLUMNS)).astype("str")
    frame.to_parquet(Path(folder) / GENERATED_FILE, index=False)


def read_generated(folder: str | Path) -> dict[str, dict[str, str]]:
    """{item_id: {field: text}} of an enriched folder.

    Raises:
        FileNotFoundError: the stage has not run there.
    """
    file = Path(folder) / GENERATED_FILE
    if not file.is_file():
        raise FileNotFoundError(f"folder: must hold {GENERATED_FILE}, received {folder}; run `enrich`")
    generated: dict[str, dict[str, str]] = {}
    frame = pd.read_parquet(file, columns=["item_id", "field", "text"])
    for item_id, field, text in frame.itertuples(index=False):
        generated.setdefault(str(item_id), {})[str(field)] = str(text)
    return generated


def with_generated(items: pd.DataFrame, generated: Mapping[str, Mapping[str, str]]) -> pd.DataFrame:
    """A copy of the items with a column `generated`, {field: text} or None, for `enriched_text`; other columns stay.

    Example:
        >>> items = pd.DataFrame({"item_id": ["", "a"], "title": ["", "Blue Hour"]})
        >>> with_generated(items, {"a": {"caption": "Slow piano."}})["generated"].tolist()
        [None, {'caption': 'Slow piano.'}]
    """
    cells = [generated.get(item_id) for item_id in items["item_id"].astype("str")]
    return items.assign(generated=pd.Series(cells, index=items.index, dtype=object))


def enriched_text(text: str, generated: Mapping[str, str] | None) -> str:
    """An item's own text, and behind it what was generated for it; the own text comes first and whole.

    Args:
        text: what the item brings (may be empty).
        generated: {field: text}, or None where there is nothing.

    Example:
        >>> enriched_text("Blue Hour", {"caption": "Slow piano at dusk.", "attributes": "mood: calm"})
        'Blue Hour. Slow piano at dusk. mood: calm'
        >>> enriched_text("Blue Hour", None)
        'Blue Hour'
    """
    parts = [text, *((generated or {}).get(field, "") for field in FIELDS)]
    kept = [part.strip() for part in parts if part.strip()]
    return " ".join(part if part.endswith((".", "!", "?", "。")) or part is kept[-1] else f"{part}." for part in kept)
