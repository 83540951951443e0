"""How a process's computing shares the machine's cores. TensorFlow asks for it when it is first used."""

from __future__ import annotations

import os

import threadpoolctl

from pipeline.settings.config import Config

WITHIN, BETWEEN = "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"
"""Threads that compute one operation of TensorFlow, and operations at a time."""


def share_cores(config: Config) -> None:
    """Let TensorFlow's operations run side by side, each on half of the cores, unless the environment says otherwise.

    Left alone every operation has all cores. A training step is some hundred small ones, two of which are ready at a time, and
    their threads wait for each other: on two cores a step of 4,096 events took 14.1 ms, and 11.8 like this; a full job 113 s,
    and 103. An encoder, whose operations are few and large, answers two batches at a time (`towers.model_batches`). What XLA
    compiles is one operation with none beside it, so that nothing changes where encoders learn.
    """
    if not config.encoders.trained():
        os.environ.setdefault(WITHIN, str(max(1, cores() // 2)))


def compute_on(number: int) -> None:
    """Let this process compute on so many cores: threads that wait for work spin, and cost another process its time."""
    os.environ.update({WITHIN: str(number), BETWEEN: str(number)})
    threadpoolctl.threadpool_limits(number)


def cores_beside() -> int:
    """The cores that a job has for itself while a process works beside it; one at least."""
    return max(1, cores() - 1)


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
