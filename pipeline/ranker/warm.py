"""A nightly job's ranker goes on from the last one: what it has learned, in grown tables and moved embeddings."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path

import keras
import numpy as np

from pipeline.stage import StageError
from pipeline.training.warm import RETRAIN, linear_map
from ranking.model import Ranker

LEARNED = "learned.npz"
IDS = ("user_id", "item_id")


def save_learned(ranker: Ranker, folder: Path) -> None:
    """Write what the ranker has learned into a folder as `learned.npz`: every trained weight by its path, and the means that
    its content is centred by."""
    weights = [*ranker.trainable_variables, *ranker.content.means]
    np.savez(folder / LEARNED, allow_pickle=False, **{w.path: keras.ops.convert_to_numpy(w.value) for w in weights})


@dataclasses.dataclass(frozen=True)
class WarmRanker:
    """A ranker that goes on from that of an earlier run.

    Attributes:
        previous: folder of the earlier ranking stage. item_embeddings: [N' + 1, D'], those that it learned with.
        new_embeddings: [N + 1, D], those that the new one reads.
    """

    previous: Path
    item_embeddings: np.ndarray
    new_embeddings: np.ndarray

    @functools.cached_property
    def learned(self) -> dict[str, np.ndarray]:
        """What `save_learned` kept.

        Raises:
            StageError: nothing was.
        """
        file = self.previous / LEARNED
        if not file.is_file():
            raise StageError(f"job: {file} is missing, from which the ranker would go on. {RETRAIN}.")
        with np.load(file) as arrays:
            return {name: arrays[name] for name in arrays.files}

    @property
    def modalities(self) -> tuple[str, ...]:
        """Those whose projections were learned, and need no start."""
        parts = (path.partition("_kernel") for path in self.learned if path.startswith("content/"))
        return tuple(name.removeprefix("content/") for name, kernel, _ in parts if kernel)

    def fill(self, ranker: Ranker) -> None:
        """Give a newly built ranker the earlier weights.

        Rows of new users and items become those of the unknown one; heads, columns and values that are new keep their start.
        The projection of the retrieval embedding is carried into the new embedding's basis by least squares.

        Raises:
            StageError: nothing was kept, or the ranker is built otherwise.
        """
        learned = self.learned
        for weight in [*ranker.trainable_variables, *ranker.content.means]:
            value, shape = learned.get(weight.path), tuple(weight.shape)
            if value is None or "behaviour" in weight.path:
                continue
            if value.shape != shape:
                if weight.path.split("/")[0] != "features" or value.shape[1:] != shape[1:] or len(value) > shape[0]:
                    raise StageError(
                        f"job: the ranker's {weight.path} was {value.shape} in the last release and is {shape}. {RETRAIN}."
                    )
                more = np.array(keras.ops.convert_to_numpy(weight.value))[len(value) :]
                if weight.path.split("/")[-1] in IDS:
                    more[:] = value[0]
                value = np.concatenate([value, more])
            weight.assign(value)
        self._carry_behaviour(ranker, learned)

    def _carry_behaviour(self, ranker: Ranker, learned: dict[str, np.ndarray]) -> None:
        names = list(ranker.content.modalities)
        if "behaviour" not in names or "content/behaviour_kernel" not in learned:
            return
        place, moved = names.index("behaviour"), linear_map(self.new_embeddings, self.item_embeddings)
        ranker.content.kernels[place].assign(moved @ learned["content/behaviour_kernel"])
