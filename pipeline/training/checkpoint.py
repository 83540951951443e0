"""A training checkpoint: weights, optimizer, position and history of the loop, written whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from data.durable_file import link_or_copy, sync

STATE, VARIABLES, EXTRA = "state.json", "variables.npz", "extra.npz"


class Checkpoint:
    """One folder that always holds the last state saved, even if the process is killed while it writes the next.

    Args:
        folder: created when missing; belongs to this checkpoint alone.
        variables: what to keep, in a fixed order (see `training_variables`).
        writes: False for a worker beside the first, which restores what that one wrote. It calls `save` like the others,
            since some variables are counted together by all when they are read.
    """

    def __init__(self, folder: Path, variables: Sequence[keras.Variable], writes: bool = True):
        self.folder, self.variables, self.writes = folder, list(variables), writes
        folder.mkdir(parents=True, exist_ok=True)

    def save(self, state: dict[str, Any], extra: dict[str, np.ndarray] | None = None) -> None:
        """Write variables and `state` (JSON) beside the last checkpoint, then put it in its place.

        Args:
            state: where the loop stands.
            extra: further arrays (the best weights so far); None keeps those of the last checkpoint, without writing
                them again.
        """
        arrays = {f"v{number}": array_of(variable) for number, variable in enumerate(self.variables)}
        if not self.writes:
            return
        last = self._last()
        number = int(last.name.removeprefix("save-")) + 1 if last else 0
        writing, final = self.folder / f".save-{number:08d}", self.folder / f"save-{number:08d}"
        shutil.rmtree(writing, ignore_errors=True)
        writing.mkdir()
        np.savez(writing / VARIABLES, allow_pickle=False, **arrays)
        if extra is not None:
            np.savez(writing / EXTRA, allow_pickle=False, **extra)
        elif last and (last / EXTRA).is_file():
            link_or_copy(last / EXTRA, writing / EXTRA)
        (writing / STATE).write_text(json.dumps(state))
        for path in writing.iterdir():
            sync(path)
        os.rename(writing, final)
        sync(self.folder)
        for old in self.folder.glob("save-*"):
            if old != final:
                shutil.rmtree(old)

    def restore(self) -> tuple[dict[str, Any], dict[str, np.ndarray]] | None:
        """Load the last state saved into the variables; returns `state` and `extra`, or None when there is none.

        Errors: ValueError when the checkpoint belongs to a model of another shape.
        """
        last = self._last()
        if last is None:
            return None
        with np.load(last / VARIABLES) as arrays:
            if len(arrays.files) != len(self.variables):
                raise ValueError(
                    f"checkpoint {last}: the model has {len(self.variables)} variables, the file holds "
                    f"{len(arrays.files)}. Remove the checkpoint folder to start over."
                )
            for number, variable in enumerate(self.variables):
                value = arrays[f"v{number}"]
                if value.shape != tuple(variable.shape):
                    raise ValueError(
                        f"checkpoint {last}: variable {variable.path} has shape {tuple(variable.shape)}, "
                        f"the file holds {value.shape}. Remove the checkpoint folder to start over."
                    )
                variable.assign(value)
        extra: dict[str, np.ndarray] = {}
        if (last / EXTRA).is_file():
            with np.load(last / EXTRA) as arrays:
                extra = {key: arrays[key] for key in arrays.files}
        return json.loads((last / STATE).read_text()), extra

    def _last(self) -> Path | None:
        return max(self.folder.glob("save-*"), default=None)


def training_variables(task: keras.Model, constant: Iterable[keras.Variable] = ()) -> list[keras.Variable]:
    """Everything that training changes: weights, generators of dropout, statistics, metrics, the optimizer's slots.

    Args:
        task: compiled, its optimizer built.
        constant: variables that no step changes (tables of features), which a checkpoint need not hold.
    """
    left_out = {id(variable) for variable in constant}
    kept = {id(variable): variable for variable in [*task.variables, *task.metrics_variables, *task.optimizer.variables]}
    return [variable for key, variable in kept.items() if key not in left_out]


def array_of(variable: keras.Variable) -> np.ndarray:
    """A variable's value; of one that lies on several devices, what they agree on or have counted together."""
    return keras.ops.convert_to_numpy(keras.ops.convert_to_tensor(variable))


def snapshot(variables: Sequence[keras.Variable]) -> dict[str, np.ndarray]:
    """A copy of the weights by their place: the best epoch so far, to be kept beside the current one."""
    # A copy, since on a CPU NumPy would see the very memory that the next step writes to.
    return {str(place): np.array(array_of(variable)) for place, variable in enumerate(variables)}


def put_back(variables: Sequence[keras.Variable], arrays: dict[str, np.ndarray]) -> None:
    """Assign what `snapshot` took."""
    for place, variable in enumerate(variables):
        variable.assign(arrays[str(place)])
