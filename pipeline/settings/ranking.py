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
    """The user's latest positive items that the ranker reads."""
    retrieved: int = pydantic.Field(200, ge=10)
    """How many candidates the index is asked for, in training and in evaluation."""
    list_size: int = pydantic.Field(32, ge=2)
    """Elements of one training list: what was shown first, then negatives from the index, a few from anywhere."""
    random_negatives: int = pydantic.Field(6, ge=0)
    """Negatives of a list drawn from the whole catalogue."""
    request_seconds: int = pydantic.Field(86_400, ge=0)
    """Events of a user within this time of the first make one request; 0 = all of a split."""
    calibration_share: float = pydantic.Field(0.2, gt=0, lt=1)
    """Share of the requests, the last ones (of users, by a hash, where a log has no times), kept for early stopping,
    calibration and the choice of the score."""

    propensity_cap: float = pydantic.Field(0.0, ge=0)
    """Where a log has the column `propensity`, what was shown weighs 1 / propensity, at most this much; 0 = everything weighs
    1. `place_propensity` is no weight for training: an item that is always shown low on a page would hardly count."""
    previous_run: str = ""
    """Folder of a run made earlier, whose index is asked about the days of the train split after its own: a second source
    of lists. It is refused if it was trained on them."""

    token_width: int = pydantic.Field(16, ge=1)
    """Width of each modality's learned projection."""
    id_width: int = pydantic.Field(8, ge=1)
    """Width of user and item ids."""
    side_width: int = pydantic.Field(4, ge=1)
    """Width of each profile, attribute and context value."""
    item_embeddings: bool = True
    """Whether the retrieval embedding of an item counts as one more modality, `behaviour`."""
    popularity_half_lives: tuple[float, ...] = (3.0, 14.0)
    """Days after which an event counts half for an item's popularity; one feature each, none = no such feature."""
    popularity_delay: float = pydantic.Field(7.0, ge=0)
    """Training sees popularity as of up to so many days before a request, as a release that grows old does."""

    interaction: Literal["dcn", "dlrm", "finalmlp"] = "dcn"
    """How features meet: DCN-v2's crosses, dot products between groups of features, or FinalMLP's two streams."""
    cross_layers: int = pydantic.Field(2, ge=0)
    """Crosses of `dcn`."""
    cross_rank: int = pydantic.Field(32, ge=0)
    """Rank of their matrices; 0 = full."""
    group_width: int = pydantic.Field(16, ge=1)
    """Width of the embedding of a group of features in `dlrm`."""
    stream_hidden: tuple[int, ...] = (96, 48)
    """Widths of each stream of `finalmlp`."""
    fusion_heads: int = pydantic.Field(4, ge=1)
    """Parts of its bilinear fusion; divides the last width."""

    experts: Literal["shared", "mmoe", "ple"] = "shared"
    """What the tasks share: one bottom, experts that each task mixes by a gate, or own experts beside shared ones."""
    expert_count: int = pydantic.Field(4, ge=1)
    """Experts of `mmoe`; shared experts of a layer of `ple`."""
    hidden: tuple[int, ...] = (96, 48)
    """Widths of the bottom, or of each expert; in `ple` each width is a layer of extraction."""
    domain_heads: bool = True
    """Whether every value of the item attribute `domain` has an additive head of its own."""
    purchase_given_click: bool = False
    """Whether a purchase is a click times a purchase given a click, learned over everything shown (ESMM)."""
    dropout: float = pydantic.Field(0.1, ge=0, lt=1)
    id_dropout: float = pydantic.Field(0.6, ge=0, lt=1)
    """How often an id is replaced by the average one in training."""

    head_weights: dict[Head, float] = pydantic.Field(default_factory=dict)
    """Weight of each head's loss, as in `{ purchase = 1.0, skip = 0 }`; click counts 1 and the others 0.5 where nothing is
    said, and a head of weight 0 is not built."""
    task_weighting: Literal["fixed", "uncertainty", "gradnorm"] = "fixed"
    """Whether those weights stay, follow each task's uncertainty, or balance the tasks' gradients."""
    gradnorm_alpha: float = pydantic.Field(1.5, ge=0)
    """How strongly `gradnorm` prefers a task that learns slowly."""
    list_loss: Literal["softmax", "lambdarank", "none"] = "softmax"
    """The loss over the clicks of a whole list, beside each head's cross-entropy."""
    list_weight: float = pydantic.Field(0.5, ge=0)
    """Its weight."""
    category_weight: float = pydantic.Field(0.0, ge=0)
    """Weight of telling an item's categories by its content."""
    sentiment_weight: float = pydantic.Field(0.0, ge=0)
    """Weight of telling by its content how an item was received."""
    position_bias: bool = True
    """Whether places on the page, where a log has them, get a part of the click logit that serving leaves out."""
    positions: int = pydantic.Field(50, ge=1)
    """Places told apart; later ones count as the last."""

    batch_lists: int = pydantic.Field(64, ge=1)
    """Lists a step."""
    learning_rate: float = pydantic.Field(3e-4, gt=0)
    weight_decay: float = pydantic.Field(1e-3, ge=0)
    epochs: int = pydantic.Field(12, ge=1)
    catch_up_epochs: int = pydantic.Field(3, ge=0)
    """Epochs over all requests, the held-out ones included, once everything is chosen on these."""
    catch_up_rate: float = pydantic.Field(0.5, ge=0, le=1)
    """Their rate, as a share of `learning_rate`."""
    patience: int = pydantic.Field(3, ge=1)
    """Stop after this many epochs without a lower log loss of the held-out requests' clicks; the best epoch's weights stay."""
    jit_compile: bool = False
    """Whether XLA compiles the training step; on few CPU cores it takes longer than it saves."""
    seed: int = pydantic.Field(7, ge=0)

    trees: int = pydantic.Field(256, ge=0)
    """Boosted trees that are fitted to the clicks beside the network, at most; their sum joins its click logit. 0 = none."""
    calibration: Literal["platt", "isotonic", "best"] = "platt"
    """How logits become probabilities; `best` = whichever predicts other held-out users better."""
    score_weights: dict[Head, float] = pydantic.Field(default_factory=dict)
    """Weight of each head's probability in the score, as in `{ click = 1, purchase = 5, skip = -0.5 }`; empty = chosen on the
    held-out requests, together with the blend."""
    score_blend: float = pydantic.Field(0.0, ge=0)
    """Weight of the standardised retrieval score beside given `score_weights`."""

    @pydantic.model_validator(mode="after")
    def _known_to_the_ranker(self) -> RankingSection:
        RankingConfig(**self.model_dump(exclude={"previous_run"}))
        return self
