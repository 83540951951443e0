"""Fake users in the training log: what models fitted on it again show of the pushed items, and what defences leave of that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.dataset import Dataset
from data.schema import TRAIN
from data.shilling import shilling_events
from data.suspects import Suspects, find_suspects
from pipeline.metrics.examples import interactions, make_requests
from pipeline.retrieval.baselines import to_sparse
from pipeline.retrieval.linear_closed_form import refit_closed_form
from pipeline.retrieval.linear_parts import Features
from pipeline.retrieval.training_matrix import training_matrix
from pipeline.robustness.content_attack import with_intervals
from pipeline.robustness.poisoned_log import training_log, with_training_events, without_users
from pipeline.robustness.target_exposure import TargetExposure
from pipeline.settings.robustness import RobustnessSection

DEFENCES = ("none", "quarantine", "burst_weights")


def suspects_of(dataset: Dataset, share: float, seed: int) -> Suspects:
    """Who looks made up by the training events."""
    events = dataset.events[dataset.events["split"] == TRAIN]
    return find_suspects(
        events["user"].to_numpy(),
        events["item"].to_numpy(),
        events["timestamp"].to_numpy() if dataset.schema.has_timestamps else None,
        events["value"].to_numpy(),
        share=share,
        user_rows=dataset.schema.user_rows,
        item_rows=dataset.schema.item_rows,
        seed=seed,
    )


class ShillingJudge:
    """Test users' lists by the closed form of the linear tower, fitted again on any log in a second.

    Args:
        dataset: the clean one; its test users judge. features: see `pipeline.retrieval.linear_parts`. chosen: the closed form's
            settings in the run.
    """

    def __init__(self, dataset: Dataset, features: Features, chosen: Mapping[str, Any], known: Sequence[str], k: int):
        self.dataset, self.features, self.chosen, self.k = dataset, features, chosen, k
        requests = make_requests(dataset, "test", known_splits=tuple(known), history_length=1)
        # A sum of histories has nothing to say to a user without one.
        self.requests = requests.take(np.flatnonzero(requests.history[:, 0]))
        histories = interactions(dataset, tuple(known)).select(self.requests.users)
        self.histories = to_sparse(histories, dataset.schema.item_rows)

    def lists(self, taken: Any) -> TargetExposure:
        """The lists of a tower fitted on a training matrix [user rows, N + 1]."""
        tower = refit_closed_form(taken, self.features, self.chosen)
        return TargetExposure(tower.queries(self.histories) @ tower.items.T, self.requests.seen, self.requests.relevant, self.k)


def attack_by_shilling(judge: ShillingJudge, targets: NDArray, section: RobustnessSection) -> dict[str, Any]:
    """Push every target alone by every kind of attack; fit, look, defend, fit again.

    Returns: `clean`: by defence the targets' figures without an attack (what it costs) and the honest users flagged;
        `attacks`: by kind and defence the figures as [mean, low, high] over targets, and with `quarantine` the `recall` and
        `precision` of what it flags, and the `honest` users among them; `retrained`: what was.
    """
    clean = judge.dataset
    flagged = suspects_of(clean, section.share, section.seed).flagged
    plain = training_matrix(clean)
    prepared = {
        "none": plain,
        "quarantine": training_matrix(without_users(clean, flagged)) if flagged.any() else plain,
        "burst_weights": training_matrix(clean, section.burst_bound),
    }
    found: dict[str, Any] = {"clean": {}, "attacks": {}, "retrained": "the closed form of the linear tower, judged alone"}
    for defence, taken in prepared.items():
        lists = judge.lists(taken)
        before = [lists.figures(int(row), lists.scores[:, row]) for row in targets]
        found["clean"][defence] = with_intervals(before, section.seed)
    found["clean"]["quarantine"]["honest"] = int(flagged.sum())
    log, ids = training_log(clean), clean.items["item_id"].to_numpy(dtype=object)
    for kind in section.shilling_kinds:
        figures: dict[str, list[dict[str, float]]] = {name: [] for name in DEFENCES}
        told: list[dict[str, float]] = []
        for number, row in enumerate(targets):
            rows = shilling_events(log, ids[row], section.shilling(kind), seed=section.seed + number)
            attacked = with_training_events(clean, rows)
            suspects = suspects_of(attacked, section.share, section.seed)
            told.append(detection(suspects, clean.schema.user_rows))
            logs = {
                "none": training_matrix(attacked),
                "quarantine": training_matrix(without_users(attacked, suspects.flagged)),
                "burst_weights": training_matrix(attacked, section.burst_bound),
            }
            for defence, taken in logs.items():
                lists = judge.lists(taken)
                figures[defence].append(lists.figures(int(row), lists.scores[:, row]))
        found["attacks"][kind] = {name: with_intervals(part, section.seed) for name, part in figures.items()}
        means = {name: float(np.mean([one[name] for one in told])) for name in told[0]}
        found["attacks"][kind]["quarantine"] |= means
    return found


def detection(suspects: Suspects, honest_rows: int) -> dict[str, float]:
    """How well suspects are the fake users, whose rows follow the honest ones."""
    fake = suspects.flagged[honest_rows:]
    honest = int(suspects.flagged[:honest_rows].sum())
    return {
        "recall": float(fake.mean()),
        "precision": float(fake.sum() / max(fake.sum() + honest, 1)),
        "honest": float(honest),
    }
