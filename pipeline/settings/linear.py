"""Settings of the linear towers that stand beside the two towers."""

from __future__ import annotations

from typing import Annotated, Literal

import pydantic

from pipeline.settings.section import Section

NotNegative = Annotated[float, pydantic.Field(ge=0)]
Part = Literal["closed_form", "spectral", "elsa", "softmax"]


class LinearSection(Section):
    """Item-to-item models over whole histories, joined into one table of `width` and served by the same dot product."""

    parts: tuple[Part, ...] = ("closed_form", "spectral", "elsa", "softmax")
    """Which models take part; validation gives each its weight. Empty = the two towers alone are served."""
    width: int = pydantic.Field(256, ge=2)
    """Width that the joined parts are compressed to, and the widest that any one of them may be."""
    max_items: int = pydantic.Field(20_000, ge=1)
    """With more items in the catalogue the linear towers are left out: their memory grows with its square."""
    refit: bool = False
    """Once everything is chosen, fit the parts again on every split that is known at test time
    (`evaluation.mask_splits`); how often to stop and what to weigh stay as the validation split said."""
    validation_users: int = pydantic.Field(10_000, ge=1)
    l2: tuple[Annotated[float, pydantic.Field(gt=0)], ...] = pydantic.Field((20.0, 60.0, 200.0, 500.0, 1000.0), min_length=1)
    """Ridges of the closed form to choose from; so are the next four."""
    history_dropout: tuple[Annotated[float, pydantic.Field(ge=0, lt=1)], ...] = pydantic.Field((0.0, 0.2, 0.4), min_length=1)
    user_power: tuple[NotNegative, ...] = pydantic.Field((0.0, 0.3, 0.5, 0.8), min_length=1)
    content: tuple[NotNegative, ...] = pydantic.Field((0.0, 0.03, 0.3), min_length=1)
    columns: tuple[NotNegative, ...] = (0.05, 0.1, 0.2, 0.4)
    """Weights of the catalogue's columns; which of them take part is tried with the middle one. Empty = none do."""
    content_edges: float = pydantic.Field(0.2, ge=0, lt=1)
    """Share of the content's edges in the spectral part's graph; it is tried with and without."""
    burst_bound: float = pydantic.Field(0.0, ge=0)
    """How many times its usual week an item's week may count in the closed form and the spectral part, against items pushed
    by fake users (`data.burst_weights`); 0 = every event counts. Neither `refit` nor the trained parts look at it."""
    diffusion: tuple[NotNegative, ...] = pydantic.Field((0.0, 2.0, 5.0), min_length=1)
    """Times of the spectral part's diffusion to choose from."""
    users_per_batch: int = pydantic.Field(512, ge=2)
    epochs: int = pydantic.Field(60, ge=1)
    patience: int = pydantic.Field(6, ge=1)
    """Of the two parts that are trained, `elsa` and `softmax`."""
    elsa_dropout: float = pydantic.Field(0.3, ge=0, lt=1)
    elsa_learning_rate: float = pydantic.Field(0.01, gt=0)
    softmax_dropout: float = pydantic.Field(0.6, ge=0, lt=1)
    softmax_learning_rate: float = pydantic.Field(0.005, gt=0)
    softmax_temperature: float = pydantic.Field(0.2, ge=0.01)
    modality_dropout: float = pydantic.Field(0.2, ge=0, lt=1)
    seed: int = pydantic.Field(7, ge=0)
