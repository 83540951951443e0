"""Which settings differentially private training cannot stand beside."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.settings.encoders import EncodersConfig
from pipeline.settings.linear import LinearSection
from pipeline.settings.retrieval import RetrievalConfig

HISTORIES = ("mean", "attention", "sum", "none")


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


def check_run(data: Any, encoders: EncodersConfig, linear: LinearSection) -> None:
    """Refuse settings of other sections by which events would reach what the towers read or what is served for them.

    Args:
        data: has `k_core` and `anomaly_share`.

    Raises:
        ValueError: names every one of them, its value and what it must be.
    """
    trained, specs = encoders.trained(), encoders.specs()
    _refuse(
        {
            "data.k_core": (data.k_core, 0),
            "data.anomaly_share": (data.anomaly_share, 0.0),
            "linear.parts": (linear.parts, ()),
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
