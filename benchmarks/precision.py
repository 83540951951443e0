"""What a release loses and saves with its tables in half precision or eight bits, and with a ranker of fewer units.

    python benchmarks/precision.py --run runs/demo
    python benchmarks/precision.py --run runs/demo --quick

For each precision, and in float32 for each share of pruned units (`serving.prune`), the models `retrieval` and `ranking` are
written as `export` writes them, but for the time before the test split, and asked as a server is asked: retrieve the best,
rank them, once for every user of the test split. NDCG@10 is that of the ranked lists, recall@100 the share of float32's own
first 100 that are found, and the difference in NDCG@10 comes with a bootstrap interval of 95 % over users. Latency is of one
request in this process, retrieval and ranking, and of ranking alone; float32's is measured twice, first and last, so that a
busy machine shows. `--xla` adds ranking with its network compiled by XLA. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import tensorflow as tf

from data.dataset import Dataset
from pipeline.examples import Requests, make_requests
from pipeline.export_stage import serving_tables
from pipeline.metrics import ndcg_at_k
from pipeline.served import Served, load_served
from ranking.pruning import prune_ranker
from ranking.serving_form import RankingServingForm
from ranking.stored_rows import PRECISIONS
from serving.export_ranking import RankingModule
from serving.export_retrieval import RetrievalModule
from serving.index import ExactIndex

KNOWN = ("train", "valid")
VARIANTS: dict[str, tuple[str, float]] = {
    **{name: (name, 0.0) for name in PRECISIONS},
    **{f"pruned {share:.0%}".replace("%", " %"): ("float32", share) for share in (0.25, 0.5, 0.75)},
}
"""name -> precision, share of the ranker's units that are pruned."""
BLOCK = 64
COMPARED = 100
"""Places of the retrieved list that are compared with float32's."""


def modules(
    run: Path, dataset: Dataset, served: Served, precision: Any, share: float
) -> tuple[RetrievalModule, RankingModule]:
    """Both models of a release made before the test split, the ranker without that share of its units."""
    ensemble, two_tower = served.ensemble, served.two_tower
    tables = serving_tables(dataset, run / "ingest", two_tower.config.history_length, KNOWN)
    tower = two_tower.user_tower if ensemble is None else ensemble.user_tower
    history = None if ensemble is None else ensemble.linear.history
    index = ExactIndex(served.items, precision)
    ranker = prune_ranker(RankingServingForm.load(run / "ranking" / "serving_form"), share, tables.history)
    return RetrievalModule(tables, tower, index, history, precision=precision), RankingModule(tables, ranker, precision)


def ask(
    retrieval: RetrievalModule, ranking: RankingModule, users: np.ndarray, times: np.ndarray, candidates: int
) -> tuple[np.ndarray, np.ndarray]:
    """Item ids of many users, in the order of retrieval and in that of the ranker: [Q, candidates] each."""
    retrieved, ranked = [], []
    nothing = tf.zeros((BLOCK, 0), tf.string)
    for start in range(0, len(users), BLOCK):
        rows = np.minimum(np.arange(start, start + BLOCK), len(users) - 1)
        names = tf.constant(users[rows])
        found = retrieval.retrieve(names, nothing, nothing, tf.constant(candidates))
        ids = found["item_ids"]
        scores = ranking.rank(names, nothing, ids, found["scores"], tf.constant(times[rows]))["score"].numpy()
        order = np.argsort(-scores, axis=1, kind="stable")
        kept = min(BLOCK, len(users) - start)
        retrieved.append(ids.numpy()[:kept])
        ranked.append(np.take_along_axis(ids.numpy(), order, axis=1)[:kept])
    return np.concatenate(retrieved), np.concatenate(ranked)


