"""MIDI files become sound: notes by additive synthesis, drums by shaped noise, in time with every change of tempo.

A note of pitch p sounds at 440 · 2^((p − 69) / 12) Hz as one cycle of harmonics h of strength h^−brightness, read at that
rate, under an envelope: a linear attack, an exponential decay, a linear release. The sixteen families of General MIDI
each have their own brightness and envelope. Volume (controller 7) and velocity are honoured; bends, pedals and
effects are not.
"""

from __future__ import annotations

import io
import math
from collections import defaultdict
from functools import cache
from typing import NamedTuple

import mido
import numpy as np

from data.media import MAX_SECONDS, SAMPLE_RATE, MediaError, broken
from data.waveform import middle

PREPROCESSING_VERSION = "midi-1"
"""Enters the key of every stored sound vector; raise it when the synthesis changes."""
MAX_MIDI_BYTES = 512 * 1024
MAX_NOTES = 30_000
MAX_VOICE_SAMPLES = 60_000_000
"""Sum of the lengths of all voices inside the excerpt: about 120 at once over half a minute."""
DRUM_CHANNEL = 9
RELEASE = 0.05
"""Seconds a note needs to fall silent after its end."""
DRUM_SECONDS = 0.4
"""A drum rings out, however short its note."""
LOUDNESS = 0.25
"""Amplitude of one voice at full velocity; a mix louder than 1 is scaled down as a whole."""
CYCLE = 2048
"""Samples of the stored cycle of a timbre."""


class Timbre(NamedTuple):
    """Sound of one family of instruments: exponent of the harmonics; seconds of attack and of decay to 1/e."""

    brightness: float
    attack: float
    decay: float


TIMBRES = (
    Timbre(1.6, 0.005, 0.9),  # piano
    Timbre(2.2, 0.002, 0.4),  # chromatic percussion
    Timbre(0.9, 0.020, math.inf),  # organ
    Timbre(1.3, 0.004, 0.6),  # guitar
    Timbre(2.0, 0.008, 0.7),  # bass
    Timbre(1.1, 0.080, math.inf),  # strings
    Timbre(1.3, 0.120, math.inf),  # ensemble
    Timbre(0.8, 0.040, math.inf),  # brass
    Timbre(1.0, 0.030, math.inf),  # reed
    Timbre(2.5, 0.050, math.inf),  # pipe
    Timbre(0.7, 0.010, math.inf),  # synth lead
    Timbre(1.5, 0.250, math.inf),  # synth pad
    Timbre(1.2, 0.150, 2.0),  # synth effects
    Timbre(1.0, 0.003, 0.5),  # ethnic
    Timbre(1.8, 0.001, 0.2),  # percussive
    Timbre(0.5, 0.050, 1.0),  # sound effects
)


class Note(NamedTuple):
    """One sounding note: seconds, MIDI pitch 0 to 127, strength 0 to 1, program 0 to 127 (−1 is a drum)."""

    start: float
    end: float
    pitch: int
    strength: float
    program: int


def synthesize_midi(content: bytes, samples: int | None = None, *, max_seconds: float = MAX_SECONDS) -> np.ndarray:
    """A MIDI file as a mono wave at 16 kHz.

    Args:
        content: the file's bytes.
        samples: only the middle of the piece, this long, is synthesised; None gives all of it.
        max_seconds: longest piece that is accepted.

    Returns:
        float32 [at most samples], from the first note to the end of the last, within -1..1.

    Raises:
        MediaError: broken data, no notes, or too many bytes, notes, voices or seconds.

    Example:
        >>> beat = [mido.Message("note_on", note=69), mido.Message("note_off", note=69, time=480)]
        >>> piece = mido.MidiFile(tracks=[mido.MidiTrack(beat)])
        >>> buffer = io.BytesIO()
        >>> piece.save(file=buffer)
        >>> synthesize_midi(buffer.getvalue()).shape  # one beat at 120 a minute, and its release
        (8800,)
    """
    if len(content) > MAX_MIDI_BYTES:
        raise MediaError(f"too large: a MIDI file may have {MAX_MIDI_BYTES:,} bytes, received {len(content):,}; shorten it")
    try:
        notes = _notes(mido.MidiFile(file=io.BytesIO(content), clip=True))
    except MediaError:
        raise
    except Exception as error:  # a hostile file may raise anything inside the parser; the reason keeps its name
        raise broken("MIDI", error, "export it again from its editor") from error
    first = min(note.start for note in notes)
    seconds = max(note.end for note in notes) + RELEASE - first
    if seconds > max_seconds:
        raise MediaError(f"too large: at most {max_seconds:,.0f} seconds, the notes last {seconds:,.0f}; cut an excerpt")
    length = round(seconds * SAMPLE_RATE)
    start, count = middle(length, SAMPLE_RATE, length if samples is None else samples)
    wave = _mix(notes, first + start / SAMPLE_RATE, count)
    peak = float(np.abs(wave).max(initial=0.0))
    return (wave / max(1.0, peak)).astype(np.float32)


