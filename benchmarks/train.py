"""How fast the towers train beside TensorFlow Recommenders' own. See `python benchmarks/train.py --help`."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import multiprocessing
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

from data.batches import RetrievalBatches
from data.histories import Histories
from data.schema import Schema
from pipeline.cores import WITHIN, share_cores
from pipeline.settings.config import load_config
from pipeline.training.epoch_steps import LoopSettings, steps_a_call, train_epoch
from pipeline.training.feed import feed_of
from pipeline.training.fused_optimizers import FusedAdagrad
from towers.config import TowerConfig
from towers.task import RetrievalTask
from towers.two_tower import TwoTower

HELP = """
Trains on the same generated events, with the same batch, width (64) and optimizer (Adagrad, `retrieval.optimizer`), in turns,

  tfrs     the two-tower of TensorFlow Recommenders' tutorial: two embedding tables and tfrs.tasks.Retrieval, its dataset
           shuffled, batched and cached, no metric in training;
  ids      this project's task with user ids and item ids alone, normalised vectors, learned temperature, logQ correction,
           batches made anew for every epoch, in the loop that `train-retrieval` runs;
  content  the same with three content modalities (384, 512 and 256 numbers) behind gates and a hidden layer, which TFRS
           has no counterpart of: it is compared with tfrs ids-only.

Two worlds: `skewed`, 6,040 users and 3,706 items whose popularity falls as in MovieLens 1M, so that a batch of 4,096
names about 1,900 items; `distinct`, 60,000 items that are all alike, so that nearly every event of a batch names another
item and nothing is gained by naming an item once.

The tutorial and the three products run in a process of their own, with the threads that TensorFlow takes by itself, which is
their best: this project has every operation use half of the cores (see `pipeline.cores`).

The tutorial lets tf.data tune itself, by a thread that may end later than the epoch; short epochs wait for it.
ratio_to_tfrs_1024_untuned is of the tutorial without that thread, which this project's loop does without as well.

The last line is one JSON object: ratio_to_tfrs (ids, skewed, batch 4,096), ratio_to_tfrs_1024, ratio_to_tfrs_with_content,
ratio_to_tfrs_distinct, fraction_of_matmul_bound (events a second over what the three products of [B, 64] and [B, B]
matrices alone allow, as one TensorFlow function) and the same for distinct, each the median of its rounds; peak_mb_65536
(the whole process, ids, distinct, batch 65,536); events_per_second of everything. `--quick` does without the untuned
tutorial, the world `distinct` and the peak.
"""
SPARSE = "auto"
WIDTH, USERS = 64, 6040
MODALITIES = {"text": 384, "image": 512, "audio": 256}


@dataclasses.dataclass(frozen=True)
class World:
    users: np.ndarray
    items: np.ndarray
    item_rows: int


def make_world(name: str, events: int, rng: np.random.Generator) -> World:
    item_rows = 3707 if name == "skewed" else 60_001
    popularity = (np.arange(1, item_rows) + 120.0) ** -1.4 if name == "skewed" else np.ones(item_rows - 1)
    items = rng.choice(item_rows - 1, events, p=popularity / popularity.sum()) + 1
    return World(rng.integers(1, USERS + 1, events), items, item_rows)


RATE = 0.1
"""Of Adagrad, on both sides."""


class Ours:
    """This project's training, an epoch a call: the steps of `pipeline.training.epochs`, without validation between them."""

    def __init__(self, world: World, batch_size: int, content: bool, rng: np.random.Generator):
        users, rows = USERS + 1, world.item_rows
        times = np.arange(len(world.items))
        histories = Histories.from_events(world.users, world.items, times, user_rows=users)
        self.batches = RetrievalBatches(
            histories, item_rows=rows, batch_size=batch_size, history_length=0, ordered=True, seed=1, static=False
        )
        modalities = MODALITIES if content else {}
        plain = {"item_hidden": False, "fusion": "weighted", "fusion_weights": (1.0,), "id_dropout": 0, "user_id_dropout": 0}
        config = TowerConfig(width=WIDTH, history="none", history_length=1, **({} if content else plain))
        schema = Schema(user_rows=users, item_rows=rows, modalities=modalities)
        self.task = RetrievalTask(
            TwoTower(schema, config),
            features={name: rng.normal(size=(rows, size)).astype("float16") for name, size in modalities.items()},
            present=rng.random((rows, len(modalities))) < 0.9,
            profile=np.zeros((users, 0), np.int32),
            counts=np.bincount(world.items, minlength=rows),
            batch_size=batch_size,
            item_capacity=self.batches.capacity,
            sparse_updates=SPARSE,
        )
        self.task.compile(optimizer=FusedAdagrad(RATE))
        self.settings = LoopSettings(epochs=1000, patience=1000, seed=1, steps_a_call=steps_a_call(batch_size))
        self.feed, self.epoch = feed_of(self.batches), 0

    def train(self) -> None:
        steps = len(self.batches)
        train_epoch(self.task, self.feed, self.epoch, 0, steps, self.settings, lambda *_: None, lambda _: None)
        self.epoch += 1


