"""Vectors pooled over noisy views: the loop that they are, the secret that they hang on, and what they do to an attack."""

import dataclasses

import keras
import numpy as np
import pytest
from keras import ops

from serving.graphs.raw_encoder import make_raw_encoder
from towers.encoder_card import EncoderCard
from towers.encoders import describe_encoder, resolve_spec
from towers.media_attack import attack_pixels
from towers.noised_card import noised_card, read_noised
from towers.noised_encoder import NoisedEncoder


class Hats:
    """A picture encoder that listens to single pixels: a narrow hat over each, which a few grey levels leave."""

    name, fingerprint, modality, width, size = "hats", "0" * 16, "image", 3, 8

    def __init__(self):
        pixels, rng = keras.Input((8, 8, 3)), np.random.default_rng(0)
        dense = keras.layers.Dense(3, use_bias=False)
        self.model = keras.Model(pixels, dense(ops.reshape(ops.sin(30.0 * pixels), (-1, 192))))
        dense.kernel.assign(rng.normal(size=(192, 3)) / 10)

    def tensors(self, batch):
        return np.asarray(batch, np.float32) / 128.0 - 1.0

    def encode(self, batch):
        return ops.convert_to_numpy(self.model(self.tensors(batch)))


@pytest.fixture(scope="module")
def plain():
    return Hats()


@pytest.fixture(scope="module")
def pictures():
    return np.random.default_rng(1).integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)


def test_vectors_are_those_of_a_loop_over_views(plain, pictures):
    noised = NoisedEncoder(plain, 16.0, 3, b"secret")
    patterns = np.asarray(noised.model.layers[-1].patterns)
    assert patterns.shape == (3, 8, 8, 3) and patterns.std() == pytest.approx(16 / 128, rel=0.1)
    assert abs(np.corrcoef(patterns.reshape(3, -1))[0, 1]) < 0.3
    expected = np.mean([np.asarray(plain.model(plain.tensors(pictures) + pattern)) for pattern in patterns], axis=0)
    found = noised.encode(pictures)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_allclose(noised.encode(pictures[:1]), found[:1], atol=1e-5)
    np.testing.assert_allclose(make_raw_encoder(noised)(pictures), found, atol=1e-5)


def test_a_secret_decides_the_vectors_and_the_fingerprint(plain, pictures):
    one, again, other = (NoisedEncoder(plain, 16.0, 2, secret) for secret in (b"a", b"a", b"b"))
    np.testing.assert_array_equal(one.encode(pictures), again.encode(pictures))
    assert np.abs(one.encode(pictures) - other.encode(pictures)).max() > 0.01
    assert one.fingerprint == again.fingerprint != other.fingerprint and "secret" not in one.name
    card = EncoderCard("hats", plain.fingerprint, "image", 3, 8)
    assert noised_card(card, 16.0, 2, b"a").fingerprint == one.fingerprint
    for changed in (noised_card(card, 8.0, 2, b"a"), noised_card(card, 16.0, 3, b"a"),
                    noised_card(dataclasses.replace(card, fingerprint="1" * 16), 16.0, 2, b"a")):  # fmt: skip
        assert changed.fingerprint != one.fingerprint


def test_guessed_noise_is_drawn_anew_and_an_attack_without_the_secret_gains_little(plain, pictures):
    noised = NoisedEncoder(plain, 16.0, 4, b"secret")
    guessed = noised.guessed()
    first, second = (np.asarray(guessed.model(plain.tensors(pictures))) for _ in range(2))
    assert np.abs(first - second).max() > 0.01

    def gain(inputs):
        return inputs["image"][:, 0]

    def gained(attacker, reader):
        moved = attack_pixels(attacker, gain, pictures, 2, steps=6)
        return float((reader.encode(moved) - reader.encode(pictures))[:, 0].mean())

    undefended, known = gained(plain, plain), gained(noised, noised)
    assert gained(plain, noised) < 0.3 * undefended and gained(guessed, noised) < 0.5 * known


def test_names_say_all_of_it(tmp_path):
    (tmp_path / "secret").write_bytes(b"key")
    assert read_noised(f"noised:8x2:{tmp_path / 'secret'}:keras_hub:net?size=9") == (8.0, 2, b"key", "keras_hub:net?size=9")
    assert resolve_spec("image", "noised:16x4::signal:") == "noised:16x4::signal:"
    card = describe_encoder("image", "noised:16x4::signal:")
    assert (card.name, card.width) == ("noised:16x4::signal:", describe_encoder("image", "signal:").width)
    for wrong in ("noised:16:x:signal:", "noised:x4::signal:", "noised:16x4:signal:", "noised:16x4::none"):
        with pytest.raises(ValueError, match="must be 'noised:<sigma>x<views>:<file of the secret, or nothing>:<spec>'"):
            read_noised(wrong)
    with pytest.raises(ValueError, match="by a sigma above 0 and at least 1 view, received text, 16 and 4"):
        describe_encoder("text", "noised:16x4::signal:")
    with pytest.raises(FileNotFoundError):
        describe_encoder("image", "noised:16x4:nowhere:signal:")
    with pytest.raises(ValueError, match="must be of a model of pictures or spectrograms, received 'flat'"):
        NoisedEncoder(type("Flat", (), {"name": "flat", "modality": "image"})(), 16.0, 4)
