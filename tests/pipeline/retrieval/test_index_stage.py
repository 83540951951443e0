"""The trade-off of a run's index, as a table and a plot in its folder."""

import xml.etree.ElementTree as ElementTree

import pandas as pd

import pipeline.retrieval.served
from pipeline.report.words import summarise
from pipeline.retrieval.index_stage import PLOT, TABLE, write_trade_off
from pipeline.retrieval.served import shared_served

POINTS = [
    {"kind": "exact", "recall@100_vs_exact": 1.0, "p50_ms": 11.0, "p99_ms": 13.0, "bytes": 256},
    {"kind": "partitioned", "setting": "9 of 99 blocks", "recall@100_vs_exact": 0.98, "p50_ms": 0.8, "p99_ms": 1, "bytes": 215},
    {"kind": "scann", "setting": "3 of 20 leaves", "recall@100_vs_exact": 0.97, "p50_ms": 0.6, "p99_ms": 0.9, "bytes": 293},
]


def test_trade_off_is_a_table_and_a_picture_that_stands_alone(tmp_path):
    write_trade_off({"trade_off": POINTS}, tmp_path)
    table = pd.read_csv(tmp_path / TABLE)
    assert table["kind"].tolist() == ["exact", "partitioned", "scann"] and table["p50_ms"].tolist() == [11.0, 0.8, 0.6]
    picture = ElementTree.parse(tmp_path / PLOT).getroot()
    assert picture.tag == "{http://www.w3.org/2000/svg}svg"
    words = " ".join(text.text or "" for text in picture.iter("{http://www.w3.org/2000/svg}text"))
    assert all(name in words for name in ("exact", "partitioned", "ScaNN", "recall@100"))
    assert "currentColor" not in (tmp_path / PLOT).read_text()


def test_a_run_without_figures_leaves_no_picture(tmp_path):
    write_trade_off({"trade_off": []}, tmp_path)
    write_trade_off({"trade_off": POINTS}, tmp_path, drawn=False)
    assert not (tmp_path / PLOT).exists() and len(pd.read_csv(tmp_path / TABLE)) == len(POINTS)


def test_the_report_says_why_this_kind(tmp_path):
    index = {**POINTS[1], "reason": "1000000 items are 50000 or more"}
    assert "Why this kind: 1000000 items are 50000 or more." in " ".join(summarise({"index": index}))


def test_stages_share_what_is_served_until_it_is_made_anew(tmp_path, monkeypatch):
    monkeypatch.setattr(pipeline.retrieval.served, "load_served", lambda run, variant: object())
    towers = tmp_path / "retrieval" / "full"
    towers.mkdir(parents=True)
    (towers / "weights").write_text("old")
    first = shared_served(tmp_path)
    assert shared_served(tmp_path) is first
    (towers / "weights").rename(tmp_path / "aside")
    (towers / "model").write_text("new")
    assert shared_served(tmp_path) is not first
