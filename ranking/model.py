"""The ranker: pair features, DCN-v2 crosses beside a deep part, one logit per head and candidate."""

from __future__ import annotations

import keras
import numpy as np
from keras import ops

from ranking.config import RankerSpec, RankingConfig
from ranking.crosses import CrossLayer
from ranking.features import ContentProjection, PairFeatures
from ranking.losses import binary_cross_entropy_loss, listwise_softmax_loss
from ranking.tables import SideInformation


class RankingNetwork(keras.layers.Layer):
    """Everything after the tokens; training and serving share it, so that folding changes nothing but where tokens
    come from.

        x_0 = pair features;  crosses(x_0) | deep(x_0) -> one linear logit per head   (the parallel form of DCN-v2)

    Shapes: `call(tokens [U, M, D], present [U, M], items [U] or None, inputs) -> {head: [B, K]}`; `inputs` as in
    `PairFeatures.call`.
    """

    def __init__(self, spec: RankerSpec, config: RankingConfig, **kwargs):
        super().__init__(**kwargs)
        self.spec, self.config = spec, config
        self.features = PairFeatures(spec, config, name="features")
        seeds = iter(range(config.seed + 1000, config.seed + 2000, 10))
        glorot = lambda: keras.initializers.GlorotUniform(seed=next(seeds))  # noqa: E731
        self.crosses = [
            CrossLayer(config.cross_rank, seed=next(seeds), name=f"cross_{layer}")
            for layer in range(config.cross_layers)
        ]
        self.deep = [
            keras.layers.Dense(width, activation="relu", kernel_initializer=glorot(), name=f"deep_{layer}")
            for layer, width in enumerate(config.hidden)
        ]
        self.heads = {
            head: keras.layers.Dense(1, kernel_initializer=keras.initializers.RandomNormal(stddev=0.02,
            seed=next(seeds)),
                                     name=head)
            for head in spec.heads
        }  # fmt: skip
        width = self.features.width
        for cross in self.crosses:
            cross.build((None, None, width), (None, None, width))
        before = width
        for dense in self.deep:
            dense.build((None, None, before))
            before = dense.units
        for dense in self.heads.values():
            dense.build((None, None, before + (width if self.crosses else 0)))
        # Training starts from the retrieval order: the first logit is the standardised retrieval score alone.
        for dense in self.heads.values():
            kernel = np.zeros(tuple(dense.kernel.shape), np.float32)
            kernel[-1 if not self.crosses else self.features.score_column] = 1.0
            dense.kernel.assign(kernel)
            dense.bias.assign([-3.0])
        self.built = True

    def call(self, tokens, present, items, inputs, noise=None, group_mask=None):
        """`noise`: a `keras.random.SeedGenerator` in training (dropout, id dropout), None otherwise. `group_mask`: see
        `PairFeatures.call`."""
        config, kept = self.config, None
        if noise is not None and config.id_dropout > 0:
            keep = lambda like: keras.random.uniform(ops.shape(like), seed=noise) >= config.id_dropout  # noqa: E731
            kept = {"user": keep(inputs["user"]), "item": keep(inputs["candidates"])}
        x0 = self.features(tokens, present, items, inputs, id_kept=kept, group_mask=group_mask)
        drop = lambda x: keras.random.dropout(x, config.dropout, seed=noise) if noise is not None else x  # noqa: E731
        # No dropout on the features themselves: a list without its retrieval scores teaches the wrong order.
        crossed, deep = x0, x0
        for cross in self.crosses:
            crossed = cross(x0, crossed)
        for dense in self.deep:
            deep = drop(dense(deep))
        last = ops.concatenate([crossed, deep], axis=-1) if self.crosses else deep
        return {head: dense(last)[..., 0] for head, dense in self.heads.items()}


