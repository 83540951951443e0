"""The spectral part of the linear tower, its settings chosen on validation, and what every part weighs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from pipeline.retrieval.linear_judge import LinearJudge
from pipeline.settings.linear import LinearSection
from towers.linear import LinearTower
from towers.spectral import spectral_tower, spectrum

Features = Mapping[str, tuple[np.ndarray, np.ndarray]]
"""{modality or column: (table [N + 1, F], present [N + 1])}; a video's table is pooled over its frames before."""
WIDTHS = (0.25, 0.5, 0.75, 1.0)
"""Shares of the width that a truncated part may be cut to."""
STEPS = (0, 0.1, 0.2, 0.3, 0.5, 0.7, 1, 1.5)
"""Weights that a part is tried with in the sum."""


def widths_of(width: int) -> list[int]:
    """
    >>> widths_of(256)
    [64, 128, 192, 256]
    """
    return sorted({max(2, int(share * width)) for share in WIDTHS})


def refit_spectral(taken: Any, features: Features, chosen: Mapping[str, Any], seed: int) -> LinearTower:
    """The graph of other histories with the settings that `fit_spectral` chose."""
    width = chosen["width"]
    values, vectors = spectrum(taken, features, content=chosen["content_edges"], width=width, seed=seed)
    counts = np.asarray(taken.sum(axis=0)).ravel()
    return spectral_tower(values, vectors, counts, diffusion=chosen["diffusion"], width=width)


def fit_spectral(judge: LinearJudge, features: Features, section: LinearSection) -> tuple[LinearTower, dict[str, Any]]:
    """Diffusion on the graph of items, with and without edges of content; time and width chosen on validation."""
    counts = np.asarray(judge.train.sum(axis=0)).ravel()
    best: tuple[float, LinearTower, dict[str, Any]] | None = None
    for content in sorted({0.0, section.content_edges if features else 0.0}):
        values, vectors = spectrum(judge.train, features, content=content, width=section.width, seed=section.seed)
        for width in widths_of(len(values)):
            for diffusion in section.diffusion:
                tower = spectral_tower(values, vectors, counts, diffusion=diffusion, width=width)
                figure = judge.ndcg(judge.scores(tower))
                if best is None or figure > best[0]:
                    best = figure, tower, {"content_edges": content, "diffusion": diffusion, "width": width}
    assert best is not None
    return best[1], {**best[2], "valid_ndcg@20": best[0]}


def choose_weights(judge: LinearJudge, scores: Mapping[str, np.ndarray]) -> tuple[dict[str, float], float]:
    """Weights of a sum of scores by coordinate ascent on validation NDCG@20, from the best part alone.

    Args:
        scores: by part, [Q, N + 1], of comparable size.

    Returns: weight by part, and the NDCG@20 reached.
    """
    alone = {name: judge.ndcg(part) for name, part in scores.items()}
    first = max(alone, key=lambda name: alone[name])
    weights, best = {name: float(name == first) for name in scores}, alone[first]
    total = scores[first].copy()
    for _ in range(2):
        before = best
        for name, part in scores.items():
            rest, current = total - weights[name] * part, weights[name]
            for step in STEPS:
                if step != current and (step or any(value for other, value in weights.items() if other != name)):
                    figure = judge.ndcg(rest + step * part)
                    if figure > best:
                        best, weights[name] = figure, float(step)
            total = rest + weights[name] * part
        if best == before:
            break
    return weights, best
