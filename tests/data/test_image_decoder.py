"""Pictures: the right colours in the right place in every format, and a reason for every broken one."""

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from data.image_decoder import TURNS, decode_image
from data.media import MediaError, read_media
from tests.data.hostile_files import good_files, png, scan_bomb
from tests.data.media_files import image_bytes, sound_bytes, tone

RED, BLUE = (200, 30, 60), (10, 120, 220)


@pytest.fixture(scope="module")
def picture():
    """Red above blue."""
    pixels = np.zeros((48, 32, 3), np.uint8)
    pixels[:24], pixels[24:] = RED, BLUE
    return pixels


def assert_red_above_blue(decoded, tolerance):
    assert decoded.shape == (16, 16, 3) and decoded.dtype == np.uint8
    np.testing.assert_allclose(decoded[:6].mean(axis=(0, 1)), RED, atol=tolerance)
    np.testing.assert_allclose(decoded[-6:].mean(axis=(0, 1)), BLUE, atol=tolerance)


@pytest.mark.parametrize(
    ("kind", "mode", "options"),
    [
        ("PNG", "RGB", {}), ("PNG", "P", {}), ("PNG", "RGBA", {}), ("JPEG", "RGB", {}), ("JPEG", "CMYK", {}),
        ("JPEG", "RGB", {"progressive": True}), ("WEBP", "RGB", {}), ("WEBP", "RGBA", {"lossless": True}),
        ("GIF", "P", {}), ("GIF", "RGB", {}), ("GIF", "RGBA", {}),
    ],
)  # fmt: skip
def test_every_format_and_mode_keeps_colours_and_layout(picture, kind, mode, options):
    image = Image.fromarray(picture)
    image = image.convert("P", palette=Image.Palette.ADAPTIVE) if mode == "P" else image.convert(mode)
    assert_red_above_blue(decode_image(image_bytes(image, kind, **options), 16), tolerance=8)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_of_a_moving_picture_the_first_frame_is_taken(picture, kind):
    later = Image.fromarray(np.full_like(picture, 255))
    options = {"lossless": True} if kind == "WEBP" else {}
    content = image_bytes(picture, kind, save_all=True, append_images=[later, later], duration=100, **options)
    assert_red_above_blue(decode_image(content, 16), tolerance=8)


def test_one_pixel_fills_the_square():
    assert (decode_image(image_bytes(np.full((1, 1, 3), 77, np.uint8)), 16) == 77).all()


def test_grey_and_16_bit():
    assert (decode_image(image_bytes(np.full((8, 8), 128, np.uint8)), 16) == 128).all()
    assert (decode_image(image_bytes(np.full((8, 8), 128 * 256 + 255, np.uint16)), 16) == 128).all()
    assert (decode_image(image_bytes(Image.new("1", (8, 8), 1)), 16) == 255).all()


def test_transparency_is_laid_on_white():
    assert (decode_image(image_bytes(np.zeros((8, 8, 4), np.uint8)), 16) == 255).all()
    half = np.zeros((8, 8, 4), np.uint8)
    half[..., 3] = 128
    for kind in ("PNG", "WEBP"):
        np.testing.assert_allclose(decode_image(image_bytes(half, kind, lossless=True), 16), 127, atol=1)
    palette = Image.new("P", (8, 8), 3)
    palette.putpalette(list(range(48)))
    assert (decode_image(image_bytes(palette, "PNG", transparency=3), 16) == 255).all()
    assert (decode_image(image_bytes(palette, "GIF", transparency=3), 16) == 255).all()


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "PNG"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_puts_the_picture_upright(kind, orientation):
    upright = np.zeros((16, 16, 3), np.uint8)
    upright[:8, :8], upright[:8, 8:], upright[8:, :8] = (250, 0, 0), (0, 250, 0), (0, 0, 250)
    # Orientation k says how the stored picture must be turned; the inverse turn stores it so.
    inverse = {6: TURNS[8], 8: TURNS[6]}.get(orientation, TURNS.get(orientation))
    stored = Image.fromarray(upright)
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = image_bytes(stored if inverse is None else stored.transpose(inverse), kind, exif=exif, quality=95)
    decoded = decode_image(content, 16).astype(int)
    for rows, columns in ((slice(1, 7), slice(1, 7)), (slice(1, 7), slice(9, 15)), (slice(9, 15), slice(1, 7))):
        np.testing.assert_allclose(decoded[rows, columns].mean((0, 1)), upright[rows, columns].mean((0, 1)), atol=16)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("junk", [b"Exif\0\0", b"Exif\0\0MM\0*\xff\xff\xff\xff", b"Exif\0\0II*\0\x08\0\0\0\xff\xff"])
