"""Text through keras-hub: pooling against NumPy, batches that change nothing, fingerprints, and errors that help."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.towers import tiny_presets
from towers.preset import builtin_handles, preset_folder, split_options
from towers.text_embedder import TextEmbedderEncoder

ROOT = Path(__file__).resolve().parents[2]
TEXTS = ["slow piano", "the blue hour, rain on glass", "", "city night song a a a a the drums", "爵士"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("bert") / "tiny"


@pytest.fixture(scope="module")
def bert(folder):
    return tiny_presets.bert(folder)


def pooled(states, mask, pooling):
    """The written-out pooling: one row after the other, then unit length."""
    rows = []
    for row, kept in zip(states, mask, strict=True):
        real = row[: int(kept.sum())]
        rows.append({"mean": real.mean(axis=0), "first": real[0], "last": real[-1]}[pooling])
    rows = np.stack(rows)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.mark.parametrize("pooling", ["auto", "mean", "first", "last"])
def test_pooling_is_what_it_says(folder, bert, pooling):
    encoder = TextEmbedderEncoder(f"{folder}?pooling={pooling}&tokens=12")
    tokens = encoder.tensors(TEXTS)
    states = np.asarray(bert[0].predict_on_batch(tokens)["sequence_output"])
    expected = pooled(states, tokens["padding_mask"], "mean" if pooling == "auto" else pooling)
    vectors = encoder.encode(TEXTS)
    np.testing.assert_allclose(vectors, expected, atol=1e-5)
    np.testing.assert_allclose(np.concatenate([encoder.encode([text]) for text in TEXTS]), vectors, atol=1e-5)
    assert vectors.shape == (5, encoder.width) and vectors.dtype == np.float32 and np.ptp(vectors, axis=0).min() > 0
    assert (encoder.width, encoder.size, encoder.modality) == (12, 240, "text")


def test_batches_and_lengths_change_nothing(folder, bert):
    encoder = TextEmbedderEncoder(str(folder), batch_size=16)
    texts = ["slow " * (i % 40) + "piano" for i in range(50)]
    expected = np.asarray(encoder.model.predict_on_batch(encoder.tensors(texts)))
    np.testing.assert_allclose(encoder.encode(texts), expected, atol=1e-5)
    assert encoder.encode([]).shape == (0, 12)


@pytest.mark.parametrize(("build", "side"), [("roberta", ""), ("t5", "encoder_")])
def test_backbones_without_a_text_embedder_are_averaged(tmp_path, build, side):
    backbone, tokenizer = getattr(tiny_presets, build)(tmp_path)
    encoder = TextEmbedderEncoder(f"{tmp_path}?tokens=24")
    tokens = encoder.tensors(TEXTS)
    ids, mask = tokens[f"{side}token_ids"], tokens[f"{side}padding_mask"]
    assert ids.shape == (5, 24) and ids[0, mask[0].sum() - 1] == tokenizer.end_token_id
    inputs = dict(tokens)
    if side:
        inputs |= {"decoder_token_ids": ids[:, :1], "decoder_padding_mask": mask[:, :1]}
    states = backbone.predict_on_batch(inputs)
    states = np.asarray(states[f"{side}sequence_output"] if isinstance(states, dict) else states)
    np.testing.assert_allclose(encoder.encode(TEXTS), pooled(states, mask, "mean"), atol=2e-5)
    assert encoder.width == TextEmbedderEncoder.card(f"{tmp_path}?tokens=24").width == 8


def test_prefix_comes_with_the_name_or_by_option(folder, bert, tmp_path):
    plain = TextEmbedderEncoder(str(folder))
    family = tmp_path / "multilingual_e5_tiny"
    shutil.copytree(folder, family)
    named, asked = TextEmbedderEncoder(str(family)), TextEmbedderEncoder(f"{folder}?prefix=query: ")
    assert (plain.prefix, named.prefix, asked.prefix) == ("", "passage: ", "query: ")
    np.testing.assert_allclose(named.encode(["blue"]), plain.encode(["passage: blue"]), atol=1e-6)
    assert np.abs(asked.encode(["blue"]) - plain.encode(["blue"])).max() > 1e-3
    assert len({plain.fingerprint, named.fingerprint, asked.fingerprint}) == 3
    assert TextEmbedderEncoder(f"{family}?prefix=").prefix == ""


def test_the_card_says_the_same_in_another_process_without_tensorflow(folder, bert):
    encoder = TextEmbedderEncoder(str(folder))
    code = (
        "import sys, dataclasses, json; from towers.text_embedder import TextEmbedderEncoder as E;"
        f"print(json.dumps(dataclasses.asdict(E.card({str(folder)!r}))));"
        "assert not {'tensorflow', 'keras', 'keras_hub'} & set(sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    card = json.loads(result.stdout)
    for fact in ("name", "fingerprint", "modality", "width", "size"):
        assert card[fact] == getattr(encoder, fact), fact
    assert len(encoder.fingerprint) == 16


def test_the_fingerprint_follows_weights_and_options_and_not_the_place(folder, bert, tmp_path):
    card = TextEmbedderEncoder.card(str(folder))
    copy = shutil.copytree(folder, tmp_path / "elsewhere")
    (copy / "README.md").write_text("# moved")
    assert TextEmbedderEncoder.card(str(copy)).fingerprint == card.fingerprint
    assert TextEmbedderEncoder.card(f"{folder}?tokens=32").fingerprint != card.fingerprint
    other = tmp_path / "other"
    tiny_presets.bert(other, seed=1)
    assert TextEmbedderEncoder.card(str(other)).fingerprint != card.fingerprint


def test_names_of_the_tables_are_those_of_keras_hub():
    import keras_hub

    handles = builtin_handles()
    library = {name: facts["kaggle_handle"] for name, facts in keras_hub.models.Backbone.presets.items()}
    assert {name: handles.get(name) for name in library} == library
    assert handles["multilingual_e5_small"].startswith("kaggle://")


def test_a_downloaded_preset_is_used_from_its_folder(folder, bert, monkeypatch):
    asked = []
    monkeypatch.setattr("kagglehub.model_download", lambda handle: asked.append(handle) or str(folder))
    assert preset_folder("multilingual_e5_small") == folder.resolve()
    assert asked == ["keras/multilingual-e5/keras/multilingual_e5_small/1"]
    named, plain = TextEmbedderEncoder.card("multilingual_e5_small"), TextEmbedderEncoder.card(f"{folder}?prefix=passage: ")
    assert named.name == "keras_hub:multilingual_e5_small" and named.fingerprint == plain.fingerprint


def test_errors_say_what_to_do(folder, bert, tmp_path, monkeypatch):
    def refuse(handle):
        raise OSError("name resolution failed")

    monkeypatch.setattr("kagglehub.model_download", refuse)
    with pytest.raises(ConnectionError, match=r"name resolution failed.*fetch 'kaggle://keras/.*copy the folder"):
        TextEmbedderEncoder.card("multilingual_e5_small")
    with pytest.raises(ValueError, match=r"knows no such name, received 'multilingual_e5_smal'; near: \['multilingual_e5"):
        TextEmbedderEncoder.card("multilingual_e5_smal")
    with pytest.raises(FileNotFoundError, match=r"must hold a config\.json.*save_to_preset"):
        TextEmbedderEncoder(str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="must be keras-hub's, Hugging Face's or timm's"):
        TextEmbedderEncoder(str(tmp_path))
    tiny_presets.vit(tmp_path / "vit")
    with pytest.raises(ValueError, match=r"must hold a text backbone .* holds ViTBackbone"):
        TextEmbedderEncoder(str(tmp_path / "vit"))
    for options, message in (("pooling=max", "pooling must be among"), ("tokens=4", "tokens must be a whole number")):
        with pytest.raises(ValueError, match=message):
            TextEmbedderEncoder.card(f"{folder}?{options}")
    with pytest.raises(ValueError, match=r"key among \['tokens'\], received 'speed=9'"):
        split_options("x?speed=9", ("tokens",))


def test_a_backbone_with_its_own_head_keeps_it(tmp_path):
    backbone, _ = tiny_presets.embedding_gemma(tmp_path / "embedding_gemma_tiny")
    preset = f"{tmp_path / 'embedding_gemma_tiny'}?tokens=32"
    encoder = TextEmbedderEncoder(preset)
    tokens = encoder.tensors(TEXTS)
    expected = np.asarray(backbone.predict_on_batch(tokens)["pooled_output"])
    np.testing.assert_allclose(encoder.encode(TEXTS), expected, atol=1e-5)
    assert encoder.width == TextEmbedderEncoder.card(preset).width == 6
    assert encoder.prefix == "title: none | text: "
