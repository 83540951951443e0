"""MIDI: pitch, time, loudness and drums come out as they are written; pieces without end or sense give a reason."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.media import MediaError
from data.midi_decoder import RELEASE, TIMBRES, synthesize_midi
from tests.data.media_files import midi_bytes, midi_notes, midi_tempo


def loudest(wave):
    """The strongest frequency in Hz."""
    return np.argmax(np.abs(np.fft.rfft(wave * np.hanning(len(wave)), 160_000))) / 10


@pytest.mark.parametrize(("pitch", "frequency"), [(69, 440.0), (57, 220.0), (60, 261.626), (81, 880.0), (33, 55.0)])
@pytest.mark.parametrize("program", [0, 19, 40, 56, 73, 89])
def test_a_note_sounds_at_its_frequency(pitch, frequency, program):
    track = [(0, bytes([0xC0, program])), *midi_notes([pitch], ticks=960)]
    assert loudest(synthesize_midi(midi_bytes(track))) == pytest.approx(frequency, abs=1.0)


def test_families_of_instruments_sound_apart():
    tracks = [[(0, bytes([0xC0, 8 * family])), *midi_notes([69], ticks=960)] for family in range(len(TIMBRES))]
    spectra = np.stack([np.abs(np.fft.rfft(synthesize_midi(midi_bytes(track)))) for track in tracks])
    spectra /= np.linalg.norm(spectra, axis=1, keepdims=True)
    likeness = spectra @ spectra.T - np.eye(len(spectra))
    assert likeness.max() < 0.9999 and likeness.min() < 0.9


def test_time_follows_the_tempo():
    for microseconds in (250_000, 500_000, 1_000_000):
        wave = synthesize_midi(midi_bytes([(0, midi_tempo(microseconds))], midi_notes([69] * 4)))
        assert len(wave) / 16_000 == pytest.approx(4 * microseconds / 1e6 + RELEASE, abs=1e-3)
    middle = [*midi_notes([69, 71]), (0, midi_tempo(1_000_000)), *midi_notes([69, 71])]
    assert len(synthesize_midi(midi_bytes(middle))) / 16_000 == pytest.approx(1 + 2 + RELEASE, abs=1e-3)


def test_frames_a_second_count_like_ticks():
    wave = synthesize_midi(midi_bytes(midi_notes([69], ticks=2000), division=-25 * 256 + 40))
    assert len(wave) / 16_000 == pytest.approx(2 + RELEASE, abs=1e-3)  # 25 frames of 40 ticks a second


def test_notes_follow_one_another_and_rests_are_still():
    track = [*midi_notes([69]), (480, b"\xb0\x01\x00"), *midi_notes([81])]
    wave = synthesize_midi(midi_bytes(track))
    assert loudest(wave[:8_000]) == pytest.approx(440, abs=2)
    assert np.abs(wave[8_800:16_000]).max() == 0  # the first has faded, the second has not begun
    assert loudest(wave[16_000:24_000]) == pytest.approx(880, abs=2)


def test_velocity_and_volume_are_loudness():
    loud, soft = (synthesize_midi(midi_bytes(midi_notes([69], velocity=velocity))) for velocity in (100, 50))
    np.testing.assert_allclose(soft, loud / 2, atol=1e-6)
    quiet = synthesize_midi(midi_bytes([(0, b"\xb0\x07\x32"), *midi_notes([69])]))  # volume 50 instead of 100
    np.testing.assert_allclose(quiet, loud / 2, atol=1e-6)


def test_drums_are_noise_and_thumps():
    def flatness(wave):
        power = np.abs(np.fft.rfft(wave[:4_000])) ** 2 + 1e-12
        return np.exp(np.log(power).mean()) / power.mean()

    drum, note = (synthesize_midi(midi_bytes(midi_notes([38], channel=channel))) for channel in (9, 0))
    assert flatness(drum) > 100 * flatness(note)
    assert loudest(synthesize_midi(midi_bytes(midi_notes([36], channel=9)))) < 120


def test_the_middle_is_a_piece_of_the_whole():
    content = midi_bytes(midi_notes([60, 64, 67, 72, 76, 79], velocity=40))
    whole = synthesize_midi(content)
    start = (len(whole) - 8_000) // 2
    np.testing.assert_allclose(synthesize_midi(content, 8_000), whole[start : start + 8_000], atol=2e-3)


def test_silence_before_the_first_note_is_left_out_and_loud_mixes_are_scaled():
    late = synthesize_midi(midi_bytes([(48_000, b"\x90\x45\x64"), (480, b"\x80\x45\x00")]))
    np.testing.assert_allclose(late, synthesize_midi(midi_bytes(midi_notes([69]))), atol=1e-6)
    chord = synthesize_midi(midi_bytes(*[midi_notes([pitch], velocity=127) for pitch in range(40, 80)]))
    assert np.abs(chord).max() == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (midi_bytes([]), "no notes"),
        (midi_bytes([(0, midi_tempo(0))], midi_notes([69])), "tempo of 0"),
        (midi_bytes(midi_notes([69]), division=0), "0 ticks a beat"),
        (midi_bytes(midi_notes([69], ticks=480 * 10_000)), "at most 3,600 seconds, the notes last 5,000"),
        (midi_bytes([(0, b"\x90\x3c\x40" + b"\x01\x3c\x40" * 200_000)]), "524,288 bytes"),
        (midi_bytes([(0, b"\x90\x3c\x40" + b"\x01\x3c\x40\x01\x3c\x00" * 40_000)]), "at most 30,000 notes"),
        (midi_bytes([(0, b"\x90\x3c\x40" + b"\x00\x3c\x40" * 2_000), (480_000, b"\x80\x3c\x00")]), "sound at once"),
        (midi_bytes(midi_notes([69]))[:-9], "broken MIDI"),
    ],
)
def test_reasons(content, reason):
    with pytest.raises(MediaError, match=reason):
        synthesize_midi(content, 480_000)


@settings(deadline=None, max_examples=60)
@given(st.binary(max_size=200), st.integers(0, 65_535))
def test_any_events_sound_or_give_a_reason(body, division):
    content = midi_bytes([(0, body)], division=division)
    try:
        wave = synthesize_midi(content, 4_000)
    except MediaError as error:
        assert str(error)
    else:
        assert np.isfinite(wave).all() and np.abs(wave).max(initial=0) <= 1 and len(wave) <= 4_000
