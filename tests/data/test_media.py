"""Media decoders: right on good files of any kind, a reason on every broken one, and no way out of the folder."""

import io
import os
import struct
import zlib

import numpy as np
import pytest
import soundfile
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from data.media import MediaError, decode_audio, decode_image, media_path, read_media


def image_bytes(pixels, kind="PNG", **options):
    buffer = io.BytesIO()
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def sound_bytes(wave, rate=16_000, kind="WAV", subtype="FLOAT"):
    buffer = io.BytesIO()
    soundfile.write(buffer, wave, rate, format=kind, subtype=subtype)
    return buffer.getvalue()


def tone(frequency, rate, seconds):
    return np.sin(2 * np.pi * frequency * np.arange(int(rate * seconds)) / rate).astype(np.float32) * 0.5


def declared_png(width, height):
    """A well-formed PNG header that declares any size, with next to no data."""

    def chunk(name, body):
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = chunk(b"IDAT", zlib.compress(b"\0" * 99))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + data + chunk(b"IEND", b"")


@pytest.fixture(scope="module")
def picture():
    pixels = np.zeros((48, 32, 3), np.uint8)
    pixels[:24] = (200, 30, 60)
    pixels[24:] = (10, 120, 220)
    return pixels


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_image_keeps_colours_and_layout(picture, kind):
    decoded = decode_image(image_bytes(picture, kind), 16)
    assert decoded.shape == (16, 16, 3) and decoded.dtype == np.uint8
    np.testing.assert_allclose(decoded[:6].mean(axis=(0, 1)), [200, 30, 60], atol=6)
    np.testing.assert_allclose(decoded[-6:].mean(axis=(0, 1)), [10, 120, 220], atol=6)


def test_one_pixel_image_fills_the_square():
    assert (decode_image(image_bytes(np.full((1, 1, 3), 77, np.uint8)), 16) == 77).all()


def test_grey_palette_alpha_and_16_bit(picture):
    grey = decode_image(image_bytes(np.full((8, 8), 128, np.uint8)), 16)
    assert (grey == 128).all()
    deep = decode_image(image_bytes(Image.fromarray(np.full((8, 8), 128 * 256, np.uint16))), 16)
    assert (deep == 128).all()
    palette = decode_image(image_bytes(Image.fromarray(picture).convert("P", palette=Image.Palette.ADAPTIVE)), 16)
    np.testing.assert_allclose(palette[:6].mean(axis=(0, 1)), [200, 30, 60], atol=6)
    invisible = decode_image(image_bytes(np.zeros((8, 8, 4), np.uint8)), 16)
    assert (invisible == 255).all()  # transparent black is laid on white


