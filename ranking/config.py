"""The ranker's settings, and the description of the data that a trained ranker was built for."""

from __future__ import annotations

import dataclasses
import json

from data.schema import Schema

HEADS = ("click", "like", "purchase", "skip", "value")
"""The prediction heads in their one order. `click` is any positive event, `like` and `purchase` are those kinds, `skip` a
skip or a dislike: probabilities. `value` is the event's own number (a rating, seconds watched) scaled to [0, 1]."""
NUMBERS = ("value",)
"""Heads that predict a number and not a probability."""

CHOICES = {
    "interaction": ("dcn", "dlrm", "finalmlp"),
    "experts": ("shared", "mmoe", "ple"),
    "task_weighting": ("fixed", "uncertainty", "gradnorm"),
    "list_loss": ("softmax", "lambdarank", "none"),
    "calibration": ("platt", "isotonic", "best"),
}
"""Settings with names for values."""


@dataclasses.dataclass(frozen=True)
class RankingConfig:
    """Settings of the ranking stage; JSON-able, and every random choice follows from `seed`.

    Attributes:
        history_length: L, the user's most recent positive items that the ranker sees.
        list_size: K, elements of one training list (impressions first, the rest negatives).
        retrieved: T, how deep the index is asked, in training and in evaluation.
        random_negatives: elements of a list drawn from the whole released catalogue instead of the index. Impressions
            are often outside the index's first T; without such negatives a low retrieval score would predict a click.
        request_seconds: events of one user within this many seconds of the first form one request; 0 = the whole fold.
        calibration_share: share of the requests, the last ones (of users, by hash, where a log has no times), kept for
            early stopping, calibration and the choice of the score.
        propensity_cap: largest weight of an impression by its inverse propensity; 0 = propensities are not used.
        token_width: D, width of the projected space of each modality.
        id_width, side_width: widths of id embeddings, and of each profile, attribute or context embedding.
        item_embeddings: whether the retrieval embedding of an item counts as one more (frozen) modality, "behaviour".
        popularity_half_lives: days after which an event counts half for an item's popularity; one feature each, none = no
            such feature.
        popularity_delay: days. Training sees popularity as of up to so long before a request, drawn at random, as a release
            that grows old does.
        interaction: how features meet: "dcn" (DCN-v2), "dlrm" (dot products of groups) or "finalmlp" (two streams).
        cross_layers, cross_rank: of "dcn"; rank 0 = full matrix. group_width: of "dlrm", width of a group's embedding.
        stream_hidden, fusion_heads: of "finalmlp", widths of each stream and parts of the bilinear fusion.
        experts: what heads share: "shared" (one bottom), "mmoe" (gated experts) or "ple" (own and shared experts).
        expert_count: experts of "mmoe", or shared experts of a layer of "ple".
        hidden: widths of the deep part, or of each expert; in "ple" each width is a layer of extraction.
        domain_heads: whether every value of the item attribute `domain` has an additive head of its own.
        purchase_given_click: whether purchase is click times purchase given click, over the whole space (ESMM).
        dropout, id_dropout: rates; a dropped id becomes row 0, which so learns the average user or item.
        batch_lists: B, lists a step.
        head_weights: head -> weight of its loss; 1 for click and 0.5 for others where nothing is said, 0 = no such head.
        task_weighting: "fixed", "uncertainty" or "gradnorm", see `ranking.task_weighting`; gradnorm_alpha belongs to it.
        list_loss, list_weight: "softmax", "lambdarank" or "none" over the clicks of a list, and its weight.
        category_weight, sentiment_weight: of telling an item's categories and reception by its content tokens.
        position_bias: whether places on the page, where a log has them, get a logit of their own in training.
        positions: P, places told apart; later ones count as the last.
        trees: at most so many boosted trees are fitted to the clicks beside the network, and their sum joins its click logit
            (`ranking.trees`); 0 = none.
        calibration: "platt", "isotonic" or "best" (whichever predicts other held-out users better).
        score_weights: head -> weight of the ranking score; empty = chosen on the held-out requests, with the blend.
        score_blend: weight of the standardised retrieval score beside given `score_weights`.
        epochs, patience: epochs at most, and without a lower log loss of the held-out requests' clicks; the best one's weights
            stay.
        catch_up_epochs, catch_up_rate: once all is chosen, so many epochs over all requests, the held-out ones included, at
            that share of the learning rate; see `pipeline.ranker.catch_up`.
        jit_compile: whether XLA compiles the training step; on a few CPU cores it takes longer than it saves.

    Example:
        >>> config = RankingConfig(hidden=(32,), seed=3)
        >>> RankingConfig.from_json(config.to_json()) == config
        True
    """

    history_length: int = 20
    list_size: int = 32
    retrieved: int = 200
    random_negatives: int = 6
    request_seconds: int = 86_400
    calibration_share: float = 0.2
    propensity_cap: float = 0.0
    token_width: int = 16
    id_width: int = 8
    side_width: int = 4
    item_embeddings: bool = True
    popularity_half_lives: tuple[float, ...] = (3.0, 14.0)
    popularity_delay: float = 7.0
    interaction: str = "dcn"
    cross_layers: int = 2
    cross_rank: int = 32
    group_width: int = 16
    stream_hidden: tuple[int, ...] = (96, 48)
    fusion_heads: int = 4
    experts: str = "shared"
    expert_count: int = 4
    hidden: tuple[int, ...] = (96, 48)
    domain_heads: bool = True
    purchase_given_click: bool = False
    dropout: float = 0.1
    id_dropout: float = 0.6
    batch_lists: int = 64
    learning_rate: float = 3e-4
    weight_decay: float = 1e-3
    epochs: int = 12
    catch_up_epochs: int = 3
    catch_up_rate: float = 0.5
    patience: int = 3
    head_weights: dict[str, float] = dataclasses.field(default_factory=dict)
    task_weighting: str = "fixed"
    gradnorm_alpha: float = 1.5
    list_loss: str = "softmax"
    list_weight: float = 0.5
    category_weight: float = 0.0
    sentiment_weight: float = 0.0
    position_bias: bool = True
    positions: int = 50
    trees: int = 256
    calibration: str = "platt"
    score_weights: dict[str, float] = dataclasses.field(default_factory=dict)
    score_blend: float = 0.0
    jit_compile: bool = False
    seed: int = 7

    def __post_init__(self) -> None:
        for name in ("hidden", "stream_hidden"):
            object.__setattr__(self, name, tuple(int(width) for width in getattr(self, name)))
        object.__setattr__(self, "popularity_half_lives", tuple(float(days) for days in self.popularity_half_lives))
        for name in ("history_length", "list_size", "retrieved", "token_width", "id_width", "side_width", "batch_lists",
                     "epochs", "patience", "group_width", "expert_count", "positions", "fusion_heads"):  # fmt: skip
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, received {getattr(self, name)}")
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} must be one of {choices}, received {getattr(self, name)!r}")
        for name in ("dropout", "id_dropout"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise ValueError(f"{name} must be in [0, 1), received {getattr(self, name)}")
        for name in ("propensity_cap", "trees"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be at least 0, received {getattr(self, name)}")
        if not 0.0 < self.calibration_share < 1.0:
            raise ValueError(f"calibration_share must be in (0, 1), received {self.calibration_share}")
        if self.experts != "shared" and not self.hidden:
            raise ValueError(f"hidden must have a width for experts {self.experts!r}, received none")
        if self.interaction == "finalmlp" and (not self.stream_hidden or self.stream_hidden[-1] % self.fusion_heads):
            received = f"{self.fusion_heads} and {self.stream_hidden}"
            raise ValueError(f"fusion_heads must divide the last width of stream_hidden, received {received}")
        if self.popularity_half_lives and min(self.popularity_half_lives) <= 0:
            raise ValueError(f"popularity_half_lives must be positive, received {self.popularity_half_lives}")
        for name in ("score_weights", "head_weights"):
            unknown = set(getattr(self, name)) - set(HEADS)
            if unknown:
                raise ValueError(f"{name}: heads must be among {HEADS}, received {sorted(unknown)}")
        if min(self.head_weights.values(), default=0.0) < 0 or self.weight_of("click") == 0:
            raise ValueError(f"head_weights must be at least 0, that of click above, received {self.head_weights}")

    def weight_of(self, head: str) -> float:
        """The weight of a head's loss."""
        return float(self.head_weights.get(head, 1.0 if head == "click" else 0.5))

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=2)

    @classmethod
    def from_json(cls, text: str) -> RankingConfig:
        return cls(**json.loads(text))


@dataclasses.dataclass(frozen=True)
class RankerSpec:
    """What a ranker needs to know about the data before any data is read, beside its config.

    Attributes:
        schema: sizes of the dataset with the widths of its modalities.
        embedding_width: width of the retrieval embeddings used as the modality "behaviour"; 0 = not used.
        reference_time: UTC seconds subtracted from all times, so that ages in float32 are exact to the second.
        score_center, score_scale: mean and standard deviation of retrieval scores in training lists.
        heads: the heads that the training data has labels for; `click` always.
        popularity_moments, popularity_start, popularity_step: P, and UTC seconds: see `ranking.popularity`.
        categories: codes of the items' categories, 0 included, that content tokens learn to tell; 0 = none.
    """

    schema: Schema
    embedding_width: int = 0
    reference_time: int = 0
    score_center: float = 0.0
    score_scale: float = 1.0
    heads: tuple[str, ...] = HEADS
    popularity_moments: int = 1
    popularity_start: int = 0
    popularity_step: int = 86_400
    categories: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "heads", tuple(self.heads))
        if "click" not in self.heads or set(self.heads) - set(HEADS):
            raise ValueError(f"heads must hold 'click' and be among {HEADS}, received {self.heads}")
        if not self.score_scale > 0:
            raise ValueError(f"score_scale must be positive, received {self.score_scale}")

    @property
    def modalities(self) -> dict[str, int]:
        """Width of every modality that the ranker reads, in the order of axis M of its token table."""
        behaviour = {"behaviour": self.embedding_width} if self.embedding_width else {}
        return {**self.schema.modalities, **behaviour}

    @property
    def context(self) -> dict[str, int]:
        """Cardinality of each context column of a request, in the order of axis C."""
        return self.schema.context

    @property
    def domains(self) -> int:
        """Codes of the item attribute `domain`, 0 included; 0 = items have none."""
        return self.schema.attributes.get("domain", 0)

    def newest(self) -> RankerSpec:
        """The same with the last moment of popularity alone: what serves."""
        start = self.popularity_start + (self.popularity_moments - 1) * self.popularity_step
        return dataclasses.replace(self, popularity_moments=1, popularity_start=start)

    def standardised(self) -> RankerSpec:
        """The same for retrieval scores that come standardised."""
        return dataclasses.replace(self, score_center=0.0, score_scale=1.0)

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=2)

    @classmethod
    def from_json(cls, text: str) -> RankerSpec:
        fields = json.loads(text)
        return cls(**{**fields, "schema": Schema(**fields["schema"])})
