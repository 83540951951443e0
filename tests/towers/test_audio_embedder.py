"""Sound through keras-hub: only real frames are averaged, and what follows the clip's end does not shift them."""

import numpy as np
import pytest

from tests.towers import tiny_presets
from towers.audio_embedder import SHORTEST, AudioEmbedderEncoder, real_samples


def clips(size):
    waves = np.random.default_rng(0).normal(0, 0.1, (4, size)).astype(np.float32)
    waves[1, 9000:], waves[2] = 0, 0
    return waves


def test_whisper_averages_the_states_of_real_sound(tmp_path):
    backbone, converter = tiny_presets.whisper(tmp_path)
    encoder = AudioEmbedderEncoder(f"{tmp_path}?seconds=2")
    waves = clips(encoder.size)
    converter.max_audio_length, converter.num_samples = 2, 32_000
    features = np.asarray(converter(waves))
    tokens = np.zeros((4, 1), np.int32)
    output = backbone.predict_on_batch(
        {"encoder_features": features, "decoder_token_ids": tokens, "decoder_padding_mask": tokens + 1}
    )
    states = np.asarray(output["encoder_sequence_output"])
    assert states.shape == (4, 100, 8)  # 2 s, one state every 320 samples
    # 9,000 samples reach into the 29th state; a silent clip keeps the 4 states of the shortest one.
    expected = np.stack([states[row, :real].mean(axis=0) for row, real in enumerate((100, 29, 4, 100))])
    vectors = encoder.encode(waves)
    np.testing.assert_allclose(vectors, expected, atol=1e-5)
    np.testing.assert_allclose(np.concatenate([encoder.encode(waves[i : i + 1]) for i in range(4)]), vectors, atol=1e-5)
    assert (encoder.width, encoder.size, encoder.modality) == (8, 32_000, "audio")


def test_moonshine_averages_under_its_own_mask(tmp_path):
    backbone, _ = tiny_presets.moonshine(tmp_path)
    encoder = AudioEmbedderEncoder(f"{tmp_path}?seconds=2")
    waves = clips(encoder.size)
    tensors = encoder.tensors(waves)
    assert tensors["encoder_padding_mask"].sum(axis=1).tolist() == [32_000, 9000, SHORTEST, 32_000]
    tokens = np.ones((4, 1), np.int32)
    output = backbone.predict_on_batch({**tensors, "decoder_token_ids": tokens, "decoder_padding_mask": tokens > 0})
    states, real = np.asarray(output["encoder_sequence_output"]), np.asarray(output["encoder_attention_mask"])
    expected = np.stack([row[kept].mean(axis=0) for row, kept in zip(states, real, strict=True)])
    vectors = encoder.encode(waves)
    np.testing.assert_allclose(vectors, expected, atol=1e-5)
    np.testing.assert_allclose(np.concatenate([encoder.encode(waves[i : i + 1]) for i in range(4)]), vectors, atol=1e-5)
    assert real.sum(axis=1).tolist()[2] >= 1 and np.isfinite(vectors).all()


def test_real_samples_end_at_the_last_sound():
    waves = np.zeros((3, 5000), np.float32)
    waves[0, 2999], waves[1, 10] = 0.1, -1.0
    assert real_samples(waves).tolist() == [3000, SHORTEST, SHORTEST]


def test_card_and_errors(tmp_path):
    tiny_presets.whisper(tmp_path / "whisper")
    preset = f"{tmp_path / 'whisper'}?seconds=5"
    card, encoder = AudioEmbedderEncoder.card(preset), AudioEmbedderEncoder(preset)
    for fact in ("name", "fingerprint", "modality", "width", "size"):
        assert getattr(card, fact) == getattr(encoder, fact), fact
    assert card.size == 80_000 and AudioEmbedderEncoder.card(str(tmp_path / "whisper")).fingerprint != card.fingerprint
    with pytest.raises(ValueError, match="seconds must be a whole number from 1 to 30, received '31'"):
        AudioEmbedderEncoder.card(f"{tmp_path / 'whisper'}?seconds=31")
    with pytest.raises(ValueError, match=r"must be \[B, 80000\] samples, received \(1, 10\)"):
        encoder.encode(np.zeros((1, 10), np.float32))
    tiny_presets.bert(tmp_path / "bert")
    with pytest.raises(ValueError, match=r"audio needs one of .* holds BertBackbone; choose a Whisper"):
        AudioEmbedderEncoder.card(str(tmp_path / "bert"))
