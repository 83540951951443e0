"""Peers that are trained by gradient: the towers, the towers with a part left out, SASRec, TFRS's two-tower.

The first three are the towers of this project under different settings, and SASRec (`pipeline.peers.sasrec`) has their
optimizer and loop, so that what differs is the model. The last is in `pipeline.peers.tfrs`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.metrics.top_k import ScoreBlock, dot_product_scores
from pipeline.peers.peers import Answer, Choice, Peer, Problem, Question, Range, Settings, Space


def from_towers(fixed: Settings, *, content: bool = False) -> Callable[[Problem, Settings, int], Answer]:
    """A peer's `fit` from `[retrieval]` settings: those that make it this model, and those of a trial.

    Args:
        fixed: `retrieval` settings that are no choice. content: whether the item tower sees the dataset's content.
    """

    def fit(problem: Problem, settings: Settings, seed: int) -> Answer:
        # Keras and TensorFlow load here, and not for those who measure without them.
        from pipeline.retrieval.queries import embed_queries
        from pipeline.retrieval.train_retrieval import train_retrieval
        from pipeline.settings.config import load_config
        from towers.two_tower import load_two_tower

        if problem.store is None:
            raise ValueError("store: the towers need a feature store, received none; an empty one will do")
        chosen = {"ablations": False, **fixed, **settings, "seed": seed}
        section = load_config(overrides=[f"retrieval.{name}={_toml(value)}" for name, value in chosen.items()]).retrieval
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "out"
            out.mkdir()
            train_retrieval(
                problem.dataset,
                problem.store,
                out,
                Path(folder) / "checkpoints",
                section,
                modalities=problem.modalities if content else (),
                progress=lambda *_: None,
            )
            two_tower, items = load_two_tower(out), np.load(out / "item_embeddings.npy")

        def answer(question: Question) -> ScoreBlock:
            requests = question.requests
            history = requests.history[:, : two_tower.config.history_length]
            queries = embed_queries(two_tower, items, problem.dataset.profile, requests.users, history)
            return dot_product_scores(queries, items)

        return answer

    return fit


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else str(value)


def _sasrec(problem: Problem, settings: Settings, seed: int) -> Answer:
    from pipeline.peers.sasrec import fit_sasrec

    return fit_sasrec(problem, settings, seed)


def _tfrs(problem: Problem, settings: Settings, seed: int) -> Answer:
    from pipeline.peers.tfrs import fit_tfrs

    return fit_tfrs(problem, settings, seed)


COMMON: Space = {
    "width": Choice((64, 128)),
    "learning_rate": Range(5e-4, 1e-2, log=True),
    "temperature": Range(0.03, 0.3, log=True),
    "dropout": Range(0.0, 0.5),
}
LONG: Settings = {"epochs": 30, "patience": 3}
"""Enough for every setting; validation stops a trial that no longer gains."""

TOWERS = (
    Peer(
        "two_tower",
        from_towers(LONG, content=True),
        {},
        {
            **COMMON,
            "user_id_dropout": Range(0.0, 0.95),
            "id_dropout": Range(0.0, 0.6),
            "modality_dropout": Range(0.0, 0.5),
        },
        seeded=True,
        needs_content=True,
    ),
    Peer(
        "ids_two_tower", from_towers(LONG), {}, {**COMMON, "user_id_dropout": Range(0.0, 0.95)}, seeded=True
    ),
    Peer(
        "content_two_tower",
        from_towers({**LONG, "item_id": False, "user_id": False}, content=True),
        {},
        {**COMMON, "modality_dropout": Range(0.0, 0.5)},
        seeded=True,
        needs_content=True,
    ),
    Peer(
        "sasrec",
        _sasrec,
        {},
        {
            "width": Choice((64, 128)),
            "learning_rate": Range(5e-4, 1e-2, log=True),
            "temperature": Choice((0.0, 0.05, 0.1, 0.2)),
            "dropout": Range(0.0, 0.6),
            "layers": Choice((1, 2)),
            "length": Choice((50, 100)),
        },
        seeded=True,
    ),
    Peer(
        "tfrs_two_tower",
        _tfrs,
        {"width": 32, "learning_rate": 0.1, "batch_size": 8192, "epochs": 3},
        {
            "width": Choice((32, 64, 128)),
            "learning_rate": Range(0.01, 0.5, log=True),
            "batch_size": Choice((1024, 4096, 8192)),
            "epochs": Choice((3, 10, 30)),
        },
        seeded=True,
    ),
)
"""What is trained by gradient, each in the space it is tuned in."""
