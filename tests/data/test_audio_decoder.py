"""Sound: a tone keeps its frequency through every format, rate and channel count; broken files give a reason."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.audio_decoder import decode_audio
from data.media import MediaError
from data.waveform import fit_clip
from tests.data.hostile_files import good_files, silence, wav
from tests.data.media_files import image_bytes, midi_bytes, midi_notes, sound_bytes, tone, video_bytes


def loudest(clip, count=1):
    """The `count` strongest frequencies of a clip at 16 kHz, in whole Hz, ascending."""
    power = np.abs(np.fft.rfft(clip)) ** 2
    return sorted(np.argsort(power)[-count:] * 16_000 / len(clip))


@pytest.mark.parametrize(
    ("kind", "subtype", "rate"),
    [
        ("WAV", "PCM_16", 44_100), ("WAV", "FLOAT", 48_000), ("WAV", "PCM_U8", 16_000), ("WAV", "PCM_24", 96_000),
        ("WAV", "DOUBLE", 11_025), ("FLAC", "PCM_16", 8_000), ("FLAC", "PCM_24", 192_000), ("OGG", "VORBIS", 44_100),
        ("OGG", "OPUS", 48_000), ("MP3", "MPEG_LAYER_III", 44_100), ("AIFF", "PCM_16", 22_050), ("WAV", "PCM_16", 37_123),
    ],
)  # fmt: skip
def test_stereo_of_any_rate_to_mono_16_khz(kind, subtype, rate):
    left, right = tone(440, rate, 1.0), tone(1000, rate, 1.0)
    clip = decode_audio(sound_bytes(np.stack([left, right], axis=1), rate, kind, subtype), 16_000)
    assert clip.shape == (16_000,) and clip.dtype == np.float32
    assert loudest(clip, 2) == [440, 1000]
    expected = (tone(440, 16_000, 1.0) + tone(1000, 16_000, 1.0)) / 2
    inner = slice(2000, 14_000)
    assert np.std(clip[inner]) == pytest.approx(np.std(expected[inner]), rel=0.1)
    if subtype not in ("MPEG_LAYER_III", "OPUS"):  # those shift by their delay
        assert np.corrcoef(clip[inner], expected[inner])[0, 1] > 0.99


@pytest.mark.parametrize(
    ("kind", "codec", "rate"),
    [
        ("mp4", "aac", 44_100), ("adts", "aac", 48_000), ("webm", "libopus", 48_000), ("matroska", "flac", 44_100),
        ("mov", "pcm_s16le", 22_050), ("mp4", "libmp3lame", 44_100), ("matroska", "pcm_u8", 16_000),
    ],
)  # fmt: skip
def test_containers_of_sound(kind, codec, rate):
    content = video_bytes(sound=tone(440, rate, 3.0), kind=kind, sound_codec=codec, sound_rate=rate)
    clip = decode_audio(content, 16_000)
    assert loudest(clip) == [440]
    assert np.std(clip) == pytest.approx(0.5 / np.sqrt(2), rel=0.1)


def test_midi_is_heard():
    clip = decode_audio(midi_bytes(midi_notes([69], ticks=1920)), 16_000)
    assert clip.shape == (16_000,) and loudest(clip) == [440]


def test_a_short_clip_is_padded_and_a_long_one_gives_its_middle():
    short = decode_audio(sound_bytes(np.full(1000, 0.25, np.float32)), 4000)
    assert (short[:1000] == 0.25).all() and (short[1000:] == 0).all()
    ramp = np.linspace(-1, 1, 10_000, dtype=np.float32)
    np.testing.assert_array_equal(decode_audio(sound_bytes(ramp), 4000), ramp[3000:7000])


def test_sixteen_channels_at_the_highest_rate_fit_in_little_memory():
    wave = np.repeat(tone(440, 384_000, 1.0)[:, None], 16, axis=1)
    clip = decode_audio(sound_bytes(wave, 384_000, subtype="PCM_16"), 8_000)
    assert loudest(clip) == [440]


def test_an_hour_of_silence_is_silence_and_more_is_too_much():
    assert not decode_audio(silence(1, "FLAC", "PCM_16", 1_000), 16_000).any()
    with pytest.raises(MediaError, match="at most 3,600 seconds, the header declares 7,200"):
        decode_audio(silence(2, "FLAC", "PCM_16", 1_000), 16_000)


def test_broken_audio():
    with pytest.raises(MediaError, match="no samples"):
        decode_audio(sound_bytes(np.zeros(0, np.float32)), 4000)
    poisoned = tone(440, 16_000, 0.5)
    poisoned[100:103] = np.nan, np.inf, -np.inf
    with pytest.raises(MediaError, match="3 samples are NaN or infinite"):
        decode_audio(sound_bytes(poisoned), 16_000)
    with pytest.raises(MediaError, match="broken audio"):
        decode_audio(sound_bytes(tone(440, 16_000, 0.5))[:30], 16_000)
    with pytest.raises(MediaError, match="at most 2 seconds"):
        decode_audio(sound_bytes(np.zeros(48_000, np.float32)), 16_000, max_seconds=2)
    with pytest.raises(MediaError, match="sample rate"):
        decode_audio(sound_bytes(np.zeros(100, np.float32), rate=10), 16_000)
    with pytest.raises(MediaError, match="channels"):
        decode_audio(sound_bytes(np.zeros((100, 17), np.float32)), 16_000)
    with pytest.raises(MediaError, match="zero bytes"):
        decode_audio(b"", 16_000)
    with pytest.raises(MediaError, match="not audio"):
        decode_audio(image_bytes(np.zeros((8, 8, 3), np.uint8)), 16_000)
    with pytest.raises(MediaError, match="not audio"):
        decode_audio(good_files()["lossy.webp"], 16_000)  # also a RIFF
    with pytest.raises(MediaError, match="no sound"):
        decode_audio(good_files()["moving.gif"], 16_000)


def test_a_header_that_declares_four_gigabytes_gives_what_is_there():
    data = (tone(440, 16_000, 1.0) * 32_767).astype("<i2").tobytes()
    assert loudest(decode_audio(wav(data, declared=2**32 - 1), 16_000)) == [440]


def test_loud_samples_stay_finite():
    assert np.abs(decode_audio(sound_bytes(tone(440, 44_100, 0.5, 3e38), 44_100), 8_000)).max() <= 8


@settings(deadline=None, max_examples=30)
@given(st.integers(1_000, 384_000), st.integers(1, 400))
def test_every_rate_keeps_the_length_of_a_clip(rate, milliseconds):
    wave = np.full(max(1, rate * milliseconds // 1000), 0.5, np.float32)
    clip = fit_clip(wave, rate, 8_000)
    filled = np.flatnonzero(np.abs(clip) > 0.1)
    assert clip.shape == (8_000,)
    assert filled.size == pytest.approx(16 * milliseconds, abs=max(32, 32_000 // rate + 16))


HEADS = [b"", b"RIFF\x24\0\0\0WAVEfmt ", b"fLaC", b"OggS", b"ID3\x03", b"\xff\xfb\x90", b"\xff\xf1\x4c", b"FORM\0\0\1\0AIFF"]


@settings(deadline=None)
@given(st.binary(max_size=300), st.sampled_from(HEADS))
def test_any_bytes_decode_or_give_a_reason(content, head):
    try:
        decoded = decode_audio(head + content, 2048)
    except MediaError as error:
        assert str(error)
    else:
        assert np.isfinite(decoded).all()
