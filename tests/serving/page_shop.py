"""A small record shop behind the actual servers, for the tests of the pages: generated, trained and released once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from data.world import WorldConfig, generate_world
from pipeline.config import ServingConfig, load_config
from pipeline.demo import serving
from pipeline.stages import Run
from serving.local import LocalServer

SETTINGS = [
    "encoders.text=signal:",
    "encoders.image=signal:",
    "encoders.audio=signal:",
    "retrieval.epochs=1",
    "retrieval.width=16",
    "retrieval.history_length=10",
    "retrieval.batch_size=256",
    "retrieval.ablations=false",
    "linear.parts=[]",
    "search.epochs=2",
    "ranking.epochs=1",
    "index.recall_floor=0.5",
]


def make_shop(folder: Path) -> Run:
    """A hundred tracks with covers and clips, and a release of models that have learned little."""
    generate_world(folder / "world", WorldConfig(seed=5, items=100, users=80, events=2400))
    run = Run(folder / "world", folder / "run", load_config(overrides=SETTINGS), say=lambda line: None)
    run.ingest()
    run.encode()
    run.train_retrieval()
    run.train_linear()
    run.train_search()
    run.index()
    run.train_ranking()
    run.choose_policy()
    run.export()
    return run


@contextmanager
def open_shop(run: Run) -> Iterator[tuple[LocalServer, str]]:
    """The model server and the gateway's address."""
    with serving(run.source, run.folder, ServingConfig(grpc_port=0, rest_port=0, gateway_port=0)) as both:
        yield both
