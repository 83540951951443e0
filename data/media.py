"""Media decoders: paths and bytes become fixed-shape arrays, or a `MediaError` that says why not.

Bounds are checked before the expensive step: bytes by `stat`, pixels and seconds by the header. What a file is, is read
from its content; the extension is never trusted.
"""

from __future__ import annotations

import io
import math
import stat
from pathlib import Path, PureWindowsPath

import numpy as np
import soundfile
from PIL import Image, ImageOps, UnidentifiedImageError
from scipy.signal import resample_poly

MAX_BYTES = 64 * 2**20
MAX_PIXELS = 40_000_000
MAX_SECONDS = 3600.0
MAX_CHANNELS = 16
SAMPLE_RATE = 16_000
"""Samples a second of every decoded clip."""
IMAGE_FORMATS = ("PNG", "JPEG")
AUDIO_FORMATS = frozenset({"WAV", "WAVEX", "FLAC", "OGG", "MP3"})


class MediaError(ValueError):
    """A file that cannot be used; the message is the reason written to the quarantine."""


def media_path(folder: str | Path, name: str) -> Path:
    """The file `name` inside the media folder, with every way out of the folder refused.

    Args:
        folder: the media folder.
        name: relative path as it stands in `items.parquet`; `/` and `\\` both count as separators in the checks.

    Raises:
        MediaError: empty or absolute name, a `..` part, a link that leads out of the folder, no such file, or
            something that is not a plain file (a pipe would block the reader).

    Example:
        >>> media_path("/srv/media", "../secret")
        Traceback (most recent call last):
        data.media.MediaError: path: must not contain '..', received '../secret'
    """
    parsed = PureWindowsPath(name)
    if not name.strip() or not parsed.parts:
        raise MediaError(f"path: must not be empty, received {name!r}")
    if name.startswith("/") or parsed.drive or parsed.root:
        raise MediaError(f"path: must be relative to the media folder, received {name!r}")
    if ".." in parsed.parts:
        raise MediaError(f"path: must not contain '..', received {name!r}")
    try:
        root = Path(folder).resolve()
        path = (root / name).resolve(strict=True)
        if not path.is_relative_to(root):
            raise MediaError(f"path: links must stay under the media folder, received {name!r}")
        mode = path.stat().st_mode
    except MediaError:
        raise
    except FileNotFoundError as error:
        raise MediaError(f"missing: no file {name!r} under the media folder") from error
    except (OSError, ValueError, RuntimeError) as error:  # name too long, embedded NUL, link loop
        raise MediaError(f"path: cannot be opened, received {name[:200]!r} ({type(error).__name__})") from error
    if not stat.S_ISREG(mode):
        raise MediaError(f"path: must name a plain file, received {name!r}")
    return path


def read_media(folder: str | Path, name: str, *, max_bytes: int = MAX_BYTES) -> bytes:
    """The bytes of one media file, at most `max_bytes`, after the checks of `media_path`."""
    path = media_path(folder, name)
    try:
        with path.open("rb") as file:
            content = file.read(max_bytes + 1)  # bounded also if the file grows or is sparse
    except OSError as error:
        raise MediaError(f"unreadable: {error.strerror}") from error
    if len(content) > max_bytes:
        raise MediaError(f"too large: at most {max_bytes:,} bytes, received {path.stat().st_size:,}")
    if not content:
        raise MediaError("empty: the file has zero bytes")
    return content


