"""Users whose events look made up: an anomaly score a user, and the strange ones who push an item together."""

from __future__ import annotations

import dataclasses

import numpy as np
import scipy.special

from data.user_traits import user_traits

LEVEL, LIFT = 1e-4, 2.0
"""What makes an item a target: so unlikely a number of strange users who have it, and so many times the expected one."""
FALSE_SHARE = 0.03
"""Of those flagged for a target, the share that may be its honest customers, as estimated."""
TREES, MOST_TARGETS = 200, 50


@dataclasses.dataclass(frozen=True, eq=False)
class Suspects:
    """What `find_suspects` found.

    Attributes:
        score: float64 [user rows], the higher the stranger; -inf for a user without events.
        flagged: bool [user rows]. targets: int [T] item rows that the flagged ones push.
    """

    score: np.ndarray
    flagged: np.ndarray
    targets: np.ndarray


def find_suspects(
    users: np.ndarray,
    items: np.ndarray,
    timestamps: np.ndarray | None = None,
    values: np.ndarray | None = None,
    *,
    share: float,
    user_rows: int,
    item_rows: int,
    seed: int = 0,
) -> Suspects:
    """The users of a log who are strange and agreed.

    Two steps. Each user's traits (`data.user_traits`), compared with what users of about as many events have, give an
    anomaly score by an isolation forest (Liu et al. 2008). But strange people are no liars: among the highest `share` an
    item is looked for that they have far more often than others (`standing_out`), and of those who have it the ones are
    flagged whose scores its honest customers would hardly have (`pushers`); then the next item, without them. This is the
    target item analysis of Zhou et al. (2015), *Detection of abnormal profiles on group attacks in recommender systems*.
    A log without an attack has no such item, and loses nobody.

    Args:
        users, items, timestamps, values: columns [E], see `user_traits`.
        share: of the users that may be fake, by expectation: above 0 and up to 0.5.

    Raises:
        ValueError: a share outside its range.

    Example: two groups of taste, and twenty users of neither who share item 60.
        >>> rng, taste = np.random.default_rng(0), np.repeat(np.arange(400) % 2, 8)
        >>> honest = np.repeat(np.arange(1, 401), 8), 1 + taste * 28 + rng.integers(0, 28, 3200)
        >>> fake = np.repeat(np.arange(401, 421), 9), rng.integers(1, 57, 180)
        >>> fake[1][::9] = 60
        >>> columns = [np.concatenate(pair) for pair in zip(honest, fake)]
        >>> found = find_suspects(*columns, share=0.1, user_rows=421, item_rows=61)
        >>> int(found.flagged[401:].sum()) > 10, int(found.flagged[:401].sum()), found.targets.tolist()
        (True, 0, [60])
    """
    if not 0 < share <= 0.5:
        raise ValueError(f"share: must be above 0 and up to 0.5, received {share}; 0.1 is usual")
    pairs = np.unique(np.stack([np.asarray(users, np.int64), np.asarray(items, np.int64)]), axis=1)
    score, flagged = np.full(user_rows, -np.inf), np.zeros(user_rows, bool)
    per_user = np.bincount(pairs[0], minlength=user_rows)
    active, targets = np.flatnonzero(per_user), []
    suspicious = round(share * len(active))
    if suspicious >= 2:
        from sklearn.ensemble import IsolationForest  # every command reads events, and few look for suspects

        traits = user_traits(users, items, timestamps, values, user_rows=user_rows, item_rows=item_rows, seed=seed)
        traits = like_sized(traits[active], per_user[active])
        score[active] = -IsolationForest(n_estimators=TREES, random_state=seed).fit(traits).score_samples(traits)
        strange = np.zeros(user_rows, bool)
        strange[active[np.argsort(-score[active], kind="stable")[:suspicious]]] = True
        looked_at = np.zeros(item_rows, bool)
        for _ in range(MOST_TARGETS):
            left = pairs[:, ~flagged[pairs[0]]]
            lift = np.where(looked_at, 0.0, standing_out(left, strange, item_rows))
            target = int(lift.argmax())
            if not lift[target]:
                break
            looked_at[target] = True
            # Strange users of another item that stands out are no sample of honest ones: they may push that.
            doubtful = np.zeros(user_rows, bool)
            doubtful[left[0][(lift[left[1]] > 0) & strange[left[0]]]] = True
            pushing = pushers(score, left[0][left[1] == target], np.isfinite(score) & ~flagged & ~doubtful)
            if len(pushing):
                flagged[pushing] = True
                targets.append(target)
    return Suspects(score, flagged, np.array(targets, np.int64))


def like_sized(traits: np.ndarray, events: np.ndarray) -> np.ndarray:
    """Traits [U, F] less what users of so many events [U] have by a quadratic in log n, at a standard deviation of 1."""
    size = np.log(events)
    terms = np.stack([np.ones_like(size), size, size**2], axis=1)
    left = traits - terms @ np.linalg.lstsq(terms, traits, rcond=None)[0]
    return left / np.maximum(left.std(axis=0), 1e-9)


def standing_out(pairs: np.ndarray, strange: np.ndarray, item_rows: int) -> np.ndarray:
    """How many times more often strange users have an item than others, [N + 1]; 0 where that may be chance.

    Formula: of n pairs of strange users k have the item, of m pairs of others k'; expected is `e = n (k' + 1) / (m + N)`.
    It stands out with `P(Poisson(e) >= k) < 1e-4 / N` and `k > 2 e`, by the factor `k / e`.

    Args:
        pairs: users and items, int [2, E], each pair once. strange: bool [user rows].
    """
    by_strange = strange[pairs[0]]
    found = np.bincount(pairs[1][by_strange], minlength=item_rows)
    usual = np.bincount(pairs[1][~by_strange], minlength=item_rows)
    # One event more than seen: an item that only strange users have is still not impossible.
    expected = found.sum() * (usual + 1.0) / (usual.sum() + item_rows)
    sure = (found > 0) & (scipy.special.pdtrc(np.maximum(found - 1, 0), expected) < LEVEL / item_rows)
    return np.where(sure & (found > LIFT * expected), found / np.maximum(expected, 1e-12), 0.0)


def pushers(score: np.ndarray, holders: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Of an item's users, those so strange that few of them are honest by estimate.

    Formula: as many honest users as twice those below the median of everybody else's score (Storey, 2002); of them a
    share passes a threshold as of everybody else; the threshold is the lowest with `honest × share / passed <= 0.03`.

    Args:
        score: [user rows]. holders: int [H] users who have the item. others: bool [user rows], with whom to compare.
    """
    others = others.copy()
    others[holders] = False
    usual = np.sort(score[others])
    if not len(holders) or not len(usual):
        return holders
    ranked = holders[np.argsort(-score[holders], kind="stable")]
    honest = min(2.0 * (score[holders] < np.median(usual)).sum(), len(holders))
    passing = 1.0 - np.searchsorted(usual, score[ranked], side="left") / len(usual)
    good = np.flatnonzero(honest * passing / np.arange(1, len(ranked) + 1) <= FALSE_SHARE)
    return ranked[: good[-1] + 1] if len(good) else ranked[:0]
