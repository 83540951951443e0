"""Pictures: an encoded file becomes RGB of fixed size, in steps that a graph of core ops can repeat.

The steps, in order: the first frame as 8-bit RGB (palettes looked up, greys repeated, 16 bits cut to their upper 8, CMYK
multiplied out, colour profiles ignored); transparency laid on white; the whole picture squeezed to the square; the
square turned or mirrored as EXIF says. Squeezing is separable convolution with a triangle filter of half-pixel centres,
widened by the scale when shrinking: `tf.image.resize(..., method="bilinear", antialias=True)` after
`tf.io.decode_image`, to within rounding. JPEGs are decoded by the accurate integer transform with smooth chroma, as
`tf.io.decode_jpeg(..., dct_method="INTEGER_ACCURATE")` does.
"""

from __future__ import annotations

import struct

import numpy as np
from PIL import Image, UnidentifiedImageError

from data.bounded_file import BoundedFile
from data.media import MAX_PIXELS, MediaError, broken

PREPROCESSING_VERSION = "image-1"
"""Enters the key of every stored picture vector; raise it when decoded pixels change."""
IMAGE_FORMATS = ("PNG", "JPEG", "WEBP", "GIF")
DRAFT_FACTOR = 4
"""A JPEG is decoded at 1/2, 1/4 or 1/8 only where that leaves at least this many pixels for each one of the result."""
MAX_SCANNED_PIXELS = 600_000_000
"""Pixels times scans of a progressive JPEG; a file of a few kB can ask for thousands of passes over a large picture."""
ORIENTATION = 0x0112
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What each EXIF orientation asks for, so that the picture stands upright."""


def decode_image(content: bytes, size: int, *, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """An encoded JPEG, PNG, WebP or GIF (its first frame) to RGB of fixed size.

    Args:
        content: the file's bytes.
        size: pixels a side.
        max_pixels: refused above this, judged by the header before any pixel is decoded.

    Returns:
        uint8 [size, size, 3].

    Raises:
        MediaError: not an image of a known format, too many pixels, or broken data.

    Example:
        >>> import io
        >>> buffer = io.BytesIO()
        >>> Image.new("RGB", (300, 200), (200, 30, 60)).save(buffer, "PNG")
        >>> decode_image(buffer.getvalue(), 96)[95, 95].tolist()
        [200, 30, 60]
    """
    if not content:
        raise MediaError("empty: the file has zero bytes; upload it again")
    file = BoundedFile(content)
    try:
        _check_pixels(*(_webp_size(content) or (0, 0)), max_pixels)
        with Image.open(file, formats=IMAGE_FORMATS) as image:
            _check_pixels(*image.size, max_pixels)
            _check_scans(content, *image.size)
            image.draft("RGB", (DRAFT_FACTOR * size, DRAFT_FACTOR * size))
            image.load()
            turn = TURNS.get(_orientation(image))
            square = squeeze(_flat(image), size)
            return np.asarray(square if turn is None else square.transpose(turn), dtype=np.uint8)
    except MediaError:
        raise
    except Image.DecompressionBombError as error:
        raise MediaError(f"too large: at most {max_pixels:,} pixels; scale the picture down") from error
    except UnidentifiedImageError as error:
        file.check()
        raise MediaError(f"not an image: none of {', '.join(IMAGE_FORMATS)}; convert it to one of them") from error
    except Exception as error:  # a hostile file may raise anything inside the decoder; the reason keeps its name
        file.check()
        raise broken("image", error, "save it again from the original picture") from error


def squeeze(image: Image.Image, size: int) -> Image.Image:
    """The whole picture on a square of RGB: triangle filter, antialiased, so that layout features see all of it."""
    return image.resize((size, size), Image.Resampling.BILINEAR).convert("RGB")


def _flat(image: Image.Image) -> Image.Image:
    """RGB or 8-bit grey without transparency."""
    if image.mode.startswith("I"):
        return Image.fromarray(np.clip(np.asarray(image) >> 8, 0, 255).astype(np.uint8))
    if image.has_transparency_data:
        image = image if image.mode == "RGBA" else image.convert("RGBA")
        white = Image.new("RGB", image.size, "white")
        white.paste(image, mask=image)
        return white
    return image if image.mode in ("RGB", "L") else image.convert("RGB")


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; broken EXIF data is no reason to lose the picture."""
    try:
        return int(image.getexif().get(ORIENTATION, 1))
    except Exception:
        return 1


def _check_pixels(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise MediaError(
            f"too large: at most {max_pixels:,} pixels, the header declares {width} x {height}; scale the picture down"
        )


def _check_scans(content: bytes, width: int, height: int) -> None:
    """Start-of-scan markers are counted: inside entropy-coded data no other byte pair looks like one."""
    if content[:2] != b"\xff\xd8":
        return
    scans = content.count(b"\xff\xda")
    if scans * width * height > MAX_SCANNED_PIXELS:
        raise MediaError(
            f"too large: at most {MAX_SCANNED_PIXELS:,} pixels over all scans, received {scans} scans of "
            f"{width} x {height}; save the JPEG without progressive mode"
        )


def _webp_size(content: bytes) -> tuple[int, int] | None:
    """Canvas of a WebP by its header, because Pillow allocates it on opening; None for anything else."""
    if content[:4] != b"RIFF" or content[8:12] != b"WEBP" or len(content) < 30:
        return None
    if content[12:16] == b"VP8X":
        return 1 + int.from_bytes(content[24:27], "little"), 1 + int.from_bytes(content[27:30], "little")
    if content[12:16] == b"VP8L":
        bits = int.from_bytes(content[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    width, height = struct.unpack("<HH", content[26:30])
    return width & 0x3FFF, height & 0x3FFF