def latency(
    retrieval: RetrievalModule, ranking: RankingModule, users: np.ndarray, candidates: int, xla: bool = False
) -> tuple[float, float]:
    """Median milliseconds of one request, retrieval and ranking, and of ranking alone."""
    rank: Any = ranking.rank
    if xla:
        # Lookups of strings cannot be compiled: the network alone is, as ranking calls it.
        network = ranking.ranker
        ranking.ranker = tf.function(lambda *inputs: network(*inputs), jit_compile=True, autograph=False)
        rank = tf.function(ranking.rank.python_function, autograph=False)
    nothing, seconds = tf.zeros((1, 0), tf.string), []
    for user in users:
        start = time.perf_counter()
        name = tf.constant([user])
        found = retrieval.retrieve(name, nothing, nothing, tf.constant(candidates))
        ids, scores = found["item_ids"], found["scores"]
        middle = time.perf_counter()
        rank(name, nothing, ids, scores, tf.constant([0], tf.int64))["score"].numpy()
        seconds.append((time.perf_counter() - start, time.perf_counter() - middle))
    both, alone = np.median(seconds[len(seconds) // 10 :], axis=0)
    return round(float(both) * 1e3, 3), round(float(alone) * 1e3, 3)


def sizes(retrieval: RetrievalModule, ranking: RankingModule) -> dict[str, int]:
    """Bytes of both models as `export` writes them, and of their variables."""
    found: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, module in (("retrieval", retrieval), ("ranking", ranking)):
            module.save(Path(folder) / name)
            files = [path for path in (Path(folder) / name).rglob("*") if path.is_file()]
            found[name] = sum(path.stat().st_size for path in files)
            found[f"{name}_variables"] = sum(
                path.stat().st_size for path in files if path.name.startswith("variables.data")
            )
    return found


def overlap(found: np.ndarray, expected: np.ndarray) -> float:
    """Mean share of each line's first ids that are found, whatever their order."""
    shares = [
        len(set(line[:COMPARED]) & set(wanted[:COMPARED])) / len(set(wanted[:COMPARED]))
        for line, wanted in zip(found.tolist(), expected.tolist(), strict=True)
    ]
    return float(np.mean(shares))


def ndcg(ranked: np.ndarray, row_of: dict[bytes, int], requests: Requests) -> np.ndarray:
    """NDCG@10 of every user."""
    rows = np.array([[row_of.get(name, 0) for name in line] for line in ranked[:, :10].tolist()], np.int32)
    return ndcg_at_k(rows, requests.relevant, 10)


def interval(differences: np.ndarray, draws: int = 2000) -> list[float]:
    """Bootstrap over users of a mean difference, 95 %."""
    rng = np.random.default_rng(0)
    means = [differences[rng.integers(0, len(differences), len(differences))].mean() for _ in range(draws)]
    return [round(float(value), 5) for value in np.percentile(means, [2.5, 97.5])]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=Path("runs/demo"), help="run folder, trained up to the ranker")
    parser.add_argument("--candidates", type=int, default=200, help="retrieved and ranked")
    parser.add_argument("--quick", action="store_true", help="200 users: does it run?")
    parser.add_argument("--xla", action="store_true", help="also ranking compiled by XLA")
    arguments = parser.parse_args()
    dataset, served = Dataset.load(arguments.run / "ingest"), load_served(arguments.run)
    requests = make_requests(dataset, "test", known_splits=KNOWN, history_length=served.history_length)
    if arguments.quick:
        requests = requests.take(np.arange(min(200, len(requests.users))))
    users = np.array([name.encode() for name in dataset.users["user_id"].iloc[requests.users]], object)
    row_of = {name.encode(): row for row, name in enumerate(dataset.items["item_id"]) if row}
    results: dict[str, dict[str, Any]] = {}
    reference: tuple[np.ndarray, np.ndarray] | None = None
    for name in (*VARIANTS, "float32"):
        retrieval, ranking = modules(arguments.run, dataset, served, *VARIANTS[name])
        ask(retrieval, ranking, users[:BLOCK], requests.timestamps[:BLOCK], arguments.candidates)
        both, alone = latency(retrieval, ranking, users[:200], arguments.candidates)
        if name in results:
            results[name] |= {"p50_ms_again": both, "ranking_p50_ms_again": alone}
            if arguments.xla:
                _, results[name]["ranking_p50_ms_xla"] = latency(
                    retrieval, ranking, users[:200], arguments.candidates, xla=True
                )
            continue
        retrieved, ranked = ask(retrieval, ranking, users, requests.timestamps, arguments.candidates)
        each = ndcg(ranked, row_of, requests)
        if reference is None:
            reference = retrieved, each
        difference = each - reference[1]
        results[name] = {
            **sizes(retrieval, ranking),
            "recall@100_vs_float32": round(overlap(retrieved, reference[0]), 5),
            "ndcg@10": round(float(each.mean()), 5),
            "ndcg@10_change": round(float(difference.mean()), 5),
            "ndcg@10_change_interval": interval(difference),
            "p50_ms": both,
            "ranking_p50_ms": alone,
        }
        print(json.dumps({name: results[name]}), flush=True)
    for name, result in results.items():
        print(
            f"{name:11} {result['retrieval'] / 1e6:8.2f} MB retrieval {result['ranking'] / 1e6:8.2f} MB ranking  "
            f"recall@100 {result['recall@100_vs_float32']:.4f}  NDCG@10 {result['ndcg@10']:.4f} "
            f"({result['ndcg@10_change']:+.5f})  {result['p50_ms']:.2f} ms, ranking {result['ranking_p50_ms']:.2f} ms"
        )
    print(
        json.dumps(
            {
                "benchmark": "precision",
                "run": arguments.run.name,
                "users": len(users),
                "items": len(row_of),
                "width": served.items.shape[1],
                "variants": results,
            }
        )
    )


if __name__ == "__main__":
    main()
