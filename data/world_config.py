"""The dials of the generated worlds: how big they are, how strong each cause of choice is, how much is missing."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, get_args

Kind = Literal["music", "shop", "video"]
KINDS: tuple[str, ...] = get_args(Kind)
FACTORS = ("text", "picture", "sound", "hidden")
"""The latent factors in the order of their axis: three are each visible in one place, the last only in behaviour.

In a shop, where nothing sounds, the third is what reviews speak of."""
STYLES = 6
"""Styles of every factor; each has its own words, drawings or instruments."""
END = 1_767_225_600
"""Midnight after the last day, UTC seconds: 2026-01-01. Fixed, so that the same seed gives the same bytes any day."""
DAY = 86_400
SIZES: dict[str, dict[str, Any]] = {
    "music": {},
    "shop": {"items": 900, "users": 1500, "events": 60_000, "price_strength": 0.8, "chinese_share": 0.2},
    "video": {"items": 600, "users": 1200, "events": 48_000, "price_strength": 0.0, "freshness_strength": 1.4},
}
"""What differs from the defaults of `WorldConfig` in each kind of world."""


@dataclasses.dataclass(frozen=True)
class WorldConfig:
    """Sizes and strengths of a generated world; every strength is in units of the choice logit.

    A user chooses item i on day t with Gumbel noise of scale 1 over
    `sum_f strength_f w_uf <taste_uf(t), style_if> + appeal_i + domain_ui + price_ui + freshness_i(t) + hour_ui(t)`.

    Attributes:
        kind: `music` (a record shop, the demo), `shop` (goods) or `video` (short videos).
        seed: the only source of randomness.
        items, users, events, days: sizes, each met exactly.
        text_strength, picture_strength, sound_strength, hidden_strength: weight of each latent factor.
        weight_spread: how much users differ in what they care for (log standard deviation of w_uf).
        taste_concentration: Dirichlet parameter of a user's taste over the styles; smaller is sharper.
        style_softness: share of an item's style vector that is not its main style, on average.
        profile_hint: factor by which a profile value raises the Dirichlet parameter of one style.
        drift: share of the taste that has been exchanged for another one by the last day.
        appeal: standard deviation of the items' intrinsic appeal (the long tail).
        domain_strength, price_strength, freshness_strength, hour_strength: the other causes of choice.
        freshness_days: e-folding time of the freshness boost.
        activity_spread: log standard deviation of the users' activity.
        minimum_events: the least number of events of a user.
        session_events: mean number of events of a user on a day with any.
        late_share: share of users who join after day 0, evenly over the rest of the days.
        newcomer_share: share of users who join in the last tenth of the days.
        released_share: share of the items that exist on day 0; the rest come evenly day by day.
        second_share: share of items in the second of the two domains.
        chinese_share: share of items with Chinese text.
        missing_text, missing_picture, missing_sound: share of items without that modality (in a shop: without reviews and
            material); an item lacks at most one.
        midi_share: share of the tracks that sound only as MIDI (in a record shop).
        skip_share, purchase_share, like_share: share of each outcome over all events; the rest are views.
        test_share: the last share of the days, in the middle of which the oracle's preference is taken.

    Raises:
        ValueError: a size or a share that no world can have.
    """

    kind: Kind = "music"
    seed: int = 7
    items: int = 1500
    users: int = 2500
    events: int = 120_000
    days: int = 90
    text_strength: float = 4.5
    picture_strength: float = 4.5
    sound_strength: float = 4.5
    hidden_strength: float = 2.5
    weight_spread: float = 0.15
    taste_concentration: float = 0.08
    style_softness: float = 0.06
    profile_hint: float = 2.5
    drift: float = 0.15
    appeal: float = 0.7
    domain_strength: float = 0.8
    price_strength: float = 0.5
    freshness_strength: float = 1.0
    hour_strength: float = 0.4
    freshness_days: float = 4.0
    activity_spread: float = 0.6
    minimum_events: int = 5
    session_events: float = 3.0
    late_share: float = 0.2
    newcomer_share: float = 0.02
    released_share: float = 0.5
    second_share: float = 0.3
    chinese_share: float = 0.15
    missing_text: float = 0.08
    missing_picture: float = 0.08
    missing_sound: float = 0.08
    midi_share: float = 0.05
    skip_share: float = 0.17
    purchase_share: float = 0.09
    like_share: float = 0.24
    test_share: float = 0.15

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind: must be among {KINDS}, received {self.kind!r}")
        for name in ("items", "users", "events", "days", "minimum_events"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: must be at least 1, received {getattr(self, name)}; give a positive size")
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if (field.name.endswith("_share") or field.name.startswith("missing_")) and not 0 <= value <= 1:
                raise ValueError(f"{field.name}: must be between 0 and 1, received {value}; give a share")
        for name in ("taste_concentration", "freshness_days", "session_events", "profile_hint"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name}: must be positive, received {getattr(self, name)}; give a larger value")
        missing = self.missing_text + self.missing_picture + self.missing_sound
        if missing > 1:
            raise ValueError(f"missing_*: must sum to at most 1 as an item lacks one at most, received {missing:.3f}")
        if self.skip_share + self.purchase_share + self.like_share > 1:
            raise ValueError("skip_share, purchase_share, like_share: must sum to at most 1; lower one of them")
        if self.events < self.users * self.minimum_events:
            raise ValueError(
                f"events: must be at least users * minimum_events = {self.users * self.minimum_events}, "
                f"received {self.events}; ask for more events or fewer users"
            )
        if self.most_events < self.minimum_events:
            raise ValueError(
                f"items: half of them, and those of day 0, must be at least minimum_events = {self.minimum_events}, "
                f"received items={self.items}, released_share={self.released_share:g}; ask for more items"
            )
        if self.events > self.users * self.most_events:
            raise ValueError(
                f"events: must be at most users * {self.most_events} (half of the items, or those of day 0), "
                f"received {self.events}; ask for fewer events or more items"
            )

    @property
    def most_events(self) -> int:
        """The most events of a user: half of the items, and no more than exist on day 0."""
        return int(self.items * min(0.5, self.released_share))

    @property
    def start(self) -> int:
        """Midnight of day 0, UTC seconds."""
        return END - self.days * DAY

    @property
    def strengths(self) -> tuple[float, ...]:
        """Factor strengths in the order of `FACTORS`."""
        return (self.text_strength, self.picture_strength, self.sound_strength, self.hidden_strength)

    @property
    def oracle_day(self) -> float:
        """The middle of the last `test_share` of the days."""
        return self.days * (1 - self.test_share / 2)


def world_config(kind: str = "music", **changes: Any) -> WorldConfig:
    """The settings of a kind of world, with changes; None leaves a setting as it is.

    Example:
        >>> world_config("shop", events=20_000).items
        900
    """
    given = {name: value for name, value in changes.items() if value is not None}
    return WorldConfig(kind=kind, **{**SIZES.get(kind, {}), **given})  # type: ignore[arg-type]
