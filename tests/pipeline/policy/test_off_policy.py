"""Off-policy estimates on bandits whose true values are known by enumeration."""

import itertools

import numpy as np
import pytest

from pipeline.policy.off_policy import (
    LoggedActions,
    difference,
    doubly_robust,
    inverse_propensity,
    place_weights,
    self_normalised,
)

CONTEXTS, ACTIONS = 6, 5
WORLD = np.random.default_rng(5)
CHANCE = WORLD.uniform(0.1, 0.9, (CONTEXTS, ACTIONS))
"""P(reward | context, action), the truth."""


def softmax(logits):
    exponent = np.exp(logits)
    return exponent / exponent.sum(axis=-1, keepdims=True)


LOGGED = softmax(WORLD.normal(size=(CONTEXTS, ACTIONS)))
WANTED = softmax(3 * CHANCE)
VALUE = float((WANTED * CHANCE).sum(axis=1).mean())


def simulate(rng, decisions, *, propensity=LOGGED, model=None, target=WANTED):
    context = rng.integers(0, CONTEXTS, decisions)
    uniform = rng.random(decisions)
    action = (uniform[:, None] > LOGGED[context].cumsum(axis=1)).sum(axis=1)
    reward = (rng.random(decisions) < CHANCE[context, action]).astype(float)
    given = {} if model is None else {
        "predicted": model[context, action], "expected": (target[context] * model[context]).sum(axis=1)
    }  # fmt: skip
    return LoggedActions(
        np.arange(decisions),
        reward,
        propensity[context, action],
        target[context, action],
        np.arange(decisions),
        **given,
    )


def repeated(estimator, runs=500, decisions=1500, **options):
    rng = np.random.default_rng(7)
    return [estimator(simulate(rng, decisions, **options)) for _ in range(runs)]


def mean_and_error(estimates):
    values = np.array([estimate.value for estimate in estimates])
    return values.mean(), values.std() / np.sqrt(len(values))


@pytest.mark.parametrize("estimator", [inverse_propensity, self_normalised])
def test_the_mean_of_many_logs_is_the_true_value_and_intervals_hold_it_as_often_as_they_say(estimator):
    estimates = repeated(estimator)
    mean, error = mean_and_error(estimates)
    assert abs(mean - VALUE) < 3.5 * error + (0.002 if estimator is self_normalised else 0)
    covered = np.mean([estimate.low <= VALUE <= estimate.high for estimate in estimates])
    assert 0.92 <= covered <= 0.98


def test_doubly_robust_varies_less_and_forgives_either_mistake():
    rough = np.clip(CHANCE + np.random.default_rng(1).normal(0, 0.1, CHANCE.shape), 0, 1)
    plain, robust = repeated(inverse_propensity), repeated(doubly_robust, model=rough)
    mean, error = mean_and_error(robust)
    assert abs(mean - VALUE) < 3.5 * error
    assert np.var([e.value for e in robust]) < 0.7 * np.var([e.value for e in plain])
    assert 0.92 <= np.mean([e.low <= VALUE <= e.high for e in robust]) <= 0.98
    wrong = np.random.default_rng(2).random(CHANCE.shape)
    for options in ({"model": wrong}, {"model": CHANCE, "propensity": np.full_like(LOGGED, 0.3)}):
        mean, error = mean_and_error(repeated(doubly_robust, **options))
        assert abs(mean - VALUE) < 3.5 * error
    mean, error = mean_and_error(repeated(doubly_robust, model=wrong, propensity=np.full_like(LOGGED, 0.3)))
    assert abs(mean - VALUE) > 5 * error  # both wrong: nothing saves it


def test_estimates_equal_the_written_out_loops():
    log = simulate(np.random.default_rng(3), 200, model=np.full_like(CHANCE, 0.4))
    weights = [min(log.target[e] / log.propensity[e], 1.5) for e in range(200)]
    whole = [log.target[e] / log.propensity[e] for e in range(200)]
    ips = sum(weights[e] * log.reward[e] for e in range(200)) / 200
    snips = sum(weights[e] * log.reward[e] for e in range(200)) / sum(weights)
    dr = sum(log.expected[e] + weights[e] * (log.reward[e] - 0.4) for e in range(200)) / 200
    found = [estimator(log, clip=1.5) for estimator in (inverse_propensity, self_normalised, doubly_robust)]
    assert [estimate.value for estimate in found] == pytest.approx([ips, snips, dr])
    assert found[0].clipped == pytest.approx(1 - sum(weights) / sum(whole))
    assert found[0].effective_actions == pytest.approx(sum(weights) ** 2 / sum(w * w for w in weights))
    assert inverse_propensity(log).clipped == 0.0
    assert found[0].value < inverse_propensity(log).value  # rewards are not negative: clipping takes away


