"""Items added, changed and deleted since the release, found by a part of their picture: gateway, log, client and model."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tensorflow as tf
from fastapi.testclient import TestClient
from PIL import Image

from serving.catalogue.live_items_log import LiveState, LiveVector, place
from serving.client.added_items import AddedItems
from serving.client.media import place_in_content, search_media
from serving.client.new_items import EncodedItems, NewItem
from serving.export.content_search import ContentSearchModule
from serving.gateway.app import GatewaySettings, create_app
from serving.graphs.content_axes import fit_content_axes
from serving.status import ServingError
from tests.serving.fake_recommender import FakeRecommender
from tests.serving.gateway_folders import ITEMS, write_folders

SIDE = 6


def painting(seed: int) -> Image.Image:
    """Soft patches of colour."""
    patches = np.random.default_rng(seed).integers(0, 255, (3, 3, 3), dtype=np.uint8)
    return Image.fromarray(patches).resize((90, 90), Image.Resampling.BICUBIC)


def file(image: Image.Image, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def part(image: Image.Image) -> bytes:
    """Its middle 80 %, compressed."""
    return file(image.crop((9, 9, 81, 81)), "JPEG")


def seen(content: bytes) -> np.ndarray:
    """What the stand-in of an encoder makes of a picture; zeros of none."""
    if not content:
        return np.zeros(3 * SIDE * SIDE, np.float32)
    small = Image.open(io.BytesIO(content)).convert("RGB").resize((SIDE, SIDE), Image.Resampling.BOX)
    return np.asarray(small, np.float32).ravel() / 255 + 0.1


class Server:
    """The encoder's stand-in and the saved search, asked as a model server is."""

    def __init__(self, folder: Path, fake: FakeRecommender) -> None:
        self.search, self.fake = tf.saved_model.load(str(folder)), fake
        self.error: ServingError | None = None

    def predict_version(self, model: str, inputs: dict, **options: Any):
        return {"image_vector": np.stack([seen(one) for one in inputs["image_bytes"]])}, self.fake.version

    def predict(self, model: str, inputs: dict, *, version: int, signature_name: str, **options: Any) -> dict:
        if self.error is not None:
            raise self.error
        types = {"vector": tf.float32, "k": tf.int32, "exclude_item_ids": tf.string}
        tensors = {name: tf.constant(value, types[name], np.shape(value)) for name, value in inputs.items()}
        return {name: value.numpy() for name, value in self.search.signatures[signature_name](**tensors).items()}


class Painted(FakeRecommender):
    """Whose items have pictures."""

    server: Server

    def encode_items(self, items, **options):
        encoded = super().encode_items(items, **options)
        vectors = {**encoded.vectors, "image": np.stack([seen(item.image) for item in items])}
        return EncodedItems(encoded.embeddings, encoded.present, vectors, encoded.version)

    def place_in_content(self, encoded):
        return place_in_content(self.server, encoded)

    def search_media(self, item, k=10, **options):
        return search_media(self.server, item, k, **options)


@pytest.fixture(scope="module")
def table() -> np.ndarray:
    """Vectors of the released items; the last has no picture."""
    rows = [np.zeros(3 * SIDE * SIDE), *(seen(file(painting(row))) for row in range(1, ITEMS))]
    return np.stack([*rows, rows[0]]).astype(np.float32)


