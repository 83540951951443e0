"""The report in plain words: sentences and headline figures, each only where its numbers exist."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.report.figure import name_of, read_metric

TRUSTED_ERROR, TRUSTED_SHARE = 0.03, 0.25
"""Expected calibration error up to which probabilities are called trustworthy, by itself and as a share of the observed rate:
an error of .02 is little where every third is chosen, and all there is to know where every fiftieth is."""
JUDGED = {"retrieval recall@100": "Recall@100, newest days", "ranked NDCG@10": "Ranked NDCG@10, newest days"}
"""What a job's candidate is judged by, as the gate calls it and as people read it."""


def summarise(report: Mapping[str, Any]) -> list[str]:
    """What the run amounts to, for someone who knows none of the terms.

    Example:
        >>> summarise({"seconds": {"ingest": 30.0, "encode": 61.0}})
        ['All 2 stages took 1 min 31 s.']
    """
    sentences = [*_data_words(report), *_retrieval_words(report), *_ranking_words(report), *_index_words(report)]
    seconds = report.get("seconds") or {}
    if seconds:
        which = "One stage" if len(seconds) == 1 else f"All {len(seconds)} stages"
        sentences.append(f"{which} took {format_seconds(sum(seconds.values()))}.")
    return sentences


def headline_figures(report: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """The few figures at the top: (what, value, beside what it stands)."""
    figures = []
    for segment, key, name in (
        ("test", "recall@20", "Recall@20"),
        ("cold_items", "recall@100", "Recall@100, never-seen items"),
    ):
        value = read_metric(report, "retrieval", segment, key)
        if value is not None:
            figures.append((name, f"{value:.3f}", _beside(report, segment, key)))
    for key, name in JUDGED.items():
        candidate, current = (read_metric(report, "judged", key, side) for side in ("candidate", "current"))
        if candidate is not None:
            figures.append((name, f"{candidate:.3f}", f"current release {current:.3f}" if current is not None else ""))
    ranked, before = read_metric(report, "ranking", "ndcg@10"), read_metric(report, "ranking", "retrieval_order_ndcg@10")
    if ranked is not None:
        figures.append(
            ("Ranking NDCG@10", f"{ranked:.3f}", f"retrieval order {before:.3f}" if before is not None else "")
        )
    error, area = read_metric(report, "ranking", "ece"), read_metric(report, "ranking", "auc")
    if error is not None:
        figures.append(("Calibration error", f"{error:.4f}", f"AUC {area:.3f}" if area is not None else ""))
    recall, speed = read_metric(report, "index", "recall@100_vs_exact"), read_metric(report, "index", "p50_ms")
    if recall is not None:
        figures.append(
            (
                f"{name_of(str(report['index'].get('kind', 'candidate')))} index recall@100",
                f"{recall:.3f}",
                f"{speed:.2f} ms a query" if speed is not None else "",
            )
        )
    return figures


def _data_words(report: Mapping[str, Any]) -> list[str]:
    data = report.get("data") or {}
    if not {"users", "items", "events"} <= set(data):
        return []
    text = f"{data['users']:,} users, {data['items']:,} items and {data['events']:,} events went in"
    bad = data.get("quarantined")
    if bad == 0:
        text += "; nothing had to be set aside"
    elif bad is not None:
        text += f"; {bad:,} bad {'row or file was' if bad == 1 else 'rows or files were'} set aside"
    return [f"{text}."]


def _retrieval_words(report: Mapping[str, Any]) -> list[str]:
    sentences = []
    found, best = (read_metric(report, "retrieval", *who, "test", "recall@20") for who in ((), ("oracle",)))
    if found is not None:
        text = f"Of what users went on to choose, {percent(found)} is among the first 20 suggestions"
        words = {"popularity": "suggesting what is popular", "item_knn": "item-kNN"}
        others = {name: read_metric(report, "retrieval", "baselines", key, "test", "recall@20") for key, name in words.items()}
        parts = [f"{name} finds {percent(value)}" for name, value in others.items() if value is not None]
        text += f" ({', '.join(parts)})." if parts else "."
        if best:
            text += f" Someone who knew every taste exactly would find {percent(best)}, "
            text += f"so the model reaches {percent(found / best)} of what can be reached."
        sentences.append(text)
    cold = read_metric(report, "retrieval", "cold_items", "recall@100")
    ids = read_metric(report, "retrieval", "baselines", "ids_only", "cold_items", "recall@100")
    if cold is not None:
        text = f"Of new items that nobody had touched before, {percent(cold)} is found among the first 100"
        text += f"; a model that knows only ids, not content, finds {percent(ids)}" if ids is not None else ""
        sentences.append(f"{text}.")
    full, place = (found, ("test", "recall@20")) if cold is None else (cold, ("cold_items", "recall@100"))
    ablation = (report.get("retrieval") or {}).get("ablation") or {}
    without = {name: read_metric(report, "retrieval", "ablation", name, *place) for name in ablation}
    costs = {name: 1 - value / full for name, value in without.items() if full and value is not None}
    if costs:
        ordered = sorted(costs.items(), key=lambda pair: -pair[1])
        told = ", ".join(f"{name} {percent(cost) if cost > 0 else 'nothing'}" for name, cost in ordered)
        what = "recall" if cold is None else "recall of new items"
        sentences.append(f"Without one kind of content, this much {what} is lost: {told}.")
    return sentences


def _ranking_words(report: Mapping[str, Any]) -> list[str]:
    ranking = report.get("ranking") or {}
    ranked, before, error = (read_metric(report, "ranking", key) for key in ("ndcg@10", "retrieval_order_ndcg@10", "ece"))
    sentences = []
    if ranked is not None and before is not None:
        text = f"Ranking orders the first ten at NDCG {ranked:.3f}, where retrieval's own order has {before:.3f}"
        if before:
            text += f": {percent(abs(ranked / before - 1))} {'better' if ranked >= before else 'worse'}"
        sentences.append(f"{text}.")
    trees, gap = read_metric(report, "ranking", "lightgbm_ndcg@10"), (ranking.get("lightgbm") or {}).get("ranker_less_trees")
    if trees is not None and gap and None not in gap:
        better = "better than" if gap[1] > 0 else "worse than" if gap[2] < 0 else "not shown to differ from"
        sentences.append(f"It is {better} boosted trees on the same features, which reach {trees:.3f}.")
    if error is not None:
        rate = _click_rate(ranking)
        trusted = "can be" if error <= TRUSTED_ERROR and (rate is None or error <= TRUSTED_SHARE * rate) else "should not be"
        points = f"{100 * error:.1f} percentage points"
        beside = "" if rate is None else f", where {percent(rate)} of what is shown or drawn is chosen"
        sentences.append(f"The probabilities {trusted} taken at their word: on average they are off by {points}{beside}.")
    return sentences


def _click_rate(ranking: Mapping[str, Any]) -> float | None:
    """The share of positives among the examples that the calibration error of clicks is over; None where it is not told."""
    examples, positives = (read_metric(ranking, "heads", "click", key) for key in ("examples", "positives"))
    return positives / examples if examples and positives is not None else None


def _index_words(report: Mapping[str, Any]) -> list[str]:
    recall, speed, size = (read_metric(report, "index", key) for key in ("recall@100_vs_exact", "p50_ms", "bytes"))
    if recall is None or speed is None:
        return []
    kind = name_of(str(report["index"].get("kind", "candidate")))
    text = f"The {kind} index answers in {speed:.2f} ms and returns {percent(recall)} of what an exact search would"
    reason = report["index"].get("reason")
    told = [f"{text}, in {format_bytes(size)}." if size is not None else f"{text}."]
    return told + ([f"Why this kind: {reason}."] if reason else [])


def _beside(report: Mapping[str, Any], segment: str, key: str) -> str:
    oracle = read_metric(report, "retrieval", "oracle", segment, key)
    popularity = read_metric(report, "retrieval", "baselines", "popularity", segment, key)
    parts = [f"oracle {oracle:.3f}"] if oracle is not None else []
    return ", ".join(parts + ([f"popularity {popularity:.3f}"] if popularity is not None else []))


def percent(share: float) -> str:
    """A share in percent, with as many places as it needs.

    Example:
        >>> percent(0.5), percent(0.034), percent(0.0), percent(0.9994)
        ('50 %', '3.4 %', '0 %', '99.9 %')
    """
    places = 1 if 0 < share < 0.1 or 0.99 < share < 1 else 0
    return f"{100 * share:.{places}f} %"


def format_seconds(seconds: float) -> str:
    """Seconds as a person says them.

    Example:
        >>> format_seconds(7.2), format_seconds(200)
        ('7 s', '3 min 20 s')
    """
    whole = round(seconds)
    return f"{whole // 60} min {whole % 60} s" if whole >= 60 else f"{whole} s"


def format_bytes(count: float | None) -> str:
    """A size in powers of 1,000.

    Example:
        >>> format_bytes(1_234_567), format_bytes(None)
        ('1.2 MB', '–')
    """
    if count is None:
        return "–"
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"
