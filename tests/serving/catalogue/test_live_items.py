"""Items added to, changed in and deleted from a running catalogue: found at once, by whichever release answers."""

from __future__ import annotations

import base64
import io
import time
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pandas as pd
import pytest
from fastapi.testclient import TestClient
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from data.dataset import NEVER
from serving.catalogue.live_items_log import CHANGES
from serving.client.added_items import AddedItems, fill_unranked
from serving.client.page import reaches_page
from serving.client.recommendation import Recommendation
from serving.gateway.app import GatewaySettings, create_app
from serving.status import ServingError
from tests.serving.fake_recommender import FakeRecommender
from tests.serving.gateway_folders import write_folders


def png(colour: tuple[int, int, int] = (200, 30, 60)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (40, 30), colour).save(buffer, "PNG")
    return buffer.getvalue()


def wav(seconds: float = 0.5) -> bytes:
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1), file.setsampwidth(2), file.setframerate(16_000)
        tone = np.sin(np.arange(int(16_000 * seconds)) * 0.2) * 8_000
        file.writeframes(tone.astype("<i2").tobytes())
    return buffer.getvalue()


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    run, source = write_folders(tmp_path)
    (source / "media" / "covers" / "new.png").write_bytes(png())
    (source / "media" / "covers" / "broken.png").write_bytes(png()[:-25])
    return run, source


@pytest.fixture
def fake() -> FakeRecommender:
    return FakeRecommender()


@pytest.fixture
def start(folders: tuple[Path, Path], fake: FakeRecommender) -> Callable[[], TestClient]:
    """A new gateway on the same folders, as a restart makes one."""

    def make(**options: Any) -> TestClient:
        run, source = folders
        app = create_app(GatewaySettings(run=run, source=source, poll_seconds=0.05, **options), fake)
        client = TestClient(app, raise_server_exceptions=False)
        client.get("/v1/recommend")  # after which the gateway knows which release answers
        return client

    return make


def recommended(client: TestClient, k: int = 5, **options: Any) -> list[str]:
    reply = client.post("/v1/recommend", json={"user_id": "nobody", "k": k, **options}).json()
    return [entry["item"]["item_id"] for entry in reply["items"]]


def found(client: TestClient, query: str, k: int = 3) -> list[str]:
    return [entry["item"]["item_id"] for entry in client.get("/v1/search", params={"query": query, "k": k}).json()["items"]]


def test_an_added_item_is_found_every_way_at_once(start, fake: FakeRecommender) -> None:
    client = start()
    before = recommended(client)
    began = time.perf_counter()
    reply = client.post("/v1/items", json={"item_id": "new", "title": "9.5", "categories": ["folk", "live"], "price": 3})
    assert reply.status_code == 201
    assert reply.json()["change"] == "added" and reply.json()["encoded"] and reply.json()["release"] == 2
    assert before == ["i12", "i11", "i10", "i9", "i8"]
    assert recommended(client) == ["i12", "i11", "i10", "new", "i9"]  # though the answer before it was kept
    assert found(client, "9.4") == ["new", "i9", "i10"]
    assert [entry["item"]["item_id"] for entry in client.get("/v1/similar?item_id=i12&k=4").json()["items"]] == [
        "i11", "i10", "new", "i9",
    ]  # fmt: skip
    client.get("/v1/similar?item_id=new&k=2")
    np.testing.assert_allclose(fake.calls[-1]["item"], [209.5])  # asked by its embedding, which no release knows by its id
    assert time.perf_counter() - began < 5
    item = client.get("/v1/items/new").json()
    assert (item["title"], item["categories"], item["price"]) == ("9.5", "folk, live", 3.0)
    assert recommended(client, exclude_item_ids=["new"])[3] == "i9"


def test_a_changed_item_takes_its_new_place_and_a_deleted_one_none(start) -> None:
    client = start()
    reply = client.put("/v1/items/i3", json={"title": "11.5"}).json()
    assert reply["change"] == "changed" and reply["encoded"]
    assert recommended(client, 12) == ["i12", "i3", "i11", "i10", "i9", "i8", "i7", "i6", "i5", "i4", "i2", "i1"]
    assert found(client, "3") == ["i2", "i4", "i1"]  # no longer where it was
    assert client.delete("/v1/items/i12").json()["change"] == "deleted"
    assert recommended(client, 2) == ["i3", "i11"]
    assert client.get("/v1/items/i12").status_code == 404 and client.delete("/v1/items/i12").status_code == 404
    assert client.get("/v1/similar?item_id=i12").status_code == 404
    assert client.post("/v1/items", json={"item_id": "i12", "title": "0.5"}).json()["change"] == "added"
    assert recommended(client, 12)[-2:] == ["i1", "i12"]
    assert client.post("/v1/items", json={"item_id": "i12", "title": "7"}).status_code == 409


