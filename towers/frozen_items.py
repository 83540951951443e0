"""A few more steps of users' own vectors, against everything else as it is served."""

from __future__ import annotations

from collections.abc import Mapping

import keras
import numpy as np
from keras import ops

from towers.constant_table import constant_table
from towers.loss_options import LossOptions
from towers.retrieval_loss import RetrievalLoss, log_shares
from towers.user import UserTower


class FrozenItemsTask(keras.Model):
    """In-batch softmax of a user tower of which the table of user ids alone is trained.

        loss = mean over events of  -log softmax_columns(q . v / temperature - log Q)

    with v the served embeddings. Whoever reads them (index, ranker, search, item encoder) needs no change after such
    steps, and neither does anybody who is not among the batch's users: their rows have no gradient, and nothing is dropped
    out, so that the row of unknown users has none either.

    Yi et al. 2019, *Sampling-Bias-Corrected Neural Modeling for Large Corpus Item Recommendations* (the loss).

    Args:
        user_tower: with a table of users; its other layers stop being trainable.
        items: f32 [N + 1, D], row 0 zeros. profile: int32 [user rows, P]. counts: [N + 1] positive events an item.
        scale: 1 / temperature, as trained.

    Inputs: as `RetrievalTask`'s, see `data.batches`: user [B], items [U], target [B], history [B, L], columns [C], copies
    [C], own [B], weight [B], optional kind and gap [B, L].

    Raises:
        ValueError: the tower has no table of users.
    """

    def __init__(self, user_tower: UserTower, *, items, profile, counts, scale: float):
        super().__init__(name="frozen_items_task")
        if not user_tower.use_id:
            raise ValueError("user_tower: must have a table of users (retrieval.user_id), received one without")
        self.user_tower, self.scale = user_tower, float(scale)
        for layer in user_tower._flatten_layers(include_self=False, recursive=False):
            layer.trainable = layer is user_tower.id_embedding
        self.retrieval_loss = RetrievalLoss(LossOptions(), item_rows=len(items), width=np.shape(items)[1])
        self.tables: Mapping[str, keras.Variable] = {
            name: constant_table(self, values, kind, name)
            for name, values, kind in (
                ("items", items, "float32"), ("profile", profile, "int32"), ("log_q", log_shares(counts), "float32")
            )
        }  # fmt: skip
        self.built = True

    def call(self, batch, training=False):
        embeddings = ops.take(self.tables["items"], batch["items"], axis=0)
        profile = ops.take(self.tables["profile"], batch["user"], axis=0)
        history = ops.take(embeddings, batch["history"], axis=0)
        # Without kinds and times of events, as what serves asks the tower.
        queries, _ = self.user_tower(batch["user"], profile, history, batch["history"] > 0, training=False)
        return {"queries": queries, "columns": ops.take(embeddings, batch["columns"], axis=0)}

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        rows = ops.take(x["items"], x["columns"])
        log_shares = ops.take(self.tables["log_q"], rows)
        scale = ops.convert_to_tensor(self.scale, "float32")
        return self.retrieval_loss(y_pred["queries"], y_pred["columns"], rows, log_shares, x, scale, training=training)
