"""Settings that shape the towers themselves; `towers.config.TowerConfig` says what each means."""

from __future__ import annotations

from typing import Literal

import pydantic

from pipeline.settings.section import Section


class TowersSection(Section):
    """The part of `[retrieval]` that says how a tower is built: names and meanings are those of `towers.config.TowerConfig`."""

    fusion: Literal["gated", "concat", "weighted", "attention", "bottleneck"] = "gated"
    fusion_weights: tuple[float, ...] = ()
    bottleneck_tokens: int = pydantic.Field(4, ge=1)
    fusion_layers: int = pydantic.Field(1, ge=1)
    domain_adapters: int = pydantic.Field(0, ge=0)
    item_hidden: bool = True
    feature_noise: float = pydantic.Field(0.0, ge=0)
    feature_dropout: float = pydantic.Field(0.0, ge=0, lt=1)
    history: Literal["mean", "attention", "transformer", "sum", "none"] = "attention"
    history_layers: int = pydantic.Field(2, ge=1)
    history_block: int = pydantic.Field(64, ge=1)
    attention_heads: int = pydantic.Field(2, ge=1)
    event_dropout: float = pydantic.Field(0.5, ge=0, lt=1)
