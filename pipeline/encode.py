"""The encode stage: text, pictures and sound of the catalogue become a feature store.

A modality comes from the dataset's ready-made vectors if it brings them, otherwise from its files: worker threads
decode a few batches ahead while the encoder runs. What cannot be used becomes a quarantine row, and that modality is
absent for that item.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd

from data.features import FeatureStore, FeatureWriter
from data.media import MediaError, decode_audio, decode_image, read_media
from data.ready_vectors import ReadyVectors
from data.schema import MODALITIES
from towers.encoders import Encoder, make_encoder

Progress = Callable[[str, int, int], None]
"""Called with the modality, the items done and the items in all."""

TEXT_WINDOW = 1024
"""Texts handed to an encoder at once, so that it can sort them by length."""

AHEAD = 3
"""Batches decoded ahead of the encoder: what bounds the memory."""


class Catalogue(Protocol):
    """The part of the ingested dataset that is read here."""

    @property
    def items(self) -> pd.DataFrame: ...


def encode(
    source: str | Path,
    ingest: Catalogue,
    out: str | Path,
    specs: Mapping[str, str],
    batch_size: int = 64,
    progress: Progress | None = None,
    workers: int = 2,
) -> FeatureStore:
    """Encode the catalogue's content.

    Args:
        source: the dataset folder, with `media/` and perhaps `features/`.
        ingest: the ingested dataset; `items` has one line per item row, row 0 included.
        out: folder to write the store into; the caller renames it once this returns.
        specs: encoder of each modality (see `make_encoder`); what is left out counts as `"auto"`, `"none"` disables it
            together with its ready-made vectors.
        batch_size: items of one encoder call.
        progress: called after every batch.
        workers: decoding threads.

    Returns:
        The open store. Its `info` has `modalities.{m}` with encoder, items, present, absent, quarantined, seconds,
        items_per_second and fp16_cosine_loss, and `quarantined` and `seconds` in all.

    Raises:
        ValueError: an unknown modality or spec, ready-made vectors of a wrong shape, or `batch_size` below 1.
    """
    unknown = set(specs) - set(MODALITIES)
    if unknown or batch_size < 1 or workers < 1:
        raise ValueError(
            f"specs, batch_size, workers: modalities must be among {MODALITIES} and both numbers at least 1, "
            f"received {dict(specs)}, {batch_size}, {workers}"
        )
    started = time.perf_counter()
    items = ingest.items
    writer = FeatureWriter(out, len(items))
    modalities: dict[str, dict[str, Any]] = {}
    for modality in MODALITIES:
        spec = specs.get(modality, "auto")
        if spec == "none":
            continue
        before, begun = writer.quarantined, time.perf_counter()
        ready = ReadyVectors.find(source, modality)
        if ready is not None:
            rows_of = {item_id: row for row, item_id in enumerate(items["item_id"].astype("str")) if row}
            counts: dict[str, Any] = {"encoder": "ready-made", **ready.copy_into(writer, modality, rows_of)}
            if progress:
                progress(modality, counts["stored"], counts["stored"])
        else:
            content = _content(items, modality)
            if not content:
                continue
            encoder = make_encoder(modality, spec)
            assert encoder is not None  # "none" was handled above
            writer.add(modality, encoder.width)
            _encode_modality(Path(source) / "media", items, content, encoder, writer, batch_size, workers, progress)
            counts = {"encoder": encoder.name}
        present = int(writer.present[:, MODALITIES.index(modality)].sum())
        seconds = time.perf_counter() - begun
        modalities[modality] = {
            **counts,
            "items": len(items) - 1,
            "present": present,
            "absent": len(items) - 1 - present,
            "quarantined": writer.quarantined - before,
            "seconds": round(seconds, 3),
            "items_per_second": round(present / max(seconds, 1e-9), 1),
            "fp16_cosine_loss": writer.cosine_loss[modality],
        }
    seconds = round(time.perf_counter() - started, 3)
    return writer.close(info={"modalities": modalities, "quarantined": writer.quarantined, "seconds": seconds})


def item_text(title: str, description: str, categories: str) -> str:
    """What a text encoder reads of an item: title and description, or title and categories where that is empty.

    Categories alone are no text: they are attributes, which the towers read anyway.

    Example:
        >>> item_text("Blue Hour", "Slow piano.", "jazz|piano")
        'Blue Hour. Slow piano.'
        >>> item_text("Blue Hour", "", "jazz|piano")
        'Blue Hour. jazz, piano'
        >>> item_text("", "", "jazz|piano")
        ''
    """
    body = description
    if title and not body:
        body = ", ".join(part.strip() for part in categories.split("|") if part.strip())
    return ". ".join(part for part in (title, body) if part)


def _content(items: pd.DataFrame, modality: str) -> dict[int, str]:
    """Item row -> text or media path, for the items that have one."""
    if modality == "text":
        columns = [items.get(name, [""] * len(items)) for name in ("title", "description", "categories")]
        values = [item_text(*cells) for cells in zip(*columns, strict=True)]
    else:
        values = [value if isinstance(value, str) else "" for value in items.get(modality, [""] * len(items))]
    return {row: value for row, value in enumerate(values) if row and value}


def _encode_modality(
    media: Path,
    items: pd.DataFrame,
    content: Mapping[int, str],
    encoder: Encoder,
    writer: FeatureWriter,
    batch_size: int,
    workers: int,
    progress: Progress | None,
) -> None:
    rows, done = list(content), 0
    ids = items["item_id"]

    def refuse(row: int, reason: str) -> None:
        file = "items.parquet" if encoder.modality == "text" else f"media/{content[row]}"
        writer.quarantine(file, row, reason, {"item_id": ids.iloc[row], "modality": encoder.modality})

    for batch, decoded in _batches(media, rows, content, encoder, batch_size, workers):
        usable = []
        for row, value in zip(batch, decoded, strict=True):
            if isinstance(value, MediaError):
                refuse(row, str(value))
            else:
                usable.append((row, value))
        if usable:
            kept = [row for row, _ in usable]
            values: Any = [value for _, value in usable]
            vectors = encoder.encode(values if encoder.modality == "text" else np.stack(values))
            for position in np.flatnonzero(~writer.put(encoder.modality, kept, vectors)):
                refuse(kept[position], f"not finite: NaN, infinity or more than 65,504 from {encoder.name}")
        done += len(batch)
        if progress:
            progress(encoder.modality, done, len(rows))


def _batches(
    media: Path, rows: Sequence[int], content: Mapping[int, str], encoder: Encoder, batch_size: int, workers: int
) -> Iterator[tuple[Sequence[int], list[Any]]]:
    """Batches of item rows with their decoded content or `MediaError`, in order, at most `AHEAD` ahead."""
    if encoder.modality == "text":
        window = max(batch_size, TEXT_WINDOW)
        for start in range(0, len(rows), window):
            batch = rows[start : start + window]
            yield batch, [content[row][: encoder.size] for row in batch]
        return
    pending: deque[tuple[Sequence[int], list[Future[Any]]]] = deque()
    with ThreadPoolExecutor(workers, thread_name_prefix="decode") as pool:
        for start in range(0, len(rows), batch_size):
            batch = rows[start : start + batch_size]
            futures = [pool.submit(_decode, media, content[row], encoder.modality, encoder.size) for row in batch]
            pending.append((batch, futures))
            if len(pending) > AHEAD:
                ready, waiting = pending.popleft()
                yield ready, [future.result() for future in waiting]
        for ready, waiting in pending:
            yield ready, [future.result() for future in waiting]


def _decode(media: Path, name: str, modality: str, size: int) -> np.ndarray | MediaError:
    decode = decode_image if modality == "image" else decode_audio
    try:
        return decode(read_media(media, name), size)
    except MediaError as error:
        return error
