"""The trainable ranker: content tokens, one network or an ensemble of them, and the losses."""

from __future__ import annotations

import keras
import numpy as np
from keras import ops

from ranking.config import RankerSpec, RankingConfig
from ranking.content import ContentProjection
from ranking.content_heads import ContentHeads, ItemLabels
from ranking.ensemble import build_network, mean_over, members_of
from ranking.losses import binary_cross_entropy_loss, lambdarank_loss, listwise_softmax_loss
from ranking.position_tower import PositionTower
from ranking.tables import SideInformation
from ranking.task_weighting import TaskWeighting, shared_gradient_norm


class Ranker(keras.Model):
    """The trainable ranker over batches of integers; content tables lie on the device.

    Args:
        spec: what it must know about the data. config: the ranking settings.

    Shapes: `call(inputs)` with `inputs` = {`items` int [U] unique item rows of the batch (0-padded), `user` int [B],
    `history` int [B, L] and `candidates` int [B, K] positions in `items`, `retrieval_scores`, `retrieval_ranks` f32
    [B, K], `timestamp` int [B], `context` int [B, C]; in training also `position` int [B, K], if places on the page are
    known} returns {head: logits [B, K]}, of an ensemble their mean; in training a list of them, one a member, of which each
    learns by its own loss. Each unique item is projected once.
    Labels are {head: f32 [B, K], "known": {head: bool [B, K]}, "mask": bool [B, K], "weight": f32 [B, K]}; a head
    without labels learns nothing, all is known within the mask where nothing is said, and weights are 1.

    Raises:
        ValueError: at `assign`, if a table does not fit the spec.
    """

    clipped_norm: float
    """How long a gradient may be: 1 for each member, which is clipped no earlier beside others than alone."""

    def __init__(self, spec: RankerSpec, config: RankingConfig, **kwargs):
        super().__init__(**kwargs)
        self.spec, self.config, self.clipped_norm = spec, config, config.members**0.5
        self.content = ContentProjection(spec, config, name="content")
        self.network = build_network(spec, config)
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
    ) -> None:
        """Fills the side tables, the raw content tables {modality: [N + 1, F_m]}, `present` [N + 1, M], and the labels of
        the content heads."""
        missing = set(self.spec.modalities) - set(tables)
        if missing:
            raise ValueError(f"tables must hold {tuple(self.spec.modalities)}, received none for {sorted(missing)}")
        self.network.features.side.assign(side)
        self.content.assign(tables, present)
        if self.content_heads is not None and labels is not None:
            self.content_heads.assign(labels)

    def reseed(self, epoch: int) -> None:
        """Sets the dropout noise from (seed, epoch), so that an epoch is the same after a restart."""
        self.noise.state.assign(np.asarray([self.config.seed, epoch], self.noise.state.dtype))

    def call(self, inputs, training=False):
        tokens, present = self.content(inputs["items"])
        noise = self.noise if training else None
        answers = self.network.each(tokens, present, inputs["items"], inputs, noise=noise)
        if not training:
            return mean_over(answers)
        if self.position is not None and "position" in inputs:
            of_place = self.position(inputs["position"])
            answers = [{**logits, "click": logits["click"] + of_place} for logits in answers]
        if self.content_heads is not None:
            category, sentiment = self.content_heads(tokens, inputs["items"])
            self.add_loss(self.config.category_weight * category + self.config.sentiment_weight * sentiment)
        return answers

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """The sum over members of the heads' cross-entropies under the task weighting, the clicks' with `list_weight` times
        the list loss; and the content heads'."""
        members = members_of(self.network)
        found = [self._member_losses(y, logits, member) for logits, member in zip(y_pred, members, strict=True)]
        # The weighting looks at the tasks, which are the same for all members; the sum leaves each its own gradient.
        losses, norms = (mean_over(part) for part in zip(*found, strict=True))
        return sum(self.losses, len(found) * self.weighting(losses, norms))

    def _member_losses(self, y, answer, member):
        """Losses of one member by head, and where the weighting needs them, norms of their gradients."""
        config, mask, weight = self.config, y["mask"], y.get("weight")
        losses, norms = {}, {}
        for head, logits in answer.items():
            known = y["known"][head] if "known" in y else mask
            labels = y.get(head, ops.zeros_like(logits))
            if head not in y:
                known = ops.zeros_like(mask)
            losses[head] = binary_cross_entropy_loss(logits, labels, known, weight)
            if config.task_weighting == "gradnorm":
                counted = ops.cast(known, logits.dtype) * (1.0 if weight is None else weight)
                norms[head] = shared_gradient_norm(logits, labels, counted, member.heads.kernels[head])
        if config.list_loss != "none":
            list_loss = listwise_softmax_loss if config.list_loss == "softmax" else lambdarank_loss
            listed = list_loss(answer["click"], y["click"], mask, weights=weight)
            losses["click"] = losses["click"] + config.list_weight * listed
        return losses, norms


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
