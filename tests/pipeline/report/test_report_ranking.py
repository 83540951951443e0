"""The ranking part of the report: every figure once, in tables that say what they are of, and nothing where none is."""

import json
import re

import pytest

from pipeline.report.page import render
from pipeline.report.ranking import ranking_figures, ranking_tables
from pipeline.report.ranking_plots import plot_calibration, plot_gains
from pipeline.report.words import summarise

EVIL = "<b>young</b>"


def triple(mean, width=0.01):
    return [mean, mean - width, mean + width]


def ndcg(before, after, users=400):
    figures = {"retrieval": triple(before), "ranked": triple(after), "difference": triple(after - before)}
    return {"users": users, "ndcg@5": figures, "ndcg@10": figures}


RANKING = {
    "ndcg@10": 0.21,
    "retrieval_order_ndcg@10": 0.17,
    "by_request": {"requests": 3000, "k": 10, "ranked": triple(0.21), "retrieval": triple(0.17),
                   "ranked_less_retrieval": triple(0.04)},
    "order": {
        "click": {
            "all": {"all": ndcg(0.17, 0.2)},
            "items": {"never in training": ndcg(0.05, 0.15), "head": ndcg(0.3, 0.25)},
            "age_group": {EVIL: ndcg(0.2, 0.205)},
        },
        "purchase": {"all": {"all": ndcg(0.1, 0.12)}},
    },
    "heads": {
        "click": {
            "auc": 0.71, "logloss": 0.29, "ece": 0.012, "examples": 1000, "positives": 90,
            "segments": {"items": {"head": {"auc": 0.66, "logloss": 0.3, "ece": 0.02, "examples": 400, "positives": 60}}},
        },
        "value": {"rmse": 0.21, "spread": 0.3, "examples": 80},
    },
    "reliability": {"click": [[0.1, 0.12, 50], [0.3, 0.29, 20]], "skip": [[0.2, 0.4, 50]]},
    "ece_by_head": {"click": 0.012, "skip": 0.2},
    "exposure": {
        "k": 20,
        "orders": {name: {"coverage": 0.9, "gini": 0.4, "popularity_bias": None} for name in ("ranked", "retrieval")},
        "chosen": {"average_popularity": 50.0},
        "groups": {"domain": {"books": {"ranked": 0.25, "retrieval": 0.35, "chosen": 0.3, "catalogue": 0.2}}},
    },
    "lightgbm": {"ndcg@10": 0.19, "rounds": 40, "ranker_less_trees": triple(0.02)},
    "lightgbm_ndcg@10": 0.19,
    "without_modality": {"visits": 2000, "ndcg@10": triple(0.21), "without": {
        "text": {
            "ranker": {"ndcg@10": triple(0.19), "difference": triple(-0.02)},
            "path": {"ndcg@10": triple(0.18), "difference": triple(-0.03)},
        },
        "behaviour": {"ranker": {"ndcg@10": triple(0.18), "difference": triple(-0.03)}},
    }},
    "off_policy": {
        "reward": "click", "size": 4, "pages": 1923, "impressions": 6959, "clip": None, "logged": 2.84,
        "policies": {
            name: {"ips": {"value": 3.1, "low": 3.0, "high": 3.2, "weight": 2.77, "effective_actions": 216.4, "clipped": 0}}
            for name in ("ranked", "retrieval")
        },
        "difference": {"ips": triple(0.14)},
    },
    "diversity": {
        "k": 10,
        "default": {
            "ndcg@10": {"before": 0.2, "after": 0.198, "change": -0.01},
            "distance": {"before": 0.3, "after": 0.5, "change": 0.67}, "ndcg_difference": triple(-0.002),
            "by_user": {"ndcg@10": {"before": 0.3, "after": 0.29, "change": -0.033}},
        },
        "validation": {"plain": {"ndcg@10": 0.2, "distance": 0.3}, "mmr": [{"weight": 0.9, "ndcg@10": 0.19, "distance": 0.4}]},
    },
    "fairness": {
        "protected": "new_items", "share_of_catalogue": 0.2, "share_of_choices": 0.25,
        "policies": {"floor": {"ndcg@10": 0.19, "cost": 0.01, "exposure_share": 0.24, "disparity": 0.96}},
        "users": {"column": "age_group", "groups": {EVIL: {"users": 80, "ndcg@10": [0.2, 0.19], "protected_share": [0.1, 0.2]}},
                  "gap": {"ndcg@10": [0.05, 0.04], "protected_share": [0.1, 0.0]}},
    },
    "deletion_test": {"share": 0.83, "cases": 1000, "method": "leave_one_out", "named": {"text": 300}},
}  # fmt: skip


