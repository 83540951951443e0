"""The policy a release starts from, chosen on held-out visits, and judged once on the test split."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from data.dataset import Dataset
from pipeline.metrics.segments import MINIMUM_USERS
from pipeline.policy.facts import policy_tables, user_groups
from pipeline.policy.judge import CHOSEN, judge_diversity, judge_fairness, strongest, trade_off
from pipeline.policy.pages import RankedVisits, served_tokens
from pipeline.ranker.visits import HELD_OUT, Visits
from pipeline.retrieval.served import load_served
from pipeline.settings.config import Config
from pipeline.settings.policy import PolicySection
from pipeline.stage import read_json
from ranking.policy import Policy
from ranking.serving_form import RankingServingForm

POLICY, REPORT = "policy.json", "report.json"


def held_out_visits(dataset: Dataset, run: Path, tokens: np.ndarray, section: PolicySection) -> RankedVisits:
    """The visits that the ranker was held from, as it answered them before it caught up with their days; what policies
    look at is as of the end of the train split."""
    visits = Visits.load(run / "ranking" / HELD_OUT)
    return RankedVisits(visits, policy_tables(dataset, section, ("train",)), tokens)


def tokens_of(run: Path, form: RankingServingForm) -> np.ndarray:
    """What the run's items are told apart by; see `served_tokens`."""
    return served_tokens(form, load_served(run).items)


def choose_policy_stage(dataset: Dataset, run: Path, out: Path, config: Config) -> dict[str, Any]:
    """Writes `policy.json`, the weights a release starts from, and `report.json`, how they were chosen."""
    form = RankingServingForm.load(run / "ranking" / "serving_form")
    held_out = held_out_visits(dataset, run, tokens_of(run, form), config.policy)
    found = trade_off(held_out, config.policy.diversity_cost) if len(held_out.visits) else {}
    return _write(out, config.policy, {"visits": len(held_out.visits), **found})


def keep_policy(before: Path, out: Path, section: PolicySection) -> dict[str, Any]:
    """The same of the settings as they are now and of what an earlier stage, in its folder `before`, measured of diversity."""
    found = json.loads((before / REPORT).read_text())
    if "reason" not in found:
        found |= {name: strongest(found[kind], section.diversity_cost, nothing)
                  for kind, name, nothing in CHOSEN if kind in found}  # fmt: skip
    return _write(out, section, found)


def _write(out: Path, section: PolicySection, found: Mapping[str, Any]) -> dict[str, Any]:
    policy = section.weights(found.get("mmr_lambda", 1.0))
    (out / POLICY).write_text(policy.to_json())
    (out / REPORT).write_text(json.dumps({**found, "policy": policy.weights()}, indent=2))
    why = {"no_diversity_chosen": found["reason"]} if section.mmr_lambda == "auto" and "reason" in found else {}
    return {"visits": found["visits"], "mmr_lambda": policy.mmr_lambda, **why}


def load_policy(run: Path, section: PolicySection) -> Policy:
    """The chosen policy; that of the settings where the stage has not run."""
    file = run / "policy" / POLICY
    return Policy.from_json(file.read_text()) if file.is_file() else section.weights()


def judge_policies(
    dataset: Dataset,
    run: Path,
    form: RankingServingForm,
    visits: Visits,
    people: Visits,
    config: Config,
    vectors: np.ndarray | None,
    seed: int,
) -> dict[str, Any]:
    """`diversity` and `fairness` on the test split; nothing here is chosen by it.

    Args:
        visits: of the test split, answered; diversity is judged on them as the ranker is.
        people: every user once, judged by all that was chosen; exposure and groups of users are told by these.
        vectors: [N + 1, D] content of the items.
    """
    facts, tokens = policy_tables(dataset, config.policy, config.evaluation.mask_splits), tokens_of(run, form)
    ranked, asked_once = (RankedVisits(part, facts, tokens) for part in (visits, people))
    chosen = read_json(run / "policy" / REPORT, {})
    policy = load_policy(run, config.policy)
    diversity = judge_diversity(ranked, policy, chosen.get("dpp_strength", 0.0), vectors, seed, asked_once)
    if chosen:
        diversity["validation"] = {name: chosen[name] for name in ("plain", "mmr", "dpp", "reason") if name in chosen}
    result: dict[str, Any] = {"diversity": diversity}
    held_out = held_out_visits(dataset, run, tokens, config.policy)
    if len(held_out.visits):
        column = config.policy.user_groups or comparable_column(dataset, people.users)
        groups, names = user_groups(dataset, column) if column else (None, None)
        asked_for = (config.policy.protected, groups, names, column, policy.significance)
        result["fairness"] = judge_fairness(asked_once, held_out, *asked_for)
    return result


def comparable_column(dataset: Dataset, users: np.ndarray) -> str:
    """The first profile column with two groups large enough to compare among the asked users; "" where there is none."""
    for place, column in enumerate(dataset.schema.profile):
        sizes = np.bincount(dataset.profile[users, place])
        if (sizes[1:] >= MINIMUM_USERS).sum() > 1:
            return column
    return ""
