"""The report in plain words: sentences and headline figures, each only where its numbers exist."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.report.figure import name_of, read_metric
from pipeline.report.quantities import format_bytes, format_seconds, listed, percent, percent_places

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
        >>> summarise({"seconds": {"ingest": 30.0, "encode": 61.0}, "job": {"number": 1}})
        ["The stages' times add up to 1 min 31 s; some run side by side."]
    """
    sentences = [*_data_words(report), *_retrieval_words(report), *_ranking_words(report), *_index_words(report)]
    seconds = report.get("seconds") or {}
    if seconds:
        total, which = format_seconds(sum(seconds.values())), f"All {len(seconds)} stages"
        beside = "job" in report and len(seconds) > 1
        sentences.append(
            f"The stages' times add up to {total}; some run side by side."
            if beside
            else f"{'One stage' if len(seconds) == 1 else which} took {total}."
        )
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
            (
                "Ranking NDCG@10",
                f"{ranked:.3f}",
                "visit by visit" + (f"; retrieval order {before:.3f}" if before is not None else ""),
            )
        )
    error, area = read_metric(report, "ranking", "ece"), read_metric(report, "ranking", "auc")
    if error is not None:
        figures.append(("Calibration error", f"{error:.4f}", f"AUC {area:.3f}" if area is not None else ""))
    recall, speed = read_metric(report, "index", "recall@100_vs_exact"), read_metric(report, "index", "p50_ms")
    kind = (report.get("index") or {}).get("kind", "candidate")
    if kind == "exact" and speed is not None:  # of which the recall is no news
        figures.append(("Exact index", f"{speed:.2f} ms", "a query"))
    elif recall is not None:
        figures.append(
            (
                f"{kind_name(kind)} index recall@100",
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
        words = {"popularity": "suggesting what is popular", "item_knn": "item-kNN"}
        others = {name: read_metric(report, "retrieval", "baselines", key, "test", "recall@20") for key, name in words.items()}
        shares = {name: value for name, value in others.items() if value is not None}
        places = percent_places([found, *shares.values(), *([best, found / best] if best else [])])
        text = f"Of what users went on to choose, {percent(found, places)} is among the first 20 suggestions"
        parts = [f"{name} finds {percent(value, places)}" for name, value in shares.items()]
        text += f" ({', '.join(parts)})." if parts else "."
        if best:
            text += f" Someone who knew every taste exactly would find {percent(best, places)}, "
            text += f"so the model reaches {percent(found / best, places)} of what can be reached."
        sentences.append(text)
    cold = read_metric(report, "retrieval", "cold_items", "recall@100")
    ids = read_metric(report, "retrieval", "baselines", "ids_only", "cold_items", "recall@100")
    if cold is not None:
        places = percent_places([cold] if ids is None else [cold, ids])
        text = f"Of new items that nobody had touched before, {percent(cold, places)} is found among the first 100"
        text += f"; a model that knows only ids, not content, finds {percent(ids, places)}" if ids is not None else ""
        sentences.append(f"{text}.")
    full, place = (found, ("test", "recall@20")) if cold is None else (cold, ("cold_items", "recall@100"))
    ablation = (report.get("retrieval") or {}).get("ablation") or {}
    without = {name: read_metric(report, "retrieval", "ablation", name, *place) for name in ablation}
    # What is only hidden is hidden from the two towers, without the linear tower that may stand beside them.
    towers = read_metric(report, "retrieval", "baselines", "two_towers", *place)
    whole = {name: towers if towers and "retrained" not in entry else full for name, entry in ablation.items()}
    costs = {name: 1 - value / base for name, value in without.items() if (base := whole[name]) and value is not None}
    if costs:
        ordered = sorted(costs.items(), key=lambda pair: -pair[1])
        places = percent_places([abs(cost) for cost in costs.values()])
        told = ", ".join(f"{name} {_cost(cost, places)}" for name, cost in ordered)
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
    return [*sentences, *_calibration_words(ranking, error)]


def _calibration_words(ranking: Mapping[str, Any], click: float | None) -> list[str]:
    """Whose probabilities can be trusted, and by how much those of clicks and those that cannot are off.

    `click`: the calibration error of clicks, which is judged by itself where their rate is not told.
    """
    judged: dict[str, tuple[float, float | None]] = {} if click is None else {"click": (click, None)}
    for head in ranking.get("heads") or {}:
        error, examples, positives = (read_metric(ranking, "heads", head, key) for key in ("ece", "examples", "positives"))
        error = click if error is None and head == "click" else error
        if error is not None and examples and positives is not None:
            judged[head] = error, positives / examples
    right = {
        head: error <= TRUSTED_ERROR and (rate is None or error <= TRUSTED_SHARE * rate)
        for head, (error, rate) in judged.items()
    }
    if not right:
        return []
    good, bad = ([head for head in right if right[head] is wanted] for wanted in (True, False))
    words = [
        f"The probabilities of {listed(good)} can be taken at their word" if good else "",
        f"those of {listed(bad)} should not" if good and bad else "",
        f"The probabilities of {listed(bad)} should not be taken at their word" if not good else "",
    ]
    off: list[str] = []
    told = [head for head in judged if head == "click" or head in bad]
    rates = percent_places([rate for head in told if (rate := judged[head][1]) is not None])
    for head in told:
        error, rate = judged[head]
        places = 1 if error >= 0.0005 else 2
        points = f"{100 * error:.{places}f}"
        off.append(f"{head} by {points}" if off else f"{head} is off by {points} percentage points")
        off[-1] += "" if rate is None else f" where it happens in {percent(rate, rates)} of cases"
    return [f"{'; '.join(filter(None, words))}: on average {listed(off)}." if off else f"{'; '.join(filter(None, words))}."]


def _index_words(report: Mapping[str, Any]) -> list[str]:
    recall, speed, size = (read_metric(report, "index", key) for key in ("recall@100_vs_exact", "p50_ms", "bytes"))
    if recall is None or speed is None:
        return []
    kind = str(report["index"].get("kind", "candidate"))
    text = f"The {name_of(kind)} index answers in {speed:.2f} ms"
    # Exact search returns what exact search returns.
    text += "" if kind == "exact" else f" and returns {percent(recall)} of what an exact search would"
    reason = report["index"].get("reason")
    told = [f"{text}, in {format_bytes(size)}." if size is not None else f"{text}."]
    return told + ([f"Why this kind: {reason}."] if reason else [])


def _beside(report: Mapping[str, Any], segment: str, key: str) -> str:
    oracle = read_metric(report, "retrieval", "oracle", segment, key)
    popularity = read_metric(report, "retrieval", "baselines", "popularity", segment, key)
    parts = [f"oracle {oracle:.3f}"] if oracle is not None else []
    return ", ".join(parts + ([f"popularity {popularity:.3f}"] if popularity is not None else []))


def kind_name(kind: Any) -> str:
    """A kind of index at the beginning of a line.

    Example:
        >>> kind_name("exact"), kind_name("scann")
        ('Exact', 'ScaNN')
    """
    name = name_of(str(kind))
    return name[:1].upper() + name[1:]


def _cost(cost: float, places: int) -> str:
    """What is lost without a modality; where it is nothing, what is won."""
    if cost > 0:
        return percent(cost, places)
    return "nothing" if round(-cost, 2 + places) == 0 else f"nothing ({percent(-cost, places)} more without it)"
