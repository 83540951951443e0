"""Covers of the demo world: six abstract styles, each a palette and a pattern, drawn with NumPy."""

from __future__ import annotations

import colorsys

import numpy as np

STYLES = ("sunset", "bauhaus", "rings", "waves", "neon", "pastel")
"""The cover styles. There is no lettering on a cover: the text must not be readable from the picture."""
SIZE = 128
"""Pixels a side."""
_SOFT = 1.5 * 2 / SIZE

_PALETTES = (
    ("#2b1331 #7a1f4b #d1495b #f08a4b #ffd07b", "#31102a #8c2f39 #e05a3a #f4a259 #ffe3a3"),
    ("#f3ead7 #d7263d #1b4e9b #f2b705 #1c1c1c", "#efe6d2 #c8382e #23508e #e8a90c #252525"),
    ("#f4f4f1 #151515 #151515 #f4f4f1 #8a8a88", "#ecebe6 #1d1d20 #1d1d20 #ecebe6 #6f6f70"),
    ("#06302f #0f5a52 #2a8c72 #7cc6a0 #e3f3d6", "#0b2f38 #14606a #2f9a8f #86cfae #e8f5dc"),
    ("#0b0a1f #ff2e88 #19e3ff #8a4bff #1b1440", "#08081a #ff3fa4 #2bf0d8 #6f5bff #171238"),
    ("#f6e3e6 #f4bfd0 #c3d0f3 #c6e8d8 #f8e7b0", "#eae2f4 #dcc2ee #bcdaf3 #f5c6bf #e6edbd"),
)


def paint_cover(style: int, rng: np.random.Generator) -> np.ndarray:
    """One cover.

    Args:
        style: index in `STYLES`: palette and pattern. Layout, sizes, turns and small shifts of hue are free.
        rng: chooses everything else.

    Returns:
        uint8 RGB, [SIZE, SIZE, 3].

    Example:
        >>> paint_cover(0, np.random.default_rng(0)).shape
        (128, 128, 3)
    """
    if not 0 <= style < len(STYLES):
        raise ValueError(f"style: must be in 0..{len(STYLES) - 1}, received {style}; see STYLES")
    palettes = _PALETTES[style]
    colours = _palette(palettes[int(rng.integers(len(palettes)))], rng)
    axis = (np.arange(SIZE) + 0.5) / SIZE * 2 - 1
    x, y = np.meshgrid(axis, axis)
    image = _PAINTERS[style](x, y, colours, rng)
    # A faint darkening to the rim, as of a printed sleeve; it is the same for every style.
    image = image * (1 - 0.06 * np.clip(np.hypot(x, y) - 0.7, 0, None))[..., None]
    return np.round(np.clip(image, 0, 1) * 255).astype(np.uint8)


def _palette(text: str, rng: np.random.Generator) -> np.ndarray:
    """Five RGB rows in 0..1 with a common small shift of hue and brightness."""
    turn, gain = rng.normal(0, 0.012), rng.normal(1, 0.04)
    rows = []
    for word in text.split():
        red, green, blue = (int(word[i : i + 2], 16) / 255 for i in (1, 3, 5))
        hue, light, saturation = colorsys.rgb_to_hls(red, green, blue)
        rows.append(colorsys.hls_to_rgb((hue + turn) % 1, min(1.0, light * gain), saturation))
    return np.array(rows)


def _fill(colour: np.ndarray) -> np.ndarray:
    return np.broadcast_to(colour, (SIZE, SIZE, 3)).copy()


def _lay(image: np.ndarray, distance: np.ndarray, colour: np.ndarray, opacity: float = 1.0) -> np.ndarray:
    """Paints where the signed distance is negative, with a soft edge of about a pixel."""
    mask = opacity * np.clip(0.5 - distance / _SOFT, 0, 1)[..., None]
    return image * (1 - mask) + colour * mask


