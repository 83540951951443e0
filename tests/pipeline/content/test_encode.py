"""The encode stage on a small shelf of good and broken files: what can be used is used, the rest has a reason."""

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from data.audio_decoder import decode_audio
from data.content_key import read_content_keys
from data.features import FeatureStore
from data.image_decoder import decode_image
from data.schema import MODALITIES
from data.video_decoder import decode_sound_track, decode_video
from pipeline.content.encode import encode
from pipeline.content.encode_beside import BATCHES, Built, encode_some
from pipeline.nightly.process import JobProcess
from tests.data.media_files import colour_steps, image_bytes, sound_bytes, tone, video_bytes
from towers.encoders import make_encoder

SPECS = dict.fromkeys(MODALITIES, "signal:")


@dataclasses.dataclass
class Shelf:
    items: pd.DataFrame


def png(seed):
    return image_bytes(np.random.default_rng(seed).integers(0, 256, (20, 30, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("source")
    (folder / "secret.png").write_bytes(png(9))
    (folder / "media").mkdir()
    noise = np.random.default_rng(0).normal(0, 0.1, 20_000).astype(np.float32)
    files = {
        "1.png": png(1), "2.png": png(2), "2-again.png": png(2), "cut.png": png(3)[:200], "zero.png": b"",
        "text.png": b"hello", "1.wav": sound_bytes(noise),
        "2.wav": sound_bytes(np.stack([noise, -noise / 2], axis=1), 44_100),
        "empty.wav": sound_bytes(noise[:0]), "nan.wav": sound_bytes(np.full(5000, np.nan, np.float32)),
        "loud.mp4": video_bytes(colour_steps(), sound=tone(440, 48_000, 1.0)), "silent.mp4": video_bytes(colour_steps()[::-1]),
    }  # fmt: skip
    for name, content in files.items():
        (folder / "media" / name).write_bytes(content)
    return folder


@pytest.fixture(scope="module")
def shelf():
    rows = [
        ("", "", "", "", "", "", ""),
        ("a", "Blue Hour", "Slow piano.", "jazz|piano", "1.png", "1.wav", ""),
        ("b", "", "", "folk", "2.png", "2.wav", ""),
        ("c", "", "", "", "cut.png", "empty.wav", ""),
        ("d", "Red", "", "", "zero.png", "nan.wav", ""),
        ("e", "Green", "Loud.", "", "text.png", "gone.wav", ""),
        ("f", "Grey", "", "", "2-again.png", "", "loud.mp4"),
        ("g", "White", "", "", "../secret.png", "", "silent.mp4"),
        ("h", "Grey", "", "", "", "1.wav", "loud.mp4"),
    ]
    columns = ["item_id", "title", "description", "categories", "image", "audio", "video"]
    return Shelf(pd.DataFrame(rows, columns=columns))


@pytest.fixture(scope="module")
def content(tmp_path_factory):
    return tmp_path_factory.mktemp("content")


@pytest.fixture(scope="module")
def store(source, shelf, content, tmp_path_factory):
    return encode(source, shelf, tmp_path_factory.mktemp("store"), SPECS, content, batch_size=2)


PRESENT = {"text": [1, 4, 5, 6, 7, 8], "image": [1, 2, 6], "audio": [1, 2, 6, 8], "video": [6, 7, 8]}


def test_present_is_what_could_be_read(store):
    present = {name: np.flatnonzero(store.present[:, MODALITIES.index(name)]).tolist() for name in MODALITIES}
    assert present == PRESENT
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
    image, audio, text, video = (make_encoder(name, "signal:") for name in ("image", "audio", "text", "video"))
    one = image.encode(decode_image((source / "media/2.png").read_bytes(), image.size)[None])[0]
    np.testing.assert_allclose(store.table("image")[[2, 6]], [one, one], atol=2e-3)
    one = audio.encode(decode_audio((source / "media/2.wav").read_bytes(), audio.size)[None])[0]
    np.testing.assert_allclose(store.table("audio")[2], one, atol=4e-3)
    texts = text.encode(["Blue Hour. Slow piano.", "Red"])
    np.testing.assert_allclose(store.table("text")[[1, 4]], texts, atol=2e-3)
    clip = (source / "media/loud.mp4").read_bytes()
    one = video.encode(decode_video(clip, video.frames, video.size)[None])[0]
    np.testing.assert_allclose(store.table("video")[[6, 8]], [one, one], atol=2e-3)
    sound = audio.encode(decode_sound_track(clip, audio.size)[None])[0]
    np.testing.assert_allclose(store.table("audio")[6], sound, atol=4e-3)
    np.testing.assert_array_equal(store.table("audio")[8], store.table("audio")[1])  # its own file, not the sound track


def test_info_counts(store):
    counts = store.info["modalities"]
    assert [counts[name]["present"] for name in MODALITIES] == [6, 3, 4, 3]
    assert [counts[name]["quarantined"] for name in MODALITIES] == [0, 4, 3, 0]
    assert [counts[name]["absent"] for name in MODALITIES] == [2, 5, 4, 5]
    assert [counts[name]["encoded"] for name in MODALITIES] == [5, 2, 3, 2]
    assert [counts[name]["shared"] for name in MODALITIES] == [1, 1, 1, 1]
    assert store.info["quarantined"] == 7 and counts["image"]["encoder"] == "signal:"
    assert store.info["encoded"] == 12 and store.info["reused"] == 0
    assert all(counts[name]["fp16_cosine_loss"] < 1e-3 for name in MODALITIES)


def same_bytes(one, other):
    np.testing.assert_array_equal(one.present, other.present)
    for name in MODALITIES:
        np.testing.assert_array_equal(one.table(name), other.table(name))
    pd.testing.assert_frame_equal(one.quarantine(), other.quarantine())


def test_a_second_run_encodes_nothing_and_says_the_same(store, source, shelf, content, tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.content.encode.make_encoder", None)
    again = encode(source, shelf, tmp_path, SPECS, content, batch_size=2)
    same_bytes(again, store)
    assert again.info["encoded"] == 0 and again.info["reused"] == sum(map(len, PRESENT.values()))


def test_what_has_a_fault_of_its_own_is_not_decoded_again(source, shelf, tmp_path, monkeypatch):
    first = encode(source, shelf, tmp_path / "first", SPECS, tmp_path / "content", batch_size=2)
    monkeypatch.setattr("pipeline.content.encode._engine", None)
    again = encode(source, shelf, tmp_path / "again", SPECS, tmp_path / "content", batch_size=2)
    same_bytes(again, first)
    assert again.info["quarantined"] == first.info["quarantined"] == 7
    monkeypatch.setattr("data.known_refusals.version", lambda package: "another")  # of a decoder, which may read it
    with pytest.raises(TypeError, match="not callable"):
        encode(source, shelf, tmp_path / "later", SPECS, tmp_path / "content", batch_size=2)


def test_a_run_with_nothing_new_imports_no_tensorflow(store, source, shelf, content, tmp_path):
    shelf.items.to_parquet(tmp_path / "items.parquet")
    code = (
        "import dataclasses, sys, time, pandas as pd\n"
        "from pipeline.content.encode import encode\n"
        "shelf = type('Shelf', (), {'items': pd.read_parquet(sys.argv[2] + '/items.parquet')})\n"
        "specs = dict.fromkeys(('text', 'image', 'audio', 'video'), 'signal:')\n"
        "store = encode(sys.argv[1], shelf, sys.argv[2] + '/out', specs, sys.argv[3])\n"
        "print(store.info['encoded'], 'tensorflow' in sys.modules, 'keras' in sys.modules, 'ray' in sys.modules)"
    )
    command = [sys.executable, "-c", code, str(source), str(tmp_path), str(content)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "0 False False False\n"


def test_changed_items_alone_are_encoded_wherever_they_lie(store, source, shelf, content, tmp_path):
    """Renamed files and items in another order cost nothing; two new pictures and one new text are three encodings."""
    folder = tmp_path / "source"
    (folder / "media").mkdir(parents=True)
    for name in ("1.png", "1.wav", "2.wav", "loud.mp4", "silent.mp4"):
        (folder / "media" / f"renamed-{name}").write_bytes((source / "media" / name).read_bytes())
    (folder / "media" / "new.png").write_bytes(png(77))
    (folder / "media" / "newer.png").write_bytes(png(78))
    rows = [
        ("", "", "", "", "", "", ""),
        ("x", "Blue Hour", "Slow organ.", "", "new.png", "renamed-2.wav", "renamed-silent.mp4"),
        ("y", "Red", "", "", "renamed-1.png", "renamed-1.wav", "renamed-loud.mp4"),
        ("z", "Grey", "", "", "newer.png", "", ""),
    ]
    made = encode(folder, Shelf(pd.DataFrame(rows, columns=shelf.items.columns)), tmp_path / "out", SPECS, content)
    counts = made.info["modalities"]
    assert {name: (counts[name]["encoded"], counts[name]["reused"]) for name in counts} == {
        "text": (1, 2), "image": (2, 1), "audio": (0, 2), "video": (0, 2),
    }  # fmt: skip
    np.testing.assert_array_equal(made.table("audio")[[1, 2]], store.table("audio")[[2, 1]])


def test_another_encoder_meets_no_old_vectors(store, source, shelf, content, tmp_path):
    specs = {**SPECS, "image": "signal:+signal:", "audio": "none", "video": "none"}
    made = encode(source, shelf, tmp_path, specs, content)
    assert made.info["modalities"]["image"]["encoded"] == 2 and made.info["modalities"]["text"]["encoded"] == 0
    assert made.widths["image"] == 2 * store.widths["image"]


def test_batch_size_and_workers_change_no_vector(store, source, shelf, tmp_path):
    other = encode(source, shelf, tmp_path / "out", SPECS, tmp_path / "content", batch_size=64, workers=1)
    np.testing.assert_array_equal(other.present, store.present)
    for name in MODALITIES:
        np.testing.assert_allclose(other.table(name), store.table(name), atol=2e-3)
    pd.testing.assert_frame_equal(other.quarantine(), store.quarantine())


def test_the_run_notes_which_stored_vectors_it_uses(store):
    assert len(read_content_keys([store.folder])) == 12


def test_a_trained_encoder_takes_its_own_place(source, shelf, content, tmp_path):
    class Tuned:
        name, fingerprint, modality, width, size = "pack:minilm+lora", "0123456789abcdef", "text", 2, 100

        def encode(self, batch):
            return np.array([[len(text), 1.0] for text in batch], np.float32)

    made = encode(source, shelf, tmp_path, dict.fromkeys(MODALITIES, "none"), content, tuned={"text": Tuned()})
    assert made.modalities == ("text",) and made.table("text")[4].tolist() == [3, 1]
    with pytest.raises(ValueError, match="engine: must be"):
        encode(source, shelf, tmp_path, SPECS, content, tuned={"text": Tuned()}, engine="ray")


def test_ready_vectors_come_first_and_none_disables(source, shelf, tmp_path):
    folder = tmp_path / "source"
    (folder / "features").mkdir(parents=True)
    (folder / "media").symlink_to(source / "media")
    np.save(folder / "features" / "image.npy", np.array([[1, 2], [np.nan, 0], [3, 4]], np.float32))
    pd.DataFrame({"item_id": ["c", "a", "f"]}).to_parquet(folder / "features" / "image.ids.parquet")
    seen = []
    made = encode(
        folder, shelf, tmp_path / "store", {**dict.fromkeys(MODALITIES, "none"), "image": "signal:"}, tmp_path / "content",
        progress=lambda *step: seen.append(step),
    )  # fmt: skip
    assert made.modalities == ("image",) and made.widths == {"image": 2}
    assert made.table("image").tolist() == [[0, 0]] * 3 + [[1, 2]] + [[0, 0]] * 2 + [[3, 4]] + [[0, 0]] * 2
    assert made.info["modalities"]["image"]["encoder"] == "ready-made" and made.quarantine().row.tolist() == [1]
    assert seen == [] and not (tmp_path / "content").exists()
    nothing = encode(folder, shelf, tmp_path / "other", dict.fromkeys(MODALITIES, "none"), tmp_path / "content")
    assert nothing.modalities == ()


def test_one_progress_over_all_modalities(source, shelf, tmp_path):
    seen = []
    specs = {**SPECS, "audio": "none", "video": "none"}
    encode(source, shelf, tmp_path, specs, tmp_path / "content", batch_size=2, progress=lambda *step: seen.append(step))
    assert seen == [("reading media", 7, 7), ("text", 0, 9), ("text", 5, 9), ("image", 7, 9), ("image", 9, 9)]


def test_a_modality_that_nobody_has_is_not_stored(source, shelf, tmp_path):
    bare = Shelf(shelf.items.assign(image="", audio="", video=""))
    assert encode(source, bare, tmp_path / "store", SPECS, tmp_path / "content").modalities == ("text",)
    assert FeatureStore.open(tmp_path / "store").present[:, 1:].any() == np.False_


def test_wrong_arguments_are_named(source, shelf, tmp_path):
    with pytest.raises(ValueError, match="modalities must be among"):
        encode(source, shelf, tmp_path, {"smell": "auto"}, tmp_path)
    with pytest.raises(ValueError, match="at least 1"):
        encode(source, shelf, tmp_path, SPECS, tmp_path, batch_size=0)
    with pytest.raises(ValueError, match="engine: must be"):
        encode(source, shelf, tmp_path, SPECS, tmp_path, engine="spark")


def test_an_encoder_that_is_not_what_its_card_says_stores_nothing(source, shelf, tmp_path, monkeypatch):
    class Other:
        fingerprint, width = "ffffffffffffffff", 256

    asked = []
    monkeypatch.setattr(
        "pipeline.content.encode.make_encoder", lambda modality, spec, weights: asked.append(weights) or Other()
    )
    with pytest.raises(ValueError, match="its card is wrong"):
        encode(source, shelf, tmp_path / "out", SPECS, tmp_path / "content")
    assert asked == [tmp_path / "content-weights"]  # what an encoder converts is kept beside the store
    assert not list((tmp_path / "content").rglob("*.shard"))


def failing(media, weights, ahead, *, ready):
    raise OSError("no memory")


@pytest.mark.parametrize(
    ("work", "ahead", "few"),
    [(encode_some, None, 64), (encode_some, ("image", "signal:"), 64), (encode_some, ("image", "signal:"), 0),
     (failing, None, 64), (failing, None, 0)],
)  # fmt: skip
def test_a_helper_encodes_a_part_and_whoever_does_the_store_is_the_same(
    work, ahead, few, store, source, shelf, tmp_path, monkeypatch
):
    monkeypatch.setattr("pipeline.content.encode_beside.FEW_MEDIA", few)  # else media are for this process
    with JobProcess(work) as process:
        if ahead:
            process.order(source / "media", tmp_path / "content-weights", ahead)
        found = encode(source, shelf, tmp_path / "store", SPECS, tmp_path / "content", batch_size=2, helper=process)
        assert process._begun and process._process is None  # it was asked, and its answer waited for
    for modality in MODALITIES:
        np.testing.assert_array_equal(found.table(modality), store.table(modality))
    assert found.info["encoded"] == store.info["encoded"] and found.info["quarantined"] == store.info["quarantined"]


def test_what_was_built_ahead_is_asked_for_once_and_by_its_name():
    asked = []
    built = Built(lambda *name: asked.append(name) or object(), "image", "signal:")
    first, second = built("image", "signal:"), built("image", "signal:")
    assert asked == [("image", "signal:")] * 2 and first is not second
    other = Built(lambda *name: name, "image", "signal:")
    assert other("audio", "signal:") == ("audio", "signal:") and other.encoder is None


def test_a_helper_that_is_asked_for_nothing_ends_with_what_it_holds(source, tmp_path):
    process = JobProcess(encode_some).start()
    running = process._process
    process.order(source / "media", tmp_path / "weights", ("image", "signal:"))
    process.end()
    process.go_on(BATCHES, [])
    assert not running.is_alive() and process.answer()[0] is None


def test_a_helper_is_not_asked_for_texts_alone_or_for_many(source, shelf, tmp_path, monkeypatch):
    class Unasked:
        def order(self, *order):
            raise AssertionError("asked")

    alone = {**dict.fromkeys(MODALITIES, "none"), "text": "signal:"}
    encode(source, shelf, tmp_path / "alone", alone, tmp_path / "content", helper=Unasked())
    monkeypatch.setattr("pipeline.content.encode_beside.MOST_TEXTS", 4)  # the shelf has six
    encode(source, shelf, tmp_path / "many", SPECS, tmp_path / "other content", helper=Unasked())
