"""From an item's pixels or samples to its score: encoders inside the item tower, differentiable down to the file."""

from __future__ import annotations

from typing import Any

import numpy as np
from keras import ops

from towers.attack import STEPS, fgsm, pgd
from towers.input_gradient import Gain, InputGradient

BRIGHTEST = 255.0
TOLERANCE = 1e-3


def pixel_scaling(encoder: Any) -> tuple[np.ndarray, np.ndarray]:
    """What an encoder's preprocessing does to pixels, as `low + x / 255 (high - low)`.

    Asked of the encoder itself with a black, a white and a random picture, so that any scaling by channel will do.

    Args:
        encoder: with `size` and `tensors` of uint8 [B, size, size, 3] -> float32 of the same shape.

    Returns: low and high, [size, size, 3] float32.

    Raises:
        ValueError: preprocessing that is more than a scaling: no gradient could be taken through it this way.
    """
    shape = (encoder.size, encoder.size, 3)
    random = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    asked = np.stack([np.zeros(shape, np.uint8), np.full(shape, 255, np.uint8), random])
    low, high, received = np.asarray(encoder.tensors(asked), np.float32)
    expected = low + random.astype(np.float32) / BRIGHTEST * (high - low)
    if np.abs(received - expected).max() > TOLERANCE * max(1.0, float(np.abs(high - low).max())):
        raise ValueError(
            f"encoder: its preprocessing must be a scaling of pixels, {encoder.name!r} does more; attack its content "
            "vectors instead (towers.attack)"
        )
    return low, high


def pixel_gain(encoder: Any, gain: Gain) -> Gain:
    """A gain of content vectors as a gain of pixels.

    Args:
        encoder: an image encoder with `model` and `tensors`, its weights as they are, tuned or not.
        gain: of {"image": vectors [B, F]} -> [B].

    Returns: of {"pixels": float32 [B, size, size, 3] in 0..255} -> [B].
    """
    low, high = pixel_scaling(encoder)

    def of_pixels(inputs: dict[str, Any]) -> Any:
        tensors = low + inputs["pixels"] / BRIGHTEST * (high - low)
        return gain({"image": ops.cast(encoder.model(tensors, training=False), "float32")})

    return of_pixels


def attack_pixels(
    encoder: Any, gain: Gain, pictures: np.ndarray, epsilon: int, *, method: str = "pgd", steps: int = STEPS
) -> np.ndarray:
    """Pictures changed by at most epsilon grey levels a channel, so that the item's gain grows.

    Formula: PGD, or FGSM, in the L-infinity ball of radius epsilon (the papers' epsilon / 255), inside 0..255, and whole
    numbers in the end, as a file would hold them.

    Args:
        pictures: uint8 [B, size, size, 3]. epsilon: 1 to 255. method: "fgsm" or "pgd".

    Returns: uint8 [B, size, size, 3].
    """
    if not 1 <= epsilon <= BRIGHTEST or method not in ("fgsm", "pgd"):
        raise ValueError(
            f"epsilon, method: must be 1 to 255 and 'fgsm' or 'pgd', received {epsilon} and {method!r}"
        )
    pixels = {"pixels": np.asarray(pictures, np.float32)}
    radius = {"pixels": np.full(len(pictures), float(epsilon))}
    gradient = InputGradient(pixel_gain(encoder, gain), {"pixels": pixels["pixels"].shape})
    if method == "fgsm":
        moved = fgsm(gradient, pixels, radius, "linf", (0.0, BRIGHTEST))
    else:
        moved = pgd(gradient, pixels, radius, "linf", (0.0, BRIGHTEST), steps=steps)
    return np.rint(moved["pixels"]).astype(np.uint8)


def attack_sound(
    encoder: Any, gain: Gain, clips: np.ndarray, epsilon: float, *, method: str = "pgd", steps: int = STEPS
) -> np.ndarray:
    """Clips whose samples are changed by at most epsilon times the clip's peak, so that the item's gain grows.

    Formula: PGD, or FGSM, in the L-infinity ball; 0.001 of the peak is 60 dB below it.

    Args:
        encoder: an audio encoder with `model` and `spectrogram` in `keras.ops`, such as `pack:musicnn`.
        gain: of {"audio": vectors [B, F]} -> [B]. clips: float32 [B, samples]. epsilon: above 0.

    Returns: float32 [B, samples].

    Raises:
        ValueError: an encoder that cannot be differentiated that far.
    """
    if not hasattr(encoder, "spectrogram"):
        raise ValueError(
            f"encoder: must make its spectrogram in keras.ops, {encoder.name!r} does not; attack its content vectors "
            "instead (towers.attack)"
        )

    def of_samples(inputs: dict[str, Any]) -> Any:
        vectors = encoder.model(encoder.spectrogram(inputs["samples"]), training=False)
        return gain({"audio": ops.cast(vectors, "float32")})

    samples = {"samples": np.asarray(clips, np.float32)}
    radius = {"samples": epsilon * np.abs(samples["samples"]).max(axis=1)}
    gradient = InputGradient(of_samples, {"samples": samples["samples"].shape})
    if method == "fgsm":
        return fgsm(gradient, samples, radius, "linf", (-1.0, 1.0))["samples"]
    return pgd(gradient, samples, radius, "linf", (-1.0, 1.0), steps=steps)["samples"]
