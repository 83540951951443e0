"""The proof that nothing is left of a person: a search through every byte of the folders, and through what bytes hide."""

from __future__ import annotations

import dataclasses
import gzip
import json
import re
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.forget.files import LISTS
from pipeline.forget.ids import KEY, RECORD, USERS_FILES, finder, written_forms
from pipeline.stage import StageError

LEAST_ID, LEAST_VECTOR = 6, 10
"""Bytes. Shorter ones are in any large file by chance."""
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
            files, size = files + 1, size + path.stat().st_size
            if what := search.trace(path):
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
        self._packed = re.compile(b"|".join(bounded)) if bounded else None
        around = [other for other in others if self._packed and self._packed.search(other.encode())]
        theirs = [re.escape(form.encode()) for form in written_forms(around)]
        self._around = re.compile(b"|".join(theirs)) if theirs else None

    def trace(self, path: Path) -> str:
        """What a file has of the person, in a word; "" nothing."""
        if path.suffix == ".parquet":
            return "id" if self._in_table(path) else ""
        if path.name in USERS_FILES:
            return "id" if not self.ids.isdisjoint(path.read_text(encoding="utf-8").split("\n")) else ""
        if path.suffix == ".json" and self._named(json.loads(path.read_text(encoding="utf-8"))):
            return "id"
        if path.name == "variables.index" and self._in_variables(path.with_suffix("")):
            return "id"
        for content in contents(path):
            if any(vector in content for vector in self.vectors):
                return "vector"
            if path.name.startswith("variables.data"):
                continue  # its texts have no ends: they are read one by one beside
            if path.suffix in TEXTS:
                if self._alone and self._alone(content.decode("utf-8", errors="replace")):
                    return "id"
            elif self._packed and self._packed.search(self._around.sub(b" ", content) if self._around else content):
                return "id"
        return ""

    def _in_table(self, path: Path) -> bool:
        table = pq.ParquetFile(path).read()
        for name in table.column_names:
            column = table[name].combine_chunks()
            if pa.types.is_dictionary(column.type):
                column = column.dictionary  # with what no row uses any more
            if name == KEY:
                if not self.ids.isdisjoint(_as_texts(column)):
                    return True
                continue  # an id is whole there
            if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
                continue
            named = self._refused if name == RECORD else self._alone
            if named and any(value and named(value) for value in column.unique().to_pylist()):
                return True
        return False

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


def contents(path: Path) -> Iterator[bytes]:
    """A file's bytes, unpacked where they are packed."""
    if path.suffix == ".npz" and zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                yield archive.read(name)
    elif path.suffix == ".gz":
        yield gzip.decompress(path.read_bytes())
    else:
        yield path.read_bytes()


def _as_texts(column: pa.Array) -> set[str]:
    return {str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
            for value in column.unique().to_pylist() if value is not None}  # fmt: skip
