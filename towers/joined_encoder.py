"""Several encoders of one modality as one: their vectors side by side, none louder than another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from towers.encoder_card import EncoderCard, fingerprint

VERSION = 1


class JoinedEncoder:
    """The vectors of several encoders, concatenated.

    Formula: `y = [x_1 / rms(x_1), x_2 / rms(x_2), ...]` with `rms(x) = sqrt(mean_f x_f^2)` row by row; a row of zeros
    stays zero. Each part gets content in its own size: pictures are shrunk by exact area averages, clips and texts cut
    at the part's own length.

    Args:
        parts: encoders of one modality.

    Shapes: as the parts' -> float32 [B, sum of F_m].

    Raises:
        ValueError: no parts, or parts of different modalities.
    """

    def __init__(self, parts: Sequence[Any]) -> None:
        if not parts or len({part.modality for part in parts}) != 1:
            raise ValueError(f"parts: must be of one modality, received {[part.modality for part in parts]}")
        self.parts = list(parts)
        card = joined_card(self.parts)
        self.name, self.fingerprint, self.modality = card.name, card.fingerprint, card.modality
        self.width, self.size = card.width, card.size

    def encode(self, batch: Any) -> np.ndarray:
        """A batch of decoded content -> float32 [B, F_m]."""
        return np.concatenate([unit_mean_square(part.encode(self._fit(batch, part.size))) for part in self.parts], 1)

    def _fit(self, batch: Any, size: int) -> Any:
        if size == self.size:
            return batch
        if self.modality == "text":
            return [text[:size] for text in batch]
        return batch[:, :size] if self.modality == "audio" else shrink(np.asarray(batch), size)


def joined_card(parts: Sequence[Any]) -> EncoderCard:
    """The card of the parts' concatenation, from their cards or from the encoders themselves."""
    digest = fingerprint("joined", VERSION, [part.fingerprint for part in parts])
    name = "+".join(part.name for part in parts)
    width, size = sum(part.width for part in parts), max(part.size for part in parts)
    return EncoderCard(name, digest, parts[0].modality, width, size)


def unit_mean_square(vectors: np.ndarray) -> np.ndarray:
    """Rows of [B, F] divided by their root mean square; zeros stay zeros.

    Example:
        >>> unit_mean_square(np.array([[3.0, 3.0], [0.0, 0.0]])).tolist()
        [[1.0, 1.0], [0.0, 0.0]]
    """
    mean_square = np.mean(np.square(vectors, dtype=np.float64), axis=1, keepdims=True)
    return (vectors / np.sqrt(np.where(mean_square > 0, mean_square, 1))).astype(vectors.dtype)


def shrink(images: np.ndarray, size: int) -> np.ndarray:
    """Pictures made smaller by area averages.

    Formula: an output pixel is the mean of the input over the square that it covers, partly covered pixels by their
    share.

    Shapes: uint8 [B, S, S, 3] -> uint8 [B, size, size, 3].
    """
    share = _area_shares(images.shape[1], size)
    rows = np.tensordot(share, images.astype(np.float32), axes=(1, 1))  # [size, B, S, 3]
    both = np.tensordot(share, rows, axes=(1, 2))  # [size of columns, size of rows, B, 3]
    return np.rint(both.transpose(2, 1, 0, 3)).astype(np.uint8)


def _area_shares(before: int, after: int) -> np.ndarray:
    """[after, before] matrix whose row k holds the share of every input pixel in output pixel k; rows add up to 1."""
    edges = np.linspace(0, before, after + 1)
    start, end = np.arange(before)[None, :], np.arange(1, before + 1)[None, :]
    covered = np.minimum(end, edges[1:, None]) - np.maximum(start, edges[:-1, None])
    return (np.clip(covered, 0, None) * after / before).astype(np.float32)
