"""Keras models over many rows at inference: batches of few shapes, token sequences sorted by length."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

FEW, AT_ONCE = 16, 320_000
"""Rows that TensorFlow answers layer by layer, since to make a graph of a model takes longer; and the numbers that one call is
given of them, two pictures of EfficientNet: it holds what every layer makes until it ends, 100 MB a picture, and to be handed
that memory by the system takes longer than to compute it."""
STEP = 16
"""Lengths are rounded up to multiples of this, so that a compiled model meets few shapes."""


def compiled(model: Any) -> Any:
    """The model ready for `predict_on_batch`: one graph under TensorFlow, `jax.jit` under JAX.

    XLA stays off under TensorFlow: on two cores it ran EfficientNet ten times slower than the kernels of oneDNN.
    """
    model.compile(jit_compile=_compiles_everything())
    return model


def _compiles_everything() -> bool:
    import keras

    return keras.config.backend() == "jax"


def predict(model: Any, tensors: Any, batch_size: int) -> np.ndarray:
    """A model over all rows of its input (an array, or a dict of arrays), `batch_size` at a time.

    The last batch is filled up to a power of two with copies of its first row, again for the sake of few shapes. Of no more
    than `FEW` rows that are one batch no graph is made under TensorFlow.

    Shapes: [B, ...] -> float32 [B, F].
    """
    parts = tensors if isinstance(tensors, Mapping) else {"": tensors}
    rows = len(next(iter(parts.values())))
    few = 0 < rows <= min(FEW, batch_size) and not _compiles_everything()
    if few:
        numbers = sum(value[0].size for value in parts.values())
        batch_size = max(1, min(AT_ONCE // numbers, batch_size))
    outputs = [np.zeros((0, model.output_shape[-1]), np.float32)]
    for start in range(0, rows, batch_size):
        count = min(batch_size, rows - start)
        missing = 0 if few else min(1 << (count - 1).bit_length(), batch_size) - count
        index = np.r_[start : start + count, [start] * missing].astype(np.int64)
        filled = {key: value[index] for key, value in parts.items()}
        given = filled if isinstance(tensors, Mapping) else filled[""]
        output = model(given, training=False) if few else model.predict_on_batch(given)
        outputs.append(np.asarray(output, dtype=np.float32)[:count])
    return np.concatenate(outputs)


def predict_tokens(
    model: Any,
    tokens: Mapping[str, np.ndarray],
    lengths: np.ndarray,
    batch_size: int,
    prepare: Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]] = dict,
) -> np.ndarray:
    """A model over padded token sequences, in batches of like lengths, each trimmed to its longest.

    The cost of attention grows with the padded length, so this is worth several times the speed on titles and short
    descriptions.

    Args:
        tokens: the model's inputs, padded at the end.
        lengths: tokens that are not padding, [B].
        prepare: given the tokens of a batch right before the model answers them; what it returns is answered.

    Shapes: [B, L] each -> float32 [B, F], in the order given.
    """
    vectors = np.zeros((len(lengths), model.output_shape[-1]), np.float32)
    order = np.argsort(lengths, kind="stable")
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        longest = -(-int(lengths[rows[-1]]) // STEP) * STEP
        vectors[rows] = predict(
            model, prepare({key: value[rows, :longest] for key, value in tokens.items()}), batch_size
        )
    return vectors
