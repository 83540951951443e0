"""A Keras 3 model inside a `tf.Module` of which some weights are left out: a call brings what stands in for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf


class PartialWeights(tf.Module):
    """As `KerasWeights`, without the weights that a graph should not carry whole, such as tables of a million rows.

    Args:
        model: a built layer or model; it keeps its own weights.
        name: prefix of the variables.
        left_out: weights of the model that are not copied.

    Raises:
        ValueError: a weight to leave out is not one of the model's.

    Example:
        >>> layer = keras.layers.Embedding(1000, 2)
        >>> layer.build((None,))
        >>> partial = PartialWeights(layer, "words", [layer.embeddings])
        >>> partial([tf.constant([[5.0, 6.0]])], tf.constant([0])).numpy().tolist(), partial.values
        ([[5.0, 6.0]], ListWrapper([]))
    """

    def __init__(self, model: Any, name: str, left_out: Sequence[Any]):
        super().__init__(name=name)
        marked = {id(weight) for weight in left_out}
        kept = [weight for weight in model.weights if id(weight) not in marked]
        if len(kept) + len(marked) != len(model.weights):
            raise ValueError(f"left_out: must be weights of the model, received {[weight.path for weight in left_out]}")
        self._call: Callable = lambda *inputs: model(*inputs)
        self._weights: Callable = lambda: (kept, left_out)
        self.values = [
            tf.Variable(
                keras.ops.convert_to_numpy(weight), dtype=weight.dtype, trainable=False, name=f"{name}_{place:03d}"
            )
            for place, weight in enumerate(kept)
        ]

    def __call__(self, stand_ins: Sequence[tf.Tensor], *inputs: Any) -> Any:
        """What the model answers in inference mode, with tensors in the place of the weights left out."""
        kept, left_out = self._weights()
        values = [tf.convert_to_tensor(value) for value in self.values]
        scope = keras.StatelessScope(state_mapping=list(zip(kept, values, strict=True)))
        for weight, stand_in in zip(left_out, stand_ins, strict=True):
            # Past the constructor, which insists on the weight's own shape.
            scope.state_mapping[id(weight)] = stand_in
        with scope:
            return self._call(*inputs)
