"""How much each term beside the main loss weighs, as plain data."""

from __future__ import annotations

import dataclasses

TERMS = (
    "alignment",
    "inner_product",
    "reconstruction",
    "per_modality",
    "category",
    "sentiment",
    "adversarial",
    "l2",
    "distillation",
    "ranker",
)


@dataclasses.dataclass(frozen=True)
class SideWeights:
    """Weight of each term, 0 = off, and what else the terms need.

    Attributes:
        alignment: `info_nce_loss` between every two content modalities of an item. inner_product: `inner_product_loss`.
        reconstruction: `reconstruction_loss` of every modality. per_modality: in-batch softmax with log Q of the events'
            counts, whatever the main loss is, with one modality's token as the item's embedding, for each content modality.
        category, sentiment: see `towers.item_heads`. adversarial: see `towers.adversarial`.
        l2: mean squared length of fused vectors and of user id vectors. distillation: see `towers.distillation`.
        ranker: see `towers.ranker_distillation`.
        alignment_temperature, adversarial_epsilon, teacher_temperature, ranker_temperature: of the terms of that name.
        rows: events of a batch that the terms look at, at most: their cost does not grow with the batch.
    """

    alignment: float = 0.0
    inner_product: float = 0.0
    reconstruction: float = 0.0
    per_modality: float = 0.0
    category: float = 0.0
    sentiment: float = 0.0
    adversarial: float = 0.0
    l2: float = 0.0
    distillation: float = 0.0
    ranker: float = 0.0
    alignment_temperature: float = 0.1
    adversarial_epsilon: float = 0.1
    teacher_temperature: float = 0.1
    ranker_temperature: float = 1.0
    rows: int = 1024

    @property
    def terms(self) -> dict[str, float]:
        """The terms that are on, by name."""
        numbers = dataclasses.asdict(self)
        return {name: numbers[name] for name in TERMS if numbers[name] > 0}
