"""Exact top-k over the whole catalogue, a block of users at a time.

Memory is a block of scores a thread, [block, N + 1], whatever the number of users. Items a user has already seen are
masked, row 0 is never returned, and equal scores are ordered by row, so the same scores always give the same list.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import threadpoolctl
from numpy.typing import ArrayLike, NDArray

from pipeline.metrics.interactions import Interactions

ScoreBlock = Callable[[slice], NDArray[np.floating]]
"""slice into the B users -> scores [b, N + 1] of that block; -inf excludes an item. Fresh array: it is written into.
Blocks are asked for from several threads at once: it must not keep state between calls."""

BLOCK = 64
"""Users scored at a time: with 50,000 items their scores (13 MB) still come from the processor's cache when searched."""


def dot_product_scores(queries: NDArray[np.floating], items: NDArray[np.floating]) -> ScoreBlock:
    """Scores of embedded users: `queries[block] @ items.T`, for queries [B, D] and items [N + 1, D].

    >>> dot_product_scores(np.eye(2), np.array([[0.0, 0.0], [1.0, 2.0]]))(slice(0, 1)).tolist()
    [[0.0, 1.0]]
    """
    return lambda block: queries[block] @ items.T


def top_k(
    score_block: ScoreBlock,
    users: ArrayLike,
    seen: Interactions | None,
    k: int,
    *,
    block: int = BLOCK,
    allowed: NDArray[np.bool_] | None = None,
    threads: int | None = None,
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """The k best unseen items of each user, best first, ties by the lower row.

    Args:
        score_block: scores of users[block] for every item row, [b, N + 1].
        users: int [B] user rows, used to look up `seen`.
        seen: items to leave out, for every user row; None leaves nothing out.
        k: how many to keep.
        block: users scored at a time; a block holds block × (N + 1) scores.
        allowed: bool [N + 1], restricts the catalogue (for instance to items never seen in training); None is all.
        threads: blocks worked on at once; None is one a processor.

    Returns:
        rows int32 [B, k] and scores float32 [B, k]; a user with fewer than k items left is padded with row 0 and -inf.

    Raises:
        ValueError: k or block < 1, a score is NaN, or the scores have another shape.

    Example:
        >>> scores = np.array([[9.0, 1.0, 5.0, 5.0], [9.0, 3.0, 2.0, 1.0]], np.float32)
        >>> rows, values = top_k(lambda part: scores[part], [0, 1], Interactions.from_lists([[], [1, 3]]), k=2)
        >>> rows.tolist(), values.tolist()
        ([[2, 3], [2, 0]], [[5.0, 5.0], [2.0, -inf]])
    """
    user_rows = np.asarray(users, dtype=np.int64)
    rows, scores = np.zeros((len(user_rows), k), np.int32), np.full((len(user_rows), k), -np.inf, np.float32)

    def work(part: slice) -> None:
        rows[part], scores[part] = select_top_k(masked_scores(score_block, part, user_rows, seen, allowed), k)

    for_each_block(work, _blocks(len(user_rows), block, k), threads)
    return rows, scores


def for_each_block(work: Callable[[slice], None], parts: list[slice], threads: int | None = None) -> None:
    """Call `work(part)` for every part, several at once; each call multiplies matrices on one processor of its own.

    Whole blocks side by side keep every processor busy in the search as well, where a multiplication spread over the
    processors would leave all but one idle afterwards.

    Args:
        work: writes its result where no other part's goes. threads: None is one a processor this process may use.

    >>> squares = np.zeros(4)
    >>> for_each_block(lambda part: squares.__setitem__(part, np.arange(4)[part] ** 2), [slice(0, 2), slice(2, 4)], 2)
    >>> squares.tolist()
    [0.0, 1.0, 4.0, 9.0]
    """
    threads = min(len(parts), len(os.sched_getaffinity(0)) if threads is None else threads)
    if threads <= 1:
        for part in parts:
            work(part)
        return
    with threadpoolctl.threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(threads) as pool:
        for done in [pool.submit(work, part) for part in parts]:
            done.result()


def masked_scores(
    score_block: ScoreBlock,
    part: slice,
    users: NDArray[np.int64],
    seen: Interactions | None,
    allowed: NDArray[np.bool_] | None,
) -> NDArray[np.floating]:
    """The scores of one block, -inf for row 0, for what the user has seen and for what is not allowed. [b, N + 1]"""
    # Own and writable: a view of a model's cached table must not be masked in place.
    scores = np.require(score_block(part), None, ["C", "W", "O"])
    _check_block(scores, part, allowed)
    scores[:, 0] = -np.inf
    if allowed is not None:
        scores[:, ~allowed] = -np.inf
    if seen is not None:
        masked = seen.select(users[part])
        scores[masked.users, masked.rows] = -np.inf
    return scores


def select_top_k(scores: NDArray[np.floating], k: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """The k largest entries of each line of [b, W], -inf left out, ties by the lower column; padded with 0 and -inf.

    Equal to `np.argsort(-scores, kind="stable")[:, :k]`. Instead of sorting W columns: cut the columns into groups; the
    k-th largest group maximum is a floor that at least k entries reach and few others do, so one pass of comparisons
    leaves a little over k candidates to sort.

    >>> rows, values = select_top_k(np.array([[1.0, 7.0, 7.0, -np.inf]]), k=2)
    >>> rows.tolist(), values.tolist()
    ([[1, 2]], [[7.0, 7.0]])
    """
    lines, width = scores.shape
    # The flat search is ten times as fast as NumPy's search of a table.
    line, column = np.divmod(np.flatnonzero(_find_candidates(scores, k)), width)
    value = scores[line, column]
    order = np.lexsort((-value, line))  # stable: within a line and a score, columns stay ascending
    line, column, value = line[order], column[order], value[order]
    starts = np.searchsorted(line, np.arange(lines))
    place = np.arange(len(line)) - starts[line]
    kept = place < k
    rows, best = np.zeros((lines, k), np.int32), np.full((lines, k), -np.inf, np.float32)
    rows[line[kept], place[kept]], best[line[kept], place[kept]] = column[kept], value[kept]
    return rows, best


def _find_candidates(scores: NDArray[np.floating], k: int) -> NDArray[np.bool_]:
    """bool [b, W]: a superset of each line's top k that has, unless few are finite, not many more than k members."""
    lines, width = scores.shape
    smallest = np.finfo(scores.dtype).min  # below it only -inf: excluded entries
    if width <= k:
        return scores >= smallest
    size = max(1, min(32, width // (8 * k)))
    groups = width // size
    maxima = scores[:, : groups * size].reshape(lines, size, groups).max(axis=1)
    floor = np.partition(maxima, groups - k, axis=1)[:, groups - k] if groups >= k else np.full(lines, smallest)
    candidates = scores >= np.maximum(floor, smallest)[:, None]
    # Many equal scores (a sparse model's zeros) make the floor useless: keep the k-th value's first columns only.
    crowded = np.flatnonzero(np.count_nonzero(candidates, axis=1) > 8 * k)
    if crowded.size:
        subset = scores[crowded]
        kth = np.maximum(np.partition(subset, width - k, axis=1)[:, width - k], smallest)[:, None]
        above, equal = subset > kth, subset == kth
        room = k - np.count_nonzero(above, axis=1)[:, None]
        candidates[crowded] = above | (equal & (np.cumsum(equal, axis=1, dtype=np.int32) <= room))
    return candidates


def _blocks(count: int, block: int, k: int) -> list[slice]:
    if k < 1 or block < 1:
        raise ValueError(f"k, block: must be >= 1, received k={k} and block={block}")
    return [slice(start, min(start + block, count)) for start in range(0, count, block)]


def _check_block(scores: NDArray, part: slice, allowed: NDArray[np.bool_] | None) -> None:
    expected = part.stop - part.start
    if scores.ndim != 2 or len(scores) != expected or not np.issubdtype(scores.dtype, np.floating):
        raise ValueError(
            f"score_block: must return floats [{expected}, N + 1] for {part}, received {scores.dtype} {scores.shape}"
        )
    if allowed is not None and allowed.shape != (scores.shape[1],):
        raise ValueError(f"allowed: must be bool [{scores.shape[1]}], received {allowed.shape}; it has one flag a row")
    if np.isnan(scores.max(initial=-np.inf)):
        raise ValueError(
            f"score_block: scores must not be NaN, received {np.isnan(scores).sum()} for {part}; "
            "the model has diverged or an input table is broken"
        )
