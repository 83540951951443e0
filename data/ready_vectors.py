"""Ready-made content vectors of a dataset folder: found, checked, and aligned to the catalogue by item id."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from data.columns import as_texts
from data.features import CHUNK, FeatureWriter
from data.half_precision import unusable_reason


@dataclasses.dataclass(frozen=True)
class ReadyVectors:
    """Vectors that came with the dataset.

    Attributes:
        file: its name inside the dataset folder, for messages.
        ids: R item ids.
        vectors: numbers [R, F_m], memory-mapped.
    """

    file: str
    ids: np.ndarray
    vectors: np.ndarray

    @classmethod
    def find(cls, source: str | Path, modality: str) -> ReadyVectors | None:
        """The vectors of `<source>/features/<modality>.npy`, or None if the dataset brings none.

        Raises:
            ValueError: no ids beside the vectors, a shape other than [R, F_m], no numbers, or another number
                of ids than of vectors.
        """
        path = Path(source) / "features" / f"{modality}.npy"
        if not path.is_file():
            return None
        file, ids_path = f"features/{modality}.npy", path.with_suffix(".ids.parquet")
        if not ids_path.is_file():
            raise ValueError(f"{file}: needs features/{modality}.ids.parquet (column item_id) beside it, received none")
        vectors = np.load(path, mmap_mode="r", allow_pickle=False)
        if vectors.ndim != 2 or not vectors.shape[1] or vectors.dtype.kind not in "fiu":
            raise ValueError(f"{file}: must be numbers [R, F_m], received {vectors.dtype} {vectors.shape}")
        with ids_path.open("rb") as handle:
            table = pq.read_table(handle)
        if "item_id" not in table.column_names:
            raise ValueError(f"{ids_path.name}: must have the column item_id, received {table.column_names}")
        if len(table) != len(vectors):
            raise ValueError(f"{file}: one vector an id, received {len(vectors)} vectors and {len(table)} ids")
        return cls(file, np.array(as_texts(table["item_id"]).to_pylist(), dtype=object), vectors)

    def copy_into(self, writer: FeatureWriter, modality: str, rows_of: Mapping[str, int]) -> dict[str, int]:
        """Align by item_id and store; rows that are not finite and second rows of an id go to the quarantine.

        Args:
            rows_of: item row by id. Ids outside it are counted and left out: the catalogue may be a part of the set.

        Returns:
            counts: stored, quarantined, outside.
        """
        writer.add(modality, self.vectors.shape[1])
        target = np.fromiter((rows_of.get(item_id, 0) for item_id in self.ids), np.int64, len(self.ids))
        known = np.flatnonzero(target > 0)
        _, first = np.unique(target[known], return_index=True)
        kept = known[np.sort(first)]
        for line in np.setdiff1d(known, kept):
            self._refuse(writer, modality, line, "duplicate: a second vector for this item_id")
        stored = 0
        for start in range(0, len(kept), CHUNK):
            lines = kept[start : start + CHUNK]
            usable = writer.put(modality, target[lines], self.vectors[lines])
            stored += int(usable.sum())
            for line in lines[~usable]:
                self._refuse(writer, modality, line, unusable_reason(self.vectors[line]))
        return {"stored": stored, "quarantined": len(known) - stored, "outside": len(self.ids) - len(known)}

    def _refuse(self, writer: FeatureWriter, modality: str, line: int, reason: str) -> None:
        writer.quarantine(self.file, int(line), reason, {"item_id": self.ids[line], "modality": modality})
