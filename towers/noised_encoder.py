"""An encoder whose vectors are pooled over noisy views of a picture or a spectrogram, in which small changes drown."""

from __future__ import annotations

import copy
import hashlib
from typing import Any

import keras
import numpy as np
from keras import ops

from towers.model_batches import SIDE_BY_SIDE, compiled, predict
from towers.noised_card import noised_card

GREYS = 255.0


@keras.saving.register_keras_serializable("triptych")
class NoisyViews(keras.layers.Layer):
    """A model's answers to noisy copies of its input, averaged.

    Args:
        model: [B, ...] -> [B, F]. patterns: [V, ...], added one after the other; with None the noise is drawn anew at every
            call, `views` times with standard deviations `scale` [...], as somebody would who knows of it, but not the patterns.

    Shapes: [B, ...] -> [B, F].
    """

    def __init__(self, model: Any, patterns: np.ndarray | None, views: int, scale: np.ndarray, **kwargs):
        super().__init__(**kwargs)
        self.model, self.views, self.scale, self.patterns = model, views, np.asarray(scale, np.float32), None
        if patterns is not None:
            self.patterns = self.add_weight(
                shape=patterns.shape, initializer=lambda shape, dtype=None: ops.convert_to_tensor(patterns, dtype),
                trainable=False, name="patterns",
            )  # fmt: skip
        self.generator = keras.random.SeedGenerator(0) if patterns is None else None
        self.built = True

    def call(self, inputs):
        total = 0.0
        for view in range(self.views):
            if self.patterns is None:
                noise = keras.random.normal(ops.shape(inputs), seed=self.generator) * self.scale
            else:
                noise = self.patterns[view]
            total = total + ops.cast(self.model(inputs + noise, training=False), "float32")
        return total / self.views

    def compute_output_shape(self, input_shape):
        return (input_shape[0], self.model.output_shape[-1])


class NoisedEncoder:
    """An encoder that reads every picture or clip several times, each time with other noise, and averages what it says.

    Formula: `y = mean_v encoder(x + n_v)`, the n_v of independent normal entries and the same for everything that is encoded.
    What an attacker adds to single pixels is small beside the noise; what a picture shows is not. This is randomised smoothing:
    Lecuyer et al. (2019), *Certified robustness to adversarial examples with differential privacy*; Cohen et al. (2019). Who
    knows the n_v attacks through them, and they protect little: keep them secret, and the release that holds them.

    Args:
        encoder: of pictures or sound, with `model` over one float32 tensor, and `tensors`.
        sigma: standard deviation of the noise, of 255 for pictures, in the spectrogram's own units for sound (decades of power:
            0.1 is 1 dB). views: V, and as many times the cost.
        secret: what the n_v follow from; nothing for ones that anybody can draw.

    Attributes:
        model: Keras model, the noise included; all else is the encoder's.

    Raises:
        ValueError: no noise, no views, or an encoder without such a model.
    """

    def __init__(self, encoder: Any, sigma: float, views: int, secret: bytes = b"") -> None:
        if not hasattr(encoder, "model") or not hasattr(encoder, "tensors"):
            raise ValueError(f"noised: must be of a model of pictures or spectrograms, received {encoder.name!r}")
        card = noised_card(encoder, sigma, views, secret)
        self.name, self.fingerprint, self.modality = card.name, card.fingerprint, card.modality
        self.encoder, self.width, self.size, self.views = encoder, card.width, card.size, views
        self.scale = np.float32(sigma) * _unit(encoder)
        seed = int.from_bytes(hashlib.blake2b(secret, digest_size=16).digest())
        nothing = np.zeros((1, self.size, self.size, 3), np.uint8)
        if self.modality == "audio":
            nothing = np.zeros((1, self.size), np.float32)
        self.shape = np.asarray(encoder.tensors(nothing)).shape[1:]
        patterns = np.random.default_rng(seed).standard_normal((views, *self.shape), np.float32) * self.scale
        self.model = self._model(patterns)
        self.batch_size, self.side_by_side = getattr(encoder, "batch_size", 32), SIDE_BY_SIDE
        if hasattr(encoder, "spectrogram"):
            self.spectrogram = encoder.spectrogram

    def tensors(self, batch: Any) -> Any:
        """Decoded content to the model's input, as the encoder makes it."""
        return self.encoder.tensors(batch)

    def encode(self, batch: Any) -> np.ndarray:
        """A batch of decoded content -> float32 [B, F_m]."""
        return predict(self.model, np.asarray(self.tensors(batch), np.float32), self.batch_size, self.side_by_side)

    def guessed(self, views: int = 0) -> NoisedEncoder:
        """The encoder of somebody who knows all but the secret: noise is drawn anew at every call, for `views` (0 = V)."""
        other = copy.copy(self)
        other.views = views or self.views
        other.model, other.side_by_side = other._model(None), 1
        return other

    def _model(self, patterns: np.ndarray | None) -> Any:
        inputs = keras.Input(self.shape, name="plain")
        return compiled(keras.Model(inputs, NoisyViews(self.encoder.model, patterns, self.views, self.scale)(inputs)))


def _unit(encoder: Any) -> np.ndarray:
    """What one grey level is in a picture's tensor, [C]; 1 for a spectrogram."""
    if encoder.modality != "image":
        return np.ones(1, np.float32)
    flat = np.zeros((2, encoder.size, encoder.size, 3), np.uint8)
    flat[1] = int(GREYS)
    black, white = np.asarray(encoder.tensors(flat), np.float32)
    return (white - black)[0, 0] / GREYS