def test_pages_of_several_items_have_the_value_of_what_they_show():
    """Items are shown independently with known chances; the policy shows three fixed ones of twenty."""
    rng, items, pages, runs = np.random.default_rng(11), 20, 300, 300
    chance, shown_with = rng.uniform(0.05, 0.6, items), rng.uniform(0.1, 0.7, items)
    policy = np.zeros(items)
    policy[[2, 7, 11]] = 1
    values, normalised = [], []
    for _ in range(runs):
        page, item = np.nonzero(rng.random((pages, items)) < shown_with)
        reward = (rng.random(len(item)) < chance[item]).astype(float)
        log = LoggedActions(page, reward, shown_with[item], policy[item], np.arange(pages) // 3)
        values.append(inverse_propensity(log))
        normalised.append(self_normalised(log, actions=3).value)
    truth = float(policy @ chance)
    mean, error = mean_and_error(values)
    assert abs(mean - truth) < 3.5 * error
    assert 0.92 <= np.mean([estimate.low <= truth <= estimate.high for estimate in values]) <= 0.98
    assert np.mean(normalised) == pytest.approx(truth, abs=0.01)


def test_what_one_user_does_again_and_again_counts_as_one():
    rng = np.random.default_rng(4)
    log = simulate(rng, 300)
    again = LoggedActions(
        np.arange(1200), *(np.tile(getattr(log, name), 4) for name in ("reward", "propensity", "target", "group"))
    )
    one, four = inverse_propensity(log), inverse_propensity(again)
    assert (four.value, four.low, four.high) == pytest.approx((one.value, one.low, one.high))


def test_a_difference_of_two_policies_is_tighter_than_two_intervals():
    rng = np.random.default_rng(9)
    other, gaps = softmax(2.5 * CHANCE), []
    truth = VALUE - float((other * CHANCE).sum(axis=1).mean())
    for _ in range(200):
        state = rng.integers(1 << 30)
        log, twin = (simulate(np.random.default_rng(state), 400, target=target) for target in (WANTED, other))
        first, second = inverse_propensity(log), inverse_propensity(twin)
        gaps.append((difference(first, second), first.high - first.low))
    assert 0.9 <= np.mean([low <= truth <= high for (_, low, high), _ in gaps]) <= 0.99
    assert np.mean([high - low for (_, low, high), _ in gaps]) < 0.3 * np.mean([width for _, width in gaps])


def test_nothing_that_the_policy_would_show_was_logged():
    log = LoggedActions(np.arange(3), np.ones(3), np.full(3, 0.5), np.zeros(3), np.arange(3))
    assert inverse_propensity(log).value == 0.0
    assert inverse_propensity(log).effective_actions == 0.0
    assert np.isnan(self_normalised(log).value)


@pytest.mark.parametrize("certain", [(), (1,), (2,)])
def test_pages_filled_place_by_place_tell_the_sum_over_all_items(certain):
    """All pages of 3 of 5 items, each as often as it is drawn; at a certain place the item of the lowest number is put."""
    worth, liking = np.array([0.3, 2.0, 0.7, 1.1, 0.1]), np.array([1.0, 4.0, 2.0, 0.5, 3.0])
    total, often = 0.0, 0.0
    for page in itertools.permutations(range(5), 3):
        chosen = []
        for number, item in enumerate(page, 1):
            left = [other for other in range(5) if other not in page[: number - 1]]
            chosen.append(float(item == min(left)) if number in certain else liking[item] / liking[left].sum())
        if min(chosen) > 0:
            weights = place_weights(np.zeros(3, int), np.array(chosen), np.array([1, 2, 3]))
            total += np.prod(chosen) * (weights * worth[list(page)]).sum()
            often += np.prod(chosen)
    assert often == pytest.approx(1.0)
    assert total == pytest.approx(worth.sum())


def test_places_count_as_the_formula_says_and_a_page_without_chance_once():
    place, chance = np.array([2, 1, 3, 1, 2]), np.array([0.5, 0.25, 0.1, 1.0, 1.0])
    decision = np.array([0, 0, 0, 1, 1])
    np.testing.assert_allclose(place_weights(decision, chance, place), [(2 + 1) / 3, (4 + 2) / 3, 10 / 3, 1.0, 1.0])
    for places in (place, place * [1, 1, 1, 0, 0]):
        log = LoggedActions(decision, np.ones(5), chance, np.ones(5), np.arange(2), place=places)
        assert inverse_propensity(log).value == pytest.approx((1 + 2 + 10 / 3 + 2) / 2)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"propensity": np.array([0.0, 0.5])}, r"propensity: must lie in \(0, 1\]"),
        ({"target": np.array([1.2, 0.5])}, r"target: must lie in \[0, 1\]"),
        ({"reward": np.array([1.0, np.nan])}, "reward: must be 2 finite numbers"),
        ({"decision": np.array([0, 2])}, r"decision: must lie in \[0, 2\)"),
        ({"expected": np.ones(3)}, "expected: must be 2 finite numbers"),
        ({"place": np.array([1, 2])}, r"place: must be 1 to n for the n actions of a decision, received \[2\]"),
    ],
)
def test_logs_that_cannot_be_right_are_refused(changed, message):
    columns = {
        "decision": np.array([0, 1]), "reward": np.ones(2), "propensity": np.full(2, 0.5), "target": np.ones(2),
        "group": np.arange(2),
    }  # fmt: skip
    with pytest.raises(ValueError, match=message):
        LoggedActions(**(columns | changed))
    with pytest.raises(ValueError, match="doubly robust estimates need"):
        doubly_robust(LoggedActions(**columns))
    with pytest.raises(ValueError, match="clip: must be above 0"):
        inverse_propensity(LoggedActions(**columns), clip=0)
