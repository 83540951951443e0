"""Small good media files, made on the spot: a picture, a tone and a clip in every format that is read."""

from __future__ import annotations

import io
import struct
from concurrent.futures import ThreadPoolExecutor

import av
import numpy as np
import soundfile
from PIL import Image


def image_bytes(picture, kind="PNG", **options):
    """A picture, or an array of its pixels, encoded by Pillow."""
    buffer = io.BytesIO()
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def tone(frequency, rate, seconds, loudness=0.5):
    """float32 [rate · seconds]: a sine."""
    return np.sin(2 * np.pi * frequency * np.arange(int(rate * seconds)) / rate).astype(np.float32) * loudness


def sound_bytes(wave, rate=16_000, kind="WAV", subtype="FLOAT"):
    """A wave [length] or [length, channels] encoded by libsndfile."""
    buffer = io.BytesIO()
    soundfile.write(buffer, wave, rate, format=kind, subtype=subtype)
    return buffer.getvalue()


def video_bytes(
    pictures=None, kind="mp4", codec="libx264", rate=8, *, sound=None, sound_codec="aac", sound_rate=48_000,
    layout="mono", **options,
):  # fmt: skip
    """Pictures uint8 [T, height, width, 3] and a wave [length] or [length, channels], encoded by FFmpeg; or one of them."""
    made = (pictures, kind, codec, rate, sound, sound_codec, sound_rate, layout, options)
    # SVT-AV1 gives the thread that calls it, and all that this starts later, the highest real-time priority: it gets its own.
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(_encode, *made).result()


def _encode(pictures, kind, codec, rate, sound, sound_codec, sound_rate, layout, options):
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=kind) as container:
        streams = []
        if pictures is not None:
            stream = container.add_stream(codec, rate=rate, options=options)
            stream.height, stream.width = pictures.shape[1:3]
            stream.pix_fmt = "yuv420p"
            stream.thread_count = 1
            streams.append((stream, [av.VideoFrame.from_ndarray(one, format="rgb24") for one in pictures]))
        if sound is not None:
            stream = container.add_stream(sound_codec, rate=sound_rate, layout=layout)
            frame = av.AudioFrame.from_ndarray(sound.astype(np.float32).reshape(1, -1), format="flt", layout=layout)
            frame.sample_rate, frame.pts = sound_rate, 0
            streams.append((stream, [frame]))
        for stream, frames in streams:
            for frame in [*frames, None]:
                container.mux(stream.encode(frame))
    return buffer.getvalue()


def colour_steps(count=8, height=48, width=64):
    """uint8 [count, height, width, 3]: frame k is of one colour, redder and less blue with k."""
    steps = np.linspace(20, 230, count).astype(np.uint8)
    pictures = np.empty((count, height, width, 3), np.uint8)
    pictures[..., 0], pictures[..., 1], pictures[..., 2] = steps[:, None, None], 90, 250 - steps[:, None, None]
    return pictures


def length_code(number):
    """A MIDI delta time: seven bits a byte, the upper bit set on all but the last."""
    code = bytes([number & 0x7F])
    while number := number >> 7:
        code = bytes([number & 0x7F | 0x80]) + code
    return code


def midi_bytes(*tracks, division=480, kind=1):
    """A MIDI file of tracks given as lists of (delta ticks, event bytes)."""
    content = b"MThd" + struct.pack(">IHHH", 6, kind, len(tracks), division & 0xFFFF)
    for track in tracks:
        body = b"".join(length_code(delta) + event for delta, event in [*track, (0, b"\xff\x2f\x00")])
        content += b"MTrk" + struct.pack(">I", len(body)) + body
    return content


def midi_notes(pitches, ticks=480, channel=0, velocity=100):
    """A track that plays the pitches one after another."""
    track = []
    for pitch in pitches:
        track += [(0, bytes([0x90 | channel, pitch, velocity])), (ticks, bytes([0x80 | channel, pitch, 0]))]
    return track


def midi_tempo(microseconds):
    """The event that sets the microseconds of a beat."""
    return b"\xff\x51\x03" + microseconds.to_bytes(3, "big")
