"""Visits: requests, what was chosen in each, what the index proposed and what the ranker said of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.metrics.interactions import Interactions
from pipeline.ranker.lists import RankingFold
from pipeline.ranker.request_quality import wanted_items

HELD_OUT = "held_out.npz"
"""In the ranking stage's folder: visits that the ranker was held from, with what it said of them before it caught up."""


@dataclasses.dataclass(frozen=True)
class Visits:
    """Q answered requests; policies are chosen and judged on them.

    Attributes:
        users: int32 [Q]. history: int32 [Q, L]. timestamps: int64 [Q], UTC seconds.
        relevant: what was chosen in each.
        rows: int32 [Q, T], in retrieval order, padded with 0. scores, click: f32 [Q, T], of the ranker.
    """

    users: NDArray[np.int32]
    history: NDArray[np.int32]
    timestamps: NDArray[np.int64]
    relevant: Interactions
    rows: NDArray[np.int32]
    scores: NDArray[np.float32]
    click: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.users)

    @classmethod
    def of(cls, fold: RankingFold, told: Mapping[str, NDArray]) -> Visits:
        """The requests of a fold, and the ranker's answer to them (`score` and `click`, [R, T])."""
        asked = fold.requests
        wanted = wanted_items(asked, fold.released)
        return cls(asked.user, asked.history, asked.timestamp, wanted, fold.rows, told["score"], told["click"])

    def take(self, index: NDArray) -> Visits:
        """Some of the visits."""
        arrays = (self.users[index], self.history[index], self.timestamps[index], self.relevant.select(index))
        return Visits(*arrays, self.rows[index], self.scores[index], self.click[index])

    def save(self, file: Path) -> None:
        """Writes one `.npz`."""
        arrays = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        wanted = arrays.pop("relevant")
        np.savez_compressed(file, offsets=wanted.offsets, wanted=wanted.rows, **arrays)

    @classmethod
    def load(cls, file: Path) -> Visits:
        """What `save` wrote.

        Raises:
            FileNotFoundError: there is no such file; the ranking stage writes it.
        """
        with np.load(file) as stored:
            arrays = {name: stored[name] for name in stored.files}
        return cls(relevant=Interactions(arrays.pop("offsets"), arrays.pop("wanted")), **arrays)
