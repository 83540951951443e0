"""Media files: paths and bytes that are safe to decode, or a `MediaError` that says why not.

The bounds of every decoder stand here. They are checked before the expensive step: bytes by `stat`, pixels and seconds
by the header. What a file is, is read from its content; the extension is never trusted.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path, PureWindowsPath

MAX_BYTES = 64 * 2**20
MAX_PIXELS = 40_000_000
"""Of a picture. A decoded one takes four bytes a pixel, twice while it is converted."""
MAX_FRAME_PIXELS = 4096 * 2304
MAX_FRAME_BYTES = 40 * 2**20
"""Of one frame of a video; a decoder holds up to 17 of them."""
MAX_SECONDS = 3600.0
MAX_CHANNELS = 16
LOWEST_RATE, HIGHEST_RATE = 1_000, 384_000
"""Samples a second that a sound file may declare."""
SAMPLE_RATE = 16_000
"""Samples a second of every decoded clip."""


class MediaError(ValueError):
    """A file that cannot be used; the message is the reason written to the quarantine."""


def broken(kind: str, error: Exception, advice: str) -> MediaError:
    """What a decoder library says about a damaged file, in one line that is the same every time.

    Example:
        >>> broken("image", EOFError(), "save it again")
        MediaError('broken image: EOFError; save it again')
    """
    said = getattr(error, "error_string", None) or getattr(error, "strerror", None) or str(error)
    detail = f": {' '.join(str(said).split()).rstrip('.')[:200]}" if said else ""
    return MediaError(f"broken {kind}: {type(error).__name__}{detail}; {advice}")


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
        root = os.path.realpath(folder)
        path, mode = _without_links(root, name)
        if stat.S_ISLNK(mode):
            path = os.path.realpath(path, strict=True)
            if not Path(path).is_relative_to(root):
                raise MediaError(f"path: links must stay under the media folder, received {name!r}")
            mode = os.stat(path).st_mode
    except MediaError:
        raise
    except FileNotFoundError as error:
        raise MediaError(f"missing: no file {name!r} under the media folder") from error
    except (OSError, ValueError, RuntimeError) as error:  # name too long, embedded NUL, link loop
        raise MediaError(f"path: cannot be opened, received {name[:200]!r} ({type(error).__name__})") from error
    if not stat.S_ISREG(mode):
        raise MediaError(f"path: must name a plain file, received {name!r}")
    return Path(path)


def _without_links(root: str, name: str) -> tuple[str, int]:
    """Where `name` lies and its mode; a link's mode, and the whole path unresolved, where a part of it is a link.

    Of a path without links nothing need be resolved, which takes several times as long, for every file of a catalogue.
    """
    path, mode = root, 0
    for part in name.split("/"):
        if part not in ("", "."):
            path = f"{path}/{part}"
            mode = os.lstat(path).st_mode
            if stat.S_ISLNK(mode):
                return f"{root}/{name}", mode
    return path, mode


def read_media(folder: str | Path, name: str, *, max_bytes: int = MAX_BYTES) -> bytes:
    """The bytes of one media file, at most `max_bytes`, after the checks of `media_path`."""
    path = media_path(folder, name)
    try:
        with path.open("rb") as file:
            content = file.read(max_bytes + 1)  # bounded also if the file grows or is sparse
    except OSError as error:
        raise MediaError(f"unreadable: {error.strerror}") from error
    if len(content) > max_bytes:
        raise MediaError(f"too large: at most {max_bytes:,} bytes, received {path.stat().st_size:,}; shrink it")
    if not content:
        raise MediaError("empty: the file has zero bytes; upload it again")
    return content
