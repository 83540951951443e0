"""The models of raw content of a release: traced with their encoders, or of the graphs that the last release has."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
import tensorflow as tf

from data.dataset import gone_rows
from data.features import FeatureStore
from data.schema import MODALITIES
from pipeline.content.store_encoders import store_encoders
from pipeline.retrieval.served import Served
from pipeline.settings.config import Config
from pipeline.stage import code_fingerprint, digest
from ranking.stored_rows import Precision
from serving.export.content_search import SEARCHABLE, ContentSearchModule
from serving.export.item_encoder import ItemEncoderModule
from serving.export.raw_models_again import ItemEncoderAgain, SearchAgain
from serving.export.release import ITEM_ENCODER, SEARCH
from serving.export.search import SearchModule, search_table
from serving.graphs.raw_encoder import UnsupportedEncoderError
from serving.releases.manifest import Release
from towers.search import WEIGHTS, SearchTower, load_search_tower

GRAPHS = "graphs"
"""In a release's details: what its graphs of raw content follow from."""


@dataclasses.dataclass(frozen=True)
class RawModels:
    """What a release holds for raw content; None of each that it has no use for.

    Attributes:
        graphs: where the graphs come from, and why, for the stage's manifest.
    """

    item_encoder: ItemEncoderModule | ItemEncoderAgain | None = None
    search: SearchModule | SearchAgain | None = None
    content_search: ContentSearchModule | None = None
    graphs: str = ""


def graphs_of(towers: Mapping[str, Any], served: Served, store: FeatureStore, run: Path, precision: Precision) -> str:
    """Digest of what the graphs of raw content follow from: `towers_of`, encoders, and what is read; no weights."""
    tower = run / "search" / WEIGHTS
    return digest({
        **towers,
        "encoders": {name: store.info["modalities"][name].get("fingerprint") for name in store.modalities},
        "modalities": [served.two_tower.schema.modalities, served.two_tower.schema.frames],
        "search": dataclasses.asdict(load_search_tower(tower.parent).config) if tower.is_file() else None,
        "precision": precision,
    })  # fmt: skip


def towers_of(served: Served) -> dict[str, Any]:
    """What every graph of a release follows from: code, libraries and the form of the towers; no weights."""
    towers = dataclasses.asdict(served.two_tower.config)
    towers.pop("content_rank")  # a warm start names what was derived before; shapes are compared one by one
    return {
        "code": code_fingerprint("data", "towers", "ranking", "serving"),
        "libraries": [tf.__version__, keras.__version__],
        "towers": towers,
    }


def raw_models(
    run: Path,
    served: Served,
    store: FeatureStore,
    config: Config,
    *,
    search: bool,
    graphs: str,
    previous: Release | None = None,
    why: str = "there is no release before",
) -> RawModels:
    """The models of raw content of a run.

    Args:
        search: whether the search stage's tower is among them. graphs: see `graphs_of`. previous: an earlier release, whole;
            where its graphs follow from the same, they are taken over, and no encoder is built. why: there is none.
    """
    precision = config.serving.precision
    if previous is not None:
        why = "code, encoders or towers are of another form than then"
        if previous.manifest["details"].get(GRAPHS) == graphs:
            try:
                return _again(run, served, store, previous, precision, search)
            except (ValueError, FileNotFoundError) as error:
                why = str(error)
    encoders = store_encoders(store, config.encoders, run)
    item_encoder = make_item_encoder(served, encoders)
    searching = make_search(run, store, served.items, encoders, precision) if search else None
    looking = make_content_search(run, store, item_encoder, precision)
    return RawModels(item_encoder, searching, looking, f"traced: {why}")


def _again(
    run: Path, served: Served, store: FeatureStore, previous: Release, precision: Precision, search: bool
) -> RawModels:
    """Raises: ValueError, FileNotFoundError where the earlier release has no such graphs."""
    folder = lambda name: previous.folder / name / str(previous.version)  # noqa: E731
    tower, widths = served.two_tower.item_tower, served.two_tower.schema.modalities
    item_encoder = ItemEncoderAgain(folder(ITEM_ENCODER), tower, widths, served.content_map)
    searching = None
    if search and (run / "search" / WEIGHTS).is_file():
        words = load_search_tower(run / "search")
        table = table_of(words, served.items, store)
        searching = SearchAgain(folder(SEARCH), run / "ingest" / "item_ids.txt", words, table, gone_of(run))
    looking = make_content_search(run, store, item_encoder, precision)
    return RawModels(item_encoder, searching, looking, f"those of release {previous.version}")


def make_item_encoder(served: Served, encoders: Mapping[str, Any]) -> ItemEncoderModule | None:
    """The graph from raw content to embeddings; None where no modality is encoded from content."""
    if not encoders:
        return None
    module = ItemEncoderModule(
        served.two_tower.item_tower, served.two_tower.schema.modalities, encoders, served.content_map
    )
    return module if module.encoders else None


def make_search(
    run: Path,
    store: FeatureStore | None,
    embeddings: np.ndarray,
    encoders: Mapping[str, Any],
    precision: Precision = "float32",
) -> SearchModule | None:
    """The graph from questions to items; None where no tower was trained or the text encoder has no graph."""
    if store is None or "text" not in encoders or not (run / "search" / WEIGHTS).is_file():
        return None
    tower = load_search_tower(run / "search")
    try:
        table = table_of(tower, embeddings, store)
        return SearchModule(run / "ingest" / "item_ids.txt", encoders["text"], tower, table, precision, gone_of(run))
    except UnsupportedEncoderError:
        return None


def gone_of(run: Path) -> np.ndarray:
    """See `data.dataset.gone_rows`."""
    return gone_rows(pd.read_parquet(run / "ingest" / "items.parquet", columns=["created_at"]))


def table_of(tower: SearchTower, embeddings: np.ndarray, store: FeatureStore) -> np.ndarray:
    """The items' side of a search tower over a run's texts. f32 [N + 1, E]"""
    return search_table(tower, embeddings, store.table("text"), store.present_of("text"))


def make_content_search(
    run: Path,
    store: FeatureStore | None,
    item_encoder: ItemEncoderModule | ItemEncoderAgain | None,
    precision: Precision = "float32",
) -> ContentSearchModule | None:
    """The graph from pictures' and sounds' vectors to items; None where a release could not encode what is asked."""
    if store is None or item_encoder is None:
        return None
    present = np.array(store.present)
    present[gone_of(run)] = False
    tables = {
        name: (store.table(name), present[:, MODALITIES.index(name)])
        for name in SEARCHABLE
        if name in item_encoder.encoders and name in store.modalities
    }
    module = ContentSearchModule(run / "ingest" / "item_ids.txt", tables, precision)
    return module if module.parts else None
