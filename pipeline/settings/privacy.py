"""Settings of differentially private training of the two towers."""

from __future__ import annotations

from typing import Literal

import pydantic

from pipeline.settings.section import Section


class PrivacySection(Section):
    """`[retrieval.privacy]`: DP-SGD with a user as the unit of privacy. `retrieval.batch_size` then counts the users of a
    step, on average, and an epoch meets each user once, on average."""

    epsilon: float = pydantic.Field(0.0, ge=0)
    """What all steps of one training may spend together; 0 = no privacy. `configs/private.toml` is a whole example."""
    delta: float | Literal["auto"] = "auto"
    """Chance that the promise does not hold; "auto" = 1 / number of users, rounded down to one digit."""
    clip: float = pydantic.Field(1.0, gt=0)
    """Longest gradient that a user may add to a step."""
    events_per_user: int = pydantic.Field(16, ge=1)
    """Positive events that a user brings to a step, a random choice; they share the user's one clipped gradient."""
    block: int = pydantic.Field(64, ge=1)
    """Users whose gradients are in memory at a time: that many times the number of weights, and of a catalogue's vectors."""

    @pydantic.field_validator("delta")
    @classmethod
    def _delta_is_a_chance(cls, delta: float | str) -> float | str:
        if not isinstance(delta, str) and not 0 < delta < 1:
            raise ValueError(f'delta: must be "auto" or lie between 0 and 1, received {delta}')
        return delta
