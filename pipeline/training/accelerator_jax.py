"""Devices under JAX: `keras.distribution` splits batches over them, and large tables by rows."""

from __future__ import annotations

import re
from contextlib import AbstractContextManager
from typing import Any

import keras

from pipeline.training.accelerator import Accelerator, FilledBatches, Kind, missing
from pipeline.training.feed import Batches, Feed, feed_of

BATCH = "batch"
"""Name of the one axis of devices: events, items and columns of a batch lie along it, and so do the rows of tables."""
TABLES = re.compile(r"(^|/)(id/embeddings|features_[^/]*)$")
"""Paths of the variables that grow with users or items and are wide."""


class JaxDevice(Accelerator):
    """One device, the first of its kind."""

    def __init__(self, kind: Kind, devices: list[Any]):
        super().__init__(kind)
        self.devices = devices

    def scope(self) -> AbstractContextManager:
        import jax

        return jax.default_device(self.devices[0])

    def has_bfloat16(self) -> bool:
        """A TPU's own number; NVIDIA's GPUs multiply it in hardware from compute capability 8.0 (Ampere) on."""
        if self.kind == "gpu":
            return all(float(getattr(device, "compute_capability", 0)) >= 8 for device in self.devices)
        return self.kind == "tpu"


class JaxDevices(JaxDevice):
    """Several devices of one process, that together run the program of one.

    The loss is written over the joined batch and stays so: under `jit` XLA sees arrays that lie on several devices, and
    puts in the collectives (the gather of item embeddings, the sum of gradients) where the program needs them. So every
    loss, every term and all of the optimizer mean what they mean on one device.
    """

    def __init__(self, kind: Kind, devices: list[Any]):
        super().__init__(kind, devices)
        self.replicas = len(devices)
        self.distribution = SplitTables(devices=[f"{device.platform}:{device.id}" for device in devices])

    def scope(self) -> AbstractContextManager:
        return self.distribution.scope()

    def feed(self, batches: Batches) -> Feed:
        return feed_of(FilledBatches(batches, self.replicas))


class SplitTables(keras.distribution.DataParallel):
    """Batches split over the devices, every weight on each of them, tables of ids and of content in parts.

    A `keras.distribution.LayoutMap` finds a layout by a variable's path, which users' and items' tables of ids share; here
    the shape decides as well. What the optimizer keeps of a table lies where the table does.
    """

    def get_variable_layout(self, variable: keras.Variable) -> keras.distribution.TensorLayout:
        if getattr(variable, "_layout", None) is None and TABLES.search(variable.path):
            axes = table_axes(tuple(variable.shape), self.num_model_replicas)
            return keras.distribution.TensorLayout(axes, self.device_mesh)
        return super().get_variable_layout(variable)


def table_axes(shape: tuple[int, int], replicas: int) -> tuple[str | None, str | None]:
    """Along which axis a table is split: rows where they divide, else columns where these do, else not at all.

    Example:
        >>> table_axes((8, 3), 2), table_axes((9, 4), 2), table_axes((9, 3), 2)
        (('batch', None), (None, 'batch'), (None, None))
    """
    rows, width = shape
    if rows % replicas == 0:
        return BATCH, None
    return (None, BATCH) if width % replicas == 0 else (None, None)


def jax_accelerator(setting: str) -> Accelerator:
    """All devices of the kind that a setting names; "auto" is JAX's own choice.

    Raises:
        ValueError: a device that is not there.
    """
    import jax

    try:
        devices = jax.devices() if setting == "auto" else jax.devices(setting)
    except RuntimeError as error:
        raise missing(setting, f'"{jax.default_backend()}"') from error
    kind: Kind = devices[0].platform
    return JaxDevice(kind, devices) if len(devices) == 1 else JaxDevices(kind, devices)
