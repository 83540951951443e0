"""A person's ids in texts: where one stands alone, and where it is but a part of somebody else's."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, AnyStr

import pyarrow.parquet as pq

from data.columns import read_ids
from data.validation import RowChecks
from serving.feedback.partitions import read_written

KEY, RECORD = "user_id", "record"
"""Columns that say whose a row is: by its id, or as the text of a refused row."""
USERS_FILES = ("user_ids.txt", "users.txt")


def pattern(ids: Iterable[str]) -> re.Pattern[str]:
    """Matches any of the ids where it stands alone: `u1` is not in `u10`. In JSON an id may be escaped."""
    either = "|".join(re.escape(form) for form in written_forms(ids))
    return re.compile(rf"(?<![\w-])(?:{either})(?![\w-])")


def written_forms(ids: Iterable[str]) -> list[str]:
    """The ids, as they are and as JSON writes them, the longest first."""
    return sorted({form for id_ in ids for form in (id_, json.dumps(id_)[1:-1])}, key=len, reverse=True)


def finder(ids: Iterable[str], others: Iterable[str] = ()) -> Callable[..., bool]:
    """Says of a text whether any of the ids stands alone in it, and not only within one of somebody else's; `head` and `tail`
    as for `stands`.

    Example:
        >>> found = finder(["lee@a.org"], ["ann.lee@a.org"])
        >>> [found(text) for text in ("by ann.lee@a.org", "by ann.lee@a.org, lee@a.org", "by mailto:lee@a.org")]
        [False, True, True]
    """
    mine = pattern(ids)
    around = [other for other in others if mine.search(other)]
    return functools.partial(stands, mine, pattern(around) if around else None)


def stands(
    mine: re.Pattern[AnyStr], theirs: re.Pattern[AnyStr] | None, text: AnyStr, head: int = 0, tail: int = 0
) -> bool:
    """Whether a pattern matches in a text where another one does not, and outside the edges of a part of a text.

    Args:
        head, tail: characters at the two edges in which no match counts, because it may be cut off there.
    """
    if theirs is not None:
        blank: Any = " " if isinstance(text, str) else b" "
        text = theirs.sub(lambda match: blank * (match.end() - match.start()), text)
    return any(head <= match.start() and match.end() <= len(text) - tail for match in mine.finditer(text))


def ids_around(folders: Iterable[Path], ids: frozenset[str]) -> frozenset[str]:
    """Ids of other people that contain one of these, as `ann.lee@example.com` contains `lee@example.com`: of vocabularies,
    of tables with a column `user_id` or `record`, and of log files."""
    found: set[str] = set()
    for folder in folders:
        for path in folder.rglob("*"):
            if path.is_file() and not path.is_symlink():
                found.update(other for other in _users(path) if any(id_ in other for id_ in ids))
    return frozenset(found - ids)


def _users(path: Path) -> Iterator[str]:
    if path.name in USERS_FILES:
        yield from path.read_text(encoding="utf-8").split("\n")
    elif path.suffix == ".jsonl":
        yield from (str(event.get(KEY)) for event in read_written(path)[0])
    elif path.suffix == ".parquet":
        file = pq.ParquetFile(path)
        table = file.read(columns=[name for name in (KEY, RECORD) if name in file.schema_arrow.names])
        if KEY in table.column_names:
            yield from read_ids(table, KEY, RowChecks(table.num_rows)).values
        if RECORD in table.column_names:
            yield from (_whose(str(record)) for record in table[RECORD].to_pylist())


def _whose(record: str) -> str:
    try:
        told = json.loads(record)
    except ValueError:  # a column of the dataset's own that happens to have this name
        return ""
    return str(told.get(KEY, "")) if isinstance(told, dict) else ""
