"""Raw sound inside a graph: PCM at 16 kHz to clips of fixed length, and those to vectors."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from data.waveform import LOUDEST
from serving.graphs.keras_weights import KerasWeights


def fit_clips(samples: Any, lengths: Any, size: int) -> tuple[tf.Tensor, tf.Tensor]:
    """The middle of longer clips, zeros after shorter ones, as the encode stage cuts them.

    A clip without samples, or with one that is NaN or infinite, is absent.

    Shapes: samples float32 [B, S], lengths int32 [B] (samples that count; more than S means S) -> clips float32
    [B, size], zeros where absent, and present bool [B].

    Example:
        >>> clips, present = fit_clips([[1.0, 2.0, 3.0, 4.0], [5.0, 0.0, 0.0, 0.0]], [4, 1], 2)
        >>> clips.numpy().tolist(), present.numpy().tolist()
        ([[2.0, 3.0], [5.0, 0.0]], [True, True])
    """
    samples = tf.convert_to_tensor(samples)
    lengths = tf.clip_by_value(lengths, 0, tf.shape(samples)[1])
    counted = tf.sequence_mask(lengths, tf.shape(samples)[1])
    finite = tf.reduce_all(tf.math.is_finite(samples) | ~counted, axis=1)
    present = (lengths > 0) & finite
    samples = tf.where(counted & present[:, None], tf.clip_by_value(samples, -LOUDEST, LOUDEST), 0.0)
    start = tf.maximum(lengths - size, 0) // 2
    # Room for a clip behind every start, so that no place lies outside.
    places = start[:, None] + tf.range(size)
    clips = tf.gather(tf.pad(samples, [[0, 0], [0, size]]), places, batch_dims=1)
    within = places < tf.minimum(start + size, lengths)[:, None]
    return tf.ensure_shape(tf.where(within, clips, 0.0), (None, size)), present


class SignalAudio(tf.Module):
    """`signal:` sound: the statistics of `towers.signal_audio`, which are TensorFlow operations already.

    Shapes: float32 [B, size] -> float32 [B, 244].
    """

    def __init__(self, encoder: Any):
        super().__init__(name="signal_audio")
        self.width, self.size = encoder.width, encoder.size
        self._statistics = lambda clips: encoder.statistics(clips)

    def __call__(self, clips: Any) -> tf.Tensor:
        """Vectors of clips."""
        return self._statistics(clips)


class SpectrogramAudio(tf.Module):
    """Encoders that make their own spectrogram of `keras.ops` (`pack:musicnn`, `pack:whisper`).

    Args:
        encoder: with `model`, `width`, `size` and `spectrogram(clips)`.

    Shapes: float32 [B, size] -> float32 [B, F_m].
    """

    def __init__(self, encoder: Any):
        super().__init__(name="spectrogram_audio")
        self.width, self.size = encoder.width, encoder.size
        self._spectrogram = lambda clips: encoder.spectrogram(clips)
        self.model = KerasWeights(encoder.model, "audio")

    def __call__(self, clips: Any) -> tf.Tensor:
        """Vectors of clips."""
        return self.model(self._spectrogram(clips))