@pytest.fixture(scope="module")
def released(table, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("painted")
    (folder / "ids.txt").write_text("\n" + "".join(f"i{row}\n" for row in range(1, ITEMS + 1)))
    ContentSearchModule(folder / "ids.txt", {"image": (table, table.any(axis=1))}).save(folder / "1")
    return folder / "1"


@pytest.fixture
def fake(released: Path) -> Painted:
    made = Painted()
    made.server = Server(released, made)
    return made


@pytest.fixture
def start(tmp_path: Path, fake: Painted) -> Callable[[], TestClient]:
    run, source = write_folders(tmp_path)

    def make() -> TestClient:
        client = TestClient(create_app(GatewaySettings(run=run, source=source), fake), raise_server_exceptions=False)
        client.get("/v1/recommend")  # after which the gateway knows which release answers
        return client

    return make


def sent(content: bytes) -> str:
    return base64.b64encode(content).decode()


def found(client: TestClient, content: bytes, **options: Any) -> list[str]:
    reply = client.post("/v1/search/media", json={"image_base64": sent(content), "k": 4, **options}).json()
    assert not reply["fallback"]
    return [entry["item"]["item_id"] for entry in reply["items"]]


def test_an_added_item_is_found_by_a_part_of_its_picture_until_it_is_deleted(start) -> None:
    client, new = start(), painting(100)
    assert found(client, part(painting(3)))[0] == "i3"
    assert client.post("/v1/items", json={"item_id": "new", "image_base64": sent(file(new))}).status_code == 201
    assert client.post("/v1/items", json={"item_id": "words alone", "title": "9.5"}).status_code == 201
    assert found(client, part(new))[0] == "new" and found(client, part(painting(3)))[0] == "i3"
    assert "new" not in found(client, part(new), exclude_item_ids=["new"], k=50)
    everything = found(client, part(new), k=50)
    assert sorted(everything) == sorted(["new", *(f"i{row}" for row in range(1, ITEMS))])  # what has a picture
    again = start()
    assert found(again, part(new), k=50) == everything
    assert again.delete("/v1/items/new").status_code == 200
    assert found(again, part(new), k=50) == [one for one in everything if one != "new"]
    assert "new" not in found(start(), part(new), k=50)


def test_a_changed_picture_takes_the_place_of_the_old_one(start, fake: Painted) -> None:
    client, new = start(), painting(200)
    before = found(client, part(painting(3)), k=50)
    assert client.put("/v1/items/i3", json={"image_base64": sent(file(new))}).json()["change"] == "changed"
    assert found(client, part(new))[0] == "i3"
    after = found(client, part(painting(3)), k=50)
    assert before[0] == "i3" and after[0] != "i3" and sorted(before) == sorted(after)
    fake.version = 3  # another release, which has not placed it yet, says nothing of it rather than what it was
    client.post("/v1/recommend", json={"user_id": "nobody"})
    assert "i3" in found(client, part(painting(3)))  # of which nothing is known to have changed
    client.put("/v1/items/i3", json={"title": "no picture any more"})
    assert "i3" not in found(client, part(new), k=50) + found(client, part(painting(3)), k=50)


def test_what_is_found_is_a_loop_over_cosines_of_both(fake: Painted, table: np.ndarray) -> None:
    pictures = [file(painting(seed)) for seed in range(300, 305)]
    vectors = np.stack([seen(one) for one in pictures])
    placed = place_in_content(fake.server, EncodedItems(np.zeros((5, 1)), np.ones((5, 1)), {"image": vectors}, 2))
    axes = fit_content_axes(table, table.any(axis=1))
    assert axes is not None and set(placed) == {"image"}
    np.testing.assert_allclose(placed["image"], axes.place(vectors), atol=1e-5)
    ours = tuple(f"n{place}" for place in range(5))
    added = AddedItems(
        2, ours, np.zeros((5, 1), np.float32), content_vectors=placed, hidden=frozenset({"i4", "i5"})
    )
    everything = {f"i{row}": table[row] for row in range(1, ITEMS) if row not in (4, 5)}
    everything |= dict(zip(ours, vectors, strict=True))
    for wanted in (pictures[2], part(painting(7))):
        query = axes.place(seen(wanted)[None])[0]
        cosines = {name: float(axes.place(vector[None])[0] @ query) for name, vector in everything.items()}
        best = sorted(cosines, key=cosines.__getitem__, reverse=True)[:6]
        answer = search_media(fake.server, NewItem(image=wanted), 6, added=added)
        assert [one.item_id for one in answer] == best
        np.testing.assert_allclose([one.score for one in answer], [cosines[one] for one in best], atol=1e-4)


def test_a_release_without_such_a_search_places_nothing(fake: Painted) -> None:
    some = EncodedItems(np.zeros((1, 1)), np.ones((1, 1)), {"image": np.ones((1, 3 * SIDE * SIDE), np.float32)}, 2)
    none = EncodedItems(np.zeros((1, 1)), np.ones((1, 1)), {"image": np.zeros((1, 9), np.float32)}, 2)
    assert place_in_content(fake.server, none) == {}
    fake.server.error = ServingError(grpc.StatusCode.NOT_FOUND, "Servable not found")
    assert place_in_content(fake.server, some) == {}
    fake.server.error = ServingError(grpc.StatusCode.UNAVAILABLE, "away")
    with pytest.raises(ServingError, match="away"):
        place_in_content(fake.server, some)


def test_places_by_content_are_kept_and_a_log_from_before_them_is_read() -> None:
    vector = LiveVector(2, True, np.ones(2, np.float32), None, {"image": np.array([0.5, -1.5], np.float32)})
    change = place([("a", vector)])
    state = LiveState()
    state.apply({"put": {"item_id": "a"}, **change})
    (kept,) = state.vectors["a"]
    assert set(kept.content) == {"image"} and kept.content["image"].tolist() == [0.5, -1.5]
    del change["vectors"]["a"]["content"]
    state.apply(change)
    assert state.vectors["a"][-1].content == {}
