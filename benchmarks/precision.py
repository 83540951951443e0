"""What a release loses and saves with its tables in half precision or eight bits, and with a ranker of fewer units.

    python benchmarks/precision.py --run runs/demo
    python benchmarks/precision.py --run runs/demo --quick

For each precision, for each share of pruned units (`serving.prune`) and for both at once, the models `retrieval` and
`ranking` are written as `export` writes them, but for the time before the test split, and judged as `evaluate` judges the
ranker: every visit of the test split is retrieved for and ranked by them, in strings as a server is asked, and NDCG@10 is by
what was chosen in it. float32's is therefore the report's own. Bounds are those of 95 % intervals by resampling users with
all their visits, of NDCG@10 and of its difference from float32's; recall@100 is the share of float32's own first 100 that are
retrieved. Latency is of one request in this process, retrieval and ranking, and of ranking alone; float32's is measured
twice, first and last, so that a busy machine shows. `--xla` adds ranking with its network compiled by XLA. The last line is
one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import tensorflow as tf

from data.dataset import Dataset
from pipeline.metrics.metrics import ndcg_at_k
from pipeline.ranker.lists import RankingFold, retrieve_fold
from pipeline.ranker.rank_requests import order_by
from pipeline.ranker.request_quality import judged_requests, wanted_items, with_intervals
from pipeline.release.export_stage import serving_tables
from pipeline.retrieval.served import Served, load_served
from ranking.config import RankingConfig
from ranking.pruning import prune_ranker
from ranking.serving_form import RankingServingForm
from ranking.stored_rows import PRECISIONS
from serving.export.ranking import RankingModule
from serving.export.retrieval import RetrievalModule
from serving.index.index import ExactIndex

KNOWN = ("train", "valid")
VARIANTS: dict[str, tuple[str, float]] = {
    **{name: (name, 0.0) for name in PRECISIONS},
    **{f"pruned {share:.0%}".replace("%", " %"): ("float32", share) for share in (0.25, 0.5, 0.75)},
    "int8, pruned 50 %": ("int8", 0.5),
}
"""name -> precision, share of the ranker's units that are pruned."""
BLOCK = 64
COMPARED = 100
"""Places of the retrieved list that are compared with float32's."""
K = 10


def modules(
    run: Path, dataset: Dataset, served: Served, precision: Any, share: float
) -> tuple[RetrievalModule, RankingModule]:
    """Both models of a release made before the test split, the ranker without that share of its units."""
    ensemble, two_tower = served.ensemble, served.two_tower
    form = RankingServingForm.load(run / "ranking" / "serving_form")
    length, longer = two_tower.config.history_length, form.config.history_length
    tables = serving_tables(dataset, run / "ingest", length, KNOWN, ranker_history=longer)
    tower = two_tower.user_tower if ensemble is None else ensemble.user_tower
    history = None if ensemble is None else ensemble.linear.history
    index = ExactIndex(served.items, precision)
    ranker = prune_ranker(form, share, tables.history)
    return (
        RetrievalModule(tables, tower, index, history, precision=precision),
        RankingModule(tables, ranker, precision, dataset.context_vocabulary),
    )


def strings(values: Iterable[str]) -> np.ndarray:
    """bytes in an object array."""
    return np.array([value.encode() for value in values], object)


