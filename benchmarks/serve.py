"""Searching a large catalogue: exact, partitioned and ScaNN on the same vectors. See `python benchmarks/serve.py --help`."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import tensorflow as tf

from benchmarks.serve_load import in_turns, open_loop, per_second
from serving.index import ExactIndex
from serving.index_measure import folder_bytes, measure_latency, recall_at_k, search_in_blocks
from serving.index_tuning import recall_key
from serving.model_client import ModelClient
from serving.models_config import ModelEntry, write_models_config
from serving.partitioned_index import PartitionedIndex, fewest_blocks
from serving.partitioned_layout import default_leaves, lay_out, partition
from serving.scann_index import ScannIndex
from serving.status import ServingError

HELP = """
Vectors of length 1 around items / 250 centres of uneven size (the r-th largest has a share of r^-0.5), at 0.7 of their
centre's length from it; a query is an item and 0.5 of noise. They have no structure beyond their centres, so that most of
the 500 nearest lie in other clusters: harder than towers make it. Half of the queries choose every setting, recall is that
of the other half.

Each system is a SavedModel in a tf.compat.v1.Session with one thread, on one core:

  exact              all items by one product
  partitioned        core operations (serving/partitioned_index.py), the fewest blocks with recall 0.95; _98: with 0.98
  scann, scann_98    ScaNN's operations, the fastest of its numbers of leaves, leaves searched and exact scores with that

recall@k_vs_exact; p50_ms and p99_ms of single queries, the systems taking turns; qps, queries a second in batches of 32;
bytes of the SavedModel; times_faster than exact by p50; open_loop, latency from the moment a query was due, at half of what
the system's p50 allows; server, the same through serving/local.py over gRPC (a process in Python, on another core if there
is one) for `partitioned`. The last line is one JSON object.

examples:
  taskset -c 0 python benchmarks/serve.py --cache /tmp/serve   a million items; vectors and leaves are kept for the next time
  python benchmarks/serve.py --quick                           100,000 items: under 50 s
