"""Search by a picture or a clip: the space of comparison, the model, the client, and the gateway before them."""

from __future__ import annotations

import base64
import io
import struct
import zlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import numpy as np
import pandas as pd
import pytest
import soundfile
import tensorflow as tf
from fastapi.testclient import TestClient
from PIL import Image

from data.dataset import NEVER
from data.schema import MODALITIES
from pipeline.release.raw_models import make_content_search
from serving.client.added_items import AddedItems
from serving.client.media import search_media
from serving.client.new_items import NewItem
from serving.export.content_search import ContentSearchModule, content_search_requests
from serving.gateway.app import GatewaySettings, create_app
from serving.graphs.content_axes import fit_content_axes
from serving.index.index import LOWEST
from serving.status import ServingError
from tests.serving.fake_recommender import FakeRecommender
from tests.serving.gateway_folders import write_folders

ITEMS, WIDTH = 60, 24
RATE = 8_000


def encoded(content: bytes) -> str:
    return base64.b64encode(content).decode()


def picture(kind: str = "PNG", size: tuple[int, int] = (40, 30)) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 255, (*size[::-1], 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def clip(kind: str = "WAV", loud: float = 0.5, seconds: float = 1.0) -> bytes:
    buffer = io.BytesIO()
    wave = loud * np.sin(np.arange(int(seconds * RATE)) * 0.3)
    soundfile.write(buffer, wave.astype(np.float32), RATE, format=kind)
    return buffer.getvalue()


def bomb() -> bytes:
    """A PNG of a hundred bytes that declares nine hundred million pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.fixture(scope="module")
def vectors() -> tuple[np.ndarray, np.ndarray]:
    """Vectors of items with unlike directions, and which items have one."""
    rng = np.random.default_rng(1)
    table = (rng.normal(size=(ITEMS + 1, WIDTH)) * np.geomspace(8, 0.3, WIDTH) + 5).astype(np.float32)
    present = rng.random(ITEMS + 1) < 0.8
    present[0] = False
    return np.where(present[:, None], table, 0).astype(np.float16), present


def test_items_that_are_gone_are_not_looked_like(vectors, tmp_path):
    table, present = vectors
    gone, ingest = np.flatnonzero(present)[[3, 7]], tmp_path / "ingest"
    ingest.mkdir()
    (ingest / "item_ids.txt").write_text("".join(f"{name}\n" for name in ["", *(f"i{row}" for row in range(1, ITEMS + 1))]))
    created = np.zeros(ITEMS + 1, np.int64)
    created[gone] = NEVER
    pd.DataFrame({"created_at": created}).to_parquet(ingest / "items.parquet")
    everything = np.repeat(present[:, None], len(MODALITIES), axis=1)
    store = SimpleNamespace(table=lambda name: table, present=everything, modalities=("image",))
    made: Any = make_content_search(tmp_path, store, SimpleNamespace(encoders=("image",)))  # type: ignore[arg-type]
    assert set(made.parts["image"].rows.numpy()) == {0, *np.flatnonzero(present)} - {*gone} and everything[gone].all()


@pytest.fixture(scope="module")
def model(vectors, tmp_path_factory):
    """The saved model's signature `image`, loaded again; sounds are too alike to be searched by."""
    folder = tmp_path_factory.mktemp("content_search")
    ids = folder / "item_ids.txt"
    ids.write_text("\n" + "".join(f"i{row}\n" for row in range(1, ITEMS + 1)))
    same = (np.ones((ITEMS + 1, 3), np.float16), vectors[1])
    module = ContentSearchModule(ids, {"image": vectors, "audio": same})
    assert module.widths == {"image": WIDTH}
    module.save(folder / "1")
    loaded = tf.saved_model.load(str(folder / "1"))
    assert set(loaded.signatures) == {"serving_default", "image"}
    (warm,) = content_search_requests(module.widths, (2,), 3)["image"]
    assert loaded.signatures["image"](**{name: tf.constant(value, _type(name)) for name, value in warm.items()})

    def ask(vector, k, excluded=()):
        lines = np.full((len(vector), max(1, len(excluded))), b"", object)
        lines[:, : len(excluded)] = [one.encode() for one in excluded]
        inputs = {"vector": np.asarray(vector, np.float32), "exclude_item_ids": lines, "k": np.array(k, np.int32)}
        answer = loaded.signatures["image"](**{name: tf.constant(value, _type(name)) for name, value in inputs.items()})
        return answer["item_ids"].numpy().astype(str), answer["scores"].numpy()

    return ask


def _type(name: str) -> tf.DType:
    return {"vector": tf.float32, "k": tf.int32}.get(name, tf.string)


def test_axes_are_half_whitened_principal_directions(vectors):
    table, present = vectors
    axes = fit_content_axes(table, present, width=6)
    rows = table[present].astype(np.float64)
    centred = rows - rows.mean(axis=0)
    _, lengths, directions = np.linalg.svd(centred, full_matrices=False)
    deviations = lengths / np.sqrt(len(rows))
    expected = (centred @ directions[:6].T) / np.sqrt(deviations[:6])
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    points = axes.place(rows)
    np.testing.assert_allclose(points @ points.T, expected @ expected.T, atol=1e-4)
    # What stands in absent rows, row 0 among them, moves nothing.
    other = np.where(present[:, None], table, np.float16(99))
    np.testing.assert_allclose(fit_content_axes(other, present, width=6).place(rows), points, atol=1e-5)
    assert fit_content_axes(table, np.arange(ITEMS + 1) == 3) is None
    assert fit_content_axes(np.ones((4, 2)), np.ones(4, bool)) is None


def test_the_model_finds_what_a_loop_over_cosines_finds(model, vectors):
    table, present = vectors
    axes = fit_content_axes(table, present)
    rng = np.random.default_rng(2)
    asked = table[[7, 20]].astype(np.float32) + rng.normal(0, 0.2, (2, WIDTH)).astype(np.float32)
    ids, scores = model(asked, 10, excluded=("i20", "zz"))
    for line in range(2):
        query = axes.place(asked[line : line + 1])[0]
        cosines = {
            f"i{row}": float(axes.place(table[row : row + 1])[0] @ query)
            for row in range(1, ITEMS + 1)
            if present[row] and row != 20
        }
        best = sorted(cosines, key=cosines.__getitem__, reverse=True)[:10]
        assert ids[line].tolist() == best
        np.testing.assert_allclose(scores[line], [cosines[one] for one in best], atol=1e-4)
        alone = model(asked[line : line + 1], 10, excluded=("i20",))
        assert alone[0][0].tolist() == best


def test_an_item_finds_itself_and_nothing_that_has_no_picture(model, vectors):
    table, present = vectors
    rows = np.flatnonzero(present)
    ids, scores = model(table[rows].astype(np.float32), ITEMS)
    assert ids[:, 0].tolist() == [f"i{row}" for row in rows]
    np.testing.assert_allclose(scores[:, 0], 1, atol=1e-3)
    assert set(ids[0, : len(rows)]) == {f"i{row}" for row in rows}
    assert set(ids[0, len(rows) :]) == {""} and (scores[0, len(rows) :] == LOWEST).all()
    nothing, lowest = model(np.zeros((1, WIDTH)), 3)
    assert set(nothing[0]) == {""} and (lowest == LOWEST).all()


class Client:
    """A model server whose encoder and search say what they were asked."""

    def __init__(self, error: ServingError | None = None) -> None:
        self.error, self.asked = error, []

    def predict_version(self, model: str, inputs: dict, **options: Any):
        self.asked.append((model, inputs, options))
        return {"image_vector": np.ones((1, 4), np.float32)}, 7

    def predict(self, model: str, inputs: dict, **options: Any):
        self.asked.append((model, inputs, options))
        if self.error is not None:
            raise self.error
        return {
            "item_ids": np.array([[b"i3", b"i1", b""]], object),
            "scores": np.array([[0.9, 0.5, LOWEST]], np.float32),
        }


def test_the_client_asks_both_models_in_one_version():
    client = Client()
    added = AddedItems(7, hidden=frozenset({"i9"}))
    found = search_media(client, NewItem(image=b"png"), 3, exclude_item_ids=["i2"], added=added)
    assert [one.item_id for one in found] == ["i3", "i1"]
    (_, encoder, _), (name, search, options) = client.asked
    assert encoder["image_bytes"].tolist() == [b"png"]
    assert name == "content_search" and options["version"] == 7 and options["signature_name"] == "image"
    assert search["exclude_item_ids"].tolist() == [["i2", "i9"]]
    for item in (NewItem(title="words"), NewItem(image=b"png", audio=np.ones(3, np.float32))):
        with pytest.raises(ValueError, match="one of them"):
            search_media(client, item, 3)
    with pytest.raises(ServingError, match="not searched by audio"):  # its encoder answers no such vector
        search_media(client, NewItem(audio=np.ones(3, np.float32)), 3)
    for code, message, expected in (
        (grpc.StatusCode.NOT_FOUND, "no such model", grpc.StatusCode.FAILED_PRECONDITION),
        (grpc.StatusCode.UNAVAILABLE, "away", grpc.StatusCode.UNAVAILABLE),
    ):
        with pytest.raises(ServingError) as raised:
            search_media(Client(ServingError(code, message)), NewItem(image=b"png"), 3)
        assert raised.value.code == expected


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> tuple[Path, Path]:
    return write_folders(tmp_path_factory.mktemp("media"))


@pytest.fixture
def fake() -> FakeRecommender:
    return FakeRecommender()


@pytest.fixture
def gateway(folders, fake) -> TestClient:
    settings = GatewaySettings(run=folders[0], source=folders[1], max_item_bytes=2**20)
    return TestClient(create_app(settings, fake), raise_server_exceptions=False)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF"])
def test_a_picture_reaches_the_model_as_a_small_png(gateway, fake, kind):
    sent = {"image_base64": encoded(picture(kind)), "k": 3, "exclude_item_ids": ["i1"]}
    reply = gateway.post("/v1/search/media", json=sent)
    assert reply.status_code == 200 and not reply.json()["fallback"]
    assert [entry["item"]["item_id"] for entry in reply.json()["items"]] == ["i10", "i11", "i12"]
    seen = Image.open(io.BytesIO(fake.calls[-1]["item"].image))
    assert seen.format == "PNG" and seen.size == (512, 512) and not len(fake.calls[-1]["item"].audio)


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "MP3", "OGG"])
def test_a_clip_reaches_the_model_as_samples(gateway, fake, kind):
    assert gateway.post("/v1/search/media", json={"audio_base64": encoded(clip(kind))}).status_code == 200
    wave = fake.calls[-1]["item"].audio
    assert (
        len(wave) == pytest.approx(16_000, rel=0.2)
        and 0.3 < np.abs(wave).max() < 0.7
        and not fake.calls[-1]["item"].image
    )


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({}, "received neither"),
        ({"image_base64": encoded(picture()), "audio_base64": encoded(clip())}, "received both"),
        ({"image_base64": "no base64!"}, "image_base64: must be base64"),
        ({"image_base64": encoded(b"<svg/>")}, "image_base64: not an image"),
        ({"image_base64": encoded(clip())}, "image_base64: not an image"),
        ({"image_base64": encoded(picture()[:-200])}, "image_base64: broken image"),
        ({"image_base64": encoded(bomb())}, "image_base64: too large"),
        ({"audio_base64": encoded(picture())}, "audio_base64: not audio"),
        ({"audio_base64": encoded(clip("FLAC")[:60])}, "audio_base64: "),
        ({"audio_base64": encoded(clip(loud=0.0))}, "received silence"),
        ({"audio_base64": encoded(clip()), "k": 101}, "k: "),
    ],
)
def test_bad_media_is_refused_in_words(gateway, fake, body, words):
    reply = gateway.post("/v1/search/media", json=body)
    assert reply.status_code == 422 and words in reply.json()["error"], reply.text
    assert not fake.calls


def test_size_release_and_absent_server(gateway, fake):
    large = {"image_base64": encoded(bytes(2**20))}
    assert gateway.post("/v1/search/media", json=large).status_code == 413
    good = {"image_base64": encoded(picture()), "k": 2}
    fake.error = ServingError(grpc.StatusCode.FAILED_PRECONDITION, "no picture")
    assert gateway.post("/v1/search/media", json=good).status_code == 409
    fake.error = ServingError(grpc.StatusCode.UNAVAILABLE, "away")
    reply = gateway.post("/v1/search/media", json=good).json()
    assert reply["fallback"] and [entry["item"]["item_id"] for entry in reply["items"]] == ["i1", "i2"]
