"""A run of two tastes and its release, made without training: odd items are of one taste, even ones of the other."""

from __future__ import annotations

import json
from pathlib import Path

import keras
import numpy as np
import pandas as pd

from data.dataset import Dataset
from data.ingest import IngestOptions, ingest
from pipeline.release.export_stage import serving_tables
from pipeline.settings.config import Config, load_config
from serving.export.retrieval import RetrievalModule
from serving.index.index import ExactIndex
from serving.releases.models_config import ModelEntry, write_models_config
from serving.releases.release import publish
from towers.config import TowerConfig
from towers.ensemble import Ensemble
from towers.linear import LinearTower
from towers.two_tower import TwoTower

USERS, ITEMS, START = 24, 48, 1_700_000_000
CONFIG: Config = load_config(overrides=["retrieval.learning_rate=0.05"])


def make_run(out: Path) -> Path:
    """`out` with ingest, served models and release 1 of `retrieval` alone; users u1 to u12 like the odd items."""
    rng, source = np.random.default_rng(0), out / "source"
    source.mkdir(parents=True)
    rows = []
    for user in range(1, USERS + 1):
        liked = [item for item in range(1, ITEMS + 1) if item % 2 == (user <= USERS // 2)]
        for step, item in enumerate(rng.permutation(liked)[:12]):
            rows.append((f"u{user}", f"i{item}", START + 3600 * step + user, "like"))
    pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp", "event"]).to_parquet(source / "interactions.parquet")
    pd.DataFrame({"item_id": [f"i{item}" for item in range(1, ITEMS + 1)]}).to_parquet(source / "items.parquet")
    dataset = ingest(source, out / "ingest", IngestOptions())
    keras.utils.set_random_seed(0)
    two_tower = TwoTower(dataset.schema, TowerConfig(width=8, history_length=6, history="mean", id_dropout=0.0))
    vectors = rng.normal(0, 0.4, (ITEMS + 1, 8)).astype(np.float32)
    odd = np.array([0, *[int(name[1:]) % 2 for name in dataset.items["item_id"][1:]]])
    vectors[:, 0] += np.where(odd, 1.0, -1.0)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors[0] = 0.0
    tables = LinearTower(history=vectors[:, :4].copy(), items=vectors[:, :4].copy())
    served = out / "served" / "full"
    served.mkdir(parents=True)
    ensemble = Ensemble(two_tower, vectors, tables, None, (0.8, 0.6))
    ensemble.save_to(served)
    (served / "history_length.txt").write_text("20")
    write_release(out, dataset, ensemble)
    return out


def write_release(out: Path, dataset: Dataset, ensemble: Ensemble, version: int = 1, config: Config | None = None) -> None:
    length, longer = ensemble.two_tower.config.history_length, (config or Config()).ranking.history_length
    tables = serving_tables(dataset, out / "ingest", length, ranker_history=longer)
    module = RetrievalModule(tables, ensemble.user_tower, ExactIndex(ensemble.items), ensemble.linear.history)
    with publish(out / "releases", version, counts={"items": ITEMS}) as staging:
        module.save(staging / "retrieval" / str(version))
        entry = ModelEntry("retrieval", versions=(version,), labels={"stable": version})
        write_models_config(staging / "models.config", [entry])


def event(number: int, user: str, item: int, received: float, kind: str = "like") -> dict:
    """One event as the gateway keeps it."""
    return {
        "user_id": user, "item_id": f"i{item}", "timestamp": int(received), "event": kind, "value": None, "position": None,
        "propensity": None, "session_id": "", "event_id": f"e{number:05d}", "received": int(received),
    }  # fmt: skip


def cursor(out: Path) -> dict:
    return json.loads((out / "follow" / "cursor.json").read_text())
