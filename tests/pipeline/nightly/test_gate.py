"""Every bound of the release gate from both sides, and that whatever is missing keeps the current release."""

import copy
import dataclasses
import json

import numpy as np
import pytest

from pipeline.nightly.gate import (
    Rule,
    calibration_rules,
    explain,
    fairness_rules,
    index_rule,
    latency_rule,
    metric_rules,
    rows_rule,
    segment_rules,
    size_rule,
)
from pipeline.nightly.gate_figures import gap_growth
from pipeline.settings.gate import GateSection
from pipeline.settings.ranking import RankingSection

SECTION = GateSection()
LINE = {"candidate": 0.40, "current": 0.40, "difference": 0.0, "low": -0.01, "high": 0.01, "users": 300}
FIGURES = {
    "users": 300,
    "metrics": {"ranked NDCG@10": LINE, "ranked purchase NDCG@10": {**LINE, "low": -0.2, "high": 0.2, "difference": -0.05}},
    "segments": {"items: head": LINE, "age: 18-24": LINE},
    "calibration": {"candidate": {"click": 0.02}, "current": {"click": 0.02}},
    "heads": {"candidate": ["click", "like"], "current": ["click"]},
    "gap": {"candidate": 0.1, "current": 0.1},
    "exposure": {"candidate": {"items: head": 0.5, "items: tail": 0.01}, "current": {"items: head": 0.6, "items: tail": 0.04}},
}


def verdicts(figures):
    rules = metric_rules(figures, SECTION) + segment_rules(figures, SECTION)
    rules += calibration_rules(figures, SECTION) + fairness_rules(figures, SECTION)
    return {rule.name: rule.passed for rule in rules}


def changed(*path_and_value):
    *path, value = path_and_value
    figures = copy.deepcopy(FIGURES)
    place = figures
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = value
    return figures


def test_a_head_may_be_dropped_by_its_weight_or_in_full_and_not_be_lost():
    figures = changed("heads", "current", ["click", "like", "purchase"])

    def heads(**given):
        rule = calibration_rules(figures, SECTION, **given)[0]
        return rule.passed, rule.found

    assert heads(ranking=RankingSection()) == (False, "lost: purchase")
    assert heads(ranking=RankingSection(head_weights={"purchase": 0.0})) == (
        True, "dropped by ranking.head_weights: purchase"
    )  # fmt: skip
    assert heads(ranking=RankingSection(), full=True) == (True, "not learned in full: purchase")


def test_an_equal_candidate_passes_all():
    assert all(verdicts(FIGURES).values())


@pytest.mark.parametrize(
    ("figures", "failed"),
    [
        (changed("users", 29), "users on the newest slice"),
        (changed("metrics", "ranked NDCG@10", {**LINE, "difference": -0.009}), "ranked NDCG@10"),  # 2 % of .4 is .008
        (changed("metrics", "ranked NDCG@10", {**LINE, "low": -0.041}), "ranked NDCG@10"),  # a tenth is .04
        (changed("metrics", "ranked NDCG@10", {**LINE, "low": None}), "ranked NDCG@10"),
        (changed("metrics", "ranked NDCG@10", {**LINE, "difference": float("nan")}), "ranked NDCG@10"),
        (changed("metrics", "ranked NDCG@10", {"candidate": 0.4, "users": 300}), "ranked NDCG@10"),
        (changed("metrics", {}), "metrics"),
        (changed("metrics", "ranked purchase NDCG@10", {**LINE, "difference": -0.1, "low": -0.2, "high": -0.05}),
         "ranked purchase NDCG@10"),
        (changed("segments", "age: 18-24", {**LINE, "difference": -0.03, "high": -0.01}), "segment age: 18-24"),
        (changed("segments", "items: head", {**LINE, "difference": -0.21, "high": -0.01}), "segment items: head"),
        (changed("calibration", "candidate", {"click": 0.101}), "calibration of click"),
        (changed("heads", "current", ["click", "purchase"]), "heads of the ranker"),
        (changed("calibration", "candidate", {}), "calibration of click"),
        (changed("gap", "candidate", 0.21), "gap between groups of users"),
        (changed("exposure", "candidate", "items: head", 0.29), "exposure of items: head"),
        (changed("exposure", "candidate", {"items: tail": 0.1}), "exposure of items: head"),
    ],
)  # fmt: skip
def test_each_bound_fails_by_itself(figures, failed):
    found = verdicts(figures)
    assert [name for name, passed in found.items() if not passed] == [failed]


