"""Videos: frame k of the colour of its time, the tone of the sound track, and no way to make FFmpeg hang or reach out."""

import os
import struct

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from data import video_decoder
from data.bounded_file import MAX_CALLS, BoundedFile
from data.container import container_format
from data.media import MediaError
from data.video_decoder import decode_sound_track, decode_video
from tests.data.hostile_files import box, good_files
from tests.data.media_files import colour_steps, image_bytes, tone, video_bytes

CLIPS = [
    ("mp4", "libx264", "aac"), ("mp4", "libx265", "aac"), ("mov", "mpeg4", "aac"), ("webm", "libvpx-vp9", "libopus"),
    ("webm", "libvpx", "libopus"), ("matroska", "libx264", "flac"), ("matroska", "libsvtav1", "libopus"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "codec", "sound_codec"), CLIPS)
def test_colours_in_order_and_the_tone_beneath(kind, codec, sound_codec):
    pictures = colour_steps(8)
    options = {"x265-params": "log-level=none"} if codec == "libx265" else {}
    content = video_bytes(pictures, kind, codec, sound=tone(440, 48_000, 1.0), sound_codec=sound_codec, **options)
    assert os.sched_getscheduler(0) == os.SCHED_OTHER  # or this process would push all others aside
    frames = decode_video(content, 8, 16)
    assert frames.shape == (8, 16, 16, 3) and frames.dtype == np.uint8
    np.testing.assert_allclose(frames.mean((1, 2)), pictures.mean((1, 2)), atol=8)
    sound = decode_sound_track(content, 8_000)
    assert sound.shape == (8_000,) and sound.dtype == np.float32
    assert np.argmax(np.abs(np.fft.rfft(sound))) * 2 == 440


def test_frames_are_spaced_over_the_duration_and_a_still_clip_repeats():
    pictures = colour_steps(40)
    frames = decode_video(video_bytes(pictures), 4, 16)
    np.testing.assert_allclose(frames.mean((1, 2)), pictures[[5, 15, 25, 35]].mean((1, 2)), atol=8)
    still = decode_video(video_bytes(pictures[:1]), 4, 16)
    assert (still == still[0]).all()


def test_layout_is_kept():
    picture = np.zeros((1, 64, 96, 3), np.uint8)
    picture[:, :32, :48], picture[:, 32:, 48:] = (240, 20, 20), (20, 20, 240)
    frame = decode_video(video_bytes(picture), 1, 32)[0]
    np.testing.assert_allclose(frame[2:14, 2:14].mean((0, 1)), (240, 20, 20), atol=12)
    np.testing.assert_allclose(frame[18:30, 18:30].mean((0, 1)), (20, 20, 240), atol=12)


@pytest.mark.parametrize(("matrix", "corner"), [((0, 1, -1, 0), (0, 1)), ((0, -1, 1, 0), (1, 0)), ((-1, 0, 0, -1), (1, 1))])
def test_a_clip_filmed_sideways_is_turned_upright(matrix, corner):
    """Half the left upper quarter is white; the matrix says to turn it clockwise, against the clock, upside down."""
    picture = np.zeros((2, 64, 64, 3), np.uint8)
    picture[:, :32, :32] = 255
    content = bytearray(video_bytes(picture))
    a, b, c, d = (value << 16 & 0xFFFFFFFF for value in matrix)
    struct.pack_into(">9I", content, content.index(b"tkhd") + 44, a, b, 0, c, d, 0, 0, 0, 1 << 30)
    quarters = decode_video(bytes(content), 1, 32)[0].reshape(2, 16, 2, 16, 3).mean((1, 3, 4))
    assert np.unravel_index(np.argmax(quarters), (2, 2)) == corner


def test_a_moving_gif_is_a_video_without_sound():
    first, *others = (Image.fromarray(one) for one in colour_steps(8))
    content = image_bytes(first, "GIF", save_all=True, append_images=others, duration=100)
    frames = decode_video(content, 8, 16)
    np.testing.assert_allclose(frames.mean((1, 2)), colour_steps(8).mean((1, 2)), atol=8)
    with pytest.raises(MediaError, match="no sound: the file has no sound track"):
        decode_sound_track(content, 8_000)


def test_of_a_long_video_only_stretches_from_key_frames_are_decoded(monkeypatch):
    pictures = colour_steps(160)
    content = video_bytes(pictures, g="10", bf="0", sc_threshold="0")
    exact = decode_video(content, 8, 16).mean((1, 2))
    np.testing.assert_allclose(exact, pictures[10::20].mean((1, 2)), atol=8)
    decoded = []
    reader = video_decoder._FrameReader
    monkeypatch.setattr(video_decoder, "WORK_PIXELS", 8 * 4 * 48 * 64)  # four packets for each frame
    monkeypatch.setattr(
        video_decoder, "_FrameReader", lambda *arguments: decoded.append(reader(*arguments)) or decoded[-1]
    )
    near = decode_video(content, 8, 16).mean((1, 2))
    assert decoded[0].spent <= 8 * 5
    step = (pictures[-1, 0, 0, 0].astype(int) - pictures[0, 0, 0, 0]) / 159
    assert np.abs(near - exact).max() <= 10 * step + 3  # within its group of ten
    assert (np.diff(near[:, 0]) > 0).all()


