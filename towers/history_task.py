"""Item towers learned from whole histories: a user is the sum of the items they chose, nothing else."""

from __future__ import annotations

import keras
import numpy as np
from keras import ops

from towers.constant_table import constant_table
from towers.fusion import unit_length
from towers.losses import MASKED_LOGIT
from towers.task import RetrievalTask
from towers.two_tower import TwoTower


def elsa_loss(scores, taken):
    """Squared error between a user's scores and what they took, both of length 1.

    Formula: `sum_j (s_j / |s| - x_j / |x|)^2 = 2 - 2 cos(s, x)`. Vančura et al. (2022), *Scalable linear shallow
    autoencoder for collaborative filtering*, https://doi.org/10.1145/3523227.3551482.

    Shapes: scores [B, C], taken [B, C] of zeros and ones -> [B].

    Example:
        >>> float(elsa_loss(ops.array([[0.0, 3.0]]), ops.array([[1.0, 0.0]]))[0])
        2.0
    """
    return ops.sum(ops.square(unit_length(scores) - unit_length(taken)), axis=-1)


def history_softmax_loss(logits, taken):
    """Cross-entropy of each item a user took against the items they did not take.

    Formula: `-1/n sum_{i: x_i = 1} log(e^{l_i} / (e^{l_i} + sum_{j: x_j = 0} e^{l_j}))`: a user's other items are left
    out of the denominator, for they are no negatives.

    Shapes: logits [B, C], taken [B, C] of zeros and ones -> [B]; 0 for a user who took nothing.

    Example:
        >>> loss = history_softmax_loss(ops.array([[0.0, 0.0]]), ops.array([[1.0, 0.0]]))
        >>> bool(abs(float(loss[0]) - np.log(2)) < 1e-6)
        True
    """
    others = ops.logsumexp(ops.where(taken > 0, MASKED_LOGIT, logits), axis=-1, keepdims=True)
    terms = ops.logaddexp(logits, others) - logits
    return ops.sum(taken * terms, axis=-1) / ops.maximum(ops.sum(taken, axis=-1), 1.0)


class HistoryTask(RetrievalTask):
    """Learn item embeddings so that the sum over part of a history finds the rest of it.

    Formula: with unit item vectors A and a random part `k` of a history x, `s = k A A' - k`: an item does not vote for
    itself. `elsa` is `elsa_loss(s, x)`; `softmax` is `history_softmax_loss(t s / sqrt(|k|), x)` with a learned scale t.
    The result is a symmetric linear tower: query = sum of A over the whole history, candidate = A.

    Args:
        two_tower: its item tower and scale learn; its user tower is not used.
        loss: `"elsa"` or `"softmax"`.
        rows: [C] item rows that are candidates, normally those with a training event: an item nobody could choose is
            no negative.
        dropout: share of a history that is hidden.
        seed: of the dropout.
        tables: see `RetrievalTask`.

    Inputs: taken [B, C] zeros and ones, weight [B].
    """

    def __init__(self, two_tower: TwoTower, *, loss: str, rows, dropout: float, seed: int, **tables):
        super().__init__(two_tower, **tables)
        if loss not in ("elsa", "softmax"):
            raise ValueError(f"loss: must be 'elsa' or 'softmax', received {loss!r}")
        two_tower.user_tower.trainable = False
        two_tower.log_scale.trainable = loss == "softmax"
        self.loss_kind, self.drop = loss, dropout
        self.tables["candidate_rows"] = constant_table(self, np.asarray(rows, np.int32), "int32", "candidate_rows")
        self.seed_generator = keras.random.SeedGenerator(seed)

    def call(self, batch, training=False):
        items = self.embed_items(ops.convert_to_tensor(self.tables["candidate_rows"]), training=training)
        kept = ops.cast(batch["taken"], items.dtype)
        if training and self.drop:
            draw = keras.random.uniform(ops.shape(kept), seed=self.seed_generator)
            kept = kept * ops.cast(draw >= self.drop, kept.dtype)
        scores = ops.matmul(ops.matmul(kept, items), ops.transpose(items)) - kept
        return {"scores": scores, "kept": ops.sum(kept, axis=-1, keepdims=True)}

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        taken = ops.cast(x["taken"], y_pred["scores"].dtype)
        if self.loss_kind == "elsa":
            per_user = elsa_loss(y_pred["scores"], taken)
        else:
            logits = self.two_tower.scale * y_pred["scores"] / ops.sqrt(ops.maximum(y_pred["kept"], 1.0))
            per_user = history_softmax_loss(logits, taken)
        return ops.sum(x["weight"] * per_user) / ops.maximum(ops.sum(x["weight"]), 1.0)
