"""Pictures through a pretrained keras-hub backbone: global average of its feature map, or mean of its tokens."""

from __future__ import annotations

import numpy as np


class ImageEmbedderEncoder:
    """Image vectors of a keras-hub backbone.

    The backbone's output [B, h, w, C] (convolutional) or [B, tokens, C] (transformer) is averaged over positions.
    Resizing and normalisation come from the preset's own image converter.

    Args:
        preset: keras-hub preset name or folder that holds a backbone and an image converter.

    Shapes: uint8 [B, size, size, 3] -> float32 [B, F_m = C].

    Raises:
        ValueError: a preset that has no such backbone, or one whose output is no such map.
    """

    modality = "image"

    def __init__(self, preset: str) -> None:
        import keras_hub

        try:
            self.converter = keras_hub.layers.ImageConverter.from_preset(preset)
            self.backbone = keras_hub.models.Backbone.from_preset(preset)
        except Exception as error:
            raise ValueError(
                f"preset: must be an image backbone of keras-hub or a folder with one, received {preset!r} ({error})"
            ) from error
        shape = self.backbone.output_shape
        if not isinstance(shape, tuple) or len(shape) not in (3, 4) or shape[-1] is None:
            raise ValueError(f"preset: the backbone must give [B, h, w, C] or [B, tokens, C], {preset!r} gives {shape}")
        self.name = f"keras_hub:{preset}"
        self.width = int(shape[-1])
        self.size = int((self.converter.image_size or (224, 224))[0])

    def encode(self, batch: np.ndarray) -> np.ndarray:
        """uint8 [B, size, size, 3] -> float32 [B, F_m]."""
        images = self.converter(np.asarray(batch, dtype=np.float32))
        output = np.asarray(self.backbone.predict_on_batch(images), dtype=np.float32)
        return output.reshape(len(output), -1, self.width).mean(axis=1)
