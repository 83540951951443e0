"""Warm-up requests of the models that take raw content: small, of every modality, the same bytes every time."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

TITLES = ("Blue Hour", "海边的灯塔", "Stars for Sailors", "", "夜班车", "Low Tide", "The Old Lighthouse", "雨")
DESCRIPTION = "Sailors cross the bay at night, carried along by salt water and slow piano."
QUESTIONS = ("slow piano by the sea", "海边的灯塔", "stars", "", "a walk in the woods at night", "火车", "?", "jazz")
PIXELS, SAMPLES = 320, 8_000


def _column(values: list[str | bytes]) -> np.ndarray:
    array = np.empty(len(values), object)
    array[:] = [value.encode() if isinstance(value, str) else value for value in values]
    return array


def item_encoder_requests(
    sizes: tuple[int, ...], vector_widths: dict[str, int], frames: int = 1
) -> list[dict[str, np.ndarray]]:
    """Items with text, a JPEG or a PNG, half a second of sound and frames of a video, and one item with nothing."""
    shades = np.add.outer(np.arange(PIXELS), np.arange(PIXELS))[..., None] * np.array([1, 2, 3]) % 256
    pixels = tf.constant(shades.astype(np.uint8))
    jpeg, png = tf.io.encode_jpeg(pixels).numpy(), tf.io.encode_png(pixels).numpy()
    wave = np.sin(np.arange(SAMPLES, dtype=np.float32) * 0.17)
    requests = []
    for size in sizes:
        places = range(size)
        inputs: dict[str, np.ndarray] = {
            "title": _column([TITLES[place % len(TITLES)] for place in places]),
            "description": _column([DESCRIPTION[: 40 + 20 * (place % 3)] for place in places]),
            "categories": _column(["ambient|live"] * size),
            "image_bytes": _column([(jpeg, png, b"")[place % 3] for place in places]),
            "audio": np.tile(wave, (size, 1)),
            "audio_length": np.array([SAMPLES if place % 3 < 2 else 0 for place in places], np.int32),
            "video_frames_bytes": np.tile(_column([jpeg] * frames), (size, 1)),
        }
        inputs |= {f"{name}_vector": np.ones((size, width), np.float32) for name, width in vector_widths.items()}
        requests.append(inputs)
    nothing = {name: value[:1] for name, value in requests[0].items()}
    for name in ("title", "description", "categories", "image_bytes"):
        nothing[name] = _column([b""])
    nothing |= {"audio": np.zeros((1, 0), np.float32), "audio_length": np.zeros(1, np.int32)}
    nothing["video_frames_bytes"] = np.empty((1, 0), object)
    nothing |= {f"{name}_vector": np.zeros((1, 0), np.float32) for name in vector_widths}
    return [*requests, nothing]


def search_requests(sizes: tuple[int, ...], k: int) -> list[dict[str, np.ndarray]]:
    """Questions in two languages, an empty one among them."""
    return [
        {
            "query": _column([QUESTIONS[place % len(QUESTIONS)] for place in range(size)]),
            "exclude_item_ids": np.empty((size, 0), object),
            "k": np.array(k, np.int32),
        }
        for size in sizes
    ]
