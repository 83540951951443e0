"""What a training step reaches on an accelerator under JAX. See `python benchmarks/gpu.py --help`."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

os.environ["KERAS_BACKEND"] = "jax"
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import jax
import keras
import numpy as np

from data.batches import RetrievalBatches
from data.histories import Histories
from data.schema import Schema
from towers.config import TowerConfig
from towers.loss_options import LossOptions
from towers.task import RetrievalTask
from towers.two_tower import TwoTower

HELP = """
Needs jax, keras and numpy, and no TensorFlow. Trains ids-only towers with AdamW on generated events, a million users and a
million items that are all alike, so that a batch of 65,536 names about 63,500 distinct items; both tables are trained by
the rows of the batch. Batches are made before the clock starts: what is measured is the step.

The last line is one JSON object: device, and for every width and precision events_per_second, step_ms (median), tflops
(6 B C D operations of the loss's three products, C columns, over the time of the whole step) and the same of a large bare
matrix product in that precision. float32 is what JAX makes of it by default (TF32 on NVIDIA); bfloat16 rounds what the
products take in and sums in float32.

examples:
  python benchmarks/gpu.py             batch 65,536, width 64 and 256, float32 and bfloat16
  python benchmarks/gpu.py --quick     batch 2,048 on 20,000 users and items: runs on a CPU
"""


def make_task(width: int, products: str, options: argparse.Namespace) -> tuple[RetrievalTask, list[dict[str, Any]]]:
    rng, rows, events = np.random.default_rng(options.seed), options.rows + 1, options.batch * options.batches
    users, items = (rng.integers(1, rows, events) for _ in range(2))
    histories = Histories.from_events(users, items, np.arange(events), user_rows=rows)
    batches = RetrievalBatches(
        histories, item_rows=rows, batch_size=options.batch, history_length=0, ordered=True, seed=options.seed, static=False
    )
    plain = {"item_hidden": False, "fusion": "weighted", "fusion_weights": (1.0,), "id_dropout": 0, "user_id_dropout": 0}
    config = TowerConfig(width=width, history="none", history_length=1, **plain)
    task = RetrievalTask(
        TwoTower(Schema(user_rows=rows, item_rows=rows), config),
        features={},
        present=np.zeros((rows, 0), bool),
        profile=np.zeros((rows, 0), np.int32),
        counts=np.bincount(items, minlength=rows),
        loss=LossOptions(products=products, block_logits=options.block_logits),
        batch_size=options.batch,
        item_capacity=batches.capacity,
        sparse_updates=True,
    )
    task.compile(optimizer=keras.optimizers.AdamW(1e-3, weight_decay=1e-4, global_clipnorm=1.0))
    return task, list(batches.epoch(0))


class StepTimes(keras.callbacks.CallbackList):
    """Waits for every step, and notes when it was done."""

    def __init__(self, task: keras.Model):
        super().__init__([], add_history=True, model=task)
        self.moments: list[float] = []
        self.losses: list[float] = []

    def on_train_batch_begin(self, batch, logs=None):
        return

    def on_train_batch_end(self, batch, logs=None):
        self.losses.append(float(logs["loss"]))
        self.moments.append(time.perf_counter())


def measure(width: int, products: str, options: argparse.Namespace) -> dict[str, Any]:
    task, batches = make_task(width, products, options)
    stream = (({name: jax.device_put(value) for name, value in batch.items()},) for batch in batches * options.rounds)
    watch = StepTimes(task)
    begun = time.perf_counter()
    task.fit(stream, steps_per_epoch=len(batches) * options.rounds, verbose=0, shuffle=False, callbacks=watch)
    # The first round meets every shape, and compiles for each.
    seconds = statistics.median(np.diff(watch.moments)[len(batches) :])
    if not np.isfinite(watch.losses).all():
        raise FloatingPointError(f"loss: must stay finite, received {watch.losses}")
    columns = statistics.mean(len(batch["columns"]) for batch in batches)
    result = {
        "events_per_second": round(options.batch / seconds),
        "step_ms": round(1e3 * seconds, 2),
        "tflops": round(6 * options.batch * columns * width / seconds / 1e12, 3),
        "tflops_of_a_bare_product": round(bare_product(products, options.bare), 3),
        "first_step_seconds": round(watch.moments[0] - begun, 1),
        "columns": round(columns),
    }
    print(f"width {width}, {products}: {result}", flush=True)
    return result


def bare_product(dtype: str, size: int) -> float:
    """Teraflops a second of a square matrix product."""
    matrix = jax.random.normal(jax.random.key(0), (size, size), dtype)
    multiply = jax.jit(lambda left, right: left @ right)
    multiply(matrix, matrix).block_until_ready()
    seconds = []
    for _ in range(5):
        begun = time.perf_counter()
        multiply(matrix, matrix).block_until_ready()
        seconds.append(time.perf_counter() - begun)
    return 2 * size**3 / min(seconds) / 1e12


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.partition(" See")[0], epilog=HELP, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, default=65_536, help="events a batch (default 65536)")
    parser.add_argument("--rows", type=int, default=1_000_000, help="users, and items (default 1000000)")
    parser.add_argument("--widths", type=int, nargs="+", default=[64, 256], help="default 64 256")
    parser.add_argument("--batches", type=int, default=6, help="different batches (default 6)")
    parser.add_argument("--rounds", type=int, default=4, help="times they are gone through (default 4)")
    parser.add_argument("--block-logits", type=int, default=0, help="logits computed at a time (default 64 million)")
    parser.add_argument("--bare", type=int, default=8192, help="side of the bare product (default 8192)")
    parser.add_argument("--quick", action="store_true", help="batch 2,048, 20,000 rows, width 64")
    parser.add_argument("--seed", type=int, default=7)
    options = parser.parse_args()
    if options.quick:
        options.batch, options.rows, options.widths, options.batches, options.rounds = 2048, 20_000, [64], 2, 3
        options.bare = 1024
    assert "tensorflow" not in sys.modules
    results = {
        f"width_{width}_{products}": measure(width, products, options)
        for width in options.widths
        for products in ("float32", "bfloat16")
    }
    device = jax.devices()[0]
    versions = {"jax": jax.__version__, "keras": keras.__version__}
    print(json.dumps({"device": device.device_kind, "batch": options.batch, "rows": options.rows, **versions, **results}))


if __name__ == "__main__":
    main()
