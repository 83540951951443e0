"""Calibrations of a trained ranker's heads, by domain, on the lists of users that it was not trained on."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from data.dataset import Dataset
from pipeline.metrics.segments import domain_codes
from pipeline.ranker.setup import MINIMUM_LABELS
from pipeline.ranker.tree_examples import BLOCK_LISTS, list_inputs
from ranking.calibration import apply_calibration
from ranking.config import RankingConfig
from ranking.domain_calibration import fit_domain_calibration
from ranking.lists import RankingLists
from ranking.serving_form import RankingServingForm


def list_logits(form: RankingServingForm, lists: RankingLists) -> dict[str, np.ndarray]:
    """Logits of every trained head for every list, trees included. {head: f64 [R, K]}

    Nothing is traced: a night asks this once, for a few hundred lists.

    Args:
        form: of the trained ranker, with popularity as of the past.
    """
    parts: dict[str, list[np.ndarray]] = {head: [] for head in form.spec.heads}
    for start in range(0, len(lists), BLOCK_LISTS):
        given = list_inputs(form, lists, np.arange(start, min(start + BLOCK_LISTS, len(lists))))
        x0 = form.network.features(form.tokens, form.present, None, given)
        for head, logits in form.logits(x0, given["candidates"]).items():
            parts[head].append(np.asarray(logits, np.float64))
    return {head: np.concatenate(values) for head, values in parts.items()}


def calibrate(
    dataset: Dataset,
    logits: dict[str, np.ndarray],
    judged: RankingLists,
    config: RankingConfig,
    before: Mapping[str, dict],
) -> tuple[dict[str, dict], dict[str, np.ndarray]]:
    """A calibration of every head, and what it makes of the logits it was fitted to.

    Args:
        logits: {head: [R, K]} of the held-out requests' lists. judged: those lists; a label counts where it is known.
        before: {head: calibration} of an earlier ranker, which a head with too few positive labels for one of its own keeps.

    Returns: {head: calibration}, {head: [R, K] probabilities}.
    """
    domains = domain_codes(dataset)[judged.candidates]
    users = np.broadcast_to(judged.user[:, None], judged.mask.shape)
    calibrations, calibrated = {}, {}
    for head, values in logits.items():
        known = judged.known[head]
        labels = judged.labels[head][known]
        few = labels.sum() < MINIMUM_LABELS and head in before
        calibrations[head] = before[head] if few else fit_domain_calibration(
            config.calibration, values[known], labels, domains[known], users[known]
        )  # fmt: skip
        calibrated[head] = np.asarray(apply_calibration(values, calibrations[head], domains))
    return calibrations, calibrated
