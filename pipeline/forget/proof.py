"""The proof that nothing is left of a person: a search through every byte of the folders, and through what bytes hide."""

from __future__ import annotations

import dataclasses
import functools
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.forget.blocks import blocks, starts_with
from pipeline.forget.files import LISTS
from pipeline.forget.ids import KEY, RECORD, USERS_FILES, finder, stands, written_forms
from pipeline.stage import StageError

LEAST_ID, LEAST_VECTOR = 6, 10
"""Bytes. Shorter ones are in any large file by chance."""
PARQUET_MAGIC = b"PAR1"
"""At both ends of a Parquet file, whatever its name."""
TEXTS = (".json", ".jsonl", ".txt", ".html", ".csv", ".svg", ".config", ".toml", ".log")


@dataclasses.dataclass(frozen=True)
class Searched:
    """What a proof rests on: files and bytes searched, and whether the id could be looked for anywhere, or only where users
    are named, because it is too short or a bare number."""

    files: int
    bytes: int
    anywhere: bool


def prove_forgotten(
    folders: Iterable[Path], ids: frozenset[str], vectors: Iterable[bytes] = (), others: frozenset[str] = frozenset()
) -> Searched:
    """Looks for ids and vectors in every file of some folders.

    Where users are named (vocabularies, columns and fields `user_id`, texts in the variables of a SavedModel) any id is
    found. Elsewhere a distinctive one is: of at least six bytes and no bare number, by its bytes, also inside Parquet,
    `.npz` and gzip, but not within an id of somebody else's (`others`, see `ids_around`). Vectors are looked for in all bytes
    but those of Parquet.

    Raises:
        StageError: something is left; names every file.
    """
    search = Search(ids, tuple({vector for vector in vectors if len(vector) >= LEAST_VECTOR}), others)
    left, files, size = [], 0, 0
    for folder in dict.fromkeys(Path(folder) for folder in folders):
        for path in sorted(folder.rglob("*")) if folder.is_dir() else []:
            if path.is_symlink() or not path.is_file():
                continue
            try:
                what, bytes_ = search.trace(path), path.stat().st_size
            except FileNotFoundError:  # such as a lock that was written anew a moment ago
                continue
            files, size = files + 1, size + bytes_
            if what:
                left.append(f"{path} ({what})")
    if left:
        shown = "\n  ".join(left[:20]) + (f"\n  and {len(left) - 20} more" if len(left) > 20 else "")
        raise StageError(
            f"forget-user: something is left of the user in\n  {shown}\nRemove these by hand, or start again."
        )
    return Searched(files, size, search.anywhere)


class Search:
    """A search for one person.

    Args:
        ids: theirs. vectors: bytes of theirs. others: ids of other people that contain one of theirs.
    """

    def __init__(self, ids: frozenset[str], vectors: tuple[bytes, ...] = (), others: frozenset[str] = frozenset()):
        self.ids, self.vectors = ids, vectors
        distinct = [id_ for id_ in ids if len(id_.encode()) >= LEAST_ID and not id_.isdigit()]
        self.anywhere = len(distinct) == len(ids)
        self._alone = finder(distinct, others) if distinct else None
        self._refused = self._alone or finder(ids, others)
        # Packed strings have no space between them, so that only a number that goes on tells another id.
        forms = [re.escape(form.encode()) for form in written_forms(distinct)]
        bounded = [(rb"(?<!\d)" if form[:1].isdigit() else b"") + form + (rb"(?!\d)" if form[-1:].isdigit() else b"")
                   for form in forms]  # fmt: skip
        packed = re.compile(b"|".join(bounded)) if bounded else None
        around = [other for other in others if packed and packed.search(other.encode())]
        theirs = [re.escape(form.encode()) for form in written_forms(around)]
        self._packed = packed and functools.partial(stands, packed, re.compile(b"|".join(theirs)) if theirs else None)
        # One character more on either side tells whether an id stands alone.
        self._longest = 8 + max(map(len, [*self.vectors, *(form.encode() for form in written_forms([*ids, *others]))]))

    def trace(self, path: Path) -> str:
        """What a file has of the person, in a word; "" nothing."""
        if starts_with(path, PARQUET_MAGIC):
            try:
                return "id" if self._in_table(path) else ""
            except (pa.ArrowException, OSError):
                return "a broken Parquet file, which cannot be searched"
        if path.name in USERS_FILES:
            return "id" if not self.ids.isdisjoint(path.read_text(encoding="utf-8").split("\n")) else ""
        if path.suffix in (".json", ".jsonl") and self._in_json(path):
            return "id"
        if path.name == "variables.index" and self._in_variables(path.with_suffix("")):
            return "id"
        for block in blocks(path, self._longest):
            if any(vector in block.content for vector in self.vectors):
                return "vector"
            if path.name.startswith("variables.data"):
                continue  # its texts have no ends: they are read one by one beside
            if path.suffix in TEXTS:
                if self._alone and self._alone(block.content.decode("utf-8", errors="replace"), block.head, block.tail):
                    return "id"
            elif self._packed and self._packed(block.content, block.head, block.tail):
                return "id"
        return ""

    def _in_table(self, path: Path) -> bool:
        file = pq.ParquetFile(path)
        for name in file.schema_arrow.names:
            for column in file.read(columns=[name])[name].chunks:
                if pa.types.is_dictionary(column.type):
                    column = column.dictionary  # with what no row uses any more
                if name == KEY:
                    if not self.ids.isdisjoint(_as_texts(column)):
                        return True
                    continue  # an id is whole there
                if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
                    break
                named = self._refused if name == RECORD else self._alone
                if named and any(value and named(value) for value in column.unique().to_pylist()):
                    return True
        return False

    def _in_json(self, path: Path) -> bool:
        if path.suffix == ".json" and (whole := _told(path.read_text(encoding="utf-8", errors="replace"))) is not None:
            return self._named(whole)
        # JSON lines, whatever their name.
        with path.open(encoding="utf-8", errors="replace") as lines:
            return any(self._named(_told(line)) for line in lines)

    def _named(self, value: Any, users: bool = False) -> bool:
        if isinstance(value, dict):
            named = value.get(KEY) in self.ids if isinstance(value.get(KEY), str) else False
            return named or any(
                (users and name in self.ids) or self._named(one, name in LISTS) for name, one in value.items()
            )
        if isinstance(value, list):
            return any(self._named(one, users) for one in value)
        return users and isinstance(value, str) and value in self.ids

    def _in_variables(self, prefix: Path) -> bool:
        import tensorflow as tf

        reader = tf.train.load_checkpoint(str(prefix))
        texts = [name for name, kind in reader.get_variable_to_dtype_map().items() if kind == tf.string]
        for name in texts:
            if "users" not in name and not self.anywhere:
                continue  # a short id may be anything elsewhere than in a vocabulary of users
            values = {bytes(value) for value in np.asarray(reader.get_tensor(name), object).ravel()}
            if any(id_.encode() in values for id_ in self.ids):
                return True
        return False


def _told(text: str) -> Any:
    """What a text says as JSON; None where it is none, as prose or a line that a kill cut off."""
    try:
        return json.loads(text)
    except ValueError:
        return None


def _as_texts(column: pa.Array) -> set[str]:
    return {str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
            for value in column.unique().to_pylist() if value is not None}  # fmt: skip
