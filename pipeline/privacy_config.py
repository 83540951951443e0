"""Settings of differentially private training of the two towers, and which others it cannot stand beside."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import pydantic

from pipeline.config_section import Section

if TYPE_CHECKING:
    from pipeline.config import Config
    from pipeline.retrieval_config import RetrievalConfig

HISTORIES = ("mean", "attention", "sum", "none")


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


def check_retrieval(config: RetrievalConfig) -> None:
    """Refuse settings of `[retrieval]` by which one user's events would reach another's gradient, or the weights unclipped.

    Raises:
        ValueError: names every one of them, its value and what it must be.
    """
    loss = config.loss
    _refuse(
        {
            "retrieval.user_id": (config.user_id, False),
            "retrieval.history": (config.history, HISTORIES),
            "retrieval.dropout": (config.dropout, 0.0),
            "retrieval.loss.kind": (loss.kind, "softmax"),
            "retrieval.loss.negatives": (loss.negatives, "catalogue"),
            "retrieval.loss.memory": (loss.memory, 0),
            "retrieval.loss.hardest": (loss.hardest, 0),
            "retrieval.loss.exclude_positives": (loss.exclude_positives, False),
            "retrieval.loss.event_weights": (loss.event_weights, {}),
            "retrieval.loss.products": (loss.products, "float32"),
            "retrieval.side": (config.side.weights().terms, {}),
            "retrieval.distill_ranker": (config.distill_ranker, ""),
            "retrieval.sparse_updates": (config.sparse_updates, ("auto", False)),
            "retrieval.accumulation": (config.accumulation, 1),
            "retrieval.precision": (config.precision, "float32"),
        }
    )


def check_run(config: Config) -> None:
    """Refuse settings of other sections by which events would reach what the towers read or what is served for them.

    Raises:
        ValueError: names every one of them, its value and what it must be.
    """
    trained, specs = config.encoders.trained(), config.encoders.specs()
    _refuse(
        {
            "data.k_core": (config.data.k_core, 0),
            "data.anomaly_share": (config.data.anomaly_share, 0.0),
            "linear.parts": (config.linear.parts, ()),
            **{f"encoders.{name}.train": (part.train, "frozen") for name, part in trained.items()},
            # Encoders that an earlier run has taught by events.
            **{f"encoders.{name}": (spec, "one that no events taught") for name, spec in specs.items() if "tuned:" in spec},
        }
    )


def _refuse(settings: Mapping[str, tuple[Any, Any]]) -> None:
    """Settings are {name: (value, the value that is needed, or a tuple of those that will do)}."""
    wrong = []
    for name, (value, needed) in settings.items():
        if value != needed and not (isinstance(needed, tuple) and needed and value in needed):
            wanted = " or ".join(map(repr, needed)) if isinstance(needed, tuple) and needed else repr(needed)
            wrong.append(f"{name} must be {wanted}, received {value!r}")
    if wrong:
        raise ValueError(
            f"retrieval.privacy.epsilon: with privacy {'; '.join(wrong)}. Set what is named (configs/private.toml has all), "
            f"or epsilon to 0"
        )