class Ranker(keras.Model):
    """The trainable ranker over batches of integers; content tables lie on the device.

    Args:
        spec: what it must know about the data. config: the ranking settings.

    Shapes: `call(inputs)` with `inputs` = {`items` int [U] unique item rows of the batch (0-padded), `user` int [B],
    `history` int [B, L] and `candidates` int [B, K] positions in `items`, `retrieval_scores`, `retrieval_ranks` f32
    [B, K], `timestamp` int [B], `context` int [B, C]} returns {head: logits [B, K]}. Each unique item is projected once.
    Labels are {head: f32 [B, K]} for some of the heads, and `mask` bool [B, K].

    Raises:
        ValueError: at `assign`, if a table does not fit the spec.
    """

    def __init__(self, spec: RankerSpec, config: RankingConfig, **kwargs):
        super().__init__(**kwargs)
        self.spec, self.config = spec, config
        self.content = ContentProjection(spec, config, name="content")
        self.network = RankingNetwork(spec, config, name="network")
        self.noise = keras.random.SeedGenerator(config.seed)
        self.built = True

    def assign(self, side: SideInformation, tables: dict[str, np.ndarray], present: np.ndarray) -> None:
        """Fills the side tables, the raw content tables {modality: [N + 1, F_m]} and `present` [N + 1, M]."""
        missing = set(self.spec.modalities) - set(tables)
        if missing:
            raise ValueError(f"tables must hold {tuple(self.spec.modalities)}, received none for {sorted(missing)}")
        self.network.features.side.assign(side)
        self.content.assign(tables, present)

    def reseed(self, epoch: int) -> None:
        """Sets the dropout noise from (seed, epoch), so that an epoch is the same after a restart."""
        self.noise.state.assign(np.asarray([self.config.seed, epoch], self.noise.state.dtype))

    def call(self, inputs, training=False):
        tokens, present = self.content(inputs["items"])
        noise = self.noise if training else None
        return self.network(tokens, present, inputs["items"], inputs, noise=noise)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """Cross-entropy of each head, plus `listwise_weight` times the listwise softmax of the clicks."""
        config = self.config
        loss = config.listwise_weight * listwise_softmax_loss(y_pred["click"], y["click"], y["mask"])
        for head, logits in y_pred.items():
            if head in y:
                weight = 1.0 if head == "click" else config.purchase_weight
                loss += weight * binary_cross_entropy_loss(logits, y[head], y["mask"])
        return loss


def batch_inputs(
    user, history, candidates, scores, ranks, timestamp, unique_items: int, *, context=None, position=None
) -> dict[str, np.ndarray]:
    """Rows to the ranker's inputs: the batch's unique items, and positions in place of rows.

    Args:
        user [B], history [B, L], candidates [B, K], scores [B, K], ranks [B, K], timestamp [B]: NumPy arrays of rows.
        unique_items: U, a fixed size, so that a compiled step sees one shape; at least the number of distinct rows.
        context: [B, C] codes; None = there are none, C = 0.
        position: [B, K] places on the page from 1, 0 = unknown or never shown; in training only.

    Raises:
        ValueError: if the batch has more distinct items than `unique_items`.

    Example:
        >>> inputs = batch_inputs([1], [[7, 0]], [[9, 7]], [[0.5, 0.1]], [[1, 2]], [0], unique_items=4)
        >>> inputs["items"].tolist(), inputs["history"].tolist(), inputs["candidates"].tolist()
        ([0, 7, 9, 0], [[1, 0]], [[2, 1]])
    """
    history, candidates = np.asarray(history), np.asarray(candidates)
    # Row 0 stands first, so that position 0 is padding as row 0 is.
    items, position = np.unique(np.concatenate([[0], history.ravel(), candidates.ravel()]), return_inverse=True)
    if len(items) > unique_items:
        raise ValueError(f"unique_items must hold the batch's {len(items)} distinct items, received {unique_items}")
    split = 1 + history.size
    inputs = {
        "items": np.pad(items, (0, unique_items - len(items))).astype(np.int32),
        "user": np.asarray(user, np.int32),
        "history": position[1:split].reshape(history.shape).astype(np.int32),
        "candidates": position[split:].reshape(candidates.shape).astype(np.int32),
        "retrieval_scores": np.asarray(scores, np.float32),
        "retrieval_ranks": np.asarray(ranks, np.float32),
        "timestamp": np.asarray(timestamp, np.int64),
        "context": np.zeros((len(history), 0), np.int32) if context is None else np.asarray(context, np.int32),
    }
    return inputs if position is None else {**inputs, "position": np.asarray(position, np.int32)}
