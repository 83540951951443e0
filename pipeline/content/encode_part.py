"""One modality of the encode stage: its plan, its part of the content store, and what became of every item."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from data.content_store import ContentStore
from data.features import CHUNK, FeatureWriter
from data.half_precision import unusable_reason
from data.known_refusals import KnownRefusals
from pipeline.content.encode_local import Encoded
from pipeline.content.encode_plan import Batch, Plan

SILENT = "no sound:"
"""How `data.video_decoder.decode_sound_track` begins to say that a video has no sound track."""
PASSING = re.compile(r"changed:|took too long:|crashed the decoder|decoder failed:|broken \w+: MemoryError")
"""How reasons of `pipeline.content.encode_workers` begin that another try may find gone; all others are the content's own."""


class Part:
    """Takes what an engine encodes into the content store, and fills the run's table from there.

    Args:
        plan: what there is. store: folder of the content store. media: the folder that paths are relative to.

    Attributes:
        known: keys that the content store had before this run.
        used: keys whose vectors the run's table was filled with.
        encoded: contents that went through the encoder in this run. seconds: spent on this modality.
    """

    def __init__(self, plan: Plan, store: str | Path, media: str | Path) -> None:
        card = plan.card
        self.plan = plan
        self.content = ContentStore.open(store, card.modality, card.name, card.fingerprint, card.width)
        keys = list(plan.keys.values())
        self.known = {key for key, found in zip(keys, self.content.contains(keys), strict=True) if found}
        self.used: set[bytes] = set()
        self.encoded, self.seconds = 0, 0.0
        self._refusals = KnownRefusals(self.content.folder, media)
        unknown = [key for key in keys if key not in self.known]
        self._refused = {key: reason for key in unknown if (reason := self._refusals.find(key)) is not None}

    def missing(self, batch_size: int) -> Iterator[Batch]:
        """What has to be encoded, in batches; content that was refused before is not tried again."""
        return self.plan.batches(self.known | self._refused.keys(), batch_size)

    def take(self, encoded: Encoded) -> None:
        """Store a batch's vectors; a full shard is safe on disk when this returns."""
        keys = encoded.batch.keys
        for place, reason in encoded.refused.items():
            self._refused[keys[place]] = reason
            if not PASSING.match(reason):
                self._refusals.remember(keys[place], reason)
        kept = [keys[position] for position in encoded.positions]
        usable = self.content.append(kept, encoded.vectors)
        for position in np.flatnonzero(~usable):
            self._refused[kept[position]] = f"{unusable_reason(encoded.vectors[position])} from {self.plan.card.name}"
        self.encoded += int(usable.sum())

    def close(self) -> None:
        """Keep what was learned, whatever happened since, and let go of all files."""
        try:
            self._refusals.save()
        finally:
            self.content.close()

    def assemble(self, writer: FeatureWriter, ids: pd.Series) -> dict[str, Any]:
        """Fill this modality's table from the content store, and set aside what has no vector.

        Args:
            writer: of the run's feature store. ids: item id by row.

        Returns: encoder, fingerprint, frames, encoded, reused, shared, quarantined, fp16_cosine_loss.

        Raises:
            RuntimeError: a vector that was there is gone, since someone else cleared the content store meanwhile.
        """
        modality, card, keys = self.plan.card.modality, self.plan.card, self.plan.keys
        reasons = {**self.plan.refused, **{row: self._refused[key] for row, key in keys.items() if key in self._refused}}
        rows, before = [row for row in keys if row not in reasons], writer.quarantined
        self.used = {keys[row] for row in rows}
        writer.add(modality, card.width)
        for start in range(0, len(rows), CHUNK):
            chunk = rows[start : start + CHUNK]
            found, vectors = self.content.lookup([keys[row] for row in chunk])
            if not found.all():
                raise RuntimeError(
                    f"store: {int((~found).sum())} vectors of {modality} vanished from {self.content.folder} while they "
                    f"were in use; run `encode` again"
                )
            writer.put(modality, chunk, vectors)
        for row in sorted(reasons):
            if reasons[row].startswith(SILENT):
                continue  # a silent video is nothing to mend: its sound is absent
            file = "items.parquet" if modality == "text" else f"media/{self.plan.contents[row].value}"
            writer.quarantine(file, row, reasons[row], {"item_id": ids.iloc[row], "modality": modality})
        reused = sum(keys[row] in self.known for row in rows)
        return {
            "encoder": card.name,
            "fingerprint": card.fingerprint,
            "frames": card.frames,
            "encoded": self.encoded,
            "reused": reused,
            "shared": len(rows) - reused - self.encoded,
            "quarantined": writer.quarantined - before,
            "fp16_cosine_loss": self.content.cosine_loss,
        }
