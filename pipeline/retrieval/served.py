"""What a run serves: the two towers alone, or an ensemble of them with the linear tower."""

from __future__ import annotations

import dataclasses
import functools
import json
from pathlib import Path

import keras
import numpy as np
import scipy.sparse

from pipeline.retrieval.queries import embed_queries
from towers.content_map import ContentMap
from towers.ensemble import DESCRIPTION, Ensemble, load_ensemble
from towers.fusion import unit_length
from towers.two_tower import TwoTower, load_two_tower

FULL = "full"
UNSEEN = "unseen"
"""Below a variant that was fitted again on the validation split: what was served had it not been."""


@dataclasses.dataclass(frozen=True, eq=False)
class Served:
    """Everything downstream of training asks this for queries and candidates, and not a particular model.

    Attributes:
        two_tower: as trained. tower_items: [N + 1, D_1], its item embeddings.
        ensemble: where there is one.
        history_length: L, how much of a history a query reads.
    """

    two_tower: TwoTower
    tower_items: np.ndarray
    ensemble: Ensemble | None
    history_length: int

    @property
    def items(self) -> np.ndarray:
        """The candidates, float32 [N + 1, D]."""
        return self.tower_items if self.ensemble is None else self.ensemble.items

    @property
    def content_map(self) -> ContentMap | None:
        return None if self.ensemble is None else self.ensemble.content_map

    def queries(self, profile: np.ndarray, users: np.ndarray, history: np.ndarray) -> np.ndarray:
        """The queries of requests, as the exported graph makes them.

        Shapes: profile [user rows, P], users [Q], history [Q, L] rows, most recent first, 0 = none -> [Q, D] float32.
        """
        recent = history[:, : self.two_tower.config.history_length]
        queries = embed_queries(self.two_tower, self.tower_items, profile, users, recent)
        if self.ensemble is None:
            return queries
        towers, linear = self.ensemble.weights
        sums = self.ensemble.linear.queries(history_matrix(history, len(self.tower_items)))
        return np.concatenate([towers * queries, linear * keras.ops.convert_to_numpy(unit_length(sums))], axis=1)


def history_matrix(history: np.ndarray, item_rows: int) -> scipy.sparse.csr_array:
    """Histories [Q, L] as a sparse matrix of ones [Q, N + 1]; an item counts once, row 0 not at all.

    Example:
        >>> history_matrix(np.array([[2, 1, 2, 0]]), 4).toarray().tolist()
        [[0.0, 1.0, 1.0, 0.0]]
    """
    lines, places = np.nonzero(history)
    matrix = scipy.sparse.csr_array(
        (np.ones(len(lines), np.float32), (lines, history[lines, places])), shape=(len(history), item_rows)
    )
    matrix.sum_duplicates()
    matrix.data[:] = 1.0
    return matrix


def served_folder(run: Path, variant: str = FULL) -> Path:
    """The folder of what a variant serves: the ensemble's, or that of the two towers where there is none."""
    folder = run / "served" / variant
    return folder if (folder / DESCRIPTION).is_file() else run / "retrieval" / variant


def load_served(run: Path, variant: str = FULL) -> Served:
    """What the stages `train-retrieval` and `train-linear` of a run left for serving.

    Errors: FileNotFoundError where a stage has not run.
    """
    folder = served_folder(run, variant)
    if (folder / DESCRIPTION).is_file():
        ensemble = load_ensemble(folder)
        length = int((folder / "history_length.txt").read_text())
        return Served(ensemble.two_tower, ensemble.tower_items, ensemble, length)
    two_tower = load_two_tower(folder)
    return Served(two_tower, np.load(folder / "item_embeddings.npy"), None, two_tower.config.history_length)


def shared_served(run: Path, variant: str = FULL) -> Served:
    """What `load_served` returns, for those who only ask it: stages of one process that follow each other share it.

    To build the towers takes longer than most of what they are asked.
    """
    folder = served_folder(run, variant)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return _shared(run, variant, tuple((path, path.stat().st_mtime_ns) for path in files))


@functools.lru_cache(maxsize=1)
def _shared(run: Path, variant: str, files: tuple[tuple[Path, int], ...]) -> Served:
    """`files`: with their times; a stage that ran again left others."""
    return load_served(run, variant)


def served_items(run: Path, variant: str = FULL) -> np.ndarray:
    """The candidates of what a run serves, float32 [N + 1, D], without building a model."""
    return np.load(served_folder(run, variant) / "item_embeddings.npy")


def served_history_length(run: Path, variant: str = FULL) -> int:
    """How much of a history a query of what a run serves reads, without building a model."""
    folder = served_folder(run, variant)
    if (folder / DESCRIPTION).is_file():
        return int((folder / "history_length.txt").read_text())
    return int(json.loads((folder / "model.json").read_text())["config"]["history_length"])
