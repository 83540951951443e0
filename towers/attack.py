"""Adversarial examples: inputs moved a bounded way so that a gain grows, in one step (FGSM) or in several (PGD)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np

from towers.input_gradient import InputGradient

Norm = Literal["l2", "linf"]
Inputs = Mapping[str, np.ndarray]
"""{name: [B, ...]}; every input has a ball of its own around every line."""
STEPS = 10
REACH = 2.5
"""Steps of PGD together could go so many radii: enough to cross the ball and to walk along its rim (Madry et al.)."""


def relative_radius(vectors: np.ndarray, epsilon: float, norm: Norm) -> np.ndarray:
    """Radius of each line's ball: a share of the vector's length, or for `linf` of its root mean square.

    Formula: `eps |x|_2`, and `eps |x|_2 / sqrt(F)`. Either allows the same length of change at most.

    Shapes: vectors [B, F] -> [B].

    Example:
        >>> relative_radius(np.array([[3.0, 4.0, 0.0, 0.0]]), 0.1, "linf").tolist()
        [0.25]
    """
    lengths = np.linalg.norm(vectors.reshape(len(vectors), -1).astype(np.float64), axis=1)
    return epsilon * (lengths if norm == "l2" else lengths / np.sqrt(vectors[0].size))


def fgsm(gradient: InputGradient, inputs: Inputs, radius: Inputs, norm: Norm = "linf", bounds=None) -> dict[str, np.ndarray]:
    """The fast gradient sign method, and for `l2` the fast gradient method: one step to the rim of the ball.

    Formula: `x + r sign(g)`, or `x + r g / |g|_2`, g the gain's gradient at x. Goodfellow et al. (2015), *Explaining and
    harnessing adversarial examples*; on recommenders Tang et al. (2019), *Adversarial training towards robust multimedia
    recommender system* (AMR), and Di Noia et al. (2020), *TAaMR*.

    Args:
        gradient: of the gain that is to grow. inputs: {name: [B, ...]}. radius: {name: [B]}, at least 0.
        bounds: (low, high) of every entry, such as (0, 255) of pixels.

    Returns: {name: [B, ...]} float32.
    """
    start = _checked(inputs, radius, norm)
    _, slopes = gradient.at(start)
    return {
        name: _moved(start[name], start[name], _widened(radius[name], start[name]) * steepest(slopes[name], norm),
                     radius[name], norm, bounds)
        for name in start
    }  # fmt: skip


def pgd(
    gradient: InputGradient,
    inputs: Inputs,
    radius: Inputs,
    norm: Norm = "linf",
    bounds=None,
    *,
    steps: int = STEPS,
) -> dict[str, np.ndarray]:
    """Projected gradient ascent inside the ball, from where FGSM arrives; of all points passed, the best of each line.

    Formula: `x_{k+1} = P(x_k + a direction(g(x_k)))`, `a = 2.5 r / steps`, P the nearest point of the ball. Madry et al.
    (2018), *Towards deep learning models resistant to adversarial attacks*. It is never worse than FGSM or than no attack.

    Args: as for `fgsm`; steps: gradients taken after the first.

    Errors: ValueError: a radius below 0, an unknown norm, fewer than one step.
    """
    if steps < 1:
        raise ValueError(f"steps: must be at least 1, received {steps}; use fgsm for a single step")
    start = _checked(inputs, radius, norm)
    best, (best_gain, slopes) = start, gradient.at(start)
    current, pace = start, 1.0
    for _ in range(steps + 1):
        current = {
            name: _moved(current[name], start[name],
                         pace * _widened(radius[name], start[name]) * steepest(slopes[name], norm),
                         radius[name], norm, bounds)
            for name in start
        }  # fmt: skip
        gain, slopes = gradient.at(current)
        better = gain > best_gain
        best = {name: np.where(_widened(better, best[name]), current[name], best[name]) for name in start}
        best_gain, pace = np.maximum(gain, best_gain), REACH / steps
    return best


def steepest(slopes: np.ndarray, norm: Norm) -> np.ndarray:
    """The direction of length 1 in which a linear gain grows fastest; 0 where nothing changes it.

    Example:
        >>> steepest(np.array([[3.0, -4.0], [0.0, 0.0]]), "l2").tolist()
        [[0.6, -0.8], [0.0, 0.0]]
    """
    if norm == "linf":
        return np.sign(slopes)
    return slopes / _widened(np.maximum(_lengths(slopes), 1e-30), slopes)


def project(change: np.ndarray, radius: np.ndarray, norm: Norm) -> np.ndarray:
    """The nearest change inside the ball. Shapes: change [B, ...], radius [B] -> [B, ...].

    Example:
        >>> project(np.array([[3.0, 4.0]]), np.array([1.0]), "l2").round(3).tolist()
        [[0.6, 0.8]]
    """
    wide = _widened(radius, change)
    if norm == "linf":
        return np.clip(change, -wide, wide)
    return change * np.minimum(1.0, wide / _widened(np.maximum(_lengths(change), 1e-30), change))


def _moved(current, start, step, radius, norm: Norm, bounds) -> np.ndarray:
    moved = start + project(current + step - start, radius, norm)
    if bounds is not None:
        # Nearer to the start in every entry than before: still inside the ball.
        moved = np.clip(moved, *bounds)
    return moved.astype(np.float32)


def _checked(inputs: Inputs, radius: Inputs, norm: Norm) -> dict[str, np.ndarray]:
    if norm not in ("l2", "linf"):
        raise ValueError(f"norm: must be 'l2' or 'linf', received {norm!r}")
    for name, values in inputs.items():
        if np.shape(radius[name]) != (len(values),) or not (np.asarray(radius[name]) >= 0).all():
            raise ValueError(
                f"radius: must be [B] of at least 0 for {name!r}, received shape {np.shape(radius[name])}"
            )
    return {name: np.asarray(values, np.float32) for name, values in inputs.items()}


def _widened(values: np.ndarray, like: np.ndarray) -> np.ndarray:
    return np.asarray(values).reshape(-1, *[1] * (like.ndim - 1))


def _lengths(values: np.ndarray) -> np.ndarray:
    return np.linalg.norm(values.reshape(len(values), -1).astype(np.float64), axis=1)
