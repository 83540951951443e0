"""Keras models over many rows at inference: batches of few shapes, token sequences sorted by length."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

FEW, AT_ONCE = 16, 320_000
"""Rows that TensorFlow answers layer by layer, since to make a graph of a model takes longer; and the numbers that one call is
given of them, two pictures of EfficientNet: it holds what every layer makes until it ends, 100 MB a picture, and to be handed
that memory by the system takes longer than to compute it."""
SIDE_BY_SIDE = 2
"""Batches that TensorFlow answers at a time, each on its share of the cores (see `pipeline.cores`): no core waits for another's
part of an operation."""
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


def predict(model: Any, tensors: Any, batch_size: int, side_by_side: int = SIDE_BY_SIDE) -> np.ndarray:
    """A model over all rows of its input (an array, or a dict of arrays), at most `batch_size` at a time.

    Of no more than `FEW` rows that are one batch no graph is made under TensorFlow.

    Args:
        side_by_side: batches at a time under TensorFlow; 1 for a model that draws, whose draws would go to whoever is first.

    Shapes: [B, ...] -> float32 [B, F].
    """
    rows = _count(tensors)
    if _are_few(rows, batch_size):
        return _layer_by_layer(model, tensors, batch_size)
    size = _batch_length(rows, batch_size)
    starts = range(0, rows, size)

    def answer(start: int) -> np.ndarray:
        return _by_graph(model, tensors, np.arange(start, min(start + size, rows)), size)

    answers = _in_order(model, answer, starts, side_by_side)
    return np.concatenate([np.zeros((0, model.output_shape[-1]), np.float32), *answers])


def predict_tokens(model: Any, tokens: Mapping[str, np.ndarray], lengths: np.ndarray, batch_size: int) -> np.ndarray:
    """A model over padded token sequences, in batches of like lengths, each trimmed to its longest.

    The cost of attention grows with the padded length, so this is worth several times the speed on titles and short
    descriptions.

    Args:
        tokens: the model's inputs, padded at the end.
        lengths: tokens that are not padding, [B].

    Shapes: [B, L] each -> float32 [B, F], in the order given.
    """
    vectors = np.zeros((len(lengths), model.output_shape[-1]), np.float32)
    few, size = _are_few(len(lengths), batch_size), _batch_length(len(lengths), batch_size)
    order = np.argsort(lengths, kind="stable")
    batches = [order[start : start + size] for start in range(0, len(order), size)]
    batches.reverse()  # the longest first: begun last, one thread would be at them while the other has nothing left

    def answer(rows: np.ndarray) -> np.ndarray:
        longest = -(-int(lengths[rows[-1]]) // STEP) * STEP
        trimmed = {key: value[:, :longest] for key, value in tokens.items()}
        return _layer_by_layer(model, _rows(trimmed, rows), size) if few else _by_graph(model, trimmed, rows, size)

    for rows, answered in zip(batches, _in_order(model, answer, batches), strict=True):
        vectors[rows] = answered
    return vectors


def _are_few(rows: int, batch_size: int) -> bool:
    return 0 < rows <= min(FEW, batch_size) and not _compiles_everything()


def _batch_length(rows: int, batch_size: int) -> int:
    """Rows of a batch: `batch_size`, and of what would be a single one a power of two, so that there is one for each thread.

    Example:
        >>> _batch_length(64, 64), _batch_length(40, 64), _batch_length(256, 64)
        (32, 32, 64)
    """
    alone = FEW < rows <= batch_size and not _compiles_everything()
    return 1 << ((rows - 1) // SIDE_BY_SIDE).bit_length() if alone else batch_size


def _in_order(
    model: Any, answer: Callable[[Any], np.ndarray], batches: Sequence[Any], side_by_side: int = SIDE_BY_SIDE
) -> list[np.ndarray]:
    """The answers to all batches, by so many threads."""
    if min(len(batches), side_by_side) < 2 or _compiles_everything():
        return [answer(batch) for batch in batches]
    model.make_predict_function()  # once, and not by every thread
    with ThreadPoolExecutor(side_by_side) as threads:
        return list(threads.map(answer, batches))


def _by_graph(model: Any, tensors: Any, rows: np.ndarray, batch_size: int) -> np.ndarray:
    """A model's answers to some rows, filled up to a power of two with copies of the first: a new shape is a graph anew."""
    missing = min(1 << (len(rows) - 1).bit_length(), batch_size) - len(rows)
    filled = _rows(tensors, np.r_[rows, [rows[0]] * missing].astype(np.int64))
    return np.asarray(model.predict_on_batch(filled), dtype=np.float32)[: len(rows)]


def _layer_by_layer(model: Any, tensors: Any, batch_size: int) -> np.ndarray:
    """A model's answers to few rows, without a graph."""
    rows = _count(tensors)
    numbers = sum(value[0].size for value in (tensors.values() if isinstance(tensors, Mapping) else [tensors]))
    size = max(1, min(AT_ONCE // numbers, batch_size))
    answers = [model(_rows(tensors, slice(start, start + size)), training=False) for start in range(0, rows, size)]
    return np.concatenate([np.asarray(answer, dtype=np.float32) for answer in answers])


def _count(tensors: Any) -> int:
    return len(next(iter(tensors.values())) if isinstance(tensors, Mapping) else tensors)


def _rows(tensors: Any, rows: Any) -> Any:
    return {key: value[rows] for key, value in tensors.items()} if isinstance(tensors, Mapping) else tensors[rows]
