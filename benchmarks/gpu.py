"""How fast a training step is on an accelerator, on JAX. See `python benchmarks/gpu.py --help`."""

from __future__ import annotations

import argparse
import json
import os
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
from towers.task import RetrievalTask
from towers.two_tower import TwoTower

HELP = """
Trains two towers of ids alone (in-batch softmax with logQ, learned temperature, Adam) on generated events of 200,000 users
and 200,000 items that are all alike, so that nearly every event of a batch names another item, for each width and
precision. Nothing imports TensorFlow: keras (with its small dependencies) and jax are enough.

The last line is one JSON object: by case, events_per_second and ms_per_step of whole steps (lookups, loss, gradients,
optimizer; batches are made before the clock starts), and achieved_tflops, the three products of [B, D]
and [B, B] matrices alone (6 B^2 D operations a step) over that time.

examples:
  python benchmarks/gpu.py                      batch 65,536, width 64 and 256, float32 and bfloat16
  python benchmarks/gpu.py --quick              batch 2,048, width 64: that it runs, on a CPU
"""
ROWS, STEPS = 200_001, 10


def measure(width: int, precision: str, batch_size: int, rounds: int, sparse: bool) -> dict[str, float]:
    """Median of some rounds of STEPS steps each."""
    keras.config.set_dtype_policy(precision)
    keras.utils.set_random_seed(7)
    rng = np.random.default_rng(7)
    users, items = rng.integers(1, ROWS, (2, STEPS * batch_size))
    histories = Histories.from_events(users, items, np.arange(len(items)), user_rows=ROWS)
    batches = RetrievalBatches(
        histories, item_rows=ROWS, batch_size=batch_size, history_length=0, ordered=True, seed=1
    )
    config = TowerConfig(
        width=width, history="none", history_length=1, item_hidden=False, fusion="weighted", fusion_weights=(1.0,),
        id_dropout=0, user_id_dropout=0,
    )  # fmt: skip
    task = RetrievalTask(
        TwoTower(Schema(user_rows=ROWS, item_rows=ROWS, modalities={}), config),
        features={},
        present=np.zeros((ROWS, 0), bool),
        profile=np.zeros((ROWS, 0), np.int32),
        counts=np.bincount(items, minlength=ROWS),
        batch_size=batch_size,
        item_capacity=batches.capacity,
        sparse_updates=sparse,
    )
    task.compile(optimizer=keras.optimizers.Adam(1e-3), jit_compile=True)
    made = [({name: jax.device_put(value) for name, value in batch.items()},) for batch in batches.epoch(0)]
    seconds = []
    for number in range(rounds + 1):
        begun = time.perf_counter()
        task.fit((batch for batch in made), steps_per_epoch=STEPS, verbose=0, shuffle=False)
        if number:  # the first compiles
            seconds.append((time.perf_counter() - begun) / STEPS)
    step = float(np.median(seconds))
    return {
        "events_per_second": round(batch_size / step),
        "ms_per_step": round(1000 * step, 2),
        "achieved_tflops": round(6 * batch_size**2 * width / step / 1e12, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.partition(" See")[0], epilog=HELP, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch-size", type=int, default=65_536)
    parser.add_argument("--rounds", type=int, default=5, help="rounds counted, of 10 steps each (default 5)")
    parser.add_argument("--widths", type=int, nargs="+", default=[64, 256])
    parser.add_argument("--precisions", nargs="+", default=["float32", "mixed_bfloat16"])
    parser.add_argument("--sparse", action="store_true", help="train the tables by the rows of each batch")
    parser.add_argument("--quick", action="store_true", help="batch 2,048, width 64, 2 rounds")
    options = parser.parse_args()
    if options.quick:
        options.batch_size, options.widths, options.rounds = 2048, [64], 2
    result: dict[str, Any] = {}
    for width in options.widths:
        for precision in options.precisions:
            case = f"width {width}, {precision}"
            result[case] = measure(width, precision, options.batch_size, options.rounds, options.sparse)
            print(case, result[case], flush=True)
    device = jax.devices()[0]
    print(json.dumps({**result, "batch_size": options.batch_size, "device": device.device_kind, "jax": jax.__version__}))


if __name__ == "__main__":
    main()
