"""The local engine: batches decoded by worker processes, encoded in this one, handed on in order.

The Ray engine runs the same function inside its actors, so what a batch becomes does not depend on the engine.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Generator, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.content.encode_plan import Batch
from pipeline.content.encode_workers import DecodePool
from towers.encoders import Encoder, make_encoder

MakeEncoder = Callable[[str, str], Encoder | None]
"""Modality and spec to an encoder; `towers.encoders.make_encoder`, or a lookup of encoders that were trained here."""


@dataclasses.dataclass(frozen=True)
class Encoded:
    """What became of one batch.

    Attributes:
        batch: as it was asked for.
        positions: int [K], the contents of the batch that have a vector. vectors: float32 [K, F_m].
        refused: position in the batch -> why it has none.
    """

    batch: Batch
    positions: np.ndarray
    vectors: np.ndarray
    refused: dict[int, str]


def encode_batches(
    batches: Iterable[Batch],
    media: Path,
    workers: int = 2,
    make: MakeEncoder = make_encoder,
    started: DecodePool | None = None,
) -> Generator[Encoded, None, None]:
    """Decode and encode batches, in order; an encoder is built when the first usable content for it arrives.

    Args:
        batches: of any modalities, those of one encoder in a row (only one encoder is held at a time).
        media: the folder that paths are relative to.
        workers: decoding processes.
        make: builds an encoder. started: workers that are there already, and stay; None = own ones.

    Raises:
        ValueError: an encoder whose fingerprint is not the one its card gave: its vectors must not be stored.
    """
    encoder: Encoder | None = None
    holder: tuple[str, str] | None = None
    with contextlib.nullcontext(started) if started else DecodePool(media, workers) as pool:
        for batch, decoded in pool.decode(batches):
            refused = {position: value for position, value in enumerate(decoded) if isinstance(value, str)}
            if batch.card.modality == "text":
                refused = {}
                values: Any = [content.value[: batch.card.size] for content in batch.contents]
            else:
                values = [value for value in decoded if not isinstance(value, str)]
            positions = np.setdiff1d(np.arange(len(batch.keys)), list(refused)).astype(np.int64)
            vectors = np.zeros((0, batch.card.width), np.float32)
            if len(positions):
                if holder != (batch.card.modality, batch.spec):
                    encoder = None  # frees the last one before the next is built
                    encoder, holder = _built(batch, make), (batch.card.modality, batch.spec)
                assert encoder is not None
                vectors = encoder.encode(values if batch.card.modality == "text" else np.stack(values))
            yield Encoded(batch, positions, np.asarray(vectors, np.float32), refused)


def _built(batch: Batch, make: MakeEncoder) -> Encoder:
    encoder = make(batch.card.modality, batch.spec)
    if encoder is None or encoder.fingerprint != batch.card.fingerprint or encoder.width != batch.card.width:
        received = encoder and (encoder.fingerprint, encoder.width)
        raise ValueError(
            f"encoder: {batch.spec} was described with fingerprint and width "
            f"{(batch.card.fingerprint, batch.card.width)}, but built with {received}; its card is wrong"
        )
    return encoder