def test_broken_exif_data_is_no_reason_to_lose_the_picture(picture, junk):
    plain = image_bytes(picture, "JPEG", quality=95)
    content = plain[:2] + b"\xff\xe1" + struct.pack(">H", 2 + len(junk)) + junk + plain[2:]
    assert_red_above_blue(decode_image(content, 16), tolerance=8)


def triangle(length, size):
    """[size, length]: weights of an antialiased triangle filter with half-pixel centres."""
    scale = length / size
    centres = (np.arange(size) + 0.5) * scale
    weights = 1 - np.abs(np.arange(length) + 0.5 - centres[:, None]) / max(1.0, scale)
    weights = np.maximum(weights, 0)
    return weights / weights.sum(axis=1, keepdims=True)


@pytest.mark.parametrize(("height", "width"), [(7, 11), (96, 96), (150, 301), (500, 40)])
def test_squeezing_is_the_documented_filter(height, width):
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    expected = np.einsum("yh,xw,hwc->yxc", triangle(height, 96), triangle(width, 96), pixels.astype(float), optimize=True)
    np.testing.assert_allclose(decode_image(image_bytes(pixels), 96), expected, atol=1.1)


def test_a_large_jpeg_decoded_smaller_is_the_same_picture():
    coarse = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    content = image_bytes(Image.fromarray(coarse).resize((1600, 1200), Image.Resampling.BICUBIC), "JPEG", quality=90)
    full = Image.open(io.BytesIO(content)).resize((64, 64), Image.Resampling.BILINEAR)
    np.testing.assert_allclose(decode_image(content, 64).astype(int), np.asarray(full).astype(int), atol=3)
    ordinary = Image.open(io.BytesIO(content)).resize((225, 225), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(decode_image(content, 225), np.asarray(ordinary))  # 1200 < 2 · 4 · 225: all pixels


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP"])
def test_truncated_at_every_tenth(kind):
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    content = image_bytes(noise, kind)
    for tenth in range(1, 10):
        with pytest.raises(MediaError, match="image"):
            decode_image(content[: len(content) * tenth // 10], 16)


def test_declared_size_is_judged_before_decoding():
    with pytest.raises(MediaError, match=r"at most 40,000,000 pixels, the header declares 8000 x 8000"):
        decode_image(png(8000, 8000), 16)
    with pytest.raises(MediaError, match="too large"):
        decode_image(png(2**31 - 1, 2**31 - 1), 16)  # a decompression bomb in Pillow's own terms
    size = (16_383).to_bytes(3, "little")
    moving = good_files()["moving.webp"]
    with pytest.raises(MediaError, match="declares 16384 x 16384"):
        decode_image(moving[:24] + size * 2 + moving[30:], 16)
    with pytest.raises(MediaError, match="at most 100 pixels"):
        decode_image(image_bytes(np.zeros((20, 20, 3), np.uint8)), 16, max_pixels=100)


def test_many_passes_over_a_picture_and_many_tiny_parts_are_refused():
    with pytest.raises(MediaError, match="without progressive mode"):
        decode_image(scan_bomb(1_000, 2_000), 16)
    plain = image_bytes(np.zeros((8, 8, 3), np.uint8), "JPEG")
    with pytest.raises(MediaError, match="tiny parts"):
        decode_image(plain[:2] + b"\xff\xe1\x00\x02" * 500_000 + plain[2:], 16)


def test_text_that_inflates_is_refused():
    body = b"Comment\0\0" + zlib.compress(bytes(20_000_000))
    chunk = struct.pack(">I", len(body)) + b"zTXt" + body + struct.pack(">I", zlib.crc32(b"zTXt" + body))
    with pytest.raises(MediaError, match="broken image"):
        decode_image(png(8, 8, chunk), 16)


def test_content_decides_and_not_the_extension(tmp_path, picture):
    (tmp_path / "really_jpeg.png").write_bytes(image_bytes(picture, "JPEG"))
    assert decode_image(read_media(tmp_path, "really_jpeg.png"), 16).shape == (16, 16, 3)
    (tmp_path / "text.png").write_text("not a picture at all")
    with pytest.raises(MediaError, match="not an image"):
        decode_image(read_media(tmp_path, "text.png"), 16)
    with pytest.raises(MediaError, match="not an image"):
        decode_image(sound_bytes(tone(440, 16_000, 0.1)), 16)
    with pytest.raises(MediaError, match="zero bytes"):
        decode_image(b"", 16)


HEADS = [b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF89a", b"RIFF\x24\0\0\0WEBPVP8X", b"RIFF\x24\0\0\0WEBPVP8L"]


@settings(deadline=None)
@given(st.binary(max_size=300), st.sampled_from(HEADS))
def test_any_bytes_decode_or_give_a_reason(content, head):
    try:
        decoded = decode_image(head + content, 16)
    except MediaError as error:
        assert str(error)
    else:
        assert decoded.shape == (16, 16, 3)
