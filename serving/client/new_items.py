"""Raw content of items that no training has seen, and what the item encoder makes of it, as a client holds them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np


@dataclasses.dataclass(frozen=True)
class NewItem:
    """The raw content of an item that no training has seen.

    Attributes:
        title, description: text, HTML entities resolved.
        categories: "a|b".
        image: an encoded picture; empty = none.
        audio: float32 [S], mono at 16 kHz; empty = none.
        video_frames: encoded pictures of frames, evenly spaced.
        vectors: float32 [F_m] of the modalities whose vectors a release takes ready-made.
    """

    title: str = ""
    description: str = ""
    categories: str = ""
    image: bytes = b""
    audio: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0, np.float32))
    video_frames: Sequence[bytes] = ()
    vectors: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class EncodedItems:
    """Answer of `item_encoder`.

    Attributes:
        embeddings: float32 [B, D], to be compared with the index's.
        present: bool [B, M].
        vectors: float32 [B, F_m] of each modality, zeros where absent.
        version: of the model that answered.
    """

    embeddings: np.ndarray
    present: np.ndarray
    vectors: dict[str, np.ndarray]
    version: int


def item_inputs(items: Sequence[NewItem]) -> dict[str, np.ndarray]:
    """The inputs of `item_encoder` for some new items."""

    def column(values: list) -> np.ndarray:
        array = np.empty(len(values), object)
        array[:] = values
        return array

    audio = np.zeros((len(items), max((len(item.audio) for item in items), default=0)), np.float32)
    frames = np.full((len(items), max((len(item.video_frames) for item in items), default=0)), b"", object)
    for place, item in enumerate(items):
        audio[place, : len(item.audio)] = item.audio
        # Frames are taken evenly from the whole row, so a shorter video is stretched over it.
        count = len(item.video_frames)
        for column_place in range(frames.shape[1] if count else 0):
            frames[place, column_place] = item.video_frames[column_place * count // frames.shape[1]]
    inputs = {
        **{name: column([getattr(item, name) for item in items]) for name in ("title", "description", "categories")},
        "image_bytes": column([item.image for item in items]),
        "audio": audio,
        "audio_length": np.array([len(item.audio) for item in items], np.int32),
        "video_frames_bytes": frames,
    }
    for name in sorted({name for item in items for name in item.vectors}):
        width = max(len(item.vectors[name]) for item in items if name in item.vectors)
        rows = [np.asarray(item.vectors.get(name, np.zeros(width)), np.float32) for item in items]
        inputs[f"{name}_vector"] = np.stack(rows)
    return inputs
