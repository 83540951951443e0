"""The linear towers that need no training loop, each with its settings chosen on validation."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from pipeline.retrieval.linear_judge import LinearJudge
from pipeline.settings.linear import LinearSection
from towers.closed_form import (
    ClosedFormSettings,
    co_occurrence,
    content_similarity,
    ease,
    spread_rows,
    truncate,
)
from towers.linear import LinearTower
from towers.spectral import spectral_tower, spectrum

Features = Mapping[str, tuple[np.ndarray, np.ndarray]]
"""{modality: (table [N + 1, F_m], present [N + 1])}; a video's table is pooled over its frames before."""
Say = Callable[[str], None]
WIDTHS = (0.25, 0.5, 0.75, 1.0)
"""Shares of the width that a truncated part may be cut to."""


def widths_of(width: int) -> list[int]:
    """
    >>> widths_of(256)
    [64, 128, 192, 256]
    """
    return sorted({max(2, int(share * width)) for share in WIDTHS})


def fit_closed_form(
    judge: LinearJudge, features: Features, section: LinearSection, say: Say = lambda line: None
) -> tuple[LinearTower, dict[str, Any]]:
    """Rank-truncated EASE: one setting at a time is chosen with the full matrix, and then the rank.

    Returns: the tower, and the settings chosen with their NDCG@20.
    """
    train = judge.train
    rows = rows_of(train, features)
    taken, history = train[:, rows], judge.taken[:, rows]
    grams = {power: co_occurrence(taken, power) for power in section.user_power}
    content = content_similarity(features, rows) if features else None
    tried: dict[ClosedFormSettings, float] = {}

    def quality(settings: ClosedFormSettings) -> float:
        if settings not in tried:
            weights = ease(grams[settings.user_power], settings, content, exact=False)
            scores = np.full((history.shape[0], train.shape[1]), -np.inf, np.float32)
            scores[:, rows] = history @ weights
            tried[settings] = judge.ndcg(scores)
            say(f"closed form {dataclasses.asdict(settings)}: {tried[settings]:.4f}")
        return tried[settings]

    grids = {
        "l2": section.l2,
        "user_power": section.user_power,
        "dropout": section.history_dropout,
        "content": section.content if features else (0.0,),
    }
    best = ClosedFormSettings(**{name: values[len(values) // 2] for name, values in grids.items()})
    for name, values in grids.items():
        along = [dataclasses.replace(best, **{name: value}) for value in values]
        best = climb(along, len(values) // 2, quality)
    sides = truncate(ease(grams[best.user_power], best, content), grams[best.user_power], section.width)
    cut = {
        width: spread_rows(sides[0][:, :width], sides[1][:, :width], rows, train.shape[1])
        for width in widths_of(sides[1].shape[1])
    }
    figures = {width: judge.ndcg(judge.scores(tower)) for width, tower in cut.items()}
    width = max(figures, key=lambda width: figures[width])
    return cut[width], {
        **dataclasses.asdict(best),
        "width": width,
        "valid_ndcg@20": figures[width],
        "valid_ndcg@20_full_rank": tried[best],
    }


def rows_of(taken: Any, features: Features) -> np.ndarray:
    """Item rows that a closed form can say something about: those with an event or with content."""
    known = np.asarray(taken.sum(axis=0)).ravel() > 0
    for _, present in features.values():
        known = known | np.asarray(present)
    return np.flatnonzero(known[1:]) + 1


def refit_closed_form(taken: Any, features: Features, chosen: Mapping[str, Any]) -> LinearTower:
    """The closed form of other histories with the settings that `fit_closed_form` chose.

    Args:
        taken: sparse [U, N + 1]. chosen: what `fit_closed_form` returned beside the tower.
    """
    settings = ClosedFormSettings(**{field.name: chosen[field.name] for field in dataclasses.fields(ClosedFormSettings)})
    rows = rows_of(taken, features)
    gram = co_occurrence(taken[:, rows], settings.user_power)
    content = content_similarity(features, rows) if features else None
    history, items = truncate(ease(gram, settings, content), gram, chosen["width"])
    return spread_rows(history, items, rows, taken.shape[1])


def refit_spectral(taken: Any, features: Features, chosen: Mapping[str, Any], seed: int) -> LinearTower:
    """The graph of other histories with the settings that `fit_spectral` chose."""
    width = chosen["width"]
    values, vectors = spectrum(taken, features, content=chosen["content_edges"], width=width, seed=seed)
    counts = np.asarray(taken.sum(axis=0)).ravel()
    return spectral_tower(values, vectors, counts, diffusion=chosen["diffusion"], width=width)


def climb(settings: Sequence[ClosedFormSettings], start: int, quality: Callable[[ClosedFormSettings], float]):
    """The best of an ordered range by walking uphill from a place in it: half the range is seldom looked at.

    Example:
        >>> climb([0, 1, 2, 3, 4], 2, lambda value: -abs(value - 3))
        3
    """
    place = start
    for step in (1, -1):
        while 0 <= place + step < len(settings) and quality(settings[place + step]) > quality(settings[place]):
            place += step
        if place != start:
            break
    return settings[place]


def fit_spectral(
    judge: LinearJudge, features: Features, section: LinearSection, say: Say = lambda line: None
) -> tuple[LinearTower, dict[str, Any]]:
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
        say(f"spectral, content {content}: {best[0] if best else 0.0:.4f}")
    assert best is not None
    return best[1], {**best[2], "valid_ndcg@20": best[0]}


def choose_weights(
    judge: LinearJudge, scores: Mapping[str, np.ndarray], steps: tuple[float, ...] = (0, 0.1, 0.2, 0.3, 0.5, 0.7, 1, 1.5)
) -> tuple[dict[str, float], float]:
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
            for step in steps:
                if step != current and (step or any(value for other, value in weights.items() if other != name)):
                    figure = judge.ndcg(rest + step * part)
                    if figure > best:
                        best, weights[name] = figure, float(step)
            total = rest + weights[name] * part
        if best == before:
            break
    return weights, best