def judge(
    dataset: Dataset, retrieval: RetrievalModule, ranking: RankingModule, config: RankingConfig, length: int
) -> tuple[RankingFold, np.ndarray]:
    """The visits of the test split with what the release retrieves for each, and the ranker's scores of that, [R, T]."""
    users, items = strings(dataset.users["user_id"]), strings(dataset.items["item_id"])
    nothing = tf.zeros((BLOCK, 0), tf.string)

    def in_blocks(count: int, answer: Callable[[np.ndarray], tf.Tensor]) -> np.ndarray:
        parts = [np.minimum(np.arange(start, start + BLOCK), count - 1) for start in range(0, count, BLOCK)]
        return np.concatenate([answer(part).numpy() for part in parts])[:count]

    def query(rows: np.ndarray, history: np.ndarray) -> np.ndarray:
        def ask(part: np.ndarray) -> tf.Tensor:
            return retrieval.retrieve(users[rows[part]], items[history[part]], nothing, tf.constant(1))["query"]

        return in_blocks(len(rows), ask)

    def search(queries: np.ndarray, k: int, excluded: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        rows, scores = retrieval.index.search(tf.constant(queries), tf.constant(k), tf.constant(excluded, tf.int32))
        return rows.numpy(), scores.numpy()

    fold = retrieve_fold(dataset, "test", query, search, config, known_splits=KNOWN, query_history=length)
    fold = judged_requests(fold)
    asked, context = fold.requests, np.full(fold.requests.context.shape, b"", object)
    for place, (column, words) in enumerate(dataset.context_vocabulary.items()):
        context[:, place] = strings(f"{column}={word}" if word else "" for word in words)[asked.context[:, place]]

    def rank(part: np.ndarray) -> tf.Tensor:
        given = users[asked.user[part]], items[asked.history[part]], items[fold.rows[part]], fold.scores[part]
        return ranking.rank(*given, asked.timestamp[part], context[part])["score"]

    return fold, in_blocks(len(asked), rank)


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=Path("runs/demo"), help="run folder, trained up to the ranker")
    parser.add_argument("--quick", action="store_true", help="the first and the last variant: does it run?")
    parser.add_argument("--xla", action="store_true", help="also ranking compiled by XLA")
    arguments = parser.parse_args()
    dataset, served = Dataset.load(arguments.run / "ingest"), load_served(arguments.run)
    config = RankingServingForm.load(arguments.run / "ranking" / "serving_form").config
    asked = strings(dataset.users["user_id"])[1:][: 20 if arguments.quick else 200]
    results: dict[str, dict[str, Any]] = {}
    values: dict[str, np.ndarray] = {}
    visitors, expected = np.zeros(0, np.int32), np.zeros((0, 0), np.int32)
    for name in (*VARIANTS, "float32"):
        if arguments.quick and name not in ("float32", "int8, pruned 50 %"):
            continue
        retrieval, ranking = modules(arguments.run, dataset, served, *VARIANTS[name])
        latency(retrieval, ranking, asked[:20], config.retrieved)
        both, alone = latency(retrieval, ranking, asked, config.retrieved)
        if name in results:
            results[name] |= {"p50_ms_again": both, "ranking_p50_ms_again": alone}
            if arguments.xla:
                _, xla = latency(retrieval, ranking, asked, config.retrieved, xla=True)
                results[name]["ranking_p50_ms_xla"] = xla
            continue
        fold, scores = judge(dataset, retrieval, ranking, config, served.history_length)
        values[name] = ndcg_at_k(order_by(fold.rows, scores)[:, :K], wanted_items(fold.requests, fold.released), K)
        if not len(expected):
            visitors, expected = fold.requests.user, fold.rows
        results[name] = {
            **sizes(retrieval, ranking),
            "recall@100_vs_float32": round(overlap(fold.rows, expected), 5),
            "p50_ms": both,
            "ranking_p50_ms": alone,
        }
        print(json.dumps({name: results[name]}), flush=True)
    less = {f"{name}_change": column - values["float32"] for name, column in values.items()}
    for name, bounds in with_intervals({**values, **less}, visitors, config.seed).items():
        variant = name.removesuffix("_change")
        results[variant]["ndcg@10" + name.removeprefix(variant)] = [round(bound, 5) for bound in bounds]
    print(f"{'':17} retrieval    ranking  recall@100  NDCG@10  [95 %]            change   [95 %]              request  ranking")
    for name, result in results.items():
        mean, low, high = result["ndcg@10"]
        change, least, most = result["ndcg@10_change"]
        print(
            f"{name:17} {result['retrieval'] / 1e6:6.2f} MB  {result['ranking'] / 1e6:6.2f} MB  "
            f"{result['recall@100_vs_float32']:10.4f}  {mean:.4f}  [{low:.4f}, {high:.4f}]  {change:+.4f}  "
            f"[{least:+.4f}, {most:+.4f}]  {result['p50_ms']:6.2f} ms {result['ranking_p50_ms']:5.2f} ms"
        )
    print(
        json.dumps(
            {
                "benchmark": "precision",
                "run": arguments.run.name,
                "visits": int(np.count_nonzero(~np.isnan(values["float32"]))),
                "items": len(dataset.items) - 1,
                "width": served.items.shape[1],
                "variants": results,
            }
        )
    )


if __name__ == "__main__":
    main()
