"""Pictures and clips made to deceive: files of new items changed within limits, encoded as any upload, and looked for."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from data.dataset import Dataset
from data.media import read_media
from pipeline.content.encode_plan import find_content
from pipeline.content.encode_worker import decoder_of
from pipeline.content.encode_workers import decoder_arguments
from pipeline.metrics.metrics import mean_over_users, ndcg_at_k
from pipeline.metrics.top_k import select_top_k
from pipeline.robustness.content_attack import AttackedItems, exposure_of, reach_gain
from pipeline.robustness.target_exposure import TargetExposure
from towers.encoder_card import EncoderCard
from towers.input_gradient import Gain
from towers.media_attack import attack_pixels, attack_sound

UNITS = {"image": "of 255", "audio": "of the peak"}
CHUNK = 64
"""Files that are decoded and encoded at a time."""


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
    defended: Any = None,
    steps: int,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """PGD on the files of items, and random noise of the same size beside it.

    Args:
        encoder: of the modality, a Keras model (and for sound, its spectrogram in `keras.ops`).
        epsilons: of 255 for pictures, of a clip's peak for sound.
        defended: another encoder of the same files. It reads the changed ones as they are (of an attacker who does not know of
            it), and others that were made for it, its noise guessed or (pictures) its secret known.

    Returns: lines as of `attack_content`, `content` being `["image file"]` or `["audio file"]`; also the mean `cosine`
        between the vectors before and after, and the `defence`.

    Raises:
        ValueError: an encoder that no gradient can be taken through.
    """
    modality = encoder.modality
    files = decoded_media(dataset, source, encoder, items.rows)
    spread = max(float(np.nanstd(queries @ items.served.items[1:].T, axis=1).mean()), 1e-9)
    gain = reach_gain(items.embed, queries, judge.threshold, spread)
    rng = np.random.default_rng(seed)
    readers = {"none": encoder} | ({} if defended is None else {"noised": defended})
    start = {name: np.asarray(reader.encode(files), np.float32) for name, reader in readers.items()}

    def line(defence: str, method: str, epsilon: float, changed: np.ndarray | None = None) -> dict[str, Any]:
        before = start[defence]
        after = before if changed is None else np.asarray(readers[defence].encode(changed), np.float32)
        cosine = (before * after).sum(axis=1) / np.maximum(
            np.linalg.norm(before, axis=1) * np.linalg.norm(after, axis=1), 1e-9
        )
        figures: Mapping[str, Any] = exposure_of(items, {modality: after}, judge, queries, seed)
        said = {"content": [f"{modality} file"], "norm": UNITS[modality], "method": method, "epsilon": float(epsilon)}
        return {"defence": defence, **said, **figures, "cosine": float(cosine.mean())}

    attackers = {}
    if defended is not None and modality == "image":
        attackers = {"pgd_guessed": defended.guessed(), "pgd": defended}
    elif defended is not None:
        # A gradient through a clip costs ten pictures' ones: one guess a step, and nobody who knows the secret.
        attackers = {"pgd_guessed": defended.guessed(1)}
    lines = [line(defence, "none", 0.0) for defence in readers]
    for epsilon in epsilons:
        if modality == "image":
            noise = rng.integers(-int(epsilon), int(epsilon) + 1, files.shape)
            noisy = np.clip(files.astype(np.int64) + noise, 0, 255).astype(np.uint8)
        else:
            peaks = epsilon * np.abs(files).max(axis=1, keepdims=True)
            noisy = (files + peaks * rng.choice([-1.0, 1.0], files.shape)).astype(np.float32)
        moved = _changed(encoder, gain, files, epsilon, steps)
        lines += [line("none", "noise", epsilon, noisy), line("none", "pgd", epsilon, moved)]
        if defended is not None:
            lines.append(line("noised", "pgd_unaware", epsilon, moved))
            for method, attacker in attackers.items():
                lines.append(line("noised", method, epsilon, _changed(attacker, gain, files, epsilon, steps)))
    return lines


def _changed(encoder: Any, gain: Gain, files: np.ndarray, epsilon: float, steps: int) -> np.ndarray:
    if encoder.modality == "image":
        return attack_pixels(encoder, gain, files, int(epsilon), steps=steps)
    return attack_sound(encoder, gain, files, epsilon, steps=steps)


def cost_of_encoders(
    items: AttackedItems, dataset: Dataset, source: Path, encoders: Mapping[str, Any], judge: TargetExposure,
    queries: np.ndarray,
) -> dict[str, dict[str, float]]:  # fmt: skip
    """What reading the files of new items by other encoders costs, the models being as they are.

    Args:
        items: new ones, all with the file. encoders: by defence, all of one size.

    Returns: by defence `ndcg` of everybody, `ndcg_new` over what they chose of these items, `seconds` a file.
    """
    found, new = dict[str, dict[str, float]](), np.zeros(judge.scores.shape[1], bool)
    new[items.rows] = True
    fresh, modality = judge.relevant.restrict(new), next(iter(encoders.values())).modality
    vectors = {name: np.zeros((len(items.rows), encoder.width), np.float32) for name, encoder in encoders.items()}
    seconds = dict.fromkeys(encoders, 0.0)
    for begin in range(0, len(items.rows), CHUNK):
        part = slice(begin, begin + CHUNK)
        files = decoded_media(dataset, source, next(iter(encoders.values())), items.rows[part])
        for name, encoder in encoders.items():
            start = time.perf_counter()
            vectors[name][part] = encoder.encode(files)
            seconds[name] += time.perf_counter() - start
    for name in encoders:
        scores = judge.scores.copy()
        placed = queries @ items.vectors({modality: vectors[name]}).T
        scores[:, items.rows] = np.where(np.isfinite(scores[:, items.rows]), placed, -np.inf)
        ranked, _ = select_top_k(scores, judge.k)
        found[name] = {
            "ndcg": mean_over_users(ndcg_at_k(ranked, judge.relevant, judge.k)),
            "ndcg_new": mean_over_users(ndcg_at_k(ranked, fresh, judge.k)),
            "seconds": seconds[name] / len(items.rows),
        }
    return found