def test_deleted_items_are_not_popular_either(start, fake: FakeRecommender) -> None:
    client = start()
    client.delete("/v1/items/i1")
    fake.error = ServingError(grpc.StatusCode.UNAVAILABLE, "no")
    reply = client.post("/v1/recommend", json={"user_id": "new user", "k": 2}).json()
    assert reply["fallback"] and [entry["item"]["item_id"] for entry in reply["items"]] == ["i2", "i3"]
    assert found(client, "5", 2) == ["i2", "i3"]


def test_of_deleted_items_those_go_along_that_the_release_could_answer(start, fake: FakeRecommender, folders) -> None:
    """And none is answered, whatever a release answers of which less is known."""
    client = start(cache_seconds=0)
    for name in ("a", "b"):
        client.post("/v1/items", json={"item_id": name, "title": "9.5"})
    for name in ("a", "b", "i12", "i3"):
        assert client.delete(f"/v1/items/{name}").status_code == 200
    assert recommended(client) == ["i11", "i10", "i9", "i8", "i7"]
    assert fake.calls[-1]["added"].hidden == {"i12", "i3"}
    file = folders[0] / "ingest" / "items.parquet"
    items = pd.read_parquet(file)
    items.loc[items["item_id"] == "i12", "created_at"] = NEVER  # trained on a catalogue that has left it out
    items.astype({"created_at": "int64"}).to_parquet(file)
    fake.version = 3
    assert recommended(client) == ["i11", "i10", "i9", "i8", "i7"]  # by which the gateway learns of the release
    assert recommended(client, 4) == ["i11", "i10", "i9"]
    assert fake.calls[-1]["added"].hidden == {"i3"}
    assert found(client, "12", 2) == ["i11"]  # this release answers it all the same
    assert fake.calls[-1]["added"].hidden == {"i3"}
    assert start().get("/v1/items/i12").status_code == 404
    assert client.post("/v1/items", json={"item_id": "i12", "title": "11.5"}).status_code == 201
    assert recommended(client, 2) == ["i12", "i11"]


def test_what_is_only_described_anew_keeps_the_place_that_training_gave_it(start, fake: FakeRecommender) -> None:
    client = start()
    same = {"title": "Title 5", "categories": ["folk", "live"], "price": 1.25}
    reply = client.put("/v1/items/i5", json=same).json()
    assert not reply["encoded"] and not fake.encoded
    assert client.get("/v1/items/i5").json()["price"] == 1.25
    assert recommended(client, 12)[7] == "i5"


def test_changes_outlast_a_restart_and_a_torn_line(start, folders: tuple[Path, Path]) -> None:
    client = start()
    client.post("/v1/items", json={"item_id": "new", "title": "9.5", "image_base64": base64.b64encode(png()).decode()})
    client.delete("/v1/items/i11")
    log = folders[0] / "gateway" / "items" / CHANGES
    log.write_bytes(log.read_bytes() + b'{"delete": "i1')  # a kill in the middle of a change
    again = start()
    assert recommended(again) == ["i12", "i10", "new", "i9", "i8"]
    assert again.get(again.get("/v1/items/new").json()["image"]).content == png()
    again.put("/v1/items/more", json={"title": "11.5"})
    assert recommended(start()) == ["i12", "more", "i10", "new", "i9"]


