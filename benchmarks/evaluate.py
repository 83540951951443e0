"""Exact evaluation over the full catalogue against `tfrs.metrics.FactorizedTopK`: same vectors, same answers, one run.

    python benchmarks/evaluate.py
    python benchmarks/evaluate.py --quick

6,000 users, 50,000 items, width 64, one held-out item a user; recall@k for k = 1, 5, 10, 50, 100 by

- `factorized_top_k`: the metric as TFRS's tutorials use it: candidates as a dataset in batches of 128, which it reads
  through its `Streaming` layer, queries in batches of 4,096. The held-out items are told by their ids: without ids the
  metric compares the item's score with the list's, where the item itself may stand rounded a last bit higher, and then
  takes it for another (R@1 .127 instead of .188 on 600 users and 5,000 items);
- `factorized_top_k_tuned`: the same with the fastest of a few batch sizes, tried first (`--quick`: on a part of the users);
- `lists`: `pipeline.metrics.top_k`, the 100 best of every user, then the metrics; `places`:
  `pipeline.metrics.positive_ranks`, the places of the held-out items alone; `masked`: `lists` with 100 seen items a user
  left out, which FactorizedTopK cannot do.

The first two make no lists one could mask or look at, and are timed without their graph's tracing, which happens on a few
users before. All run on the same processors, in turns, `--repeats` times, and count by their median (with `--quick`
`factorized_top_k`, which takes longer than all others together, runs once). `ratio_to_tfrs` is that of `factorized_top_k`
to `lists`. Equal means: every recall differs by no more than the users whose held-out item ties or
rounds with a border of the list; the run fails beyond 2 of 6,000. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import tensorflow as tf
import tensorflow_recommenders as tfrs

from pipeline.metrics.interactions import Interactions
from pipeline.metrics.metrics import mean_over_users, recall_at_k
from pipeline.metrics.positive_ranks import as_ranked, rank_positives
from pipeline.metrics.top_k import dot_product_scores, top_k

KS = (1, 5, 10, 50, 100)
TUTORIAL = (128, 4096)
"""Batch sizes of candidates and queries in TFRS's retrieval tutorial."""
TUNED = ((1024, 1024), (4096, 1024), (4096, 8192), (16384, 8192))


def make_world(users: int, items: int, width: int, seen: int, seed: int) -> dict[str, Any]:
    """Vectors with a held-out item a user that is near the query, so that recalls are not all 0; row 0 is nobody."""
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(items + 1, width)).astype(np.float32)
    vectors[0] = 0.0
    held_out = rng.integers(1, items + 1, size=users)
    queries = (0.35 * vectors[held_out] + rng.normal(size=(users, width))).astype(np.float32)
    known = np.repeat(np.arange(users), seen), rng.integers(1, items + 1, size=users * seen)
    keep = known[1] != held_out[known[0]]
    return {
        "queries": queries,
        "items": vectors,
        "relevant": Interactions.from_lists(held_out[:, None]),
        "seen": Interactions.from_pairs(known[0][keep], known[1][keep], users),
    }


def by_tfrs(world: dict[str, Any], batches: tuple[int, int], users: int) -> tuple[float, dict[int, float]]:
    """Seconds and recalls of FactorizedTopK over the first `users` users."""
    candidates, queries = batches
    vectors, asked = world["items"][1:], world["queries"][:users]
    rows = world["relevant"].rows[:users]
    truth, ids = world["items"][rows], np.arange(1, len(vectors) + 1, dtype=np.int32)
    catalogue = tf.data.Dataset.from_tensor_slices((ids, vectors)).batch(candidates)
    metric = tfrs.metrics.FactorizedTopK(catalogue, ks=KS)

    @tf.function(reduce_retracing=True)
    def update(some_queries: tf.Tensor, their_items: tf.Tensor, their_ids: tf.Tensor) -> None:
        metric.update_state(some_queries, their_items, their_ids)

    for few in (8, 9):  # the second size makes the graph one for all sizes
        update(asked[:few], truth[:few], rows[:few])
    metric.reset_states()
    begun = time.perf_counter()
    for start in range(0, users, queries):
        part = slice(start, start + queries)
        update(asked[part], truth[part], rows[part])
    recalls = {k: float(value) for k, value in zip(KS, metric.result(), strict=True)}
    return time.perf_counter() - begun, recalls


