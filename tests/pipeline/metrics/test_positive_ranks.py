"""Places of held-out items against the lists that `top_k` makes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.metrics.interactions import Interactions
from pipeline.metrics.metrics import mrr, ndcg_at_k, recall_at_k
from pipeline.metrics.positive_ranks import as_ranked, rank_positives
from pipeline.metrics.top_k import dot_product_scores, top_k


@given(
    users=st.integers(1, 9),
    width=st.integers(2, 200),
    block=st.integers(1, 10),
    levels=st.sampled_from([1, 2, 7, 10_000]),
    hidden=st.sampled_from([0.0, 0.5, 0.99]),
    threads=st.integers(1, 2),
    seed=st.integers(0, 2**32 - 1),
)
def test_places_are_those_of_the_full_list_with_ties_and_masks(users, width, block, levels, hidden, threads, seed):
    rng = np.random.default_rng(seed)
    scores = rng.integers(levels, size=(users, width)).astype(np.float32)
    seen = Interactions.from_pairs(*np.nonzero(rng.random((users, width)) < hidden), users)
    relevant = Interactions.from_pairs(*np.nonzero(rng.random((users, width)) < 0.2), users)
    allowed = rng.random(width) >= hidden / 2
    options = dict(block=block, allowed=allowed, threads=threads)
    places = rank_positives(lambda part: scores[part], np.arange(users), seen, relevant, **options)
    ranked, _ = top_k(lambda part: scores[part], np.arange(users), seen, width, **options)
    for user, row, place in zip(relevant.users, relevant.rows, places, strict=True):
        found = np.flatnonzero(ranked[user] == row)
        assert place == (found[0] + 1 if found.size else 0)


def test_metrics_of_the_places_are_those_of_the_lists():
    rng = np.random.default_rng(7)
    queries, items = rng.normal(size=(30, 8)).astype(np.float32), rng.normal(size=(400, 8)).astype(np.float32)
    relevant = Interactions.from_pairs(rng.integers(29, size=200), rng.integers(400, size=200), 30)
    seen = Interactions.from_pairs(rng.integers(30, size=200), rng.integers(400, size=200), 30)
    scores, users = dot_product_scores(queries, items), np.arange(30)
    ranked, _ = top_k(scores, users, seen, 50, block=7)
    sparse = as_ranked(rank_positives(scores, users, seen, relevant, block=7), relevant, 50)
    assert np.isnan(recall_at_k(sparse, relevant, 10)[29])
    for metric in (recall_at_k, ndcg_at_k, mrr):
        for k in (1, 10, 50):
            np.testing.assert_array_equal(metric(sparse, relevant, k), metric(ranked, relevant, k))


def test_an_item_the_user_has_seen_has_no_place():
    scores = np.array([[0.0, 3.0, 2.0]], np.float32)
    both = Interactions.from_lists([[1, 2]])
    assert rank_positives(lambda part: scores[part], [0], Interactions.from_lists([[1]]), both).tolist() == [0, 1]


@pytest.mark.parametrize(
    ("relevant", "message"), [([[1], [1]], "must cover the 1 users"), ([[7]], r"below N \+ 1 = 3, received 7")]
)
def test_relevant_items_of_other_users_or_catalogues_are_refused(relevant, message):
    with pytest.raises(ValueError, match=message):
        rank_positives(lambda part: np.zeros((1, 3)), [0], None, Interactions.from_lists(relevant))


def test_places_must_fit_their_items():
    with pytest.raises(ValueError, match="one a relevant item"):
        as_ranked([1, 2], Interactions.from_lists([[1]]), 3)
