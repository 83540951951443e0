"""What a training step costs as users and events grow. See `python benchmarks/scale.py --help`."""

from __future__ import annotations

import argparse
import gc
import json
import os
import resource
import statistics
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import keras
import numpy as np

from data.batches import RetrievalBatches
from data.histories import Histories
from data.schema import Schema
from pipeline.training.feed import as_dataset
from towers.config import TowerConfig
from towers.task import RetrievalTask
from towers.two_tower import TwoTower

HELP = """
Trains the towers on generated events: width 64, AdamW, batch 4,096, histories of 10 events, and for every item a content
vector of 256 numbers in half precision. Items are drawn with a skew (the most popular hundredth has a fifth of the
events), users evenly among those who are active at all: so many that each has 200 events in the first part, where only
the number of users is to matter, and 20 in the second. In one process, one after the other:

  users    the same events and items with 10 thousand, 100 thousand and 1 million users (fewer steps each),
  events   1 million events, and then the whole: 20 million events, 1 million users, 1 million items, 1,000 steps.

The last line is one JSON object: step_ms by number of users (median of the steps), ratio_1m_to_10k_users,
cost_per_event_us at both numbers of events (preparing the histories and shuffling an epoch, per event, and a step, per
event of its batch), cost_per_event_20m_over_1m (with --quick of a tenth of both), seconds of the whole, peak_gb of the
process. Steps are taken one at a time, to be timed.

examples:
  python benchmarks/scale.py            the whole
  python benchmarks/scale.py --quick    a tenth of items and events, few steps: under 50 s
"""
WIDTH, CONTENT, BATCH, HISTORY = 64, 256, 4096, 10


class StepTimes(keras.callbacks.CallbackList):
    """Notes when each step was done, and does nothing else."""

    def __init__(self, task: keras.Model):
        super().__init__([], add_history=True, model=task)
        self.moments: list[float] = []

    def on_train_batch_begin(self, batch, logs=None):
        return

    def on_train_batch_end(self, batch, logs=None):
        float(logs["loss"])
        self.moments.append(time.perf_counter())


def train(users: int, items: int, events: int, steps: int, seed: int, per_user: int = 20) -> dict[str, float]:
    """Seconds to prepare, and of a step."""
    rng = np.random.default_rng(seed)
    active = rng.choice(users, min(users, events // per_user), replace=False).astype(np.int32) + 1
    who = rng.choice(active, events)
    what = (rng.random(events, dtype=np.float32) ** 3 * (items - 1)).astype(np.int32) + 1
    begun = time.perf_counter()
    histories = Histories.from_events(who, what, np.arange(events), user_rows=users + 1)
    batches = RetrievalBatches(
        histories, item_rows=items + 1, batch_size=BATCH, history_length=HISTORY, ordered=True, seed=seed, static=False
    )
    counts = np.bincount(what, minlength=items + 1)
    stream = batches.epoch(0)
    first = next(stream)
    prepared = time.perf_counter() - begun
    del who, what
    config = TowerConfig(width=WIDTH, history_length=HISTORY, history="attention")
    schema = Schema(user_rows=users + 1, item_rows=items + 1, modalities={"text": CONTENT})
    content = rng.standard_normal((items + 1, CONTENT), dtype=np.float32).astype(np.float16)
    task = RetrievalTask(
        TwoTower(schema, config),
        features={"text": content},
        present=np.ones((items + 1, 1), bool),
        profile=np.zeros((users + 1, 0), np.int32),
        counts=counts,
        batch_size=BATCH,
        item_capacity=batches.capacity,
        sparse_updates="auto",
    )
    del content
    task.compile(optimizer=keras.optimizers.AdamW(1e-3, weight_decay=1e-4, global_clipnorm=1.0))
    watch = StepTimes(task)

    def again():
        yield first
        yield from stream

    steps = min(steps, len(batches))
    task.fit(as_dataset(again(), steps), steps_per_epoch=steps, verbose=0, callbacks=watch)
    seconds = np.diff(watch.moments)[2:]
    by_rows = ", ".join(task.sparse_rows) or "none"
    print(
        f"{users} users, {items} items, {events} events: {1e3 * np.median(seconds):.1f} ms a step over {steps} steps, "
        f"prepared in {prepared:.1f} s, {len(first['items'])} items in the first batch, trained by rows: {by_rows}",
        flush=True,
    )
    return {"prepared": prepared, "step": float(statistics.median(seconds)), "all_steps": float(np.sum(seconds))}


def cost(run: dict[str, float], events: int) -> float:
    """Microseconds an event."""
    return 1e6 * (run["prepared"] / events + run["step"] / BATCH)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    items, most = (100_000, 2_000_000) if options.quick else (1_000_000, 20_000_000)
    few, short, many = most // 20, (12, 60)[not options.quick], (40, 1000)[not options.quick]
    step_ms = {}
    for users in (10_000, 100_000, 1_000_000):
        step_ms[str(users)] = round(1e3 * train(users, items, most // 4, short, options.seed, 200)["step"], 1)
        gc.collect()
    small = train(1_000_000, items, few, short, options.seed)
    gc.collect()
    begun = time.perf_counter()
    whole = train(1_000_000, items, most, many, options.seed)
    costs = {str(few): round(cost(small, few), 2), str(most): round(cost(whole, most), 2)}
    return {
        "step_ms": step_ms,
        "ratio_1m_to_10k_users": round(step_ms["1000000"] / step_ms["10000"], 3),
        "cost_per_event_us": costs,
        "cost_per_event_20m_over_1m": round(costs[str(most)] / costs[str(few)], 3),
        "seconds_of_the_whole": round(time.perf_counter() - begun, 1),
        "steps_of_the_whole": min(many, -(-most // BATCH)),
        "peak_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
        "items": items,
        "cores": os.cpu_count(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.partition(" See")[0], epilog=HELP, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="100,000 items, 2 million events, few steps: under 50 s")
    parser.add_argument("--seed", type=int, default=7)
    print(json.dumps(measure(parser.parse_args())))


if __name__ == "__main__":
    main()