def by_lists(world: dict[str, Any], seen: Interactions | None) -> dict[int, float]:
    users = np.arange(len(world["queries"]))
    ranked, _ = top_k(dot_product_scores(world["queries"], world["items"]), users, seen, max(KS))
    return {k: mean_over_users(recall_at_k(ranked, world["relevant"], k)) for k in KS}


def by_places(world: dict[str, Any]) -> dict[int, float]:
    users, relevant = np.arange(len(world["queries"])), world["relevant"]
    places = rank_positives(dot_product_scores(world["queries"], world["items"]), users, None, relevant)
    ranked = as_ranked(places, relevant, max(KS))
    return {k: mean_over_users(recall_at_k(ranked, relevant, k)) for k in KS}


Measured = tuple[float, dict[int, float]]
"""Seconds, and recall at every k."""


def timed(work: Callable[[], dict[int, float]]) -> Measured:
    begun = time.perf_counter()
    recalls = work()
    return time.perf_counter() - begun, recalls


def in_turns(systems: dict[str, Callable[[], Measured]], repeats: int, once: Collection[str]) -> dict[str, Measured]:
    """Median seconds and recalls of systems that take turns, so that what disturbs the machine disturbs them all alike."""
    found: dict[str, list[Measured]] = {name: [] for name in systems}
    for turn in range(repeats):
        for name, work in systems.items():
            if not turn or name not in once:
                found[name].append(work())
    return {name: (statistics.median(seconds for seconds, _ in runs), runs[0][1]) for name, runs in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=6000)
    parser.add_argument("--items", type=int, default=50_000)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--seen", type=int, default=100, help="items a user has seen, for `masked`")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--quick", action="store_true", help="fewer repeats and two of the tuned sizes: under 50 s")
    arguments = parser.parse_args()
    sizes, repeats = (TUNED[1:3], 2) if arguments.quick else (TUNED, arguments.repeats)
    world = make_world(arguments.users, arguments.items, arguments.width, arguments.seen, arguments.seed)
    some = min(arguments.users, 1500) if arguments.quick else arguments.users
    tuned = min(sizes, key=lambda batches: by_tfrs(world, batches, some)[0])
    systems: dict[str, Callable[[], Measured]] = {
        "factorized_top_k": lambda: by_tfrs(world, TUTORIAL, arguments.users),
        "factorized_top_k_tuned": lambda: by_tfrs(world, tuned, arguments.users),
        "lists": lambda: timed(lambda: by_lists(world, None)),
        "places": lambda: timed(lambda: by_places(world)),
        "masked": lambda: timed(lambda: by_lists(world, world["seen"])),
    }
    measured = in_turns(systems, repeats, once=("factorized_top_k",) if arguments.quick else ())
    for name, (seconds, recalls) in measured.items():
        print(f"{name:24} {seconds:7.3f} s  " + "  ".join(f"R@{k} {value:.4f}" for k, value in recalls.items()))
    truth = measured["lists"][1]
    differing = max(
        round(abs(recalls[k] - truth[k]) * arguments.users)
        for name, (_, recalls) in measured.items()
        if name != "masked"
        for k in KS
    )
    if differing > 2 * max(1, arguments.users // 6000):
        raise SystemExit(f"recalls differ by {differing} users, which ties and rounding cannot explain")
    seconds = {name: value for name, (value, _) in measured.items()}
    report = {
        "benchmark": "evaluate",
        "users": arguments.users,
        "items": arguments.items,
        "width": arguments.width,
        "processors": len(os.sched_getaffinity(0)),
        "seconds": {name: round(value, 4) for name, value in seconds.items()},
        "tuned_batches": tuned,
        "recall": {name: {str(k): round(value, 6) for k, value in recalls.items()} for name, (_, recalls) in measured.items()},
        "users_that_differ": differing,
        "ratio_to_tfrs": round(seconds["factorized_top_k"] / seconds["lists"], 2),
        "ratio_to_tfrs_tuned": round(seconds["factorized_top_k_tuned"] / seconds["lists"], 2),
        "ratio_to_tfrs_places": round(seconds["factorized_top_k"] / seconds["places"], 2),
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
