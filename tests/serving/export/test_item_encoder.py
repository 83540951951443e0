"""`item_encoder`: raw content through the exported graph gives what the encode stage and the item tower give."""

from __future__ import annotations

import dataclasses
import filecmp
import io
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from data.image_decoder import decode_image
from serving.client.new_items import item_inputs
from serving.client.recommender import ModelClient, NewItem, Recommender
from serving.export.item_encoder import ItemEncoderModule
from serving.export.raw_models_again import ItemEncoderAgain
from serving.export.raw_requests import item_encoder_requests
from serving.graphs.packed_table import PackedTable, pack_four_bits
from serving.graphs.raw_audio import fit_clips
from serving.graphs.raw_encoder import UnsupportedEncoderError, make_raw_encoder
from serving.graphs.raw_picture import decode_pictures
from serving.graphs.raw_text import item_text
from serving.index.index import Compiled
from serving.local import LocalServer
from serving.releases.models_config import ModelEntry, write_models_config
from serving.saved_model import operations, read_variables
from serving.server.warmup import write_warmup
from tests.serving.independent import run_capi
from tests.serving.raw_stack import ITEMS, RawStack, cosines, raw_stack
from towers.encoders import PACK, make_encoder
from towers.two_tower import TwoTower
from towers.video_encoder import VideoEncoder

CLOSE = 0.999
BATCH = 20
TEXTS = [
    "Slow piano, fast drums", "café naïve ÅNGSTRÖM Straße", "don't stop-believin' (50% off) #1 @home", "海边的灯塔",
    "日本語のテキストです。", "한국어 텍스트", "العربية نص", "हिन्दी पाठ", "emoji 🎵🎵 test", "ﬁ ligature ＡＢＣ", "x" * 300,
    "ΑΒΓ σς Привет", "①②③ ½ ™", "龘靐齉", "a", ".", "www.example.org/a?b=c&d=e", "tab\tin the middle", "",
]  # fmt: skip


@pytest.fixture(scope="session")
def stack() -> RawStack:
    return raw_stack()


@pytest.fixture(scope="session")
def encode(stack):
    """The exported graph in Python."""
    model = tf.saved_model.load(str(stack.folder)).signatures["serving_default"]
    dtypes = {"audio": tf.float32, "audio_length": tf.int32}

    def call(items: list[NewItem]) -> dict[str, np.ndarray]:
        tensors = {name: tf.constant(value, dtypes.get(name, tf.string)) for name, value in item_inputs(items).items()}
        return {name: value.numpy() for name, value in model(**tensors).items()}

    return call


def batches(stack: RawStack):
    return [stack.items[start : start + BATCH] for start in range(0, len(stack.items), BATCH)]


def test_every_item_in_python(stack, encode):
    answers = [encode(batch) for batch in batches(stack)]
    whole = {name: np.concatenate([answer[name] for answer in answers]) for name in answers[0]}
    np.testing.assert_array_equal(whole["present"], stack.present)
    assert len(stack.items) == ITEMS and cosines(whole["embedding"], stack.embeddings).min() >= CLOSE
    for column, name in enumerate(stack.store.modalities):
        there = stack.present[:, column]
        stored = np.asarray(stack.store.table(name), np.float32)[1:]
        assert there.any() and cosines(whole[f"{name}_vector"][there], stored[there]).min() >= CLOSE, name
        assert not whole[f"{name}_vector"][~there].any()


def test_every_item_over_the_server(stack, tmp_path):
    write_warmup(stack.folder, "item_encoder", item_encoder_requests((1, 2), {}))
    config = write_models_config(
        tmp_path / "models.config", [ModelEntry("item_encoder", str(stack.folder.parent), versions=(1,))], Path("/")
    )
    with LocalServer(config) as server, ModelClient(server.target, deadline=60) as client:
        asked = Recommender(client, deadline=60)
        answers = [asked.encode_items(batch) for batch in batches(stack)]
        with pytest.raises(ValueError, match="at least one"):
            asked.encode_items([])
    assert {answer.version for answer in answers} == {1}
    embeddings = np.concatenate([answer.embeddings for answer in answers])
    assert cosines(embeddings, stack.embeddings).min() >= CLOSE
    assert set(answers[0].vectors) == set(stack.store.modalities)


def test_every_item_through_the_c_api(stack):
    answers = run_capi(stack.folder, [item_inputs(batch) for batch in batches(stack)])
    embeddings = np.concatenate([answer["embedding"] for answer in answers])
    assert cosines(embeddings, stack.embeddings).min() >= CLOSE


def test_only_operations_of_the_stock_server(stack):
    import tensorflow_text  # noqa: F401  registers its operations

    foreign = {name for name in operations(stack.folder) if not hasattr(tf.raw_ops, name)}
    assert foreign <= {"NormalizeUTF8", "SentencepieceOp", "SentencepieceTokenizeOp"}


