"""From a finished run to a release: towers, index, ranker and encoders with everything a request may name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from data.dataset import Dataset
from data.features import FeatureStore
from data.schema import MODALITIES
from pipeline.config import Config
from pipeline.examples import interactions, positive_histories
from pipeline.policy_facts import policy_tables
from pipeline.policy_stage import load_policy
from pipeline.served import Served, load_served
from pipeline.stage import digest, read_manifest
from pipeline.store_encoders import store_encoders
from ranking.serving_form import RankingServingForm
from ranking.stored_rows import Precision
from serving.export import export_release
from serving.export_content_search import SEARCHABLE, ContentSearchModule
from serving.export_item_encoder import ItemEncoderModule
from serving.export_recommend import RecommendSettings
from serving.export_search import SearchModule, search_table
from serving.index_build import load_index
from serving.raw_encoder import UnsupportedEncoderError
from serving.release import ReleaseError, list_releases, verify_release
from serving.request_history import ServingTables
from towers.search import WEIGHTS, load_search_tower

EVERYTHING = ("train", "valid", "test")


def serving_tables(
    dataset: Dataset, ingested: Path, history_length: int, splits: tuple[str, ...] = EVERYTHING
) -> ServingTables:
    """What the server knows of every user when the log ends: profile, latest positive items, and everything ever shown.

    Evaluation stops at the test split; a server answers today, so for it the whole log counts.
    """
    users = np.arange(dataset.schema.user_rows)
    seen, chosen = (interactions(dataset, splits, positive_only=positive) for positive in (False, True))
    return ServingTables(
        user_ids=ingested / "user_ids.txt",
        item_ids=ingested / "item_ids.txt",
        profile=dataset.profile,
        history=positive_histories(dataset, splits).latest(users, history_length),
        seen_offsets=seen.offsets.astype(np.int64),
        seen_rows=seen.rows.astype(np.int32),
        chosen=(chosen.offsets.astype(np.int64), chosen.rows.astype(np.int32)),
    )


def export_stage(
    dataset: Dataset,
    run: Path,
    config: Config,
    *,
    store: FeatureStore | None = None,
    search: bool = False,
    first: int = 1,
    releases: Path | None = None,
) -> dict[str, Any]:
    """Publish the next version under `<run>/releases`, unless the newest one already holds exactly these models.

    A kill between publishing and the stage's own manifest therefore never leaves two releases of the same thing.

    Args:
        store: the features that the towers read; with it, and where these are encoded from content, the release takes
            raw items (`item_encoder`), and is searched by pictures and sounds (`content_search`).
        search: whether the search stage's tower, if one was trained, is released beside them; needs `store`.
        first: number of the first release of the folder.
        releases: another folder to publish in than the run's own.
    """
    releases, served = releases or run / "releases", load_served(run)
    stages = ["served/full", "index", "ranking", "policy", *(["search"] if search else [])]
    made_from = {name: (read_manifest(run / name) or {})["key"] for name in stages}
    made_from["raw"] = "" if store is None else "item_encoder content_search"
    made_from["precision"] = config.serving.precision
    if config.serving.prune:
        made_from["prune"] = str(config.serving.prune)
    made_from["users"] = digest((run / "ingest" / "user_ids.txt").read_text(encoding="utf-8"))
    versions = list_releases(releases) if releases.is_dir() else []
    if versions:
        try:
            newest = verify_release(releases / str(versions[-1]))
        except ReleaseError:
            newest = None
        if newest is not None and newest.manifest["details"].get("made_from") == made_from:
            return {"version": newest.version, "fingerprint": newest.fingerprint, "published_before": True}
    ensemble, two_tower = served.ensemble, served.two_tower
    encoders = {} if store is None else store_encoders(store, config.encoders, run)
    item_encoder = make_item_encoder(served, encoders)
    precision = config.serving.precision
    searching = make_search(run, store, served.items, encoders, precision) if search else None
    looking = make_content_search(run, store, item_encoder, precision)
    release = export_release(
        releases,
        versions[-1] + 1 if versions else first,
        tables=serving_tables(dataset, run / "ingest", two_tower.config.history_length),
        user_tower=two_tower.user_tower if ensemble is None else ensemble.user_tower,
        linear_history=None if ensemble is None else ensemble.linear.history,
        index=load_index(run / "index", "stock"),
        approximate_index=load_index(run / "index", "scann") if (run / "index" / "scann").is_dir() else None,
        ranker=RankingServingForm.load(run / "ranking" / "serving_form"),
        item_encoder=item_encoder,
        search=searching,
        content_search=looking,
        recommend=RecommendSettings(
            policy_tables(dataset, config.policy, EVERYTHING),
            load_policy(run, config.policy),
            config.ranking.retrieved,
            now=int(dataset.events["timestamp"].max()) if dataset.schema.has_timestamps else 0,
        ),
        precision=precision,
        prune=config.serving.prune,
        counts={"raw_modalities": len(item_encoder.encoders)} if item_encoder else {},
        details={"made_from": made_from, "encoders": {name: encoder.name for name, encoder in encoders.items()}},
    )
    return {
        "version": release.version,
        "fingerprint": release.fingerprint,
        "published_before": False,
        "item_encoder": item_encoder is not None,
        "search": searching is not None,
        "content_search": looking is not None,
    }


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
    present = np.asarray(store.present)[:, MODALITIES.index("text")]
    table = search_table(tower, embeddings, store.table("text"), present)
    try:
        return SearchModule(run / "ingest" / "item_ids.txt", encoders["text"], tower, table, precision)
    except UnsupportedEncoderError:
        return None


def make_content_search(
    run: Path, store: FeatureStore | None, item_encoder: ItemEncoderModule | None, precision: Precision = "float32"
) -> ContentSearchModule | None:
    """The graph from pictures' and sounds' vectors to items; None where a release could not encode what is asked."""
    if store is None or item_encoder is None:
        return None
    tables = {
        name: (store.table(name), np.asarray(store.present)[:, MODALITIES.index(name)])
        for name in SEARCHABLE
        if name in item_encoder.encoders and name in store.modalities
    }
    module = ContentSearchModule(run / "ingest" / "item_ids.txt", tables, precision)
    return module if module.parts else None
