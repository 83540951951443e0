"""Six subjects that the generated worlds depict: each has many makes, and is known by its form alone."""

from __future__ import annotations

import numpy as np

from data.world_pen import PAPER, Pen

SUBJECTS = ("portrait", "flowers", "mountains", "bicycle", "houses", "balloons")


def draw_subject(style: int, pen: Pen, rng: np.random.Generator) -> None:
    """Draws a subject into the pen's frame.

    Args:
        style: index in `SUBJECTS`.
        pen: place, size, colours and manner. rng: chooses the make.
    """
    if not 0 <= style < len(SUBJECTS):
        raise ValueError(f"style: must be in 0..{len(SUBJECTS) - 1}, received {style}; see SUBJECTS")
    _DRAWERS[style](pen, rng)


def _portrait(pen: Pen, rng: np.random.Generator) -> None:
    """Head and shoulders: hair, eyes, mouth, perhaps glasses or a hat."""
    skin, hair, cloth = 3, 4, 5
    wide, tall = rng.uniform(0.32, 0.42), rng.uniform(0.42, 0.52)
    long_hair, hat = rng.random() < 0.5, rng.random() < 0.3
    if long_hair:
        pen.disc(0, -0.15, wide * 1.35, tall * 1.45, hair)
    shoulder = rng.uniform(0.6, 0.85)
    left = [(-shoulder, 1), (-shoulder * 0.8, 0.58), (-0.15, 0.42)]
    pen.shape([*left, *((-x, y) for x, y in reversed(left))], cloth)
    pen.box(-0.13, 0.1, 0.13, 0.5, skin)
    pen.disc(0, -0.2, wide, tall, skin)
    top = np.linspace(np.pi, 2 * np.pi, 20)
    fringe = rng.uniform(-0.5, -0.3)
    cap = [(wide * 1.08 * np.cos(a), -0.22 + tall * 1.1 * np.sin(a)) for a in top]
    parting = [(wide * 0.7, fringe), (rng.uniform(-0.2, 0.2), fringe - 0.1), (-wide * 0.7, fringe)]
    pen.shape([*cap, *parting], hair, detail=not long_hair)
    if hat:
        pen.shape([(-wide * 1.5, -0.5), (wide * 1.5, -0.5), (wide * 1.4, -0.58), (-wide * 1.4, -0.58)], 6, detail=True)
        pen.box(-wide, -0.85, wide, -0.55, 6)
    eye, look = wide * 0.42, rng.uniform(-0.02, 0.02)
    for side in (-1, 1):
        pen.disc(side * eye, -0.22, 0.07, 0.045, PAPER, detail=True)
        pen.disc(side * eye + look, -0.22, 0.03, 0.035, 1)
        pen.line([(side * eye - 0.09, -0.33), (side * eye + 0.09, -0.33 + rng.uniform(-0.03, 0.03))], 0.03, detail=True)
    if rng.random() < 0.35:
        for side in (-1, 1):
            pen.ring(side * eye, -0.22, 0.13, 0.025)
        pen.line([(-eye + 0.13, -0.22), (eye - 0.13, -0.22)], 0.025)
    pen.line([(0, -0.18), (0.05, -0.04), (0, -0.03)], 0.025, detail=True)
    smile = rng.uniform(-0.04, 0.07)
    pen.line([(-0.13, 0.08), (0, 0.08 + smile), (0.13, 0.08)], 0.035, detail=True)


def _flowers(pen: Pen, rng: np.random.Generator) -> None:
    """One to four blossoms on stems with leaves, sometimes in a pot."""
    count, pot = int(rng.integers(1, 5)), rng.random() < 0.4
    ground = 0.55 if pot else 1.0
    petals, thin, reach = int(rng.integers(5, 12)), rng.uniform(0.25, 0.6), rng.uniform(0.3, 0.42) / count**0.35
    for index in range(count):
        x = (index - (count - 1) / 2) * rng.uniform(0.38, 0.5)
        y = rng.uniform(-0.6, -0.2)
        bend = rng.uniform(-0.15, 0.15)
        pen.line([(x, y), (x * 0.7 + bend, (y + ground) / 2), (x * 0.35, ground)], 0.045, 3)
        for side in (-1, 1):
            if rng.random() < 0.8:
                pen.disc(x * 0.6 + side * 0.16, rng.uniform(0.2, 0.5), 0.17, 0.065, 3, lean=-side * 0.6)
        turn = rng.uniform(0, 6.3)
        for angle in turn + np.arange(petals) * 2 * np.pi / petals:
            petal = (x + 0.6 * reach * np.cos(angle), y + 0.6 * reach * np.sin(angle))
            pen.disc(*petal, reach * 0.45, reach * thin * 0.5, 4, lean=angle)
        pen.disc(x, y, reach * 0.3, reach * 0.3, 5, detail=True)
    if pot:
        pen.shape([(-0.4, 0.5), (0.4, 0.5), (0.28, 1), (-0.28, 1)], 6)
        pen.box(-0.45, 0.45, 0.45, 0.58, 6)


