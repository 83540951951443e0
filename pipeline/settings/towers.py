"""Settings that shape the towers themselves; `towers.config.TowerConfig` holds them under the same names."""

from __future__ import annotations

from typing import Literal

import pydantic

from pipeline.settings.section import Section


class TowersSection(Section):
    """The part of `[retrieval]` that says how a tower is built."""

    fusion: Literal["gated", "concat", "weighted", "attention", "bottleneck"] = "gated"
    """How an item's id and modalities become one vector."""
    fusion_weights: tuple[float, ...] = ()
    """Fixed coefficients of `weighted`, the id first, or one for all; empty = learned."""
    bottleneck_tokens: int = pydantic.Field(4, ge=1)
    fusion_layers: int = pydantic.Field(1, ge=1)
    domain_adapters: int = pydantic.Field(0, ge=0)
    """Width of a residual adapter for each domain of the items, where they have domains; 0 = none."""
    item_hidden: bool = True
    """Whether a residual hidden layer follows the fusion; without it and with `weighted`, items are linear."""
    feature_noise: float = pydantic.Field(0.0, ge=0)
    """Noise on content vectors in training, as a share of their own deviation."""
    feature_dropout: float = pydantic.Field(0.0, ge=0, lt=1)
    history: Literal["mean", "attention", "transformer", "sum", "none"] = "attention"
    """How a user's recent items become one vector; `sum` has no hidden layer and leaves the user's id to newcomers."""
    history_layers: int = pydantic.Field(2, ge=1)
    history_block: int = pydantic.Field(64, ge=1)
    """How many events the lower layers of the transformer look back; the last one sees all."""
    attention_heads: int = pydantic.Field(2, ge=1)
    """Of the transformers; must divide the width."""
    event_dropout: float = pydantic.Field(0.5, ge=0, lt=1)
    """Share of training steps in which the kinds and times of a history's events are hidden."""