def test_same_bytes_again(stack, tmp_path):
    ItemEncoderModule(stack.two_tower.item_tower, stack.two_tower.schema.modalities, stack.encoders).save(
        tmp_path / "again"
    )
    files = [
        path.relative_to(stack.folder)
        for path in stack.folder.rglob("*")
        if path.is_file() and "assets.extra" not in path.parts
    ]
    assert len(files) >= 4
    _, different, missing = filecmp.cmpfiles(stack.folder, tmp_path / "again", map(str, files), shallow=False)
    assert not different and not missing


def test_another_tower_in_the_graph_of_an_earlier_release(stack, tmp_path):
    config = dataclasses.replace(stack.two_tower.config, seed=stack.two_tower.config.seed + 1)
    towers = {"other": TwoTower(stack.two_tower.schema, config), "back": stack.two_tower}
    previous, vectors = stack.folder, {}
    for name, two_tower in towers.items():
        again = ItemEncoderAgain(previous, two_tower.item_tower, two_tower.schema.modalities)
        assert again.encoders == tuple(stack.encoders) and not again.vector_inputs
        again.save(tmp_path / name)
        previous, vectors[name] = tmp_path / name, again.values
    assert any((vectors["back"][name] != value).any() for name, value in vectors["other"].items())
    for folder, values in ((tmp_path / "other", vectors["other"]), (tmp_path / "back", read_variables(stack.folder))):
        kept = read_variables(folder)
        assert values and all((kept[name] == value).all() for name, value in values.items())
    assert (tmp_path / "back" / "saved_model.pb").read_bytes() == (stack.folder / "saved_model.pb").read_bytes()