def _sunset(x: np.ndarray, y: np.ndarray, colours: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Warm sky in bands, a sun, and two or three ridges."""
    level = np.clip((y + 1) / 2 + rng.normal(0, 0.04), 0, 1) * 4
    image = np.stack([np.interp(level, np.arange(5), colours[:, channel]) for channel in range(3)], -1)
    centre, height, radius = rng.uniform(-0.5, 0.5), rng.uniform(-0.35, 0.2), rng.uniform(0.25, 0.42)
    sun = np.hypot(x - centre, y - height) - radius
    image = _lay(image, sun - 0.12, colours[4], 0.25)
    image = _lay(image, sun, colours[4] * 0.6 + 0.4)
    for index in range(int(rng.integers(2, 4))):
        ridge = 0.25 + 0.25 * index + 0.12 * np.sin(x * rng.uniform(1.5, 4) + rng.uniform(0, 6.3))
        ridge = ridge + 0.05 * np.sin(x * rng.uniform(5, 9) + rng.uniform(0, 6.3))
        image = _lay(image, ridge - y, colours[max(0, 1 - index)] * (1.25 - 0.3 * index))
    return image


def _bauhaus(x: np.ndarray, y: np.ndarray, colours: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A grid of quarter circles, discs, squares and triangles in primary colours on cream."""
    cells = int(rng.integers(3, 5))
    side = 2 / cells
    column, row = np.floor((x + 1) / side).astype(int), np.floor((y + 1) / side).astype(int)
    u, v = (x + 1) / side - column, (y + 1) / side - row
    image = _fill(colours[0])
    for place in range(cells * cells):
        inside = np.where((row == place // cells) & (column == place % cells), -1.0, 1.0)
        colour = colours[rng.choice([1, 2, 3, 4], p=[0.3, 0.3, 0.25, 0.15])]
        shape, turn = rng.integers(0, 5), rng.integers(0, 4)
        a, b = ((u, v), (v, 1 - u), (1 - u, 1 - v), (1 - v, u))[int(turn)]
        kinds = (np.hypot(a, b) - 1, np.hypot(a - 0.5, b - 0.5) - 0.42, a + b - 1, a - 0.5, np.hypot(a - 0.5, b) - 0.5)
        image = _lay(image, np.maximum(kinds[int(shape)] * side, inside), colour)
    return image


def _rings(x: np.ndarray, y: np.ndarray, colours: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Concentric rings in black and white, one or two centres, sometimes with a grey disc."""
    image = _fill(colours[0])
    if rng.random() < 0.5:
        colours = colours[[1, 0, 3, 2, 4]]
        image = _fill(colours[0])
    width = rng.uniform(0.11, 0.19)
    for _ in range(int(rng.integers(1, 3))):
        centre = rng.uniform(-0.7, 0.7, 2)
        radius = np.hypot(x - centre[0], y - centre[1])
        rings = (np.abs((radius / width + rng.random()) % 1 - 0.5) - 0.25) * width
        image = _lay(image, np.maximum(rings, radius - rng.uniform(0.7, 1.6)), colours[1])
        image = _lay(image, radius - rng.uniform(0.05, 0.2), colours[4])
    return image


def _waves(x: np.ndarray, y: np.ndarray, colours: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Overlapping sheets of green and teal with wavy tops, turned a little."""
    angle = rng.normal(0, 0.35)
    a, b = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    sheets = int(rng.integers(7, 11))
    image = _fill(colours[4])
    frequency, phase = rng.uniform(2, 4.5), rng.uniform(0, 6.3)
    for index in range(sheets):
        level = -1.1 + 2.3 * (index + 0.3) / sheets
        top = level + 0.11 * np.sin(frequency * a + phase + index * rng.uniform(0.5, 1.1))
        shade = np.clip(3.4 - 3.4 * index / (sheets - 1), 0, 4)
        colour = [np.interp(shade, np.arange(5), colours[:, channel]) for channel in range(3)]
        image = _lay(image, top - b, np.array(colour))
    return image


def _neon(x: np.ndarray, y: np.ndarray, colours: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Glowing thin lines and polygons on near-black."""
    image = _fill(colours[0]) + (colours[4] - colours[0]) * ((y + 1) / 2)[..., None]
    angle = rng.choice([0.6, 0.8, 2.3, 2.5]) + rng.normal(0, 0.08)
    for index in range(int(rng.integers(7, 12))):
        if index < 2:
            corners, turn = int(rng.integers(3, 7)), rng.uniform(0, 6.3)
            centre, size = rng.uniform(-0.35, 0.35, 2), rng.uniform(0.3, 0.65)
            theta = np.arctan2(y - centre[1], x - centre[0]) + turn
            sector = np.pi / corners
            radius = np.hypot(x - centre[0], y - centre[1]) * np.cos(theta % (2 * sector) - sector)
            distance = np.abs(radius - size * np.cos(sector))
        else:
            distance = np.abs(x * np.cos(angle) + y * np.sin(angle) - rng.uniform(-1.1, 1.1))
        colour = colours[1 + index % 3]
        glow = np.exp(-((distance / 0.07) ** 2))[..., None]
        image = image + 0.45 * glow * colour
        image = _lay(image, distance - 0.013, colour * 0.7 + 0.3)
    return image


def _pastel(x: np.ndarray, y: np.ndarray, colours: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Soft blurred clouds of pale colours."""
    image = _fill(colours[0])
    count, turn = int(rng.integers(7, 11)), rng.uniform(0, 6.3)
    for index in range(count):
        # A sunflower spiral spreads the clouds over the whole sleeve.
        reach, angle = 1.15 * np.sqrt((index + 0.5) / count), turn + 2.4 * index
        centre = reach * np.array([np.cos(angle), np.sin(angle)]) + rng.normal(0, 0.12, 2)
        size = rng.uniform(0.3, 0.6, 2)
        cloud = np.exp(-(((x - centre[0]) / size[0]) ** 2) - ((y - centre[1]) / size[1]) ** 2)[..., None]
        colour = colours[1 + index % 4]
        deep = colour - 0.6 * (colour.max() - colour)
        image = image * (1 - 0.85 * cloud) + deep * 0.85 * cloud
    return image


_PAINTERS = (_sunset, _bauhaus, _rings, _waves, _neon, _pastel)