def wait_for(true: Callable[[], bool], seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while not true() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert true()


def test_another_release_places_the_items_anew(start, fake: FakeRecommender, folders: tuple[Path, Path]) -> None:
    """Until it has, it answers without them: where the old one put them says nothing."""
    client = start()
    client.post("/v1/items", json={"item_id": "new", "title": "9.5"})
    client.put("/v1/items/i7", json={"title": "11.5", "categories": ["folk", "live"]})
    fake.version = 3
    recommended(client)
    assert "new" not in recommended(client, 12, exclude_item_ids=["i8"])
    with client:  # whose background work places them
        wait_for(lambda: "new" in recommended(client))
        assert recommended(client) == ["i12", "i7", "i11", "i10", "new"]
        # Trained on the changed catalogue, a release puts the item where people's choices say.
        file = folders[0] / "ingest" / "items.parquet"
        items = pd.read_parquet(file)
        items.loc[items["item_id"] == "i7", "title"] = "11.5"
        items.to_parquet(file)
        fake.version = 4
        wait_for(lambda: recommended(client) == ["i12", "i11", "i10", "new", "i9"])
        assert recommended(client, 12)[6] == "i7"
    assert [item.title for item in fake.encoded] == ["9.5", "11.5", "9.5", "11.5", "9.5"]


def test_an_update_of_a_release_leaves_the_items_where_they_are(start, fake: FakeRecommender, folders) -> None:
    """A follower publishes one every half minute: nothing is encoded again, and nobody waits for it."""
    client = start(cache_seconds=0)
    client.post("/v1/items", json={"item_id": "new", "title": "9.5"})
    for version in (2_000_000, 2_000_001, 2_000_002):
        fake.version = version
        assert recommended(client) == ["i12", "i11", "i10", "new", "i9"]
        assert found(client, "9.4") == ["new", "i9", "i10"]
        assert recommended(client, exclude_item_ids=["i11"]) == ["i12", "i10", "new", "i9", "i8"]
    log = folders[0] / "gateway" / "items" / CHANGES
    assert len(log.read_bytes().splitlines()) == 1 and b'"version":2,' in log.read_bytes()
    client.post("/v1/items", json={"item_id": "more", "title": "10.5"})  # placed by the update
    assert recommended(client) == ["i12", "i11", "more", "i10", "new"]
    log.write_bytes(log.read_bytes().replace(b'"version":2,', b'"version":2000002,'))  # as logs were written before
    fake.version = 2_000_003
    assert recommended(start()) == ["i12", "i11", "more", "i10", "new"]
    with client:  # whose background work has nothing to do until another release answers
        fake.version = 3_000_000
        wait_for(lambda: recommended(client) == ["i12", "i11", "more", "i10", "new"])
    assert [item.title for item in fake.encoded] == ["9.5", "10.5", "9.5", "10.5"]


def test_added_items_reach_the_page_of_an_update() -> None:
    added = AddedItems(3, ("new",), np.ones((1, 1), np.float32))
    for version, reached in ((3, True), (3_000_000, True), (3_000_012, True), (4, False), (2_000_003, False)):
        page = Recommendation("ann", [], {}, {"retrieval": version, "ranking": version}, np.ones(1, np.float32))
        assert reaches_page(added, page, ()) is reached


def test_two_gateways_on_one_folder_see_each_others_changes(start) -> None:
    one, other = start(), start()
    with other:
        one.post("/v1/items", json={"item_id": "new", "title": "9.5"})
        wait_for(lambda: "new" in recommended(other))
        assert recommended(other) == ["i12", "i11", "i10", "new", "i9"]
        other.delete("/v1/items/i12")
        one.put("/v1/items/i1", json={"title": "10.5"})  # reads the log before it answers
        assert recommended(one) == ["i11", "i1", "i10", "new", "i9"]


def test_stable_and_canary_on_one_folder_place_each_others_items_once(start, fake: FakeRecommender, folders) -> None:
    ahead = FakeRecommender()
    ahead.version = 3
    one = start()
    canary = TestClient(create_app(GatewaySettings(run=folders[0], source=folders[1], poll_seconds=0.05), ahead))
    with one, canary:
        one.post("/v1/items", json={"item_id": "new", "title": "9.5"})
        wait_for(lambda: "new" in recommended(canary))
        canary.post("/v1/items", json={"item_id": "more", "title": "10.5"})
        wait_for(lambda: "more" in recommended(one))
        canary.delete("/v1/items/i12")
        wait_for(lambda: "i12" not in recommended(one))
        for client in (one, canary):
            assert recommended(client) == ["i11", "more", "i10", "new", "i9"]
    assert [[item.title for item in asked.encoded] for asked in (fake, ahead)] == [["9.5", "10.5"]] * 2


def test_media_come_along_or_lie_in_the_dataset(start, fake: FakeRecommender) -> None:
    client = start()
    given = base64.b64encode(wav()).decode()
    reply = client.post("/v1/items", json={"item_id": "a", "image": "covers/new.png", "audio_base64": given})
    assert reply.status_code == 201, reply.text
    (sent,) = fake.encoded
    assert sent.image == png() and len(sent.audio) == pytest.approx(8_000, abs=2)
    item = client.get("/v1/items/a").json()
    assert item["image"] == "/media/covers/new.png" and item["audio"].startswith("/media/added/")
    sound = client.get(item["audio"])
    assert sound.content == wav() and sound.headers["content-type"] == "audio/wav"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"image": "../secret.wav"}, "image: path: must not contain '..'"),
        ({"image": "covers/../../secret.wav"}, "must not contain '..'"),
        ({"audio": "/etc/passwd"}, "audio: path: must be relative"),
        ({"video": "C:\\windows\\system.ini"}, "must be relative"),
        ({"image": "covers/link.png"}, "links must stay under the media folder"),
        ({"image": "covers/none.png"}, "image: missing"),
        ({"image": "added/../changes.jsonl"}, "must not contain '..'"),
        ({"image": "covers/broken.png"}, "image: broken image"),
        ({"image": "covers/new\x00.png"}, "image"),
        ({"image_base64": base64.b64encode(b"<svg onload=alert(1)>").decode()}, "image: not an image"),
        ({"audio_base64": base64.b64encode(png()).decode()}, "audio: not audio"),
        ({"video_base64": base64.b64encode(png()).decode()}, "video: not a video"),
        ({"image_base64": "!!!"}, "must be base64"),
        ({"image": "covers/new.png", "image_base64": "AAAA"}, "give the path or the file, received both"),
        ({"categories": ["a|b"]}, "categories.0"),
        ({"price": -1}, "price"),
        ({"created_at": 10**15}, "created_at"),
    ],
)
def test_hostile_items_are_refused_by_name_and_change_nothing(start, folders, body: dict[str, Any], words: str) -> None:
    client = start()
    reply = client.put("/v1/items/x", json={"title": "9.5", **body})
    assert reply.status_code == 422 and words in reply.json()["error"], reply.text
    assert "secret" not in reply.text.replace("secret.wav", "")
    assert client.get("/v1/items/x").status_code == 404 and "x" not in recommended(client, 12)
    assert not (folders[0] / "gateway" / "items" / CHANGES).exists()


