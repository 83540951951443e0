"""Pages against loops written out in NumPy, and the invariants that every policy keeps."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ranking.adjustments import divergence_after, popularity_buckets
from ranking.array_ops import numpy_ops
from ranking.diversity import LEAST_VOLUME, RIDGE, content_tokens, mmr
from ranking.filters import kept_candidates
from ranking.policy import BOUNDS, Policy
from ranking.rerank import Candidates, rerank

EVERYTHING = Policy(
    freshness=0.2, popularity=0.05, calibration=0.3, group_boost=0.1, group_share=0.4, significance=0.3, creator_cap=2,
    category_cap=4, mmr_lambda=0.7, dpp=0.1, epsilon=0.3, thompson=1.0,
)  # fmt: skip


def candidates(requests: int = 6, count: int = 20, k: int = 8, seed: int = 0) -> Candidates:
    rng = np.random.default_rng(seed)
    shape = (requests, count)
    vectors = rng.normal(size=(requests, 3, count, 4)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=3, keepdims=True)
    vectors[rng.random(vectors.shape[:3]) < 0.2] = 0
    rows = 1 + np.argsort(rng.random(shape), axis=1).astype(np.int32)
    rows[:, -2:] = 0
    return Candidates(
        rows=rows,
        scores=rng.random(shape).astype(np.float32),
        age_days=(60 * rng.random(shape)).astype(np.float32),
        dated=rng.random(shape) < 0.8,
        log_popularity=(5 * rng.random(shape)).astype(np.float32),
        creator=rng.integers(0, 6, shape).astype(np.int32),
        category=rng.integers(0, 4, shape).astype(np.int32),
        protected=rng.random(shape) < 0.3,
        bucket=rng.integers(0, 3, shape).astype(np.int32),
        target=rng.dirichlet(np.ones(3), requests).astype(np.float32),
        vectors=vectors,
        deviation=(0.2 * rng.random(shape)).astype(np.float32),
        uniforms=rng.random((requests, k)).astype(np.float32),
    )


def page(given_candidates: Candidates, policy: Policy, k: int = 8):
    return rerank(given_candidates, policy, k, ops=numpy_ops)


def one(given_candidates: Candidates, line: int) -> Candidates:
    taken = {
        field.name: getattr(given_candidates, field.name)[line : line + 1]
        for field in dataclasses.fields(given_candidates)
        if getattr(given_candidates, field.name) is not None
    }
    return Candidates(**taken)


def test_the_default_policy_is_the_order_of_the_scores():
    some = candidates()
    answer = page(some, Policy(), 30)
    order = np.argsort(np.where(some.rows > 0, -some.scores, np.inf), axis=1, kind="stable")[:, :18]
    np.testing.assert_array_equal(answer.rows[:, :18], np.take_along_axis(some.rows, order, axis=1))
    np.testing.assert_array_equal(answer.scores[:, :18], np.take_along_axis(some.scores, order, axis=1))
    assert (answer.propensities[:, :18] == 1).all() and (answer.places[:, 18:] == -1).all()
    assert not answer.rows[:, 18:].any() and (answer.scores[:, 18:] == -1).all() and not answer.propensities[:, 18:].any()


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 3), st.integers(0, 4))
def test_caps_are_those_of_a_loop(seed, creator_cap, category_cap):
    some = candidates(2, 14, seed=seed)
    answer = page(some, Policy(creator_cap=creator_cap, category_cap=category_cap))
    for line in range(2):
        shown: list[int] = []
        for place in np.argsort(-some.scores[line], kind="stable"):
            fits = some.rows[line, place] > 0
            for codes, cap in ((some.creator[line], creator_cap), (some.category[line], category_cap)):
                alike = sum(codes[other] == codes[place] for other in shown)
                fits &= not cap or not codes[place] or alike < cap
            if fits and len(shown) < 8:
                shown.append(int(place))
        assert answer.places[line].tolist() == shown + [-1] * (8 - len(shown))


@pytest.mark.parametrize("weight", [0.9, 0.6, 0.3, 0.0])
def test_mmr_is_that_of_a_loop(weight):
    some = candidates()
    answer = page(some, Policy(mmr_lambda=weight))
    for line in range(len(some.rows)):
        scores = some.scores[line, :18].astype(float)
        relevance = scores / (scores.max() - scores.min())
        chosen = mmr(relevance, some.vectors[line, :, :18], 8, weight)
        assert answer.places[line].tolist() == chosen[np.argsort(-scores[chosen])].tolist()


def test_diversity_chooses_a_page_and_relevance_orders_it_unless_floors_or_chance_do():
    some = candidates(12, 30)
    for policy in (Policy(mmr_lambda=0.4), Policy(dpp=0.4), Policy(mmr_lambda=0.4, creator_cap=2)):
        answer = page(some, policy)
        assert (np.diff(answer.scores, axis=1) <= 0).all() and (answer.propensities == 1).all()
        # The same places as the choice made them, one at a time: what is on a shorter page is on the longer one.
        shorter = page(some, policy, 5)
        for line in range(12):
            assert set(shorter.rows[line]) < set(answer.rows[line])
        floors = page(some, dataclasses.replace(policy, group_share=0.6, significance=0.5))
        assert (np.diff(floors.scores, axis=1) > 0).any()


def test_the_short_way_of_mmr_is_the_long_one():
    """A cap that never binds takes the general page, place by place."""
    some = candidates()
    for weight in (0.8, 0.2):
        short, long = (page(some, Policy(mmr_lambda=weight, creator_cap=cap), 25) for cap in (0, 1000))
        for found, expected in zip(short, long, strict=True):
            np.testing.assert_array_equal(found, expected)


def test_dpp_is_the_greedy_choice_by_determinants():
    """Every step against determinants of the whole kernel, which the fast form never computes."""
    some, strength = candidates(), 0.3
    answer = page(some, Policy(dpp=strength), 10)
    for line in range(len(some.rows)):
        flat = some.vectors[line, :, :18].transpose(1, 0, 2).reshape(18, -1).astype(np.float64)
        flat /= np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-9)
        kernel = (1 - RIDGE) * (1 + flat @ flat.T) / 2
        np.fill_diagonal(kernel, 1.0)
        scores = some.scores[line, :18].astype(np.float64)
        spread, shown = scores.max() - scores.min(), []
        for _ in range(10):
            before, gains = np.linalg.det(kernel[np.ix_(shown, shown)]), {}
            for item in set(range(18)) - set(shown):
                volume = np.linalg.det(kernel[np.ix_([*shown, item], [*shown, item])]) / before
                gains[item] = scores[item] + spread * strength * np.log(max(volume, LEAST_VOLUME))
            shown.append(max(gains, key=lambda item: gains[item]))
        assert answer.places[line].tolist() == sorted(shown, key=lambda item: -scores[item])


def test_diversity_spreads_content_and_dpp_survives_identical_items():
    some = dataclasses.replace(candidates(), vectors=np.ones((6, 1, 20, 4), np.float32) / 2)
    for policy in (Policy(dpp=0.5), Policy(mmr_lambda=0.5)):
        order = page(some, policy, 18)
        assert all(len(set(rows)) == 18 for rows in order.rows.tolist())
        np.testing.assert_array_equal(order.rows, page(some, Policy(), 18).rows)


def test_a_floor_brings_the_protected_up_and_breaks_nothing_else():
    some = candidates()
    for share in (0.3, 0.6, 1.0):
        answer = page(some, Policy(group_share=share, significance=0.5))
        theirs = np.take_along_axis(some.protected, answer.places, axis=1)
        available = (some.protected & (some.rows > 0)).sum(axis=1)
        cumulative = theirs.cumsum(axis=1)
        median = np.ceil(np.arange(1, 9) * share - 1)  # the median of a binomial lies within one of its mean
        assert (cumulative >= np.minimum(median, available[:, None])).all()
        for part in (theirs, ~theirs):  # within a group the order of the scores stays
            for line, scores in zip(part, answer.scores, strict=True):
                assert (np.diff(scores[line]) <= 0).all()
    assert (page(some, Policy(group_share=0.6)).rows != page(some, Policy()).rows).any()


def test_a_floor_may_differ_between_users():
    some = candidates()
    weights = {name: np.float32(value) for name, value in Policy(significance=0.5).weights().items()}
    shares = np.array([0, 0, 0, 1, 1, 1], np.float32)
    mixed = rerank(some, weights | {"group_share": shares, "epsilon": 0, "thompson": 0}, 8, ops=numpy_ops)
    for half, share in ((slice(0, 3), 0.0), (slice(3, 6), 1.0)):
        np.testing.assert_array_equal(mixed.rows[half], page(some, Policy(group_share=share, significance=0.5)).rows[half])


def test_adjustments_follow_their_formula():
    some = dataclasses.replace(candidates(), uniforms=None)
    policy = Policy(freshness=0.5, freshness_days=7, popularity=0.1, group_boost=-0.2)
    answer = page(some, policy, 18)
    exists = some.rows > 0
    spread = np.where(exists, some.scores, -np.inf).max(1) - np.where(exists, some.scores, np.inf).min(1)
    added = 0.5 * np.exp(-some.age_days / 7) * some.dated - 0.1 * some.log_popularity - 0.2 * some.protected
    expected = some.scores + spread[:, None] * added
    np.testing.assert_allclose(answer.scores, np.take_along_axis(expected, answer.places, axis=1), rtol=1e-5)
    assert (np.diff(answer.scores, axis=1) <= 0).all()


def test_calibration_moves_the_page_towards_the_history():
    some = candidates(40, 30)
    shares = []
    for weight in (0.0, 2.0):
        shown = np.take_along_axis(some.bucket, page(some, Policy(calibration=weight)).places, axis=1)
        counts = np.stack([(shown == code).sum(axis=1) for code in range(3)], axis=1)
        distance = np.abs(counts / 8 - some.target).sum(axis=1)
        shares.append(distance.mean())
    assert shares[1] < 0.85 * shares[0]


def test_divergence_against_the_written_out_formula():
    rng = np.random.default_rng(1)
    target, counts = rng.dirichlet(np.ones(3), 4), rng.integers(0, 5, (4, 3)).astype(float)
    found = divergence_after(target, counts, ops=numpy_ops)
    for line in range(4):
        for code in range(3):
            after = counts[line] + np.eye(3)[code]
            p, q = target[line], after / after.sum()
            middle = (p + q) / 2
            parts = [np.sum([a * np.log(a / m) for a, m in zip(x, middle, strict=True) if a]) for x in (p, q)]
            assert found[line, code] == pytest.approx(sum(parts) / 2)


def test_buckets_hold_their_share_of_events():
    counts = np.random.default_rng(2).pareto(1.2, 500) * 10
    buckets = popularity_buckets(counts)
    total = counts[1:].sum()
    shares = [counts[1:][buckets[1:] == code].sum() / total for code in range(3)]
    assert 0.2 <= shares[0] < 0.4 and 0.15 < shares[2] <= 0.2
    assert counts[1:][buckets[1:] == 0].min() >= counts[1:][buckets[1:] == 1].max()


def test_batch_equals_single_and_padding_changes_nothing():
    some = candidates()
    whole = page(some, EVERYTHING)
    for line in (0, 3, 5):
        single = page(one(some, line), EVERYTHING)
        np.testing.assert_array_equal(single.rows[0], whole.rows[line])
        np.testing.assert_allclose(single.propensities[0], whole.propensities[line], atol=1e-6)
    wide = {}
    for name in ("rows", "scores", "age_days", "dated", "log_popularity", "creator", "category", "protected", "bucket",
                 "deviation"):  # fmt: skip
        wide[name] = np.pad(getattr(some, name), ((0, 0), (0, 7)))
    wide["vectors"] = np.pad(some.vectors, ((0, 0), (0, 0), (0, 7), (0, 0)))
    wide["scores"][:, -7:] = np.finfo(np.float32).min
    padded = page(dataclasses.replace(some, **wide), EVERYTHING)
    np.testing.assert_array_equal(padded.rows, whole.rows)
    np.testing.assert_allclose(padded.propensities, whole.propensities, atol=1e-6)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 12))
def test_any_policy_shows_only_what_is_kept_and_nothing_twice(seed, k):
    rng = np.random.default_rng(seed)
    some = candidates(3, int(rng.integers(0, 12)), k, seed) if rng.random() < 0.9 else candidates(3, 12, k, seed)
    blocked = rng.integers(0, 12, (3, 4))
    allowed = np.where(rng.random((3, 1)) < 0.5, 0, rng.integers(0, 12, (3, 9)))
    stock = rng.random(30) < 0.8
    kept = kept_candidates(some.rows, blocked=blocked, allowed=allowed, available=stock, ops=numpy_ops)
    answer = page(dataclasses.replace(some, kept=kept), EVERYTHING, k)
    for line, rows in enumerate(answer.rows):
        shown = rows[rows > 0]
        assert len(set(shown.tolist())) == len(shown) and stock[shown].all()
        assert not set(shown.tolist()) & set(blocked[line].tolist())
        assert not allowed[line].any() or set(shown.tolist()) <= set(allowed[line].tolist())
        creators = dict(zip(some.rows[line].tolist(), some.creator[line].tolist(), strict=True))
        named = [creators[row] for row in shown.tolist() if creators[row]]
        assert all(named.count(code) <= 2 for code in named)
    real = answer.rows > 0
    assert ((answer.propensities > 0) == real).all() and (answer.propensities <= 1 + 1e-6).all()


def test_content_tokens_are_unit_and_zero_where_absent():
    rng = np.random.default_rng(0)
    tokens, present = rng.normal(size=(9, 3, 5)), (rng.random((9, 3)) < 0.5).astype(np.float32)
    rows = np.array([[1, 4, 0]])
    found = content_tokens(tokens, present, (0, 2), rows, ops=numpy_ops)
    assert found.shape == (1, 2, 3, 5)
    np.testing.assert_allclose(np.linalg.norm(found, axis=3)[0].T, present[rows[0]][:, [0, 2]], atol=1e-6)


def test_policies_say_what_is_wrong():
    with pytest.raises(ValueError, match=r"mmr_lambda: must lie between 0 and 1, received 1\.5"):
        Policy(mmr_lambda=1.5)
    with pytest.raises(ValueError, match="epsilon: must be a finite number, received nan"):
        Policy(epsilon=float("nan"))
    with pytest.raises(ValueError, match="received 'mmr'"):
        Policy().with_weights({"mmr": 0.5})
    with pytest.raises(ValueError, match="policy: must have the weights"):
        rerank(candidates(), {"epsilon": 0.0}, 3, ops=numpy_ops)
    assert list(Policy().weights()) == list(BOUNDS) == [field.name for field in dataclasses.fields(Policy)]
