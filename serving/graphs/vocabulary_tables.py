"""Ids to rows and back inside a graph: requests carry strings, and no one needs the vocabulary beside the model."""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from data.schema import UNKNOWN_ROW


class _VocabularyFile(tf.lookup.TextFileInitializer):
    """Rows by line number, from 1 on, under a name drawn from the content.

    The file lacks the line of row 0, since TensorFlow refuses empty lines.

    TensorFlow's own name holds the file's path: two vocabularies at one path would share a table in a process, and a
    saved graph would tell where it was made.
    """

    def __init__(self, path: Path, name: str):
        self._table_name = name
        whole_line, line_number = tf.lookup.TextFileIndex.WHOLE_LINE, tf.lookup.TextFileIndex.LINE_NUMBER
        super().__init__(str(path), tf.string, whole_line, tf.int64, line_number, value_index_offset=1)

    @property
    def _shared_name(self):
        return self._table_name


class VocabularyTables(tf.Module):
    """One vocabulary in both directions; unknown ids are row 0, and row 0 is the empty id.

    Args:
        path: text file, one id a line, line number = row, line 0 empty. Its other lines become an asset of the
            SavedModel.
        name: of the vocabulary, for error texts and variable names.

    Attributes:
        size: rows, row 0 included. asset: the file that a SavedModel takes along. table_name: of the table in the graph.

    Raises:
        ValueError: line 0 is not empty, another line is, an id occurs twice, or holds a carriage return, which
            TensorFlow's reader drops.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "item_ids.txt"
        >>> _ = file.write_text("\\nblue\\nkind of blue\\n")
        >>> items = VocabularyTables(file, "items")
        >>> items.rows([["kind of blue", "?", ""]]).numpy().tolist(), items.ids([2, 0]).numpy().tolist()
        ([[2, 0, 0]], [b'kind of blue', b''])
    """

    def __init__(self, path: str | Path, name: str):
        super().__init__(name=name)
        path = Path(path)
        data = path.read_bytes()
        ids = data.removesuffix(b"\n").split(b"\n")
        _check(ids, path)
        self.size = len(ids)
        # Lives as long as the table, which copies it when it is saved.
        self._folder = tempfile.TemporaryDirectory(prefix="triptych_")
        self.asset, self.table_name = Path(self._folder.name) / f"{name}.txt", table_name(name, data)
        self.asset.write_bytes(data.removeprefix(b"\n"))
        self.table = tf.lookup.StaticHashTable(_VocabularyFile(self.asset, self.table_name), UNKNOWN_ROW)
        strings = np.array(ids, object)
        # The graph is the same however many ids there are.
        self.strings = tf.Variable(strings, trainable=False, shape=tf.TensorShape((None,)), name=f"{name}_ids")

    def rows(self, ids: Any) -> tf.Tensor:
        """Rows of ids, any shape, int32."""
        return tf.cast(self.table.lookup(tf.convert_to_tensor(ids, tf.string)), tf.int32)

    def ids(self, rows: Any) -> tf.Tensor:
        """Ids of rows, any shape, string."""
        return tf.gather(self.strings, rows)


def vocabularies_again(previous: Path, *vocabularies: VocabularyTables) -> tuple[dict[str, bytes], dict[bytes, bytes]]:
    """What changes in an earlier SavedModel that is written again with other vocabularies: its assets, and tables' names.

    Args:
        previous: folder of the SavedModel.
    """
    assets = {one.asset.name: one.asset.read_bytes() for one in vocabularies}
    before = {one.table_name: b"\n" + (previous / "assets" / one.asset.name).read_bytes() for one in vocabularies}
    renamed = {
        table_name(one.asset.stem, before[one.table_name]).encode(): one.table_name.encode() for one in vocabularies
    }
    return assets, renamed


def table_name(name: str, data: bytes) -> str:
    """Name of a vocabulary's table in a process and in a graph, of one length for any content: the file `data`.

    Example:
        >>> table_name("items", b"\\nblue\\n")
        'triptych_items_1440d9250252fe27'
    """
    return f"triptych_{name}_{hashlib.sha256(data).hexdigest()[:16]}"


def _check(ids: list[bytes], path: Path) -> None:
    if ids[0] != b"":
        raise ValueError(
            f"{path}: line 0 must be empty, it stands for unknown ids; received {ids[0]!r}; run the ingest stage again"
        )
    seen: set[bytes] = set()
    for row, one in enumerate(ids[1:], 1):
        if not one or one in seen or b"\r" in one:
            rule = "not empty, unique and free of carriage returns"
            raise ValueError(
                f"{path}: every id must be {rule}, received {one!r} in line {row}; run the ingest stage again"
            )
        seen.add(one)
