"""Scores of the generated worlds: the notes of a short piece, and the same notes as a MIDI file."""

from __future__ import annotations

import dataclasses
import struct

import numpy as np

STYLES = ("plucked guitar", "flute", "choir", "bowed strings", "synthesizer", "distorted guitar")
"""The sound styles: who plays the lead. Key, register, scale, melody, tempo, texture, touch and backing are free in all."""
PROGRAMS = (24, 73, 52, 40, 81, 30)
"""General MIDI program (from 0) of each style's lead."""
DRONE, DRUMS = 39, -1
"""Program of the backing's low notes, and what stands for the percussion channel."""
KICK, SNARE, CLOSED_HAT, SHAKER = 36, 38, 42, 70
"""General MIDI percussion keys."""
TICKS = 960
"""Ticks a second: 480 a quarter note at 120 beats a minute."""
SECONDS = 3
_SCALES = ((0, 2, 4, 7, 9), (0, 3, 5, 7, 10), (0, 2, 3, 5, 7, 8), (0, 2, 4, 5, 7, 9, 11))
_LOWEST, _REGISTERS = 33, 48
"""The lowest root, and how many semitones above it a root may lie: what a band of the spectrum holds tells little."""


@dataclasses.dataclass(frozen=True)
class Note:
    """One note.

    Attributes:
        start, length: in ticks.
        pitch: MIDI key. velocity: 1 to 127.
        program: General MIDI program from 0, or `DRUMS`.
    """

    start: int
    length: int
    pitch: int
    velocity: int
    program: int


