"""SavedModels as TF Serving runs them, a session with one thread, and a local server of them in a process of its own."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from serving.client.model_client import ModelClient
from serving.status import ServingError

STEPS = {
    "filter": r"/filter/",
    "features": r"/features(_\d+)?/",
    "request": r"^request/",
    "query": r"^query/",
    "retrieve": r"^retrieve/",
    "rank": r"^rank/",
    "policy": r"^policy/",
    "page": r"^page/",
}
"""The steps of `recommend` by what their operations are called; the first that fits counts."""

Inputs = Mapping[str, Any]


class SavedSession:
    """One signature of a SavedModel; calling it answers the outputs by their names."""

    def __init__(self, folder: Path, signature: str):
        one = tf.compat.v1.ConfigProto(intra_op_parallelism_threads=1, inter_op_parallelism_threads=1)
        self._session = tf.compat.v1.Session(graph=tf.Graph(), config=one)
        with self._session.graph.as_default():
            loaded = tf.compat.v1.saved_model.load(self._session, ["serve"], str(folder)).signature_def[signature]
        self._feeds = {name: info.name for name, info in loaded.inputs.items()}
        self._fetches = {name: info.name for name, info in loaded.outputs.items()}
        self._run = self._session.make_callable(list(self._fetches.values()), feed_list=list(self._feeds.values()))

    def __call__(self, inputs: Inputs) -> dict[str, np.ndarray]:
        return dict(zip(self._fetches, self._run(*(inputs[name] for name in self._feeds)), strict=True))

    def microseconds(self, inputs: Inputs) -> dict[str, list[int]]:
        """The times of every operation of one traced run, by its name in the graph."""
        options = tf.compat.v1.RunOptions(trace_level=tf.compat.v1.RunOptions.SOFTWARE_TRACE)
        traced, found = tf.compat.v1.RunMetadata(), {}
        feeds = {tensor: inputs[name] for name, tensor in self._feeds.items()}
        self._session.run(list(self._fetches.values()), feeds, options=options, run_metadata=traced)
        for device in traced.step_stats.dev_stats:
            for node in device.node_stats:
                found.setdefault(node.node_name, []).append(node.op_end_rel_micros - node.op_start_rel_micros)
        return found


def breakdown(session: SavedSession, requests: Sequence[Inputs], p50_ms: float) -> dict[str, Any]:
    """Where a request's time goes: milliseconds and operations of each step of `STEPS`, "other" for what has no name.

    Tracing makes every operation slower, so a step's milliseconds are its share of the traced time, the median over the
    requests, of what a request takes untraced.
    """
    runs, operations = [], Counter[str]()
    for request in requests:
        spent = Counter[str]()
        for name, times in session.microseconds(request).items():
            step = step_of(name)
            spent[step] += sum(times)
            operations[step] += len(times)
        runs.append(spent)
    shares = {step: float(np.median([run[step] for run in runs])) for step in operations}
    scale = p50_ms / sum(shares.values())
    return {
        step: {"ms": round(shares[step] * scale, 3), "operations": round(operations[step] / len(requests))}
        for step in sorted(shares, key=lambda step: -shares[step])
    }


def step_of(node: str) -> str:
    """The step of an operation, by its name in a graph whose functions have been inlined.

    Example:
        >>> step_of("StatefulPartitionedCall/StatefulPartitionedCall/rank/form_1/features_1/MatMul"), step_of("a/rank")
        ('features', 'other')
    """
    name = re.sub(r"^(StatefulPartitionedCall/)+", "", node)
    return next((step for step, pattern in STEPS.items() if re.search(pattern, name)), "other")


@contextmanager
def running_server(config: Path, model: str, port: int = 18_500) -> Iterator[ModelClient]:
    """A local server of a models.config, and a client of it, from when it has the model.

    Raises:
        ServingError: it does not come up within a minute.
    """
    command = [sys.executable, "-m", "serving.local", "--models-config", str(config)]
    command += ["--port", str(port), "--rest-port", str(port + 1)]
    root = Path(__file__).resolve().parent.parent
    server = subprocess.Popen(command, cwd=root, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        with ModelClient(f"127.0.0.1:{port}", deadline=30) as client:
            for attempt in range(240):
                try:
                    if "AVAILABLE" in client.status(model).values():
                        break
                except ServingError:
                    if attempt == 239 or server.poll() is not None:
                        raise
                time.sleep(0.25)
            yield client
    finally:
        server.terminate()
        server.wait(30)