def test_exif_rotation_is_applied(picture):
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    turned = decode_image(image_bytes(picture, "JPEG", exif=exif), 16)
    np.testing.assert_allclose(turned[-6:].mean(axis=(0, 1)), [200, 30, 60], atol=6)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_truncated_image_at_every_tenth(kind):
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    content = image_bytes(noise, kind)
    for tenth in range(1, 10):
        with pytest.raises(MediaError, match="image"):
            decode_image(content[: len(content) * tenth // 10], 16)


def test_declared_size_is_judged_before_decoding():
    with pytest.raises(MediaError, match=r"at most 40,000,000 pixels, the header declares 8000 x 8000"):
        decode_image(declared_png(8000, 8000), 16)
    with pytest.raises(MediaError, match="too large"):
        decode_image(declared_png(2**31 - 1, 2**31 - 1), 16)  # a decompression bomb in Pillow's own terms


def test_content_decides_and_not_the_extension(tmp_path, picture):
    (tmp_path / "really_jpeg.png").write_bytes(image_bytes(picture, "JPEG"))
    assert decode_image(read_media(tmp_path, "really_jpeg.png"), 16).shape == (16, 16, 3)
    (tmp_path / "text.png").write_text("not a picture at all")
    with pytest.raises(MediaError, match="not an image"):
        decode_image(read_media(tmp_path, "text.png"), 16)
    with pytest.raises(MediaError, match="not an image"):
        decode_image(sound_bytes(tone(440, 16_000, 0.1)), 16)
    with pytest.raises(MediaError, match="broken audio"):
        decode_audio(image_bytes(picture), 16_000)


@pytest.mark.parametrize(
    ("kind", "subtype", "rate"),
    [
        ("WAV", "PCM_16", 44_100),
        ("WAV", "FLOAT", 48_000),
        ("WAV", "PCM_U8", 16_000),
        ("FLAC", "PCM_16", 8_000),
        ("OGG", "VORBIS", 44_100),
        ("MP3", "MPEG_LAYER_III", 44_100),
    ],
)
def test_stereo_any_rate_to_mono_16_khz(kind, subtype, rate):
    left, right = tone(440, rate, 1.0), tone(1000, rate, 1.0)
    clip = decode_audio(sound_bytes(np.stack([left, right], axis=1), rate, kind, subtype), 16_000)
    assert clip.shape == (16_000,) and clip.dtype == np.float32
    expected = (tone(440, 16_000, 1.0) + tone(1000, 16_000, 1.0)) / 2
    power = np.abs(np.fft.rfft(clip)) ** 2
    assert sorted(np.argsort(power)[-2:]) == [440, 1000]
    if kind != "MP3":  # MP3 shifts by its encoder delay
        inner = slice(2000, 14_000)
        assert np.corrcoef(clip[inner], expected[inner])[0, 1] > 0.99


def test_short_clip_is_padded_and_long_clip_gives_its_middle():
    short = decode_audio(sound_bytes(np.full(1000, 0.25, np.float32)), 4000)
    assert (short[:1000] == 0.25).all() and (short[1000:] == 0).all()
    ramp = np.linspace(-1, 1, 10_000, dtype=np.float32)
    np.testing.assert_array_equal(decode_audio(sound_bytes(ramp), 4000), ramp[3000:7000])


def test_broken_audio():
    with pytest.raises(MediaError, match="no samples"):
        decode_audio(sound_bytes(np.zeros(0, np.float32)), 4000)
    poisoned = tone(440, 16_000, 0.5)
    poisoned[100:103] = np.nan
    with pytest.raises(MediaError, match="3 samples are NaN"):
        decode_audio(sound_bytes(poisoned), 16_000)
    with pytest.raises(MediaError, match="broken audio"):
        decode_audio(sound_bytes(tone(440, 16_000, 0.5))[:30], 16_000)
    with pytest.raises(MediaError, match="at most 2 seconds"):
        decode_audio(sound_bytes(np.zeros(48_000, np.float32)), 16_000, max_seconds=2)
    with pytest.raises(MediaError, match="sample rate"):
        decode_audio(sound_bytes(np.zeros(100, np.float32), rate=10), 16_000)
    with pytest.raises(MediaError, match="channels"):
        decode_audio(sound_bytes(np.zeros((100, 17), np.float32)), 16_000)


@pytest.mark.parametrize("decode", [decode_image, decode_audio])
def test_zero_bytes(decode, tmp_path):
    with pytest.raises(MediaError, match="zero bytes"):
        decode(b"", 1024)
    (tmp_path / "empty").touch()
    with pytest.raises(MediaError, match="zero bytes"):
        read_media(tmp_path, "empty")


@settings(deadline=None)
@given(
    st.binary(max_size=300), st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"RIFF\x24\0\0\0WAVEfmt "])
)
def test_any_bytes_decode_or_give_a_reason(content, head):
    for decode in (decode_image, decode_audio):
        try:
            decoded = decode(head + content, 2048 if decode is decode_audio else 16)
        except MediaError as error:
            assert str(error)
        else:
            assert np.isfinite(decoded).all()


def test_byte_bound_holds_for_sparse_files(tmp_path):
    with (tmp_path / "sparse.png").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(MediaError, match="at most 1,000 bytes"):
        read_media(tmp_path, "sparse.png", max_bytes=1000)


@pytest.fixture(scope="module")
def shelf(tmp_path_factory):
    """A media folder with a secret beside it."""
    root = tmp_path_factory.mktemp("shelf")
    (root / "secret").write_text("secret")
    folder = root / "media"
    (folder / "covers").mkdir(parents=True)
    (folder / "covers" / "a.png").write_bytes(b"a")
    (folder / "out").symlink_to(root / "secret")
    (folder / "up").symlink_to(root)
    (folder / "inside").symlink_to(folder / "covers" / "a.png")
    (folder / "loop").symlink_to(folder / "loop")
    os.mkfifo(folder / "pipe")
    return folder


def test_good_names_are_found(shelf):
    assert read_media(shelf, "covers/a.png") == b"a"
    assert read_media(shelf, "inside") == b"a"  # a link that stays inside


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("../secret", "must not contain"),
        ("covers/../../secret", "must not contain"),
        ("covers\\..\\..\\secret", "must not contain"),
        ("/etc/passwd", "relative"),
        ("C:/secret", "relative"),
        ("\\\\host\\share", "relative"),
        ("out", "links must stay"),
        ("up/secret", "links must stay"),
        ("loop", "cannot be opened"),
        ("pipe", "plain file"),
        ("covers", "plain file"),
        ("covers/b.png", "missing"),
        ("nul\0byte", "cannot be opened"),
        ("x" * 5000, "cannot be opened"),
        ("", "empty"),
        (".", "empty"),
    ],
)
def test_every_way_out_is_refused(shelf, name, reason):
    with pytest.raises(MediaError, match=reason):
        media_path(shelf, name)


PARTS = st.one_of(
    st.sampled_from(["..", ".", "covers", "a.png", "out", "up", "secret", "", "C:", "~"]), st.text(max_size=5)
)


@settings(deadline=None)
@given(st.lists(PARTS, max_size=6), st.sampled_from(["/", "\\", "//"]), st.booleans())
@example(["up", "media", "covers", "a.png"], "/", False)
def test_no_name_reads_outside(shelf, parts, separator, absolute):
    name = ("/" if absolute else "") + separator.join(parts)
    try:
        path = media_path(shelf, name)
    except MediaError:
        return
    assert path.is_relative_to(shelf.resolve()) and path.read_bytes() == b"a"