def _mountains(pen: Pen, rng: np.random.Generator) -> None:
    """Two to four peaks with snow, the sun or the moon above, water or land below."""
    if rng.random() < 0.8:
        round_ = rng.uniform(0.12, 0.25)
        pen.disc(rng.uniform(-0.8, 0.8), rng.uniform(-0.85, -0.5), round_, round_, 3)
    base = rng.uniform(0.45, 0.75)
    count = int(rng.integers(2, 5))
    order = rng.permutation(count)
    for index in order:
        x = (index - (count - 1) / 2) * 1.5 / count + rng.uniform(-0.1, 0.1)
        peak, half = rng.uniform(-0.75, -0.1), rng.uniform(0.45, 0.8)
        middle = (peak + base) / 2
        slope = [(x - half, base), (x - half * 0.4, middle - 0.05), (x, peak), (x + half * 0.5, middle), (x + half, base)]
        pen.shape(slope, 4 + int(index) % 2)
        low = peak + (base - peak) * rng.uniform(0.2, 0.4)
        share = (low - peak) / (base - peak) * half * 0.85
        hem = [(x + share * 0.3, low - 0.06), (x, low + 0.05), (x - share * 0.4, low - 0.05), (x - share, low)]
        pen.shape([(x, peak), (x + share, low), *hem], PAPER, detail=True)
    pen.box(-1.05, base, 1.05, 1.0, 6)
    for _ in range(int(rng.integers(0, 4))):
        x, y = rng.uniform(-0.8, 0.6), rng.uniform(base + 0.05, 0.95)
        pen.line([(x, y), (x + 0.25, y)], 0.025, PAPER, detail=True)


def _bicycle(pen: Pen, rng: np.random.Generator) -> None:
    """Two wheels with spokes, a frame, a saddle and a handlebar, perhaps a basket."""
    wheel, apart, thick = rng.uniform(0.36, 0.46), rng.uniform(0.5, 0.58), rng.uniform(0.04, 0.075)
    axle, tyre, frame = 0.4, 4, 3
    for side in (-1, 1):
        pen.ring(side * apart, axle, wheel, thick, tyre)
        spokes = int(rng.choice([0, 6, 10]))
        for angle in np.arange(spokes) * 2 * np.pi / max(spokes, 1):
            pen.line([(side * apart, axle), (side * apart + wheel * np.cos(angle), axle + wheel * np.sin(angle))], 0.015, tyre)
    seat, head, crank = (-0.25, rng.uniform(-0.32, -0.2)), (rng.uniform(0.3, 0.4), -0.35), (-0.05, axle + 0.02)
    for points in ([(-apart, axle), crank, seat, (-apart, axle)], [crank, head, seat], [head, (apart, axle)]):
        pen.line(points, thick, frame)
    pen.line([seat, (seat[0] - 0.03, seat[1] - 0.14)], thick, frame)
    pen.disc(seat[0] - 0.04, seat[1] - 0.16, 0.15, 0.05, 5)
    bar = rng.uniform(-0.2, 0.15)
    pen.line([head, (head[0] - 0.02, head[1] - 0.2), (head[0] + bar, head[1] - 0.27)], thick * 0.8, tyre)
    pen.disc(crank[0], crank[1], 0.09, 0.09, tyre)
    if rng.random() < 0.3:
        pen.box(head[0] + 0.05, head[1] - 0.18, head[0] + 0.38, head[1] + 0.08, 6)


def _houses(pen: Pen, rng: np.random.Generator) -> None:
    """One to three houses with roofs, doors, windows and chimneys."""
    count = int(rng.integers(1, 4))
    width = 1.7 / count
    for index in range(count):
        left = -0.85 + index * width
        right = left + width * rng.uniform(0.8, 0.98)
        top = rng.uniform(-0.3, 0.1)
        body, roof = 3 + index % 2, 5
        if rng.random() < 0.6:
            chimney = right - 0.3 * (right - left)
            pen.box(chimney, top - 0.5, chimney + 0.12, top, body)
        pen.box(left, top, right, 0.8, body)
        ridge = top - rng.uniform(0.3, 0.6)
        eaves, inset = 0.07, rng.choice([0.5, 0.5, 0.25]) * (right - left)
        pen.shape([(left - eaves, top), (left + inset, ridge), (right - inset, ridge), (right + eaves, top)], roof)
        columns, rows = int(rng.integers(2, 4)), int(rng.integers(1, 4))
        cell = (right - left) / columns
        tall = (0.45 - top) / rows
        for row in range(rows):
            for column in range(columns):
                x, y = left + (column + 0.28) * cell, top + (row + 0.3) * tall
                pen.box(x, y, x + 0.44 * cell, y + 0.5 * tall, 6, detail=True)
        door = left + rng.uniform(0.25, 0.6) * (right - left)
        pen.box(door, 0.5, door + 0.18 * min(1, width), 0.8, 2, detail=True)


def _balloons(pen: Pen, rng: np.random.Generator) -> None:
    """One to three hot-air balloons with gores, ropes and baskets."""
    count = int(rng.choice([1, 1, 2, 3]))
    for index in range(count):
        size = rng.uniform(0.55, 0.72) if count == 1 else rng.uniform(0.3, 0.42)
        x = 0.0 if count == 1 else (index - (count - 1) / 2) * 0.75
        y = -0.3 if count == 1 else rng.uniform(-0.5, 0.2)
        around = np.linspace(0.75 * np.pi, 2.25 * np.pi, 30)
        skin = [(x + size * np.cos(a), y + size * np.sin(a)) for a in around]
        mouth = y + 1.45 * size
        pen.shape([*skin, (x + 0.16 * size, mouth), (x - 0.16 * size, mouth)], 3)
        for gore in np.linspace(-0.62, 0.62, int(rng.integers(2, 6))):
            bow = [(x + gore * size * np.cos(t), y + size * np.sin(t)) for t in np.linspace(-1.45, 0.9, 14)]
            pen.line([*bow, (x + gore * 0.2 * size, mouth)], 0.05 * size / 0.4 * rng.uniform(0.5, 1.6), 4, detail=True)
        basket = mouth + 0.28 * size
        for side in (-1, 1):
            pen.line([(x + side * 0.16 * size, mouth), (x + side * 0.13 * size, basket)], 0.02, 1)
        pen.box(x - 0.16 * size, basket, x + 0.16 * size, basket + 0.22 * size, 5)


_DRAWERS = (_portrait, _flowers, _mountains, _bicycle, _houses, _balloons)
