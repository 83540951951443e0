"""A training checkpoint: weights, optimizer, position and history of the loop, written whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import keras
import numpy as np

STATE, VARIABLES = "state.json", "variables.npz"


class Checkpoint:
    """One folder that always holds the last finished epoch, even if the process is killed while it writes the next.

    Args:
        folder: created when missing; belongs to this checkpoint alone.
        variables: what to keep, in a fixed order (trained weights, optimizer slots, a copy of the best weights).
    """

    def __init__(self, folder: Path, variables: list[keras.Variable]):
        self.folder, self.variables = folder, variables
        folder.mkdir(parents=True, exist_ok=True)

    def save(self, state: dict[str, Any], extra: dict[str, np.ndarray] | None = None) -> None:
        """Write variables and `state` (JSON) beside the last checkpoint, then swap a pointer to it."""
        name = f"epoch-{state['epoch']:05d}"
        writing, final = self.folder / f".{name}", self.folder / name
        shutil.rmtree(writing, ignore_errors=True)
        shutil.rmtree(final, ignore_errors=True)
        writing.mkdir()
        arrays = {
            f"v{number}": keras.ops.convert_to_numpy(variable.value) for number, variable in enumerate(self.variables)
        }
        arrays |= {f"extra_{key}": value for key, value in (extra or {}).items()}
        np.savez(writing / VARIABLES, allow_pickle=False, **arrays)
        (writing / STATE).write_text(json.dumps(state))
        os.rename(writing, final)
        for old in self.folder.glob("epoch-*"):
            if old != final:
                shutil.rmtree(old)

    def restore(self) -> tuple[dict[str, Any], dict[str, np.ndarray]] | None:
        """Load the last finished epoch into the variables; None when there is none.

        Errors: ValueError when the checkpoint belongs to a model of another shape.
        """
        finished = sorted(self.folder.glob("epoch-*"))
        if not finished:
            return None
        with np.load(finished[-1] / VARIABLES) as arrays:
            for number, variable in enumerate(self.variables):
                value = arrays[f"v{number}"]
                if value.shape != tuple(variable.shape):
                    raise ValueError(
                        f"checkpoint {finished[-1]}: variable {variable.path} has shape {tuple(variable.shape)}, "
                        f"the file holds {value.shape}. Remove the checkpoint folder to start over."
                    )
                variable.assign(value)
            extra = {key.removeprefix("extra_"): arrays[key] for key in arrays.files if key.startswith("extra_")}
        return json.loads((finished[-1] / STATE).read_text()), extra


def snapshot(variables: list[keras.Variable]) -> dict[str, np.ndarray]:
    """A copy of the weights by their place: the best epoch so far, to be kept beside the current one."""
    return {str(place): keras.ops.convert_to_numpy(variable.value) for place, variable in enumerate(variables)}


def put_back(variables: list[keras.Variable], arrays: dict[str, np.ndarray]) -> None:
    """Assign what `snapshot` took."""
    for place, variable in enumerate(variables):
        variable.assign(arrays[str(place)])
