"""The encode stage: text, pictures, sound and video of the catalogue become a feature store.

A modality comes from the dataset's ready-made vectors if it brings them, otherwise from its files: each is hashed and
looked up in the content store, and only what nobody has encoded before is decoded and encoded. What cannot be used
becomes a quarantine row, and that modality is absent for that item.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, Literal, Protocol

import pandas as pd

from data.content_key import write_content_keys
from data.features import FeatureStore, FeatureWriter
from data.known_hashes import KnownHashes
from data.ready_vectors import ReadyVectors
from data.schema import MODALITIES
from pipeline.content.encode_beside import Helper, encode_both
from pipeline.content.encode_local import Encoded, encode_batches
from pipeline.content.encode_part import Part
from pipeline.content.encode_plan import Batch, FileHashes, make_plan
from pipeline.content.store_encoders import weights_folder
from towers.encoder_card import EncoderCard
from towers.encoders import Encoder, describe_encoder, make_encoder

Progress = Callable[[str, int, int], None]
"""Called with what is at work, the contents done, and the contents in all."""


class Catalogue(Protocol):
    """The part of the ingested dataset that is read here."""

    @property
    def items(self) -> pd.DataFrame: ...


def encode(
    source: str | Path,
    ingest: Catalogue,
    out: str | Path,
    specs: Mapping[str, str],
    store: str | Path,
    *,
    batch_size: int = 64,
    workers: int = 2,
    engine: Literal["local", "ray"] = "local",
    progress: Progress | None = None,
    tuned: Mapping[str, Encoder] | None = None,
    helper: Helper | None = None,
) -> FeatureStore:
    """Encode the catalogue's content.

    Args:
        source: the dataset folder, with `media/` and perhaps `features/`.
        ingest: the ingested dataset; `items` has one line per item row, row 0 included.
        out: folder to write the feature store into; the caller renames it once this returns.
        specs: encoder of each modality (see `make_encoder`); what is left out counts as `"auto"`, `"none"` disables it
            together with its ready-made vectors.
        store: folder of the content store, shared by runs. What it holds is not encoded again, and what is encoded
            here is in it shard by shard, whether or not the run comes to its end. What media files hash to is kept in it
            too (`data.known_hashes`), why others cannot be used (`data.known_refusals`), and weights that an encoder
            converts beside it (`weights_folder`).
        batch_size: contents of one encoder call; texts go in windows of 1,024, videos by their frames.
        workers: decoding processes (local), or actors that decode and encode (Ray).
        engine: `"local"` or `"ray"`.
        progress: called after every batch.
        tuned: encoders made in this process, by modality, in place of their specs and of ready-made vectors.
        helper: encodes a part beside the local engine, see `pipeline.content.encode_beside`.

    Returns:
        The open store. Its `info` has `modalities.{m}` with encoder, fingerprint, items, present, absent, encoded
        (contents that went through the encoder), reused (items whose vector was there), shared (further items with a
        content encoded here), quarantined, seconds, items_per_second and fp16_cosine_loss; and `quarantined`,
        `encoded`, `reused` and `seconds` in all.

    Raises:
        ValueError: an unknown modality, spec or engine, ready-made vectors of a wrong shape, or a number below 1.
    """
    tuned = dict(tuned or {})
    _check(specs, tuned, batch_size, workers, engine)
    started = time.perf_counter()
    source, items = Path(source), ingest.items
    writer = FeatureWriter(out, len(items))
    known = KnownHashes(store, source / "media")
    files = FileHashes(source / "media", progress=_named(progress, "reading media"), known=known)
    counts: dict[str, dict[str, Any]] = {}
    parts: dict[str, Part] = {}
    with ExitStack() as opened:
        for modality in MODALITIES:
            begun, spec = time.perf_counter(), specs.get(modality, "auto")
            if modality in tuned:
                card: EncoderCard | None = card_of(tuned[modality])
            else:
                card = None if spec == "none" else describe_encoder(modality, spec)
            ready = ReadyVectors.find(source, modality) if card and modality not in tuned else None
            if ready is not None:
                rows_of = {item_id: row for row, item_id in enumerate(items["item_id"].astype("str")) if row}
                copied = ready.copy_into(writer, modality, rows_of)
                counts[modality] = {"encoder": "ready-made", **copied, "encoded": 0, "reused": 0, "shared": 0}
                counts[modality]["seconds"] = time.perf_counter() - begun
            elif card is not None and (plan := make_plan(items, modality, spec, card, files)).contents:
                parts[modality] = Part(plan, store, source / "media")
                opened.callback(parts[modality].close)  # which flushes, whatever happens below
                parts[modality].seconds = time.perf_counter() - begun

        known.save()
        batches = [batch for part in parts.values() for batch in part.missing(batch_size)]
        if batches:
            manifests = Path(out) / ".manifests"
            encoded = _engine(engine, batches, source / "media", manifests, workers, tuned, weights_folder(store), helper)
            _fill(parts, batches, encoded, progress)
        for modality, part in parts.items():
            begun = time.perf_counter()
            assembled = part.assemble(writer, items["item_id"])
            counts[modality] = {**assembled, "seconds": part.seconds + time.perf_counter() - begun}
    write_content_keys(out, {modality: sorted(part.used) for modality, part in parts.items()})
    for modality in counts:
        present = int(writer.present[:, MODALITIES.index(modality)].sum())
        seconds = counts[modality].pop("seconds")
        counts[modality] |= {
            "items": len(items) - 1,
            "present": present,
            "absent": len(items) - 1 - present,
            "seconds": round(seconds, 3),
            "items_per_second": round(present / max(seconds, 1e-9), 1),
        }
        counts[modality].setdefault("fp16_cosine_loss", writer.cosine_loss[modality])
    info = {
        "modalities": {modality: counts[modality] for modality in MODALITIES if modality in counts},
        "engine": engine,
        "encoded": sum(count["encoded"] for count in counts.values()),
        "reused": sum(count["reused"] for count in counts.values()),
        "quarantined": writer.quarantined,
        "seconds": round(time.perf_counter() - started, 3),
    }
    return writer.close(info=info)


def card_of(encoder: Encoder) -> EncoderCard:
    """The card of an encoder that was made (and perhaps trained) in this process."""
    frames = getattr(encoder, "frames", 0)
    return EncoderCard(encoder.name, encoder.fingerprint, encoder.modality, encoder.width, encoder.size, frames)


def _engine(
    engine: str,
    batches: Sequence[Batch],
    media: Path,
    manifests: Path,
    workers: int,
    tuned: Mapping[str, Encoder],
    weights: Path,
    helper: Helper | None,
) -> Generator[Encoded, None, None]:
    if engine == "ray":
        from pipeline.content.encode_ray import encode_batches_on_ray

        return encode_batches_on_ray(batches, media, manifests, workers, weights)

    def make(modality: str, spec: str) -> Encoder | None:
        return tuned[modality] if modality in tuned else make_encoder(modality, spec, weights)

    def here(some: Sequence[Batch]) -> Generator[Encoded, None, None]:
        return encode_batches(some, media, workers, make)

    return encode_both(batches, media, weights, None if tuned else helper, here)


def _fill(
    parts: Mapping[str, Part], batches: Sequence[Batch], encoded: Generator[Encoded, None, None], progress: Progress | None
) -> None:
    """Take every batch into its part's content store, as it comes from the engine."""
    total, done, begun, last = sum(len(batch.keys) for batch in batches), 0, time.perf_counter(), ""
    if progress:
        progress(batches[0].card.modality, 0, total)
    with closing(encoded):
        for step in encoded:
            modality = step.batch.card.modality
            if last and last != modality:
                parts[last].content.flush()
            parts[modality].take(step)
            parts[modality].seconds -= begun - (begun := time.perf_counter())
            done, last = done + len(step.batch.keys), modality
            if progress:
                progress(modality, done, total)


def _named(progress: Progress | None, what: str) -> Callable[[int, int], None]:
    return lambda done, total: progress(what, done, total) if progress else None


def _check(
    specs: Mapping[str, str], tuned: Mapping[str, Encoder], batch_size: int, workers: int, engine: str
) -> None:
    unknown = (set(specs) | set(tuned)) - set(MODALITIES)
    if unknown or batch_size < 1 or workers < 1:
        raise ValueError(
            f"specs, batch_size, workers: modalities must be among {MODALITIES} and both numbers at least 1, "
            f"received {dict(specs)}, {batch_size}, {workers}"
        )
    if engine not in ("local", "ray") or (engine == "ray" and tuned):
        raise ValueError(
            f"engine: must be 'local' or 'ray' ('local' for encoders trained in this process), received {engine!r}"
        )
