"""Calls the C API runner in a process of its own."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

Job = tuple[Path, str, Sequence[Mapping[str, np.ndarray]]]
"""A SavedModel's folder, the name of one of its signatures, and requests to that."""


def run_capi(
    folder: Path, requests: Sequence[Mapping[str, np.ndarray]], signature_name: str = "serving_default"
) -> list[dict[str, np.ndarray]]:
    """Answers of TensorFlow's C API to some requests on one SavedModel, without our Python.

    Raises:
        RuntimeError: with what the process wrote to its error output.
    """
    return run_capi_jobs([(folder, signature_name, requests)])[0]


def run_capi_jobs(jobs: Sequence[Job]) -> list[list[dict[str, np.ndarray]]]:
    """As `run_capi`, for several models and signatures in one process."""
    with tempfile.TemporaryDirectory() as place:
        command = [sys.executable, "-I", str(Path(__file__).with_name("capi.py"))]
        for number, (folder, signature_name, requests) in enumerate(jobs):
            inputs, outputs = Path(place) / f"inputs_{number}.npz", Path(place) / f"outputs_{number}.npz"
            arrays = {
                f"{index}/{alias}": _text(value)
                for index, request in enumerate(requests)
                for alias, value in request.items()
            }
            np.savez(inputs, **arrays)  # type: ignore[arg-type]
            command += [str(folder), str(inputs), str(outputs), signature_name]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        if done.returncode:
            raise RuntimeError(f"C API runner ended with {done.returncode}: {done.stderr.strip()[-2000:]}")
        return [_read(Path(place) / f"outputs_{number}.npz", len(job[2])) for number, job in enumerate(jobs)]


def _read(file: Path, count: int) -> list[dict[str, np.ndarray]]:
    answers: list[dict[str, np.ndarray]] = [{} for _ in range(count)]
    with np.load(file) as found:
        for name in found.files:
            index, _, alias = name.partition("/")
            answers[int(index)][alias] = found[name]
    return answers


def _text(value: np.ndarray) -> np.ndarray:
    array = np.asarray(value)
    if array.dtype.kind not in "OS":
        return array
    # Encoded pictures are no UTF-8; what does not decode comes back as it was (but for zeros at a string's end).
    texts = [
        entry.decode("utf-8", "surrogateescape") if isinstance(entry, bytes) else str(entry) for entry in array.ravel()
    ]
    return np.array(texts, "U").reshape(array.shape)
