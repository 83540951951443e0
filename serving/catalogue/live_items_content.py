"""The raw content of an item that is added to a running catalogue: checked, and made what an item encoder takes."""

from __future__ import annotations

import io
from collections.abc import Mapping

import numpy as np
from PIL import Image

from data.audio_decoder import decode_audio
from data.image_decoder import decode_image
from data.media import SAMPLE_RATE, MediaError
from data.video_decoder import decode_video
from serving.catalogue.live_items_log import LiveItem
from serving.client.new_items import NewItem

CLIP_SECONDS = 30
"""Of sound that are sent: the middle, of which an encoder takes its own part."""
FRAMES, FRAME_PIXELS = 8, 256
"""Of a video. The encoder picks its frames from these evenly, and shrinks them to its size."""
SMALL = 64
"""Pixels a side at which a picture is decoded to see that it can be; the model server gets the file itself."""

SUFFIXES: dict[str, tuple[tuple[int, bytes, str], ...]] = {
    "image": ((0, b"\x89PNG", ".png"), (0, b"\xff\xd8\xff", ".jpg"), (8, b"WEBP", ".webp"), (0, b"GIF8", ".gif")),
    "audio": (
        (8, b"WAVE", ".wav"), (0, b"fLaC", ".flac"), (0, b"OggS", ".ogg"), (0, b"MThd", ".mid"), (4, b"ftyp", ".m4a"),
        (0, b"ID3", ".mp3"), (0, b"\xff", ".mp3"),
    ),
    "video": ((4, b"ftyp", ".mp4"), (0, b"\x1aE\xdf\xa3", ".webm")),
}  # fmt: skip
"""(place, bytes there, suffix) by which a file is told; what it is called by its sender counts for nothing."""


def media_suffix(modality: str, content: bytes) -> str:
    """The suffix under which a file is kept and handed out; ".bin", which is not handed out, for any other.

    Example:
        >>> media_suffix("image", b"\\x89PNG..."), media_suffix("image", b"<svg>")
        ('.png', '.bin')
    """
    for place, sign, suffix in SUFFIXES[modality]:
        if content[place : place + len(sign)] == sign:
            return suffix
    return ".bin"


def read_item(item: LiveItem, media: Mapping[str, bytes]) -> NewItem:
    """What `item_encoder` is sent of an item.

    Args:
        item: its texts.
        media: content of `image`, `audio` and `video`, where it has them. Without `audio`, a video's sound stands in.

    Raises:
        MediaError: a file that cannot be used, with the field that it came in.
    """
    image = media.get("image", b"")
    frames: list[bytes] = []
    clip = np.zeros(0, np.float32)
    if image:
        _named("image", lambda: decode_image(image, SMALL))
    if "video" in media:
        pictures = _named("video", lambda: decode_video(media["video"], FRAMES, FRAME_PIXELS))
        frames = [_png(picture) for picture in pictures]
    if "audio" in media:
        clip = _named("audio", lambda: read_clip(media["audio"]))
    elif "video" in media:
        try:
            clip = read_clip(media["video"])
        except MediaError:
            clip = np.zeros(0, np.float32)  # a silent video is a video
    return NewItem(item.title, item.description, item.categories, image, clip, tuple(frames))


def _named(field: str, decode):
    try:
        return decode()
    except MediaError as error:
        raise MediaError(f"{field}: {error}") from None


def read_clip(content: bytes) -> np.ndarray:
    """The sound without the silence that fills it up: an encoder takes the middle of what there is."""
    return np.trim_zeros(decode_audio(content, CLIP_SECONDS * SAMPLE_RATE), "b").astype(np.float32)


def _png(picture: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
