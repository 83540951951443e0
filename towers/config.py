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
    seed: int = 7

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=2)

    @classmethod
    def from_json(cls, text: str) -> TowerConfig:
        return cls(**json.loads(text))
