"""The closed form of the linear tower: its settings, and the columns of the catalogue that join it, chosen on validation."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from data.schema import MODALITIES
from pipeline.metrics.metrics import mean_over_users
from pipeline.retrieval.linear_judge import LinearJudge
from pipeline.retrieval.linear_parts import Features, widths_of
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

NewItems = Callable[[LinearTower], np.ndarray]
"""Of a tower the NDCG@20 of every user [Q], of new items among themselves: see `pipeline.retrieval.new_items`."""
LUCK = 2.0
"""Standard errors by which a column must be of use: of a dozen that say nothing, one or two gain by one."""
COLUMNS = "chosen_columns"


class ClosedFormTrials:
    """What every setting of a closed form is tried on.

    Args:
        features: the modalities and columns; columns alone make no item known.
    """

    def __init__(self, judge: LinearJudge, features: Features, section: LinearSection) -> None:
        media = {kind: features[kind] for kind in features if kind in MODALITIES}
        self.judge, self.width, self.rows = judge, section.width, rows_of(judge.train, features)
        taken, self.history = judge.train[:, self.rows], judge.taken[:, self.rows]
        self.grams = {power: co_occurrence(taken, power) for power in section.user_power}
        self.content = content_similarity(media, self.rows) if media else None

    def values(self, settings: ClosedFormSettings, columns: np.ndarray | None) -> np.ndarray:
        """NDCG@20 of every user by the full matrix. columns: [K, K] of `content_similarity`. [Q]"""
        weights = ease(self.grams[settings.user_power], settings, self.content, columns, exact=False)
        scores = np.full((self.history.shape[0], self.judge.train.shape[1]), -np.inf, np.float32)
        scores[:, self.rows] = self.history @ weights
        return self.judge.values(scores)

    def tower(self, settings: ClosedFormSettings, columns: np.ndarray | None) -> LinearTower:
        """The matrix cut to `linear.width`."""
        gram = self.grams[settings.user_power]
        sides = truncate(ease(gram, settings, self.content, columns), gram, self.width)
        return spread_rows(*sides, self.rows, self.judge.train.shape[1])


def fit_closed_form(
    judge: LinearJudge, features: Features, section: LinearSection, new_items: NewItems | None = None
) -> tuple[LinearTower, dict[str, Any]]:
    """Rank-truncated EASE: one setting at a time is chosen with the full matrix, then the columns that join, then the rank.

    Args:
        new_items: see `join_columns`.

    Returns: the tower, and the settings and columns chosen with their NDCG@20.
    """
    trials = ClosedFormTrials(judge, features, section)
    alike: np.ndarray | None = None
    tried: dict[ClosedFormSettings, float] = {}

    def quality(settings: ClosedFormSettings) -> float:
        if settings not in tried:
            tried[settings] = mean_over_users(trials.values(settings, alike))
        return tried[settings]

    grids = {
        "l2": section.l2,
        "user_power": section.user_power,
        "dropout": section.history_dropout,
        "content": section.content if trials.content is not None else (0.0,),
    }
    best = ClosedFormSettings(**{name: values[len(values) // 2] for name, values in grids.items()})
    for name, values in grids.items():
        along = [dataclasses.replace(best, **{name: value}) for value in values]
        best = climb(along, len(values) // 2, quality)
    along = [dataclasses.replace(best, columns=value) for value in section.columns]
    alike, columns = join_columns(trials, features, best, along, new_items)
    if columns:
        best = climb(along, len(along) // 2, quality)
    whole = trials.tower(best, alike)
    cut = {width: LinearTower(whole.history[:, :width], whole.items[:, :width]) for width in widths_of(whole.width)}
    figures = {width: judge.ndcg(judge.scores(tower)) for width, tower in cut.items()}
    width = max(figures, key=lambda width: figures[width])
    return cut[width], {
        **dataclasses.asdict(best),
        COLUMNS: columns,
        "width": width,
        "valid_ndcg@20": figures[width],
        "valid_ndcg@20_full_rank": quality(best),
    }


def join_columns(
    trials: ClosedFormTrials,
    features: Features,
    without: ClosedFormSettings,
    weights: Sequence[ClosedFormSettings],
    new_items: NewItems | None,
) -> tuple[np.ndarray | None, list[str]]:
    """The columns of the catalogue that join a closed form, one after the other, tried with the middle weight.

    A column joins where the users' NDCG@20 rises by more than `LUCK` standard errors of the difference, and that of new
    items does not fall by more than one.

    Args:
        without: the settings so far. weights: the same with columns. new_items: what users make of the new items that a
            tower places; None where too few took any.

    Returns: their similarities together, and their names.
    """
    columns = {column: table for column, table in features.items() if column not in MODALITIES}
    alike: np.ndarray | None = None
    joined: list[str] = []
    if not columns or not weights:
        return alike, joined
    settings, middle, reached = without, weights[len(weights) // 2], trials.values(without, None)
    for column, table in columns.items():
        more = content_similarity({column: table}, trials.rows) + (0.0 if alike is None else alike)
        values = trials.values(middle, more)
        gain, error = difference(values, reached)
        if gain <= LUCK * error:
            continue
        if new_items is not None:
            gain, error = difference(new_items(trials.tower(middle, more)), new_items(trials.tower(settings, alike)))
            if gain < -error:
                continue
        alike, settings, reached = more, middle, values
        joined.append(column)
    return alike, joined


def difference(more: np.ndarray, less: np.ndarray) -> tuple[float, float]:
    """The mean difference over users, and its standard error; NaN = a user who has no say.

    Example:
        >>> difference(np.array([1.0, 0.5, np.nan]), np.array([0.5, 0.5, np.nan]))
        (0.25, 0.17677669529663687)
    """
    gains = (more - less)[~np.isnan(more - less)]
    return float(gains.mean()), float(gains.std() / np.sqrt(len(gains)))


def rows_of(taken: Any, features: Features) -> np.ndarray:
    """Item rows that a closed form can say something about: those with an event or a modality."""
    known = np.asarray(taken.sum(axis=0)).ravel() > 0
    for kind, (_, present) in features.items():
        if kind in MODALITIES:
            known = known | np.asarray(present)
    return np.flatnonzero(known[1:]) + 1


def refit_closed_form(taken: Any, features: Features, chosen: Mapping[str, Any]) -> LinearTower:
    """The closed form of other histories with the settings that `fit_closed_form` chose.

    Args:
        taken: sparse [U, N + 1]. chosen: what `fit_closed_form` returned beside the tower.
    """
    fields = [field.name for field in dataclasses.fields(ClosedFormSettings) if field.name in chosen]
    settings = ClosedFormSettings(**{name: chosen[name] for name in fields})
    rows = rows_of(taken, features)
    gram = co_occurrence(taken[:, rows], settings.user_power)
    media = {kind: features[kind] for kind in features if kind in MODALITIES}
    # A column may have left the catalogue since; what was chosen before columns could be has none.
    columns = {column: features[column] for column in chosen.get(COLUMNS, ()) if column in features}
    content, alike = (content_similarity(part, rows) if part else None for part in (media, columns))
    history, items = truncate(ease(gram, settings, content, alike), gram, chosen["width"])
    return spread_rows(history, items, rows, taken.shape[1])


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
