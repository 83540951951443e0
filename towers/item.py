"""The item tower: a row, its content features and the present mask in, one embedding out."""

from __future__ import annotations

import keras
from keras import ops

from data.schema import Schema
from towers.config import TowerConfig
from towers.domain_adapters import DomainAdapters
from towers.frames import FrameProjection
from towers.fusion import ConcatFusion, GatedFusion, ModalityDropout, WeightedFusion, unit_length
from towers.fusion_attention import AttentionFusion, BottleneckFusion
from towers.projection import ModalityProjection
from towers.row_embedding import RowEmbedding

ITEMS_PER_COMPONENT, FEWEST_COMPONENTS = 40, 16
"""How many components of a modality a catalogue can teach the meaning of. With fewer items a component, the tower learns
items by heart: on the demo (1,500 items) all 1,280 columns find .46 of validation's never-seen items, 37 components .56."""


@keras.saving.register_keras_serializable("triptych")
class ItemTower(keras.layers.Layer):
    """Id embedding + one projection per modality, fused, adapted to the item's domain, normalised.

    The id is a modality like the others: it is absent for items without a training event, so a new item is exactly what
    its content says, and modality dropout on the id teaches the tower to live without it.

    Formula: `e = unit(z + W_2 gelu(W_1 z))` with `z = adapt_domain(fusion(tokens, present))`. With
    `config.item_hidden = False` and fusion `weighted`, fixed at 1, it is the linear `unit(id + sum_m present_m W_m f_m)`.

    Args:
        schema: sizes of the dataset; `schema.modalities` decides which content the tower reads, and whether there is an
            attribute `domain` decides whether adapters can be had.
        config: widths, kind of fusion, dropout rates, seed.

    Attributes:
        known: [N + 1], 1 where an item has a training event. domain: [N + 1] int32 codes, where there are adapters. Both
            are part of the weights; whoever trains the tower fills them in.

    Shapes: rows [B] int32, features {modality: [B, F_m]}, present [B, M] bool (columns in the order of
    `schema.modalities`) -> embeddings [B, D] of unit length, and the intermediates `tokens` [B, 1 + M, D], `present`
    [B, 1 + M] (id first, after dropout), `fused` [B, D] (z) and those of the fusion (`gates` [B, 1 + M] by default).
    """

    def __init__(self, schema: Schema, config: TowerConfig, **kwargs):
        super().__init__(**kwargs)
        self.modalities = tuple(schema.modalities)
        width = config.width
        self.use_id = config.item_id
        self.id_embedding = RowEmbedding(
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
        blur = {"noise": config.feature_noise, "drop": config.feature_dropout}
        self.projections = {
            name: FrameProjection(
                width, schema.frames[name], rank, **blur, seed=config.seed + 10 + place, name=f"project_{name}"
            )
            if name in schema.frames
            else ModalityProjection(width, rank, **blur, seed=config.seed + 10 + place, name=f"project_{name}")
            for place, name in enumerate(self.modalities)
        }
        rates = [config.id_dropout] + [config.modality_dropout] * len(self.modalities)
        self.modality_dropout = ModalityDropout(rates, seed=config.seed + 2, name="modality_dropout")
        self.fusion = make_fusion(config)
        domains = schema.attributes.get("domain", 0) if config.domain_adapters else 0
        self.adapters = None
        if domains > 1:
            self.adapters = DomainAdapters(domains, config.domain_adapters, seed=config.seed + 3, name="adapters")
            self.adapters.build((None, width))
            self.domain = self.add_weight(
                shape=(schema.item_rows,), dtype="int32", initializer="zeros", trainable=False, name="domain"
            )
        self.use_hidden = config.item_hidden
        if self.use_hidden:
            self.hidden = keras.layers.Dense(width, activation="gelu", name="hidden")
            self.output_dense = keras.layers.Dense(width, kernel_initializer="zeros", name="output")
            self.hidden.build((None, width))
            self.output_dense.build((None, width))
        for name, projection in self.projections.items():
            projection.build((None, schema.modalities[name]))
        self.id_embedding.build((None,))
        self.fusion.build((None, 1 + len(self.modalities), width))
        self.built = True

    def call(self, rows, features, present, training=False):
        known = ops.take(self.known, rows) > 0 if self.use_id else ops.zeros(ops.shape(rows), dtype="bool")
        present = ops.concatenate([known[:, None], present], axis=1) if self.modalities else known[:, None]
        present = self.modality_dropout(present, training=training)
        tokens = [ops.where(present[:, :1], self.id_embedding(rows), ops.convert_to_tensor(self.id_absent))]
        for column, name in enumerate(self.modalities, start=1):
            tokens.append(self.projections[name](features[name], present[:, column], training=training))
        stacked = ops.stack(tokens, axis=1)
        fused, intermediates = self.fusion(stacked, present)
        if self.adapters is not None:
            fused = self.adapters(fused, ops.take(self.domain, rows))
        # The residual branch starts at zero: training begins from the plain gated sum, which already works.
        vectors = fused + self.output_dense(self.hidden(fused)) if self.use_hidden else fused
        # An item of which nothing at all is known has no direction: it scores 0 for everybody, not like a typical item.
        embeddings = unit_length(vectors, ops.any(present, axis=1, keepdims=True))
        return embeddings, {**intermediates, "fused": fused, "tokens": stacked, "present": present}


def make_fusion(config: TowerConfig) -> keras.layers.Layer:
    """The fusion that a config names.

    Raises:
        ValueError: an unknown name.
    """
    if config.fusion == "gated":
        return GatedFusion(name="fusion")
    if config.fusion == "concat":
        return ConcatFusion(name="fusion")
    if config.fusion == "weighted":
        return WeightedFusion(config.fusion_weights, name="fusion")
    if config.fusion == "attention":
        return AttentionFusion(name="fusion")
    if config.fusion == "bottleneck":
        return BottleneckFusion(
            config.bottleneck_tokens,
            config.fusion_layers,
            heads=config.attention_heads,
            seed=config.seed + 5,
            name="fusion",
        )
    raise ValueError(
        f"fusion: must be 'gated', 'concat', 'weighted', 'attention' or 'bottleneck', received {config.fusion!r}"
    )
