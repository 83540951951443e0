"""Calibrations of a trained ranker's heads, by domain, on the lists of users that it was not trained on."""

from __future__ import annotations

import numpy as np

from data.dataset import Dataset
from pipeline.metrics.segments import domain_codes
from ranking.calibration import apply_calibration
from ranking.config import RankingConfig
from ranking.domain_calibration import fit_domain_calibration
from ranking.lists import RankingLists


def calibrate(
    dataset: Dataset, logits: dict[str, np.ndarray], judged: RankingLists, config: RankingConfig
) -> tuple[dict[str, dict], dict[str, np.ndarray]]:
    """A calibration of every head, and what it makes of the logits it was fitted to.

    Args:
        logits: {head: [R, K]} of the held-out requests' lists. judged: those lists; a label counts where it is known.

    Returns: {head: calibration}, {head: [R, K] probabilities}.
    """
    domains = domain_codes(dataset)[judged.candidates]
    users = np.broadcast_to(judged.user[:, None], judged.mask.shape)
    calibrations, calibrated = {}, {}
    for head, values in logits.items():
        known = judged.known[head]
        labels = judged.labels[head][known]
        calibrations[head] = fit_domain_calibration(
            config.calibration, values[known], labels, domains[known], users[known]
        )
        calibrated[head] = np.asarray(apply_calibration(values, calibrations[head], domains))
    return calibrations, calibrated
