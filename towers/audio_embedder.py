"""Sound through the encoder of a pretrained keras-hub speech model (Whisper, Moonshine), averaged over real frames."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from towers.encoder_card import EncoderCard, fingerprint
from towers.preset import preset_files, preset_folder, preset_kind, split_options, whole_number, why

VERSION = 1
OPTIONS = ("seconds",)
SECONDS = 10
RATE = 16_000
KINDS = ("WhisperBackbone", "MoonshineBackbone")
WHISPER_STEP = 320
"""Samples that one encoder state of Whisper stands for: a hop of 160, halved by the second convolution."""
SHORTEST = 1024
"""Samples that count as real at least; the first Moonshine state needs 895."""


class AudioEmbedderEncoder:
    """Clip vectors of a speech model's encoder.

    Formula: `y = sum_t real_t h_t / sum_t real_t` over the encoder's states h; a state is real if it begins before the
    clip's last sample that is not zero (decoders pad with zeros). Papers: Radford et al. 2022 (Whisper); Jeffries et al.
    2024 (Moonshine). Both were trained on speech; for music `pack:musicnn` or `hub:` YAMNet fit better.

    Args:
        preset: keras-hub preset name or folder (`whisper_tiny_multi`, `moonshine_tiny_en`); options may follow it, as in
            `whisper_base_multi?seconds=30`. Whisper was trained on windows of 30 s; shorter ones cost less in proportion.

    Attributes:
        model: Keras model over `tensors`. converter: the preset's own samples to features.

    Shapes: float32 [B, size] samples at 16 kHz -> float32 [B, F_m].

    Raises:
        ValueError: a preset of another kind, or an unknown option.
        FileNotFoundError, ConnectionError: see `preset_folder`.
    """

    modality = "audio"

    def __init__(self, preset: str) -> None:
        folder, seconds, kind, settings = _read(preset)
        self.name, self.fingerprint = f"keras_hub:{preset}", _digest(folder, seconds)
        self.size, self.width = seconds * RATE, int(settings["hidden_dim"])
        self._whisper = kind == "WhisperBackbone"
        try:
            self.model, self.converter = (_whisper if self._whisper else _moonshine)(folder, seconds)
        except Exception as error:
            raise ValueError(
                f"preset: must hold a speech backbone and its audio converter, {preset!r} holds {kind} "
                f"({why(error)})"
            ) from error

    @classmethod
    def card(cls, preset: str) -> EncoderCard:
        """The encoder's facts, from `config.json` and the hash of the files."""
        folder, seconds, _, settings = _read(preset)
        digest = _digest(folder, seconds)
        return EncoderCard(f"keras_hub:{preset}", digest, "audio", int(settings["hidden_dim"]), seconds * RATE)

    def tensors(self, batch: np.ndarray) -> dict[str, np.ndarray]:
        """float32 [B, size] -> the model's inputs.

        Whisper: `encoder_features` float32 [B, T, mels] and `real` float32 [B, T/2]. Moonshine: `encoder_input_values`
        float32 [B, size, 1] and `encoder_padding_mask` bool [B, size].
        """
        waves = np.asarray(batch, np.float32)
        if waves.ndim != 2 or waves.shape[1] != self.size:
            raise ValueError(f"batch: must be [B, {self.size}] samples, received {waves.shape}")
        samples = real_samples(waves)
        features = np.asarray(self.converter(waves), np.float32)
        if self._whisper:
            starts = WHISPER_STEP * np.arange(features.shape[1] // 2)
            return {"encoder_features": features, "real": (starts[None] < samples[:, None]).astype(np.float32)}
        mask = np.arange(self.size)[None] < samples[:, None]
        return {"encoder_input_values": features, "encoder_padding_mask": mask}

    def encode(self, batch: np.ndarray) -> np.ndarray:
        """float32 [B, size] -> float32 [B, F_m]."""
        if not len(batch):
            return np.zeros((0, self.width), np.float32)
        return np.asarray(self.model.predict_on_batch(self.tensors(batch)), dtype=np.float32)


def real_samples(waves: np.ndarray) -> np.ndarray:
    """int64 [B]: samples up to the last one that is not zero, `SHORTEST` at least.

    Example:
        >>> real_samples(np.pad(np.ones((1, 2000), np.float32), ((0, 0), (0, 500)))).tolist()
        [2000]
    """
    sounding = waves != 0
    last = waves.shape[1] - sounding[:, ::-1].argmax(axis=1)
    return np.maximum(np.where(sounding.any(axis=1), last, 0), SHORTEST)


def _read(preset: str) -> tuple[Path, int, str, dict[str, Any]]:
    name, options = split_options(preset, OPTIONS)
    folder = preset_folder(name)
    kind, settings = preset_kind(folder)
    if kind not in KINDS:
        raise ValueError(
            f"preset: audio needs one of {KINDS}, {preset!r} holds {kind}; choose a Whisper or Moonshine preset, 'hub:' "
            "or 'pack:musicnn'"
        )
    return folder, whole_number(options, "seconds", SECONDS, 1, 30 if kind == "WhisperBackbone" else 64), kind, settings


def _digest(folder: Path, seconds: int) -> str:
    return fingerprint("audio", VERSION, seconds, files=preset_files(folder))


def _whisper(folder: Path, seconds: int) -> tuple[Any, Any]:
    import keras
    import keras_hub

    converter = keras_hub.layers.AudioConverter.from_preset(str(folder), max_audio_length=seconds)
    backbone = keras_hub.models.Backbone.from_preset(str(folder))
    features = backbone.input["encoder_features"]
    real = keras.Input((None,), name="real")
    pooled = _masked_mean(backbone.output["encoder_sequence_output"], real)
    model = keras.Model({"encoder_features": features, "real": real}, pooled, name="pooled_audio")
    model.backbone = backbone
    return model, converter


def _moonshine(folder: Path, seconds: int) -> tuple[Any, Any]:
    import keras
    import keras_hub

    converter = keras_hub.layers.AudioConverter.from_preset(str(folder))
    backbone = keras_hub.models.Backbone.from_preset(str(folder))
    inputs = {key: backbone.input[key] for key in ("encoder_input_values", "encoder_padding_mask")}
    real = keras.ops.cast(backbone.output["encoder_attention_mask"], "float32")
    model = keras.Model(inputs, _masked_mean(backbone.output["encoder_sequence_output"], real), name="pooled_audio")
    model.backbone = backbone
    return model, converter


def _masked_mean(states: Any, real: Any) -> Any:
    import keras

    weights = keras.ops.cast(real, states.dtype)
    total = keras.ops.maximum(keras.ops.sum(weights, axis=1, keepdims=True), 1.0)
    return keras.ops.sum(states * weights[..., None], axis=1) / total
