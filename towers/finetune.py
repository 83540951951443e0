"""Which weights of a pretrained encoder learn: low-rank adapters, the last blocks, or all of them."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any, Literal

import keras
import numpy as np

Train = Literal["frozen", "lora", "last_k", "full"]
ADAPTERS = ("lora_kernel_a", "lora_kernel_b")


class TrainableEncoder:
    """A pretrained encoder of which some weights learn with the towers.

    The model runs as at inference even in training: no dropout, batch normalisation by its stored moments. A batch of a
    few dozen drawn items is too small to take moments from, and so a step is a function of the weights alone.

    Args:
        encoder: an encoder with `model` and `tensors` (see `towers.encoders.Encoder`), just made: what it has compiled
            before would not see the adapters.
        train: `"lora"` adds low-rank adapters and trains only them, `"last_k"` the last blocks and what stands after
            them, `"full"` everything, `"frozen"` nothing.
        lora_rank: r of the adapters. last_k: number of blocks.
        mixed_precision: compute in bfloat16; weights stay float32.

    Attributes:
        encoder, model: as given. trained: the variables that learn, in a fixed order.

    Raises:
        ValueError: an encoder without a model, or a model without what `train` asks for.
    """

    def __init__(
        self, encoder: Any, train: Train, *, lora_rank: int = 8, last_k: int = 2, mixed_precision: bool = False
    ) -> None:
        model = getattr(encoder, "model", None)
        if not isinstance(model, keras.Model) or not hasattr(encoder, "tensors"):
            raise ValueError(
                f"encoder: fine-tuning needs a single pretrained encoder such as 'pack:minilm', received "
                f"{encoder.name!r}; choose one, or set encoders.{encoder.modality}.train = \"frozen\""
            )
        self.encoder, self.model, self.train = encoder, model, train
        # Adapters come after the model's own weights, so a weight's place is the same in a model without adapters.
        self._places = {id(variable): place for place, variable in enumerate(model.weights)}
        self.trained = choose_trained(model, train, lora_rank=lora_rank, last_k=last_k)
        if mixed_precision:
            for layer in model._flatten_layers():
                layer.dtype_policy = keras.DTypePolicy("mixed_bfloat16")
        model.predict_function = None

    def changes(self) -> dict[str, np.ndarray]:
        """What `apply_changes` needs to make the tuned model out of the untouched one."""
        if self.train != "lora":
            return {
                f"weight_{self._places[id(variable)]}": keras.ops.convert_to_numpy(variable.value)
                for variable in self.trained
            }
        arrays = {}
        for layer in adapted_layers(self.model):
            place = self._places[id(layer._kernel)]
            factor = layer.lora_alpha / layer.lora_rank
            arrays[f"adapter_{place}_a"] = keras.ops.convert_to_numpy(layer.lora_kernel_a.value)
            arrays[f"adapter_{place}_b"] = factor * keras.ops.convert_to_numpy(layer.lora_kernel_b.value)
        return arrays


def apply_changes(model: keras.Model, arrays: dict[str, np.ndarray]) -> None:
    """Turn an untouched model into the tuned one; adapters are added into the kernels, so the graph stays as it was.

    Formula: `W + A B` for an adapter, the tuned value itself for any other weight.

    Args:
        arrays: from `TrainableEncoder.changes` of a model of the same architecture.

    Raises:
        ValueError: an array that has no weight of its shape.
    """
    weights = model.weights
    for key, array in arrays.items():
        kind, _, rest = key.partition("_")
        place, _, side = rest.partition("_")
        if kind == "adapter" and side == "b":
            continue
        value = np.matmul(array, arrays[f"adapter_{place}_b"]) if kind == "adapter" else array
        if int(place) >= len(weights) or tuple(weights[int(place)].shape) != value.shape:
            raise ValueError(
                f"arrays: {key} of shape {value.shape} fits no weight of {model.name}; the tuned weights belong to "
                f"another encoder: run the finetune stage again."
            )
        variable = weights[int(place)]
        variable.assign(keras.ops.convert_to_numpy(variable.value) + value if kind == "adapter" else value)


def choose_trained(
    model: keras.Model, train: Train, *, lora_rank: int = 8, last_k: int = 2
) -> list[keras.Variable]:
    """Freeze a model except for what `train` names, and return the variables that learn.

    LoRA is keras-hub's own where the model has such a backbone (queries and values of the attention), and every dense,
    einsum or convolution kernel elsewhere. With B = 0 at the start the vectors are those of the untouched model.
    Formula: `W + (alpha / r) A B`, A [..., r], B [r, out]. Paper: Hu et al., *LoRA*, ICLR 2022.

    Raises:
        ValueError: an unknown `train`, no kernel that could take an adapter, or fewer than `last_k` blocks.
    """
    if train == "frozen":
        chosen: list[keras.Variable] = []
    elif train == "lora":
        chosen = _add_adapters(model, lora_rank)
    elif train == "last_k":
        chosen = [variable for layer in _last_layers(model, last_k) for variable in layer.trainable_variables]
    elif train == "full":
        chosen = list(model.trainable_variables)
    else:
        raise ValueError(f"train: must be 'frozen', 'lora', 'last_k' or 'full', received {train!r}")
    if not chosen and train != "frozen":
        raise ValueError(f"train: {train!r} leaves nothing to learn in {model.name}")
    model.trainable = True
    wanted = {id(variable) for variable in chosen}
    for variable in model.variables:
        variable.trainable = id(variable) in wanted
    return [variable for variable in model.weights if id(variable) in wanted]


def adapted_layers(model: keras.Model) -> list[keras.layers.Layer]:
    """The layers that carry an adapter, in the order of the model."""
    return [layer for layer in model._flatten_layers() if getattr(layer, "lora_enabled", False)]


def backbone_of(model: keras.Model) -> keras.Model:
    """The keras-hub backbone inside a model, or the model itself where it has none."""
    for layer in model._flatten_layers():
        if hasattr(layer, "default_lora_layer_names"):
            return layer
    return model


def blocks_of(model: keras.layers.Layer) -> list[list[keras.layers.Layer]]:
    """The layers with weights of the level where a network has its blocks, in order, block by block.

    A block is a composite layer of a class that stands there at least twice (a transformer layer), or the plain layers
    that share a name up to `block7a_`; what belongs to no block is one of its own from kernel to kernel. A level
    without blocks is left for the composite layer that holds the most layers.
    """
    level = [layer for layer in _children(model) if layer.weights]
    composite = [layer for layer in level if any(child.weights for child in _children(layer))]
    classes = Counter(type(layer) for layer in composite)
    repeated = [layer for layer in composite if classes[type(layer)] > 1]
    if composite and not repeated:
        return blocks_of(max(composite, key=lambda layer: len(list(layer._flatten_layers()))))
    blocks: list[list[keras.layers.Layer]] = []
    before = ""
    for layer in level:
        named = re.match(r".*block\d+[a-z]?(?=_)", layer.name)
        name = named[0] if named else ""
        starts = name != before if name or before else layer in repeated or (not repeated and hasattr(layer, "kernel"))
        if starts or not blocks:
            blocks.append([])
        blocks[-1].append(layer)
        before = name
    return [block for block in blocks if any(layer.trainable_variables for layer in block)]


def _children(layer: keras.layers.Layer) -> list[keras.layers.Layer]:
    """Direct sublayers, of a model in the order in which data passes them."""
    return list(layer.layers if isinstance(layer, keras.Model) else layer._layers)


def _add_adapters(model: keras.Model, rank: int) -> list[keras.Variable]:
    backbone = backbone_of(model)
    if hasattr(backbone, "default_lora_layer_names"):
        backbone.enable_lora(rank)
    if not adapted_layers(model):
        for layer in model._flatten_layers(include_self=False):
            if isinstance(layer, (keras.layers.Dense, keras.layers.EinsumDense)) or _plain_convolution(layer):
                layer.enable_lora(rank)
    return [getattr(layer, name) for layer in adapted_layers(model) for name in ADAPTERS]


def _plain_convolution(layer: keras.layers.Layer) -> bool:
    """Whether it is a convolution over all channels; depthwise and grouped ones have too few weights to adapt."""
    kinds = (keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D)
    return isinstance(layer, kinds) and layer.groups == 1


def _last_layers(model: keras.Model, count: int) -> list[keras.layers.Layer]:
    blocks = blocks_of(backbone_of(model))
    if count > len(blocks):
        raise ValueError(
            f"last_k: {model.name} has {len(blocks)} blocks, received {count}; lower last_k or set train = \"full\""
        )
    return [layer for block in blocks[-count:] for layer in block]
