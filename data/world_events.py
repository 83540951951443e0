"""The log of the demo world: who comes on which day, what they choose, and how it went."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from data.world_config import DAY, WorldConfig
from data.world_tastes import COUNTRIES, Tastes

OUTCOMES = ("view", "like", "purchase", "skip")
HOURS = np.array([1, 1, 1, 1, 1, 2, 4, 7, 8, 6, 5, 5, 6, 5, 4, 4, 5, 7, 9, 11, 12, 11, 7, 3], float)
"""Relative traffic by local hour."""


def simulate_events(tastes: Tastes, progress: Callable[[int, int], None] | None = None) -> dict[str, np.ndarray]:
    """Plays the days in order: visits, Gumbel-top-n choices among released and unconsumed items, then outcomes.

    Choosing the n largest of `logit + Gumbel` is drawing n items without replacement with softmax probabilities
    (Kool et al., 2019, "Stochastic Beams and Where to Find Them").

    Args:
        tastes: the latent world.
        progress: called with (days done, days).

    Returns:
        Columns over E events in time order: `user`, `item` (0-based), `timestamp`, `hour` (local), `event` (index in
        `OUTCOMES`), `match` (how well item and user go together, standardised), `propensity` (see `choose`). No pair
        occurs twice and no event precedes its item's release.
    """
    config = tastes.config
    rng = np.random.default_rng([config.seed, 2])
    visits = plan_visits(tastes, rng)
    free = np.ones((config.users, config.items), bool)
    side = np.where(tastes.domain == 1, 1.0, -1.0)
    offsets = np.array(list(COUNTRIES.values()))[tastes.country]
    days = []
    for day in range(config.days):
        active = np.flatnonzero(visits[:, day])
        hour = rng.choice(24, len(active), p=HOURS / HOURS.sum())
        age = day - tastes.release
        released = np.flatnonzero(age >= 0)
        fresh = config.freshness_strength * np.exp(-np.maximum(age, 0) / config.freshness_days)
        morning = np.where((hour >= 6) & (hour < 11), 1.0, -0.3)
        logits = tastes.preference(day, active) + fresh + config.hour_strength * morning[:, None] * side
        allowed = free[np.ix_(active, released)]
        noise = rng.gumbel(size=allowed.shape)
        wanted = np.minimum(visits[active, day], allowed.sum(1))
        row, place, column, propensity = choose(logits[:, released], noise, allowed, wanted)
        item = released[column]
        user = active[row]
        free[user, item] = False
        # Events of a visit share its hour and follow each other; the UTC hour of the day comes from the country.
        second = np.floor((place + rng.random(len(place))) * 3600 / np.maximum(wanted[row], 1)).astype(np.int64)
        utc = (hour[row] - offsets[user]) % 24
        days.append(
            {
                "user": user,
                "item": item,
                "timestamp": config.start + day * DAY + utc * 3600 + second,
                "hour": hour[row],
                "match": tastes.match(day, active)[row, item],
                "affordability": tastes.affordability(active)[row, item],
                "propensity": propensity,
            }
        )
        if progress is not None:
            progress(day + 1, config.days)
    log = {name: np.concatenate([part[name] for part in days]) for name in days[0]}
    order = np.lexsort((log["item"], log["user"], log["timestamp"]))
    log = {name: column[order] for name, column in log.items()}
    log["match"] = (log["match"] - log["match"].mean()) / max(log["match"].std(), 1e-9)
    log["event"] = draw_outcomes(config, rng, log["match"], log.pop("affordability"), log["hour"])
    return log


def choose(
    logits: np.ndarray, noise: np.ndarray, allowed: np.ndarray, wanted: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The `wanted` largest of `logit + noise` of every line, and how probable it was that each would be among them.

    Given the threshold t, the largest key left out, an item is in with probability `P(logit + Gumbel > t)`, and sums over
    chosen items of `f / p` are unbiased for the sum of f over all (Kool et al., 2020, "Estimating Gradients for Discrete
    Random Variables by Sampling without Replacement"):

        p = 1 - exp(-exp(logit - t)),   1 where nothing was left out

    Args:
        logits, noise, allowed: [V, I]. wanted: [V], at most the allowed.

    Returns:
        Line, place (from 0, largest first), column and p of every choice, each [E].
    """
    keys = np.where(allowed, logits + noise, -np.inf)
    most = int(wanted.max(initial=0))
    depth = min(most + 1, keys.shape[1])
    # Partition first: sorting all keys would take half of the simulation's time.
    top = np.argpartition(-keys, min(most, keys.shape[1] - 1), axis=1)[:, :depth]
    found = np.take_along_axis(keys, top, 1)
    order = np.argsort(-found, axis=1)
    top, found = np.take_along_axis(top, order, 1), np.take_along_axis(found, order, 1)
    line, place = np.nonzero(np.arange(most) < wanted[:, None])
    column = top[line, place]
    beyond = np.pad(found, ((0, 0), (0, 1)), constant_values=-np.inf)[np.arange(len(keys)), np.minimum(wanted, depth)]
    surplus = np.minimum(logits[line, column] - beyond[line], 50.0)
    return line, place, column, np.maximum(-np.expm1(-np.exp(surplus)), 1e-6)