def compose(style: int, rng: np.random.Generator) -> list[Note]:
    """The notes of one piece of three seconds, in the order of their starts.

    Args:
        style: index in `STYLES`; it chooses the lead and nothing else.
        rng: chooses all that is free.

    Example:
        >>> notes = compose(0, np.random.default_rng(0))
        >>> {note.program for note in notes} <= {24, 39, -1}
        True
    """
    if not 0 <= style < len(STYLES):
        raise ValueError(f"style: must be in 0..{len(STYLES) - 1}, received {style}; see STYLES")
    scale = _SCALES[int(rng.integers(len(_SCALES)))]
    root = _LOWEST + int(rng.integers(_REGISTERS))
    beat = 60 / rng.uniform(70, 160)
    step = beat * (0.25, 0.5, 0.5, 1.0, 1.5)[int(rng.integers(5))]
    touch = rng.uniform(0.35, 1.3)
    chords = rng.random() < 0.4
    motif = np.clip(np.cumsum(rng.choice([-2, -1, 1, 1, 2], 6)) + 3, 0, 7)
    notes: list[Note] = []
    for index in range(int(np.ceil(SECONDS / step))):
        degree = int(motif[index % len(motif)])
        if index and rng.random() < 0.15:
            continue
        places = (degree, degree + 2, degree + 4) if chords and index % 2 == 0 else (degree,)
        loud = rng.uniform(70, 90) + (18 if index % 4 == 0 else 0)
        length = step * touch * (2 if chords and index % 2 == 0 else 1)
        for place in places:
            pitch = root + scale[place % len(scale)] + 12 * (place // len(scale))
            notes.append(_note(index * step, length, pitch, loud / len(places) ** 0.4, PROGRAMS[style]))
    notes += _backing(beat, root, rng)
    return _without_overlaps([note for note in notes if note.start < TICKS * SECONDS])


def midi_bytes(notes: list[Note]) -> bytes:
    """The notes as a Standard MIDI File of format 0: one track, 120 beats a minute, one channel a program.

    Args:
        notes: of at most 15 programs besides `DRUMS`, which go to channel 10.

    Returns:
        The file's bytes, the same for the same notes.
    """
    programs = sorted({note.program for note in notes} - {DRUMS})
    channels = {program: channel for program, channel in zip(programs, [*range(9), *range(10, 16)], strict=False)}
    if len(channels) < len(programs):
        raise ValueError(f"notes: must use at most 15 programs, received {len(programs)}; merge some")
    # At one tick, notes end before others begin, so that a repeated pitch is not cut short.
    events: list[tuple[int, int, bytes]] = [
        (0, 0, bytes([0xC0 | channel, program])) for program, channel in channels.items()
    ]
    for note in notes:
        channel = 9 if note.program == DRUMS else channels[note.program]
        events.append((note.start, 2, bytes([0x90 | channel, note.pitch, note.velocity])))
        events.append((note.start + note.length, 1, bytes([0x80 | channel, note.pitch, 0])))
    track, now = b"\x00\xff\x51\x03" + (500_000).to_bytes(3, "big"), 0
    for tick, _, message in sorted(events):
        track += _variable_length(tick - now) + message
        now = tick
    track += b"\x00\xff\x2f\x00"
    return struct.pack(">4sIHHH", b"MThd", 6, 0, 1, TICKS // 2) + struct.pack(">4sI", b"MTrk", len(track)) + track


def _without_overlaps(notes: list[Note]) -> list[Note]:
    """In order of their starts; a key that is struck again ends its first note, as MIDI cannot tell the two apart."""
    kept: list[Note] = []
    following: dict[tuple[int, int], int] = {}
    for note in sorted(notes, key=dataclasses.astuple, reverse=True):
        struck = following.get((note.program, note.pitch), note.start + note.length)
        following[note.program, note.pitch] = note.start
        if struck > note.start:
            kept.append(dataclasses.replace(note, length=min(note.length, struck - note.start)))
    return sorted(kept, key=dataclasses.astuple)


def _note(start: float, seconds: float, pitch: int, velocity: float, program: int) -> Note:
    return Note(
        round(start * TICKS), max(40, round(seconds * TICKS)), pitch, int(np.clip(round(velocity), 1, 127)), program
    )


def _beat(beat: float, rng: np.random.Generator) -> list[Note]:
    """Four to the floor: kick on the beat, hats between, a snare on every other beat."""
    notes = []
    swing, snare = rng.uniform(0, 0.12), rng.random() < 0.6
    for index in range(int(np.ceil(SECONDS / beat))):
        notes.append(_note(index * beat, 0.1, KICK, rng.uniform(95, 120), DRUMS))
        notes.append(_note((index + 0.5 + swing) * beat, 0.05, CLOSED_HAT, rng.uniform(60, 90), DRUMS))
        if rng.random() < 0.6:
            notes.append(_note((index + 0.25) * beat, 0.05, CLOSED_HAT, rng.uniform(40, 60), DRUMS))
        if snare and index % 2:
            notes.append(_note(index * beat, 0.1, SNARE, rng.uniform(70, 100), DRUMS))
    return notes


def _backing(beat: float, root: int, rng: np.random.Generator) -> list[Note]:
    """Company that tells no style: mostly drums, with or without a bass; else a shaker, a drone, thumps, or nobody."""
    beats, bass = int(np.ceil(SECONDS / beat)), 28 + root % 12
    if rng.random() < 0.8:
        gain, low = rng.uniform(0.6, 1.1), bass + int(rng.choice([0, 0, 5, 7]))
        notes = [dataclasses.replace(note, velocity=min(127, int(gain * note.velocity))) for note in _beat(beat, rng)]
        if rng.random() < 0.5:
            notes += [_note(i * beat, 0.8 * beat, low, gain * rng.uniform(60, 100), DRONE) for i in range(beats)]
        return notes
    kind = int(rng.integers(4))
    if kind == 1:
        return [_note(i * beat / 2, 0.05, SHAKER, rng.uniform(40, 80), DRUMS) for i in range(2 * beats)]
    if kind == 2:
        return [_note(i * 2 * beat, 2 * beat, bass, rng.uniform(50, 80), DRONE) for i in range((beats + 1) // 2)]
    if kind == 3:
        return [_note(i * beat, 0.1, KICK, rng.uniform(50, 80), DRUMS) for i in range(0, beats, 2)]
    return []


def _variable_length(value: int) -> bytes:
    """Seven bits a byte, the highest first; all but the last have the top bit set."""
    groups = [value & 0x7F]
    while value := value >> 7:
        groups.append(0x80 | value & 0x7F)
    return bytes(reversed(groups))
