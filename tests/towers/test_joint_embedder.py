"""CLIP and SigLIP: text and picture towers of one model land in one space, and agree with the whole model's scores."""

import numpy as np
import pytest

from tests.towers import tiny_presets
from towers.image_embedder import ImageEmbedderEncoder
from towers.text_embedder import TextEmbedderEncoder

TEXTS = ["slow piano", "Rain on glass!", "", "the blue city at night, a song of drums " * 3]


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


@pytest.mark.parametrize(("build", "width", "length"), [("clip", 10, 20), ("siglip", 12, 24)])
def test_both_towers_give_the_whole_models_cosines(tmp_path, build, width, length):
    backbone, _ = getattr(tiny_presets, build)(tmp_path / build)
    preset = str(tmp_path / build)
    text, image = TextEmbedderEncoder(preset), ImageEmbedderEncoder(preset)
    images = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    texts, pictures = text.encode(TEXTS), image.encode(images)
    assert texts.shape == pictures.shape == (4, width)
    np.testing.assert_allclose(np.linalg.norm(np.stack([texts, pictures]), axis=-1), 1, atol=1e-5)
    tokens = text.tensors(TEXTS)["token_ids"]
    assert tokens.shape == (4, length)
    logits = backbone.predict_on_batch({"images": image.tensors(images), "token_ids": tokens})["vision_logits"]
    head = backbone.clip_head if build == "clip" else backbone.siglip_head
    bias = np.asarray(head.logit_bias) if build == "siglip" else 0.0
    cosines = (np.asarray(logits) - bias) / np.exp(np.asarray(head.logit_scale))
    np.testing.assert_allclose(pictures @ texts.T, cosines, atol=1e-4)


@pytest.mark.parametrize("build", ["clip", "siglip"])
def test_batch_equals_single_and_cards_agree(tmp_path, build):
    getattr(tiny_presets, build)(tmp_path / build)
    preset = str(tmp_path / build)
    images = np.random.default_rng(1).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    fingerprints = set()
    for encoder, batch in ((TextEmbedderEncoder(preset), TEXTS), (ImageEmbedderEncoder(preset), images)):
        together = encoder.encode(batch)
        alone = np.concatenate([encoder.encode(batch[i : i + 1]) for i in range(4)])
        np.testing.assert_allclose(alone, together, atol=1e-5)
        assert np.ptp(together, axis=0).max() > 1e-3
        card = type(encoder).card(preset)
        for fact in ("name", "fingerprint", "modality", "width", "size"):
            assert getattr(card, fact) == getattr(encoder, fact), fact
        fingerprints.add(card.fingerprint)
    assert len(fingerprints) == 2


def test_the_backbone_is_loaded_once_for_both_towers(tmp_path):
    tiny_presets.clip(tmp_path / "clip")
    text, image = TextEmbedderEncoder(str(tmp_path / "clip")), ImageEmbedderEncoder(str(tmp_path / "clip"))
    assert text.model.backbone is image.model.backbone