def plan_visits(tastes: Tastes, rng: np.random.Generator) -> np.ndarray:
    """How many items each user takes on each day, int64 [users, days].

    Activity is log-normal and proportional to the days since joining; nobody takes more than half of the items or
    more than exist on day 0, so that every visit can be served.
    """
    config = tastes.config
    here = config.days - tastes.join
    activity = np.exp(rng.normal(0, config.activity_spread, config.users)) * here
    base = config.minimum_events
    total = base + rng.multinomial(config.events - base * config.users, activity / activity.sum())
    # What would exceed a user's share of the catalogue goes to those who have room; each round fills some or ends.
    while (excess := int(np.maximum(total - config.most_events, 0).sum())) > 0:
        total = np.minimum(total, config.most_events)
        willing = activity * (total < config.most_events)
        total = total + rng.multinomial(excess, willing / willing.sum())
    visits = np.zeros((config.users, config.days), np.int64)
    for user in range(config.users):
        sessions = max(1, round(total[user] / config.session_events))
        days = tastes.join[user] + rng.integers(0, here[user], sessions)
        # Weekends draw more people: some visits move back to the Saturday before (the epoch's day 2 was a Saturday).
        back = (config.start // DAY + days - 2) % 7
        move = (rng.random(sessions) < 0.15) & (days - back >= tastes.join[user])
        days = np.where(move, days - back, days)
        np.add.at(visits[user], rng.choice(days, total[user]), 1)
    return visits


def draw_outcomes(
    config: WorldConfig, rng: np.random.Generator, match: np.ndarray, affordability: np.ndarray, hour: np.ndarray
) -> np.ndarray:
    """Outcome of every event, index in `OUTCOMES`, int8 [E].

    skip ~ sigmoid(a - 1.6 z); then purchase ~ sigmoid(b + 0.9 z + 0.8 affordability + 0.4 evening); then
    like ~ sigmoid(c + 0.8 z), where z is the standardised match; a, b, c meet the shares of the config.
    """
    z = (match - match.mean()) / max(match.std(), 1e-9)
    evening = ((hour >= 18) & (hour < 23)).astype(float)
    skip = calibrated(-1.6 * z, np.ones_like(z), config.skip_share)
    keep = 1 - skip
    buy = calibrated(0.9 * z + 0.8 * affordability + 0.4 * evening, keep, config.purchase_share)
    like = calibrated(0.8 * z, keep * (1 - buy), config.like_share)
    edges = np.cumsum([skip, keep * buy, keep * (1 - buy) * like], axis=0)
    choice = (rng.random(len(z)) >= edges).sum(0)
    return np.array([3, 2, 1, 0], np.int8)[choice]


def calibrated(logit: np.ndarray, weight: np.ndarray, share: float) -> np.ndarray:
    """`sigmoid(logit + c)` with c such that `mean(weight * sigmoid) = share`, by bisection."""
    low, high = -40.0, 40.0
    for _ in range(60):
        middle = (low + high) / 2
        if (weight / (1 + np.exp(-(logit + middle)))).mean() < share:
            low = middle
        else:
            high = middle
    return 1 / (1 + np.exp(-(logit + (low + high) / 2)))
