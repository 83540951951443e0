"""How far predicted probabilities can be trusted: AUC, log loss and calibration of every head, by segment as well."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.metrics.probability_metrics import auc, expected_calibration_error, log_loss, reliability_curve
from pipeline.metrics.segments import Segment
from ranking.config import NUMBERS
from ranking.lists import RankingLists

MINIMUM_POSITIVES = 50
"""Of either kind of label; with fewer, a calibration error measures the noise of its bins."""


def judge_probabilities(
    found: Mapping[str, NDArray], lists: RankingLists, heads: Sequence[str], segments: Sequence[Segment]
) -> dict[str, dict[str, Any]]:
    """Figures of every trained head where its label is known, over the lists and over each segment of them.

    Args:
        found: head -> predictions [R, K]. lists: what was shown and drawn, with labels. heads: those that were trained.

    Returns:
        {head: {auc, logloss, ece, examples, positives, reliability, segments: {dimension: {group: the same without
        curve}}}}; of a head that predicts a number {rmse, spread, examples}, `spread` being the error of always saying
        the mean. A head with too few labels of either kind has no entry, a segment likewise.
    """
    result: dict[str, dict[str, Any]] = {}
    for head in heads:
        known = lists.known[head]
        labels, predictions = (array[known].astype(np.float64) for array in (lists.labels[head], found[head]))
        if head in NUMBERS:
            if labels.size >= MINIMUM_POSITIVES:
                error = float(np.sqrt(np.square(labels - predictions).mean()))
                result[head] = {"rmse": error, "spread": float(labels.std()), "examples": int(labels.size)}
            continue
        figures = _figures(labels, predictions)
        if figures is None:
            continue
        candidates = lists.candidates[known]
        users = np.broadcast_to(lists.user[:, None], known.shape)[known]
        by_segment: dict[str, dict[str, Any]] = {}
        for segment in segments:
            inside = np.ones(labels.size, bool) if segment.items is None else segment.items[candidates]
            inside &= True if segment.users is None else segment.users[users]
            part = _figures(labels[inside], predictions[inside])
            if part is not None and segment.dimension != "all":
                by_segment.setdefault(segment.dimension, {})[segment.name] = part
        curve = np.stack(reliability_curve(labels, predictions), axis=1).tolist()
        result[head] = {**figures, "reliability": curve, "segments": by_segment}
    return result


def _figures(labels: NDArray, predictions: NDArray) -> dict[str, float] | None:
    positives = int(labels.sum())
    if min(positives, labels.size - positives) < MINIMUM_POSITIVES:
        return None
    return {
        "auc": auc(labels, predictions),
        "logloss": log_loss(labels, predictions),
        "ece": expected_calibration_error(labels, predictions),
        "examples": int(labels.size),
        "positives": positives,
    }
