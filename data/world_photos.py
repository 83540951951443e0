"""Photos of the shop's goods: a thing of everyday use, in a colour of its own, with a motif printed on it."""

from __future__ import annotations

import colorsys
from collections.abc import Callable

import numpy as np

from data.world_pen import PAPER, Colour, Pen, draw_ground, draw_palette, finish
from data.world_subjects import SUBJECTS, draw_subject

STYLES = SUBJECTS
"""The motifs: what the photo alone tells."""
GOODS = ("mug", "cushion", "tote bag", "T-shirt", "plate", "notebook")
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "white", "black")
"""Attribute words, true to the photo."""
SIZE = 128
"""Pixels a side."""
_CANVAS = 2 * SIZE
_HUES = {"red": 0.0, "orange": 0.075, "yellow": 0.14, "green": 0.36, "blue": 0.6, "purple": 0.78}


def take_photo(style: int, good: int, colour: int, rng: np.random.Generator) -> np.ndarray:
    """One photo.

    Args:
        style: index in `STYLES`: the motif. good: index in `GOODS`. colour: index in `COLOURS`, of the thing.
        rng: chooses ground, place, turn, light, and the motif's make, colours and manner.

    Returns:
        uint8 RGB, [SIZE, SIZE, 3].

    Example:
        >>> take_photo(0, 1, 2, np.random.default_rng(0)).shape
        (128, 128, 3)
    """
    palette = draw_palette(rng)
    image = draw_ground(_CANVAS, palette, rng)
    size = _CANVAS / 2 * rng.uniform(0.85, 1.0)
    centre = (_CANVAS / 2 + rng.uniform(-8, 8), _CANVAS / 2 + rng.uniform(-8, 8))
    turn = rng.normal(0, 0.1)
    thing = _shade(colour, rng)
    dark = sum(thing) < 380
    shadow: Colour = (thing[0] * 3 // 4, thing[1] * 3 // 4, thing[2] * 3 // 4)
    pen = Pen(image, [thing, shadow], centre=centre, size=size, turn=turn)
    x, y, reach = _DRAWERS[good](pen)
    ink = rng.integers(200, 256, 3) if dark else rng.integers(0, 90, 3)
    palette = [thing, (int(ink[0]), int(ink[1]), int(ink[2])), *palette[2:]]
    offset = size * np.array([x * np.cos(turn) - y * np.sin(turn), x * np.sin(turn) + y * np.cos(turn)])
    motif = Pen(
        image,
        palette,
        int(rng.choice(3, p=[0.4, 0.25, 0.35])),
        centre=(centre[0] + offset[0] + rng.normal(0, 5), centre[1] + offset[1] + rng.normal(0, 5)),
        size=size * reach * rng.uniform(0.65, 1.0),
        turn=turn + rng.normal(0, 0.15),
        flip=bool(rng.random() < 0.5),
    )
    draw_subject(style, motif, rng)
    return finish(image, SIZE, rng)


def _shade(colour: int, rng: np.random.Generator) -> Colour:
    """A shade that people call by the colour's name."""
    name = COLOURS[colour]
    if name == "white":
        rgb: tuple[float, ...] = tuple(rng.uniform(0.92, 1.0, 3))
    elif name == "black":
        rgb = tuple(rng.uniform(0.05, 0.15, 3))
    else:
        rgb = colorsys.hls_to_rgb((_HUES[name] + rng.normal(0, 0.012)) % 1, rng.uniform(0.4, 0.65), rng.uniform(0.55, 0.95))
    return round(255 * rgb[0]), round(255 * rgb[1]), round(255 * rgb[2])


def _mug(pen: Pen) -> tuple[float, float, float]:
    pen.ring(0.66, 0.0, 0.24, 0.1, 1)
    pen.box(-0.72, -0.72, 0.62, 0.75, PAPER)
    pen.disc(-0.05, -0.72, 0.67, 0.12, 1)
    return -0.05, 0.05, 0.58


def _cushion(pen: Pen) -> tuple[float, float, float]:
    side = np.linspace(-0.9, 0.9, 9)
    dent = 0.9 - 0.1 * (1 - (side / 0.9) ** 2)
    sides = [(side, -dent), (dent, side), (-side, dent), (-dent, -side)]
    edge = np.concatenate([np.stack(one, 1) for one in sides])
    pen.shape(edge, PAPER)
    pen.line(np.concatenate([edge, edge[:1]]), 0.03, 1)
    return 0.0, 0.0, 0.66


def _bag(pen: Pen) -> tuple[float, float, float]:
    for x in (-0.3, 0.3):
        pen.line([(x - 0.12, -0.45), (x * 0.6, -0.95), (x + 0.12, -0.45)], 0.07, 1)
    pen.shape([(-0.75, -0.5), (0.75, -0.5), (0.68, 0.95), (-0.68, 0.95)], PAPER)
    return 0.0, 0.22, 0.6


def _shirt(pen: Pen) -> tuple[float, float, float]:
    outline = [(-0.25, -0.85), (-0.6, -0.75), (-1.0, -0.25), (-0.72, -0.05), (-0.58, -0.25), (-0.58, 0.92)]
    mirrored = [(-x, y) for x, y in reversed(outline)]
    pen.shape([*outline, *mirrored], PAPER)
    pen.disc(0, -0.85, 0.25, 0.12, 1)
    return 0.0, 0.1, 0.54


def _plate(pen: Pen) -> tuple[float, float, float]:
    pen.disc(0, 0, 0.95, 0.95, 1)
    pen.disc(0, 0, 0.92, 0.92, PAPER)
    pen.ring(0, 0, 0.72, 0.015, 1)
    return 0.0, 0.0, 0.6


def _notebook(pen: Pen) -> tuple[float, float, float]:
    pen.box(-0.66, -0.92, 0.74, 0.96, 1)
    pen.box(-0.7, -0.95, 0.7, 0.92, PAPER)
    pen.box(-0.7, -0.95, -0.58, 0.92, 1)
    return 0.06, 0.0, 0.6


_DRAWERS: tuple[Callable[[Pen], tuple[float, float, float]], ...] = (_mug, _cushion, _bag, _shirt, _plate, _notebook)
"""Each draws its thing and returns centre and half side of the place for the motif, in the pen's frame."""
