"""Each metric against its definition written as a loop, and the properties a reader would assume."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.metrics import bootstrap, metrics, probability_metrics
from pipeline.metrics.interactions import Interactions

ITEMS = 12


@st.composite
def worlds(draw):
    """(ranked [B, K] with padding at the end, relevant lists, counts [N + 1])."""
    depth = draw(st.integers(1, 8))
    ranked, relevant = [], []
    for _ in range(draw(st.integers(1, 6))):
        length = draw(st.integers(0, depth))
        rows = draw(st.permutations(range(1, ITEMS + 1)))[:length]
        ranked.append(rows + [0] * (depth - length))
        relevant.append(draw(st.lists(st.integers(1, ITEMS), unique=True, max_size=6)))
    counts = draw(st.lists(st.integers(0, 500), min_size=ITEMS + 1, max_size=ITEMS + 1))
    return np.array(ranked), relevant, np.array(counts)


labelled = st.lists(
    st.tuples(st.integers(0, 1), st.integers(0, 20).map(lambda step: step / 20)), min_size=1, max_size=60
).map(lambda pairs: (np.array([pair[0] for pair in pairs]), np.array([pair[1] for pair in pairs])))


def assert_close(measured, expected):
    np.testing.assert_allclose(measured, expected, rtol=1e-12, atol=1e-12)


@given(worlds(), st.integers(1, 8))
def test_ranking_metrics_equal_the_written_out_loops(world, k):
    ranked, relevant, counts = world
    k = min(k, ranked.shape[1])
    recall, ndcg, reciprocal, bias = [], [], [], []
    for rows, chosen in zip(ranked.tolist(), relevant, strict=True):
        hits = [row in chosen for row in rows[:k]]
        gain = sum(hit / math.log2(place + 1) for place, hit in enumerate(hits, start=1))
        ideal = sum(1 / math.log2(place + 1) for place in range(1, min(k, len(chosen)) + 1))
        recall.append(sum(hits) / len(chosen) if chosen else math.nan)
        ndcg.append(gain / ideal if chosen else math.nan)
        reciprocal.append((1 / (hits.index(True) + 1) if any(hits) else 0.0) if chosen else math.nan)
        shown = [math.log(1 + counts[row]) for row in rows[:k] if row]
        taken = [math.log(1 + counts[row]) for row in chosen]
        bias.append(sum(shown) / len(shown) - sum(taken) / len(taken) if shown and taken else math.nan)
    assert_close(metrics.recall_at_k(ranked, relevant, k), recall)
    assert_close(metrics.ndcg_at_k(ranked, relevant, k), ndcg)
    assert_close(metrics.mrr(ranked, relevant, k), reciprocal)
    assert_close(metrics.popularity_bias(ranked, relevant, counts, k), bias)
    shown_to_anyone = {row for rows in ranked[:, :k].tolist() for row in rows} - {0}
    assert metrics.coverage(ranked, ITEMS, k) == len(shown_to_anyone) / ITEMS


@given(worlds())
def test_lists_and_csr_are_the_same_input(world):
    ranked, relevant, _ = world
    csr = Interactions.from_lists(relevant)
    assert_close(metrics.recall_at_k(ranked, csr, 1), metrics.recall_at_k(ranked, relevant, 1))


def test_perfect_ranking_has_ndcg_one_even_with_more_relevant_items_than_places():
    assert_close(metrics.ndcg_at_k([[1, 2]], [[1, 2, 3, 4]], k=2), [1.0])
    assert_close(metrics.recall_at_k([[1, 2]], [[1, 2, 3, 4]], k=2), [0.5])


def test_earlier_hit_is_worth_more():
    first, second = metrics.ndcg_at_k([[1, 9], [9, 1]], [[1], [1]], k=2)
    assert first == 1.0
    assert second == pytest.approx(1 / math.log2(3))


def test_popularity_bias_has_the_sign_it_says():
    counts = [0, 1000, 1]
    assert metrics.popularity_bias([[1]], [[2]], counts)[0] > 0 > metrics.popularity_bias([[2]], [[1]], counts)[0]


def test_summary_leaves_out_users_without_relevant_items():
    ranked = np.tile(np.arange(1, 21), (3, 1))
    summary = metrics.summarise_ranking(ranked, [[1], [], [30]], counts=np.ones(41))
    assert summary["users"] == 2
    assert summary["recall@20"] == 0.5
    assert summary["coverage"] == 0.5
    names = {"recall@10", "recall@20", "ndcg@10", "ndcg@20", "mrr", "coverage", "popularity_bias", "users"}
    assert set(summary) == names  # recall@100 would need deeper lists


def test_repeated_item_in_a_list_is_refused():
    with pytest.raises(ValueError, match="ranked: an item may appear once"):
        metrics.recall_at_k([[3, 3]], [[3]], k=2)


@pytest.mark.parametrize("k", [0, 3])
def test_cutoff_outside_the_list_is_refused(k):
    with pytest.raises(ValueError, match="k: must lie in"):
        metrics.recall_at_k([[1, 2]], [[1]], k=k)


@given(labelled)
def test_auc_equals_the_count_over_pairs_with_ties_one_half(example):
    labels, scores = example
    positives, negatives = scores[labels == 1], scores[labels == 0]
    if not (len(positives) and len(negatives)):
        assert math.isnan(probability_metrics.auc(labels, scores))
        return
    wins = sum(float(a > b) + 0.5 * float(a == b) for a in positives for b in negatives)
    assert probability_metrics.auc(labels, scores) == pytest.approx(wins / (len(positives) * len(negatives)))


@given(labelled)
def test_log_loss_equals_the_loop(example):
    labels, chances = example
    clipped = [min(max(chance, 1e-7), 1 - 1e-7) for chance in chances]
    terms = [-math.log(p) if y else -math.log(1 - p) for y, p in zip(labels, clipped, strict=True)]
    assert probability_metrics.log_loss(labels, chances) == pytest.approx(sum(terms) / len(terms))


@given(labelled, st.integers(1, 20), st.randoms(use_true_random=False))
def test_calibration_error_is_a_loop_over_bins_and_ignores_input_order(example, bins, random):
    labels, chances = example
    ordered = sorted(chances)
    starts = sorted({ordered[place * len(ordered) // bins] for place in range(1, bins)})
    groups: dict[int, list[tuple[int, float]]] = {}
    for label, chance in zip(labels, chances, strict=True):
        groups.setdefault(sum(start <= chance for start in starts), []).append((label, chance))
    gaps = [abs(sum(y for y, _ in group) - sum(p for _, p in group)) for group in groups.values()]
    expected = pytest.approx(sum(gaps) / len(labels), abs=1e-12)
    order = random.sample(range(len(labels)), len(labels))
    assert probability_metrics.expected_calibration_error(labels, chances, bins) == expected
    assert probability_metrics.expected_calibration_error(labels[order], chances[order], bins) == expected


def test_calibration_bins_have_equal_mass_and_see_the_truth():
    rng = np.random.default_rng(7)
    chances = rng.random(30_000) ** 3  # most of the mass near 0, where bins of equal width would be coarse
    labels = rng.random(30_000) < chances
    curve = probability_metrics.reliability_curve(labels, chances)
    assert curve.counts.tolist() == [2000] * 15
    assert np.all(np.diff(curve.predicted) > 0)
    assert probability_metrics.expected_calibration_error(labels, chances) < 0.01
    over = probability_metrics.expected_calibration_error(labels, np.sqrt(chances))
    assert over == pytest.approx(0.4 - 0.25, abs=0.01)  # E[u^1.5] - E[u^3] for uniform u


def test_a_constant_prediction_is_one_bin():
    labels = np.repeat([0, 1], 50)
    assert probability_metrics.reliability_curve(labels, np.full(100, 0.5)).counts.tolist() == [100]
    assert probability_metrics.expected_calibration_error(labels, np.full(100, 0.5)) == 0.0


@pytest.mark.parametrize(
    ("labels", "chances", "message"),
    [
        ([0, 2], [0.1, 0.2], "labels: must be 0 or 1"),
        ([0, 1], [0.1, np.nan], "values: must be finite"),
        ([0, 1], [0.1, 1.2], r"probabilities: must lie in \[0, 1\]"),
        ([], [], "of one length > 0"),
    ],
)
def test_bad_labels_and_probabilities_are_refused(labels, chances, message):
    with pytest.raises(ValueError, match=message):
        probability_metrics.log_loss(labels, chances)


def test_bootstrap_interval_agrees_with_the_normal_one_and_is_reproducible():
    values = np.random.default_rng(3).normal(loc=0.3, scale=0.2, size=400)
    with_undefined = np.concatenate([values, [np.nan] * 50])
    low, high = bootstrap.bootstrap_interval(with_undefined, np.random.default_rng(7))
    half = 1.96 * values.std() / np.sqrt(len(values))
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.15 * half)
    assert (low, high) == bootstrap.bootstrap_interval(with_undefined, np.random.default_rng(7))


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 9)), max_size=40))
def test_interactions_are_sets_per_user(pairs):
    made = Interactions.from_pairs([user for user, _ in pairs], [item for _, item in pairs], users=6)
    expected = [sorted({item for user, item in pairs if user == owner and item}) for owner in range(6)]
    assert [rows.tolist() for rows in made] == expected
    assert [rows.tolist() for rows in made.select([5, 0, 5])] == [expected[5], expected[0], expected[5]]
    odd = np.arange(10) % 2 == 1
    assert [rows.tolist() for rows in made.restrict(odd)] == [[row for row in rows if row % 2] for rows in expected]


@pytest.mark.parametrize(
    ("user", "item", "message"), [([6], [1], "user: rows"), ([0], [-1], "item: rows"), ([0], [], "must be flat")]
)
def test_interactions_refuse_rows_out_of_range(user, item, message):
    with pytest.raises(ValueError, match=message):
        Interactions.from_pairs(user, item, users=6)
