"""Video through an image encoder: one vector a frame, side by side, for the item tower to pool by attention."""

from __future__ import annotations

from typing import Any

import numpy as np

from towers.encoder_card import EncoderCard, fingerprint

FRAMES = 8


class VideoEncoder:
    """Frames of a video through an image encoder.

    The frames stay apart, `[x_1, ..., x_T]` flattened, so that what is learned from the catalogue (attention over
    frames in the item tower) and not this encoder decides which frames matter.

    Args:
        image_encoder: any encoder of images.
        frames: T.

    Shapes: uint8 [B, T, size, size, 3] -> float32 [B, T * F] with F the image encoder's width.
    """

    modality = "video"

    def __init__(self, image_encoder: Any, frames: int = FRAMES) -> None:
        card = video_card(image_encoder, frames)
        self.image_encoder = image_encoder
        self.name, self.fingerprint, self.width, self.size = card.name, card.fingerprint, card.width, card.size
        self.frames = frames

    def encode(self, batch: np.ndarray) -> np.ndarray:
        """uint8 [B, T, size, size, 3] -> float32 [B, T * F]."""
        videos = np.asarray(batch)
        expected = (self.frames, self.size, self.size, 3)
        if videos.dtype != np.uint8 or videos.ndim != 5 or videos.shape[1:] != expected:
            raise ValueError(f"batch: must be uint8 [B, {expected}], received {videos.dtype} {videos.shape}")
        return self.image_encoder.encode(videos.reshape(-1, *expected[1:])).reshape(len(videos), self.width)


def video_card(image: Any, frames: int = FRAMES) -> EncoderCard:
    """The card of video through an image encoder, from the image encoder or its card.

    Raises:
        ValueError: not an encoder of images, or no frames.
    """
    if image.modality != "image" or frames < 1:
        raise ValueError(f"image, frames: must be an image encoder and at least 1, received {image!r} and {frames}")
    digest = fingerprint("video", 1, frames, image.fingerprint)
    return EncoderCard(image.name, digest, "video", frames * image.width, image.size, frames)
