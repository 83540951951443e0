"""What re-ranking takes: pages of 50 out of 500 candidates, and of 10 out of 200, by NumPy and inside a graph.

    taskset -c 0 python benchmarks/policy.py

Content of three modalities of 16 numbers. Every policy is `ranking.rerank.rerank` as it is served: one request at a time,
warm, p50 and p99 of `--repeats` calls. `determinant` is a DPP's greedy choice alone, written out once more in its plainest
form (every step solves for each candidate's volume with the whole Cholesky factor); both must choose the same items, or the
run fails. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import tensorflow as tf

from ranking.array_ops import numpy_ops
from ranking.diversity import RIDGE
from ranking.policy import BOUNDS, Policy
from ranking.rerank import Candidates, rerank

SIZES = ((500, 50), (200, 10))
POLICIES = {
    "none": Policy(),
    "mmr": Policy(mmr_lambda=0.8),
    "dpp": Policy(dpp=0.1),
    "caps": Policy(creator_cap=2, category_cap=5),
    "floor": Policy(group_share=0.3),
    "epsilon": Policy(epsilon=0.1),
    "thompson": Policy(thompson=1.0),
}


def request(count: int, k: int, seed: int) -> Candidates:
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(1, 3, count, 16)).astype(np.float32)
    shape = (1, count)
    return Candidates(
        rows=1 + rng.permutation(count)[None].astype(np.int32),
        scores=rng.random(shape).astype(np.float32),
        creator=rng.integers(0, count // 5, shape).astype(np.int32),
        category=rng.integers(0, 10, shape).astype(np.int32),
        protected=rng.random(shape) < 0.2,
        vectors=vectors / np.linalg.norm(vectors, axis=3, keepdims=True),
        deviation=(0.1 * rng.random(shape)).astype(np.float32),
        uniforms=rng.random((1, k)).astype(np.float32),
    )


def plain_determinants(given: Candidates, k: int, strength: float) -> list[int]:
    """Greedy MAP by the determinants of growing matrices: K solves a step."""
    flat = given.vectors[0].transpose(1, 0, 2).reshape(given.rows.shape[1], -1).astype(np.float64)
    flat /= np.linalg.norm(flat, axis=1, keepdims=True)
    kernel = (1 - RIDGE) * (1 + flat @ flat.T) / 2
    np.fill_diagonal(kernel, 1.0)
    scores = given.scores[0].astype(np.float64)
    spread, chosen = scores.max() - scores.min(), []
    for _ in range(k):
        volume = np.ones(len(scores))
        if chosen:
            own = kernel[np.ix_(chosen, chosen)]
            volume = 1.0 - np.einsum("ik,ki->i", kernel[:, chosen], np.linalg.solve(own, kernel[chosen]))
        utility = scores + spread * strength * np.log(np.maximum(volume, 1e-6))
        utility[chosen] = -np.inf
        chosen.append(int(utility.argmax()))
    return chosen


def milliseconds(work: Callable[[], object], repeats: int) -> dict[str, float]:
    for _ in range(5):
        work()
    taken = []
    for _ in range(repeats):
        begun = time.perf_counter()
        work()
        taken.append(time.perf_counter() - begun)
    p50, p99 = np.percentile(np.array(taken) * 1e3, [50, 99])
    return {"p50_ms": round(float(p50), 3), "p99_ms": round(float(p99), 3)}


def graph_of(given: Candidates) -> Callable[[Policy, int], np.ndarray]:
    """The served form: every shape and weight an input."""
    fields = [field.name for field in dataclasses.fields(given) if getattr(given, field.name) is not None]
    tensors = {name: tf.constant(getattr(given, name)) for name in fields}
    shapes = {name: [1, 3, None, 16] if name == "vectors" else [None, None] for name in fields}
    signature = {name: tf.TensorSpec(shapes[name], tensor.dtype) for name, tensor in tensors.items()}

    @tf.function(
        input_signature=[signature, tf.TensorSpec([len(BOUNDS)]), tf.TensorSpec([], tf.int32)], autograph=False
    )
    def graph(inputs, weights, k):
        return rerank(Candidates(**inputs), dict(zip(BOUNDS, tf.unstack(weights), strict=True)), k).places

    return lambda policy, k: graph(tensors, tf.constant(list(policy.weights().values())), tf.constant(k)).numpy()


def measure(count: int, k: int, repeats: int, seed: int) -> dict[str, dict]:
    """Every policy at one size, by both engines, whose pages must be the same."""
    given = request(count, k, seed)
    graph, figures = graph_of(given), {}
    for name, policy in POLICIES.items():
        engines = {
            "numpy": lambda policy=policy: rerank(given, policy, k, ops=numpy_ops).places,
            "graph": lambda policy=policy: graph(policy, k),
        }
        if not np.array_equal(*(page() for page in engines.values())):
            raise SystemExit(f"{name}, {count} to {k}: the graph's page is not that of NumPy")
        figures[name] = {engine: milliseconds(page, repeats) for engine, page in engines.items()}
        print(f"{count} to {k}  {name:9}", "  ".join(f"{engine} {each}" for engine, each in figures[name].items()))
    dpp = POLICIES["dpp"]
    if plain_determinants(given, k, dpp.dpp) != rerank(given, dpp, k, ops=numpy_ops).places[0].tolist():
        raise SystemExit(f"dpp, {count} to {k}: greedy choice by determinants gives another page")
    figures["determinant"] = {"numpy": milliseconds(lambda: plain_determinants(given, k, dpp.dpp), 10)}
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=200)
    parser.add_argument("--seed", type=int, default=7)
    arguments = parser.parse_args()
    report: dict[str, object] = {"benchmark": "policy", "processors": len(os.sched_getaffinity(0))}
    for count, k in SIZES:
        report[f"{count}_to_{k}"] = measure(count, k, arguments.repeats, arguments.seed)
    print(json.dumps(report))


if __name__ == "__main__":
    main()
