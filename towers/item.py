"""The item tower: a row, its content features and the present mask in, one embedding out."""

from __future__ import annotations

import keras
from keras import ops

from data.schema import Schema
from towers.config import TowerConfig
from towers.frames import FrameProjection
from towers.fusion import GatedFusion, ModalityDropout, ModalityProjection, unit_length

ITEMS_PER_COMPONENT, FEWEST_COMPONENTS = 40, 16
"""How many components of a modality a catalogue can teach the meaning of. With fewer items a component, the tower learns
items by heart: on the demo (1,500 items) all 1,280 columns find .46 of validation's never-seen items, 37 components .56."""


@keras.saving.register_keras_serializable("triptych")
class ItemTower(keras.layers.Layer):
    """Id embedding + one projection per modality + attributes, fused by gates, normalised.

    The id is a modality like the others: it is absent for items without a training event, so a new item is exactly what
    its content says, and modality dropout on the id teaches the tower to live without it.

    Args:
        schema: sizes of the dataset; `schema.modalities` decides which content the tower reads.
        config: widths, dropout rates, seed.

    Shapes: rows [B] int32, features {modality: [B, F_m]}, present [B, M] bool (columns in the order of
    `schema.modalities`) -> embeddings [B, D] of unit length, and {"gates": [B, 1 + M], "fused": [B, D]}.
    """

    def __init__(self, schema: Schema, config: TowerConfig, **kwargs):
        super().__init__(**kwargs)
        self.modalities = tuple(schema.modalities)
        width = config.width
        self.use_id = config.item_id
        self.id_embedding = keras.layers.Embedding(
            schema.item_rows,
            width,
            embeddings_initializer=keras.initializers.RandomNormal(0.0, 0.05, seed=config.seed),
            name="id",
        )
        self.id_absent = self.add_weight(
            shape=(width,),
            initializer=keras.initializers.RandomNormal(0.0, 0.05, seed=config.seed + 1),
            name="id_absent",
        )
        self.known = self.add_weight(shape=(schema.item_rows,), initializer="zeros", trainable=False, name="known")
        rank = config.content_rank or max(FEWEST_COMPONENTS, schema.item_rows // ITEMS_PER_COMPONENT)
        self.projections = {
            name: FrameProjection(width, schema.frames[name], rank, name=f"project_{name}")
            if name in schema.frames
            else ModalityProjection(width, rank, name=f"project_{name}")
            for name in self.modalities
        }
        rates = [config.id_dropout] + [config.modality_dropout] * len(self.modalities)
        self.modality_dropout = ModalityDropout(rates, seed=config.seed + 2, name="modality_dropout")
        self.fusion = GatedFusion(name="fusion")
        self.hidden = keras.layers.Dense(width, activation="gelu", name="hidden")
        self.output_dense = keras.layers.Dense(width, kernel_initializer="zeros", name="output")
        for name, projection in self.projections.items():
            projection.build((None, schema.modalities[name]))
        self.id_embedding.build((None,))
        self.fusion.build((None, 1 + len(self.modalities), width))
        self.hidden.build((None, width))
        self.output_dense.build((None, width))
        self.built = True

    def call(self, rows, features, present, training=False):
        known = ops.take(self.known, rows) > 0 if self.use_id else ops.zeros(ops.shape(rows), dtype="bool")
        present = ops.concatenate([known[:, None], present], axis=1) if self.modalities else known[:, None]
        present = self.modality_dropout(present, training=training)
        tokens = [ops.where(present[:, :1], self.id_embedding(rows), ops.convert_to_tensor(self.id_absent))]
        for column, name in enumerate(self.modalities, start=1):
            tokens.append(self.projections[name](features[name], present[:, column]))
        fused, intermediates = self.fusion(ops.stack(tokens, axis=1), present)
        # The residual branch starts at zero: training begins from the plain gated sum, which already works.
        embeddings = unit_length(fused + self.output_dense(self.hidden(fused)))
        # An item of which nothing at all is known has no direction: it scores 0 for everybody, not like a typical item.
        embeddings = ops.where(ops.any(present, axis=1, keepdims=True), embeddings, 0.0)
        return embeddings, {**intermediates, "fused": fused}
