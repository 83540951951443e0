"""Pictures through a pretrained keras-hub backbone: class token, mean of patches, or global average of a map."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from towers.encoder_card import EncoderCard, fingerprint
from towers.joint_embedder import is_joint, joint_image_model
from towers.preset import measured, one_of, preset_files, preset_folder, preset_kind, split_options, whole_number, why

VERSION = 1
OPTIONS = ("size", "pooling")
POOLINGS = ("auto", "mean", "class")
SIZE = 224
"""Pixels a side where neither the options, the converter nor the backbone says."""


class ImageEmbedderEncoder:
    """Image vectors of a keras-hub backbone.

    Pooling, by what the backbone gives: of a map [B, h, w, C] the global average; of tokens [B, T, C] with a class
    token in front (ViT, DeiT, DINOv2, DINOv3) that token, which is what these were trained to read, or with
    `pooling=mean` the average over the patches alone, class, distillation and register tokens left out; of other tokens
    their average; of a pyramid the deepest level. CLIP and SigLIP: the image tower, in one space with its text tower.

    Args:
        preset: keras-hub preset name or folder that holds a backbone and an image converter; options may follow it, as
            in `dinov2_small?size=224&pooling=mean`. `size` sets the pixels a side where the backbone allows it.

    Attributes:
        model: Keras model over `tensors`. converter: the preset's own scaling of pixels.

    Shapes: uint8 [B, size, size, 3] -> float32 [B, F_m = C].

    Raises:
        ValueError: a preset that has no such backbone, or one whose output is no such map.
        FileNotFoundError, ConnectionError: see `preset_folder`.
    """

    modality = "image"

    def __init__(self, preset: str) -> None:
        folder, options = _read(preset)
        kind, _ = preset_kind(folder)
        self.name, self.fingerprint = f"keras_hub:{preset}", _digest(folder, options)
        try:
            if is_joint(kind):
                self.model, self.converter, self.size = joint_image_model(folder)
            else:
                self.model, self.converter, self.size = _pooled_backbone(folder, options)
        except Exception as error:
            raise ValueError(
                f"preset: must hold an image backbone and its image converter, {preset!r} holds {kind} "
                f"({why(error)})"
            ) from error
        self.width = int(self.model.output_shape[-1])

    @classmethod
    def card(cls, preset: str) -> EncoderCard:
        """The encoder's facts; the model is built for them only the first time that its weights are seen."""
        folder, options = _read(preset)
        digest = _digest(folder, options)

        def measure() -> tuple[int, int]:
            encoder = ImageEmbedderEncoder(preset)
            return encoder.width, encoder.size

        width, size = measured(digest, measure)
        return EncoderCard(f"keras_hub:{preset}", digest, "image", width, size)

    def tensors(self, batch: np.ndarray) -> np.ndarray:
        """uint8 [B, size, size, 3] -> the model's input float32 [B, size, size, 3], scaled as in its training."""
        images = np.asarray(batch)
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != (self.size, self.size, 3):
            raise ValueError(
                f"batch: must be uint8 [B, {self.size}, {self.size}, 3], received {images.dtype} {images.shape}"
            )
        return np.asarray(self.converter(images.astype(np.float32)), dtype=np.float32)

    def encode(self, batch: np.ndarray) -> np.ndarray:
        """uint8 [B, size, size, 3] -> float32 [B, F_m]."""
        images = self.tensors(batch)
        if not len(images):
            return np.zeros((0, self.width), np.float32)
        return np.asarray(self.model.predict_on_batch(images), dtype=np.float32)


def _read(preset: str) -> tuple[Path, dict[str, str]]:
    name, options = split_options(preset, OPTIONS)
    return preset_folder(name), options


def _digest(folder: Path, options: dict[str, str]) -> str:
    settings = (one_of(options, "pooling", POOLINGS), whole_number(options, "size", 0, 0, 4096))
    return fingerprint("image", VERSION, *settings, files=preset_files(folder))


def _pooled_backbone(folder: Path, options: dict[str, str]) -> tuple[Any, Any, int]:
    import keras
    import keras_hub

    converter = keras_hub.layers.ImageConverter.from_preset(str(folder))
    if converter is None:
        raise ValueError("it has no image converter, so nothing says how its pixels are scaled")
    chosen = whole_number(options, "size", 0, 0, 4096)
    shape = {"image_shape": (chosen, chosen, 3)} if chosen else {}
    backbone = keras_hub.models.Backbone.from_preset(str(folder), **shape)
    fixed = getattr(backbone, "image_shape", None) or (None, None, 3)
    size = int(chosen or (converter.image_size or (None,))[0] or fixed[0] or SIZE)
    if fixed[0] not in (None, size):
        size = int(fixed[0])
    converter.image_size = (size, size)
    images = keras.Input((size, size, 3), name="images")
    output = backbone({next(iter(backbone.input)): images} if isinstance(backbone.input, dict) else images)
    if isinstance(output, dict):
        output = max(output.values(), key=lambda level: level.shape[-1])
    pooled = _pool(backbone, output, one_of(options, "pooling", POOLINGS))
    model = keras.Model(images, pooled, name="pooled_image")
    model.backbone = backbone
    return model, converter, size


def _pool(backbone: Any, output: Any, pooling: str) -> Any:
    import keras

    if len(output.shape) not in (3, 4) or output.shape[-1] is None:
        raise ValueError(f"the backbone must give [B, h, w, C] or [B, tokens, C], it gives {output.shape}")
    special = _special_tokens(backbone) if len(output.shape) == 3 else 0
    if pooling == "class" and not special:
        raise ValueError("pooling=class needs a backbone with a class token; use pooling=mean")
    if special and pooling != "mean":
        return output[:, 0]
    if len(output.shape) == 4:
        return keras.ops.mean(output, axis=(1, 2))
    return keras.ops.mean(output[:, special:], axis=1)


def _special_tokens(backbone: Any) -> int:
    """How many tokens stand before the patches: class, distillation, registers."""
    kind = type(backbone).__name__
    if kind == "ViTBackbone":
        return int(backbone.use_class_token)
    if kind in ("DINOV2Backbone", "DINOV3Backbone"):
        return 1 + int(backbone.num_register_tokens)
    return 2 if kind == "DeiTBackbone" else 0