@pytest.fixture(scope="module")
def tables():
    return {table.name: table for table in ranking_tables(RANKING)}


def test_every_part_has_its_table_and_every_line_a_cell_a_column(tables):
    assert list(tables) == [
        "order", "segments-click", "trees", "modalities", "heads", "heads-segments", "exposure", "exposure-groups",
        "off-policy", "diversity", "trade-off", "fairness", "user-groups", "deletion-test",
    ]  # fmt: skip
    for table in tables.values():
        assert {len(row) for row in table.rows} == {len(table.columns)}, table.name


def test_tables_hold_the_figures(tables):
    assert ["click", "NDCG@10", "400", ".170 [.160, .180]", ".200 [.190, .210]", ".030 [.020, .040]"] in tables[
        "order"
    ].rows
    visits = [
        "click, visit by visit",
        "NDCG@10",
        "3,000",
        ".170 [.160, .180]",
        ".210 [.200, .220]",
        ".040 [.030, .050]",
    ]
    assert tables["order"].rows[0] == visits
    assert "users or visits" in tables["order"].columns and "in the first row over visits" in tables["order"].caption
    alone = ranking_tables({"order": RANKING["order"]})[0]
    assert "users" in alone.columns and "visits" not in alone.caption
    segments = {row[1]: row for row in tables["segments-click"].rows}
    assert [segments[name][-1] for name in ("never in training", "head", EVIL)] == ["better", "worse", "undecided"]
    assert segments["head"][-2] == "−.050 [−.060, −.040]"
    assert [row[0] for row in tables["segments-click"].rows] == ["items", "", "age group"]
    assert tables["trees"].rows[1:] == [
        ["LightGBM, lambdarank", "0.1900", "40 trees"],
        ["Triptych", "0.2100", ".020 [.010, .030] against the trees"],
    ]
    assert tables["modalities"].rows == [
        ["nothing", ".210 [.200, .220]", "", "", ""],
        ["text", ".190 [.180, .200]", "−.020 [−.030, −.010]", ".180 [.170, .190]", "−.030 [−.040, −.020]"],
        ["behaviour", ".180 [.170, .190]", "−.030 [−.040, −.020]", "–", "–"],
    ]
    assert tables["diversity"].rows == [
        ["as released", "0.2000 → 0.1980", "−.002 [−.012, .008]", "0.3000 → 0.5000", "–", "0.3000 → 0.2900"]
    ]
    assert ["value", "80", "–", "–", "–", "–", "0.2100", "0.3000"] in tables["heads"].rows
    (plain,) = [table for table in ranking_tables({"heads": {"click": RANKING["heads"]["click"]}}) if table.name == "heads"]
    assert plain.columns == ("head", "examples", "positives", "AUC", "log loss", "calibration error")
    assert plain.rows == [["click", "1,000", "90", "0.7100", "0.2900", "0.0120"]] and "RMSE" not in plain.caption
    assert tables["exposure-groups"].rows[0][1:] == ["books", "0.2500", "0.3500", "0.3000", "0.2000"]
    assert ["ranked", "IPS", "3.100 [3.000, 3.200]", "2.77", "216"] in tables["off-policy"].rows
    assert "no weight clipped" in tables["off-policy"].caption
    assert tables["deletion-test"].rows == [["among all groups", "leaving one group out", "0.8300", "–"]]
    assert "In how many of 1,000 cases" in tables["deletion-test"].caption
    assert "Named first by leaving one group out: text 300." in tables["deletion-test"].caption


@pytest.mark.parametrize(
    ("error", "positives", "words"),
    [
        (0.02, 300, "can be"), (0.02, 20, "should not be"), (0.004, 20, "can be"), (0.04, 500, "should not be"),
        (0.02, None, "can be"),
    ],
)  # fmt: skip
def test_probabilities_are_trusted_where_their_error_is_small_beside_the_rate(error, positives, words):
    heads = {} if positives is None else {"click": {"examples": 1000, "positives": positives}}
    (sentence,) = [one for one in summarise({"ranking": {"ece": error, "heads": heads}}) if "probabilities" in one]
    assert f"The probabilities of click {words} taken at their word" in sentence
    assert f"{100 * error:.1f} percentage points" in sentence and ("of cases" in sentence) == (positives is not None)


