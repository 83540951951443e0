"""What another policy would have earned, from a log of what was shown with which probability: IPS, SNIPS and DR.

One logged action is an item that was shown: its reward r, the probability p with which the log's policy showed it, and the
probability π with which the policy in question would. Actions belong to decisions (a page, a request), of which each may
hold several; π and p are then the probabilities of being among the items of the page, and the value is that of the page:
what its items earn together, each for itself, wherever it stands on it. w = min(π / p, clip).

A policy that fills a page place by place knows another p, that of its choice for a place given what it put above. An item
could have come at every place, and 1 / p_j alone would count it once for each; here it stands for `place_weights`.

Every estimate is a ratio of sums over independent groups (users), and its interval that of the linearised ratio:

    se² = Σ_g (n_g − V d_g)² / (Σ_g d_g)²,   V = Σ n_g / Σ d_g,   V ± z se
"""

from __future__ import annotations

import dataclasses
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray


@dataclasses.dataclass(frozen=True)
class LoggedActions:
    """E logged actions of R decisions, with what the policy in question would do.

    Attributes:
        decision: int [E], the decision of each action, in [0, R).
        reward, propensity, target: float [E]; r, p in (0, 1], π in [0, 1].
        group: int [R], whose decision each is (a user row): what belongs to one group is not independent.
        predicted: float [E], a reward model's prediction q of each action's reward; needed by DR.
        expected: float [R], the model's value of each decision under the policy: Σ_a π(a) q(a) over all actions.
        place: int [E], from 1, where p is that of having been chosen for this place given the actions above it; 0 where it is
            that of being among the decision's actions. None = 0 everywhere.

    Raises:
        ValueError: shapes disagree, a probability is out of range, a value is not finite, or a decision has some places and
            lacks others.
    """

    decision: NDArray
    reward: NDArray
    propensity: NDArray
    target: NDArray
    group: NDArray
    predicted: NDArray | None = None
    expected: NDArray | None = None
    place: NDArray | None = None

    def __post_init__(self) -> None:
        count, decisions = len(self.decision), len(self.group)
        for name, length in (("reward", count), ("propensity", count), ("target", count), ("predicted", count),
                             ("expected", decisions), ("place", count)):  # fmt: skip
            values = getattr(self, name)
            if values is None:
                continue
            if np.shape(values) != (length,) or not np.isfinite(values).all():
                raise ValueError(f"{name}: must be {length} finite numbers, received shape {np.shape(values)}")
        if count and not (np.min(self.decision) >= 0 and np.max(self.decision) < decisions):
            raise ValueError(
                f"decision: must lie in [0, {decisions}), received {np.min(self.decision)} to {np.max(self.decision)}"
            )
        if count and not (np.min(self.propensity) > 0 and np.max(self.propensity) <= 1):
            raise ValueError(
                f"propensity: must lie in (0, 1], received {np.min(self.propensity)} to {np.max(self.propensity)}; an "
                "action that could not be logged tells nothing: leave it out"
            )
        if count and not (np.min(self.target) >= 0 and np.max(self.target) <= 1):
            raise ValueError(f"target: must lie in [0, 1], received {np.min(self.target)} to {np.max(self.target)}")
        if self.place is not None:
            placed = np.bincount(self.decision, self.place, minlength=decisions) > 0
            wrong = placed & ~every_place(self.decision, self.place, decisions)
            if wrong.any():
                found = np.sort(self.place[self.decision == np.argmax(wrong)])
                raise ValueError(
                    f"place: must be 1 to n for the n actions of a decision, received {found[:10].tolist()}; leave out pages "
                    "that are not known as a whole"
                )


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A policy's value a decision.

    Attributes:
        value, low, high: the estimate and its interval.
        weight: Σ w a decision; without clipping its mean is the number of actions that the policy takes, and what it falls
            short of that is what the log hardly ever shows.
        effective_actions: (Σ w)² / Σ w²: as many equally weighted actions would tell as much.
        clipped: share of the weight that clipping took away; what it biases downwards.
        influence: float [G], each group's part of the estimate's error, for paired differences.
    """

    value: float
    low: float
    high: float
    weight: float
    effective_actions: float
    clipped: float
    influence: NDArray

    def summary(self) -> dict[str, float]:
        """The figures without the array."""
        names = ("value", "low", "high", "weight", "effective_actions", "clipped")
        return {name: getattr(self, name) for name in names}


def inverse_propensity(log: LoggedActions, *, clip: float | None = None) -> Estimate:
    """IPS: V = 1/R Σ_e w_e r_e. Unbiased without clipping, of high variance where w is large.

    Horvitz & Thompson (1952), https://doi.org/10.1080/01621459.1952.10483446.

    Example: two decisions of which one took the action that the policy always takes, shown with probability 1/2.
        >>> log = LoggedActions(*map(np.array, ([0, 1], [1.0, 1.0], [0.5, 0.5], [1.0, 0.0], [0, 1])))
        >>> inverse_propensity(log).value
        1.0
    """
    weights, removed = _weights(log, clip)
    gained = np.bincount(log.decision, weights * log.reward, minlength=len(log.group))
    return _ratio(log, gained, np.ones(len(log.group)), weights, removed)


def self_normalised(log: LoggedActions, *, actions: float = 1.0, clip: float | None = None) -> Estimate:
    """SNIPS: V = actions · Σ_e w_e r_e / Σ_e w_e. Slightly biased, of less variance, and never beyond the rewards seen.

    Swaminathan & Joachims (2015), https://papers.nips.cc/paper/5748-the-self-normalized-estimator-for-counterfactual-learning.

    Args:
        actions: how many actions the policy takes a decision (items on a page).
    """
    weights, removed = _weights(log, clip)
    gained = np.bincount(log.decision, weights * log.reward * actions, minlength=len(log.group))
    total = np.bincount(log.decision, weights, minlength=len(log.group))
    return _ratio(log, gained, total, weights, removed)


def doubly_robust(log: LoggedActions, *, clip: float | None = None) -> Estimate:
    """DR: V = 1/R Σ_x [Σ_a π(a) q(x, a) + Σ_e w_e (r_e − q_e)]. Unbiased where either p or q is right.

    Dudík, Langford & Li (2011), https://arxiv.org/abs/1103.4601. A weight that is clipped leaves that action more to q.

    Raises:
        ValueError: the log carries no reward model (`predicted`, `expected`).
    """
    if log.predicted is None or log.expected is None:
        raise ValueError(
            "log: doubly robust estimates need `predicted` and `expected`, received none; use IPS or SNIPS"
        )
    weights, removed = _weights(log, clip)
    missed = np.bincount(log.decision, weights * (log.reward - log.predicted), minlength=len(log.group))
    return _ratio(log, log.expected + missed, np.ones(len(log.group)), weights, removed)


def difference(first: Estimate, second: Estimate) -> tuple[float, float, float]:
    """first − second with its interval: two policies on the same log err together, and the pairs know it.

    Returns: difference, low, high.
    """
    if first.influence.shape != second.influence.shape:
        raise ValueError(
            f"first, second: must be of the same groups, received {first.influence.size} and {second.influence.size}"
        )
    gap = first.value - second.value
    half = _half_width(first.influence - second.influence)
    return gap, gap - half, gap + half


def every_place(decision: NDArray, place: NDArray, decisions: int) -> NDArray[np.bool_]:
    """Whether the places of a decision's n actions are 1 to n, each once. [R]

    Example:
        >>> every_place(np.array([0, 0, 1, 1]), np.array([2, 1, 1, 3]), 2).tolist()
        [True, False]
    """
    order = np.lexsort((place, decision))
    owner = np.asarray(decision)[order]
    rank = 1 + np.arange(len(order)) - np.searchsorted(owner, owner)
    return np.bincount(owner[np.asarray(place)[order] != rank], minlength=decisions) == 0


def place_weights(decision: NDArray, propensity: NDArray, place: NDArray) -> NDArray[np.float64]:
    """What an action counts for that was chosen for place j of n with probability p_j given those above it.

        w_j = R_j (1 / p_j + n - j) / (n - j + 1);  R_1 = 1,  R_{j+1} = R_j (n - j) / (n - j + 1),  or R_j where p_j = 1

    Given what stands above place j, its action over p_j and the actions above are together an unbiased estimate of the sum
    over all actions, whatever stands above: the mean over the places is Des Raj's, here w_j = (1 / p_j + n - j) / n. A place
    that left nothing to chance tells of no other action, so its share goes to the places below it; a page without any chance
    counts each action once. As with any weights, what could stand at no place is not told of.

    Paper: Des Raj, "Some Estimators in Sampling with Varying Probabilities without Replacement", JASA 1956.

    Args:
        decision, propensity, place: [E], see `LoggedActions`; places as `every_place` wants them.

    Example:
        >>> place_weights(np.array([0, 0]), np.array([0.5, 0.25]), np.array([1, 2])).tolist()
        [1.5, 2.0]
    """
    inverse, size = 1 / np.asarray(propensity, np.float64), np.bincount(decision)
    weights, left = np.ones(len(inverse)), np.ones(len(size))
    for number in range(1, int(np.max(place, initial=0)) + 1):
        at = np.flatnonzero(np.asarray(place) == number)
        owner = decision[at]
        below = size[owner] - number
        weights[at] = left[owner] * (inverse[at] + below) / (below + 1)
        left[owner] *= np.where(inverse[at] > 1, below / (below + 1), 1.0)
    return weights


def _weights(log: LoggedActions, clip: float | None) -> tuple[NDArray[np.float64], float]:
    """Importance weights, and the share of their sum that clipping took away."""
    if clip is not None and not clip > 0:
        raise ValueError(f"clip: must be above 0, or None for no clipping, received {clip}")
    inverse = 1 / np.asarray(log.propensity, np.float64)
    if log.place is not None:
        inverse = np.where(log.place > 0, place_weights(log.decision, log.propensity, log.place), inverse)
    whole = np.asarray(log.target, np.float64) * inverse
    weights = whole if clip is None else np.minimum(whole, clip)
    return weights, float(1 - weights.sum() / whole.sum()) if whole.sum() > 0 else 0.0


def _ratio(log: LoggedActions, above: NDArray, below: NDArray, weights: NDArray, removed: float) -> Estimate:
    _, owner = np.unique(log.group, return_inverse=True)
    gained, total = np.bincount(owner, above), np.bincount(owner, below)
    squares, mean = float(np.square(weights).sum()), float(weights.sum() / max(len(log.group), 1))
    effective = float(weights.sum()) ** 2 / squares if squares > 0 else 0.0
    if not total.sum() > 0:
        nothing = float("nan")
        return Estimate(nothing, nothing, nothing, mean, effective, removed, np.full(len(total), nothing))
    value = float(gained.sum() / total.sum())
    influence = (gained - value * total) / total.sum()
    half = _half_width(influence)
    return Estimate(value, value - half, value + half, mean, effective, removed, influence)


def _half_width(influence: NDArray) -> float:
    """Of the 95 % interval."""
    return NormalDist().inv_cdf(0.975) * float(np.sqrt(np.square(influence).sum()))
