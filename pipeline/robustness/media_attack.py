"""Pictures and clips made to deceive: files of new items changed within limits, encoded as any upload, and looked for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from data.dataset import Dataset
from data.media import read_media
from pipeline.content.encode_plan import find_content
from pipeline.content.encode_worker import decoder_of
from pipeline.content.encode_workers import decoder_arguments
from pipeline.robustness.content_attack import AttackedItems, exposure_of, reach_gain
from pipeline.robustness.target_exposure import TargetExposure
from towers.encoder_card import EncoderCard
from towers.media_attack import attack_pixels, attack_sound

UNITS = {"image": "of 255", "audio": "of the peak"}


def decoded_media(dataset: Dataset, source: Path, encoder: Any, rows: np.ndarray) -> np.ndarray:
    """The files of items as the encoder is given them. rows: [B] -> uint8 [B, size, size, 3] or float32 [B, samples]

    Errors: KeyError for an item without such a file.
    """
    contents = find_content(dataset.items, encoder.modality)
    card = EncoderCard("", "", encoder.modality, encoder.width, encoder.size)
    arguments = decoder_arguments(card)[0]
    return np.stack(
        [
            decoder_of(contents[int(row)].kind)(read_media(source / "media", contents[int(row)].value), *arguments)
            for row in rows
        ]
    )


def attack_media(
    items: AttackedItems,
    dataset: Dataset,
    source: Path,
    encoder: Any,
    judge: TargetExposure,
    queries: np.ndarray,
    epsilons: tuple[float, ...],
    *,
    steps: int,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """PGD on the files of items, and random noise of the same size beside it.

    Args:
        encoder: of the modality, a Keras model (and for sound, its spectrogram in `keras.ops`).
        epsilons: of 255 for pictures, of a clip's peak for sound.

    Returns: lines as of `attack_content`, `content` being `["image file"]` or `["audio file"]`; also the mean `cosine`
        between the vectors before and after.

    Raises:
        ValueError: an encoder that no gradient can be taken through.
    """
    modality = encoder.modality
    files = decoded_media(dataset, source, encoder, items.rows)
    spread = max(float(np.nanstd(queries @ items.served.items[1:].T, axis=1).mean()), 1e-9)
    gain = reach_gain(items.embed, queries, judge.threshold, spread)
    rng = np.random.default_rng(seed)
    start = np.asarray(encoder.encode(files), np.float32)
    lines = [_line(items, modality, "none", 0.0, start, start, judge, queries, seed)]
    for epsilon in epsilons:
        if modality == "image":
            noise = rng.integers(-int(epsilon), int(epsilon) + 1, files.shape)
            noisy = np.clip(files.astype(np.int64) + noise, 0, 255).astype(np.uint8)
            moved = attack_pixels(encoder, gain, files, int(epsilon), steps=steps)
        else:
            peaks = epsilon * np.abs(files).max(axis=1, keepdims=True)
            noisy = (files + peaks * rng.choice([-1.0, 1.0], files.shape)).astype(np.float32)
            moved = attack_sound(encoder, gain, files, epsilon, steps=steps)
        for method, changed in (("noise", noisy), ("pgd", moved)):
            vectors = np.asarray(encoder.encode(changed), np.float32)
            lines.append(_line(items, modality, method, epsilon, start, vectors, judge, queries, seed))
    return lines


def _line(
    items: AttackedItems, modality: str, method: str, epsilon: float, start: np.ndarray, vectors: np.ndarray,
    judge: TargetExposure, queries: np.ndarray, seed: int,
) -> dict[str, Any]:  # fmt: skip
    cosine = (start * vectors).sum(axis=1) / np.maximum(
        np.linalg.norm(start, axis=1) * np.linalg.norm(vectors, axis=1), 1e-9
    )
    figures: Mapping[str, Any] = exposure_of(items, {modality: vectors}, judge, queries, seed)
    said = {"content": [f"{modality} file"], "norm": UNITS[modality], "method": method, "epsilon": float(epsilon)}
    return {**said, **figures, "cosine": float(cosine.mean())}