def test_every_head_is_judged_and_those_that_cannot_be_trusted_are_told_with_their_error():
    heads = {
        "click": {"ece": 0.007, "examples": 1000, "positives": 85},  # a quarter of .085 is .021
        "like": {"ece": 0.005, "examples": 1000, "positives": 23},
        "purchase": {"ece": 0.002, "examples": 1000, "positives": 7},  # a quarter of .007 is .0018
        "value": {"rmse": 0.2, "examples": 80},
    }
    (sentence,) = [one for one in summarise({"ranking": {"ece": 0.007, "heads": heads}}) if "probabilities" in one]
    assert sentence == (
        "The probabilities of click and like can be taken at their word; those of purchase should not: on average click is off "
        "by 0.7 percentage points where it happens in 8.5 % of cases and purchase by 0.2 where it happens in 0.7 % of cases."
    )
    bad = {"click": {"ece": 0.2, "examples": 10, "positives": 5}, "skip": {"ece": 0.1, "examples": 10, "positives": 5}}
    (sentence,) = summarise({"ranking": {"ece": 0.2, "heads": bad}})
    assert sentence.startswith("The probabilities of click and skip should not be taken at their word: ")


def test_what_a_table_does_not_judge_is_said(tables):
    assert all(name in tables["diversity"].caption for name in ("epsilon", "thompson", "user_floors"))
    judged = {**RANKING["off_policy"], "later_impressions": 1234}
    (table,) = ranking_tables({"off_policy": judged})
    assert "1,234 impressions of later pages" in table.caption and "later pages" not in tables["off-policy"].caption


def test_trees_that_could_not_be_fitted_say_why():
    (table,) = ranking_tables({"lightgbm": {"skipped": "libgomp.so.1 is missing"}})
    assert table.rows == [["libgomp.so.1 is missing"]]
    assert ranking_tables({}) == []


def test_the_page_shows_them_escaped_and_with_headings():
    page = render({"ranking": RANKING, "seconds": {"ingest": 1.0}}, {}, [], None)
    assert EVIL not in page and "&lt;b&gt;young&lt;/b&gt;" in page
    for table in ranking_tables(RANKING):
        assert page.count(f'id="table-{table.name}"') == 1
    assert page.count("<tr>") == page.count("</tr>") > 30
    assert not re.search(r"<th[^>]*></th>", page)  # a heading without a word says nothing of its column
    regions = re.findall(r'<div class="scroll"[^>]*>', page)
    assert regions and all('role="region"' in tag and re.search(r'aria-label="[^"]+"', tag) for tag in regions)
    assert "user by user. Right of the dashed line" in page
    assert 'id="plot-gains"' in page and 'id="plot-calibration"' in page


def test_plots_tell_every_head_and_segment():
    calibration = plot_calibration(RANKING)
    assert calibration is not None and calibration.svg.count("<svg") == 2
    assert (
        "skip: the largest gap between predicted and observed is 0.200; expected calibration error 0.2000"
        in calibration.alt
    )
    gains = plot_gains(RANKING)
    assert gains is not None and "items: head -0.050 [-0.060, -0.040]" in gains.alt
    assert plot_gains({"order": {"click": {"all": {"all": ndcg(0.1, 0.2)}}}}) is None  # one line is no comparison


@pytest.mark.parametrize(
    ("gap", "words"), [(0.02, "better than"), (-0.02, "worse than"), (0.002, "not shown to differ from")]
)
def test_the_summary_says_how_it_stands_against_trees(gap, words):
    figures = {**RANKING, "lightgbm": {"ranker_less_trees": triple(gap)}}
    assert f"It is {words} boosted trees on the same features, which reach 0.190." in summarise({"ranking": figures})


def test_figures_of_an_own_file_join_the_others(tmp_path):
    (tmp_path / "evaluate").mkdir()
    (tmp_path / "evaluate" / "ranking.json").write_text(json.dumps({"auc": 0.7, "diversity": {"k": 10}}))
    (tmp_path / "evaluate" / "deletion.json").write_text(json.dumps({"share": 0.8}))
    assert ranking_figures(tmp_path) == {"auc": 0.7, "diversity": {"k": 10}, "deletion_test": {"share": 0.8}}
