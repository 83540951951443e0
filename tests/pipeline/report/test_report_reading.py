"""What a reader takes from the report: bars beside what they are measured against, and words and numbers as they are meant."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from pipeline.report.deletion import deletion_table
from pipeline.report.examples import make_examples
from pipeline.report.glossary import words_used
from pipeline.report.job import job_tables
from pipeline.report.page import origin, render
from pipeline.report.plots import plot_ablation, plot_learning, plot_seconds, plot_segments
from pipeline.report.retrieval_tables import index_table, metric_table
from pipeline.report.words import headline_figures, summarise


def segments(test: float, cold: float) -> dict[str, dict[str, float]]:
    return {"test": {"recall@20": test, "recall@100": 2 * test}, "cold_items": {"recall@20": cold, "recall@100": 2 * cold}}


RETRIEVAL: dict[str, Any] = {
    **segments(0.4, 0.25),
    "ablation": {"text": {"masked": segments(0.2, 0.1), "alone": segments(0.1, 0.1), "retrained": segments(0.3, 0.2)}},
}
TOWERS = {"baselines": {"two_towers": segments(0.25, 0.125)}}


def test_what_is_hidden_from_the_two_towers_is_measured_against_these_alone() -> None:
    plot = plot_ablation({**RETRIEVAL, **TOWERS})
    assert plot is not None
    shown = re.findall(r"[−+]\d+ %", plot.svg)
    # All events: .20 of .25 hidden, .30 of .40 retrained; new items, recall@100: .20 of .25, and .40 of .50.
    assert sorted(shown) == ["−20 %", "−20 %", "−20 %", "−25 %"]
    assert "Dotted: the two towers alone, which the faded bars are to be compared with." in plot.caption
    assert "All test events, recall@20 of the two towers alone: 0.250." in plot.alt
    alone = plot_ablation(RETRIEVAL)
    assert alone is not None and "Dotted" not in alone.caption and "alone" not in alone.alt
    assert sorted(re.findall(r"[−+]\d+ %", alone.svg)) == ["−20 %", "−25 %", "−50 %", "−60 %"]


def test_no_axis_of_recall_goes_beyond_all() -> None:
    plot = plot_segments(segments(0.46, 0.45))
    assert plot is not None
    ticks = [float(text) for text in re.findall(r">(\d\.\d)</text>", plot.svg)]
    assert max(ticks) == 1.0 and len(ticks) >= 6


def test_curves_say_what_they_are_of() -> None:
    curves = {"full": [{"loss": 2.0, "valid_ndcg@20": 0.1}, {"loss": 1.0, "valid_ndcg@20": 0.2}]}
    page = render({"seconds": {"ingest": 1.0}}, curves, [], None, linear=True)
    assert "The two towers alone, before the linear tower is added. The best epoch" in page
    plot = plot_learning(curves)
    assert plot is not None and plot.caption.startswith("The best epoch")
    assert plot_learning({}, linear=True) is None


def test_stages_that_run_side_by_side_are_not_said_to_take_the_sum() -> None:
    seconds = {"ingest": 600.0, "encode": 600.0}
    job = {"number": 3, "outcome": "kept", "why": "", "current": 1}
    page = render({"seconds": seconds, "job": job}, {}, [], None)
    assert "add up to 20 min 0 s; some run side by side." in page and "stages took" not in page
    assert "add up to 1,200 seconds; some run side by side." in page and "altogether" not in page
    assert "<title>Triptych: job 3</title>" in page
    run = plot_seconds(seconds)
    assert run is not None and run.caption == "1,200 seconds altogether."
    assert summarise({"seconds": seconds}) == ["All 2 stages took 20 min 0 s."]


def test_a_report_names_its_day_its_data_and_its_run(tmp_path: Path) -> None:
    told = origin(tmp_path / "out" / "jobs" / "0002", tmp_path / "world")
    assert re.fullmatch(r"\d{4}-\d\d-\d\d, data world, run out", told)
    assert origin(tmp_path / "out", None).endswith(", run out") and str(tmp_path) not in told
    page = render({"seconds": {"ingest": 1.0}}, {}, [], None, origin="2026-01-02, run <i>")
    assert "2026-01-02, run &lt;i&gt;" in page and "<title>Triptych report</title>" in page


def test_systems_are_called_by_what_was_done_to_them() -> None:
    names = [system for segment, system, _ in metric_table(RETRIEVAL)["rows"] if segment == "All test events"]
    assert names == ["Triptych", "two towers, text hidden", "two towers shown text alone", "trained without text"]


@pytest.mark.parametrize(("kind", "told"), [("exact", "The exact index answers in 0.14 ms."), ("scann", "98 %")])
def test_of_exact_search_it_is_not_said_that_it_finds_what_it_finds(kind: str, told: str) -> None:
    index = {"kind": kind, "recall@100_vs_exact": 0.98, "p50_ms": 0.1405}
    (sentence,) = summarise({"index": index})
    ((what, value, _),) = headline_figures({"index": index})
    assert told in sentence
    assert (what, value) == (("Exact index", "0.14 ms") if kind == "exact" else ("ScaNN index recall@100", "0.980"))


def test_milliseconds_have_two_places_and_kinds_a_capital() -> None:
    index = {"trade_off": [{"kind": "exact", "recall@100_vs_exact": 1.0, "p50_ms": 0.14051, "p99_ms": 1234.5, "bytes": 1000}]}
    assert index_table(index).rows == [["Exact", "", "1.0000", "0.14", "1,234.50", "1.0 kB"]]


def test_shares_beside_each_other_have_as_many_places() -> None:
    (sentence,) = summarise({"retrieval": {"test": {"recall@20": 0.28}, "baselines": {"popularity": segments(0.07, 0)}}})
    assert "28.0 % is among" in sentence and "popular finds 7.0 %" in sentence


def test_what_gains_by_losing_a_modality_is_said() -> None:
    ablation = {name: {"cold_items": {"recall@100": value}} for name, value in (("text", 0.3), ("audio", 0.55), ("image", 0.5))}
    words = " ".join(summarise({"retrieval": {**segments(0.4, 0.25), "ablation": ablation}}))
    assert "is lost: text 40 %, image nothing, audio nothing (10 % more without it)." in words


def test_what_was_only_hidden_costs_what_the_two_towers_lose() -> None:
    hidden = segments(0.2, 0.1)
    for kinds, lost in ({"masked": hidden}, "20 %"), ({"masked": hidden, "retrained": hidden}, "60 %"):
        told = {**RETRIEVAL, **TOWERS, "ablation": {"text": {**hidden, **kinds}}}
        assert f"is lost: text {lost}." in " ".join(summarise({"retrieval": told}))  # .2 of .25, of .5


def test_a_ranking_tile_says_over_what_it_is_the_mean() -> None:
    ranking = {"ndcg@10": 0.16, "retrieval_order_ndcg@10": 0.145}
    assert headline_figures({"ranking": ranking}) == [("Ranking NDCG@10", "0.160", "visit by visit; retrieval order 0.145")]


def test_items_from_further_down_say_so() -> None:
    class Nothing:
        def item(self, item_id: str) -> None:
            return None

    entry = {"user_id": "u", "retrieved": [["a", 0.9], ["b", 0.8]], "ranked": [["b", 0.5], ["c", 0.4]], "held_out": []}
    (example,) = make_examples([entry], Nothing())  # type: ignore[arg-type]
    assert [tile.note for tile in dict(example.rows)["Ranked"]] == ["0.500, was #2", "0.400, was below #2"]


def test_data_checks_say_what_their_bounds_are_of() -> None:
    check = {"name": "volume", "verdict": "go", "found": "", "allowed": "", "skipped": False}
    (table,) = job_tables({"decision": "go", "checks": [check]}, None)
    assert "PSI, the population stability index: 0 = the same distribution" in table.caption
    assert "above chance" in table.caption and "factor" in table.caption


def test_the_deletion_test_reads_without_its_keys() -> None:
    shares = {"leave_one_out": {"permuted": 0.9, "unknown": 0.95}, "integrated_gradients": {"permuted": 0.8, "unknown": 0.7}}
    found = {
        "share": 0.9, "cases": 1000, "method": "leave_one_out", "removal": "permuted", "shares": shares, "agreement": 0.97,
        "always": {"group": "retrieval", "share": 0.88},
        "besides": {"shares": shares, "always": {"group": "image", "share": 0.6}}, "named": {"text": 0, "retrieval": 1000},
    }  # fmt: skip
    table = deletion_table(found)
    assert table is not None and deletion_table({}) is None
    assert table.rows[0] == ["among all groups", "leaving one group out", "0.9000", "0.9500"]
    assert table.rows[2] == ["among all groups", "always retrieval", "0.8800", ""]
    assert table.rows[-1] == ["without retrieval", "always image", "0.6000", ""]
    assert "0.5 = chance" in table.caption and "the same group in 97 % of cases" in table.caption
    assert "Named first by leaving one group out: retrieval 1,000." in table.caption
    assert not any("_" in cell for row in table.rows for cell in row)


def test_words_that_the_report_uses_are_explained_and_no_others() -> None:
    page = render({"seconds": {"ingest": 1.0}, "retrieval": RETRIEVAL}, {}, [], None)
    assert "Words used here" in page and "<dt>recall</dt>" in page and "<dt>PGD</dt>" not in page
    assert "Words used here" not in render({"seconds": {"ingest": 1.0}}, {}, [], None)
    assert [word for word, _ in words_used('<b title="PGD">PSI</b> of headings, by IPS')] == ["IPS", "PSI"]
