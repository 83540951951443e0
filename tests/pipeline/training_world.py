"""A world small enough to train on in a second: thirty users, twenty items, taste given by the item's vector."""

from pathlib import Path

import numpy as np
import pandas as pd

from data.dataset import Dataset
from data.features import FeatureStore, FeatureWriter
from data.ingest import IngestOptions, ingest


def make_world(folder: Path, items: int = 20):
    """Write `source`, `ingest` and `encode` into `folder`; two items appear only in the test days."""
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(items, 5)).astype("float32")
    tastes = rng.normal(size=(30, 5))
    rows = []
    for user in range(30):
        order = np.argsort(-(vectors @ tastes[user]))[:12]
        for step, item in enumerate(rng.permutation(order)):
            if item < 18 or step > 10:
                rows.append((f"u{user}", f"i{item}", 1_600_000_000 + step * 86_400 + user))
    source, ingested, store = folder / "source", folder / "ingest", folder / "encode"
    for path in (source, ingested, store):
        path.mkdir()
    pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp"]).to_parquet(source / "interactions.parquet")
    pd.DataFrame({"item_id": [f"i{item}" for item in range(items)]}).to_parquet(source / "items.parquet")
    dataset = ingest(source, ingested, IngestOptions())
    writer = FeatureWriter(store, dataset.schema.item_rows)
    writer.add("text", 5)
    ids = [int(item[1:]) for item in dataset.items["item_id"][1:]]
    writer.put("text", np.arange(1, items + 1), vectors[ids])
    return source, dataset, writer.close()


def open_world(folder: Path):
    """What `make_world` wrote, in another process."""
    return Dataset.load(folder / "ingest"), FeatureStore.open(folder / "encode")
