"""Joint backbones (CLIP, SigLIP): pictures and texts in one space, either tower on its own.

`towers/text_embedder.py` and `towers/image_embedder.py` come here when the preset's config says that it holds one.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

PREPROCESSORS = {
    "CLIPBackbone": "CLIPPreprocessor",
    "SigLIPBackbone": "SigLIPPreprocessor",
    "MetaCLIP2Backbone": "MetaCLIP2CausalLMPreprocessor",
    "metaclip_2": "MetaCLIP2CausalLMPreprocessor",
}
"""By what the config names: a keras-hub class, or a model type of Hugging Face."""

_loaded: weakref.WeakValueDictionary[Path, Any] = weakref.WeakValueDictionary()


def is_joint(kind: str) -> bool:
    """Whether a preset of this class or model type has a text and an image tower.

    Example:
        >>> is_joint("CLIPBackbone"), is_joint("BertBackbone")
        (True, False)
    """
    return kind in PREPROCESSORS


def joint_backbone(folder: Path) -> Any:
    """The whole backbone, loaded once for both towers as long as one of them lives."""
    import keras_hub

    backbone = _loaded.get(folder)
    if backbone is None:
        backbone = keras_hub.models.Backbone.from_preset(str(folder))
        _loaded[folder] = backbone
    return backbone


def joint_text_model(folder: Path, kind: str) -> tuple[Any, Any, int]:
    """The text tower.

    Formula: `y = W_t e / |W_t e|` with `e` the state of the end token (CLIP: Radford et al. 2021) or of the last
    position (SigLIP: Zhai et al. 2023), the towers' own pooling.

    Returns:
        The Keras model {"token_ids": int32 [B, L]} -> float32 [B, F] of unit length, the preset's preprocessor, and L.
    """
    import keras
    import keras_hub

    backbone = joint_backbone(folder)
    preprocessor = getattr(keras_hub.models, PREPROCESSORS[kind]).from_preset(str(folder), image_converter=None)
    length = int(preprocessor.sequence_length)
    tokens = keras.Input((length,), dtype="int32", name="token_ids")
    vectors = keras.ops.normalize(backbone.get_text_embeddings(tokens), axis=-1, order=2)
    model = keras.Model({"token_ids": tokens}, vectors, name="joint_text")
    model.backbone = backbone
    return model, preprocessor, length


def joint_tokens(preprocessor: Any, texts: Sequence[str]) -> dict[str, np.ndarray]:
    """B strings -> {"token_ids": int32 [B, L]}, padded to L as the tower was trained."""
    return {"token_ids": np.asarray(preprocessor({"prompts": list(texts), "images": None})["token_ids"])}


def joint_image_model(folder: Path) -> tuple[Any, Any, int]:
    """The image tower: `y = W_v v / |W_v v|` with `v` the class token (CLIP) or the attention pool (SigLIP).

    Returns:
        The Keras model float32 [B, size, size, 3] -> float32 [B, F] of unit length, the preset's image converter, and
        the size.
    """
    import keras
    import keras_hub

    backbone = joint_backbone(folder)
    converter = keras_hub.layers.ImageConverter.from_preset(str(folder))
    shape = tuple(backbone.vision_encoder.image_shape)
    images = keras.Input(shape, name="images")
    vectors = keras.ops.normalize(backbone.get_vision_embeddings(images), axis=-1, order=2)
    model = keras.Model(images, vectors, name="joint_image")
    model.backbone = backbone
    return model, converter, int(shape[0])
