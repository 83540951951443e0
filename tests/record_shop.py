"""A small record shop with broken rows and its finished run, made once for all test files and both test processes."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest

from data.world import WorldConfig, generate_world
from pipeline.settings.config import load_config
from pipeline.stages.walk import Run

CONFIG = Path(__file__).resolve().parent.parent / "configs" / "demo.toml"
SETTINGS = [
    "encoders.text=signal:",
    "encoders.image=signal:",
    "encoders.audio=signal:",
    "retrieval.epochs=2",
    "retrieval.width=16",
    "retrieval.history_length=10",
    "retrieval.batch_size=256",
    "retrieval.user_id=true",
    "linear.parts=['closed_form', 'spectral']",
    "linear.width=32",
    "ranking.epochs=1",
    "ranking.trees=16",
    "index.recall_floor=0.9",
]
"""What differs from the demo's: as small as can be, and nothing of the walk is left out."""


class RecordShop(NamedTuple):
    """Attributes: source: the dataset folder. folder: the finished run; both are read only, being everybody's."""

    source: Path
    folder: Path

    def copy(self, place: Path, say: Callable[[str], None] = str) -> Run:
        """A finished run of one's own; every stage of it is what it was."""
        shutil.copytree(self.folder, place)
        return Run(self.source, place, load_config(CONFIG, SETTINGS), say=say)


def shared_record_shop(factory: pytest.TempPathFactory) -> RecordShop:
    """The shop; whoever asks first makes it, and everybody else waits until it is there."""
    base = factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "record-shop"
    folder.mkdir(exist_ok=True)
    shop = RecordShop(folder / "world", folder / "run")
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (shop.folder / "report.json").is_file():
            for part in (shop.source, shop.folder):  # of a process that did not come to the end
                shutil.rmtree(part, ignore_errors=True)
            generate_broken_world(shop.source)
            Run(shop.source, shop.folder, load_config(CONFIG, SETTINGS), say=str).all()
    return shop


def generate_broken_world(folder: Path) -> None:
    """220 tracks, and five things that are broken: a cover, a clip, a column, a repeated event and one without value."""
    generate_world(folder, WorldConfig(seed=3, items=220, users=160, events=6000))
    items = pd.read_parquet(folder / "items.parquet")
    cover, clip = items["image"].dropna().iloc[0], items["audio"].dropna().iloc[0]
    picture = next(folder.glob(f"media/**/{Path(cover).name}"))
    picture.write_bytes(picture.read_bytes()[:100])
    next(folder.glob(f"media/**/{Path(clip).name}")).write_bytes(b"")
    items["weird"] = [{"a": 1}] * len(items)
    items.to_parquet(folder / "items.parquet")
    events = pd.read_parquet(folder / "interactions.parquet")
    rated = events.iloc[[0]].assign(event="rating", value=np.nan, timestamp=events["timestamp"].iloc[0] + 1)
    pd.concat([events, events.iloc[[5]], rated]).to_parquet(folder / "interactions.parquet")
