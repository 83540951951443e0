"""Any encoder by TF Hub handle or SavedModel folder: YAMNet and the like. The one encoder that needs TensorFlow."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from towers.audio_embedder import real_samples
from towers.encoder_card import EncoderCard, fingerprint
from towers.preset import measured, preset_files, split_options, whole_number, why

VERSION = 1
OPTIONS = ("output", "signature", "size", "seconds")
RATE = 16_000
EMBEDDINGS = ("embeddings", "embedding", "pooled_output", "feature_vector", "default", "output_0")
"""Names under which published modules give their vectors, in the order in which they are looked for."""
RANKS = {"text": (1,), "image": (4,), "audio": (1, 2)}
INPUTS = {"text": "strings [B]", "image": "floats [B, S, S, 3] in 0..1", "audio": "16 kHz samples [S] or [B, S]"}


class HubEncoder:
    """Vectors of a SavedModel that takes raw content.

    Conventions, those of TF Hub: text goes in as strings [B], pictures as floats in 0..1 [B, S, S, 3], sound as floats
    in -1..1 at 16 kHz, one clip [S] (without its padding) or a batch [B, S]. What comes out with more axes than one a
    row is averaged over them, as YAMNet's `embeddings` [frames, 1024] over its frames. Of several outputs the one named
    by `EMBEDDINGS` is taken, of YAMNet's three (scores, embeddings, spectrogram) the second.

    Args:
        modality: `"text"`, `"image"` or `"audio"`.
        handle: `https://tfhub.dev/google/yamnet/1`, downloaded once into `TFHUB_CACHE_DIR`, or a SavedModel folder;
            options may follow it, as in `folder?output=embeddings&seconds=5`: `output` (name or number), `signature`,
            `size` (pixels a side, or characters), `seconds`.

    Attributes:
        model: the loaded SavedModel.

    Shapes: B strings, uint8 [B, size, size, 3] or float32 [B, size] -> float32 [B, F_m].

    Raises:
        ValueError: a model for another modality, or with outputs among which none is chosen.
        FileNotFoundError, ConnectionError: no SavedModel there, or none to be had.
    """

    def __init__(self, modality: str, handle: str) -> None:
        import tensorflow_hub

        folder, options = _read(modality, handle)
        self.name, self.modality = f"hub:{handle}", modality
        self.fingerprint, self._output = _digest(folder, modality, options), options.get("output")
        self.model = tensorflow_hub.load(str(folder))
        self._call, shape = _entry(self.model, modality, options.get("signature"), handle)
        self._clips = modality == "audio" and len(shape) == 1
        self._one_by_one = self._clips or shape[0] == 1
        self.size = _size(modality, shape, options)
        self.width = self._run(self._blank()).shape[1]

    @classmethod
    def card(cls, modality: str, handle: str) -> EncoderCard:
        """The encoder's facts; the model is loaded for them only the first time that its weights are seen."""
        folder, options = _read(modality, handle)
        digest = _digest(folder, modality, options)

        def measure() -> tuple[int, int]:
            encoder = HubEncoder(modality, handle)
            return encoder.width, encoder.size

        width, size = measured(digest, measure)
        return EncoderCard(f"hub:{handle}", digest, modality, width, size)

    def tensors(self, batch: Any) -> np.ndarray:
        """Decoded content -> what the SavedModel takes: bytes [B], float32 [B, S, S, 3] in 0..1, or float32 [B, size]."""
        if self.modality == "text":
            return np.array([text.encode() for text in batch], dtype=object)
        array = np.asarray(batch)
        expected = (self.size, self.size, 3) if self.modality == "image" else (self.size,)
        kind = np.uint8 if self.modality == "image" else np.float32
        if array.shape[1:] != expected or array.dtype != kind:
            raise ValueError(f"batch: must be {kind.__name__} [B, {expected}], received {array.dtype} {array.shape}")
        return array.astype(np.float32) / 255 if self.modality == "image" else array

    def encode(self, batch: Any) -> np.ndarray:
        """Decoded content -> float32 [B, F_m]."""
        return self._run(self.tensors(batch)) if len(batch) else np.zeros((0, self.width), np.float32)

    def _blank(self) -> np.ndarray:
        if self.modality == "text":
            return np.array([b"text"], dtype=object)
        shape = (1, self.size, self.size, 3) if self.modality == "image" else (1, self.size)
        return np.zeros(shape, np.float32)

    def _run(self, tensors: np.ndarray) -> np.ndarray:
        if not self._one_by_one:
            return self._pooled(self._call(tensors), len(tensors))
        if not self._clips:
            return np.concatenate([self._pooled(self._call(row[None]), 1) for row in tensors])
        ends = np.minimum(np.maximum(real_samples(tensors), RATE), tensors.shape[1])
        return np.concatenate([self._pooled(self._call(row[:end]), 1) for row, end in zip(tensors, ends, strict=True)])

    def _pooled(self, output: Any, rows: int) -> np.ndarray:
        """The chosen output as float32 [rows, F], averaged over every axis between."""
        array = np.asarray(_choose(output, self._output), dtype=np.float32)
        if self._clips:  # [frames, F] of one clip, or its [F]
            return array.reshape(-1, array.shape[-1]).mean(axis=0, keepdims=True)
        if array.ndim < 2 or len(array) != rows:
            raise ValueError(f"output: must be [B, ..., F] with B = {rows}, received {array.shape}; use ?output=<name>")
        return array.reshape(rows, -1, array.shape[-1]).mean(axis=1)