def _notes(piece: mido.MidiFile) -> list[Note]:
    """Every note of every track, in seconds."""
    events: list[tuple[int, mido.Message]] = []
    for track in piece.tracks:
        tick = 0
        for message in track:
            tick += message.time
            if message.type in ("note_on", "note_off", "program_change", "control_change", "set_tempo"):
                events.append((tick, message))
    events.sort(key=lambda event: event[0])
    clock = _Clock(piece.ticks_per_beat)
    programs, volumes = [0] * 16, [100] * 16
    open_notes: defaultdict[tuple[int, int], list[tuple[float, float, int]]] = defaultdict(list)
    notes: list[Note] = []
    now = 0.0
    for tick, message in events:
        now = clock.seconds(tick)
        kind = message.type
        if kind == "set_tempo":
            clock.change(tick, message.tempo)
        elif kind == "program_change":
            programs[message.channel] = message.program
        elif kind == "control_change":
            if message.control == 7:
                volumes[message.channel] = message.value
        elif kind == "note_on" and message.velocity:
            program = -1 if message.channel == DRUM_CHANNEL else programs[message.channel]
            strength = message.velocity / 127 * volumes[message.channel] / 127
            open_notes[message.channel, message.note].append((now, strength, program))
        elif open_notes[message.channel, message.note]:
            begin, strength, program = open_notes[message.channel, message.note].pop(0)
            notes.append(Note(begin, now, message.note, strength, program))
        if len(notes) > MAX_NOTES:
            raise MediaError(f"too large: at most {MAX_NOTES:,} notes in a MIDI file; cut an excerpt")
    for (_, pitch), hanging in open_notes.items():
        notes.extend(Note(begin, max(now, begin), pitch, strength, program) for begin, strength, program in hanging)
    if not notes:
        raise MediaError("empty: the MIDI file has no notes; export it with its tracks")
    if len(notes) > MAX_NOTES:
        raise MediaError(f"too large: at most {MAX_NOTES:,} notes in a MIDI file, received {len(notes):,}; cut an excerpt")
    return notes


class _Clock:
    """Ticks to seconds under changing tempo; asked in order of ticks."""

    def __init__(self, division: int) -> None:
        self.tick, self.elapsed = 0, 0.0
        self.division = division
        if division < 0:  # SMPTE: minus frames a second in the upper byte, ticks a frame in the lower
            self.scale = 1.0 / max(1, -(division >> 8) * (division & 0xFF))
        elif division == 0:
            raise MediaError("broken MIDI: the header declares 0 ticks a beat; export it again from its editor")
        else:
            self.scale = 0.5 / division  # 120 beats a minute until a tempo says otherwise

    def seconds(self, tick: int) -> float:
        return self.elapsed + (tick - self.tick) * self.scale

    def change(self, tick: int, microseconds: int) -> None:
        if microseconds < 1:
            raise MediaError("broken MIDI: a tempo of 0 microseconds a beat; export it again from its editor")
        if self.division > 0:
            self.tick, self.elapsed = tick, self.seconds(tick)
            self.scale = microseconds / 1e6 / self.division


def _mix(notes: list[Note], begin: float, count: int) -> np.ndarray:
    """float64 [count]: every voice that sounds within `count` samples after second `begin`."""
    wave = np.zeros(count)
    work = 0
    for note in notes:
        onset = round((note.start - begin) * SAMPLE_RATE)
        length = max(note.end - note.start + RELEASE, DRUM_SECONDS if note.program < 0 else 0.0)
        last = min(count, onset + math.ceil(length * SAMPLE_RATE))
        first = max(0, onset)
        if first >= last:
            continue
        work += last - first
        if work > MAX_VOICE_SAMPLES:
            raise MediaError("too large: too many notes sound at once for this MIDI file; thin its tracks out")
        age = np.arange(first - onset, last - onset) / SAMPLE_RATE
        wave[first:last] += LOUDNESS * note.strength * (_drum(note, age) if note.program < 0 else _voice(note, age))
    return wave


def _voice(note: Note, age: np.ndarray) -> np.ndarray:
    """float64 [length]: a pitched note at the given ages in seconds."""
    timbre = TIMBRES[note.program // 8]
    frequency = 440.0 * 2.0 ** ((note.pitch - 69) / 12)
    position = (age * (frequency * CYCLE)).astype(np.int64) & (CYCLE - 1)
    envelope = np.minimum(1.0, age / timbre.attack) * np.clip((note.end - note.start - age) / RELEASE + 1, 0, 1)
    if timbre.decay < math.inf:
        envelope *= np.exp(age / -timbre.decay)
    return _cycle(note.program // 8, note.pitch)[position] * envelope


@cache
def _cycle(family: int, pitch: int) -> np.ndarray:
    """float64 [CYCLE]: one period with every harmonic below 0.95 of half the sample rate, at peak 1."""
    frequency = 440.0 * 2.0 ** ((pitch - 69) / 12)
    harmonics = np.arange(1, min(24, int(0.475 * SAMPLE_RATE / frequency)) + 1)
    phase = 2 * np.pi * np.arange(CYCLE)[:, None] / CYCLE
    cycle = (np.sin(phase * harmonics) * harmonics ** -TIMBRES[family].brightness).sum(axis=1)
    return cycle / max(1.0, np.abs(cycle).max())


def _drum(note: Note, age: np.ndarray) -> np.ndarray:
    """float64 [length]: a falling thump for kicks and toms, noise for snares, brighter and longer noise for metal."""
    noise = _noise()[np.minimum((age * SAMPLE_RATE).astype(np.int64), SAMPLE_RATE - 1)]
    if note.pitch in (35, 36, 41, 43, 45, 47, 48, 50):
        fall = np.exp(-age / 0.05)
        tone = np.sin(2 * np.pi * (50 + 2.5 * (note.pitch - 35)) * (age + 0.05 * (1 - fall)))
        return tone * np.exp(-age / 0.12)
    if note.pitch in (42, 44, 46, 49, 51, 52, 53, 55, 57, 59):
        return np.diff(noise, prepend=0.0) / 2 * np.exp(-age / (0.03 if note.pitch in (42, 44) else 0.3))
    return noise * np.exp(-age / 0.08)


@cache
def _noise() -> np.ndarray:
    """float64 [SAMPLE_RATE]: one second of the same white noise for every drum."""
    return np.random.default_rng(0).uniform(-1.0, 1.0, SAMPLE_RATE)
