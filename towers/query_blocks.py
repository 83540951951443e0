"""Losses over all pairs of queries and candidates, a block of queries at a time."""

from __future__ import annotations

import keras
from keras import ops

from towers.losses import MASKED_LOGIT

UNROLLED_BLOCKS = 32
"""Up to so many blocks stand one after the other in the graph, where they may overlap; more of them run in a loop."""
SMALLEST_BLOCK = 64
"""Queries a block has at least: matrix products of fewer rows waste the processor."""
FEWEST_BLOCKS = 4
"""Blocks that a processor has at least, so that its cores work on several side by side: a step of 1,024 events, one core an
operation, took 2.4 ms in one block, 2.2 in two and 2.1 in four. On JAX, an accelerator's, there may be one."""


def over_blocks(of_block, rows, size: int, query_zeros, candidate_zeros):
    """Sum a function of C queries over all B of them; what it gives for each query is put one after the other.

    Args:
        of_block: rows of C queries -> loss, query gradients [C, D], and what comes for the candidates, in one shape always.
        rows: {name: [B, ...]}; the last block is filled up with rows of zeros, whose weight is therefore 0. size: C.
        query_zeros: an array as wide as what comes for a query. candidate_zeros: of that shape, what the sum starts from.

    Shapes: -> scalar, [B, D], that of `candidate_zeros`.
    """
    length = rows["weights"].shape[0]
    if length is None or size >= length:
        return of_block(rows)
    count = -(-length // size)
    spare = count * size - length
    if spare:
        rows = {name: ops.pad(value, [[0, spare]] + [[0, 0]] * (len(value.shape) - 1)) for name, value in rows.items()}
    if count <= UNROLLED_BLOCKS:
        starts = range(0, count * size, size)
        parts = [of_block({name: value[start : start + size] for name, value in rows.items()}) for start in starts]
        losses, query_gradients, candidate_gradients = zip(*parts, strict=True)
        return sum(losses), ops.concatenate(query_gradients)[:length], sum(candidate_gradients)
    blocks = {name: ops.reshape(value, (count, size, *ops.shape(value)[1:])) for name, value in rows.items()}

    def step(number, carried):
        loss, query_gradients, candidate_gradients = carried
        of_loss, of_queries, of_candidates = of_block({name: value[number] for name, value in blocks.items()})
        place = ops.reshape(ops.convert_to_tensor(number, dtype="int32"), (1, 1))
        query_gradients = ops.scatter_update(query_gradients, place, of_queries[None])
        return loss + of_loss, query_gradients, candidate_gradients + of_candidates

    sums = ops.zeros((count, size, query_zeros.shape[1]), dtype=query_zeros.dtype)
    zeros = ops.zeros((), dtype=sums.dtype), sums, candidate_zeros
    loss, query_gradients, candidate_gradients = ops.fori_loop(0, count, step, zeros)
    return loss, ops.reshape(query_gradients, (count * size, -1))[:length], candidate_gradients


def block_size(queries: int | None, candidates: int | None, block_logits: int = 0) -> int:
    """C, so that a block has about `block_logits` logits; on TensorFlow at least `FEWEST_BLOCKS` where it is left to choose.

    Example:
        >>> block_size(4096, 4096, 2**20), block_size(4096, 1000, 2**20), block_size(64, 10**9, 2**20)
        (256, 1024, 64)
    """
    queries = queries or 1
    rows = (block_logits or default_block_logits()) // (candidates or queries)
    if not block_logits and keras.backend.backend() == "tensorflow":
        rows = min(rows, queries // FEWEST_BLOCKS)
    return min(queries, max(SMALLEST_BLOCK, 2 ** (max(rows, 1).bit_length() - 1)))


def default_block_logits() -> int:
    """A million, 4 MB, on TensorFlow, where a block should stay in the processor's cache (batch 4,096 by 4,096: 256
    queries 25 ms, 1,024 queries 52 ms); 64 million on JAX, where it should fill an accelerator."""
    return 2**26 if keras.backend.backend() == "jax" else 2**20


def product(left, right, dtype: str = "float32"):
    """`left @ right` with operands rounded to `dtype` and float32 sums (on TensorFlow the sums are rounded too).

    Example:
        >>> ops.convert_to_numpy(product(ops.array([[1.0, 2.0]]), ops.array([[3.0], [4.0]]), "bfloat16")).tolist()
        [[11.0]]
    """
    if dtype == "float32":
        return ops.matmul(left, right)
    left, right = ops.cast(left, dtype), ops.cast(right, dtype)
    if keras.backend.backend() == "jax":  # Keras does not say what a product is summed in
        import jax.numpy as jnp

        return jnp.matmul(left, right, preferred_element_type="float32")
    return ops.cast(ops.matmul(left, right), "float32")


def own_values(values, own):
    """The own column of every row. Shapes: values [C, N], own [C] -> [C]."""
    return ops.take_along_axis(values, own[:, None], axis=1)[:, 0]


def put_own(values, own, own_values):
    """`values` with every row's own column replaced. Shapes: values [C, N], own [C], own_values [C] -> [C, N]."""
    if keras.backend.backend() == "jax":  # one more term of a loop that XLA makes anyway
        columns = ops.arange(values.shape[1], dtype=own.dtype)
        return ops.where(columns[None, :] == own[:, None], own_values[:, None], values)
    rows = ops.arange(ops.shape(values)[0], dtype=own.dtype)  # C numbers written in place, where a mask costs C * N
    return ops.scatter_update(values, ops.stack([rows, own], axis=1), own_values)


def mask_columns(values, columns):
    """`values` with MASKED_LOGIT in the columns listed for each row. Shapes: values [C, N], columns [C, P] -> [C, N]."""
    rows = ops.repeat(ops.arange(ops.shape(values)[0], dtype=columns.dtype), ops.shape(columns)[1])
    columns = ops.reshape(columns, (-1,))
    masks = ops.zeros_like(columns, dtype=values.dtype) + MASKED_LOGIT
    return ops.scatter_update(values, ops.stack([rows, columns], axis=1), masks)
