"""SavedModels of every kind of input: their vectors against NumPy, cached handles, and errors that say what to do."""

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from towers.hub_encoder import RATE, HubEncoder

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A waveform model with YAMNet's interface, one of batches, one of pictures, one of strings, and a keyed one."""
    import tensorflow as tf

    folder = tmp_path_factory.mktemp("hub")
    weights = np.random.default_rng(0).normal(size=(480, 6)).astype(np.float32)

    class Yamnet(tf.Module):
        def __init__(self):
            super().__init__()
            self.weights = tf.Variable(weights)

        @tf.function(input_signature=[tf.TensorSpec([None], tf.float32)])
        def __call__(self, wave):
            frames = tf.signal.frame(wave, 480, 480)
            embeddings = frames @ self.weights
            return tf.nn.softmax(embeddings[:, :2]), embeddings, tf.abs(frames)

    class Batched(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None, 4800], tf.float32)])
        def __call__(self, waves):
            return {"embedding": tf.reshape(waves, [-1, 10, 480]) @ tf.constant(weights), "scores": waves[:, :1]}

    class Picture(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None, 8, 8, 3], tf.float32)])
        def __call__(self, images):
            return tf.reshape(images, [-1, 64, 3])

    class Words(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
        def __call__(self, texts):
            count = [tf.strings.length(texts, unit="UTF8_CHAR"), tf.strings.length(texts)]
            return tf.cast(tf.stack(count, axis=1), tf.float32)

    class Keyed(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([1, 8, 8, 3], tf.float32)])
        def serve(self, pixels):
            return {"first": pixels[:, 0, 0], "second": pixels[:, 0]}

    for name, module in (("yamnet", Yamnet()), ("batched", Batched()), ("picture", Picture()), ("words", Words())):
        tf.saved_model.save(module, str(folder / name))
    keyed = Keyed()
    tf.saved_model.save(keyed, str(folder / "keyed"), signatures={"look": keyed.serve})
    return folder, weights


def agree(encoder, handle):
    card = HubEncoder.card(encoder.modality, handle)
    for fact in ("name", "fingerprint", "modality", "width", "size"):
        assert getattr(card, fact) == getattr(encoder, fact), fact


def test_yamnets_embeddings_are_averaged_over_the_frames_of_the_clip_itself(saved):
    folder, weights = saved
    handle = f"{folder / 'yamnet'}?seconds=3"
    encoder = HubEncoder("audio", handle)
    waves = np.random.default_rng(1).normal(0, 0.1, (3, 3 * RATE)).astype(np.float32)
    waves[1, 2 * RATE :], waves[2] = 0, 0
    frames = [waves[0].reshape(-1, 480), waves[1, : 2 * RATE][: 66 * 480].reshape(-1, 480)]
    vectors = encoder.encode(waves)
    np.testing.assert_allclose(vectors[:2], [(part @ weights).mean(axis=0) for part in frames], atol=1e-4)
    assert not vectors[2].any() and (encoder.width, encoder.size) == (6, 3 * RATE)
    np.testing.assert_allclose(np.concatenate([encoder.encode(waves[i : i + 1]) for i in range(3)]), vectors, atol=1e-6)
    scores = HubEncoder("audio", f"{handle}&output=0")
    assert scores.width == 2 and scores.fingerprint != encoder.fingerprint
    agree(encoder, handle)


def test_a_batch_of_waves_by_the_name_of_its_output(saved):
    folder, weights = saved
    encoder = HubEncoder("audio", str(folder / "batched"))
    waves = np.random.default_rng(2).normal(size=(4, 4800)).astype(np.float32)
    assert encoder.size == 4800
    expected = (waves.reshape(4, 10, 480) @ weights).mean(axis=1)
    np.testing.assert_allclose(encoder.encode(waves), expected, rtol=1e-4, atol=1e-4)
    assert encoder.encode(waves[:0]).shape == (0, 6)


def test_pictures_arrive_between_zero_and_one(saved):
    folder, _ = saved
    encoder = HubEncoder("image", str(folder / "picture"))
    images = np.random.default_rng(3).integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)
    assert (encoder.size, encoder.width) == (8, 3)
    np.testing.assert_allclose(encoder.encode(images), images.reshape(5, 64, 3).mean(axis=1) / 255, atol=1e-6)
    agree(encoder, str(folder / "picture"))
    with pytest.raises(ValueError, match=r"must be uint8 \[B, \(8, 8, 3\)\], received float64"):
        encoder.encode(np.zeros((1, 8, 8, 3)))


def test_strings_arrive_as_utf8(saved):
    encoder = HubEncoder("text", str(saved[0] / "words"))
    assert encoder.encode(["abc", "爵士", ""]).tolist() == [[3, 3], [2, 6], [0, 0]]


def test_a_signature_of_single_rows_and_a_chosen_output(saved):
    handle = f"{saved[0] / 'keyed'}?signature=look&output=second"
    encoder = HubEncoder("image", handle)
    images = np.random.default_rng(4).integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
    np.testing.assert_allclose(encoder.encode(images), images[:, 0].mean(axis=1) / 255, atol=1e-6)
    with pytest.raises(ValueError, match=r"must be one of \['first', 'second'\].*\?output="):
        HubEncoder("image", f"{saved[0] / 'keyed'}?signature=look")
    with pytest.raises(ValueError, match=r"no signature 'none'; use \?signature=<one of \['look'"):
        HubEncoder("image", f"{saved[0] / 'keyed'}?signature=none")


def test_a_cached_handle_needs_no_network_and_its_card_no_tensorflow(saved, tmp_path, monkeypatch):
    handle = "https://tfhub.dev/google/yamnet/1"
    cached = tmp_path / "cache" / hashlib.sha1(handle.encode()).hexdigest()
    shutil.copytree(saved[0] / "yamnet", cached)
    monkeypatch.setenv("TFHUB_CACHE_DIR", str(tmp_path / "cache"))
    encoder = HubEncoder("audio", handle)
    agree(encoder, handle)
    assert encoder.name == f"hub:{handle}" and encoder.size == 10 * RATE
    code = (
        "import sys, json, dataclasses; from towers.hub_encoder import HubEncoder;"
        f"print(json.dumps(dataclasses.asdict(HubEncoder.card('audio', {handle!r}))));"
        "assert not {'tensorflow', 'tensorflow_hub'} & set(sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert json.loads(result.stdout)["fingerprint"] == encoder.fingerprint


def test_errors_say_what_to_do(saved, tmp_path, monkeypatch):
    monkeypatch.setenv("TFHUB_CACHE_DIR", str(tmp_path / "empty"))

    def refuse(handle):
        raise OSError("no route")

    monkeypatch.setattr("tensorflow_hub.resolve", refuse)
    with pytest.raises(ConnectionError, match=r"not cached and cannot be downloaded \(OSError: no route\).*TFHUB_CACHE_DIR"):
        HubEncoder.card("audio", "https://tfhub.dev/google/yamnet/1")
    with pytest.raises(FileNotFoundError, match=r"must be a SavedModel folder .*saved_model\.pb"):
        HubEncoder("audio", str(tmp_path))
    with pytest.raises(ValueError, match="text needs a model of strings"):
        HubEncoder("text", str(saved[0] / "yamnet"))
    with pytest.raises(ValueError, match=r"image needs a model of floats \[B, S, S, 3\]"):
        HubEncoder("image", str(saved[0] / "yamnet"))
    with pytest.raises(ValueError, match="videos take an image model"):
        HubEncoder("video", str(saved[0] / "picture"))