def test_nothing_is_stored_when_the_encoder_or_the_disk_fails(start, folders, fake: FakeRecommender) -> None:
    client = start()
    fake.error = ServingError(grpc.StatusCode.UNAVAILABLE, "no")
    assert client.post("/v1/items", json={"item_id": "new", "title": "9.5"}).status_code == 503
    fake.error = None
    assert client.get("/v1/items/new").status_code == 404
    (folders[0] / "gateway").mkdir()
    (folders[0] / "gateway" / "items").write_text("a file where the folder should be")
    reply = client.post("/v1/items", json={"item_id": "new", "title": "9.5"})
    assert reply.status_code == 503 and "send it again" in reply.json()["error"]
    assert "new" not in recommended(client)


def test_there_is_a_most(start) -> None:
    client = start(most_items=2)
    for name in ("a", "b"):
        assert client.put(f"/v1/items/{name}", json={"title": "1"}).status_code == 200
    assert client.put("/v1/items/c", json={"title": "1"}).status_code == 409
    assert client.put("/v1/items/a", json={"title": "2"}).status_code == 200
    client.delete("/v1/items/a")
    assert client.put("/v1/items/c", json={"title": "1"}).status_code == 200


@given(data=st.data(), base=st.integers(0, 8), new=st.integers(0, 6), k=st.integers(1, 12))
@settings(max_examples=60, deadline=None)
def test_merging_is_a_search_over_both(data, base: int, new: int, k: int) -> None:
    """Equal to sorting everything by score, the release's items first among equals."""
    draw = data.draw
    vectors = draw(st.lists(st.lists(st.integers(-3, 3), min_size=2, max_size=2), min_size=base + new, max_size=base + new))
    table = np.array(vectors, np.float32).reshape(-1, 2)
    query = np.array(draw(st.lists(st.integers(-3, 3), min_size=2, max_size=2)), np.float32)
    names = [f"i{row}" for row in range(base)]
    ours = [f"n{row}" for row in range(new)]
    hidden = frozenset(draw(st.sets(st.sampled_from(names)))) if names else frozenset()
    excluded = draw(st.sets(st.sampled_from(ours))) if ours else set()
    scores = table @ query
    order = np.argsort(-scores[:base], kind="stable")
    ids = np.array([names[row].encode() for row in order], object)
    added = AddedItems(1, tuple(ours), table[base:], hidden=hidden)
    found, values = added.merge(query, ids, scores[:base][order], k, 1, excluded=excluded)
    everything = [(-scores[row], row, name) for row, name in enumerate(names + ours)]
    wanted = [
        (name, -value) for value, _, name in sorted(everything)
        if name not in hidden and name not in excluded and (query.any() or name in names)
    ][:k]  # fmt: skip
    assert [name.decode() for name in found] == [name for name, _ in wanted]
    np.testing.assert_allclose(values, [value for _, value in wanted])
    alone, _ = added.merge(query, ids, scores[:base][order], k, 2)  # of another release
    assert not {name.decode() for name in alone} & set(ours)


def test_an_unranked_candidate_scores_as_its_neighbours() -> None:
    scores = np.array([0.9, 0.7, -1.0, 0.5, 0.3, *np.linspace(0.2, 0.1, 20), -1.0], np.float32)
    filled = fill_unranked(scores, scores == -1.0)
    assert filled[2] == pytest.approx(scores[[0, 1, 3, 4, 5, 6, 7]].mean())
    assert filled[-1] == pytest.approx(scores[-6:-1].mean())
    assert (filled[scores != -1.0] == scores[scores != -1.0]).all()
    assert (np.diff(fill_unranked(np.full(3, -1.0, np.float32), np.ones(3, bool))) < 0).all()
