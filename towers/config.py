"""Settings of the two towers, as plain data that travels with the weights."""

from __future__ import annotations

import dataclasses
import json


@dataclasses.dataclass(frozen=True)
class TowerConfig:
    """Widths and rates of both towers.

    Attributes:
        width: D, the embedding width.
        history_length: L, the recent items that the user tower attends to.
        item_id, user_id: whether an id embedding is used at all.
        content_rank: leading components of a modality's vectors that the item tower sees; 0 = one for every 40 items.
        id_dropout: share of training steps in which an item's id is hidden from its tower.
        modality_dropout: the same for each content modality.
        user_id_dropout: share of training steps in which the user is treated as unknown.
        dropout: rate inside the user tower's hidden layer.
        temperature: the softmax temperature at the start; it is learned from there.
        fusion: how an item's modalities become one vector: `gated`, `concat`, `weighted`, `attention`, `bottleneck`.
        fusion_weights: fixed coefficients of `weighted`, the id first, or one for all; empty = learned.
        bottleneck_tokens, fusion_layers: of `bottleneck`.
        domain_adapters: width of a residual adapter for each item domain, where items have one; 0 = none.
        item_hidden: whether a residual hidden layer follows the fusion; without it and with `weighted`, items are linear.
        feature_noise: noise on content vectors in training, as a share of their own deviation; feature_dropout: the share of
            their components that is hidden. See `FeatureNoise`.
        history: how a user's recent items become one vector: `mean`, `attention`, `transformer`, or `sum`, which has
            no hidden layer and leaves the user's id to newcomers; `none` = the user is their id and profile.
        history_layers, history_block: layers of `transformer`, and how many events its lower ones look back; the last sees all.
        attention_heads: of `transformer` and `bottleneck`; must divide the width.
        event_dropout: share of histories in training whose event kinds and times are hidden, as they are from evaluation and
            from what is served, whose requests name items alone.
        seed: of the initial weights and of every dropout.
    """

    width: int = 64
    history_length: int = 20
    item_id: bool = True
    user_id: bool = True
    content_rank: int = 0
    id_dropout: float = 0.3
    modality_dropout: float = 0.1
    user_id_dropout: float = 0.3
    dropout: float = 0.1
    temperature: float = 0.1
    fusion: str = "gated"
    fusion_weights: tuple[float, ...] = ()
    bottleneck_tokens: int = 4
    fusion_layers: int = 1
    domain_adapters: int = 0
    item_hidden: bool = True
    feature_noise: float = 0.0
    feature_dropout: float = 0.0
    history: str = "attention"
    history_layers: int = 2
    history_block: int = 64
    attention_heads: int = 2
    event_dropout: float = 0.5
    seed: int = 7

    def __post_init__(self) -> None:
        # JSON knows lists alone.
        object.__setattr__(self, "fusion_weights", tuple(self.fusion_weights))

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=2)

    @classmethod
    def from_json(cls, text: str) -> TowerConfig:
        return cls(**json.loads(text))
