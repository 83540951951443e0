"""Searching a large catalogue: exact, partitioned and ScaNN on the same vectors. See `python benchmarks/serve.py --help`."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import tensorflow as tf

from benchmarks.serve_load import in_turns, open_loop, per_second
from benchmarks.serve_recommend import RECOMMENDS, RecommendWorld
from benchmarks.serve_served import measure_served
from benchmarks.serve_sessions import SavedSession, breakdown
from benchmarks.serve_world import kept, make_world
from pipeline.report.plots import plot_index
from serving.index.index import ExactIndex
from serving.index.measure import folder_bytes, measure_latency, recall_at_k, search_in_blocks
from serving.index.partitioned_index import PartitionedIndex, fewest_blocks
from serving.index.partitioned_layout import default_leaves, lay_out, partition
from serving.index.scann_index import ScannIndex
from serving.index.tuning import climb, half_octaves, recall_key

HELP = """
Vectors of length 1 around items / 250 centres of uneven size (the r-th largest has a share of r^-0.5), at 0.7 of their
centre's length from it; a query is an item and 0.5 of noise. They have no structure beyond their centres, so that most of
the 500 nearest lie in other clusters: harder than towers make it. Half of the queries choose every setting, recall is that
of the other half.

Each system is a SavedModel in a tf.compat.v1.Session with one thread, on one core:

  exact              all items by one product
  partitioned        core operations (serving/index/partitioned_index.py), the fewest blocks with recall 0.95; _98: with 0.98
  scann, scann_98    ScaNN's operations, the fastest of its numbers of leaves, leaves searched and exact scores with that
  recommend          the whole model of a release (serving/export/recommend.py) over `partitioned`: ids in, 500 excluded (half
                     of them what would be found), 500 ranked by the default ranker over three modalities, a page of 50 out;
                     tables in half precision, random weights; _mmr: the same graph asked for a diverse page

recall@k_vs_exact, of `recommend` that of what it ranks; p50_ms and p99_ms of single queries, the systems taking turns; qps,
queries a second in batches of 32; bytes of the SavedModel; times_faster than exact by p50; open_loop, latency from the
moment a query was due, at half of what the system's p50 allows; breakdown, milliseconds and operations of the steps of
`recommend`; server, the same through serving/local.py over gRPC (a process in Python, on another core if there is one): of
`recommend`, requests a second that a full load gets, client included, and latency at 75 a second. The last line is one JSON
object, with an entry for every system.

--plot draws recall, latency and bytes of exact, partitioned and ScaNN with several settings each, from the least effort to a
little more than recall 0.98 asks for: single queries in this process on the same core; `trade_off` has the figures.

examples:
  taskset -c 0 python benchmarks/serve.py --cache /tmp/serve   a million items; vectors and leaves are kept for the next time
  python benchmarks/serve.py --quick                           100,000 items: under 50 s
  python benchmarks/serve.py --quick --plot trade_off.svg      the same with the picture
