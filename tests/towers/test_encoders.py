"""Encoders: batch equals single, vectors tell apart what they should, and every name chooses what it says."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from towers.encoders import PACK, Encoder, describe_encoder, make_encoder, resolve_spec
from towers.joined_encoder import JoinedEncoder, shrink, unit_mean_square
from towers.signal_audio import RATE, SignalAudioEncoder
from towers.signal_image import SignalImageEncoder
from towers.video_encoder import VideoEncoder

ROOT = Path(__file__).resolve().parents[2]
needs_pack = pytest.mark.skipif(
    not all(encoder.installed() for encoder in PACK.values()), reason="requirements-encoders.txt is not installed"
)


@pytest.fixture(scope="module")
def encoders():
    return {modality: make_encoder(modality, "signal:") for modality in ("text", "image", "audio")}


@pytest.fixture(scope="module")
def batches(encoders):
    rng = np.random.default_rng(0)
    texts = ["slow jazz", "A long description of a folk record. " * 9, "爵士 钢琴", "x", "Rain on a tin roof, recorded"]
    image = rng.integers(0, 256, (5, encoders["image"].size, encoders["image"].size, 3), dtype=np.uint8)
    image[1], image[2, :, :40] = 0, 255
    audio = rng.normal(0, 0.2, (5, encoders["audio"].size)).astype(np.float32)
    audio[1], audio[2, 9000:] = 0, 0
    return {"text": texts, "image": image, "audio": audio}


@pytest.mark.parametrize("name", ["text", "image", "audio"])
def test_batch_equals_single(encoders, batches, name):
    encoder, batch = encoders[name], batches[name]
    together = encoder.encode(batch)
    assert isinstance(encoder, Encoder)
    assert together.shape == (5, encoder.width) and together.dtype == np.float32 and np.isfinite(together).all()
    alone = np.concatenate([encoder.encode(batch[i : i + 1]) for i in range(5)])
    np.testing.assert_allclose(together, alone, atol=2e-5)
    np.testing.assert_allclose(encoder.encode(batch[::-1]), together[::-1], atol=2e-5)
    assert np.abs(together).max() < 10  # sensible scales: nothing that fp16 or a projection would choke on


def test_hashed_text_overlap_order(encoders):
    a, near, far, empty = encoders["text"].encode(
        ["slow blue piano songs", "a blue piano song, slow", "metal drums", "!!"]
    )
    assert a @ near > 0.5 and abs(a @ far) < 0.2 and not empty.any()
    one, two, three = encoders["text"].encode(["爵士钢琴曲", "慢爵士钢琴", "重金属鼓点"])
    assert one @ two > 0.4 > abs(one @ three)


def test_hashed_text_projection_is_an_unbiased_inner_product(encoders):
    """Against the loop it stands for: the cosine of the n-gram weights, to within sampling error 1/sqrt(256)."""
    from collections import Counter

    from towers.signal_text import ngrams

    texts = ["soft rain on glass", "soft rain on wood", "thunder and hail"]

    def weights(text):
        total = Counter()
        for gram, weight in ngrams(text):
            total[gram] += weight
        return {gram: np.sqrt(value) for gram, value in total.items()}

    def cosine(x, y):
        dot = sum(x[g] * y.get(g, 0.0) for g in x)
        return dot / np.sqrt(sum(v * v for v in x.values()) * sum(v * v for v in y.values()))

    counted = [weights(text) for text in texts]
    vectors = encoders["text"].encode(texts)
    for i in range(3):
        for j in range(3):
            assert vectors[i] @ vectors[j] == pytest.approx(cosine(counted[i], counted[j]), abs=4 / 16)


def stripes(size, degrees, period):
    y, x = np.mgrid[:size, :size]
    phase = x * np.cos(np.radians(degrees)) + y * np.sin(np.radians(degrees))
    value = np.where(np.sin(2 * np.pi * phase / period) > 0, 230, 30).astype(np.uint8)
    return np.repeat(value[..., None], 3, axis=2)


def test_image_texture_tells_direction_and_period_apart():
    encoder = SignalImageEncoder()
    pictures = [stripes(encoder.size, *case) for case in [(0, 6), (0, 7), (90, 6), (0, 24)]]
    base, alike, turned, coarse = encoder.encode(np.stack(pictures))[:, -77:]
    distance = np.linalg.norm(base - alike)
    assert np.linalg.norm(base - turned) > 2 * distance and np.linalg.norm(base - coarse) > 2 * distance


def test_image_colour_groups_follow_their_definition():
    encoder = SignalImageEncoder()
    pictures = np.zeros((3, encoder.size, encoder.size, 3), np.uint8)
    pictures[0] = (255, 0, 0)
    pictures[1] = 255
    pictures[2, : encoder.size // 2] = (0, 0, 255)
    vectors = encoder.encode(pictures)
    hue, saturation, value = vectors[:, :16], vectors[:, 16:24], vectors[:, 24:32]
    np.testing.assert_allclose(hue[0], np.eye(16)[0])
    assert not hue[1].any() and saturation[1, 0] == value[1, 7] == 1  # white has no hue
    assert hue[2].argmax() == int(16 * 240 / 360) and hue[2].max() == pytest.approx(np.sqrt(0.5))
    red_l, red_a, red_b = vectors[0, 32:35]  # CIELAB of sRGB red is (53.2, 80.1, 67.2)
    np.testing.assert_allclose([red_l, red_a, red_b], [0.532, 0.801, 0.672], atol=0.005)
    grid = vectors[2, 41:89].reshape(4, 4, 3)
    assert (grid[:2, :, 2] < -0.9).all() and np.abs(grid[2:]).max() < 1e-3  # blue above, black below


def test_audio_pads_do_not_count(encoders):
    rng = np.random.default_rng(1)
    clip = rng.normal(0, 0.1, 3 * RATE).astype(np.float32)
    vectors = []
    for seconds in (3.5, 5.0, 8.0):
        encoder = encoders["audio"] if seconds == 5.0 else SignalAudioEncoder(seconds)
        vectors.append(encoder.encode(np.pad(clip, (0, encoder.size - len(clip)))[None])[0])
    np.testing.assert_allclose(vectors[0], vectors[1], atol=1e-4)
    np.testing.assert_allclose(vectors[2], vectors[1], atol=1e-4)


def test_audio_hears_pitch_and_tempo(encoders):
    encoder = encoders["audio"]
    time = np.arange(encoder.size) / RATE
    clips = [0.3 * np.sin(2 * np.pi * 440 * 2 ** (semitone / 12) * time) for semitone in (0, 3, 12, 15)]
    rng = np.random.default_rng(2)
    for beats in (75, 150):  # clicks of noise at two tempi
        since = (time * beats / 60) % 1 * 60 / beats
        clips.append(rng.normal(0, 0.4, encoder.size) * np.exp(-since / 0.03))
    vectors = encoder.encode(np.stack(clips).astype(np.float32))
    pitch, tempo = vectors[:, -36:-24], vectors[:, -24:]
    assert pitch[:4].argmax(axis=1).tolist() == [0, 3, 0, 3]  # octaves fold together
    assert pitch[2:4].max(axis=1).min() > 0.9  # the window's main lobe is narrower than a semitone here
    tempi = np.geomspace(40, 240, 24)
    slow, fast = (tempo[i] for i in (4, 5))
    assert np.abs(tempi[slow.argmax()] / 75 - 1) < 0.08  # 150 is no peak when every second beat is silent
    assert max(fast[np.abs(tempi / 150 - 1) < 0.05]) > 0.5 > max(slow[np.abs(tempi / 150 - 1) < 0.05])


def test_wrong_shapes_are_named(encoders):
    with pytest.raises(ValueError, match=r"batch: must be uint8"):
        encoders["image"].encode(np.zeros((1, 96, 96, 3), np.float32))
    with pytest.raises(ValueError, match=r"batch: must be \[B, 80000\] samples, received \(1, 10\)"):
        encoders["audio"].encode(np.zeros((1, 10), np.float32))


def test_names_choose_what_they_say():
    assert make_encoder("image", "none") is None and describe_encoder("image", "none") is None
    assert make_encoder("image", "signal:").name == "signal:"
    for modality, spec in [("image", "pack:minilm"), ("audio", "pack:e5"), ("text", "pack:other")]:
        with pytest.raises(ValueError, match=r"has no such encoder, received .*; use one of \['pack:"):
            make_encoder(modality, spec)
    for spec in ("", "signal", "signal:x", "keras_hub:", "hub", "pack:", "signal:+", "signal:+none", "x:y"):
        for ask in (make_encoder, describe_encoder):
            with pytest.raises(ValueError, match="spec: must be"):
                ask("text", spec)
    with pytest.raises(ValueError, match="modality: must be among"):
        make_encoder("smell", "auto")


def test_auto_takes_the_pack_where_it_is_installed(monkeypatch):
    for encoder in PACK.values():
        monkeypatch.setattr(encoder, "package", "no_such_package")
    modalities = ("text", "image", "audio", "video")
    assert {resolve_spec(modality, "auto") for modality in modalities} == {"signal:"}
    assert make_encoder("text", "auto").name == "signal:"
    with pytest.raises(FileNotFoundError, match=r"pack:minilm: .*requirements-encoders\.txt"):
        make_encoder("text", "pack:minilm")
    monkeypatch.undo()
    if all(encoder.installed() for encoder in PACK.values()):
        chosen = [resolve_spec(modality, "auto") for modality in modalities]
        assert chosen == ["pack:e5", "pack:efficientnet", "pack:musicnn", "pack:efficientnet"]


@pytest.mark.parametrize(
    ("modality", "spec"),
    [("text", "signal:"), ("image", "signal:"), ("audio", "signal:"), ("video", "signal:"), ("image", "signal:+signal:")],
)
def test_a_card_tells_what_the_encoder_is(modality, spec):
    card, encoder = describe_encoder(modality, spec), make_encoder(modality, spec)
    told = (card.name, card.fingerprint, card.modality, card.width, card.size)
    assert told == (encoder.name, encoder.fingerprint, encoder.modality, encoder.width, encoder.size)
    assert len(card.fingerprint) == 16 and int(card.fingerprint, 16) >= 0
    assert card.frames == getattr(encoder, "frames", 0)


@needs_pack
def test_cards_are_cheap_and_the_same_in_another_process():
    """All cards without TensorFlow or Keras; a fingerprint is a fact of the files, not of the process."""
    names = [("text", "pack:minilm"), ("text", "pack:e5"), ("image", "signal:+pack:efficientnet"), ("video", "auto")]
    names += [("audio", "pack:musicnn"), ("audio", "pack:whisper"), ("audio", "signal:")]
    program = (
        "import sys\nfrom towers.encoders import describe_encoder\n"
        f"print([describe_encoder(*name).fingerprint for name in {names}])\n"
        "print(sorted({'tensorflow', 'keras', 'keras_hub', 'torch'} & set(sys.modules)))"
    )
    told = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60)
    fingerprints = [describe_encoder(*name).fingerprint for name in names]
    assert told.stdout.splitlines() == [str(fingerprints), "[]"], told.stderr
    assert len(set(fingerprints)) == len(names)


def test_fingerprints_follow_bytes_and_settings(tmp_path):
    from towers.encoder_card import fingerprint

    weights = tmp_path / "weights"
    weights.write_bytes(b"one")
    before = fingerprint("a", 1, files=[weights])
    assert fingerprint("a", 2, files=[weights]) != before != fingerprint("a", 1)
    weights.write_bytes(b"other")
    changed = fingerprint("a", 1, files=[weights])
    weights.write_bytes(b"one")
    assert changed != before == fingerprint("a", 1, files=[weights])
    assert SignalAudioEncoder(3.0).fingerprint != SignalAudioEncoder.card().fingerprint


class Ramp:
    """An image encoder whose vector is the mean colour times a factor, and what size it was given."""

    modality, name = "image", "ramp"

    def __init__(self, size, factor):
        self.size, self.factor, self.width, self.fingerprint = size, factor, 3, f"{size:016x}"

    def encode(self, batch):
        assert batch.dtype == np.uint8 and batch.shape[1:] == (self.size, self.size, 3)
        return (self.factor * batch.mean(axis=(1, 2))).astype(np.float32)


def test_joined_parts_are_equally_loud_and_each_gets_its_size():
    images = np.random.default_rng(0).integers(0, 256, (4, 30, 30, 3), dtype=np.uint8)
    images[3] = 0
    joined = JoinedEncoder([Ramp(30, 1.0), Ramp(12, 1000.0)])
    vectors = joined.encode(images)
    assert vectors.shape == (4, 6) == (4, joined.width) and joined.size == 30 and joined.name == "ramp+ramp"
    np.testing.assert_allclose((vectors[:3, :3] ** 2).mean(axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(vectors[:, :3], vectors[:, 3:], atol=0.01)  # the mean survives the shrinking
    assert not vectors[3].any()
    np.testing.assert_allclose(vectors[1:2], joined.encode(images[1:2]), atol=1e-6)
    with pytest.raises(ValueError, match="parts: must be of one modality"):
        JoinedEncoder([Ramp(8, 1), make_encoder("text", "signal:")])


def test_joined_text_and_sound_are_cut_to_each_part(encoders):
    class Shorter:
        modality, name, fingerprint, width, size = "audio", "shorter", "0" * 16, 1, 40_000

        def encode(self, batch):
            assert batch.shape[1] == self.size
            return batch.max(axis=1, keepdims=True)

    clips = np.random.default_rng(0).normal(0, 0.1, (2, encoders["audio"].size)).astype(np.float32)
    vectors = JoinedEncoder([encoders["audio"], Shorter()]).encode(clips)
    np.testing.assert_allclose(vectors[:, :-1], unit_mean_square(encoders["audio"].encode(clips)), rtol=1e-5)


def test_shrinking_is_an_area_average():
    rng = np.random.default_rng(1)
    image = rng.integers(0, 256, (1, 10, 10, 3), dtype=np.uint8)
    fine = image.repeat(4, axis=1).repeat(4, axis=2)[0].astype(np.float64)  # 10 to 4: squares of 2.5 = 10 fine pixels
    expected = [[fine[10 * y : 10 * y + 10, 10 * x : 10 * x + 10].mean(axis=(0, 1)) for x in range(4)] for y in range(4)]
    assert np.abs(shrink(image, 4)[0] - np.array(expected)).max() <= 0.501


def test_video_is_its_frames_side_by_side(encoders):
    encoder, size = VideoEncoder(encoders["image"], frames=3), encoders["image"].size
    videos = np.random.default_rng(2).integers(0, 256, (2, 3, size, size, 3), dtype=np.uint8)
    vectors = encoder.encode(videos).reshape(2, 3, -1)
    for video in range(2):
        np.testing.assert_allclose(vectors[video], encoders["image"].encode(videos[video]), atol=1e-6)
    assert encoder.width == 3 * 181 and isinstance(make_encoder("video", "signal:"), Encoder)
    with pytest.raises(ValueError, match=r"batch: must be uint8 \[B, \(3, 96, 96, 3\)\]"):
        encoder.encode(videos[:, :2])


def test_keras_hub_image_folder(tmp_path):
    """A tiny randomly initialised backbone, saved as a preset: the path from folder to pooled vectors."""
    import keras
    import keras_hub

    keras.utils.set_random_seed(0)
    backbone = keras_hub.models.ResNetBackbone(
        input_conv_filters=[64],
        input_conv_kernel_sizes=[3],
        stackwise_num_filters=[64, 12],
        stackwise_num_blocks=[1, 1],
        stackwise_num_strides=[1, 2],
        block_type="basic_block",
        image_shape=(None, None, 3),
    )
    backbone.save_to_preset(str(tmp_path))
    keras_hub.layers.ResNetImageConverter(height=32, width=32, scale=1 / 255).save_to_preset(str(tmp_path))
    encoder = make_encoder("image", f"keras_hub:{tmp_path}")
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    expected = np.asarray(backbone(images.astype(np.float32) / 255)).mean(axis=(1, 2))
    assert (encoder.size, encoder.width) == (32, 12)
    np.testing.assert_allclose(encoder.encode(images), expected, atol=1e-5)
    card = describe_encoder("image", f"keras_hub:{tmp_path}")
    assert (card.name, card.fingerprint, card.width) == (encoder.name, encoder.fingerprint, 12)
    joined = make_encoder("image", f"signal:+keras_hub:{tmp_path}")
    assert joined.width == 181 + 12 and joined.size == 96
    assert joined.fingerprint == describe_encoder("image", f"signal:+keras_hub:{tmp_path}").fingerprint
