"""Sound files of any rate, channel count and common format become one mono clip of fixed length at 16 kHz."""

from __future__ import annotations

import numpy as np
import soundfile

from data import midi_decoder, video_decoder
from data.bounded_file import BoundedFile
from data.container import container_format
from data.media import MAX_SECONDS, SAMPLE_RATE, MediaError, broken
from data.midi_decoder import synthesize_midi
from data.video_decoder import decode_sound_track
from data.waveform import check_sound, fit_clip, middle

PREPROCESSING_VERSION = f"audio-2 {midi_decoder.PREPROCESSING_VERSION} {video_decoder.PREPROCESSING_VERSION}"
"""Enters the key of every stored sound vector; raise its first part when decoded samples change."""
AUDIO_FORMATS = frozenset({"WAV", "WAVEX", "RF64", "AIFF", "FLAC", "OGG", "MP3"})
FIRST_BYTES = (b"fLaC", b"OggS", b"ID3")
CHUNKED = {b"RIFF": (b"WAVE",), b"RIFX": (b"WAVE",), b"RF64": (b"WAVE",), b"FORM": (b"AIFF", b"AIFC")}
"""Families of formats whose ninth byte begins the name of the member."""
BLOCK = 65_536
"""Frames read at once, so that sixteen channels at a high rate never stand in memory together."""


def decode_audio(content: bytes, samples: int, *, max_seconds: float = MAX_SECONDS) -> np.ndarray:
    """An encoded clip to mono 16 kHz of fixed length.

    Of a longer clip the middle is taken (and only that is decoded), a shorter one is padded with zeros at its end.
    Resampling is polyphase (Kaiser window), channels are averaged. The content decides what is read:

    - WAV, AIFF, FLAC, OGG (Vorbis, Opus) and MP3 by libsndfile;
    - MIDI is synthesised (`data.midi_decoder`);
    - M4A, AAC, and the sound of MP4, MOV, WebM and MKV by FFmpeg (`data.video_decoder.decode_sound_track`).

    Args:
        content: the file's bytes.
        samples: length of the result, in samples at 16 kHz.
        max_seconds: refused above this, judged by the header.

    Returns:
        float32 [samples], within about -1..1.

    Raises:
        MediaError: unknown format, no samples, non-finite samples, or broken data.

    Example:
        >>> import io
        >>> buffer = io.BytesIO()
        >>> soundfile.write(buffer, np.full((44_100, 2), 0.25), 44_100, format="FLAC")
        >>> decode_audio(buffer.getvalue(), 8_000).shape
        (8000,)
    """
    if not content:
        raise MediaError("empty: the file has zero bytes; upload it again")
    if content[:4] == b"MThd":
        return fit_clip(synthesize_midi(content, samples, max_seconds=max_seconds), SAMPLE_RATE, samples)
    if container_format(content):
        return decode_sound_track(content, samples, max_seconds=max_seconds)
    if not _is_sound(content):
        raise MediaError("not audio: none of WAV, AIFF, FLAC, OGG, MP3, M4A, MIDI; convert it to one of them")
    file = BoundedFile(content)
    try:
        with soundfile.SoundFile(file) as sound:
            wave, rate = _middle_wave(sound, samples, max_seconds), sound.samplerate
        file.check()
        return fit_clip(wave, rate, samples)
    except MediaError:
        raise
    except Exception as error:  # a hostile file may raise anything inside the decoder; the reason keeps its name
        file.check()
        raise broken("audio", error, "export it again from the original") from error


def _is_sound(content: bytes) -> bool:
    """Whether the first bytes are those of a format that libsndfile shall read; eleven set bits start a frame of MP3."""
    if content[8:12] in CHUNKED.get(content[:4], ()) or content.startswith(FIRST_BYTES):
        return True
    return len(content) > 1 and content[0] == 0xFF and content[1] & 0xE0 == 0xE0


def _middle_wave(file: soundfile.SoundFile, samples: int, max_seconds: float) -> np.ndarray:
    """float32 [length], the channels averaged, at the file's own rate."""
    if file.format not in AUDIO_FORMATS:
        raise MediaError(f"not audio: format must be among {sorted(AUDIO_FORMATS)}, received {file.format}; convert it")
    check_sound(file.samplerate, file.channels, file.frames / max(1, file.samplerate), max_seconds)
    start, needed = middle(max(0, file.frames), file.samplerate, samples)
    file.seek(start)
    parts = []
    while needed > 0:
        block = file.read(min(BLOCK, needed), dtype="float32", always_2d=True)
        if not len(block):
            break
        with np.errstate(over="ignore", invalid="ignore"):  # infinities of either sign are found afterwards
            parts.append(block.mean(axis=1))
        needed -= len(block)
    return np.concatenate(parts) if parts else np.zeros(0, np.float32)
