"""Pictures through keras-hub: class token, patches and maps against NumPy."""

import numpy as np
import pytest

from tests.towers import tiny_presets
from towers.image_embedder import ImageEmbedderEncoder


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


def pictures(size, count=4):
    images = np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8)
    images[1], images[2, :, : size // 2] = 0, 255
    return images


@pytest.mark.parametrize(
    ("build", "options", "special", "size"),
    [
        ("vit", "", 1, 32),
        ("vit", "?pooling=mean", 1, 32),
        ("dinov2", "?pooling=class", 3, 28),
        ("dinov2", "?pooling=mean", 3, 28),
        ("efficientnet", "", 0, 33),
    ],
)
def test_pooling_is_what_it_says(tmp_path, build, options, special, size):
    backbone, _ = getattr(tiny_presets, build)(tmp_path / build)
    preset = f"{tmp_path / build}{options}"
    encoder = ImageEmbedderEncoder(preset)
    images = pictures(size)
    output = np.asarray(backbone.predict_on_batch(images.astype(np.float32) / 255))
    if output.ndim == 4:
        expected = output.mean(axis=(1, 2))
    else:
        expected = output[:, special:].mean(axis=1) if "mean" in options else output[:, 0]
    vectors = encoder.encode(images)
    np.testing.assert_allclose(vectors, expected, atol=1e-5)
    np.testing.assert_allclose(np.concatenate([encoder.encode(images[i : i + 1]) for i in range(4)]), vectors, atol=1e-5)
    assert np.ptp(vectors, axis=0).max() > 1e-4 and encoder.encode(images[:0]).shape == (0, encoder.width)
    card = ImageEmbedderEncoder.card(preset)
    for fact in ("name", "fingerprint", "modality", "width", "size"):
        assert getattr(card, fact) == getattr(encoder, fact), fact


def test_a_measured_width_is_remembered_under_the_fingerprint(tmp_path, monkeypatch):
    tiny_presets.vit(tmp_path / "vit")
    preset = str(tmp_path / "vit")
    first = ImageEmbedderEncoder.card(preset)
    monkeypatch.setattr(ImageEmbedderEncoder, "__init__", lambda *_: pytest.fail("built again"))
    assert ImageEmbedderEncoder.card(preset) == first and (first.width, first.size) == (12, 32)


def test_size_by_option_reaches_a_backbone_that_takes_any(tmp_path):
    tiny_presets.dinov2(tmp_path / "dinov2")
    encoder = ImageEmbedderEncoder(f"{tmp_path / 'dinov2'}?size=42")
    assert encoder.size == 42 and encoder.encode(pictures(42)).shape == (4, 12)


def test_errors_say_what_to_do(tmp_path):
    tiny_presets.bert(tmp_path / "bert")
    with pytest.raises(ValueError, match=r"must hold an image backbone .* holds BertBackbone"):
        ImageEmbedderEncoder(str(tmp_path / "bert"))
    tiny_presets.efficientnet(tmp_path / "net")
    with pytest.raises(ValueError, match="pooling=class needs a backbone with a class token; use pooling=mean"):
        ImageEmbedderEncoder(f"{tmp_path / 'net'}?pooling=class")
    encoder = ImageEmbedderEncoder(str(tmp_path / "net"))
    with pytest.raises(ValueError, match=r"must be uint8 \[B, 33, 33, 3\], received float64 \(1, 33, 33, 3\)"):
        encoder.encode(np.zeros((1, 33, 33, 3)))
