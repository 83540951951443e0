"""Which run a release came from, and a gateway that shows what that run knows."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from fastapi.testclient import TestClient

from serving.catalogue.catalogue import Catalogue
from serving.catalogue.live_catalogue import LiveCatalogue
from serving.catalogue.live_items_log import LiveItemsLog
from serving.catalogue.released_run import answering_label, answering_version, ingested_folder
from serving.gateway.app import GatewaySettings, create_app
from serving.gateway.release import ReleaseWatch
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
    settings = GatewaySettings(run=run, source=source, cache_seconds=0, poll_seconds=1e-6)  # a roll back needs no time
    client = TestClient(create_app(settings, fake))

    def shown(user: str) -> tuple[str, bool]:
        client.post("/v1/recommend", json={"user_id": user, "k": 1})  # by which a change of release is noticed
        reply = client.post("/v1/recommend", json={"user_id": user, "k": 1}).json()
        return reply["items"][0]["item"]["title"], reply["known_user"]

    assert shown("cleo 0003") == ("As of job 0003", True)
    fake.version = 1  # rolled back
    assert shown("cleo 0003") == ("Title 12", False) and shown("bob") == ("Title 12", True)
    fake.version = 2_000_001  # and followed
    assert shown("cleo 0003") == ("As of job 0003", True)


def wait_for(true: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not true() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert true()


class Slow(Catalogue):
    """Is read when it is let, and counts how often it is and by how many at once."""

    let, read, now, most = threading.Event(), 0, 0, 0

    def __init__(self, *args: object) -> None:
        Slow.read, Slow.now = Slow.read + 1, Slow.now + 1
        Slow.most = max(Slow.most, Slow.now)
        assert Slow.let.wait(20), "an answer waits for the catalogue"
        super().__init__(*args)  # type: ignore[arg-type]
        Slow.now -= 1


def test_a_promotion_that_servers_take_over_one_after_another_reads_the_catalogue_once(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, source = folders
    fake = FakeRecommender()
    fake.version = 1
    settings = GatewaySettings(run=run, source=source, cache_seconds=30, poll_seconds=60)
    client = TestClient(create_app(settings, fake))
    client.get("/v1/recommend")
    assert client.get("/v1/items/i12").json()["title"] == "Title 12"
    monkeypatch.setattr("serving.catalogue.live_catalogue.Catalogue", Slow)
    answers = itertools.cycle((2, 1))
    ask = fake.recommend

    def by_turns(user_id: str, **options: object):
        answer = ask(user_id, **options)
        return type(answer)(answer.user_id, answer.items, answer.seconds, dict.fromkeys(answer.versions, next(answers)))

    monkeypatch.setattr(fake, "recommend", by_turns)

    def ask_as(number: int) -> None:
        assert client.get("/v1/recommend", params={"user_id": f"u{number}"}).status_code == 200

    with client, ThreadPoolExecutor(8) as pool:
        list(pool.map(ask_as, range(60)))
        wait_for(lambda: Slow.now == 1)
        assert client.get("/v1/items/i12").json()["title"] == "Title 12"
        Slow.let.set()
        wait_for(lambda: client.get("/v1/items/i12").json()["title"] == "As of job 0003")
        list(pool.map(ask_as, range(60, 90)))
        assert (Slow.read, Slow.most) == (1, 1) and client.get("/v1/items/i12").json()["title"] == "As of job 0003"
        replies = [client.get("/v1/recommend", params={"user_id": "kept"}).json() for _ in range(6)]
    assert {reply["versions"]["retrieval"] for reply in replies if reply["cached"]} == {2}


def test_an_older_release_is_followed_when_it_alone_has_answered_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("serving.gateway.release.time", SimpleNamespace(monotonic=lambda: now[0]))
    told: list[Mapping[str, int]] = []
    watch = ReleaseWatch(lambda: {}, 2.0)
    watch.on_change(lambda versions: told.append(versions["m"]))  # type: ignore[arg-type]
    for version in (1, 2, 1, 2, 1, 1, 2_000_000, 2_000_001, 2_000_000, 1):
        watch.seen({"m": version})
    assert told == [1, 2, 2_000_000, 2_000_001]
    now[0] += 6.1
    watch.seen({"m": 2_000_001})  # the newer one is still there
    watch.seen({"m": 2})
    assert told[-1] == 2_000_001 and not watch.follows({"m": 2})
    now[0] += 6.1
    watch.seen({"m": 2})  # rolled back
    assert told[-1] == 2 and watch.follows({"m": 2})
    watch.seen({"m": 2_000_002})
    watch.seen({"m": 3})  # the next release, though its number is lower than an update's
    assert told[-2:] == [2_000_002, 3]


def test_a_listener_that_fails_is_told_again_and_holds_up_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.gateway.release.RETRY_SECONDS", 0.02)
    faults = iter([OSError("away"), OSError("away")])
    first: list[int] = []
    second: list[int] = []

    def fails_twice(versions: Mapping[str, int]) -> None:
        for fault in faults:
            raise fault
        first.append(versions["m"])

    watch = ReleaseWatch(lambda: {"m": 2}, 60.0)
    watch.on_change(fails_twice)
    watch.on_change(lambda versions: second.append(versions["m"]))
    watch.start()
    wait_for(lambda: bool(first))
    watch.stop()
    assert (first, second) == ([2], [2])


def test_a_catalogue_that_cannot_be_read_leaves_the_one_before(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, source = folders
    for ingest in (run / "ingest", run / "jobs" / "0003" / "ingest"):
        os.utime(ingest / "items.parquet", (1, 1))  # of one second, as a copied volume may have them
    catalogue = LiveCatalogue(run, source / "media", LiveItemsLog(run / "items"), 1)

    def fail(*args: object) -> Catalogue:
        raise OSError("the volume is away")

    with monkeypatch.context() as patch:
        patch.setattr("serving.catalogue.live_catalogue.Catalogue", fail)
        with pytest.raises(OSError, match="away"):
            catalogue.reload(2)
    shown = catalogue.item("i12")
    assert shown is not None and shown.title == "Title 12"
    assert catalogue.reload(2) and not catalogue.reload(2)
    shown = catalogue.item("i12")
    assert shown is not None and shown.title == "As of job 0003"


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
