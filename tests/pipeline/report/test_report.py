"""The report over a small run folder written by hand: what it copies, what it leaves out, what it shows."""

from __future__ import annotations

import json
import math
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pipeline.report.figure import inline_svg
from pipeline.report.page import write_report
from pipeline.report.plots import plot_ablation, plot_index, plot_seconds, plot_segments
from pipeline.report.ranking_plots import plot_calibration
from pipeline.report.words import headline_figures, summarise
from pipeline.stage import StageError

PLOTS = ("learning", "segments", "ablation", "index", "calibration", "seconds")
EVIL = '<script>alert("x")</script>'


def metrics(level: float) -> dict[str, float]:
    names = ("recall@10", "recall@20", "recall@100", "ndcg@10", "ndcg@20", "mrr", "coverage", "popularity_bias")
    return {name: level * (place + 1) for place, name in enumerate(names)} | {"users": 4}


def segments(test: float, cold: float) -> dict[str, dict[str, float]]:
    return {"test": metrics(test), "cold_items": metrics(cold)}


RETRIEVAL: dict[str, Any] = {
    **segments(0.05, 0.04),
    "oracle": segments(0.1, 0.08),
    "baselines": {
        "popularity": segments(0.02, 0.0),
        "item_knn": segments(0.04, 0.0),
        "ids_only": segments(0.03, 0.01),
    },
    "ablation": {
        name: {"masked": segments(0.04, 0.02), "retrained": segments(0.045, 0.03)}
        for name in ("text", "image", "audio")
    },
}
RANKING: dict[str, Any] = {
    "auc": 0.75,
    "logloss": 0.3,
    "ece": 0.01,
    "ndcg@10": 0.2,
    "retrieval_order_ndcg@10": 0.16,
    "reliability": [[0.1, 0.12, 50], [0.3, 0.29, 20]],
}
INDEX: dict[str, Any] = {
    "kind": "scann",
    "recall@100_vs_exact": 0.995,
    "p50_ms": 0.4,
    "p99_ms": 0.9,
    "bytes": 1234,
    "trade_off": [
        {"kind": "exact", "setting": "", "recall@100_vs_exact": 1.0, "p50_ms": 1.0, "p99_ms": 2.0, "bytes": 1000},
        {"kind": "scann", "setting": "a", "recall@100_vs_exact": 0.995, "p50_ms": 0.4, "p99_ms": 0.9, "bytes": 1234},
        {"kind": "scann", "setting": "b", "recall@100_vs_exact": 0.998, "p50_ms": 0.6, "p99_ms": 1.1, "bytes": 1234},
    ],
}


