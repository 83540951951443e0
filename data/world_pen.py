"""A pen for the generated worlds: shapes in a frame of their own, placed, turned and coloured at random."""

from __future__ import annotations

import colorsys

import numpy as np
from PIL import Image, ImageDraw

Colour = tuple[int, int, int]
Points = list[tuple[float, float]]
PAPER, INK = 0, 1
"""Roles of the first two colours of a palette: what is behind, and what lines are drawn with. The others are free."""
MANNERS = ("painted", "outlined", "silhouette")
"""How a subject is drawn: in its colours, in lines only, or in one colour with its details left out."""
_ROUND = 40
_ANGLES = np.linspace(0, 2 * np.pi, _ROUND, endpoint=False)


class Pen:
    """Draws into an image what is given in a frame from -1 to 1 (y downwards).

    Args:
        image: RGB, changed in place.
        colours: palette; roles are indices into it.
        manner: index in `MANNERS`.
        centre, size: place of the frame's middle and half of its side, in pixels.
        turn: of the frame, in radians. flip: mirrors it.
    """

    def __init__(
        self,
        image: Image.Image,
        colours: list[Colour],
        manner: int = 0,
        *,
        centre: tuple[float, float],
        size: float,
        turn: float = 0.0,
        flip: bool = False,
    ) -> None:
        self.draw = ImageDraw.Draw(image)
        self.colours = colours
        self.manner = manner
        self.size = size
        self._centre = np.array(centre)
        cosine, sine = np.cos(turn) * size, np.sin(turn) * size
        self._matrix = np.array([[cosine, sine], [-sine, cosine]])
        if flip:
            self._matrix[0] *= -1

    def shape(self, points: Points | np.ndarray, role: int, detail: bool = False) -> None:
        """A filled polygon; a detail is what a silhouette leaves open."""
        placed = self._place(points)
        if MANNERS[self.manner] == "painted":
            self.draw.polygon(placed, fill=self.colours[role])
        elif MANNERS[self.manner] == "outlined":
            width = max(2, round(0.035 * self.size))
            self.draw.polygon(placed, fill=self.colours[PAPER])
            self.draw.line([*placed, placed[0]], fill=self.colours[INK], width=width, joint="curve")
        else:
            self.draw.polygon(placed, fill=self.colours[PAPER if detail else INK])

    def disc(self, x: float, y: float, radius: float, tall: float, role: int, detail: bool = False, lean: float = 0) -> None:
        """An ellipse of half-width `radius` and half-height `tall`, leaning by an angle."""
        across, along = radius * np.cos(_ANGLES), tall * np.sin(_ANGLES)
        turned = np.stack([across * np.cos(lean) - along * np.sin(lean), across * np.sin(lean) + along * np.cos(lean)], 1)
        self.shape(turned + np.array([x, y]), role, detail)

    def box(self, left: float, top: float, right: float, bottom: float, role: int, detail: bool = False) -> None:
        """A rectangle."""
        self.shape([(left, top), (right, top), (right, bottom), (left, bottom)], role, detail)

    def line(self, points: Points | np.ndarray, width: float, role: int = INK, detail: bool = False) -> None:
        """A line through points; its width is a share of the frame's half side."""
        one_colour = PAPER if detail and MANNERS[self.manner] == "silhouette" else INK
        colour = self.colours[role if MANNERS[self.manner] == "painted" else one_colour]
        self.draw.line(self._place(points), fill=colour, width=max(1, round(width * self.size)), joint="curve")

    def ring(self, x: float, y: float, radius: float, width: float, role: int = INK) -> None:
        """A circle that is not filled."""
        around = np.append(_ANGLES, _ANGLES[:2])
        self.line(np.stack([x + radius * np.cos(around), y + radius * np.sin(around)], 1), width, role)

    def _place(self, points: Points | np.ndarray) -> list[tuple[float, float]]:
        return [(float(x), float(y)) for x, y in np.asarray(points) @ self._matrix + self._centre]


def draw_palette(rng: np.random.Generator) -> list[Colour]:
    """Seven colours of any hue; the first two, paper and ink, differ in lightness by at least 0.35 of the range.

    Example:
        >>> len(draw_palette(np.random.default_rng(0)))
        7
    """
    lights = rng.uniform(0.1, 0.9, 7)
    if abs(lights[INK] - lights[PAPER]) < 0.35:
        lights[INK] = (lights[PAPER] + 0.5) % 1
    hues = (rng.random() + rng.choice([0.08, 0.5, 1.0]) * rng.random(7)) % 1
    tints = rng.uniform(0.05, 1.0, 7) * rng.choice([0.4, 1.0])
    colours = []
    for hue, light, tint in zip(hues, lights, tints, strict=True):
        red, green, blue = colorsys.hls_to_rgb(hue, light, tint)
        colours.append((round(255 * red), round(255 * green), round(255 * blue)))
    return colours


def draw_ground(side: int, colours: list[Colour], rng: np.random.Generator) -> Image.Image:
    """What lies behind the subject: a plain, a gradient, bands, checks, dots or specks between two like colours."""
    first = np.array(colours[PAPER], float)
    second = first + rng.uniform(0.1, 0.8) * (np.array(colours[2], float) - first)
    kind = int(rng.integers(6))
    angle, count, phase = rng.uniform(0, np.pi), rng.uniform(2, 9), rng.uniform(0, 2 * np.pi)
    axis = np.linspace(-1, 1, side // 2, dtype=np.float32)
    x, y = np.meshgrid(axis, axis)
    along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    waves = np.sin(np.pi * count * along + phase)
    if kind == 0:
        share = np.zeros_like(x)
    elif kind == 1:
        share = np.clip((along + 1) / 2, 0, 1)
    elif kind == 2:
        share = (waves > 0).astype(np.float32)
    elif kind == 3:
        share = (waves * np.sin(np.pi * count * across) > 0).astype(np.float32)
    elif kind == 4:
        share = (waves * np.sin(np.pi * count * across) > 0.6).astype(np.float32)
    else:
        share = rng.random(x.shape, dtype=np.float32)
    ground = first + share[..., None] * (second - first)
    pixels = Image.fromarray(np.clip(ground, 0, 255).astype(np.uint8))
    return pixels.resize((side, side), Image.Resampling.BILINEAR)


def finish(image: Image.Image, size: int, rng: np.random.Generator) -> np.ndarray:
    """Half the size or less, then print: another brightness and contrast, a little blur, and grain.

    Returns:
        uint8 [size, size, 3].
    """
    pixels = np.asarray(image.resize((size, size), Image.Resampling.BOX), np.float32)
    middle = pixels.mean()
    pixels = (pixels - middle) * rng.uniform(0.6, 1.15) + middle + rng.uniform(-25, 25)
    grain = rng.standard_normal((size, size), dtype=np.float32) * rng.uniform(0, 8)
    return np.clip(np.round(pixels + grain[..., None]), 0, 255).astype(np.uint8)
