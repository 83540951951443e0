"""Settings of re-ranking: the weights a release starts from, and what creators, groups and floors are in this data."""

from __future__ import annotations

from typing import Literal

import pydantic

from pipeline.settings.section import Section
from ranking.policy import BOUNDS, Policy


class PolicySection(Section):
    """`[policy]`: weights are those of `ranking.policy.Policy`, which says what each means; a request may name others."""

    freshness: float = 0.0
    freshness_days: float = 14.0
    popularity: float = 0.0
    calibration: float = 0.0
    group_boost: float = 0.0
    group_share: float = 0.0
    significance: float = 0.5
    creator_cap: float = 0.0
    category_cap: float = 0.0
    mmr_lambda: float | Literal["auto"] = "auto"
    """"auto" = the most diversity that costs at most `diversity_cost` of NDCG@10 on visits that the ranker was held from."""
    dpp: float = 0.0
    epsilon: float = 0.0
    thompson: float = 0.0

    diversity_cost: float = pydantic.Field(0.02, ge=0, lt=1)
    """Share of NDCG@10, visit by visit, that diversity may cost there: on the last days of the validation split, as the ranker
    saw them before it learned from them."""
    creator: str = "creator"
    """Item attribute that `creator_cap` counts; where the data has none of that name, there is no cap."""
    category: str = "category"
    """The same for `category_cap`."""
    protected: str = "rare"
    """The protected group of items: "rare" (the least popular, a fifth of all events), "new" (never in training), or an
    attribute's value, as in "domain=indie"."""
    user_groups: str = ""
    """Profile column whose groups of users are compared; empty = the first with groups enough."""
    user_floors: dict[str, float] = pydantic.Field(default_factory=dict)
    """Least share of the protected items that users of these groups are shown, as in `{ teen = 0.2 }`; needs `user_groups`."""

    @pydantic.model_validator(mode="after")
    def _known_to_the_policy(self) -> PolicySection:
        self.weights()
        if self.user_floors and not self.user_groups:
            raise ValueError("user_floors: need user_groups, the column whose values they name")
        wrong = {name: share for name, share in self.user_floors.items() if not 0 <= share <= 1}
        if wrong:
            raise ValueError(f"user_floors: must be shares in [0, 1], received {wrong}")
        return self

    def weights(self, mmr_lambda: float = 1.0) -> Policy:
        """The policy; an "auto" lambda is the given one."""
        named = {name: getattr(self, name) for name in BOUNDS}
        return Policy(**{**named, "mmr_lambda": mmr_lambda if self.mmr_lambda == "auto" else self.mmr_lambda})