def hub_folder(handle: str) -> Path:
    """The SavedModel folder behind a handle, downloaded by tensorflow-hub where it is not here yet.

    Raises:
        FileNotFoundError: no such folder, or one without a SavedModel.
        ConnectionError: a handle that is not cached and cannot be downloaded.
    """
    if "://" not in handle:
        folder = Path(handle).expanduser()
        if not any((folder / file).is_file() for file in ("saved_model.pb", "saved_model.pbtxt", "tfhub_module.pb")):
            raise FileNotFoundError(
                f"handle: must be a SavedModel folder (with saved_model.pb) or a URL such as "
                f"https://tfhub.dev/google/yamnet/1, received {handle!r}"
            )
        return folder.resolve()
    # TF Hub's own variable and layout: a cached handle is found without importing TensorFlow.
    cache = Path(os.environ.get("TFHUB_CACHE_DIR") or Path(tempfile.gettempdir()) / "tfhub_modules")
    cached = cache / hashlib.sha1(handle.encode(), usedforsecurity=False).hexdigest()
    if cached.is_dir():
        return cached.resolve()
    import tensorflow_hub

    try:
        return Path(os.fsdecode(tensorflow_hub.resolve(handle))).resolve()
    except Exception as error:  # whatever the resolver raises without a network
        raise ConnectionError(
            f"handle: {handle!r} is not cached and cannot be downloaded ({why(error)}). Where there "
            "is a network, fetch and unpack it once, and name that folder, or set TFHUB_CACHE_DIR to a filled cache"
        ) from error


def _read(modality: str, handle: str) -> tuple[Path, dict[str, str]]:
    if modality not in RANKS:
        raise ValueError(f"modality: 'hub:' encodes {sorted(RANKS)}, received {modality!r}; videos take an image model")
    name, options = split_options(handle, OPTIONS)
    return hub_folder(name), options


def _digest(folder: Path, modality: str, options: dict[str, str]) -> str:
    return fingerprint("hub", VERSION, modality, sorted(options.items()), files=preset_files(folder))


def _entry(model: Any, modality: str, signature: str | None, handle: str) -> tuple[Callable[[Any], Any], Sequence[Any]]:
    """What to call with a batch, and the shape that it declares for its input."""
    import tensorflow as tf

    names = list(getattr(model, "signatures", {}))
    direct = callable(model) and signature is None
    concrete = getattr(model.__call__, "concrete_functions", None) if direct else None
    keyword = None
    if concrete:
        specs = [spec for spec in tf.nest.flatten(concrete[0].structured_input_signature) if hasattr(spec, "shape")]
        function: Any = model
    else:
        chosen = signature or next((name for name in ("serving_default", "default", *names) if name in names), None)
        if chosen not in names:
            raise ValueError(f"handle: {handle!r} has no signature {chosen!r}; use ?signature=<one of {names}>")
        function = model.signatures[chosen]
        inputs = function.structured_input_signature[1]
        keyword, specs = next(iter(inputs)), list(inputs.values())
    spec: Any = specs[0] if specs else tf.TensorSpec([], tf.variant)
    rank = spec.shape.rank
    if (spec.dtype == tf.string) != (modality == "text") or rank not in (*RANKS[modality], None):
        raise ValueError(f"handle: {modality} needs a model of {INPUTS[modality]}, {handle!r} takes {spec}")
    kind = spec.dtype
    shape = [None] * RANKS[modality][0] if rank is None else spec.shape.as_list()

    def call(batch: Any) -> Any:
        tensor = tf.constant(batch, dtype=kind)
        return function(tensor) if keyword is None else function(**{keyword: tensor})

    return call, shape


def _size(modality: str, shape: Sequence[int | None], options: dict[str, str]) -> int:
    if modality == "text":
        return whole_number(options, "size", 1000)
    declared = shape[1] if modality == "image" else shape[-1]
    if declared is not None:
        return declared
    if modality == "image":
        return whole_number(options, "size", 224, 1, 4096)
    return RATE * whole_number(options, "seconds", 10, 1, 3600)


def _choose(output: Any, wanted: str | None) -> Any:
    """One tensor of what the model returned."""
    if isinstance(output, dict):
        named = {str(key): value for key, value in output.items()}
    elif isinstance(output, list | tuple):
        named = {str(number): value for number, value in enumerate(output)}
    else:
        named = {"0": output}
    if wanted is None:
        wanted = next(iter(named)) if len(named) == 1 else next((key for key in EMBEDDINGS if key in named), None)
        if wanted is None and list(named) == ["0", "1", "2"]:  # YAMNet: scores, embeddings, spectrogram
            wanted = "1"
    if wanted not in named:
        raise ValueError(f"output: must be one of {sorted(named)}, received {wanted!r}; use ?output=<one of them>")
    return named[wanted]