"""
TARGETS = {"": 0.95, "_98": 0.98}
BATCH = 32


def make_world(items: int, width: int, queries: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Item table f32 [N + 1, D] with row 0 zeros, and queries f32 [Q, D], all of length 1."""
    rng = np.random.default_rng(seed)

    def unit(vectors: np.ndarray) -> np.ndarray:
        return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)

    def noise(count: int) -> np.ndarray:
        return unit(rng.standard_normal((count, width), dtype=np.float32))

    centres = noise(max(1, items // 250))
    shares = rng.permutation(np.arange(1, len(centres) + 1) ** -0.5)
    nearest = rng.choice(len(centres), items, p=shares / shares.sum())
    table = np.zeros((items + 1, width), np.float32)
    for start in range(0, items, 65_536):
        some = nearest[start : start + 65_536]
        table[1 + start : 1 + start + len(some)] = unit(centres[some] + 0.7 * noise(len(some)))
    return table, unit(table[rng.integers(1, items + 1, queries)] + 0.5 * noise(queries))


def kept(file: Path | None, make: Callable[[], np.ndarray]) -> np.ndarray:
    """An array from a file, or made and written there."""
    if file is not None and file.is_file():
        return np.load(file)
    array = make()
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        np.save(file, array)
    return array


class Bench:
    """One world, and the systems that search it."""

    def __init__(self, options: argparse.Namespace, folder: Path):
        self.options, self.folder, self.k = options, folder, options.k
        name = f"{options.items}-{options.width}-{options.seed}-{options.queries}"
        self.cache = options.cache and Path(options.cache) / name
        self.table, self.queries = make_world(options.items, options.width, options.queries, options.seed)
        exact = ExactIndex(self.table)
        truth = self.cache and self.cache / f"truth-{self.k}.npy"
        self.truth = kept(truth, lambda: search_in_blocks(exact, self.queries, self.k)[1])
        self.systems: dict[str, dict[str, Any]] = {}
        self.add("exact", exact, {})

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

    def partitioned(self) -> None:
        leaves = self.options.leaves or default_leaves(self.options.items)
        start = time.perf_counter()
        file = self.cache and self.cache / f"leaves-{leaves}.npy"
        nearest = kept(file, lambda: partition(self.table[1:], leaves))
        index = PartitionedIndex(lay_out(self.table, nearest), budget=1, measured_k=self.k)
        seconds = round(time.perf_counter() - start, 1)
        for suffix, target in TARGETS.items():
            least = int(np.ceil(fewest_blocks(self.k)))
            budget = self.fewest(index, index.budget, least, index.blocks // 2, target)
            settings = {"leaves": index.leaves, "blocks": index.blocks, "budget": budget, "build_seconds": seconds}
            self.add(f"partitioned{suffix}", index, settings)

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
                    settings = {"leaves": leaves, "leaves_to_search": searched, "reorder": reorder, "build_seconds": seconds}
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
            index.release()

    def measure(self) -> None:
        """Times every system in a session of its own."""
        runs = {name: open_session(self.folder / name / "1") for name in self.systems}
        none, k, count = np.zeros((1, 0), np.int32), np.int32(self.k), len(self.queries)

        def single(name: str) -> Callable[[int], object]:
            return lambda number: runs[name](self.queries[number % count][None], k, none)

        def batch(name: str) -> Callable[[int], object]:
            excluded = np.zeros((BATCH, 0), np.int32)
            return lambda number: runs[name](np.roll(self.queries, -BATCH * number, axis=0)[:BATCH], k, excluded)

        timed = in_turns({name: single(name) for name in runs}, self.options.repeats)
        for name, figures in self.systems.items():
            figures |= timed[name]
            figures["times_faster"] = round(timed["exact"]["p50_ms"] / timed[name]["p50_ms"], 2)
            figures["qps"] = per_second(batch(name), BATCH, 3 if name == "exact" else 10)
            rate = self.options.rate or 500.0 / timed[name]["p50_ms"]
            figures["open_loop"] = open_loop(single(name), rate, self.options.seconds, seed=self.options.seed)

    def measure_server(self) -> None:
        """`partitioned` through a server of its own process."""
        entries = [ModelEntry("partitioned", versions=(1,))]
        config = write_models_config(self.folder / "models.config", entries, root=self.folder)
        with running_server(config) as client:
            none = np.zeros((1, 0), np.int32)

            def ask(number: int) -> object:
                query = self.queries[number % len(self.queries)][None]
                inputs = {"queries": query, "k": np.array(self.k, np.int32), "excluded": none}
                return client.predict("partitioned", inputs, signature_name="search")

            for number in range(50):
                ask(number)
            rate = self.options.rate or 100.0
            self.systems["partitioned"]["server"] = open_loop(ask, rate, self.options.seconds, workers=8)


def open_session(folder: Path) -> Callable[..., Any]:
    """A SavedModel's `search` as TF Serving runs it: (queries, k, excluded) -> rows, scores."""
    one = tf.compat.v1.ConfigProto(intra_op_parallelism_threads=1, inter_op_parallelism_threads=1)
    session = tf.compat.v1.Session(graph=tf.Graph(), config=one)
    with session.graph.as_default():
        signature = tf.compat.v1.saved_model.load(session, ["serve"], str(folder)).signature_def["search"]
    inputs = [signature.inputs[name].name for name in ("queries", "k", "excluded")]
    return session.make_callable([signature.outputs[name].name for name in ("rows", "scores")], feed_list=inputs)


@contextmanager
def running_server(config: Path, port: int = 18_500) -> Iterator[ModelClient]:
    """A local server of a models.config, and a client of it."""
    command = [sys.executable, "-m", "serving.local", "--models-config", str(config)]
    command += ["--port", str(port), "--rest-port", str(port + 1)]
    root = Path(__file__).resolve().parent.parent
    server = subprocess.Popen(command, cwd=root, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        with ModelClient(f"127.0.0.1:{port}", deadline=30) as client:
            for attempt in range(240):
                try:
                    if "AVAILABLE" in client.status("partitioned").values():
                        break
                except ServingError:
                    if attempt == 239 or server.poll() is not None:
                        raise
                time.sleep(0.25)
            yield client
    finally:
        server.terminate()
        server.wait(30)


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
    parser.add_argument("--quick", action="store_true", help="100,000 items: under 50 s")
    options = parser.parse_args()
    if options.quick:
        options.items, options.queries, options.repeats, options.seconds = 100_000, 200, 100, 1.5
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, cores[:1])
    folder = Path(tempfile.mkdtemp(prefix="triptych_serve_"))
    try:
        bench = Bench(options, folder)
        bench.partitioned()
        bench.scann()
        bench.measure()
        if not options.no_server:
            os.sched_setaffinity(0, cores)
            bench.measure_server()
    finally:
        shutil.rmtree(folder)
    for name, figures in bench.systems.items():
        print(name, figures)
    settings = {name: getattr(options, name) for name in ("items", "width", "k", "seed", "queries")}
    print(json.dumps({"benchmark": "serve", **settings, "cores": 1, "systems": bench.systems}))


if __name__ == "__main__":
    main()
