"""The encode stage on a small shelf of good and broken files: what can be used is used, the rest has a reason."""

import dataclasses
import io
import json

import numpy as np
import pandas as pd
import pytest
import soundfile
from PIL import Image

from data.features import FeatureStore
from data.media import decode_audio, decode_image
from data.schema import MODALITIES
from pipeline.encode import encode
from towers.encoders import make_encoder

SPECS = {"text": "signal:", "image": "signal:", "audio": "signal:"}


@dataclasses.dataclass
class Shelf:
    items: pd.DataFrame


def png(seed):
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (20, 30, 3), dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def wav(wave, rate=16_000):
    buffer = io.BytesIO()
    soundfile.write(buffer, wave, rate, format="WAV", subtype="FLOAT")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("source")
    (folder / "secret.png").write_bytes(png(9))
    (folder / "media").mkdir()
    noise = np.random.default_rng(0).normal(0, 0.1, 20_000).astype(np.float32)
    files = {
        "1.png": png(1), "2.png": png(2), "cut.png": png(3)[:200], "zero.png": b"", "text.png": b"hello",
        "1.wav": wav(noise), "2.wav": wav(np.stack([noise, -noise / 2], axis=1), 44_100),
        "empty.wav": wav(noise[:0]), "nan.wav": wav(np.full(5000, np.nan, np.float32)),
    }  # fmt: skip
    for name, content in files.items():
        (folder / "media" / name).write_bytes(content)
    return folder


@pytest.fixture(scope="module")
def shelf():
    rows = [
        ("", "", "", "", "", ""),
        ("a", "Blue Hour", "Slow piano.", "jazz|piano", "1.png", "1.wav"),
        ("b", "", "", "folk", "2.png", "2.wav"),
        ("c", "", "", "", "cut.png", "empty.wav"),
        ("d", "Red", "", "", "zero.png", "nan.wav"),
        ("e", "Green", "Loud.", "", "text.png", "gone.wav"),
        ("f", "Grey", "", "", "", ""),
        ("g", "White", "", "", "../secret.png", ""),
    ]
    return Shelf(pd.DataFrame(rows, columns=["item_id", "title", "description", "categories", "image", "audio"]))


@pytest.fixture(scope="module")
def store(source, shelf, tmp_path_factory):
    return encode(source, shelf, tmp_path_factory.mktemp("store"), SPECS, batch_size=2)


def test_present_is_what_could_be_read(store):
    present = {name: np.flatnonzero(store.present[:, MODALITIES.index(name)]).tolist() for name in MODALITIES}
    assert present == {"text": [1, 4, 5, 6, 7], "image": [1, 2], "audio": [1, 2]}
    for name in MODALITIES:
        absent = ~store.present[:, MODALITIES.index(name)]
        assert not store.table(name)[absent].any() and store.table(name)[~absent].any(axis=1).all()


def test_every_broken_file_has_a_reason(store):
    quarantine = store.quarantine()
    reasons = dict(zip(quarantine.file, quarantine.reason, strict=True))
    expected = {
        "media/cut.png": "broken image", "media/zero.png": "zero bytes", "media/text.png": "not an image",
        "media/../secret.png": "must not contain", "media/empty.wav": "no samples", "media/nan.wav": "NaN",
        "media/gone.wav": "missing",
    }  # fmt: skip
    assert set(reasons) == set(expected)
    for file, words in expected.items():
        assert words in reasons[file]
    cut = quarantine[quarantine.file == "media/cut.png"].iloc[0]
    assert cut.row == 3 and json.loads(cut.record) == {"item_id": "c", "modality": "image"}


def test_vectors_are_the_encoders_own(store, source):
    """Against the plain loop: decode one file, encode one file."""
    image, audio, text = (make_encoder(name, "signal:") for name in ("image", "audio", "text"))
    one = image.encode(decode_image((source / "media/2.png").read_bytes(), image.size)[None])[0]
    np.testing.assert_allclose(store.table("image")[2], one, atol=2e-3)
    one = audio.encode(decode_audio((source / "media/2.wav").read_bytes(), audio.size)[None])[0]
    np.testing.assert_allclose(store.table("audio")[2], one, atol=4e-3)
    texts = text.encode(["Blue Hour. Slow piano.", "Red"])
    np.testing.assert_allclose(store.table("text")[[1, 4]], texts, atol=2e-3)


def test_info_counts(store):
    counts = store.info["modalities"]
    assert [counts[name]["present"] for name in MODALITIES] == [5, 2, 2]
    assert [counts[name]["quarantined"] for name in MODALITIES] == [0, 4, 3]
    assert [counts[name]["absent"] for name in MODALITIES] == [2, 5, 5]
    assert store.info["quarantined"] == 7 and counts["image"]["encoder"] == "signal:image/1"
    assert all(counts[name]["fp16_cosine_loss"] < 1e-3 for name in MODALITIES)


def test_batch_size_and_threads_change_no_byte_of_the_counts_and_no_vector(store, source, shelf, tmp_path):
    other = encode(source, shelf, tmp_path, SPECS, batch_size=64, workers=1)
    np.testing.assert_array_equal(other.present, store.present)
    for name in MODALITIES:
        np.testing.assert_allclose(other.table(name), store.table(name), atol=2e-3)
    pd.testing.assert_frame_equal(other.quarantine(), store.quarantine())


def test_ready_vectors_come_first_and_none_disables(source, shelf, tmp_path):
    folder = tmp_path / "source"
    (folder / "features").mkdir(parents=True)
    (folder / "media").symlink_to(source / "media")
    np.save(folder / "features" / "image.npy", np.array([[1, 2], [np.nan, 0], [3, 4]], np.float32))
    pd.DataFrame({"item_id": ["c", "a", "f"]}).to_parquet(folder / "features" / "image.ids.parquet")
    seen = []
    made = encode(
        folder, shelf, tmp_path / "store", {"text": "none", "audio": "none"}, progress=lambda *step: seen.append(step)
    )
    assert made.modalities == ("image",) and made.widths == {"image": 2}
    assert made.table("image").tolist() == [[0, 0]] * 3 + [[1, 2]] + [[0, 0]] * 2 + [[3, 4]] + [[0, 0]]
    assert made.info["modalities"]["image"]["encoder"] == "ready-made" and made.quarantine().row.tolist() == [1]
    assert seen == [("image", 2, 2)]
    assert encode(folder, shelf, tmp_path / "other", dict.fromkeys(MODALITIES, "none")).modalities == ()


def test_progress_reaches_the_total(source, shelf, tmp_path):
    seen = []
    encode(source, shelf, tmp_path, {"image": "signal:", "text": "none", "audio": "none"}, 2, lambda *s: seen.append(s))
    assert seen == [("image", 2, 6), ("image", 4, 6), ("image", 6, 6)]


def test_a_modality_that_nobody_has_is_not_stored(source, shelf, tmp_path):
    bare = Shelf(shelf.items.assign(image="", audio=""))
    assert encode(source, bare, tmp_path / "store", SPECS).modalities == ("text",)
    assert FeatureStore.open(tmp_path / "store").present[:, 1:].any() == np.False_


def test_wrong_arguments_are_named(source, shelf, tmp_path):
    with pytest.raises(ValueError, match="modalities must be among"):
        encode(source, shelf, tmp_path, {"smell": "auto"})
    with pytest.raises(ValueError, match="at least 1"):
        encode(source, shelf, tmp_path, SPECS, batch_size=0)
