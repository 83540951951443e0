"""Moving pictures of the video world: six things that move, each in its own way, in any colours, light and pace."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image

from data.world_pen import PAPER, Pen, draw_ground, draw_palette

STYLES = ("bouncing ball", "windmill", "waves", "fireworks", "walker", "birds")
"""What moves: the factor that only the frames tell."""
SIZE = 96
"""Pixels a side."""
RATE = 8
"""Frames a second."""
SECONDS = 3
FRAMES = RATE * SECONDS
_CANVAS = 2 * SIZE
Moment = Callable[[Pen, float], None]


def film(style: int, rng: np.random.Generator) -> np.ndarray:
    """The frames of one video.

    Args:
        style: index in `STYLES`: what moves and how.
        rng: chooses its make, colours, ground, place, size, pace and light.

    Returns:
        uint8 RGB, [FRAMES, SIZE, SIZE, 3].

    Example:
        >>> film(0, np.random.default_rng(0)).shape
        (24, 96, 96, 3)
    """
    if not 0 <= style < len(STYLES):
        raise ValueError(f"style: must be in 0..{len(STYLES) - 1}, received {style}; see STYLES")
    colours = draw_palette(rng)
    ground = draw_ground(_CANVAS, colours, rng)
    size = _CANVAS / 2 * rng.uniform(0.65, 1.0)
    room = _CANVAS / 2 - 0.8 * size
    place = (_CANVAS / 2 + room * rng.uniform(-1, 1), _CANVAS / 2 + room * rng.uniform(-1, 1))
    manner, turn, flip = int(rng.choice(3, p=[0.6, 0.15, 0.25])), rng.normal(0, 0.08), bool(rng.random() < 0.5)
    scene = _SCENES[style](rng)
    gain, lift, drift = rng.uniform(0.7, 1.1), rng.uniform(-20, 20), rng.normal(0, 4, 2)
    frames = np.empty((FRAMES, SIZE, SIZE, 3), np.uint8)
    for index in range(FRAMES):
        seconds = index / RATE
        image = ground.copy()
        # The camera is held by hand: it drifts a little.
        moved = (place[0] + drift[0] * seconds, place[1] + drift[1] * seconds)
        scene(Pen(image, colours, manner, centre=moved, size=size, turn=turn, flip=flip), seconds)
        pixels = np.asarray(image.resize((SIZE, SIZE), Image.Resampling.BOX), np.float32)
        frames[index] = np.clip((pixels - 128) * gain + 128 + lift, 0, 255)
    return frames


def _ball(rng: np.random.Generator) -> Moment:
    """A ball that bounces along the floor, with seams that turn."""
    pace, height, radius, phase = rng.uniform(0.8, 1.6), rng.uniform(0.8, 1.4), rng.uniform(0.18, 0.32), rng.random()
    spin = rng.uniform(2, 7)

    def scene(pen: Pen, seconds: float) -> None:
        step = (pace * seconds + phase) % 1
        x = 0.7 * np.sin(1.1 * seconds + 6.3 * phase)
        y = 0.75 - radius - height * 4 * step * (1 - step)
        pen.box(-1.2, 0.75, 1.2, 0.85, 6)
        pen.disc(x, 0.8, radius * (0.5 + 0.5 * abs(2 * step - 1)), 0.04, 2)
        pen.disc(x, y, radius, radius, 3)
        for angle in (spin * seconds, spin * seconds + 1.05, spin * seconds + 2.1):
            reach = 0.9 * radius * np.array([np.cos(angle), np.sin(angle)])
            pen.line([(x - reach[0], y - reach[1]), (x + reach[0], y + reach[1])], 0.04, 4, detail=True)

    return scene


def _windmill(rng: np.random.Generator) -> Moment:
    """Vanes that turn on a tower."""
    pace, vanes, phase, wide = rng.uniform(1.2, 4), int(rng.integers(3, 6)), rng.uniform(0, 6.3), rng.uniform(0.1, 0.2)

    def scene(pen: Pen, seconds: float) -> None:
        pen.shape([(-0.25, 1), (0.25, 1), (0.13, -0.25), (-0.13, -0.25)], 3)
        for angle in phase + pace * seconds + np.arange(vanes) * 2 * np.pi / vanes:
            ahead, aside = np.array([np.cos(angle), np.sin(angle)]), np.array([-np.sin(angle), np.cos(angle)])
            tip, hub = 0.75 * ahead, np.array([0, -0.25])
            pen.shape(np.array([hub, hub + 0.2 * ahead + wide * aside, hub + tip + wide * aside, hub + tip]), 4)
        pen.disc(0, -0.25, 0.08, 0.08, 5, detail=True)

    return scene


def _waves(rng: np.random.Generator) -> Moment:
    """Rolling water and a boat that rides it."""
    pace, length, height, phase = rng.uniform(1.5, 4), rng.uniform(2.5, 5), rng.uniform(0.06, 0.14), rng.uniform(0, 6.3)
    x = np.linspace(-2.6, 2.6, 60)
    boat = rng.random() < 0.7

    def scene(pen: Pen, seconds: float) -> None:
        for row in range(3):
            top = 0.15 + 0.28 * row + height * np.sin(length * x + phase + 2 * row - pace * seconds * (1 + 0.3 * row))
            if row == 1 and boat:
                y = 0.2 + height * np.sin(phase - pace * seconds)
                pen.shape([(-0.45, y), (0.45, y), (0.28, y + 0.22), (-0.28, y + 0.22)], 6)
                pen.shape([(0, y - 0.75), (0.38, y - 0.08), (0, y - 0.08)], 5)
            pen.shape(np.concatenate([np.stack([x, top], 1), [[2.6, 2.6], [-2.6, 2.6]]]), 3 + row % 2, detail=row % 2 == 1)

    return scene


def _fireworks(rng: np.random.Generator) -> Moment:
    """Sparks that rise, burst and fall."""
    places = [(rng.uniform(-0.5, 0.5), rng.uniform(-0.6, 0.0)) for _ in range(4)]
    bursts = [(x, y, rng.uniform(-0.6, 2.2), rng.uniform(0.5, 0.8)) for x, y in places]
    rays = int(rng.integers(9, 16))

    def scene(pen: Pen, seconds: float) -> None:
        for number, (x, y, start, reach) in enumerate(bursts):
            age = seconds - start
            if -0.5 < age < 0:
                pen.line([(x, 1 + (y - 1) * (1 + 2 * age)), (x, 1.15 + (y - 1) * (1 + 2 * age))], 0.04, 3)
            elif 0 <= age < 1.1:
                out, inner = reach * (1 - np.exp(-4 * age)), reach * (1 - np.exp(-2 * age)) * 0.8
                for angle in np.arange(rays) * 2 * np.pi / rays + number:
                    ray = np.array([np.cos(angle), np.sin(angle)])
                    fall = np.array([0, 0.35 * age * age])
                    pen.line(np.array([(x, y) + inner * ray + fall, (x, y) + out * ray + fall]), 0.03, 3 + number % 3)

    return scene


def _walker(rng: np.random.Generator) -> Moment:
    """A figure that strides, arms and legs swinging."""
    pace, stride, phase, thick = rng.uniform(4, 8), rng.uniform(0.4, 0.65), rng.uniform(0, 6.3), rng.uniform(0.09, 0.15)
    hat = rng.random() < 0.4

    def scene(pen: Pen, seconds: float) -> None:
        swing = stride * np.sin(pace * seconds + phase)
        bob = 0.04 * abs(np.cos(pace * seconds + phase))
        hip, neck = (0.0, 0.15 - bob), (0.03, -0.45 - bob)
        for side, role in ((1, 4), (-1, 5)):
            knee = (hip[0] + 0.4 * np.sin(side * swing) + 0.06, hip[1] + 0.4 * np.cos(side * swing))
            foot = (knee[0] + 0.42 * np.sin(side * swing - 0.25), knee[1] + 0.42 * np.cos(side * swing - 0.25))
            pen.line([hip, knee, foot, (foot[0] + 0.14, foot[1])], thick, role)
            elbow = (neck[0] - 0.32 * np.sin(side * swing), neck[1] + 0.08 + 0.3 * np.cos(side * swing))
            pen.line([(neck[0], neck[1] + 0.08), elbow, (elbow[0] + 0.22, elbow[1] + 0.1)], thick * 0.7, role)
        pen.line([hip, neck], thick * 1.7, 3)
        pen.disc(neck[0] + 0.02, neck[1] - 0.2, 0.16, 0.19, 6)
        if hat:
            pen.box(neck[0] - 0.2, neck[1] - 0.42, neck[0] + 0.24, neck[1] - 0.34, 2)

    return scene


def _birds(rng: np.random.Generator) -> Moment:
    """A few birds that beat their wings and cross the sky."""
    count = int(rng.integers(2, 6))
    places = [(rng.uniform(-1, 1), rng.uniform(-0.6, 0.6)) for _ in range(count)]
    flock = [(x, y, rng.uniform(0.22, 0.4), rng.uniform(0, 6.3)) for x, y in places]
    pace, beat = rng.uniform(0.25, 0.6), rng.uniform(5, 9)

    def scene(pen: Pen, seconds: float) -> None:
        for x, y, size, phase in flock:
            at, lift = (x + pace * seconds + 1.2) % 2.4 - 1.2, 0.8 * size * np.sin(beat * seconds + phase)
            for side in (-1, 1):
                elbow, tip = (at + side * 0.55 * size, y - 0.35 * size - 0.5 * lift), (at + side * 1.1 * size, y - lift)
                pen.shape([(at, y), elbow, tip, (at + side * 0.5 * size, y - 0.3 * lift + 0.05)], 3)
            pen.disc(at, y + 0.02, 0.16 * size, 0.34 * size, 4)
            pen.disc(at, y - 0.3 * size, 0.13 * size, 0.13 * size, 5 if size > 0.3 else PAPER, detail=True)

    return scene


_SCENES: tuple[Callable[[np.random.Generator], Moment], ...] = (_ball, _windmill, _waves, _fireworks, _walker, _birds)
