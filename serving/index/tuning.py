"""How hard an approximate index should look: the least effort whose measured recall reaches a target."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import tensorflow as tf

from serving.index.index import CandidateIndex
from serving.index.measure import recall_at_k, search_in_blocks
from serving.index.partitioned_index import PartitionedIndex, fewest_blocks

POINTS_BEYOND = 2
"""Points of the trade-off that are measured after the goal is reached, so that a plot shows where more buys nothing; none
where nobody looks at one."""


class RecallJudge:
    """Recall against exact search on a run's own queries: one half of them chooses, the other half is reported.

    Args:
        table: f32 [N + 1, D]. queries: f32 [Q, D].
        exact: the exact index of the table.
        k: neighbours that settings are chosen by. reported_k: neighbours reported beside them, at most k.
    """

    def __init__(self, table: np.ndarray, queries: np.ndarray, exact: CandidateIndex, k: int, reported_k: int):
        self.table, self.queries, self.k, self.reported_k = table, queries, k, reported_k
        self.truth = search_in_blocks(exact, queries, k)[1]
        self.held_out = slice(1, None, 2) if len(queries) > 1 else slice(None)

    def choosing(self, index: CandidateIndex) -> float:
        """Recall@k on the half that settings are chosen by."""
        return self._recall(index, slice(0, None, 2), self.k)

    def reported(self, index: CandidateIndex) -> dict[str, float]:
        """Recall on the other half, by its name in the report."""
        return {recall_key(k): self._recall(index, self.held_out, k) for k in {self.reported_k, self.k}}

    def _recall(self, index: CandidateIndex, part: slice, k: int) -> float:
        rows, _ = search_in_blocks(index, self.queries[part], k)
        return recall_at_k(rows, self.truth[part, :k], self.queries[part], self.table)


@dataclasses.dataclass
class TunedIndex:
    """An index with its effort chosen.

    Attributes:
        index: set to the chosen effort. effort: the variable of it. unit: what it counts. total: the most it can be.
        points: efforts that were tried with their recall, rising. settings: for the report.
    """

    index: Any
    effort: tf.Variable
    unit: str
    total: int
    points: list[tuple[int, float]]
    settings: dict[str, Any]

    def setting(self, effort: int) -> str:
        """An effort as people read it."""
        return f"{effort} of {self.total} {self.unit}" if self.total else "all items"


def tune_partitioned(
    judge: RecallJudge, target: float, vectors: str = "float16", seed: int = 0, beyond: int = POINTS_BEYOND
) -> TunedIndex:
    """A partitioned index that scans the fewest blocks that reach the target, or else as many as it may."""
    index = PartitionedIndex.build(judge.table, measured_k=judge.k, vectors=vectors, seed=seed)
    half = max(1, index.blocks // 2)
    ladder = half_octaves(min(half, max(index.blocks // 200, math.ceil(fewest_blocks(judge.k)))), half)
    points = climb(ladder, index.budget.assign, lambda: judge.choosing(index), target, beyond)
    best = least_effort(points, target)
    index.budget.assign(best)
    settings = {"leaves": index.leaves, "blocks": index.blocks, "budget": best}
    return TunedIndex(index, index.budget, "blocks", index.blocks, points, settings)


def tune_scann(judge: RecallJudge, target: float, beyond: int = POINTS_BEYOND) -> TunedIndex:
    """ScaNN's index with the fewest leaves, and then the fewest exact scores, that reach the target."""
    # ScaNN loads a library of operations when imported; a run without it does not need it.
    from serving.index.scann_index import ScannIndex

    index = ScannIndex.build(judge.table)
    leaves, count = int(index.leaves.numpy()), len(judge.table) - 1
    # Fewer leaves than hold 2 k items on average are never searched, see ScannIndex.
    ladder = half_octaves(min(leaves, math.ceil(2 * judge.k * leaves / count)), leaves)

    def set_effort(some: int) -> None:
        index.leaves_to_search.assign(max(some, 1))

    while True:
        points = climb(ladder, set_effort, lambda: judge.choosing(index), target, beyond)
        if points[-1][1] >= target or int(index.reorder.numpy()) >= count:
            break
        index.reorder.assign(min(count, 2 * int(index.reorder.numpy())))
    best = least_effort(points, target)
    set_effort(best)
    settings = {"leaves": leaves, "leaves_to_search": best, "reorder": int(index.reorder.numpy())}
    return TunedIndex(index, index.leaves_to_search, "leaves", leaves, points, settings)


def climb(
    ladder: Iterable[int],
    set_effort: Callable[[int], Any],
    recall: Callable[[], float],
    target: float,
    beyond: int = POINTS_BEYOND,
) -> list[tuple[int, float]]:
    """Recall at every effort of a rising ladder, until the target is reached and `beyond` more points.

    Example:
        >>> effort = []
        >>> climb([1, 2, 4, 8, 16, 32], effort.append, lambda: effort[-1] / 10, 0.2)
        [(1, 0.1), (2, 0.2), (4, 0.4), (8, 0.8)]
    """
    points: list[tuple[int, float]] = []
    reached = 0
    for effort in ladder:
        set_effort(effort)
        points.append((effort, recall()))
        reached += points[-1][1] >= target
        if reached > beyond:
            break
    return points


def least_effort(points: list[tuple[int, float]], target: float) -> int:
    """The first effort that reaches the target; the one with the highest recall where none does."""
    return next((effort for effort, recall in points if recall >= target), max(points, key=lambda point: point[1])[0])


def half_octaves(lowest: int, highest: int) -> list[int]:
    """From lowest to highest in powers of the square root of two; highest alone where lowest is 0.

    Example:
        >>> half_octaves(3, 20)
        [3, 4, 6, 8, 12, 17, 20]
    """
    if lowest < 1:
        return [highest]
    steps = 2 * math.ceil(math.log2(highest / lowest)) + 1
    return sorted({min(highest, round(lowest * 2 ** (step / 2))) for step in range(steps)})


def recall_key(k: int) -> str:
    """The name of a recall in reports."""
    return f"recall@{k}_vs_exact"