def write(file: Path, content: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with its report, for tests that only look."""
    run = write_run(tmp_path_factory.mktemp("report"))
    write_report(run, run.parent / "source")
    return run


def write_run(folder: Path) -> Path:
    """A finished run of four items, of which one has a cover, one a broken one, one none, and one an unkind title."""
    run, media = folder / "run", folder / "source" / "media"
    stages = {
        "ingest": 1.5,
        "encode": 2.0,
        "retrieval/full": 3.0,
        "retrieval/ids_only": 4.0,
        "index": 0.5,
        "export": 1.0,
    }
    for stage, seconds in stages.items():
        counts = {"users": 2, "items": 4, "events": 6, "quarantined": 0} if stage == "ingest" else {}
        write(
            run / stage / "manifest.json",
            {"stage": stage, "seconds": seconds, "config": {}, "inputs": {}, "counts": counts},
        )
    for variant in ("ids_only", "full"):
        rows = [
            {"epoch": epoch, "loss": 5.0 - epoch, "seconds": 1.0, "valid_ndcg@20": 0.1 * epoch} for epoch in range(3)
        ]
        write(run / "retrieval" / variant / "history.json", rows)
    write(run / "evaluate" / "retrieval.json", RETRIEVAL)
    write(run / "evaluate" / "ranking.json", RANKING)
    write(run / "index" / "report.json", INDEX)
    write(run / "releases" / "2" / "manifest.json", {"version": 2, "fingerprint": "old", "counts": {}})
    write(run / "releases" / "10" / "manifest.json", {"version": 10, "fingerprint": "f" * 64, "counts": {"items": 4}})
    write(
        run / "evaluate" / "examples.json",
        [
            {
                "user_id": EVIL,
                "history": ["i1"],
                "retrieved": [["i2", 0.9], ["i3", 0.8], ["i4", None]],
                "ranked": [["i3", 0.5], ["i2", 0.4]],
                "held_out": ["i3"],
            }
        ],
    )
    ingest = run / "ingest"
    items = {
        "item_id": ["", "i1", "i2", "i3", "i4"],
        "title": ["", "One", EVIL, "三", ""],
        "image": ["", "1.png", "broken.png", "", "../4.png"],
    }
    pd.DataFrame(items).to_parquet(ingest / "items.parquet")
    pd.DataFrame({"user_id": ["", "u1", "u2"]}).to_parquet(ingest / "users.parquet")
    events = {"user": [1], "item": [1], "timestamp": [5], "event": [0], "positive": [True]}
    pd.DataFrame(events).to_parquet(ingest / "events.parquet")
    np.save(ingest / "counts.npy", np.zeros(5, np.int64))
    bad = {"file": ["interactions.parquet", "media/clips/1.wav", "media/clips/2.wav"], "row": [3, 0, 0]}
    pd.DataFrame(bad).iloc[:1].to_parquet(ingest / "quarantine.parquet")
    pd.DataFrame(bad).iloc[1:].to_parquet(run / "encode" / "quarantine.parquet")
    media.mkdir(parents=True)
    Image.new("RGB", (300, 200), (200, 30, 30)).save(media / "1.png")
    (media / "broken.png").write_bytes((media / "1.png").read_bytes()[:60])
    return run


class Page(HTMLParser):
    """Every start tag, the addresses it names, ids, and whether tags are closed in order."""

    VOID = frozenset({"meta", "link", "img", "br", "hr", "input"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.ids: list[str] = []
        self.labels: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert not self._open, f"left open: {self._open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        values = dict(attrs)
        self.addresses += [
            values[name] or "" for name in ("src", "href", "xlink:href", "srcset", "action") if name in values
        ]
        self.ids += [values["id"] or ""] if "id" in values else []
        if values.get("role") == "img":
            self.labels.append(values.get("aria-label") or "")
        if tag == "img":
            assert values.get("alt")
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self._open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self._open and self._open[-1] == tag, f"</{tag}> closes {self._open[-1:]}"
        self._open.pop()


def test_report_json_holds_what_the_stages_wrote(finished: Path) -> None:
    report = json.loads((finished / "report.json").read_text())
    assert report["retrieval"] == RETRIEVAL and report["index"] == INDEX and report["ranking"] == RANKING
    assert report["seconds"] == {"ingest": 1.5, "encode": 2.0, "retrieval": 7.0, "index": 0.5, "export": 1.0}
    assert list(report["seconds"]) == ["ingest", "encode", "retrieval", "index", "export"]
    assert report["fingerprint"] == "f" * 64  # release 10, not 2: versions are numbers, not words
    assert {name: report["data"][name] for name in ("users", "items", "events")} == {
        "users": 2,
        "items": 4,
        "events": 6,
    }
    assert report["data"]["quarantined"] == 3
    assert report["data"]["quarantined_by_file"] == {"interactions.parquet": 1, "media/clips": 2}


def test_report_html_is_whole_and_stands_alone(finished: Path) -> None:
    text = (finished / "report.html").read_text()
    page = Page(text)
    assert [name for name in PLOTS if f"plot-{name}" in page.ids] == list(PLOTS)
    assert page.tags.count("svg") == 9  # two panels each for learning, segments and ablation
    assert len(page.labels) == len(PLOTS) and all(len(label) > 20 for label in page.labels)
    assert len(page.ids) == len(set(page.ids))
    assert all(address.startswith(("#", "data:")) for address in page.addresses)
    assert {address[1:] for address in page.addresses if address.startswith("#")} <= set(page.ids)
    assert not re.search(r"https?:|url\((?!#)|@import|<script", text)
    assert set(re.findall(r"url\(#([^)]+)\)", text)) <= set(page.ids)


def test_users_have_covers_and_their_text_is_escaped(finished: Path) -> None:
    text = (finished / "report.html").read_text()
    assert EVIL not in text and "&lt;script&gt;" in text
    assert text.count("data:image/jpeg;base64,") == 1  # i1; the broken, the absent and the escaping cover have none
    assert "no cover" in text and "三" in text
    assert "Went on to choose 1 item: 1 of the first 3 retrieved, 1 of the first 2 ranked." in text
    assert "0.500, was #2" in text and text.count("✓ chosen") == 2


def test_numbers_that_are_no_numbers_become_null(run: Path) -> None:
    worse = {**RANKING, "auc": math.nan, "reliability": [[0.1, math.nan, 0], [0.3, 0.29, 20]]}
    write(run / "evaluate" / "ranking.json", worse)
    report = write_report(run, None)
    assert report["ranking"]["auc"] is None and report["ranking"]["reliability"][0][1] is None
    json.loads((run / "report.json").read_text(), parse_constant=lambda name: pytest.fail(f"{name} in report.json"))
    assert report == json.loads((run / "report.json").read_text())
    text = (run / "report.html").read_text()
    assert "plot-calibration" in text and "data:image/jpeg" not in text  # no source, no pictures


def test_what_no_stage_wrote_is_left_out(run: Path) -> None:
    """Real data has no oracle, perhaps no sound and no retrained variant; a run may stop before ranking and export."""
    retrieval = {**RETRIEVAL, "ablation": {"text": {"masked": segments(0.04, 0.02)}}}
    del retrieval["oracle"], retrieval["cold_items"]
    write(run / "evaluate" / "retrieval.json", retrieval)
    (run / "evaluate" / "ranking.json").unlink()
    (run / "evaluate" / "examples.json").unlink()
    shutil.rmtree(run / "index")
    shutil.rmtree(run / "releases")
    report = write_report(run, None)
    assert not {"ranking", "index", "fingerprint"} & set(report)
    page = Page((run / "report.html").read_text())
    assert [name for name in PLOTS if f"plot-{name}" in page.ids] == ["learning", "segments", "ablation", "seconds"]
    assert "oracle" not in " ".join(page.labels) and "audio" not in " ".join(page.labels)


def test_only_ingest_is_enough_and_nothing_is_not(run: Path, tmp_path: Path) -> None:
    for folder in ("encode", "retrieval", "index", "export", "evaluate", "releases"):
        shutil.rmtree(run / folder)
    assert set(write_report(run, None)) == {"data", "seconds"}
    Page((run / "report.html").read_text())
    with pytest.raises(FileNotFoundError, match="no stage has finished in"):
        write_report(tmp_path / "empty", None)


@pytest.mark.parametrize("published", [True, False])
def test_a_job_says_what_became_of_its_candidate(run: Path, published: bool) -> None:
    """A candidate's folder is gone once it is published, and lies there where it was kept back: it is no release."""
    metrics = {"retrieval recall@100": {"candidate": 0.634, "current": 0.613}, "ranked NDCG@10": {"candidate": 0.162}}
    write(run / "judge" / "figures.json", {"metrics": metrics})
    rule = {"name": "ranked NDCG@10", "passed": published, "found": "0.162, 346 users", "allowed": "at least 0.1"}
    write(run / "gate" / "decision.json", {"publish": published, "rules": [rule]})
    outcome = {"job": 9, "outcome": "kept", "why": "the gate: ranked NDCG@10", "release": None}
    outcome["made_from"] = {"release": {"version": 10, "fingerprint": "d" * 64}}
    if published:
        outcome |= {"outcome": "published", "why": "release 11", "release": {"version": 11, "fingerprint": "e" * 64}}
        shutil.rmtree(run / "releases")
    write(run / "outcome.json", outcome)
    report, text = write_report(run, None), (run / "report.html").read_text()
    assert report.get("fingerprint") == ("e" * 64 if published else None)
    assert ("Job 9: published<" in text) is published and ("Release 11, fingerprint" in text) is published
    assert ("Job 9: kept; the current release stays<" in text) is not published
    assert "No release was exported yet" not in text and "f" * 64 not in text
    assert text.count('class="words prose"') == 1 and '<td class="words prose">0.162, 346 users</td>' in text
    figures = headline_figures(report)
    assert ("Recall@100, newest days", "0.634", "current release 0.613") in figures
    assert ("Ranked NDCG@10, newest days", "0.162", "") in figures  # there was none before


def test_a_first_job_that_is_kept_back_leaves_no_release(run: Path) -> None:
    outcome = {"job": 1, "outcome": "kept", "why": "the gate: size of the release", "made_from": {"release": None}}
    write(run / "outcome.json", outcome)
    assert write_report(run, None)["job"]["current"] is None
    assert "Job 1: kept; there is no release yet<" in (run / "report.html").read_text()


def test_one_epoch_is_no_curve(run: Path) -> None:
    for variant in ("ids_only", "full"):
        write(run / "retrieval" / variant / "history.json", [{"epoch": 0, "loss": 5.0, "valid_ndcg@20": 0.1}])
    write_report(run, None)
    assert "plot-learning" not in Page((run / "report.html").read_text()).ids


def test_two_settings_of_an_index_are_a_table(run: Path) -> None:
    """So is a nightly job's, which measures one beside exact search."""
    write(run / "index" / "report.json", {**INDEX, "trade_off": INDEX["trade_off"][:2]})
    write_report(run, None)
    text = (run / "report.html").read_text()
    assert "plot-index" not in text and "table-index" in text
    assert '<td class="words">a</td><td>0.9950</td><td>0.40</td><td>0.90</td><td>1.2 kB</td>' in text


def test_bars_of_seconds_are_as_long_as_they_took() -> None:
    plot = plot_seconds({"ingest": 1.0, "a<b": 4.0})
    assert plot is not None and "a&lt;b</text>" in plot.svg and "4.0 s</text>" in plot.svg
    short, long = (float(width) for width in re.findall(r'<rect [^>]*width="([0-9.]+)"', plot.svg))
    assert long == 4 * short


def test_a_broken_stage_output_is_named(run: Path) -> None:
    (run / "evaluate" / "retrieval.json").write_text("{")
    with pytest.raises(StageError, match=r"retrieval\.json: must be JSON"):
        write_report(run, None)


def test_text_alternatives_tell_the_figures() -> None:
    plot = plot_segments(RETRIEVAL)
    assert plot is not None and plot == plot_segments(RETRIEVAL)  # the same figures give the same bytes
    for figure in ("oracle (true taste) 0.200", "Triptych 0.100", "popularity 0.040", "Never-seen items"):
        assert figure in plot.alt
    ablation = plot_ablation(RETRIEVAL)
    assert ablation is not None
    assert "recall@100 without audio (hidden from the two towers as they were trained): 0.060." in ablation.alt
    assert "currentColor" in ablation.svg and "xmlns" not in ablation.svg
    index = plot_index(INDEX)
    assert index is not None and "ScaNN a: recall 0.995 at 0.40 ms" in index.alt


def test_calibration_takes_one_curve_or_one_a_head() -> None:
    both = plot_calibration({"reliability": {"click": [[0.1, 0.1, 5]], "purchase": [[0.2, 0.15, 5]]}})
    assert both is not None and "click and purchase" in both.alt and "0.050" in both.alt
    assert plot_calibration({}) is None and plot_calibration({"reliability": []}) is None


def test_the_summary_computes_shares() -> None:
    words = " ".join(summarise({"retrieval": RETRIEVAL, "ranking": RANKING, "seconds": {"ingest": 61.0}}))
    assert "10.0 % is among the first 20" in words and "popular finds 4.0 %" in words
    assert "the model reaches 50.0 % of what can be reached" in words  # 0.10 of 0.20
    assert "where retrieval's own order has 0.160: 25 % better" in words
    assert "All 1 stages" not in words and "1 min 1 s" in words


def test_ids_of_two_plots_never_meet() -> None:
    svg = '<svg><clipPath id="a"/><g clip-path="url(#a)"/><use xlink:href="#a"/></svg>'
    assert inline_svg(svg, "p") == '<svg><clipPath id="p-a"/><g clip-path="url(#p-a)"/><use href="#p-a"/></svg>'
