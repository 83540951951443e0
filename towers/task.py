"""The retrieval task: what one training step computes, as a Keras model whose inputs are integers."""

from __future__ import annotations

import keras
import numpy as np
from keras import ops

from towers.losses import in_batch_softmax_loss
from towers.side_losses import SideLosses, side_loss
from towers.two_tower import TwoTower


class RetrievalTask(keras.Model):
    """Two towers plus the tables that a batch of integers is looked up in.

    The tables (content features fp16, present mask, profile codes, log Q) are variables that are not trained, so they
    lie on
    the device once and every step gathers from them. They are not part of the towers' weights.

    Args:
        two_tower: the model to train.
        features: {modality: [N + 1, F_m]}, present: [N + 1, M] bool in the order of the schema's modalities.
        profile: [user rows, P] int32.
        counts: [N + 1] positive training events an item; gives both log Q and which ids are known.
        side: terms beside the main loss; None = none.

    Inputs (a dict, see `data.batches`): user [B], items [U], target [B], history [B, L] (both index `items`), weight
    [B]; optional kind and gap [B, L] of the history's events.
    """

    def __init__(self, two_tower: TwoTower, *, features, present, profile, counts, side: SideLosses | None = None):
        super().__init__(name="retrieval_task")
        self.two_tower = two_tower
        self.side = side
        self.modalities = tuple(two_tower.schema.modalities)
        counts = np.asarray(counts, np.float64)
        # An item never drawn as a positive is never an in-batch negative, so its log Q is never read: any finite value
        # will do.
        log_q = np.log(np.maximum(counts, 1.0) / max(counts.sum(), 1.0)).astype(np.float32)
        self.tables = {
            "present": self._table(present, "bool", "present"),
            "profile": self._table(profile, "int32", "profile"),
            "log_q": self._table(log_q, "float32", "log_q"),
            **{
                f"features_{name}": self._table(features[name], "float16", f"features_{name}")
                for name in self.modalities
            },
            **({} if side is None else side.tables),
        }
        two_tower.item_tower.known.assign((counts > 0).astype(np.float32))
        for column, name in enumerate(self.modalities):
            two_tower.item_tower.projections[name].adapt(features[name], present[:, column])
        self.built = True

    def _table(self, values, dtype: str, name: str):
        # An initialiser that returns the values themselves: the table never exists twice on the device.
        return self.add_weight(
            shape=np.shape(values),
            dtype=dtype,
            trainable=False,
            name=name,
            initializer=lambda shape, dtype=None: ops.convert_to_tensor(values, dtype),
        )

    def features_of(self, rows):
        """Content features of catalogue rows. [U] -> {modality: [U, F_m]}."""
        return {name: ops.take(self.tables[f"features_{name}"], rows, axis=0) for name in self.modalities}

    def embed_items(self, rows, training=False, features=None):
        """Item embeddings of catalogue rows, from the tables unless `features` are given. [U] -> [U, D]."""
        features = self.features_of(rows) if features is None else features
        present = ops.take(self.tables["present"], rows, axis=0)
        return self.two_tower.item_tower(rows, features, present, training=training)[0]

    def embed_batch(self, batch, training=False):
        """Embeddings of a batch's distinct items; fine-tuning encodes some of them here. -> [U, D]."""
        return self.embed_items(batch["items"], training=training)

    def call(self, batch, training=False):
        embeddings = self.embed_batch(batch, training=training)
        history = ops.take(embeddings, batch["history"], axis=0)
        profile = ops.take(self.tables["profile"], batch["user"], axis=0)
        events = {"kind": batch["kind"], "gap": batch["gap"]} if "kind" in batch else None
        queries, _ = self.two_tower.user_tower(
            batch["user"], profile, history, batch["history"] > 0, training=training, events=events
        )
        return {"queries": queries, "candidates": ops.take(embeddings, batch["target"], axis=0)}

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        rows = ops.take(x["items"], x["target"])
        # Padding rows of the last batch carry weight 0 as queries; as candidates they are masked for everybody.
        padding = ops.logical_and(x["weight"][None, :] == 0, ops.ones_like(x["weight"][:, None], dtype="bool"))
        loss = in_batch_softmax_loss(
            y_pred["queries"],
            y_pred["candidates"],
            candidate_rows=rows,
            log_q=ops.take(self.tables["log_q"], rows),
            scale=self.two_tower.scale,
            weights=x["weight"],
            masked=padding,
        )
        return loss if self.side is None else loss + side_loss(self.side, self, x, y_pred, training)

    def reseed(self, seed: int) -> None:
        """Set every dropout's generator from one number, so that a resumed epoch draws what an undisturbed one
        would."""
        generators = [
            layer.seed_generator
            for layer in self._flatten_layers()
            if getattr(layer, "seed_generator", None) is not None
        ]
        for number, generator in enumerate(generators):
            generator.state.assign(np.array([seed, number], dtype="uint32"))

    def all_item_embeddings(self, block: int = 8192) -> np.ndarray:
        """Embeddings of the whole catalogue, row 0 zeros. [N + 1, D] float32."""
        rows = np.arange(self.two_tower.schema.item_rows, dtype=np.int32)
        parts = [
            ops.convert_to_numpy(self.embed_items(ops.convert_to_tensor(rows[start : start + block])))
            for start in range(0, len(rows), block)
        ]
        embeddings = np.concatenate(parts).astype(np.float32)
        embeddings[0] = 0.0
        return embeddings
