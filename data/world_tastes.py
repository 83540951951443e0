"""What the world is made of and nobody sees: item styles, user tastes, and the true preference they imply."""

from __future__ import annotations

import dataclasses

import numpy as np

from data.world_config import DAY, FACTORS, STYLES, WorldConfig

AGES = ("18-24", "25-34", "35-44", "45-59", "60+")
COUNTRIES = {"BR": -3, "CN": 8, "DE": 1, "GB": 0, "IN": 5, "JP": 9, "NG": 1, "US": -6}
"""Country of a user and its hours from UTC, which turn a timestamp into the local hour."""
TIERS = ("free", "plus", "collector")
PRICE_SENSITIVITY = np.array([1.6, 1.0, 0.2])
"""Relative to `price_strength`, in the order of `TIERS`."""


@dataclasses.dataclass(frozen=True)
class Tastes:
    """Latent causes of every choice; I items, U users, 4 factors, S styles.

    Attributes:
        style: main style of each item and factor, int8 [I, 4]: the one that is written, painted or played.
        factors: softened one-hot styles, float64 [I, 4, S], each summing to 1.
        appeal: intrinsic appeal of an item, [I].
        domain: 0 or 1: which of the two domains, [I].
        price: in the shop's currency, [I].
        release: day an item comes out, int64 [I]; negative days lie before the log.
        weight: how much each user cares for each factor, strengths included, [U, 4].
        early, late: tastes before and after the drift, [U, 4, S], each summing to 1.
        lean: pull towards the second domain (positive) or the first (negative), [U].
        age, country, tier: profile codes, [U].
        join: first day of a user, [U].
    """

    config: WorldConfig
    style: np.ndarray
    factors: np.ndarray
    appeal: np.ndarray
    domain: np.ndarray
    price: np.ndarray
    release: np.ndarray
    weight: np.ndarray
    early: np.ndarray
    late: np.ndarray
    lean: np.ndarray
    age: np.ndarray
    country: np.ndarray
    tier: np.ndarray
    join: np.ndarray

    def taste(self, day: float, users: np.ndarray | slice = slice(None)) -> np.ndarray:
        """Tastes on a day, [B, 4, S]: a straight line from `early` to `drift` of the way to `late`."""
        moved = self.config.drift * day / self.config.days
        return (1 - moved) * self.early[users] + moved * self.late[users]

    def match(self, day: float, users: np.ndarray | slice = slice(None)) -> np.ndarray:
        """Preference from the four factors alone, [B, I]: `sum_f w_uf <taste_uf, factor_if>`."""
        scaled = self.weight[users][..., None] * self.taste(day, users)
        # Widths are written out: nobody may come on a day, and -1 cannot be inferred from an empty array.
        width = len(FACTORS) * STYLES
        return scaled.reshape(-1, width) @ self.factors.reshape(-1, width).T

    def affordability(self, users: np.ndarray | slice = slice(None)) -> np.ndarray:
        """Pull of a low price on price-sensitive tiers, [B, I], mean about 0 over items."""
        level = np.log(self.price)
        level = (level - level.mean()) / max(level.std(), 1e-9)
        return -PRICE_SENSITIVITY[self.tier[users]][:, None] * level[None, :]

    def preference(self, day: float, users: np.ndarray | slice = slice(None)) -> np.ndarray:
        """Expected choice logit without noise, freshness and hour, [B, I]: the oracle's score."""
        side = np.where(self.domain == 1, 1.0, -1.0)
        return (
            self.match(day, users)
            + self.appeal[None, :]
            + self.lean[users][:, None] * side[None, :]
            + self.config.price_strength * self.affordability(users)
        )

    @property
    def created_at(self) -> np.ndarray:
        """Release of each item, UTC seconds at midnight, int64 [I]."""
        return self.config.start + self.release.astype(np.int64) * DAY


def draw_tastes(config: WorldConfig) -> Tastes:
    """Draws every latent quantity of a world; all factors are independent of each other and of the columns.

    Args:
        config: sizes and strengths.

    Returns:
        `Tastes`, the same for the same config.
    """
    rng = np.random.default_rng([config.seed, 1])
    items, users, count = config.items, config.users, len(FACTORS)
    style = rng.integers(0, STYLES, (items, count)).astype(np.int8)
    soft = rng.beta(1.5, 1.5 / max(config.style_softness, 1e-6) - 1.5, (items, count, 1))
    rest = rng.dirichlet(np.full(STYLES, 0.5), (items, count))
    factors = (1 - soft) * np.eye(STYLES)[style] + soft * rest

    old = round(items * config.released_share)
    before = np.sort(-1 - np.floor(730 * rng.random(old) ** 1.5)).astype(np.int64)
    new = np.floor(np.arange(items - old) * config.days / max(items - old, 1)).astype(np.int64)
    price = np.round(np.exp(rng.normal(2.6, 0.45, items)).clip(4, 60)) - 0.01

    age = rng.choice(len(AGES), users, p=[0.22, 0.28, 0.2, 0.18, 0.12])
    country = rng.integers(0, len(COUNTRIES), users)
    tier = rng.choice(len(TIERS), users, p=[0.55, 0.33, 0.12])
    # A profile value tilts the prior of one style, so that profiles help a new user a little and never tell the taste.
    alpha = np.full((users, count, STYLES), config.taste_concentration)
    hints = ((0, age), (1, country), (2, age + 3), (2, country + 1))
    for factor, code in hints:
        alpha[np.arange(users), factor, code % STYLES] *= config.profile_hint

    order = rng.permutation(users)
    late, newcomers = int(users * config.late_share), max(1, int(users * config.newcomer_share))
    join = np.zeros(users, np.int64)
    join[order[:late]] = rng.integers(0, config.days, late)
    join[order[late : late + newcomers]] = config.days - 1 - rng.integers(0, max(1, config.days // 10), newcomers)
    return Tastes(
        config=config,
        style=style,
        factors=factors,
        appeal=rng.normal(0, config.appeal, items),
        domain=(rng.random(items) < config.second_share).astype(np.int64),
        price=price,
        release=np.concatenate([before, new]),
        weight=np.array(config.strengths) * np.exp(rng.normal(0, config.weight_spread, (users, count))),
        early=_dirichlet(rng, alpha),
        late=_dirichlet(rng, alpha),
        lean=config.domain_strength * rng.normal(-0.4, 1, users),
        age=age,
        country=country,
        tier=tier,
        join=join,
    )


def _dirichlet(rng: np.random.Generator, alpha: np.ndarray) -> np.ndarray:
    """Dirichlet draws over the last axis, each with parameters of its own."""
    # The floor keeps a row whose gammas all underflow from dividing 0 by 0.
    gamma = rng.standard_gamma(alpha) + 1e-12
    return gamma / gamma.sum(-1, keepdims=True)