class Tfrs:
    """The tutorial's training, an epoch a call; `tuned` as there, by a thread of tf.data that may end late, or without it."""

    def __init__(self, world: World, batch_size: int, tuned: bool = True):
        import tensorflow as tf
        import tensorflow_recommenders as tfrs
        import tf_keras

        class Model(tfrs.Model):
            def __init__(self) -> None:
                super().__init__()
                self.user_model = tf_keras.layers.Embedding(USERS + 1, WIDTH)
                self.item_model = tf_keras.layers.Embedding(world.item_rows, WIDTH)
                self.task = tfrs.tasks.Retrieval()

            def compute_loss(self, features, training=False):
                users, items = self.user_model(features["user"]), self.item_model(features["item"])
                return self.task(users, items, compute_metrics=False)

        columns = {"user": world.users.astype(np.int32), "item": world.items.astype(np.int32)}
        data = tf.data.Dataset.from_tensor_slices(columns).shuffle(100_000, seed=1).batch(batch_size).cache()
        options = tf.data.Options()
        options.autotune.enabled = tuned
        self.data, self.model = data.prefetch(tf.data.AUTOTUNE).with_options(options), Model()
        self.model.compile(optimizer=tf_keras.optimizers.Adagrad(RATE))

    def train(self) -> None:
        self.model.fit(self.data, epochs=1, verbose=0)


class Products:
    """The three matrix products of the in-batch softmax and its gradient, and nothing else."""

    def __init__(self, batch_size: int, steps: int):
        import tensorflow as tf

        left, right = (tf.random.normal((batch_size, WIDTH)) for _ in range(2))

        @tf.function
        def products():
            logits = tf.matmul(left, right, transpose_b=True)
            return tf.reduce_sum(tf.matmul(logits, right)) + tf.reduce_sum(tf.matmul(logits, left, transpose_a=True))

        self.products, self.steps = products, steps

    def train(self) -> None:
        for _ in range(self.steps):
            self.products().numpy()


class Elsewhere:
    """Runners in one process beside this one, with TensorFlow's own choice of threads."""

    def __init__(self) -> None:
        context, ours = multiprocessing.get_context("spawn"), os.environ[WITHIN]
        self.connection, theirs = context.Pipe()
        os.environ[WITHIN] = "0"  # as where nobody says anything
        context.Process(target=serve, args=(theirs,), daemon=True).start()
        os.environ[WITHIN] = ours

    def ask(self, *question: Any) -> None:
        self.connection.send(question)
        self.connection.recv()

    def runner(self, name: str, kind: type, *arguments: Any) -> Distant:
        self.ask(name, kind, *arguments)
        return Distant(self, name)


@dataclasses.dataclass(frozen=True)
class Distant:
    """A runner there."""

    place: Elsewhere
    name: str

    def train(self) -> None:
        self.place.ask(self.name)


def serve(connection: Any) -> None:
    """Make runners where a kind is given, and let one train where its name alone is."""
    runners: dict[str, Any] = {}
    with contextlib.suppress(EOFError):  # the end of who asks
        while True:
            name, *make = connection.recv()
            if make:
                runners[name] = make[0](*make[1:])
            else:
                runners[name].train()
            connection.send(name)


