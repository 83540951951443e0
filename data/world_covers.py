"""Covers of the demo world: six subjects, each drawn in any colour, place, size, manner and company."""

from __future__ import annotations

import numpy as np

from data.world_pen import Pen, draw_ground, draw_palette, finish
from data.world_subjects import SUBJECTS, draw_subject

STYLES = SUBJECTS
"""What a cover shows. There is no lettering on a cover: the text must not be readable from the picture."""
SIZE = 128
"""Pixels a side."""
_CANVAS = 2 * SIZE


def paint_cover(style: int, rng: np.random.Generator) -> np.ndarray:
    """One cover.

    Args:
        style: index in `STYLES`: what is depicted, and nothing else.
        rng: chooses everything else: make of the subject, colours, ground, place, size, turn, manner, scraps, print.

    Returns:
        uint8 RGB, [SIZE, SIZE, 3].

    Example:
        >>> paint_cover(0, np.random.default_rng(0)).shape
        (128, 128, 3)
    """
    colours = draw_palette(rng)
    image = draw_ground(_CANVAS, colours, rng)
    size = _CANVAS / 2 * rng.uniform(0.45, 0.9)
    room = _CANVAS / 2 - 0.75 * size
    pen = Pen(
        image,
        colours,
        int(rng.choice(3, p=[0.5, 0.25, 0.25])),
        centre=(_CANVAS / 2 + room * rng.uniform(-1, 1), _CANVAS / 2 + room * rng.uniform(-1, 1)),
        size=size,
        turn=rng.normal(0, 0.25),
        flip=bool(rng.random() < 0.5),
    )
    if rng.random() < 0.75:
        _scatter(Pen(image, colours, centre=(_CANVAS / 2, _CANVAS / 2), size=_CANVAS / 2), rng)
    draw_subject(style, pen, rng)
    return finish(image, SIZE, rng)


def _scatter(pen: Pen, rng: np.random.Generator) -> None:
    """Scraps of paper and strokes behind the subject, which say nothing."""
    for _ in range(int(rng.integers(1, 18))):
        x, y, size = rng.uniform(-1, 1), rng.uniform(-1, 1), rng.uniform(0.03, 0.2)
        role, kind = int(rng.integers(2, 6)), int(rng.integers(3))
        if kind == 0:
            pen.disc(x, y, size, size, role)
        elif kind == 1:
            angles = rng.uniform(0, 6.3) + np.arange(int(rng.integers(3, 5))) * 2 * np.pi / 3.5
            pen.shape(np.stack([x + size * np.cos(angles), y + size * np.sin(angles)], 1), role)
        else:
            angle = rng.uniform(0, 6.3)
            pen.line([(x, y), (x + 3 * size * np.cos(angle), y + 3 * size * np.sin(angle))], rng.uniform(0.01, 0.05), role)
