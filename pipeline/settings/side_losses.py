"""Settings of the terms beside the main loss of the towers."""

from __future__ import annotations

import pydantic

from pipeline.settings.section import Section
from towers.side_weights import SideWeights


class SideLossesConfig(Section):
    """`[retrieval.side]`: weights (0 = off), named and described as in `towers.side_weights.SideWeights`."""

    alignment: float = pydantic.Field(0.0, ge=0)
    inner_product: float = pydantic.Field(0.0, ge=0)
    reconstruction: float = pydantic.Field(0.0, ge=0)
    per_modality: float = pydantic.Field(0.0, ge=0)
    category: float = pydantic.Field(0.0, ge=0)
    sentiment: float = pydantic.Field(0.0, ge=0)
    adversarial: float = pydantic.Field(0.0, ge=0)
    l2: float = pydantic.Field(0.0, ge=0)
    distillation: float = pydantic.Field(0.0, ge=0)
    ranker: float = pydantic.Field(0.0, ge=0)
    """Of the ranker that `retrieval.distill_ranker` names."""
    alignment_temperature: float = pydantic.Field(0.1, gt=0)
    adversarial_epsilon: float = pydantic.Field(0.1, gt=0)
    teacher_temperature: float = pydantic.Field(0.1, gt=0)
    ranker_temperature: float = pydantic.Field(1.0, gt=0)
    ranker_candidates: int = pydantic.Field(32, ge=2)
    """Candidates of every user that the ranker is asked about."""
    rows: int = pydantic.Field(1024, ge=2)
    """Events of a batch that the terms look at, at most."""
    teachers: tuple[str, ...] = ()
    """Folders of trained towers of the same dataset, such as `<run>/retrieval/full`, whose mean score is distilled."""

    @pydantic.model_validator(mode="after")
    def _taught(self) -> SideLossesConfig:
        if self.distillation and not self.teachers:
            raise ValueError("teachers: distillation needs folders of trained towers; name some, or set distillation = 0")
        return self

    def weights(self) -> SideWeights:
        """What the towers' side of it needs."""
        return SideWeights(**self.model_dump(exclude={"teachers", "ranker_candidates"}))
