"""Blocked top-k against the full sort it stands for."""

import numpy as np
import pytest
import threadpoolctl
from hypothesis import given
from hypothesis import strategies as st

from pipeline.metrics.interactions import Interactions
from pipeline.metrics.top_k import dot_product_scores, for_each_block, select_top_k, top_k


def sort_everything(scores, seen, allowed, k):
    """The definition: mask, stable full argsort, pad what is -inf."""
    masked = scores.astype(np.float64)
    masked[:, 0] = -np.inf
    masked[:, ~allowed] = -np.inf
    for line, rows in enumerate(seen):
        masked[line, rows] = -np.inf
    rows = np.argsort(-masked, axis=1, kind="stable")[:, :k]
    values = np.take_along_axis(masked, rows, axis=1)
    rows, values = np.where(np.isfinite(values), rows, 0), np.where(np.isfinite(values), values, -np.inf)
    missing = k - rows.shape[1]
    return np.pad(rows, ((0, 0), (0, max(0, missing)))), np.pad(
        values, ((0, 0), (0, max(0, missing))), constant_values=-np.inf
    )


@given(
    users=st.integers(1, 9),
    width=st.integers(1, 400),
    k=st.integers(1, 30),
    block=st.integers(1, 10),
    levels=st.sampled_from([1, 2, 7, 10_000]),
    hidden=st.sampled_from([0.0, 0.5, 0.99]),
    threads=st.integers(1, 3),
    seed=st.integers(0, 2**32 - 1),
)
def test_equal_to_a_full_sort_with_ties_masks_and_few_items(users, width, k, block, levels, hidden, threads, seed):
    rng = np.random.default_rng(seed)
    scores = rng.integers(levels, size=(users, width)).astype(np.float32) - levels // 2
    owner, row = np.nonzero(rng.random((users, width)) < hidden)
    seen = Interactions.from_pairs(owner, row, users)
    allowed = rng.random(width) >= hidden / 2
    rows, values = top_k(lambda part: scores[part], np.arange(users), seen, k, block=block, allowed=allowed, threads=threads)
    expected_rows, expected_values = sort_everything(scores, seen, allowed, k)
    np.testing.assert_array_equal(rows, expected_rows)
    np.testing.assert_array_equal(values, expected_values)


def test_wide_catalogue_of_real_scores_equals_a_full_sort():
    rng = np.random.default_rng(7)
    queries, items = rng.normal(size=(40, 8)).astype(np.float32), rng.normal(size=(9_001, 8)).astype(np.float32)
    seen = Interactions.from_pairs(rng.integers(40, size=4_000), rng.integers(9_001, size=4_000), 40)
    rows, _ = top_k(dot_product_scores(queries, items), np.arange(40), seen, 100, block=16)
    # Products of the same blocks: a differently shaped matmul may round its last bit another way.
    scores = np.concatenate([queries[start : start + 16] @ items.T for start in range(0, 40, 16)])
    expected, _ = sort_everything(scores, seen, np.ones(9_001, bool), 100)
    np.testing.assert_array_equal(rows, expected)


def test_masked_items_and_row_zero_never_come_back_however_high_they_score():
    scores = np.full((2, 5), 1.0, np.float32)
    scores[:, 0] = 1e9
    scores[0, 3] = scores[1, 4] = 1e6
    rows, _ = top_k(lambda part: scores[part], [1, 2], Interactions.from_lists([[], [3], [4]]), k=5)
    assert rows.tolist() == [[1, 2, 4, 0, 0], [1, 2, 3, 0, 0]]


def test_the_callers_scores_are_not_written_into():
    scores = np.arange(10, dtype=np.float32).reshape(2, 5)
    before = scores.copy()
    top_k(lambda part: scores[part], [0, 1], Interactions.from_lists([[1], [2]]), k=2)
    np.testing.assert_array_equal(scores, before)


def test_seen_follows_the_user_rows_and_not_their_position():
    scores = np.array([[0.0, 3.0, 2.0], [0.0, 3.0, 2.0]], np.float32)
    seen = Interactions.from_lists([[], [], [1], []])
    rows, _ = top_k(lambda part: scores[part], [2, 3], seen, k=1, block=1)
    assert rows.tolist() == [[2], [1]]


def test_an_error_in_one_thread_reaches_the_caller_and_threads_of_the_matrix_library_are_restored():
    before = [pool["num_threads"] for pool in threadpoolctl.threadpool_info()]

    def fails(part):
        if part.start:
            raise RuntimeError(f"broken at {part.start}")

    with pytest.raises(RuntimeError, match="broken at 2"):
        for_each_block(fails, [slice(0, 2), slice(2, 4)], threads=2)
    assert [pool["num_threads"] for pool in threadpoolctl.threadpool_info()] == before


def test_no_users_give_no_lists():
    rows, values = top_k(lambda part: np.zeros((0, 3)), [], None, k=4)
    assert rows.shape == values.shape == (0, 4)


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        (np.array([[0.0, np.nan]]), "must not be NaN, received 1"),
        (np.zeros((3, 2)), "must return floats"),
        (np.zeros((1, 2), int), "must return floats"),
    ],
)
def test_broken_scores_are_refused(scores, message):
    with pytest.raises(ValueError, match=message):
        top_k(lambda part: scores, [0], None, k=1)


def test_single_line_equals_the_line_in_a_batch():
    scores = np.random.default_rng(3).normal(size=(6, 500)).astype(np.float32)
    batch, _ = select_top_k(scores.copy(), 20)
    single = np.concatenate([select_top_k(scores[line : line + 1].copy(), 20)[0] for line in range(6)])
    np.testing.assert_array_equal(batch, single)
