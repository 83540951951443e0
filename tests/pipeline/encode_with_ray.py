"""An encode run on a Ray cluster of two local workers; test_encode_ray.py runs it as a process of its own.

A test process that has TensorFlow loaded and some hundred threads must not fork Ray's: what a lock was held by at that
moment hangs the child, and a cluster that hangs holds the processor. Here the whole group of processes can be ended.

Arguments: dataset folder with `items.parquet`, folder to write, content store. Prints what the stage tells, as JSON.
"""

import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import ray

from data.schema import MODALITIES
from pipeline.content.encode import encode


def main(source, out, store):
    # As many matrix threads as the local engine has: the last bit of a product may depend on it.
    environment = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(os.cpu_count()))}
    ray.init(
        num_cpus=2, include_dashboard=False, object_store_memory=80 * 2**20, log_to_driver=False,
        runtime_env={"env_vars": environment},
    )  # fmt: skip
    items = SimpleNamespace(items=pd.read_parquet(Path(source) / "items.parquet"))
    specs = dict.fromkeys(MODALITIES, "signal:")
    made = encode(Path(source), items, Path(out), specs, Path(store), batch_size=8, workers=2, engine="ray")
    still_up = ray.is_initialized()
    ray.shutdown()
    print(json.dumps({"encoded": made.info["encoded"], "still_up": still_up}))


if __name__ == "__main__":
    main(*sys.argv[1:])