def in_turns(runners: dict[str, Any], events: int, rounds: int) -> dict[str, list[float]]:
    """Events a second of each runner, round by round; the round before the first warms up and is not counted."""
    speeds: dict[str, list[float]] = {name: [] for name in runners}
    for number in range(rounds + 1):
        for name, runner in runners.items():
            begun = time.perf_counter()
            runner.train()
            if number:
                speeds[name].append(events / (time.perf_counter() - begun))
    return speeds


def ratio(speeds: dict[str, list[float]], one: str, other: str) -> float:
    return round(statistics.median(a / b for a, b in zip(speeds[one], speeds[other], strict=True)), 3)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    rng = np.random.default_rng(options.seed)
    result: dict[str, Any] = {}
    shown: dict[str, dict[str, int]] = {}
    cases, elsewhere = [("skewed", 4096, True), ("skewed", 1024, False)], Elsewhere()
    if not options.quick:
        cases.append(("distinct", 4096, False))
    for name, batch_size, content in cases:
        # An epoch has a fixed cost of some tens of milliseconds; short steps need more of them to be seen.
        steps = options.steps * (1 if batch_size == 4096 else 8)
        world = make_world(name, steps * batch_size, rng)
        runners = {
            "tfrs": elsewhere.runner("tfrs", Tfrs, world, batch_size),
            "ids": Ours(world, batch_size, False, rng),
            "matmul_bound": elsewhere.runner("matmul_bound", Products, batch_size, steps),
        }
        if content:
            runners["content"] = Ours(world, batch_size, True, rng)
        if batch_size == 1024 and not options.quick:
            runners["tfrs_untuned"] = elsewhere.runner("tfrs_untuned", Tfrs, world, batch_size, False)
        speeds = in_turns(runners, len(world.items), options.rounds)
        label = "" if (name, batch_size) == ("skewed", 4096) else f"_{batch_size if name == 'skewed' else name}"
        result[f"ratio_to_tfrs{label}"] = ratio(speeds, "ids", "tfrs")
        if "tfrs_untuned" in runners:
            result[f"ratio_to_tfrs{label}_untuned"] = ratio(speeds, "ids", "tfrs_untuned")
        if content:
            result["ratio_to_tfrs_with_content"] = ratio(speeds, "content", "tfrs")
        result[f"fraction_of_matmul_bound{label}"] = ratio(speeds, "ids", "matmul_bound")
        distinct = statistics.mean(len(np.unique(part)) for part in np.split(world.items, steps))
        shown[f"{name} {batch_size}"] = {key: round(statistics.median(values)) for key, values in speeds.items()}
        print(f"{name}, batch {batch_size} ({distinct:.0f} distinct items): {shown[f'{name} {batch_size}']}", flush=True)
    if not options.quick:
        command = [sys.executable, __file__, "--peak", "--seed", str(options.seed)]
        told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        result |= json.loads(told.splitlines()[-1])
    return {**result, "events_per_second": shown, "rounds": options.rounds, "cores": os.cpu_count()}


def peak(options: argparse.Namespace) -> dict[str, Any]:
    """One step of a batch of 65,536 in this process, which has done nothing else."""
    rng, batch_size = np.random.default_rng(options.seed), 65_536
    ours = Ours(make_world("distinct", batch_size, rng), batch_size, False, rng)
    begun = time.perf_counter()
    ours.train()
    seconds = time.perf_counter() - begun
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"peak_mb_65536": round(used / 1024), "seconds_first_step_65536": round(seconds, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.partition(" See")[0], epilog=HELP, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=32, help="batches of 4,096 a round, 8 times as many of 1,024")
    parser.add_argument("--rounds", type=int, default=4, help="rounds counted (default 4)")
    parser.add_argument("--quick", action="store_true", help="8 batches of 4,096 a round, 2 rounds: under 50 s")
    parser.add_argument("--peak", action="store_true", help="only the peak memory of one batch of 65,536")
    parser.add_argument("--seed", type=int, default=7)
    options = parser.parse_args()
    if options.quick:
        options.steps, options.rounds = 8, 2
    share_cores(load_config())
    print(json.dumps(peak(options) if options.peak else measure(options)))


if __name__ == "__main__":
    main()
