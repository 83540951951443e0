"""Feedback through the gateway: on disk before it is answered, and known to the very next request."""

from __future__ import annotations

import functools
import json
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi.testclient import TestClient

from serving.feedback.compact import compact
from serving.feedback.partitions import partition_files, read_partitions
from serving.gateway.app import GatewaySettings, create_app
from serving.gateway.cache import AnswerCache
from serving.gateway.drift import ScoreDrift, stability_index
from serving.gateway.session import MAX_POSITIVE, Session, Sessions
from serving.score_histogram import REFERENCE, score_histogram
from tests.serving.fake_recommender import FakeRecommender
from tests.serving.gateway_folders import write_folders

ROOT = Path(__file__).resolve().parents[3]
SERVER = """
import sys, uvicorn
from pathlib import Path
from serving.gateway.app import GatewaySettings, create_app
from tests.serving.fake_recommender import FakeRecommender

run, port = Path(sys.argv[1]), int(sys.argv[2])
app = create_app(GatewaySettings(run=run, roll_seconds=0.2, requests_per_second=1e6, burst=10**6), FakeRecommender())
uvicorn.run(app, host="127.0.0.1", port=port, log_level="critical")
"""


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    return write_folders(tmp_path)


@pytest.fixture
def fake() -> FakeRecommender:
    return FakeRecommender()


@pytest.fixture
def client(folders: tuple[Path, Path], fake: FakeRecommender) -> TestClient:
    app = create_app(GatewaySettings(run=folders[0], source=folders[1]), fake)
    client = TestClient(app, raise_server_exceptions=False)
    client.get("/v1/recommend")  # the first answer tells the release, and drops what was kept before it
    return client


def send(client: TestClient, *events: dict[str, Any]) -> Any:
    usual = {"user_id": "ann", "item_id": "i1", "event": "view"}
    return client.post("/v1/feedback", json={"events": [{**usual, **event} for event in events]})


def ids(client: TestClient, **body: Any) -> list[str]:
    reply = client.post("/v1/recommend", json={"user_id": "ann", **body}).json()
    return [entry["item"]["item_id"] for entry in reply["items"]]


def test_the_next_request_differs(client: TestClient, fake: FakeRecommender) -> None:
    first = ids(client, k=3)
    assert first == ["i12", "i11", "i10"]
    send(client, {"item_id": "i12", "event": "skip"}, {"item_id": "i7", "event": "like"}, {"item_id": "i8", "event": "click"})
    assert ids(client, k=3) == ["i11", "i10", "i9"]
    # What happened just now goes before the log (ann: purchase of i2, like of i1; i3 was skipped), newest first.
    assert fake.calls[-1]["recent_item_ids"] == ["i8", "i7", "i2", "i1"]
    assert "i12" in fake.calls[-1]["exclude_item_ids"]
    send(client, {"item_id": "i12", "event": "purchase"}, {"item_id": "i7", "event": "dislike"})
    ids(client, k=3, recent_item_ids=["i5", "i7"])
    assert fake.calls[-1]["recent_item_ids"] == ["i12", "i8", "i5"]
    assert "i7" in fake.calls[-1]["exclude_item_ids"]
    ids(client, k=3, exclude_seen=False)
    assert "i7" in fake.calls[-1]["exclude_item_ids"] and "i1" not in fake.calls[-1]["exclude_item_ids"]


