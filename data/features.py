"""The feature store: one fp16 row an item and modality on disk, memory-mapped, with a present mask.

Layout of a store folder (N items, M modalities in the order of `data.schema.MODALITIES`):

- `<modality>.npy` fp16 [N+1, F_m]; row 0 and absent rows are zeros,
- `present.npy` bool [N+1, M]; modalities that are not stored are all False,
- `widths.json` {modality: F_m}, `info.json` (counts, encoders, speed), `quarantine.parquet`,
- `checksums.json`, what the arrays must hash to.

The vectors come out of the content store (`data.content_store`), which runs share; this folder is one run's own.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from data.checksums import damaged_file, write_checksums
from data.half_precision import to_half
from data.schema import MODALITIES

QUARANTINE_COLUMNS = ("file", "row", "reason", "record")
CHUNK = 8192


@dataclasses.dataclass(frozen=True)
class FeatureStore:
    """Content features of a catalogue, open for reading.

    Attributes:
        folder: where it lies.
        widths: F_m of each stored modality, in the order of `MODALITIES`.
        present: bool [N+1, M].
        info: what the encode stage counted.
        tables: fp16 [N+1, F_m] memory maps.
    """

    folder: Path
    widths: dict[str, int]
    present: np.ndarray
    info: dict[str, Any]
    tables: dict[str, np.ndarray] = dataclasses.field(repr=False)

    @property
    def modalities(self) -> tuple[str, ...]:
        """The stored modalities, in the order of `MODALITIES`."""
        return tuple(self.widths)

    @property
    def item_rows(self) -> int:
        """N + 1."""
        return len(self.present)

    @property
    def frames(self) -> dict[str, int]:
        """T of the modalities whose vectors are T frames side by side (video)."""
        counts = {name: part.get("frames", 0) for name, part in self.info.get("modalities", {}).items()}
        return {name: int(count) for name, count in counts.items() if count and name in self.widths}

    def pooled(self, modality: str) -> np.ndarray:
        """fp16 [N+1, F]: the table, with frames side by side averaged, for those who do not look at single frames."""
        count = self.frames.get(modality, 1)
        if count == 1:
            return self.table(modality)
        table = self.table(modality)
        pooled = np.empty((len(table), table.shape[1] // count), np.float16)
        for start in range(0, len(table), CHUNK):
            block = np.asarray(table[start : start + CHUNK], np.float32)
            pooled[start : start + CHUNK] = block.reshape(len(block), count, -1).mean(axis=1)
        return pooled

    def table(self, modality: str) -> np.ndarray:
        """fp16 [N+1, F_m] of one modality, memory-mapped and read-only."""
        if modality not in self.tables:
            raise KeyError(f"modality: must be among the stored {self.modalities}, received {modality!r}")
        return self.tables[modality]

    def present_of(self, modality: str | Iterable[str]) -> np.ndarray:
        """Which items have a modality, bool [N+1]; of several, [N+1, modalities]."""
        several = not isinstance(modality, str)
        return np.asarray(self.present)[:, [*map(MODALITIES.index, modality)] if several else MODALITIES.index(modality)]

    def gather(self, modality: str, rows: np.ndarray) -> np.ndarray:
        """float32 [B, F_m]: the vectors of some item rows [B]; absent ones are zeros."""
        return np.asarray(self.table(modality)[rows], dtype=np.float32)

    def quarantine(self) -> pd.DataFrame:
        """The media that could not be used: file, row, reason, record."""
        return pd.read_parquet(self.folder / "quarantine.parquet")

    @classmethod
    def open(cls, folder: str | Path, *, thorough: bool | None = None) -> FeatureStore:
        """Open a store and check that its parts belong together.

        Args:
            folder: where `close` wrote one.
            thorough: True hashes everything, False nothing; None hashes what is up to 256 MB, once a process.

        Raises:
            FileNotFoundError: not a store folder.
            ValueError: a table whose shape or type contradicts `widths.json` or `present.npy`, or a damaged one.
        """
        folder = Path(folder)
        if not (folder / "widths.json").is_file():
            raise FileNotFoundError(f"folder: must hold a feature store (widths.json), received {folder}; run `encode`")
        widths = json.loads((folder / "widths.json").read_text())
        present = np.load(folder / "present.npy")
        if present.dtype != np.bool_ or present.ndim != 2 or present.shape[1] != len(MODALITIES):
            raise ValueError(
                f"present.npy: must be bool [N+1, {len(MODALITIES)}], received {present.dtype} {present.shape}"
            )
        tables = {}
        for modality, width in widths.items():
            table = np.load(folder / f"{modality}.npy", mmap_mode="r")
            expected = (len(present), width)
            if table.shape != expected or table.dtype != np.float16:
                raise ValueError(
                    f"{modality}.npy: must be float16 {expected}, received {table.dtype} {table.shape}; encode again"
                )
            tables[modality] = table
        damage = damaged_file(folder, thorough=thorough)
        if damage is not None:
            raise ValueError(f"{folder}: {damage}; remove the folder and encode again")
        info_path = folder / "info.json"
        info = json.loads(info_path.read_text()) if info_path.is_file() else {}
        return cls(folder, widths, present, info, tables)

    @classmethod
    def write(
        cls,
        folder: str | Path,
        tables: Mapping[str, np.ndarray],
        present: np.ndarray,
        *,
        info: Mapping[str, Any] | None = None,
    ) -> FeatureStore:
        """Write whole tables at once (float [N+1, F_m] each, present bool [N+1, M]) and open the result."""
        writer = FeatureWriter(folder, len(present))
        for modality, table in tables.items():
            if len(table) != len(present):
                raise ValueError(f"tables[{modality!r}]: must have {len(present)} rows, received {len(table)}")
            rows = np.flatnonzero(present[:, MODALITIES.index(modality)])
            writer.add(modality, table.shape[1])
            for start in range(0, len(rows), CHUNK):
                writer.put(modality, rows[start : start + CHUNK], table[rows[start : start + CHUNK]])
        return writer.close(info=info)


class FeatureWriter:
    """Fills a store row by row without holding it in memory; the caller renames the folder once it is whole.

    Example:
        >>> import tempfile
        >>> writer = FeatureWriter(tempfile.mkdtemp(), item_rows=3)
        >>> writer.add("image", 2)
        >>> writer.put("image", [2], [[0.5, 1.0]])
        array([ True])
        >>> store = writer.close()
        >>> store.table("image").tolist()
        [[0.0, 0.0], [0.0, 0.0], [0.5, 1.0]]
    """

    def __init__(self, folder: str | Path, item_rows: int) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.present = np.zeros((item_rows, len(MODALITIES)), np.bool_)
        self.cosine_loss: dict[str, float] = {}
        self._tables: dict[str, np.memmap] = {}
        self._quarantine: list[dict[str, Any]] = []

    def add(self, modality: str, width: int) -> None:
        """Make room for a modality of width F_m; all its items are absent until `put`."""
        if modality not in MODALITIES:
            raise ValueError(f"modality: must be among {MODALITIES}, received {modality!r}")
        if modality in self._tables or width < 1:
            raise ValueError(f"width: a modality is added once, with a positive width, received {modality!r}, {width}")
        path = self.folder / f"{modality}.npy"
        shape = (len(self.present), width)
        self._tables[modality] = np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=shape)
        self.cosine_loss[modality] = 0.0

    def put(self, modality: str, rows: Sequence[int] | np.ndarray, vectors: Any) -> np.ndarray:
        """Store vectors [B, F_m] at item rows [B].

        Returns:
            bool [B]: False where a vector does not survive fp16 (`to_half`); those items stay absent and the caller says
            why (`unusable_reason`).

        Raises:
            ValueError: a shape that does not fit, or a row outside 1..N.
        """
        rows = np.asarray(rows, dtype=np.int64)
        vectors = np.asarray(vectors)
        expected = (len(rows), self._tables[modality].shape[1])
        if vectors.shape != expected:
            raise ValueError(f"vectors: must be {expected} for modality {modality!r}, received {vectors.shape}")
        if len(rows) and (rows.min() < 1 or rows.max() >= len(self.present)):
            raise ValueError(f"rows: must lie in 1..{len(self.present) - 1}, received {rows.min()}..{rows.max()}")
        half, usable, losses = to_half(vectors)
        self._tables[modality][rows[usable]] = half[usable]
        self.present[rows[usable], MODALITIES.index(modality)] = True
        self.cosine_loss[modality] = max(self.cosine_loss[modality], float(losses.max(initial=0.0)))
        return usable

    def quarantine(self, file: str, row: int, reason: str, record: Mapping[str, Any]) -> None:
        """Note what could not be used; `record` names the item and the modality."""
        text = json.dumps(dict(record), ensure_ascii=False, sort_keys=True, default=str)
        self._quarantine.append({"file": file, "row": int(row), "reason": reason, "record": text})

    @property
    def quarantined(self) -> int:
        return len(self._quarantine)

    def close(self, *, info: Mapping[str, Any] | None = None) -> FeatureStore:
        """Flush everything and open the store."""
        for table in self._tables.values():
            table.flush()
        widths = {name: int(self._tables[name].shape[1]) for name in MODALITIES if name in self._tables}
        self._tables.clear()
        np.save(self.folder / "present.npy", self.present)
        frame = pd.DataFrame(self._quarantine, columns=list(QUARANTINE_COLUMNS))
        types = {"file": "str", "row": "int64", "reason": "str", "record": "str"}
        frame.astype(types).to_parquet(self.folder / "quarantine.parquet", index=False)
        (self.folder / "info.json").write_text(json.dumps(dict(info or {}), indent=2, ensure_ascii=False))
        (self.folder / "widths.json").write_text(json.dumps(widths))
        write_checksums(self.folder, ["present.npy", *(f"{name}.npy" for name in widths)])
        return FeatureStore.open(self.folder)