"""
TARGETS = {"": 0.95, "_98": 0.98}
BATCH = 32


class Bench:
    """One world, and the systems that search it."""

    def __init__(self, options: argparse.Namespace, folder: Path):
        self.options, self.folder, self.k = options, folder, options.k
        name = f"{options.items}-{options.width}-{options.seed}-{options.queries}"
        self.cache = options.cache and Path(options.cache) / name
        self.table, self.queries = make_world(options.items, options.width, options.queries, options.seed)
        exact = ExactIndex(self.table)
        near = self.cache and self.cache / f"near-{self.k}.npy"
        self.near = kept(near, lambda: search_in_blocks(exact, self.queries, self.k)[0])
        pairs = zip(self.near, self.queries, strict=True)
        self.truth = np.stack([self.table[rows] @ query for rows, query in pairs])
        self.systems: dict[str, dict[str, Any]] = {}
        self.trade_off: list[dict[str, Any]] = []
        self.add("exact", exact, {})
        self.sweep("exact", exact, "all items", tf.Variable(0), [0])

    def recall(self, index: Any, half: int) -> float:
        """Of the even queries, which choose, or of the odd ones."""
        queries, truth = self.queries[half::2], self.truth[half::2]
        return recall_at_k(search_in_blocks(index, queries, self.k)[0], truth, queries, self.table)

    def add(self, name: str, index: Any, settings: dict[str, Any]) -> None:
        """Saves an index as it is set now, with its recall."""
        folder = self.folder / name / "1"
        index.save(folder)
        recall = 1.0 if name == "exact" else round(self.recall(index, 1), 4)
        self.systems[name] = {recall_key(self.k): recall, "bytes": folder_bytes(folder), **settings}
        print(name, self.systems[name], flush=True)

    def fewest(self, index: Any, effort: tf.Variable, lowest: int, highest: int, target: float) -> int:
        """Sets the effort to the least that reaches the target, since recall rises with it; `highest` if none does."""
        while lowest < highest:
            effort.assign((lowest + highest) // 2)
            if self.recall(index, 0) >= target:
                highest = (lowest + highest) // 2
            else:
                lowest = (lowest + highest) // 2 + 1
        effort.assign(lowest)
        return lowest

    def sweep(self, kind: str, index: Any, unit: str, effort: tf.Variable, efforts: Iterable[int]) -> None:
        """Recall and latency at rising efforts, for the plot, until a little beyond the highest target."""
        if not self.options.plot:
            return
        for some, recall in climb(efforts, effort.assign, lambda: self.recall(index, 1), max(TARGETS.values())):
            effort.assign(some)
            p50, p99 = measure_latency(index, self.queries, self.k, self.options.repeats)
            figures = {recall_key(self.k): recall, "p50_ms": p50, "p99_ms": p99, "bytes": self.systems[kind]["bytes"]}
            self.trade_off.append({"kind": kind, "setting": f"{some} {unit}" if some else unit, **figures})

    def partitioned(self) -> None:
        leaves = self.options.leaves or default_leaves(self.options.items)
        start = time.perf_counter()
        file = self.cache and self.cache / f"leaves-{leaves}.npy"
        cached = bool(file and file.is_file())  # then they are not built now
        nearest = kept(file, lambda: partition(self.table[1:], leaves))
        index = PartitionedIndex(lay_out(self.table, nearest), budget=1, measured_k=self.k)
        seconds = None if cached else round(time.perf_counter() - start, 1)
        least = int(np.ceil(fewest_blocks(self.k)))
        for suffix, target in TARGETS.items():
            budget = self.fewest(index, index.budget, least, index.blocks // 2, target)
            settings = {"leaves": index.leaves, "blocks": index.blocks, "budget": budget, "build_seconds": seconds}
            self.add(f"partitioned{suffix}", index, settings)
            if not suffix:
                self.world = RecommendWorld(self.table, self.near, self.folder / "ids", self.options.seed)
                self.world.export(index, self.folder / "recommend" / "1", self.k)
        efforts = half_octaves(max(least, index.blocks // 200), index.blocks // 2)
        self.sweep("partitioned", index, "blocks", index.budget, efforts)

    def scann(self) -> None:
        root, tried = round(self.options.items**0.5), []
        for leaves in (root,) if self.options.quick else (root, 2 * root):
            start = time.perf_counter()
            index = ScannIndex.build(self.table, leaves=leaves)
            seconds = round(time.perf_counter() - start, 1)
            for reorder in (4 * self.k, 8 * self.k):
                index.reorder.assign(reorder)
                for suffix, target in TARGETS.items():
                    searched = self.fewest(index, index.leaves_to_search, max(1, leaves // 40), leaves, target)
                    p50 = measure_latency(index, self.queries, self.k, 100)[0]
                    settings = {
                        "leaves": leaves,
                        "leaves_to_search": searched,
                        "reorder": reorder,
                        "build_seconds": seconds,
                    }
                    tried.append((suffix, self.recall(index, 0) < target, p50, settings))
            index.save(self.folder / f"leaves-{leaves}")
            index.release()
        for suffix in TARGETS:
            # The fastest that reaches its target.
            best = min((trial[1:] for trial in tried if trial[0] == suffix), key=lambda trial: trial[:2])[2]
            index = ScannIndex.restore(self.folder / f"leaves-{best['leaves']}")
            index.leaves_to_search.assign(best["leaves_to_search"])
            index.reorder.assign(best["reorder"])
            self.add(f"scann{suffix}", index, best)
            if suffix:
                efforts = half_octaves(max(1, best["leaves"] // 40), best["leaves"])
                self.sweep("scann", index, "leaves", index.leaves_to_search, efforts)
            index.release()

    def measure(self) -> None:
        """Times every system in a session of its own."""
        sessions = {name: SavedSession(self.folder / name / "1", "search") for name in self.systems}
        recommend = SavedSession(self.folder / "recommend" / "1", "serving_default")
        found = {recall_key(self.k): self.recommend_recall(recommend, sessions["exact"])}
        for name in RECOMMENDS:
            self.systems[name] = {**found, "bytes": folder_bytes(self.folder / "recommend" / "1")}
            sessions[name] = recommend
        singles = {name: self.asking(name, sessions[name], 1) for name in sessions}
        timed = in_turns(singles, self.options.repeats)
        for name, figures in self.systems.items():
            figures |= timed[name]
            figures["times_faster"] = round(timed["exact"]["p50_ms"] / timed[name]["p50_ms"], 2)
            figures["qps"] = per_second(self.asking(name, sessions[name], BATCH), BATCH, 3 if name == "exact" else 10)
            rate = self.options.rate or 500.0 / timed[name]["p50_ms"]
            figures["open_loop"] = open_loop(singles[name], rate, self.options.seconds, seed=self.options.seed)
        for name, policy in RECOMMENDS.items():
            requests = [self.world.request(number, policy=policy) for number in range(30)]
            self.systems[name]["breakdown"] = breakdown(recommend, requests, timed[name]["p50_ms"])

    def asking(self, name: str, session: SavedSession, size: int) -> Callable[[int], object]:
        """What asks a system for batch number n; requests are made before they are timed."""
        if name in RECOMMENDS:
            inputs: list[Mapping[str, Any]] = [
                self.world.request(number, policy=RECOMMENDS[name], size=size)
                for number in range(len(self.queries) // size)
            ]
        else:
            none, k = np.zeros((size, 0), np.int32), np.int32(self.k)
            batches = self.queries[: len(self.queries) // size * size].reshape(-1, size, self.options.width)
            inputs = [{"queries": queries, "k": k, "excluded": none} for queries in batches]
        return lambda number: session(inputs[number % len(inputs)])

    def recommend_recall(self, recommend: SavedSession, exact: SavedSession, users: int = 100) -> float:
        """Of what `recommend` ranks, against exact search with its own queries and what it must not find."""
        rows, scores, queries = [], [], []
        for user in range(min(users, len(self.queries))):
            answer = recommend(self.world.request(user, k=self.k))
            rows.append([int(item_id.rpartition(b"-")[2] or 0) for item_id in answer["item_ids"][0]])
            excluded = self.world.excluded[user][None].astype(np.int32)
            true = exact({"queries": answer["query"], "k": np.int32(self.k), "excluded": excluded})
            scores.append(true["scores"][0])
            queries.append(answer["query"][0])
        return round(recall_at_k(np.array(rows), np.array(scores), np.array(queries), self.table), 4)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.partition(" See")[0], epilog=HELP, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--k", type=int, default=500)
    parser.add_argument("--queries", type=int, default=800)
    parser.add_argument("--leaves", type=int, help="of the partitioned index")
    parser.add_argument("--repeats", type=int, default=400, help="single queries timed a system")
    parser.add_argument("--rate", type=float, help="queries a second of the open loop")
    parser.add_argument("--seconds", type=float, default=5.0, help="of the open loop")
    parser.add_argument("--cache", help="folder that keeps vectors' leaves and true neighbours")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--no-server", action="store_true")
    parser.add_argument("--plot", type=Path, help="SVG file for recall against latency and bytes")
    parser.add_argument("--quick", action="store_true", help="100,000 items: under 50 s")
    options = parser.parse_args()
    if options.quick:
        options.items, options.queries, options.repeats, options.seconds = 100_000, 200, 100, 0.8
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, cores[:1])
    folder, begun = Path(tempfile.mkdtemp(prefix="triptych_serve_")), time.perf_counter()
    try:
        bench = Bench(options, folder)
        bench.partitioned()
        bench.scann()
        bench.measure()
        if not options.no_server:
            os.sched_setaffinity(0, cores)
            for name, served in measure_served(folder, bench.queries, bench.world, options).items():
                bench.systems[name]["server"] = served
    finally:
        shutil.rmtree(folder)
    for name, figures in bench.systems.items():
        print(name, figures)
    settings = {name: getattr(options, name) for name in ("items", "width", "k", "seed", "queries")}
    seconds = round(time.perf_counter() - begun, 1)
    if options.plot and (plot := plot_index({"trade_off": bench.trade_off, "k": options.k})):
        options.plot.write_text(plot.document, encoding="utf-8")
        settings["trade_off"] = bench.trade_off
    print(json.dumps({"benchmark": "serve", **settings, "cores": 1, "seconds": seconds, **bench.systems}))


if __name__ == "__main__":
    main()
