"""Sound statistics that need no weights: log-mel, timbre, pitch class and tempo, by `tf.signal`.

The one file of this folder that imports TensorFlow, and only once an encoder is made.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from towers.encoder_card import EncoderCard, fingerprint

RATE, FRAME, HOP, MELS, TEMPI, TINY = 16_000, 1024, 256, 40, 24, 1e-6


class SignalAudioEncoder:
    """Statistics over time of the log-mel spectrogram, with delta, tempo, pitch-class and spectral-shape features.

    With S the power spectrogram (frames of 64 ms every 16 ms) and X = log10(mel(S) + 1e-6) over T frames:

    - mean, standard deviation, minimum and maximum of X over time, a mel band: 4 x 40,
    - standard deviation of X[t+1] - X[t], a band: 40,
    - mean and deviation over time of centroid, bandwidth, flatness and log loudness: 8,
    - mean pitch-class profile (power by semitone modulo the octave, normalised; below about 600 Hz neighbouring
      semitones blur into each other, since bins are 15.6 Hz apart): 12,
    - autocorrelation of the onset strength o[t] = mean_band max(0, X[t+1] - X[t]) at the lags of 24 tempi from 40 to
      240 beats a minute, spaced by ratio, divided by its lag-0 value: 24.

    Zeros at a clip's end are padding: frames that reach into them do not count, so a clip's vector does not depend on
    the padded length. References: Tzanetakis and Cook 2002; Fujishima 1999 (pitch-class profile).

    Shapes: clips float32 [B, size] at 16 kHz -> float32 [B, 244].
    """

    modality = "audio"
    name = "signal:"
    version = 1

    def __init__(self, seconds: float = 5.0) -> None:
        import tensorflow as tf

        card = self.card(seconds)
        self.size, self.width, self.fingerprint = card.size, card.width, card.fingerprint
        if self.size < 2 * FRAME:
            raise ValueError(f"seconds: must be at least {2 * FRAME / RATE}, received {seconds}")
        self._tf = tf
        mel = tf.signal.linear_to_mel_weight_matrix(MELS, FRAME // 2 + 1, RATE, 40.0, 7600.0)
        self._mel = tf.constant(mel)
        self._pitch = tf.constant(_pitch_classes())
        self._frequency = tf.constant(np.linspace(0, 1, FRAME // 2 + 1, dtype=np.float32))
        self._function = tf.function(self.statistics, input_signature=[tf.TensorSpec([None, self.size], tf.float32)])

    @classmethod
    def card(cls, seconds: float = 5.0) -> EncoderCard:
        """The facts of the encoder without making it."""
        width, size = 5 * MELS + 8 + 12 + TEMPI, int(seconds * RATE)
        return EncoderCard(cls.name, fingerprint("signal:audio", cls.version, size), cls.modality, width, size)

    def encode(self, batch: np.ndarray) -> np.ndarray:
        """float32 [B, size] at 16 kHz -> float32 [B, F_m]."""
        clips = np.asarray(batch, dtype=np.float32)
        if clips.ndim != 2 or clips.shape[1] != self.size:
            raise ValueError(f"batch: must be [B, {self.size}] samples, received {clips.shape}")
        return self._function(clips).numpy()

    def statistics(self, clips: Any) -> Any:
        tf = self._tf
        power = tf.abs(tf.signal.stft(clips, FRAME, HOP)) ** 2 / FRAME  # [B, T, F]
        log_mel = tf.math.log(tf.matmul(power, self._mel) + TINY) / np.log(10.0)  # [B, T, mel]
        frames = tf.shape(power)[1]
        positions = tf.range(1, self.size + 1)
        length = tf.reduce_max(tf.where(clips != 0.0, positions, 0), axis=1)
        counted = tf.maximum((length - FRAME) // HOP + 1, 1)
        mask = tf.cast(tf.range(frames)[None, :] < counted[:, None], tf.float32)[..., None]  # [B, T, 1]

        mean, deviation = self._over_time(log_mel, mask)
        low = tf.reduce_min(tf.where(mask > 0, log_mel, 10.0), axis=1)
        high = tf.reduce_max(tf.where(mask > 0, log_mel, -10.0), axis=1)
        delta = (log_mel[:, 1:] - log_mel[:, :-1]) * mask[:, 1:]
        _, delta_deviation = self._over_time(delta, mask[:, 1:])
        shape_mean, shape_deviation = self._over_time(self._spectral_shape(power), mask)
        pitch = tf.reduce_sum(tf.matmul(power, self._pitch) * mask, axis=1)
        pitch /= tf.reduce_sum(pitch, axis=1, keepdims=True) + TINY
        tempo = self._tempo(tf.reduce_mean(tf.nn.relu(delta), axis=2), mask[:, 1:, 0])
        parts = [0.25 * mean, deviation, 0.25 * low, 0.25 * high, delta_deviation, shape_mean, shape_deviation]
        return tf.concat([*parts, pitch, tempo], axis=1)

    def _over_time(self, values: Any, mask: Any) -> tuple[Any, Any]:
        """Mean and standard deviation [B, C] of [B, T, C] over the frames that count."""
        tf = self._tf
        count = tf.maximum(tf.reduce_sum(mask, axis=1), 1.0)
        mean = tf.reduce_sum(values * mask, axis=1) / count
        variance = tf.reduce_sum((values - mean[:, None]) ** 2 * mask, axis=1) / count
        return mean, tf.sqrt(variance)

    def _spectral_shape(self, power: Any) -> Any:
        """Centroid, bandwidth (both as a share of 8 kHz), flatness and log loudness: [B, T, 4]."""
        tf = self._tf
        total = tf.reduce_sum(power, axis=2, keepdims=True) + TINY
        centroid = tf.reduce_sum(power * self._frequency, axis=2, keepdims=True) / total
        spread = tf.reduce_sum(power * (self._frequency - centroid) ** 2, axis=2, keepdims=True) / total
        geometric = tf.exp(tf.reduce_mean(tf.math.log(power + TINY), axis=2, keepdims=True))
        flatness = geometric / (tf.reduce_mean(power, axis=2, keepdims=True) + TINY)
        loudness = 0.25 * tf.math.log(total) / np.log(10.0)
        return tf.concat([centroid, tf.sqrt(spread), flatness, loudness], axis=2)

    def _tempo(self, onset: Any, mask: Any) -> Any:
        """Autocorrelation [B, TEMPI] of the centred onset strength [B, T], by zero-padded FFT."""
        tf = self._tf
        count = tf.maximum(tf.reduce_sum(mask, axis=1, keepdims=True), 1.0)
        centred = (onset - tf.reduce_sum(onset * mask, axis=1, keepdims=True) / count) * mask
        span = 1 << (2 * (1 + (self.size - FRAME) // HOP) - 1).bit_length()
        spectrum = tf.signal.rfft(centred, [span])
        correlation = tf.signal.irfft(tf.cast(tf.abs(spectrum) ** 2, tf.complex64), [span])
        beats = np.geomspace(40.0, 240.0, TEMPI)
        lags = np.minimum(60.0 / beats * RATE / HOP, span // 2 - 2)
        lower = np.floor(lags).astype(np.int32)
        share = tf.constant(lags - lower, tf.float32)
        before, after = tf.gather(correlation, lower, axis=1), tf.gather(correlation, lower + 1, axis=1)
        return (before * (1 - share) + after * share) / (correlation[:, :1] + TINY)


def _pitch_classes() -> np.ndarray:
    """0/1 matrix [FRAME // 2 + 1, 12]: the semitone, modulo the octave, of every bin from 80 Hz to 4 kHz."""
    frequency = np.fft.rfftfreq(FRAME, 1 / RATE)
    classes = np.zeros((len(frequency), 12), np.float32)
    heard = np.flatnonzero((frequency >= 80) & (frequency <= 4000))
    classes[heard, np.round(12 * np.log2(frequency[heard] / 440.0)).astype(int) % 12] = 1.0
    return classes
