"""The loss that the options name, with the state that some of them carry from batch to batch."""

from __future__ import annotations

import keras
import numpy as np
from keras import ops

from towers.constant_table import constant_table
from towers.fused_softmax import fused_softmax_loss
from towers.in_batch_elsa import in_batch_elsa_loss
from towers.loss_options import LossOptions
from towers.losses import MASKED_LOGIT
from towers.negatives import EmbeddingMemory, StreamingCounts, mixed_log_q
from towers.sigmoid_loss import fused_sigmoid_loss

SIGMOID_SHIFT = -10.0
"""Where SigLIP starts: almost every pair is a "no"."""


class RetrievalLoss(keras.layers.Layer):
    """Queries against the columns of a batch.

    Args:
        options: see `LossOptions`.
        item_rows: N + 1. width: D. batch_size: B, needed by `mixed` negatives and the streaming estimate.
        counts: [N + 1] training events that name an item, by which `mixed` negatives know whom no other event can bring in:
            such an item is met by uniform draws alone. None = all may be brought in.

    Inputs: queries [B, D]; columns [C, D] and their rows [C], the distinct items compared with; log_shares [C], of the
    training events that name them; batch: copies [C] (how many negatives a column stands for), own [B], weight [B],
    optional others [B, P]; scale. -> scalar.

    Raises:
        ValueError: options that need the batch size, without it; a memory smaller than a batch.
    """

    def __init__(
        self, options: LossOptions, *, item_rows: int, width: int, batch_size: int | None = None, counts=None
    ):
        super().__init__(name="retrieval_loss")
        self.options, self.batch_size, self.items = options, batch_size or 0, item_rows - 1
        # What blocks are cut by: a graph for batches of any number of columns does not know it.
        drawn = item_rows if options.negatives == "catalogue" else min(item_rows, self.batch_size + options.uniform_negatives)
        more = options.memory or options.negatives != "batch"
        self.most_columns = drawn + options.memory if more else None
        if batch_size is None and (options.negatives == "mixed" or options.log_q == "streaming" or options.memory):
            raise ValueError("batch_size: mixed negatives, the streaming estimate and the memory need it, received None")
        self.corrected = options.kind == "softmax" and options.negatives in ("batch", "mixed") and options.log_q != "none"
        self.streaming = self.memory = self.named = None
        if self.corrected and options.negatives == "mixed" and counts is not None:
            self.named = constant_table(self, np.asarray(counts) > 0, "bool", "named")
        if self.corrected and options.log_q == "streaming":
            even = np.full(item_rows, 1.0 / max(self.items, 1))
            self.streaming = StreamingCounts(
                even, rate=options.streaming_rate, batch_size=self.batch_size, name="streaming_counts"
            )
        if options.memory:
            options.check_memory(self.batch_size)
            self.memory = EmbeddingMemory(options.memory, width, name="memory")
        if options.kind == "sigmoid":
            start = keras.initializers.Constant(SIGMOID_SHIFT)
            self.shift = self.add_weight(shape=(), initializer=start, name="shift")
        self.built = True

    def call(self, queries, columns, rows, log_shares, batch, scale, training=False):
        options = self.options
        queries, columns = ops.cast(queries, "float32"), ops.cast(columns, "float32")
        scale = scale if options.learn_temperature else ops.stop_gradient(scale)
        shared = {"own": batch["own"], "weights": batch["weight"], "excluded": batch.get("others")}
        if options.kind == "elsa":
            present = ops.cast(batch["copies"] > 0, "float32")
            return in_batch_elsa_loss(queries, columns, present=present, **shared)
        shared |= {"scale": scale, "block_logits": options.block_logits, "most_candidates": self.most_columns}
        if options.kind == "sigmoid":
            return fused_sigmoid_loss(queries, columns, copies=batch["copies"], shift=self.shift, **shared)
        log_q = self.log_q(rows, log_shares, batch, training)
        bias = column_bias(batch["copies"], log_q)
        own_bias = -ops.take(log_q, batch["own"])
        if self.memory is not None:
            kept, kept_bias = self.memory.recall(rows)
            if training:
                self.memory.keep(rows, columns, bias)
            columns, bias = ops.concatenate([columns, kept]), ops.concatenate([bias, kept_bias])
        return fused_softmax_loss(
            queries,
            columns,
            bias=bias,
            own_bias=own_bias,
            hardest=options.hardest,
            label_smoothing=options.label_smoothing,
            products=options.products,
            **shared,
        )

    def log_q(self, rows, log_shares, batch, training=False):
        """log Q of the columns. [C] -> [C]."""
        if not self.corrected:
            return ops.zeros_like(batch["copies"])
        if self.streaming is not None:
            if training:
                events = ops.cast(batch["weight"] > 0, "float32")
                self.streaming.update(rows, ops.segment_sum(events, batch["own"], ops.shape(rows)[0]))
            log_shares = ops.log(self.streaming.shares(rows))
        if self.options.negatives == "mixed":
            shares = ops.exp(log_shares)
            if self.named is not None:
                # The share of an item without events is a stand-in that in-batch negatives never read.
                shares = ops.where(ops.take(self.named, rows), shares, 0.0)
            uniform = self.options.uniform_negatives
            # A batch may hold fewer events that count than it has places. The copies are those of the whole batch, on
            # every replica. The estimate's shares are of the places already.
            events = self.batch_size if self.streaming is not None else ops.sum(batch["copies"]) - uniform
            return mixed_log_q(shares, events, uniform, self.items)
        return log_shares


def column_bias(copies, log_q):
    """What is added to a column's logits: `log n - log Q`, and MASKED_LOGIT where there is no copy. [C], [C] -> [C].

    Example:
        >>> bias = column_bias(ops.array([2.0, 0.0]), ops.log(ops.array([0.5, 0.5])))
        >>> ops.convert_to_numpy(bias).astype(float).round(4).tolist()
        [1.3863, -1000000000.0]
    """
    return ops.where(copies > 0, ops.log(ops.maximum(copies, 1.0)) - log_q, MASKED_LOGIT)


def log_shares(counts) -> np.ndarray:
    """log Q of every item by its training events. An item that was never drawn is never an in-batch negative, so its
    share is never read: any finite value will do. [N + 1] -> float32 [N + 1].

    Example:
        >>> np.exp(log_shares([0, 3, 1])).round(4).tolist()
        [0.25, 0.75, 0.25]
    """
    counts = np.asarray(counts, np.float64)
    return np.log(np.maximum(counts, 1.0) / max(counts.sum(), 1.0)).astype(np.float32)
