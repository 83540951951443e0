"""The policy a release starts from, chosen on validation, and judged once on the test split."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from data.dataset import Dataset
from pipeline.config import Config
from pipeline.examples import Requests, make_requests
from pipeline.policy_config import PolicySection
from pipeline.policy_facts import policy_tables, user_groups
from pipeline.policy_judge import judge_diversity, judge_fairness, trade_off
from pipeline.policy_pages import RankedRequests, rank_for_policies
from pipeline.ranker_setup import hold_out_users
from pipeline.retrieval_side import RetrievalSide
from pipeline.segments import MINIMUM_USERS
from ranking.config import RankingConfig
from ranking.policy import Policy
from ranking.serving_form import RankingServingForm

MOST_USERS = 3000
POLICY, REPORT = "policy.json", "report.json"


def held_out_requests(dataset: Dataset, history_length: int, config: RankingConfig) -> Requests:
    """Validation requests of a hashed share of the users; the ranker has learned from their earlier days, and a little from
    the last ones."""
    requests = make_requests(dataset, "valid", known_splits=("train",), history_length=history_length)
    kept = np.flatnonzero(hold_out_users(requests.users, config.calibration_share, config.seed))
    return requests.take(kept[:MOST_USERS])


def rank_held_out(
    dataset: Dataset, run: Path, form: RankingServingForm, config: Config, settings: RankingConfig
) -> RankedRequests:
    """Those requests, ranked as they would have been then: without the popularity that came after them."""
    side = RetrievalSide(dataset, run, config.index.kind, unseen=True)
    requests = held_out_requests(dataset, side.history_length, settings)
    facts = policy_tables(dataset, config.policy, ("train",))
    return rank_for_policies(
        form, requests, side.query, side.search, settings, facts, side.item_embeddings, without_popularity=True
    )


def choose_policy_stage(dataset: Dataset, run: Path, out: Path, config: Config, settings: RankingConfig) -> dict[str, Any]:
    """Writes `policy.json`, the weights a release starts from, and `report.json`, how they were chosen."""
    form = RankingServingForm.load(run / "ranking" / "serving_form")
    ranked = rank_held_out(dataset, run, form, config, settings)
    found = trade_off(ranked, config.policy.diversity_cost) if len(ranked.rows) else {}
    policy = config.policy.weights(found.get("mmr_lambda", 1.0))
    (out / POLICY).write_text(policy.to_json())
    report = {"requests": len(ranked.rows), "policy": policy.weights(), **found}
    (out / REPORT).write_text(json.dumps(report, indent=2))
    return {"requests": len(ranked.rows), "mmr_lambda": policy.mmr_lambda}


def load_policy(run: Path, section: PolicySection) -> Policy:
    """The chosen policy; that of the settings where the stage has not run."""
    file = run / "policy" / POLICY
    return Policy.from_json(file.read_text()) if file.is_file() else section.weights()


def judge_policies(
    dataset: Dataset,
    run: Path,
    form: RankingServingForm,
    requests: Requests,
    side: RetrievalSide,
    config: Config,
    settings: RankingConfig,
    vectors: np.ndarray | None,
) -> dict[str, Any]:
    """`diversity` and `fairness` of the test split's requests; nothing here is chosen by them."""
    known = config.evaluation.mask_splits
    facts = policy_tables(dataset, config.policy, known)
    ranked = rank_for_policies(form, requests, side.query, side.search, settings, facts, side.item_embeddings)
    tuning = rank_held_out(dataset, run, form, config, settings)
    chosen: dict[str, Any] = {}
    if (run / "policy" / REPORT).is_file():
        chosen = json.loads((run / "policy" / REPORT).read_text())
    policy = load_policy(run, config.policy)
    result = {"diversity": judge_diversity(ranked, policy, chosen.get("dpp_strength", 0.0), vectors, settings.seed)}
    if chosen:
        result["diversity"]["validation"] = {name: chosen[name] for name in ("plain", "mmr", "dpp") if name in chosen}
    if len(tuning.rows):
        column = config.policy.user_groups or comparable_column(dataset, requests.users)
        groups, names = user_groups(dataset, column) if column else (None, None)
        result["fairness"] = judge_fairness(ranked, tuning, config.policy.protected, groups, names, column)
    return result


def comparable_column(dataset: Dataset, users: np.ndarray) -> str:
    """The first profile column with two groups large enough to compare among the asked users; "" where there is none."""
    for place, column in enumerate(dataset.schema.profile):
        sizes = np.bincount(dataset.profile[users, place])
        if (sizes[1:] >= MINIMUM_USERS).sum() > 1:
            return column
    return ""
