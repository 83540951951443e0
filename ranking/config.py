"""The ranker's settings, and the description of the data that a trained ranker was built for."""

from __future__ import annotations

import dataclasses
import json

from data.schema import Schema

HEADS = ("click", "like", "purchase", "skip", "value")
"""The prediction heads in their one order. `click` is any positive event, `like` and `purchase` are those kinds, `skip` a
skip or a dislike: probabilities. `value` is the event's own number (a rating, seconds watched) scaled to [0, 1]."""


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
        calibration_share: share of users (by hash) kept for early stopping, calibration and the choice of the score.
        token_width: D, width of the projected space of each modality.
        id_width, side_width: widths of id embeddings, and of each profile or attribute embedding.
        item_embeddings: whether the retrieval embedding of an item counts as one more (frozen) modality, "behaviour".
        cross_layers, cross_rank: DCN-v2 layers; rank 0 = full matrix.
        hidden: widths of the deep part, beside the crosses.
        dropout, id_dropout: rates; a dropped id becomes row 0, which so learns the average user or item.
        batch_lists: B, lists a step.
        listwise_weight, purchase_weight: weights of the listwise softmax and of the purchase head in the loss.
        calibration: "platt" or "isotonic".
        score_weights: head -> weight of the ranking score; empty = chosen among `score_choices` on the held-out users.
        score_choices: weights of (click, purchase) to choose among.
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
    token_width: int = 16
    id_width: int = 8
    side_width: int = 4
    item_embeddings: bool = True
    cross_layers: int = 2
    cross_rank: int = 32
    hidden: tuple[int, ...] = (96, 48)
    dropout: float = 0.1
    id_dropout: float = 0.6
    batch_lists: int = 64
    learning_rate: float = 2e-3
    weight_decay: float = 1e-3
    epochs: int = 8
    patience: int = 3
    listwise_weight: float = 0.5
    purchase_weight: float = 0.5
    calibration: str = "platt"
    score_weights: dict[str, float] = dataclasses.field(default_factory=dict)
    score_choices: tuple[tuple[float, float], ...] = ((1.0, 0.0), (1.0, 0.5), (1.0, 2.0))
    jit_compile: bool = False
    seed: int = 7

    def __post_init__(self) -> None:
        object.__setattr__(self, "hidden", tuple(int(width) for width in self.hidden))
        object.__setattr__(self, "score_choices", tuple((float(a), float(b)) for a, b in self.score_choices))
        for name in ("history_length", "list_size", "retrieved", "token_width", "id_width", "side_width", "batch_lists",
                     "epochs", "patience"):  # fmt: skip
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, received {getattr(self, name)}")
        if self.calibration not in ("platt", "isotonic"):
            raise ValueError(f"calibration must be 'platt' or 'isotonic', received {self.calibration!r}")
        for name in ("dropout", "id_dropout"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise ValueError(f"{name} must be in [0, 1), received {getattr(self, name)}")
        if not 0.0 < self.calibration_share < 1.0:
            raise ValueError(f"calibration_share must be in (0, 1), received {self.calibration_share}")
        unknown = set(self.score_weights) - set(HEADS)
        if unknown:
            raise ValueError(f"score_weights: heads must be among {HEADS}, received {sorted(unknown)}")

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
    """

    schema: Schema
    embedding_width: int = 0
    reference_time: int = 0
    score_center: float = 0.0
    score_scale: float = 1.0
    heads: tuple[str, ...] = HEADS

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
        return dict(getattr(self.schema, "context", {}))

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=2)

    @classmethod
    def from_json(cls, text: str) -> RankerSpec:
        fields = json.loads(text)
        return cls(**{**fields, "schema": Schema(**fields["schema"])})
