"""Videos become a few frames, evenly spaced, and the middle of their sound track.

Frame k of T is the one on screen at (k + ½)/T of the duration. A short clip is decoded from its start, so each frame is
exact; of a long one only the stretch from the nearest key frame is decoded, and when that stretch is longer than the work
allowed, the frame shown is the last one reached. Frames are squeezed to the square as pictures are
(`data.image_decoder.squeeze`), turned upright first.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque

import numpy as np
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.packet import Packet
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from PIL import Image

from data.bounded_file import BoundedFile
from data.container import AUDIO_CODECS, VIDEO_CODECS, open_container, packet_time, prepare, read_packets
from data.image_decoder import squeeze
from data.media import MAX_CHANNELS, MAX_FRAME_BYTES, MAX_FRAME_PIXELS, MAX_SECONDS, MediaError
from data.waveform import check_sound, fit_clip, middle

PREPROCESSING_VERSION = "video-1"
"""Enters the key of every stored video vector; raise it when the frames or the sound that are picked change."""
WORK_PIXELS = 250_000_000
"""Pixels decoded of one video: half a minute of 480p in full, or eight stretches of half a second of 1080p."""
LEAD = 6
"""Packets decoded before the sound that is wanted: codecs with overlapping windows need a run-up."""


def decode_video(content: bytes, frames: int, size: int, *, max_seconds: float = MAX_SECONDS) -> np.ndarray:
    """A video to frames evenly spaced over its duration; a still one repeats its frame.

    Args:
        content: bytes of an MP4, MOV, WebM, MKV or animated GIF.
        frames: how many, T.
        size: pixels a side.
        max_seconds: refused above this.

    Returns:
        uint8 [frames, size, size, 3], in order of time.

    Raises:
        MediaError: no such container, no frames, too large, too long, too slow, or broken data.

    Example:
        >>> decode_video(b"#EXTM3U", 8, 96)
        Traceback (most recent call last):
        data.media.MediaError: not a video: none of MP4, MOV, WebM, MKV, animated GIF; convert it to one of them
    """
    with open_container(content) as (container, file):
        _check_duration(container, max_seconds)
        pictures = [one for one in container.streams.video if not one.disposition & Disposition.attached_pic]
        if not pictures:
            raise MediaError("no frames: the file has no video stream; give it as `audio` if it is sound only")
        stream = pictures[0]
        pixels = _check_frame(stream)
        prepare(stream, VIDEO_CODECS)
        reader = _FrameReader(stream, read_packets(container, stream, file), file)
        if not reader.times:
            raise MediaError("no frames: the video stream is empty; export it again")
        if reader.duration * float(stream.time_base or 1) > max_seconds:
            raise MediaError(f"too large: at most {max_seconds:,.0f} seconds of video; cut an excerpt")
        allowance = WORK_PIXELS // max(1, pixels)
        result = np.empty((frames, size, size, 3), np.uint8)
        latest: VideoFrame | None = None
        for k in range(frames):
            frame = reader.at(reader.times[0] + (k + 0.5) / frames * reader.duration, allowance * (k + 1) // frames)
            result[k] = result[k - 1] if frame is latest else _upright_square(frame, size)
            latest = frame
        return result


def _check_duration(container: InputContainer, max_seconds: float) -> None:
    seconds = (container.duration or 0) / 1e6
    if seconds > max_seconds:
        raise MediaError(
            f"too large: at most {max_seconds:,.0f} seconds, the header declares {seconds:,.0f}; cut an excerpt"
        )


def _check_frame(stream: VideoStream) -> int:
    """Pixels of a frame, which the header declares; refused when a decoder could not hold its share of them."""
    codec = stream.codec_context
    pixels = codec.width * codec.height
    if pixels > MAX_FRAME_PIXELS:
        raise MediaError(f"too large: at most {MAX_FRAME_PIXELS:,} pixels a frame, received {pixels:,}; scale it down")
    bits = codec.format.padded_bits_per_pixel if codec.format is not None else 12
    if pixels * bits // 8 > MAX_FRAME_BYTES:
        raise MediaError(
            f"too large: at most {MAX_FRAME_BYTES:,} bytes a frame, received {pixels * bits // 8:,}; convert it to 8 bits"
        )
    return pixels


def _upright_square(frame: VideoFrame, size: int) -> np.ndarray:
    """uint8 [size, size, 3] of one frame, after the rotation that a phone writes beside its pictures."""
    square = squeeze(Image.fromarray(frame.to_ndarray(format="rgb24")), size)
    return np.rot90(np.asarray(square), frame.rotation // 90)


class _FrameReader:
    """The frame on screen at a time, asked in order of time, decoding no more than it must."""

    def __init__(self, stream: VideoStream, packets: list[Packet], file: BoundedFile) -> None:
        self.codec, self.packets, self.file = stream.codec_context, packets, file
        self.order = [packet_time(packet) or 0 for packet in packets]
        shown = [(time, i) for i, time in enumerate(self.order) if not packets[i].is_discard]
        shown.sort()
        self.times = [time for time, _ in shown]
        self.places = [place for _, place in shown]
        self.keys = [i for i, packet in enumerate(packets) if packet.is_keyframe]
        self.duration = 0.0
        if self.times:
            span = self.times[-1] - self.times[0]
            last = packets[self.places[-1]].duration or span / max(1, len(self.times) - 1) or 1
            self.duration = float(span + last)
        self.fed = 0
        """Packets up to here have gone into the decoder."""
        self.spent = 0
        """Packets decoded in all."""
        self.ahead: deque[VideoFrame] = deque()
        """Frames that came out and are later than any asked for."""
        self.frame: VideoFrame | None = None

    def at(self, time: float, allowed: int) -> VideoFrame:
        """The frame shown at `time`, or the last one reached when `allowed` packets have been decoded in all."""
        index = max(0, bisect_right(self.times, time) - 1)
        wanted, place = self.times[index], self.places[index]
        key = self.keys[max(0, bisect_right(self.keys, place) - 1)] if self.keys else 0
        if key > self.fed:
            self.codec.flush_buffers()
            self.ahead.clear()
            self.frame, self.fed = None, key
        begun = self.spent
        while not self._show(wanted) and self.fed <= len(self.packets):
            if self.spent >= allowed and self.spent > begun and (self.frame is not None or self.ahead):
                break
            self.file.check(always=True)
            packet = self.packets[self.fed] if self.fed < len(self.packets) else None  # None drains the decoder
            self.ahead.extend(self.codec.decode(packet))
            self.fed += 1
            self.spent += 1
        if self.frame is None:
            if not self.ahead:
                raise MediaError("broken video: no frame could be decoded; export it again from the original")
            self.frame = self.ahead.popleft()
        return self.frame

    def _show(self, wanted: int) -> bool:
        """Move on to the last frame not after `wanted`; True once no later packet can bring a better one."""
        while self.ahead and (self.ahead[0].pts is None or self.ahead[0].pts <= wanted):
            self.frame = self.ahead.popleft()
        return bool(self.ahead) or (self.frame is not None and self.frame.pts == wanted)


def decode_sound_track(content: bytes, samples: int, *, max_seconds: float = MAX_SECONDS) -> np.ndarray:
    """The middle of a video's (or an M4A's) sound to mono 16 kHz of fixed length, as `decode_audio` gives it.

    Args:
        content: bytes of an MP4, MOV, M4A, WebM, MKV or AAC.
        samples: length of the result, in samples at 16 kHz.
        max_seconds: refused above this.

    Returns:
        float32 [samples].

    Raises:
        MediaError: no such container, no sound track, too long, too slow, or broken data.
    """
    with open_container(content) as (container, file):
        _check_duration(container, max_seconds)
        if not container.streams.audio:
            raise MediaError("no sound: the file has no sound track; leave `audio` empty or give a sound file")
        stream = container.streams.audio[0]
        prepare(stream, AUDIO_CODECS)
        packets = read_packets(container, stream, file)
        if not packets:
            raise MediaError("empty: the sound track has no samples; export it again")
        times = [packet_time(packet) or 0 for packet in packets]
        unit = float(stream.time_base or 1)
        seconds = (times[-1] + (packets[-1].duration or 0) - times[0]) * unit
        check_sound(stream.codec_context.sample_rate, stream.codec_context.layout.nb_channels, seconds, max_seconds)
        return _middle_sound(stream, packets, times, samples, file)


def _middle_sound(
    stream: AudioStream, packets: list[Packet], times: list[int], samples: int, file: BoundedFile
) -> np.ndarray:
    """float32 [samples]: from `LEAD` packets before the excerpt to its end is decoded, the rest is not."""
    unit, rate = float(stream.time_base or 1), stream.codec_context.sample_rate
    length = round((times[-1] + (packets[-1].duration or 0) - times[0]) * unit * rate)
    start, needed = middle(max(length, 1), rate, samples)
    begin = times[0] + start / rate / unit
    place = max(0, bisect_right(times, begin) - 1 - LEAD)
    mixer = AudioResampler(format="flt")
    parts: list[np.ndarray] = []
    skip = decoded = 0
    for packet in [*packets[place:], None]:
        file.check(always=True)
        for frame in stream.codec_context.decode(packet):
            if not parts:  # some decoders know the rate only now
                needed, rate = round(needed * frame.sample_rate / rate), frame.sample_rate
                first = times[place] if frame.pts is None else frame.pts
                skip = max(0, round((begin - first) * unit * rate))
            if frame.sample_rate != rate:
                raise MediaError("broken audio: the sample rate changes inside the track; export it again")
            parts.append(_mono(frame, mixer))
            decoded += frame.samples
        if parts and decoded >= skip + needed:
            break
    wave = np.concatenate(parts)[skip : skip + needed] if parts else np.zeros(0, np.float32)
    return fit_clip(wave, rate, samples)


def _mono(frame: AudioFrame, mixer: AudioResampler) -> np.ndarray:
    """float32 [length]: the channels of one frame averaged.

    They are interleaved by FFmpeg first: PyAV walks over the planes of a frame until it finds an empty one, and behind
    eight channels or more there is none.
    """
    channels = frame.layout.nb_channels
    if channels > MAX_CHANNELS:
        raise MediaError(f"too large: at most {MAX_CHANNELS} channels, received {channels}; mix it down to stereo")
    with np.errstate(over="ignore", invalid="ignore"):  # infinities of either sign are found afterwards
        waves = [one.to_ndarray().reshape(-1, channels).mean(axis=1) for one in mixer.resample(frame)]
    return np.concatenate(waves) if waves else np.zeros(0, np.float32)
