"""`pack:musicnn`: music through the musicnn tagger, its TensorFlow checkpoint read once and rebuilt in Keras.

The one file of the pack that imports TensorFlow, and only while it converts; the cached arrays need none. The weights
were trained on MagnaTagATune, whose terms may restrict commercial use.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from towers.log_mel import RATE, mel_matrix, power_frames, repeated
from towers.model_batches import compiled
from towers.pack import PackEncoder
from towers.pack_cache import Arrays, converted_weights

FRAME, HOP, MELS, FRAMES = 512, 256, 96, 187
HEAD_WIDTH, POOLED, EPSILON = 200, 753, 1e-3
"""Units before the tags, activations a time step, and of the batch normalisations."""
TAGS = (
    "guitar", "classical", "slow", "techno", "strings", "drums", "electronic", "rock", "fast", "piano", "ambient",
    "beat", "violin", "vocal", "synth", "female", "indian", "opera", "male", "singing", "vocals", "no vocals",
    "harpsichord", "loud", "quiet", "flute", "woman", "male vocal", "no vocal", "pop", "soft", "sitar", "solo", "man",
    "classic", "choir", "voice", "new age", "dance", "male voice", "female vocal", "beats", "harp", "cello",
    "no voice", "weird", "country", "metal", "female voice", "choral",
)  # fmt: skip
"""What MagnaTagATune's listeners said, in the order of the network's outputs."""


class MusicnnEncoder(PackEncoder):
    """Features of music that was learned to be tagged: instruments, voices, tempo, mood.

    Formula: patches of 187 frames of `log10(10000 mel(S) + 1)` (S the power spectrogram, 512 samples every 256, 96
    bands) go through filters that are tall (timbre) and long (rhythm), and `y = [penultimate, mean over time]`: 200
    units before the tags and the 753 activations below them. A clip shorter than 3 s is repeated to fill it.

    Paper: Pons and Serra 2019 (musicnn); Pons et al. 2018 (End-to-end learning for music audio tagging at scale).

    Args:
        cache: folder of converted weights.

    Attributes:
        model: float32 [B, 187, 96] -> float32 [B, 953].
        head: kernel [200, 50] and bias [50] of the tags.

    Shapes: clips float32 [B, 48000] at 16 kHz -> float32 [B, 953].

    Raises:
        FileNotFoundError: its package is not installed.
    """

    name = "pack:musicnn"
    modality = "audio"
    width = HEAD_WIDTH + POOLED
    size = 3 * RATE
    package = "musicnn"
    files = ("MTT_musicnn/.index", "MTT_musicnn/.data-00000-of-00001")
    version = 1

    def __init__(self, cache: Path | None = None) -> None:
        prefix = self.paths()[0].parent
        self.fingerprint = self.card().fingerprint
        weights = converted_weights(self.name, self.fingerprint, lambda: _convert(prefix), cache)
        self.head = (weights["dense_1/kernel"], weights["dense_1/bias"])
        self.model = compiled(_model(weights))
        self.batch_size = 16
        self._mel = mel_matrix(MELS, FRAME)

    def tensors(self, batch: np.ndarray) -> np.ndarray:
        """float32 [B, 48000] -> log-mel patches float32 [B, 187, 96]."""
        from keras import ops

        clips = np.asarray(batch, dtype=np.float32)
        if clips.ndim != 2 or clips.shape[1] != self.size:
            raise ValueError(f"batch: must be [B, {self.size}] samples, received {clips.shape}")
        return ops.convert_to_numpy(self.spectrogram(clips))

    def spectrogram(self, samples: Any) -> Any:
        """The same in `keras.ops`, for arrays and inside an exported graph: [B, 48000] -> [B, 187, 96]."""
        from keras import ops

        power = power_frames(repeated(samples), FRAME, HOP)[:, :FRAMES]
        return ops.log(10000.0 * ops.matmul(power, self._mel) + 1.0) / np.float32(np.log(10.0))

    def tags(self, vectors: np.ndarray) -> np.ndarray:
        """Probabilities [B, 50] of `TAGS` from features [B, 953]."""
        kernel, bias = self.head
        return 1 / (1 + np.exp(-(vectors[:, :HEAD_WIDTH] @ kernel + bias)))


def _convert(folder: Path) -> Arrays:
    """The checkpoint's variables without the optimiser's."""
    import tensorflow as tf

    reader = tf.compat.v1.train.NewCheckpointReader(f"{folder}/")
    names = [name for name in reader.get_variable_to_shape_map() if "/" in name and "Adam" not in name]
    return {name: reader.get_tensor(name) for name in names}


def _model(weights: Arrays) -> Any:
    """Front: five convolutions over time and frequency, highest value over frequency. Middle: three over time. Back:
    mean and maximum over time, a dense layer."""
    import keras
    from keras import layers, ops

    counts = {"conv2d": 0, "batch_normalization": 0, "dense": 0}

    def following(kind: str) -> str:
        counts[kind] += 1
        return kind if counts[kind] == 1 else f"{kind}_{counts[kind] - 1}"

    def load(layer: Any, name: str, x: Any, *variables: str) -> Any:
        y = layer(x)
        layer.set_weights([weights[f"{name}/{variable}"] for variable in variables])
        return y

    def convolution(x: Any, padding: str) -> Any:
        name = following("conv2d")
        height, width, _, filters = weights[f"{name}/kernel"].shape
        layer = layers.Conv2D(filters, (height, width), padding=padding, activation="relu", name=name)
        return normalised(load(layer, name, x, "kernel", "bias"))

    def normalised(x: Any) -> Any:
        name = following("batch_normalization")
        layer = layers.BatchNormalization(epsilon=EPSILON, name=name)
        return load(layer, name, x, "gamma", "beta", "moving_mean", "moving_variance")

    pad = layers.ZeroPadding2D(((3, 3), (0, 0)))
    patch = keras.Input((FRAMES, MELS), name="log_mel")
    first = normalised(ops.expand_dims(patch, -1))
    timbre = [ops.max(convolution(pad(first), "valid"), axis=2) for _ in range(2)]
    rhythm = [ops.max(convolution(first, "same"), axis=2) for _ in range(3)]
    front = ops.expand_dims(ops.concatenate(timbre + rhythm, axis=2), -1)  # [B, T, 561, 1]
    one = ops.transpose(convolution(pad(front), "valid"), (0, 1, 3, 2))
    two = ops.transpose(convolution(pad(one), "valid"), (0, 1, 3, 2)) + one
    three = ops.transpose(convolution(pad(two), "valid"), (0, 1, 3, 2)) + two
    middle = ops.squeeze(ops.concatenate([front, one, two, three], axis=2), -1)  # [B, T, 753]
    highest, mean = ops.max(middle, axis=1), ops.mean(middle, axis=1)
    both = ops.reshape(ops.stack([highest, mean], axis=2), (-1, 2 * POOLED))  # maximum and mean take turns
    name, flat = following("dense"), normalised(both)
    dense = load(layers.Dense(HEAD_WIDTH, activation="relu", name=name), name, flat, "kernel", "bias")
    return keras.Model(patch, ops.concatenate([normalised(dense), mean], axis=1), name="musicnn")
