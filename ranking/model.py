"""The ranker: pair features, how they interact, experts, and one logit per head and candidate."""

from __future__ import annotations

from collections.abc import Collection

import keras
import numpy as np
from keras import ops

from ranking.config import RankerSpec, RankingConfig
from ranking.content import ContentProjection
from ranking.content_heads import ContentHeads, ItemLabels
from ranking.domain_calibration import domain_of
from ranking.experts import build_experts
from ranking.features import PairFeatures
from ranking.heads import PredictionHeads
from ranking.interactions import build_interaction
from ranking.losses import binary_cross_entropy_loss, lambdarank_loss, listwise_softmax_loss
from ranking.position_tower import PositionTower
from ranking.tables import SideInformation
from ranking.task_weighting import TaskWeighting, shared_gradient_norm


class RankingNetwork(keras.layers.Layer):
    """Everything after the tokens; training and serving share it, so that folding changes nothing but where tokens
    come from.

        x_0 = pair features;  straight, onward = interaction(x_0);  f_h = experts_h(onward)
        logit_h = linear_h(straight, f_h, retrieval score)

    Shapes: `call(tokens [U, M, D], present [U, M], items [U] or None, inputs) -> {head: [B, K]}`; `inputs` as in
    `PairFeatures.call`.
    """

    def __init__(self, spec: RankerSpec, config: RankingConfig, **kwargs):
        super().__init__(**kwargs)
        self.spec, self.config = spec, config
        self.features = PairFeatures(spec, config, name="features")
        width = self.features.width
        self.interaction = build_interaction(self.features.groups, width, config, config.seed + 1000)
        self.experts = build_experts(self.interaction.onward_width, spec.heads, config, config.seed + 10_000)
        width = self.interaction.straight_width + self.experts.width + 1
        self.domains = spec.domains if config.domain_heads else 0
        self.heads = PredictionHeads(width, spec.heads, config, self.domains, name="heads")
        self.built = True

    def call(self, tokens, present, items, inputs, noise=None, group_mask=None):
        """`noise`: a `keras.random.SeedGenerator` in training (dropout, id dropout, delay of popularity), None otherwise.
        `group_mask`: see `PairFeatures.call`."""
        config, kept, as_of = self.config, None, None
        if noise is not None and config.id_dropout > 0:
            keep = lambda like: keras.random.uniform(ops.shape(like), seed=noise) >= config.id_dropout  # noqa: E731
            kept = {"user": keep(inputs["user"]), "item": keep(inputs["candidates"])}
        if noise is not None and config.popularity_delay > 0:
            time = inputs["timestamp"]
            delay = keras.random.uniform(ops.shape(time), seed=noise) * (config.popularity_delay * 86_400)
            as_of = ops.where(time > 0, time - ops.cast(delay, time.dtype), time)
        x0 = self.features(tokens, present, items, inputs, id_kept=kept, group_mask=group_mask, as_of=as_of)
        rows = inputs["candidates"] if items is None else ops.take(items, inputs["candidates"], axis=0)
        return self.logits(x0, rows, noise=noise)

    def logits(self, x0, rows, noise=None):
        """From features on: x0 [B, K, X] and the candidates' rows [B, K] -> {head: [B, K]}."""
        # No dropout on the features themselves: a list without its retrieval scores teaches the wrong order.
        straight, onward = self.interaction(x0, noise=noise)
        domain = domain_of(self.features.side, self.spec, rows) if self.domains else None
        experts = self.experts(onward, noise=noise)
        return self.heads(straight, experts, x0[..., self.features.score_column], domain)