def test_one_broken_picture_leaves_the_others_alone(stack, encode):
    whole = stack.items[:6]
    good = encode(whole)
    picture = next(item.image for item in stack.items if item.image)
    broken = [b"", b"no picture at all", picture[: len(picture) // 2], picture[:8]]
    mixed = [*(dataclasses.replace(whole[0], image=image) for image in broken), *whole[1:]]
    answer = encode(mixed)
    column = stack.store.modalities.index("image")
    assert not answer["present"][: len(broken), column].any()
    assert answer["present"][: len(broken), stack.store.modalities.index("text")].all()
    np.testing.assert_allclose(answer["embedding"][len(broken) :], good["embedding"][1:], atol=1e-5)


def test_an_item_with_nothing_has_no_direction(stack, encode):
    answer = encode([NewItem(), NewItem(categories="a|b")])
    assert not answer["present"].any() and not answer["embedding"].any()


def test_an_id_that_training_knew_plays_no_part(stack, encode):
    stack.two_tower.item_tower.known.assign(np.ones(stack.dataset.schema.item_rows))
    names = {path for path, _ in tf.train.list_variables(str(stack.folder / "variables" / "variables"))}
    assert not any("id_embedding" in name for name in names)
    assert cosines(encode(stack.items[:3])["embedding"], stack.embeddings[:3]).min() >= CLOSE


@pytest.mark.parametrize("spec", ["signal:", "pack:minilm", "pack:e5"])
def test_text_encoders_agree_with_python(stack, spec):
    name = spec.partition(":")[2]
    if name and not PACK[name].installed():
        pytest.skip(f"{spec} is not installed")
    made = stack.encoders["text"]  # E5 where it is installed, which takes seconds to make
    encoder = made if made.name == spec else make_encoder("text", spec)
    raw = make_raw_encoder(encoder)
    rng = np.random.default_rng(0)
    letters = [chr(code) for first, last in ((32, 127), (192, 383), (0x4E00, 0x4F00), (0x3040, 0x3100), (0x400, 0x450))
               for code in range(first, last)]  # fmt: skip
    texts = TEXTS + ["".join(rng.choice(letters, rng.integers(1, 40))) for _ in range(300)]
    if name:
        tokens = Compiled(lambda texts: raw.tokens(texts, raw.prefix), [tf.TensorSpec([None], tf.string)])
        given = tokens(texts).to_list()
        tensors = encoder.tensors(texts)
        expected = [
            row[mask > 0].tolist() for row, mask in zip(tensors["token_ids"], tensors["padding_mask"], strict=True)
        ]
        # Cuts of equal score may fall differently in another release of SentencePiece: one text of 640 was seen.
        assert sum(ours != theirs for ours, theirs in zip(given, expected, strict=True)) <= (2 if name == "e5" else 0)
    few = texts[:40]
    vectors = Compiled(raw, [tf.TensorSpec([None], tf.string)])(few).numpy()
    expected = encoder.encode(few)
    known = np.linalg.norm(expected, axis=1) > 0
    assert cosines(vectors, expected)[known].min() >= CLOSE
    assert not vectors[~known].any()


def test_xlm_roberta_presets_agree_with_python(tmp_path):
    """What `keras_hub:multilingual_e5_small` is, small and random."""
    import keras_hub
    import sentencepiece

    stream = io.BytesIO()
    lines = ["slow piano by the sea", "night train to the city", "海边的灯塔和水手", "the old lighthouse sings"] * 20
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=stream, vocab_size=60, model_type="UNIGRAM", unk_id=0, bos_id=1,
        eos_id=2, hard_vocab_limit=False, minloglevel=2,
    )  # fmt: skip
    tokenizer = keras_hub.tokenizers.XLMRobertaTokenizer(proto=stream.getvalue())
    backbone = keras_hub.models.XLMRobertaBackbone(
        vocabulary_size=tokenizer.vocabulary_size(), num_layers=1, num_heads=2, hidden_dim=8, intermediate_dim=16
    )
    backbone.save_to_preset(str(tmp_path))
    tokenizer.save_to_preset(str(tmp_path))
    encoder = make_encoder("text", f"keras_hub:{tmp_path}?prefix=passage: ")
    raw, texts = make_raw_encoder(encoder), ["the sea sings", "海边的水手", "", "zzz Ω 🎵", "slow train " * 60]
    tensors = encoder.tensors(texts)
    expected = [row[mask > 0].tolist() for row, mask in zip(tensors["token_ids"], tensors["padding_mask"], strict=True)]
    assert raw.tokens(tf.constant(texts), raw.prefix).to_list() == expected
    assert cosines(raw(tf.constant(texts)).numpy(), encoder.encode(texts)).min() >= CLOSE


@pytest.mark.parametrize("modality, spec", [("audio", "pack:whisper"), ("image", "pack:efficientnet")])
def test_other_encoders_agree_with_python(modality, spec):
    if not PACK[spec.partition(":")[2]].installed():
        pytest.skip(f"{spec} is not installed")
    encoder = make_encoder(modality, spec)
    rng = np.random.default_rng(0)
    if modality == "image":
        content = rng.integers(0, 256, (3, encoder.size, encoder.size, 3), np.uint8)
        signature = tf.TensorSpec([None, *content.shape[1:]], tf.uint8)
    else:
        content = rng.normal(0, 0.1, (2, encoder.size)).astype(np.float32)
        content[1, encoder.size // 2 :] = 0
        signature = tf.TensorSpec([None, encoder.size], tf.float32)
    vectors = Compiled(make_raw_encoder(encoder), [signature])(content).numpy()
    assert cosines(vectors, encoder.encode(content)).min() >= CLOSE


def test_video_is_its_frames():
    encoder = VideoEncoder(make_encoder("image", "signal:"), frames=2)
    raw = make_raw_encoder(encoder)
    pictures = [jpeg(np.full((40, 50, 3), shade, np.uint8)) for shade in (10, 90, 170, 250)]
    videos, present = raw.decode(tf.constant([pictures, [*pictures[:3], b""]]))
    expected = np.stack([decode_image(pictures[place], encoder.size) for place in (1, 3)])
    assert present.numpy().tolist() == [True, False]
    assert cosines(raw(videos[:1]).numpy(), encoder.encode(expected[None])).min() >= CLOSE
    assert raw.decode(tf.zeros((2, 0), tf.string))[1].numpy().tolist() == [False, False]


def test_vectors_stand_in_for_encoders_without_operations(stack):
    class Strange:
        name, modality, width, size = "hub:strange", "audio", stack.store.widths["audio"], 100

    with pytest.raises(UnsupportedEncoderError, match="audio_vector"):
        make_raw_encoder(Strange())
    widths = stack.two_tower.schema.modalities
    module = ItemEncoderModule(stack.two_tower.item_tower, widths, {"audio": Strange()})
    assert module.vector_inputs == tuple(widths)
    inputs = item_inputs([NewItem()] * ITEMS)
    tables = {name: np.asarray(stack.store.table(name), np.float32)[1:] for name in widths}
    dtypes = {"audio": tf.float32, "audio_length": tf.int32}
    values = [tf.constant(value, dtypes.get(name, tf.string)) for name, value in inputs.items()]
    answer = module.encode(*values, *(tf.constant(tables[name]) for name in widths))
    assert cosines(answer["embedding"].numpy(), stack.embeddings).min() >= CLOSE
    empty = module.encode(*values, *(tf.zeros((ITEMS, 0)) for _ in widths))
    assert not empty["present"].numpy().any()
    Strange.width += 1
    with pytest.raises(ValueError, match="tower reads width"):
        ItemEncoderModule(stack.two_tower.item_tower, widths, {"audio": Strange()})


def jpeg(pixels: np.ndarray, **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=95, **options)
    return buffer.getvalue()


def test_pictures_are_decoded_as_by_the_encode_stage():
    rng = np.random.default_rng(0)
    smooth = np.asarray(Image.fromarray(rng.integers(0, 256, (12, 9, 4), np.uint8)).resize((300, 200)))
    contents = [jpeg(smooth[..., :3]), jpeg(smooth[..., 0])]
    contents.append(jpeg(np.asarray(Image.fromarray(smooth[..., :3]).resize((2100, 1700)))))
    for turn in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = turn
        contents.append(jpeg(smooth[..., :3], exif=exif))
    for image, form in (
        (Image.fromarray(smooth), "PNG"),
        (Image.fromarray(smooth[..., :3]).quantize(16), "PNG"),
        (Image.fromarray(smooth).quantize(12), "PNG"),
        (Image.fromarray(smooth).quantize(200), "PNG"),
        (Image.fromarray(smooth[..., 0] > 128), "PNG"),
        (Image.fromarray(smooth[..., :3]).convert("L"), "PNG"),
        (Image.fromarray(smooth).convert("LA"), "PNG"),
        (Image.fromarray(smooth[..., 0].astype(np.uint16) * 250), "PNG"),
        (Image.fromarray(smooth[..., :3]).quantize(16), "GIF"),
        (Image.fromarray(smooth[..., :3]), "WEBP"),
        (Image.fromarray(smooth[..., :3]).convert("CMYK"), "JPEG"),
    ):
        buffer = io.BytesIO()
        image.save(buffer, form)
        contents.append(buffer.getvalue())
    pictures, present = decode_pictures(tf.constant(contents), 64)
    assert present.numpy().all()
    for content, picture in zip(contents, pictures.numpy(), strict=True):
        difference = np.abs(picture.astype(int) - decode_image(content, 64))
        assert difference.max() <= 1 and difference.mean() < 0.05


def test_too_many_pixels_are_refused_by_the_header():
    header = bytearray(jpeg(np.zeros((16, 16, 3), np.uint8)))
    place = header.index(b"\xff\xc0") + 5
    header[place : place + 4] = b"\xff\xff\xff\xff"
    _, present = decode_pictures(tf.constant([bytes(header)]), 32)
    assert not present.numpy().any()


def test_item_text_is_the_encode_stages():
    from pipeline.content.encode_plan import item_text as in_python

    cells = [("Blue Hour", "Slow piano.", "jazz|piano"), ("Blue Hour", "", "jazz| piano ||x"), ("", "", "a|b"),
             ("", "Only this", ""), ("T", "", ""), ("T", "", "|")]  # fmt: skip
    graph = item_text(*(list(column) for column in zip(*cells, strict=True))).numpy()
    assert [text.decode() for text in graph] == [in_python(*cell) for cell in cells]
    dirty = item_text(["  a\u0301 \x00\n b "], [""], [""]).numpy()[0].decode()
    assert dirty == "\u00e1 b"


def test_clips_are_cut_as_by_the_encode_stage():
    from data.waveform import fit_clip, middle

    rng = np.random.default_rng(0)
    waves = [rng.normal(size=length).astype(np.float32) * 5 for length in (10, 50, 51, 120)]
    samples = np.zeros((6, 120), np.float32)
    for row, wave in enumerate(waves):
        samples[row, : len(wave)] = wave
    samples[4] = np.nan
    lengths = [10, 50, 51, 120, 120, 0]
    clips, present = fit_clips(samples, tf.constant(lengths), 50)
    assert present.numpy().tolist() == [True] * 4 + [False, False]
    for clip, wave in zip(clips.numpy(), waves, strict=False):
        start, count = middle(len(wave), 16_000, 50)
        np.testing.assert_array_equal(clip, fit_clip(wave[start : start + count], 16_000, 50))


def test_four_bit_tables_come_back_bit_for_bit():
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 16, (40, 64))
    codes[:, ::32] = 0  # Q4_0 gives the largest value of every block the code 0
    scales = rng.normal(0, 0.1, (40, 2)).astype(np.float16).astype(np.float32)
    table = ((codes - 8) * scales.repeat(32, axis=1)).astype(np.float16).astype(np.float32)
    packed = PackedTable(table, "t")
    assert packed.bits == 4
    np.testing.assert_array_equal(packed.rows(np.arange(40)).numpy(), table)
    assert pack_four_bits(table + 1e-3) is None and pack_four_bits(table[:, :40]) is None
    half = PackedTable(rng.normal(size=(5, 40)).astype(np.float32), "h")
    assert half.bits == 16 and half.rows([1, 1]).shape == (2, 40)
