"""From a finished run to a release: towers, index, ranker and encoders with everything a request may name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from data.dataset import Dataset, gone_rows
from data.features import FeatureStore
from data.splits import newest_time
from pipeline.content.store_encoders import READY_MADE
from pipeline.metrics.examples import interactions, positive_histories
from pipeline.policy.facts import policy_tables
from pipeline.policy.stage import load_policy
from pipeline.release.raw_models import GRAPHS, RawModels, graphs_of, raw_models, towers_of
from pipeline.retrieval.served import Served, load_served
from pipeline.settings.config import Config
from pipeline.stage import digest, read_manifest
from ranking.serving_form import RankingServingForm
from serving.export.graphs_again import GraphsAgain
from serving.export.recommend import RecommendSettings
from serving.export.release import export_release
from serving.graphs.request_history import ServingTables
from serving.index.build import load_index
from serving.releases.manifest import Release
from serving.releases.release import ReleaseError, list_releases, verify_release
from serving.server.servable import Servable

EVERYTHING = ("train", "valid", "test")


def serving_tables(
    dataset: Dataset, ingested: Path, history_length: int, splits: tuple[str, ...] = EVERYTHING, *, ranker_history: int = 0
) -> ServingTables:
    """What the server knows of every user when the log ends: profile, latest positive items, and everything ever shown.

    Evaluation stops at the test split; a server answers today, so for it the whole log counts.

    Args:
        history_length: how much of a history the user tower reads. ranker_history: how much of it the ranker does; as much
            is kept as either reads.
    """
    kept = max(history_length, ranker_history)
    users = np.arange(dataset.schema.user_rows)
    seen, chosen = (interactions(dataset, splits, positive_only=positive) for positive in (False, True))
    return ServingTables(
        user_ids=ingested / "user_ids.txt",
        item_ids=ingested / "item_ids.txt",
        profile=dataset.profile,
        profile_words=_profile_words(dataset),
        history=positive_histories(dataset, splits).latest(users, kept),
        seen_offsets=seen.offsets.astype(np.int64),
        seen_rows=seen.rows.astype(np.int32),
        chosen=(chosen.offsets.astype(np.int64), chosen.rows.astype(np.int32)),
        tower_steps=history_length,
        gone=gone_rows(dataset.items),
    )


def _profile_words(dataset: Dataset) -> dict[str, list[str]]:
    """The words of every profile column; nothing where a dataset came with codes alone."""
    words = {name: list(dataset.profile_vocabulary.get(name, [])) for name in dataset.schema.profile}
    return words if all(len(words[name]) == size for name, size in dataset.schema.profile.items()) else {}


def prepare(
    dataset: Dataset,
    run: Path,
    config: Config,
    served: Served,
    store: FeatureStore | None,
    search: bool,
    previous: Path | None,
) -> tuple[ServingTables, RawModels, GraphsAgain, dict[str, Any]]:
    """What a release has that follows from no ranker: tables, models of raw content, graphs that it may take over, and their
    part of its details."""
    raw, graphs, encoders = RawModels(), "", {}
    (before, why), towers = whole_release(previous), towers_of(served)
    if store is not None:
        graphs = graphs_of(towers, served, store, run, config.serving.precision)
        raw = raw_models(run, served, store, config, search=search, graphs=graphs, previous=before, why=why)
        stored = {name: store.info["modalities"][name]["encoder"] for name in store.modalities}
        encoders = {name: encoder for name, encoder in stored.items() if encoder != READY_MADE}
    length, longer = served.two_tower.config.history_length, config.ranking.history_length
    tables = serving_tables(dataset, run / "ingest", length, ranker_history=longer)
    again = GraphsAgain({**towers, "precision": config.serving.precision}, before)
    return tables, raw, again, {"encoders": encoders, GRAPHS: graphs}


def whole_release(previous: Path | None) -> tuple[Release | None, str]:
    """An earlier release whose graphs may be handed on, or None and why there is none."""
    if previous is None:
        return None, "there is no release before"
    try:
        return verify_release(previous), ""
    except (ReleaseError, FileNotFoundError) as error:
        return None, str(error)


def export_stage(
    dataset: Dataset,
    run: Path,
    config: Config,
    *,
    store: FeatureStore | None = None,
    search: bool = False,
    first: int = 1,
    releases: Path | None = None,
    previous: Path | None = None,
    wait_for: Callable[[str], Any] | None = None,
    observe: Callable[[Servable], Any] | None = None,
) -> dict[str, Any]:
    """Publish the next version under `<run>/releases`, unless the newest one already holds exactly these models.

    A kill between publishing and the stage's own manifest therefore never leaves two releases of the same thing.

    Args:
        store: the features that the towers read; with it, and where these are encoded from content, the release takes
            raw items (`item_encoder`), and is searched by pictures and sounds (`content_search`).
        search: whether the search stage's tower, if one was trained, is released beside them; needs `store`.
        first: number of the first release of the folder.
        releases: another folder to publish in than the run's own.
        previous: an earlier release, whose graphs of raw content are taken over where they would be the same.
        wait_for: called with "index" once everything is read that follows from towers alone, and with "policy" once everything
            is written that follows from these two; returns when that stage is there: a job that still makes them begins here.
        observe: see `serving.export.release.export_release`; not called where nothing is published.
    """
    releases = releases or run / "releases"
    # As long as a ranker may still be trained, the one that lies there may be another one.
    if wait_for is None and (before := published_before(releases, made_from(run, config, store, search))) is not None:
        return told(before)
    served, versions = load_served(run), list_releases(releases) if releases.is_dir() else []
    ensemble, two_tower = served.ensemble, served.two_tower
    tables, raw, graphs, details = prepare(dataset, run, config, served, store, search, previous)
    if wait_for is not None:
        wait_for("index")

    def ranked() -> tuple[RankingServingForm, RecommendSettings]:
        if wait_for is not None:
            wait_for("policy")
        details["made_from"] = made_from(run, config, store, search)
        if wait_for is not None and (before := published_before(releases, details["made_from"])) is not None:
            raise PublishedBeforeError(before)
        settings = RecommendSettings(
            policy_tables(dataset, config.policy, EVERYTHING),
            load_policy(run, config.policy),
            config.ranking.retrieved,
            now=newest_time(dataset.events["timestamp"].to_numpy()) if dataset.schema.has_timestamps else 0,
        )
        return RankingServingForm.load(run / "ranking" / "serving_form"), settings

    try:
        release = export_release(
            releases,
            versions[-1] + 1 if versions else first,
            tables=tables,
            user_tower=two_tower.user_tower if ensemble is None else ensemble.user_tower,
            linear_history=None if ensemble is None else ensemble.linear.history,
            index=load_index(run / "index", "stock"),
            approximate_index=load_index(run / "index", "scann") if (run / "index" / "scann").is_dir() else None,
            item_encoder=raw.item_encoder,
            search=raw.search,
            content_search=raw.content_search,
            ranked=ranked,
            precision=config.serving.precision,
            prune=config.serving.prune,
            counts={"raw_modalities": len(raw.item_encoder.encoders)} if raw.item_encoder else {},
            details=details,
            observe=observe,
            graphs=graphs,
        )
    except PublishedBeforeError as found:
        return told(found.release)
    return {
        **told(release, before=False),
        "item_encoder": raw.item_encoder is not None,
        "search": raw.search is not None,
        "content_search": raw.content_search is not None,
        "raw_graphs": raw.graphs,
        "graphs_again": graphs.again,
    }


class PublishedBeforeError(Exception):
    """The newest release holds exactly these models."""

    def __init__(self, release: Release):
        super().__init__(f"release {release.version} holds these models")
        self.release = release


def made_from(run: Path, config: Config, store: FeatureStore | None, search: bool) -> dict[str, str]:
    """What a release follows from: keys of the stages before, and settings of the export."""
    stages = ["served/full", "index", "ranking", "policy", *(["search"] if search else [])]
    found = {name: (read_manifest(run / name) or {})["key"] for name in stages}
    found["raw"] = "" if store is None else "item_encoder content_search"
    found["precision"] = config.serving.precision
    if config.serving.prune:
        found["prune"] = str(config.serving.prune)
    found["users"] = digest((run / "ingest" / "user_ids.txt").read_text(encoding="utf-8"))
    return found


def published_before(releases: Path, made: dict[str, str]) -> Release | None:
    """The newest release of a folder where it is whole and was made from this; else None."""
    versions = list_releases(releases) if releases.is_dir() else []
    if not versions:
        return None
    try:
        newest = verify_release(releases / str(versions[-1]))
    except ReleaseError:
        return None
    return newest if newest.manifest["details"].get("made_from") == made else None


def told(release: Release, before: bool = True) -> dict[str, Any]:
    """What a manifest says of a release; `before`: whether it was there already."""
    return {"version": release.version, "fingerprint": release.fingerprint, "published_before": before}