def test_the_middle_of_a_long_sound_track_is_taken():
    parts = np.concatenate([tone(frequency, 48_000, 4.0) for frequency in (300, 600, 900)])
    content = video_bytes(sound=parts)
    spectrum = np.abs(np.fft.rfft(decode_sound_track(content, 32_000)))
    assert np.argmax(spectrum) / 2 == 600


def test_the_sound_track_is_cut_at_the_right_moment():
    wave = np.zeros(48_000 * 6, np.float32)
    wave[48_000 * 3 :] = tone(440, 48_000, 3.0)
    for kind, codec in (("matroska", "flac"), ("mov", "pcm_s16le"), ("mp4", "aac")):
        clip = decode_sound_track(video_bytes(sound=wave, kind=kind, sound_codec=codec), 16_000)
        onset = np.flatnonzero(np.abs(clip) > 0.05)[0]
        assert onset == pytest.approx(8_000, abs=200 if codec == "aac" else 3)


@pytest.mark.parametrize("layout", ["stereo", "5.1", "7.1", "hexadecagonal"])
def test_any_number_of_channels_is_averaged(layout):
    """Eight channels and more end the process when the planes of a frame are read one by one."""
    channels = av.AudioLayout(layout).nb_channels
    codec = "pcm_s16le" if channels > 8 else "aac"
    wave = np.repeat(tone(440, 48_000, 2.0)[:, None], channels, axis=1)
    sound = decode_sound_track(video_bytes(sound=wave, kind="matroska", sound_codec=codec, layout=layout), 16_000)
    assert np.argmax(np.abs(np.fft.rfft(sound))) == 440
    assert np.std(sound) == pytest.approx(0.5 / np.sqrt(2), rel=0.25)  # AAC narrows the channel of the low tones


def patched(content, name, offset, *numbers):
    place = content.index(name) + offset
    return content[:place] + struct.pack(f">{len(numbers)}I", *numbers) + content[place + 4 * len(numbers) :]


def test_reasons():
    good = good_files()
    with pytest.raises(MediaError, match="zero bytes"):
        decode_video(b"", 8, 16)
    with pytest.raises(MediaError, match="no frames: the file has no video stream"):
        decode_video(good["sound.m4a"], 8, 16)
    with pytest.raises(MediaError, match="no sound: the file has no sound track"):
        decode_sound_track(video_bytes(colour_steps()), 8_000)
    with pytest.raises(MediaError, match="at most 9,437,184 pixels a frame, received 33,177,600"):
        decode_video(video_bytes(np.zeros((1, 4_320, 7_680, 3), np.uint8), preset="ultrafast"), 8, 16)
    with pytest.raises(MediaError, match="at most 2 seconds"):
        decode_video(video_bytes(colour_steps(40)), 8, 16, max_seconds=2)
    with pytest.raises(MediaError, match="at most 1 seconds"):
        decode_sound_track(video_bytes(sound=tone(440, 48_000, 3.0)), 8_000, max_seconds=1)
    with pytest.raises(MediaError, match="broken video"):
        decode_video(good["clip.mp4"][:2_000], 8, 16)


def test_tables_that_would_fill_the_memory_are_refused():
    clip = good_files()["clip.mp4"]
    for count in (50_000_000, 2**32 - 1):
        with pytest.raises(MediaError, match="declare more samples"):
            decode_video(patched(clip, b"stsz", 8, 1, count), 8, 16)
        run = box(b"trun", struct.pack(">II", 0, count))
        with pytest.raises(MediaError, match="declare more samples"):
            decode_video(clip + box(b"moof", box(b"traf", run)), 8, 16)
    with pytest.raises(MediaError, match="compressed movie header"):
        decode_video(clip + box(b"moov", box(b"cmov")), 8, 16)
    with pytest.raises(MediaError, match="bytes of headers"):
        decode_video(clip[:32] + box(b"moov", box(b"free") * 2_000_000), 8, 16)


@pytest.mark.parametrize(
    "content",
    [
        b"#EXTM3U\n#EXTINF:9,\nfile:///etc/passwd\n", b"ffconcat version 1.0\nfile '/etc/passwd'\n",
        b"<?xml version='1.0'?><MPD><BaseURL>file:///etc/passwd</BaseURL></MPD>", b"[playlist]\nFile1=/etc/passwd\n",
    ],
)  # fmt: skip
def test_no_list_of_other_files_is_ever_followed(content):
    assert container_format(content) == ""
    with pytest.raises(MediaError, match="not a video"):
        decode_video(content, 8, 16)


def test_a_file_of_too_many_parts_ends_early():
    file = BoundedFile(bytes(10 * MAX_CALLS))
    while file.read(1):
        pass
    assert file.tell() <= MAX_CALLS + 100
    with pytest.raises(MediaError, match="too slow"):
        file.check()


HEADS = [b"\0\0\0\x20ftypisom", b"\x1a\x45\xdf\xa3\x9fB\x86\x81\x01", b"GIF89a\x04\0\x04\0\x80", b"\xff\xf1\x4c\x80"]


@settings(deadline=None)
@given(st.binary(max_size=300), st.sampled_from(HEADS))
def test_any_bytes_decode_or_give_a_reason(content, head):
    for decode in (lambda: decode_video(head + content, 2, 8), lambda: decode_sound_track(head + content, 800)):
        try:
            decoded = decode()
        except MediaError as error:
            assert str(error)
        else:
            assert np.isfinite(decoded).all()
