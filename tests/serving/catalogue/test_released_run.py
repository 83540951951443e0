"""Which run a release came from, and a gateway that shows what that run knows."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
from fastapi.testclient import TestClient

from serving.catalogue.released_run import answering_label, answering_version, ingested_folder
from serving.gateway.app import GatewaySettings, create_app
from serving.releases.models_config import ModelEntry, write_models_config
from tests.serving.fake_recommender import FakeRecommender
from tests.serving.gateway_folders import write_folders


def finish(stage: Path, key: str) -> None:
    stage.mkdir(parents=True, exist_ok=True)
    (stage / "manifest.json").write_text(json.dumps({"key": key}))


def publish(run: Path, version: int, made_from: dict[str, str]) -> None:
    folder = run / "releases" / str(version)
    folder.mkdir(parents=True)
    told = {"version": version, "fingerprint": "f", "files": {}, "details": {"made_from": made_from}}
    (folder / "manifest.json").write_text(json.dumps(told))


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Release 1 of the run itself, release 2 of its job 3, which knows another title, another user and later events; job 4
    was kept back."""
    run, source = write_folders(tmp_path)
    for name in ("0003", "0004"):
        job = run / "jobs" / name
        shutil.copytree(run / "ingest", job / "ingest")
        items = pd.read_parquet(job / "ingest" / "items.parquet")
        items.loc[12, "title"] = f"As of job {name}"
        items.to_parquet(job / "ingest" / "items.parquet")
        users = pd.read_parquet(job / "ingest" / "users.parquet")
        users.loc[2, "user_id"] = f"cleo {name}"
        users.to_parquet(job / "ingest" / "users.parquet")
    for place, index, ranking in ((run, "a", "b"), (run / "jobs" / "0003", "c", "d"), (run / "jobs" / "0004", "c", "e")):
        for stage, key in (("served/full", "s"), ("index", index), ("ranking", ranking), ("policy", "p")):
            finish(place / stage, key)
    publish(run, 1, {"served/full": "s", "index": "a", "ranking": "b", "policy": "p"})
    publish(run, 2, {"served/full": "s", "index": "c", "ranking": "d", "policy": "p"})
    return run, source


def test_a_release_is_known_by_the_keys_of_its_stages(folders: tuple[Path, Path]) -> None:
    run, _ = folders
    assert [ingested_folder(run, version).relative_to(run).as_posix() for version in (0, 1, 2, 2_000_007, 9)] == [
        "ingest", "ingest", "jobs/0003/ingest", "jobs/0003/ingest", "ingest",
    ]  # fmt: skip
    assert (answering_version(run, None), answering_version(run, "stable"), answering_version(run.parent, None)) == (2, 2, 0)
    shutil.rmtree(run / "ingest")
    assert ingested_folder(run, 0) == run / "jobs" / "0004" / "ingest"
    assert ingested_folder(run, 2) == run / "jobs" / "0003" / "ingest"


def test_a_gateway_shows_what_the_answering_release_was_made_from(folders: tuple[Path, Path]) -> None:
    run, source = folders
    fake = FakeRecommender()
    client = TestClient(create_app(GatewaySettings(run=run, source=source, cache_seconds=0), fake))

    def shown(user: str) -> tuple[str, bool]:
        client.post("/v1/recommend", json={"user_id": user, "k": 1})  # by which a change of release is noticed
        reply = client.post("/v1/recommend", json={"user_id": user, "k": 1}).json()
        return reply["items"][0]["item"]["title"], reply["known_user"]

    assert shown("cleo 0003") == ("As of job 0003", True)
    fake.version = 1  # rolled back
    assert shown("cleo 0003") == ("Title 12", False) and shown("bob") == ("Title 12", True)
    fake.version = 2_000_001  # and followed
    assert shown("cleo 0003") == ("As of job 0003", True)


def test_without_a_label_the_stable_release_answers_and_not_a_canary(folders: tuple[Path, Path]) -> None:
    run, source = folders
    assert answering_label(run, None) is None and answering_label(run, "canary") == "canary"
    labels = {"stable": 1, "withdrawn": 2}
    write_models_config(run / "releases" / "models.config", [ModelEntry("retrieval", versions=(1, 2), labels=labels)])
    assert [answering_label(run, label) for label in (None, "canary", "")] == ["stable", "canary", None]
    client = TestClient(create_app(GatewaySettings(run=run, source=source), FakeRecommender()))
    assert client.get("/v1/items/i12").json()["title"] == "Title 12"  # of release 1, before any answer


def test_a_gateway_starts_on_a_run_folder_that_jobs_alone_have_made(folders: tuple[Path, Path]) -> None:
    run, source = folders
    shutil.rmtree(run / "ingest")
    client = TestClient(create_app(GatewaySettings(run=run, source=source), FakeRecommender()))
    assert client.get("/v1/items/i12").json()["title"] == "As of job 0003"


def test_a_gateway_warns_of_a_missing_label_where_there_are_versions_to_take_for_each_other(
    folders: tuple[Path, Path], caplog: pytest.LogCaptureFixture
) -> None:
    run, source = folders
    create_app(GatewaySettings(run=run, source=source), FakeRecommender())
    assert "no label: the highest version answers" in caplog.text
    caplog.clear()
    shutil.rmtree(run / "releases" / "2")
    create_app(GatewaySettings(run=run, source=source), FakeRecommender())
    assert caplog.text == ""
