"""The settings of a re-ranking policy: every weight is an input of the graph, and this says what it means and may be."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping

BOUNDS: dict[str, tuple[float, float]] = {
    "freshness": (-10.0, 10.0),
    "freshness_days": (1e-3, 36_500.0),
    "popularity": (-10.0, 10.0),
    "calibration": (0.0, 10.0),
    "group_boost": (-10.0, 10.0),
    "group_share": (0.0, 1.0),
    "significance": (0.0, 0.5),
    "creator_cap": (0.0, 1000.0),
    "category_cap": (0.0, 1000.0),
    "mmr_lambda": (0.0, 1.0),
    "dpp": (0.0, 10.0),
    "epsilon": (0.0, 1.0),
    "thompson": (0.0, 10.0),
}
"""Least and greatest value of every weight."""


@dataclasses.dataclass(frozen=True)
class Policy:
    """What happens to ranked candidates before they are shown; the defaults change nothing.

    Weights that are added to a score are in units of the request's own range of scores (best minus worst candidate), so
    that they mean the same whatever a score's scale is.

    Attributes:
        freshness, freshness_days: adds `freshness * exp(-age / freshness_days)`.
        popularity: subtracts `popularity * ln(1 + events of the item)`.
        calibration: pulls the share of popular, middling and rare items on the page towards the user's own history.
        group_boost: adds this to items of the protected group.
        group_share, significance: least share of the protected group in every prefix of the page, by the test of FA*IR;
            significance 0.5 asks for about the share itself, 0.1 for what is not significantly less.
        creator_cap, category_cap: most items of one creator or category on a page; 0 = no cap.
        mmr_lambda: relevance against likeness to the rest of the page; 1 = relevance alone.
        dpp: strength of the determinantal diversity; 0 = none.
        epsilon: share of places given to any candidate at random.
        thompson: how far scores are drawn from what is uncertain about them; 1 = one standard deviation, 0 = not.

    Raises:
        ValueError: a weight out of its bounds, or that is not a number.

    Example:
        >>> policy = Policy(mmr_lambda=0.8, creator_cap=2)
        >>> Policy.from_json(policy.to_json()) == policy, policy.with_weights({"dpp": 0.1}).dpp
        (True, 0.1)
    """

    freshness: float = 0.0
    freshness_days: float = 14.0
    popularity: float = 0.0
    calibration: float = 0.0
    group_boost: float = 0.0
    group_share: float = 0.0
    significance: float = 0.5
    creator_cap: float = 0.0
    category_cap: float = 0.0
    mmr_lambda: float = 1.0
    dpp: float = 0.0
    epsilon: float = 0.0
    thompson: float = 0.0

    def __post_init__(self) -> None:
        for name, (least, greatest) in BOUNDS.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                raise ValueError(f"{name}: must be a finite number, received {value!r}")
            if not least <= value <= greatest:
                raise ValueError(f"{name}: must lie between {least:g} and {greatest:g}, received {value:g}")
            object.__setattr__(self, name, float(value))

    def weights(self) -> dict[str, float]:
        """Every weight by its name, in one order."""
        return {name: getattr(self, name) for name in BOUNDS}

    def with_weights(self, changes: Mapping[str, float]) -> Policy:
        """The same with some weights changed.

        Raises:
            ValueError: a name that is no weight, or a value out of bounds.
        """
        unknown = sorted(set(changes) - set(BOUNDS))
        if unknown:
            raise ValueError(f"policy: weights are {', '.join(BOUNDS)}, received {', '.join(map(repr, unknown))}")
        return dataclasses.replace(self, **changes)

    def to_json(self) -> str:
        return json.dumps(self.weights(), indent=2)

    @classmethod
    def from_json(cls, text: str) -> Policy:
        return cls().with_weights(json.loads(text))
