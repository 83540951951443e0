"""A small world through the actual stack: encode stage, towers, and the exported graph of the same encoders."""

from __future__ import annotations

import atexit
import dataclasses
import functools
import tempfile
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd

from data.audio_decoder import decode_audio
from data.dataset import Dataset
from data.features import FeatureStore
from data.ingest import IngestOptions, ingest
from data.media import read_media
from data.world import WorldConfig, generate_world
from pipeline.content.encode import encode
from serving.client.recommender import NewItem
from serving.export.item_encoder import ItemEncoderModule
from towers.config import TowerConfig
from towers.encoders import PACK, make_encoder
from towers.two_tower import TwoTower

ITEMS, WIDTH, SECONDS = 100, 32, 5


def specs() -> dict[str, str]:
    """The pack's encoders joined to those without weights, where the pack is installed: every kind in one graph."""
    wanted = {
        "text": "pack:e5",
        "image": "signal:+pack:efficientnet",
        "audio": "signal:+pack:musicnn",
        "video": "none",
    }
    installed = all(PACK[name].installed() for name in ("e5", "efficientnet", "musicnn"))
    return wanted if installed else dict.fromkeys(("text", "image", "audio"), "signal:") | {"video": "none"}


@dataclasses.dataclass
class RawStack:
    """What the tests compare.

    Attributes:
        dataset, store: of the ingested and encoded world.
        encoders: those that filled the store. two_tower: of random weights, standardised on the store.
        embeddings: of items 1..N by their stored vectors, without their ids: what the graph has to give.
        items: the same items' raw content.
        folder: the exported `item_encoder`.
    """

    world: Path
    dataset: Dataset
    store: FeatureStore
    encoders: dict[str, Any]
    two_tower: TwoTower
    embeddings: np.ndarray
    items: list[NewItem]
    folder: Path

    @property
    def present(self) -> np.ndarray:
        return self.store.present_of(self.store.modalities)[1:]


@functools.cache
def raw_stack() -> RawStack:
    """World, ingestion, encoding, towers and export; made once a process."""
    keep = tempfile.TemporaryDirectory(prefix="raw-stack-")
    atexit.register(keep.cleanup)
    folder = Path(keep.name)
    world = folder / "world"
    generate_world(world, WorldConfig(seed=5, items=ITEMS, users=30, events=1200))
    ingest(world, folder / "ingest", IngestOptions())
    dataset = Dataset.load(folder / "ingest")
    encoders: dict[str, Any] = {name: make_encoder(name, spec) for name, spec in specs().items() if spec != "none"}
    options = {"batch_size": 25, "workers": 1, "tuned": encoders}
    store = encode(world, dataset, folder / "encode", specs(), folder / "store", **options)
    keras.utils.set_random_seed(3)
    two_tower = TwoTower(dataset.schema.with_modalities(store.widths), TowerConfig(width=WIDTH))
    present = store.present_of(store.modalities)
    tables = {name: np.asarray(store.table(name), np.float32) for name in store.modalities}
    for column, name in enumerate(store.modalities):
        two_tower.item_tower.projections[name].adapt(tables[name], present[:, column])
    # The gates start at zero weights; random ones make every modality count in every embedding.
    for weight in two_tower.item_tower.weights:
        if "gate" in weight.path or "output" in weight.path:
            weight.assign(np.random.default_rng(1).normal(0, 0.2, weight.shape))
    vectors, _ = two_tower.item_tower(np.zeros(len(present), np.int32), tables, present)
    export = folder / "item_encoder" / "1"
    ItemEncoderModule(two_tower.item_tower, two_tower.schema.modalities, encoders).save(export)
    items = [raw_item(world, row) for _, row in dataset.items.iloc[1:].iterrows()]
    embeddings = keras.ops.convert_to_numpy(vectors)[1:]
    return RawStack(world, dataset, store, encoders, two_tower, embeddings, items, export)


def raw_item(world: Path, row: pd.Series) -> NewItem:
    """An item as a shop would send it: its text, its picture's bytes and its sound as PCM."""

    def media(name: str) -> bytes:
        value = row.get(name)
        return read_media(world / "media", value) if isinstance(value, str) and value else b""

    sound = media("audio")
    wave = decode_audio(sound, SECONDS * 16_000) if sound else np.zeros(0, np.float32)
    texts = {name: str(row.get(name) or "") for name in ("title", "description", "categories")}
    return NewItem(**texts, image=media("image"), audio=wave)


def cosines(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Row by row."""
    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    return (one * other).sum(axis=1) / np.maximum(lengths, 1e-12)
