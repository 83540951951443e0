"""The retrieval task: what one training step computes, as a Keras model whose inputs are integers."""

from __future__ import annotations

from typing import Literal

import keras
import numpy as np
from keras import ops

from towers.constant_table import constant_table
from towers.loss_options import LossOptions
from towers.retrieval_loss import RetrievalLoss, log_shares
from towers.side_losses import SideLosses
from towers.side_step import side_loss
from towers.sparse_rows import LARGE_TABLE, SparseRows, train_rows, train_rows_of_state
from towers.two_tower import TwoTower

BLOCK = 8192
"""Items embedded at a time."""


class RetrievalTask(keras.Model):
    """Two towers plus the tables that a batch of integers is looked up in.

    The tables (content features fp16, present mask, profile codes, log Q) are variables that are not trained, so they lie
    on the device once and every step gathers from them. They are not part of the towers' weights.

    Args:
        two_tower: the model to train.
        features: {modality: [N + 1, F_m]}, present: [N + 1, M] bool in the order of the schema's modalities.
        profile: [user rows, P] int32.
        counts: [N + 1] positive training events an item; gives which ids are known, and log Q.
        drawn: [N + 1] those of them that the batches' columns count, where it is not all; then log Q goes by these.
        side: terms beside the main loss; None = none.
        loss: the main loss; its batches must have been made with `loss.columns`.
        batch_size: B, which some losses need and rows training does too. item_capacity: U at most.
        sparse_updates: train the tables of user and item ids by the rows of each batch: "auto" = where they have
            `LARGE_TABLE` rows or more and a batch names less than half of them.
        adapt: fix by which means and components the item tower sees content; false where it takes those of earlier towers.

    Inputs (a dict, see `data.batches`): user [B], items [U], target [B], history [B, L], columns [C] (all three index
    `items`), copies [C], own [B] (indexes `columns`), weight [B]; optional others [B, P] (columns), kind and gap [B, L] of
    the history's events.
    """

    def __init__(
        self,
        two_tower: TwoTower,
        *,
        features,
        present,
        profile,
        counts,
        drawn=None,
        side: SideLosses | None = None,
        loss: LossOptions | None = None,
        batch_size: int | None = None,
        item_capacity: int | None = None,
        sparse_updates: bool | Literal["auto"] = False,
        adapt: bool = True,
    ):
        super().__init__(name="retrieval_task")
        self.two_tower = two_tower
        self.side = side
        self.modalities = tuple(two_tower.schema.modalities)
        counts = np.asarray(counts, np.float64)
        drawn = counts if drawn is None else drawn
        loss = loss or LossOptions()
        # Where nothing asks for it, it has a gradient of 0 on JAX, and weight decay would move it.
        two_tower.log_scale.trainable = loss.learn_temperature and (loss.kind != "elsa" or side is not None)
        self.retrieval_loss = RetrievalLoss(
            loss, item_rows=len(counts), width=two_tower.config.width, batch_size=batch_size, counts=drawn
        )
        self.tables = {
            "present": constant_table(self, present, "bool", "present"),
            "profile": constant_table(self, profile, "int32", "profile"),
            "log_q": constant_table(self, log_shares(drawn), "float32", "log_q"),
            **{
                f"features_{name}": constant_table(self, features[name], "float16", f"features_{name}")
                for name in self.modalities
            },
            **({} if side is None else side.tables),
        }
        two_tower.item_tower.known.assign((counts > 0).astype(np.float32))
        for column, name in enumerate(self.modalities if adapt else ()):
            two_tower.item_tower.projections[name].adapt(features[name], present[:, column])
        self.sparse_rows = self._sparse_rows(sparse_updates, batch_size, item_capacity)
        self.built = True

    def _sparse_rows(self, wanted, batch_size: int | None, item_capacity: int | None) -> dict[str, SparseRows]:
        if wanted is False or batch_size is None or item_capacity is None:
            if wanted is True:
                raise ValueError("sparse_updates: true needs batch_size and item_capacity, received None for one of them")
            return {}
        user, items = self.two_tower.user_tower, self.two_tower.item_tower
        chosen = {}
        for name, used, embedding, capacity in (
            ("user", user.use_id, user.id_embedding, batch_size + 1),
            ("items", items.use_id, items.id_embedding, item_capacity),
        ):
            rows = embedding.input_dim
            if used and (wanted is True or (rows >= LARGE_TABLE and rows > 2 * capacity)):
                chosen[name] = SparseRows(embedding, capacity, name=f"{name}_rows")
        return chosen

    def compile(self, optimizer="rmsprop", *, jit_compile="auto", **options):
        """As in Keras, but "auto" compiles on JAX alone: on a CPU, TensorFlow's own matrix products beat XLA's (the loss of
        4,096 queries by 4,096 items, 25 against 47 ms), and lengths that change from batch to batch need no compilation."""
        if jit_compile == "auto" and keras.backend.backend() == "tensorflow":
            jit_compile = False
        super().compile(optimizer=optimizer, jit_compile=jit_compile, **options)
        if self.sparse_rows:
            self.optimizer.build(self.trainable_variables)
            for rows in self.sparse_rows.values():
                rows.connect(self.optimizer)

    def train_step(self, *arguments):
        """One step; arguments are (data,), and (state, data) on JAX."""
        *state, data = arguments
        step = super().train_step
        if not self.sparse_rows:
            return step(*arguments)
        batch = data[0]
        named = {"user": ops.sort(ops.pad(batch["user"], [[1, 0]])), "items": batch["items"]}
        rows_of = [(rows, named[name]) for name, rows in self.sparse_rows.items()]
        if state:
            return train_rows_of_state(self, rows_of, lambda state: step(state, data), state[0])
        return train_rows(rows_of, lambda: step(data))

    @property
    def learned_variables(self) -> list[keras.Variable]:
        """What the towers have learned: everything trained, with the tables that are trained by rows."""
        passing = {id(rows.active) for rows in self.sparse_rows.values()}
        kept = [variable for variable in self.trainable_variables if id(variable) not in passing]
        return kept + [rows.table for rows in self.sparse_rows.values()]

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
        return {
            "queries": queries,
            "candidates": ops.take(embeddings, batch["target"], axis=0),
            "columns": ops.take(embeddings, batch["columns"], axis=0),
        }

    def column_rows(self, batch):
        """Rows of the columns. -> [C]"""
        return ops.take(batch["items"], batch["columns"])

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        rows = self.column_rows(x)
        log_shares = ops.take(self.tables["log_q"], rows)
        scale = self.two_tower.scale
        loss = self.retrieval_loss(
            y_pred["queries"], y_pred["columns"], rows, log_shares, x, scale, training=training
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
            # A settings' seed times what keeps runs apart passes 32 bits from 42,949 on.
            generator.state.assign(np.array([seed % 2**32, number], dtype="uint32"))

    def all_item_embeddings(self) -> np.ndarray:
        """Embeddings of the whole catalogue, row 0 zeros. [N + 1, D] float32."""
        rows = np.arange(self.two_tower.schema.item_rows, dtype=np.int32)
        parts = [
            ops.convert_to_numpy(self.embed_items(ops.convert_to_tensor(rows[start : start + BLOCK])))
            for start in range(0, len(rows), BLOCK)
        ]
        embeddings = np.concatenate(parts).astype(np.float32)
        embeddings[0] = 0.0
        return embeddings