class Ranker(keras.Model):
    """The trainable ranker over batches of integers; content tables lie on the device.

    Args:
        spec: what it must know about the data. config: the ranking settings.

    Shapes: `call(inputs)` with `inputs` = {`items` int [U] unique item rows of the batch (0-padded), `user` int [B],
    `history` int [B, L] and `candidates` int [B, K] positions in `items`, `retrieval_scores`, `retrieval_ranks` f32
    [B, K], `timestamp` int [B], `context` int [B, C]; in training also `position` int [B, K], if places on the page are
    known} returns {head: logits [B, K]}. Each unique item is projected once.
    Labels are {head: f32 [B, K], "known": {head: bool [B, K]}, "mask": bool [B, K], "weight": f32 [B, K]}; a head
    without labels learns nothing, all is known within the mask where nothing is said, and weights are 1.

    Raises:
        ValueError: at `assign`, if a table does not fit the spec.
    """

    def __init__(self, spec: RankerSpec, config: RankingConfig, **kwargs):
        super().__init__(**kwargs)
        self.spec, self.config = spec, config
        self.content = ContentProjection(spec, config, name="content")
        self.network = RankingNetwork(spec, config, name="network")
        self.position = PositionTower(config.positions, name="position") if config.position_bias else None
        self.content_heads = None
        if config.category_weight or config.sentiment_weight:
            self.content_heads = ContentHeads(spec, config, name="content_heads")
        weights = {head: config.weight_of(head) for head in spec.heads}
        self.weighting = TaskWeighting(config.task_weighting, weights, config.gradnorm_alpha, name="weighting")
        self.noise = keras.random.SeedGenerator(config.seed)
        self.built = True

    def assign(
        self,
        side: SideInformation,
        tables: dict[str, np.ndarray],
        present: np.ndarray,
        labels: ItemLabels | None = None,
        learned: Collection[str] = (),
    ) -> None:
        """Fills the side tables, the raw content tables {modality: [N + 1, F_m]}, `present` [N + 1, M], and the labels of
        the content heads; `learned`: see `ContentProjection.assign`."""
        missing = set(self.spec.modalities) - set(tables)
        if missing:
            raise ValueError(f"tables must hold {tuple(self.spec.modalities)}, received none for {sorted(missing)}")
        self.network.features.side.assign(side)
        self.content.assign(tables, present, learned)
        if self.content_heads is not None and labels is not None:
            self.content_heads.assign(labels)

    def reseed(self, epoch: int) -> None:
        """Sets the dropout noise from (seed, epoch), so that an epoch is the same after a restart."""
        self.noise.state.assign(np.asarray([self.config.seed, epoch], self.noise.state.dtype))

    def call(self, inputs, training=False):
        tokens, present = self.content(inputs["items"])
        noise = self.noise if training else None
        logits = self.network(tokens, present, inputs["items"], inputs, noise=noise)
        if not training:
            return logits
        if self.position is not None and "position" in inputs:
            logits["click"] = logits["click"] + self.position(inputs["position"])
        if self.content_heads is not None:
            category, sentiment = self.content_heads(tokens, inputs["items"])
            self.add_loss(self.config.category_weight * category + self.config.sentiment_weight * sentiment)
        return logits

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """The heads' cross-entropies under the task weighting, the clicks' with `list_weight` times the list loss, and the
        content heads'."""
        config, mask, weight = self.config, y["mask"], y.get("weight")
        losses, norms = {}, {}
        for head, logits in y_pred.items():
            known = y["known"][head] if "known" in y else mask
            labels = y.get(head, ops.zeros_like(logits))
            if head not in y:
                known = ops.zeros_like(mask)
            losses[head] = binary_cross_entropy_loss(logits, labels, known, weight)
            if config.task_weighting == "gradnorm":
                counted = ops.cast(known, logits.dtype) * (1.0 if weight is None else weight)
                norms[head] = shared_gradient_norm(logits, labels, counted, self.network.heads.kernels[head])
        if config.list_loss != "none":
            list_loss = listwise_softmax_loss if config.list_loss == "softmax" else lambdarank_loss
            listed = list_loss(y_pred["click"], y["click"], mask, weights=weight)
            losses["click"] = losses["click"] + config.list_weight * listed
        return sum(self.losses, self.weighting(losses, norms))


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
    items, place = np.unique(np.concatenate([[0], history.ravel(), candidates.ravel()]), return_inverse=True)
    if len(items) > unique_items:
        raise ValueError(f"unique_items must hold the batch's {len(items)} distinct items, received {unique_items}")
    split = 1 + history.size
    inputs: dict[str, np.ndarray] = {
        "items": np.pad(items, (0, unique_items - len(items))).astype(np.int32),
        "user": np.asarray(user, np.int32),
        "history": place[1:split].reshape(history.shape).astype(np.int32),
        "candidates": place[split:].reshape(candidates.shape).astype(np.int32),
        "retrieval_scores": np.asarray(scores, np.float32),
        "retrieval_ranks": np.asarray(ranks, np.float32),
        "timestamp": np.asarray(timestamp, np.int64),
        "context": np.zeros((len(history), 0), np.int32) if context is None else np.asarray(context, np.int32),
    }
    return inputs if position is None else {**inputs, "position": np.asarray(position, np.int32)}