def test_the_evening_knows_of_the_morning(folders, fake: FakeRecommender, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is sent replaces the history that a follower keeps up to date: a session must not have less of the day than it."""
    now = [0.0]
    monkeypatch.setattr("serving.gateway.app.Sessions", functools.partial(Sessions, clock=lambda: now[0]))
    client = TestClient(create_app(GatewaySettings(run=folders[0], cache_seconds=0), fake))
    send(client, {"item_id": "i7", "event": "like"})
    now[0] = 12 * 3600.0
    send(client, {"item_id": "i8", "event": "click"})
    ids(client, k=3)
    assert fake.calls[-1]["recent_item_ids"] == ["i8", "i7", "i2", "i1"]
    now[0] = 37 * 3600.0
    ids(client, k=3)
    assert fake.calls[-1]["recent_item_ids"] == []  # the job has learned from both; the model knows them itself


def test_others_keep_their_answers_and_visitors_have_sessions(client: TestClient, fake: FakeRecommender) -> None:
    for body in ({"user_id": "ann"}, {"user_id": "bob"}, {"user_id": "", "session_id": "s1"}):
        client.post("/v1/recommend", json=body)
    asked = len(fake.calls)
    send(client, {"item_id": "i12", "event": "skip", "session_id": "s1"})
    cached = {}
    for name, body in (("ann", {"user_id": "ann"}), ("bob", {"user_id": "bob"}), ("s1", {"user_id": "", "session_id": "s1"})):
        reply = client.post("/v1/recommend", json=body).json()
        cached[name] = reply["cached"]
        assert ("i12" in [entry["item"]["item_id"] for entry in reply["items"]]) is (name == "bob")
    assert cached == {"ann": False, "bob": True, "s1": False} and len(fake.calls) == asked + 2
    assert client.post("/v1/recommend", json={"user_id": "ann"}).json()["cached"]


def test_an_answer_made_while_its_user_clicked_is_not_kept(client: TestClient, fake: FakeRecommender) -> None:
    real = fake.recommend

    def slow(user_id: str, **options: Any) -> Any:
        answer = real(user_id, **options)
        send(client, {"item_id": "i12", "event": "skip"})  # arrives before the answer is given
        fake.recommend = real  # type: ignore[method-assign]
        return answer

    fake.recommend = slow  # type: ignore[method-assign]
    assert ids(client, k=1) == ["i12"]
    assert ids(client, k=1) == ["i11"]


def test_another_release_ends_every_kept_answer(client: TestClient, fake: FakeRecommender) -> None:
    assert not client.get("/v1/recommend?user_id=bob").json()["cached"]
    assert client.get("/v1/recommend?user_id=bob").json()["cached"]
    fake.version = 3
    with client:  # asks now and then which release answers
        deadline = time.monotonic() + 5
        while client.get("/v1/recommend?user_id=bob").json()["versions"]["ranking"] != 3 and time.monotonic() < deadline:
            time.sleep(0.05)
    assert client.get("/v1/recommend?user_id=bob").json()["versions"] == {"retrieval": 3, "ranking": 3}


def test_events_are_checked_one_by_one_and_count_once(client: TestClient, folders: tuple[Path, Path]) -> None:
    reply = send(
        client,
        {"event_id": "a", "value": 2.5, "position": 3, "propensity": 0.25, "context": {"device": "phone"}},
        {"event_id": "b", "item_id": "nothing"},
        {"event_id": "a"},
        {"event_id": "c", "event": "rating"},
        {"event_id": "d", "timestamp": 2**39},
        {},
    ).json()
    assert reply["accepted"] == 2 and reply["duplicates"] == 1
    assert reply["event_ids"][:5] == ["a", None, "a", None, None] and len(reply["event_ids"][5]) == 32
    assert [(entry["place"], entry["error"].split(":")[0]) for entry in reply["refused"]] == [
        (1, "item_id"), (3, "value"), (4, "timestamp"),
    ]  # fmt: skip
    with client:
        pass  # the end of the application rolls the log
    table = read_partitions(partition_files(folders[0] / "gateway" / "feedback")).to_pylist()
    row = next(row for row in table if row["event_id"] == "a")
    assert (row["value"], row["position"], row["propensity"], row["device"]) == (2.5, 3, 0.25, "phone")
    assert len(table) == 2 and time.time() - row["timestamp"] < 60
    metrics = client.get("/metrics").text
    assert 'triptych_gateway_feedback_total{event="view",result="duplicate"} 1.0' in metrics


@pytest.mark.parametrize(
    ("event", "words"),
    [
        ({"event": "stare"}, "events.0.event"),
        ({"user_id": ""}, "events.0.user_id"),
        ({"user_id": "two\nlines"}, "events.0.user_id"),
        ({"user_id": "宿" * 200}, "at most 512 bytes"),
        ({"event_id": "a b"}, "events.0.event_id"),
        ({"value": "NaN"}, "events.0.value"),
        ({"propensity": 0}, "events.0.propensity"),
        ({"position": 0}, "events.0.position"),
        ({"context": {"user_id": "x"}}, "no column of its own"),
        ({"context": {"Device": "x"}}, "a-z, 0-9"),
        ({"context": {f"c{number}": "x" for number in range(17)}}, "events.0.context"),
        ({"more": 1}, "is no field"),
    ],
)
def test_a_broken_event_is_named(client: TestClient, event: dict[str, Any], words: str) -> None:
    reply = send(client, event)
    assert reply.status_code == 422 and words in reply.json()["error"], reply.text


def test_a_disk_that_refuses_is_told(client: TestClient, folders: tuple[Path, Path]) -> None:
    (folders[0] / "gateway").write_text("a file where the folder should be")
    reply = send(client, {"event_id": "a"})
    assert reply.status_code == 503 and "send the events again" in reply.json()["error"]
    (folders[0] / "gateway").unlink()
    assert send(client, {"event_id": "a"}).json()["accepted"] == 1


def test_kill_9_in_the_middle_of_ten_thousand_events(folders: tuple[Path, Path]) -> None:
    """Eight senders, a gateway killed while it answers them and started again: whatever was acknowledged before is on disk,
    and once all that had no answer is sent again, every event counts once."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command, url = [sys.executable, "-c", SERVER, str(folders[0]), str(port)], f"http://127.0.0.1:{port}"
    batches = [[f"{number}-{place}" for place in range(25)] for number in range(400)]
    answered: list[str] = []

    def start() -> subprocess.Popen:
        process, deadline = subprocess.Popen(command, cwd=ROOT), time.monotonic() + 60
        while True:
            try:
                httpx.get(f"{url}/healthz", timeout=5)
                return process
            except httpx.TransportError:
                assert time.monotonic() < deadline and process.poll() is None
                time.sleep(0.05)

    def send_all(wanted: list[list[str]], process: subprocess.Popen, kill_at: int = 0) -> None:
        waiting = queue.SimpleQueue[list[str]]()
        for names in wanted:
            waiting.put(names)

        def sender() -> None:
            with httpx.Client(base_url=url, timeout=10) as http:
                while True:
                    try:
                        names = waiting.get_nowait()
                    except queue.Empty:
                        return
                    events = [{"event_id": n, "user_id": f"u{n}", "item_id": "i1", "event": "click"} for n in names]
                    try:
                        reply = http.post("/v1/feedback", json={"events": events})
                    except httpx.TransportError:
                        return
                    if reply.status_code == 200:
                        answered.extend(name for name in reply.json()["event_ids"] if name)

        senders = [threading.Thread(target=sender) for _ in range(8)]
        for thread in senders:
            thread.start()
        while kill_at and len(answered) < kill_at and process.poll() is None:
            time.sleep(0.002)
        if kill_at:
            os.kill(process.pid, signal.SIGKILL)
        for thread in senders:
            thread.join()

    process = start()
    send_all(batches, process, kill_at=5_000)
    process.wait(30)
    before = set(answered)
    kept_folder = folders[0] / "gateway" / "feedback"
    compact(kept_folder)
    kept = Counter(read_partitions(partition_files(kept_folder))["event_id"].to_pylist())
    assert 5_000 <= len(before) < 10_000 and before <= set(kept) and set(kept.values()) == {1}
    process = start()
    try:
        # One that was acknowledged comes again too, as from a sender that lost the answer.
        send_all([batches[0], *(names for names in batches if not before.issuperset(names))], process)
    finally:
        process.terminate()
        process.wait(30)
    count = compact(kept_folder)
    kept = Counter(read_partitions(partition_files(kept_folder))["event_id"].to_pylist())
    assert set(answered) == set(kept) == {name for names in batches for name in names}
    assert set(kept.values()) == {1} and count == 10_000


def test_sessions_are_bounded() -> None:
    now = [0.0]
    sessions = Sessions(seconds=10, users=3, clock=lambda: now[0])
    for number in range(5):
        sessions.add(f"u{number}", "i1", "click")
    assert len(sessions) == 3 and sessions.of("u0") == Session() and sessions.of("u4").positive == ("i1",)
    for number in range(2 * MAX_POSITIVE):
        sessions.add("u4", f"i{number}", "click")
    assert len(sessions.of("u4").positive) == MAX_POSITIVE
    now[0] = 9.0
    sessions.add("u4", "last", "skip")  # goes on from there
    now[0] = 15.0
    assert sessions.of("u4").skipped == ("last",) and sessions.of("u3") == Session()
    sessions.add("", "i1", "click")
    assert sessions.of("") == Session()


def test_kept_answers_end_with_time_and_memory_of_owners_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.gateway.cache.MAX_REMEMBERED", 2)
    now = [0.0]
    cache = AnswerCache(seconds=10, entries=100, clock=lambda: now[0])
    cache.put("r", ("ann",), cache.begin(), "answer")
    for owner in ("b", "c", "d"):  # whoever is forgotten as an owner takes everything older along, ann's answer too
        cache.forget(owner)
    assert cache.get("r", ("ann",)) is None
    cache.put("r", ("ann",), cache.begin(), "new")
    assert cache.get("r", ("ann",)) == "new"
    now[0] = 11.0
    assert cache.get("r", ("ann",)) is None
    off = AnswerCache(seconds=0, entries=1)
    off.put("r", (), off.begin(), "answer")
    assert off.get("r", ()) is None


def test_drift_is_seen_against_a_releases_own_scores(tmp_path: Path) -> None:
    drift = ScoreDrift()
    values = [(number * 7919 % 10_007) / 10_007 for number in range(10_000)]
    drift.observe(values[:5_000])
    drift.observe(values[5_000:])
    assert drift.index() < 0.02
    drift.observe([value * 0.5 for value in values[:5_000]])
    assert drift.index() > 0.5
    drift.restart()
    drift.observe(values[:600])
    assert drift.index() != drift.index()  # not a number while a new release has no reference
    file = tmp_path / "reference.json"
    file.write_text('{"edges": [0, 0.5, 1], "shares": [0.5, 0.5]}')
    given = ScoreDrift(file)
    given.observe([0.9] * 900 + [0.1] * 100)
    assert given.index() == pytest.approx(stability_index([0.5, 0.5], [0.1, 0.9]))
    file.write_text('{"edges": [0, 0, 1], "shares": [0.5, 0.5]}')
    with pytest.raises(ValueError, match="rising edges"):
        ScoreDrift(file)


def test_drift_is_measured_against_what_a_release_expects_of_itself(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    own = rng.beta(2, 5, 4_000)
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / REFERENCE).write_text(json.dumps(score_histogram(own)))
    drift = ScoreDrift(None, tmp_path)
    drift.restart(7)
    drift.observe(rng.beta(2, 5, 1_000))
    assert drift.index() < 0.03  # known from the first window on, not after five thousand scores
    drift.observe(rng.beta(5, 2, 4_000))
    assert drift.index() > 1.0
    index = drift.index()
    for version in (7_000_000, 7_000_001, 7):  # updates of the same release, and back
        drift.restart(version)
        assert drift.index() == index
    drift.restart(8)  # which has none
    drift.observe(rng.beta(2, 5, 1_000))
    assert np.isnan(drift.index())
    drift.restart(7_000_003)  # a gateway that starts while a follower is at work
    drift.observe(rng.beta(2, 5, 1_000))
    assert drift.index() < 0.03
    drift.restart(8)
    (tmp_path / "7" / REFERENCE).write_text("{")
    drift.restart(7)
    assert np.isnan(drift.index())