def decode_image(content: bytes, size: int, *, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """An encoded PNG or JPEG to RGB of fixed size.

    EXIF rotation is applied, transparency is laid on white, 16-bit greys are scaled, and the picture is squeezed to the
    square, so that layout features see all of it.

    Args:
        content: the file's bytes.
        size: pixels a side.
        max_pixels: refused above this, judged by the header before any pixel is decoded.

    Returns:
        uint8 [size, size, 3].

    Raises:
        MediaError: not an image of a known format, too many pixels, or broken data.
    """
    if not content:
        raise MediaError("empty: the file has zero bytes")
    try:
        with Image.open(io.BytesIO(content), formats=IMAGE_FORMATS) as image:
            width, height = image.size
            if width * height > max_pixels:
                raise MediaError(f"too large: at most {max_pixels:,} pixels, the header declares {width} x {height}")
            image.draft("RGB", (size, size))  # a JPEG decodes at 1/2, 1/4 or 1/8, never below `size`
            rgb = _rgb(ImageOps.exif_transpose(image))
            return np.asarray(rgb.resize((size, size), Image.Resampling.BILINEAR), dtype=np.uint8)
    except MediaError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise MediaError(f"too large: at most {max_pixels:,} pixels ({error})") from error
    except UnidentifiedImageError as error:
        raise MediaError(f"not an image: none of {', '.join(IMAGE_FORMATS)}") from error
    except Exception as error:  # a hostile file may raise anything inside the decoder; the reason keeps its name
        raise MediaError(f"broken image: {type(error).__name__}: {error}") from error


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        grey = np.clip(np.asarray(image, dtype=np.int64) // 256, 0, 255).astype(np.uint8)
        return Image.fromarray(grey).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def decode_audio(content: bytes, samples: int, *, max_seconds: float = MAX_SECONDS) -> np.ndarray:
    """An encoded clip to mono 16 kHz of fixed length.

    Of a longer clip the middle is taken (and only that is decoded), a shorter one is padded with zeros at its end.
    Resampling is polyphase (Kaiser window), channels are averaged.

    Args:
        content: the file's bytes (WAV, FLAC, OGG or MP3).
        samples: length of the result, in samples at 16 kHz.
        max_seconds: refused above this, judged by the header.

    Returns:
        float32 [samples], within about -1..1.

    Raises:
        MediaError: unknown format, no samples, non-finite samples, or broken data.
    """
    if not content:
        raise MediaError("empty: the file has zero bytes")
    try:
        with soundfile.SoundFile(io.BytesIO(content)) as file:
            _check_audio(file, max_seconds)
            rate = int(file.samplerate)
            needed = math.ceil(samples * rate / SAMPLE_RATE)
            file.seek(max(0, (file.frames - needed) // 2))
            wave = file.read(min(needed, file.frames), dtype="float32", always_2d=True).mean(axis=1)
    except MediaError:
        raise
    except Exception as error:
        raise MediaError(f"broken audio: {type(error).__name__}: {error}") from error
    if not wave.size:
        raise MediaError("empty: the clip has no samples")
    if not np.isfinite(wave).all():
        raise MediaError(f"broken audio: {int((~np.isfinite(wave)).sum())} samples are NaN or infinite")
    if rate != SAMPLE_RATE:
        divisor = math.gcd(rate, SAMPLE_RATE)
        wave = resample_poly(wave, SAMPLE_RATE // divisor, rate // divisor)
    clip = np.zeros(samples, np.float32)
    length = min(samples, len(wave))
    clip[:length] = np.clip(wave[:length], -8.0, 8.0)  # float WAVs may overshoot; keep powers finite
    return clip


def _check_audio(file: soundfile.SoundFile, max_seconds: float) -> None:
    if file.format not in AUDIO_FORMATS:
        raise MediaError(f"not audio: format must be among {sorted(AUDIO_FORMATS)}, received {file.format}")
    if not 1000 <= file.samplerate <= 384_000:
        raise MediaError(f"broken audio: sample rate must be 1,000 to 384,000 Hz, received {file.samplerate}")
    if file.channels > MAX_CHANNELS:
        raise MediaError(f"too large: at most {MAX_CHANNELS} channels, received {file.channels}")
    if file.frames <= 0:
        raise MediaError("empty: the clip has no samples")
    if file.frames / file.samplerate > max_seconds:
        seconds = file.frames / file.samplerate
        raise MediaError(f"too large: at most {max_seconds:,.0f} seconds, the header declares {seconds:,.0f}")
