"""Outside ids to inside rows: row 0 is reserved for unknown and absent, and the order never changes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from data.columns import BAD_ID_CHARACTERS, MAX_ID_BYTES
from data.validation import DatasetError


class Vocabulary:
    """A one-to-one map between ids (strings) and rows 1..N; unknown ids map to row 0.

    Stored as a text file, one id a line, line number = row, line 0 empty: the form that TensorFlow's lookup tables and
    any other tool read. So an id is one non-blank line of at most 512 bytes in UTF-8, without control characters.

    Raises:
        DatasetError: an id that is repeated or is not such a line.

    Example:
        >>> vocabulary = Vocabulary(["b", "a"])
        >>> vocabulary.rows(["a", "never seen"]).tolist(), len(vocabulary)
        ([2, 0], 3)
    """

    def __init__(self, ids: Sequence[str] | np.ndarray) -> None:
        self._index = pd.Index(np.asarray(ids, dtype=object), dtype=object)
        faults = id_faults(self._index)
        if faults.any():
            first = int(np.flatnonzero(faults)[0])
            raise DatasetError(
                f"ids: each must be one non-blank line of at most {MAX_ID_BYTES} bytes without control characters, "
                f"received {self._index[first]!r} at position {first}. Rename it."
            )
        if not self._index.is_unique:
            repeated = self._index[self._index.duplicated()][0]
            raise DatasetError(f"ids: must be unique, received {repeated!r} more than once. Drop the repetitions.")

    def __len__(self) -> int:
        """N + 1: the number of rows, row 0 included."""
        return len(self._index) + 1

    def __iter__(self) -> Iterator[str]:
        """The ids of rows 1..N."""
        return iter(self._index)

    def __contains__(self, id_: str) -> bool:
        return id_ in self._index

    def rows(self, ids: Iterable[str] | np.ndarray) -> np.ndarray:
        """int32 [B]: the row of each id, 0 for an unknown one."""
        wanted = pd.Index(np.asarray(ids if isinstance(ids, np.ndarray) else list(ids), dtype=object), dtype=object)
        return (self._index.get_indexer(wanted) + 1).astype(np.int32)

    def to_array(self) -> np.ndarray:
        """Ids of all rows, dtype object [N+1]; row 0 is ""."""
        return np.concatenate([np.array([""], dtype=object), self._index.to_numpy(dtype=object)])

    def save(self, path: str | Path) -> None:
        # Bytes, because text mode would translate line ends on some systems.
        Path(path).write_bytes("".join(f"{id_}\n" for id_ in self.to_array()).encode())

    @classmethod
    def load(cls, path: str | Path) -> Vocabulary:
        """Read the text file back.

        Raises:
            DatasetError: the first line is not empty, or the file was cut.
        """
        text = Path(path).read_bytes().decode()
        if not text.startswith("\n") or not text.endswith("\n"):
            raise DatasetError(
                f"{path}: must begin with an empty line (row 0) and end with a line break, received {text[:20]!r}… "
                f"to …{text[-20:]!r}. The file was cut or edited: ingest again."
            )
        return cls(text[:-1].split("\n")[1:])


def id_faults(ids: pd.Index) -> np.ndarray:
    """bool [U]: which ids cannot stand on one line of a vocabulary file."""
    if not len(ids):
        return np.zeros(0, np.bool_)
    if not all(isinstance(id_, str) for id_ in ids):
        return np.array([not isinstance(id_, str) for id_ in ids])
    texts = pd.Series(ids, dtype=object)
    # Python's `re` writes code points as \x.. and \u....; RE2, which reads the columns, writes \x{....}.
    control = BAD_ID_CHARACTERS.replace(r"\x{85}", "\x85").replace(r"\x{2028}", "\u2028").replace(r"\x{2029}", "\u2029")
    sizes = texts.map(lambda id_: len(id_.encode("utf-8", errors="replace"))).to_numpy()
    lone = texts.map(lambda id_: any("\ud800" <= character <= "\udfff" for character in id_)).to_numpy(np.bool_)
    blank = texts.map(lambda id_: not id_.strip()).to_numpy(np.bool_)
    return blank | (sizes > MAX_ID_BYTES) | lone | texts.str.contains(control, regex=True).to_numpy(np.bool_)
