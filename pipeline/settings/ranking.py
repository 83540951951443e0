"""Settings of the ranker: what it reads, how it is built, what it learns from, and what its score is."""

from __future__ import annotations

from typing import Literal

import pydantic

from pipeline.settings.section import Section
from ranking.config import RankingConfig

Head = Literal["click", "like", "purchase", "skip", "value"]


class RankingSection(Section):
    """`[ranking]`: names and meanings are those of `ranking.config.RankingConfig`."""

    history_length: int = pydantic.Field(20, ge=1)
    retrieved: int = pydantic.Field(200, ge=10)
    list_size: int = pydantic.Field(32, ge=2)
    random_negatives: int = pydantic.Field(6, ge=0)
    request_seconds: int = pydantic.Field(86_400, ge=0)
    calibration_share: float = pydantic.Field(0.2, gt=0, lt=1)

    propensity_cap: float = pydantic.Field(0.0, ge=0)
    """Where a log has the column `propensity`, what was shown weighs 1 / propensity, at most this much; 0 = everything weighs
    1. `place_propensity` is no weight for training: an item that is always shown low on a page would hardly count."""
    previous_run: str = ""
    """Folder of a run made earlier, whose index is asked about the days of the train split after its own: a second source
    of lists. It is refused if it was trained on them."""

    token_width: int = pydantic.Field(16, ge=1)
    id_width: int = pydantic.Field(8, ge=1)
    side_width: int = pydantic.Field(4, ge=1)
    item_embeddings: bool = True
    popularity_half_lives: tuple[float, ...] = (3.0, 14.0)
    popularity_delay: float = pydantic.Field(7.0, ge=0)

    interaction: Literal["dcn", "dlrm", "finalmlp"] = "dcn"
    cross_layers: int = pydantic.Field(2, ge=0)
    cross_rank: int = pydantic.Field(32, ge=0)
    group_width: int = pydantic.Field(16, ge=1)
    stream_hidden: tuple[int, ...] = (96, 48)
    fusion_heads: int = pydantic.Field(4, ge=1)

    experts: Literal["shared", "mmoe", "ple"] = "shared"
    expert_count: int = pydantic.Field(4, ge=1)
    hidden: tuple[int, ...] = (96, 48)
    domain_heads: bool = True
    purchase_given_click: bool = False
    dropout: float = pydantic.Field(0.1, ge=0, lt=1)
    id_dropout: float = pydantic.Field(0.6, ge=0, lt=1)

    head_weights: dict[Head, float] = pydantic.Field(default_factory=dict)
    task_weighting: Literal["fixed", "uncertainty", "gradnorm"] = "fixed"
    gradnorm_alpha: float = pydantic.Field(1.5, ge=0)
    list_loss: Literal["softmax", "lambdarank", "none"] = "softmax"
    list_weight: float = pydantic.Field(0.5, ge=0)
    category_weight: float = pydantic.Field(0.0, ge=0)
    sentiment_weight: float = pydantic.Field(0.0, ge=0)
    position_bias: bool = True
    positions: int = pydantic.Field(50, ge=1)

    batch_lists: int = pydantic.Field(64, ge=1)
    learning_rate: float = pydantic.Field(3e-4, gt=0)
    weight_decay: float = pydantic.Field(1e-3, ge=0)
    epochs: int = pydantic.Field(12, ge=1)
    catch_up_epochs: int = pydantic.Field(3, ge=0)
    catch_up_rate: float = pydantic.Field(0.5, ge=0, le=1)
    patience: int = pydantic.Field(3, ge=1)
    jit_compile: bool = False
    seed: int = pydantic.Field(7, ge=0)

    trees: int = pydantic.Field(256, ge=0)
    calibration: Literal["platt", "isotonic", "best"] = "platt"
    score_weights: dict[Head, float] = pydantic.Field(default_factory=dict)
    score_blend: float = pydantic.Field(0.0, ge=0)

    @pydantic.model_validator(mode="after")
    def _known_to_the_ranker(self) -> RankingSection:
        RankingConfig(**self.model_dump(exclude={"previous_run"}))
        return self