def test_differences_are_told_with_a_minus_that_is_one():
    (rule,) = [rule for rule in metric_rules(changed("users", 1234), SECTION) if rule.name == "ranked NDCG@10"]
    assert rule.found == "0.4000 against 0.4000, 0.0000 [−0.0100, +0.0100], 300 users"
    assert rule.allowed == "at least −0.0080, interval from −0.0400"  # 2 % and a tenth of .4


def test_uncertain_losses_of_small_parts_and_worse_current_ones_pass():
    assert all(verdicts(changed("segments", "age: 18-24", {**LINE, "difference": -0.03, "high": 0.001})).values())
    assert all(verdicts(changed("segments", "items: head", {**LINE, "difference": -0.1, "high": -0.01})).values())
    assert all(verdicts(changed("gap", {"candidate": 0.3, "current": 0.1, "low": -0.1})).values())
    assert not all(verdicts(changed("gap", {"candidate": 0.3, "current": 0.1, "low": 0.05})).values())
    worse = changed("calibration", {"candidate": {"click": 0.17}, "current": {"click": 0.18}})
    assert all(verdicts(worse).values())


def test_a_first_release_needs_figures_and_no_comparison():
    first = changed("calibration", {"candidate": {"click": 0.01}})
    first |= {"gap": {"candidate": 0.5}, "exposure": {"candidate": {}}}
    first["metrics"] = {"ranked NDCG@10": {"candidate": 0.4, "users": 300}}
    first["segments"] = {"items: head": {"candidate": 0.4, "users": 300}}
    assert all(verdicts(first).values())
    assert not verdicts({**first, "metrics": {}})["metrics"]


def test_index_size_and_latency_fail_where_they_are_not_known(tmp_path):
    assert not index_rule(tmp_path, SECTION).passed
    (tmp_path / "index").mkdir()
    for recall, passed in ((0.96, True), (0.94, False)):
        manifest = {"counts": {"recall@100_vs_exact": recall, "kind": "exact"}}
        (tmp_path / "index" / "manifest.json").write_text(json.dumps(manifest))
        assert index_rule(tmp_path, SECTION).passed is passed
    sizes = [(150, 100, True, True), (151, 100, True, False), (None, 100, True, False), (9, None, True, False),
             (9, None, False, True)]  # fmt: skip
    for size, current, expected, passed in sizes:
        assert size_rule(size, current, expected, SECTION).passed is passed
    assert [latency_rule(value, SECTION).passed for value in (10.0, 251.0, None)] == [True, False, False]


def test_rows_must_begin_with_those_of_the_current_release(tmp_path):
    for name, text in (("old", "\na\nb\n"), ("same", "\na\nb\nc\n"), ("moved", "\na\nc\nb\n")):
        (tmp_path / name / "ingest").mkdir(parents=True)
        for file in ("user_ids.txt", "item_ids.txt"):
            (tmp_path / name / "ingest" / file).write_text(text)
    assert rows_rule(tmp_path / "same", tmp_path / "old").passed and rows_rule(tmp_path / "same", None).passed
    assert not rows_rule(tmp_path / "moved", tmp_path / "old").passed


def test_a_gap_has_grown_for_certain_only_where_many_users_say_so():
    rng = np.random.default_rng(0)
    for users, certain in ((2000, True), (20, False)):
        group = np.arange(users) % 2 == 0
        current = rng.uniform(0, 0.4, users)
        better = np.where(group, current + 0.2 * rng.random(users), current)
        found = {name: {"age: a": np.where(group, value, np.nan), "age: b": np.where(group, np.nan, value)}
                 for name, value in (("candidate", better), ("current", current))}  # fmt: skip
        low = gap_growth(found, "age", 0)
        assert (low > 0) is certain
    assert gap_growth({"candidate": found["candidate"]}, "age", 0) is None


def test_explanation_names_failures_first():
    rules = [Rule("size", True, "1 MB", "2 MB"), Rule("latency", False, "9 ms", "5 ms")]
    decision = {"publish": False, "version": 4, "rules": [dataclasses.asdict(rule) for rule in rules]}
    assert list(explain(decision)) == [
        "release 4: kept back; the current release stays",
        "FAILED  latency: 9 ms (allowed: 5 ms)",
        "passed  size: 1 MB (allowed: 2 MB)",
    ]
    assert next(iter(explain({**decision, "first": True}))) == "release 4: kept back; there is no release yet"
