"""What diversity costs by space and by relevance: how much less alike pages can be made for 2 % of NDCG@10.

    python benchmarks/diversity.py --run runs/demo

Pages of ten out of what the index proposed for the held-out visits of the ranking stage, chosen place by place by marginal
relevance with the mean likeness to the page (`ranking.diversity.mmr`) for rising strengths. Spaces that likeness is read from:

- `tokens`, what is served: the ranker's token of the most alike modality. `tokens_mean`: all of them side by side.
- `content`: the feature store's vectors, every modality centred and of length 1, side by side.
- `item_encoder`: where the retrieval tower puts an item by its content alone, as if nobody had chosen it yet;
  `item_encoder_centred`: less their mean. `fused`: the same before the tower's last layer.
- `tower`: where it puts the item with its id. `index`: the whole embedding that the index searches.

Relevance is the score over its range within the request (`score`), over its mean range (`global`), that times the discount of
the place it would have (`discounted`), the logit of the click, or the place alone (`rank`). What a page costs is told by what
was chosen in the visit, with the standard error of that loss, and `expected` by the calibrated click probabilities, which is
exact for a ranker that is. Distance is the mean over pairs of 1 - likeness, in the space the page was chosen by; `tokens` and
`content` tell it in two common ones. Nothing here chooses the default policy; the stage `policy` does. The last line is one
JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

from data.features import FeatureStore
from pipeline.evaluation.exposure_quality import content_vectors
from pipeline.metrics.list_metrics import intra_list_distance
from pipeline.metrics.metrics import ndcg_at_k
from pipeline.policy.judge import PAGE, smooth_costs
from pipeline.policy.pages import served_tokens
from pipeline.ranker.visits import HELD_OUT, Visits
from pipeline.retrieval.served import load_served
from ranking.serving_form import RankingServingForm

STRENGTHS = (0.05, 0.11, 0.18, 0.25, 0.33, 0.43, 0.54, 0.67, 0.82, 1.0, 1.22, 1.5, 2.0)
"""(1 - lambda) / lambda."""
BUDGET, WANTED = 0.02, 0.2
COMMON = ("tokens", "content")
"""Spaces that every page's distance is told in."""
DEEPEST = 80
"""Candidates that a page is chosen from: beyond them nothing is relevant enough to be taken at these strengths."""
SMALLER = {"discounted": 0.25, "logit": 0.25, "rank": 0.25}
"""Strengths of these relevances, as their differences at the top are this much smaller."""


def unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors [N + 1, D] as one modality of unit tokens [N + 1, 1, D], zero where there is none."""
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors / np.where(length > 0, length, 1.0)).astype(np.float32)[:, None]


def spaces_of(run: Path) -> dict[str, np.ndarray]:
    """Tokens [N + 1, M, D] of every space."""
    store, served = FeatureStore.open(run / "encode"), load_served(run)
    form = RankingServingForm.load(run / "ranking" / "serving_form")
    tables = {name: np.asarray(store.pooled(name), np.float32) for name in store.modalities}
    present = {name: store.present_of(name) for name in tables}
    tokens, content = served_tokens(form, served.items), content_vectors(tables, present)
    spaces = {"tokens": tokens, "tokens_mean": unit(tokens.reshape(len(tokens), -1))}
    if content is not None:
        strangers = np.zeros(len(tokens), np.int32)
        placed, inner = served.two_tower.item_tower(strangers, tables, np.stack(list(present.values()), axis=1))
        there = np.stack(list(present.values()), axis=1).any(axis=1, keepdims=True)
        vectors, fused = np.asarray(placed) * there, np.asarray(inner["fused"]) * there
        spaces |= {"content": unit(content), "item_encoder": unit(vectors), "fused": unit(fused)}
        spaces["item_encoder_centred"] = unit((vectors - vectors[there[:, 0]].mean(axis=0)) * there)
    return spaces | {"tower": unit(served.tower_items), "index": unit(served.items)}


def relevances(scores: np.ndarray, click: np.ndarray) -> dict[str, np.ndarray]:
    """[Q, K] each; candidates stand in the order of their scores."""
    spread, place = np.ptp(scores, axis=1, keepdims=True), np.arange(scores.shape[1])
    logit = np.log(click / (1.0 - click))
    common = scores / spread.mean()
    return {
        "score": scores / spread,
        "global": common,
        "discounted": common / np.log2(2.0 + np.minimum(place, PAGE - 1)),
        "logit": logit / np.ptp(logit, axis=1).mean(),
        "rank": np.broadcast_to(1.0 - place / scores.shape[1], scores.shape),
    }


def marginal(relevance: np.ndarray, alike: np.ndarray, strength: float) -> np.ndarray:
    """Places [Q, PAGE] of `ranking.diversity.mmr` for many requests, in the order of the scores."""
    line, left, total = np.arange(len(relevance)), relevance.astype(np.float64).copy(), np.zeros(relevance.shape)
    chosen = np.zeros((len(relevance), PAGE), np.int64)
    for place in range(PAGE):
        chosen[:, place] = np.argmax(left - strength * total / max(place, 1), axis=1)
        left[line, chosen[:, place]] = -np.inf
        total += alike[line, chosen[:, place]]
    return np.sort(chosen, axis=1)


def judge(visits: Visits, spaces: dict[str, np.ndarray], space: str, kinds: list[str]) -> dict[str, Any]:
    """Raises of the distance at the budget, and costs of the wanted raise, by kind of relevance."""
    order = np.argsort(-visits.scores, axis=1, kind="stable")[:, :DEEPEST]
    rows, scores, click = (np.take_along_axis(of, order, 1) for of in (visits.rows, visits.scores, visits.click))
    drawn = spaces[space][rows]
    alike = (drawn.transpose(0, 2, 1, 3) @ drawn.transpose(0, 2, 3, 1)).max(axis=1)
    of = relevances(scores.astype(np.float64), np.clip(click.astype(np.float64), 1e-6, 1 - 1e-6))
    discounts = 1.0 / np.log2(2.0 + np.arange(PAGE))

    def figures(places: np.ndarray) -> dict[str, Any]:
        pages = np.take_along_axis(rows, places, 1)
        told = {name: np.nanmean(intra_list_distance(pages, spaces[name])) for name in {space, *COMMON} & set(spaces)}
        expected = (np.take_along_axis(click, places, 1) * discounts).sum(axis=1).mean()
        return {"ndcg": ndcg_at_k(pages, visits.relevant, PAGE), "expected": float(expected), **told}

    plain = figures(np.tile(np.arange(PAGE), (len(rows), 1)))
    result: dict[str, Any] = {}
    for kind in kinds:
        strengths = np.array(STRENGTHS) * SMALLER.get(kind, 1.0)
        found = [figures(marginal(of[kind], alike, strength)) for strength in strengths]
        share = lambda name: np.array([each[name] / plain[name] - 1.0 for each in found])  # noqa: B023, E731
        lost = [plain["ndcg"] - each["ndcg"] for each in found]
        mean = np.array([np.nanmean(each) for each in lost]) / np.nanmean(plain["ndcg"])
        error = np.array([np.nanstd(each) for each in lost]) / len(rows) ** 0.5 / np.nanmean(plain["ndcg"])
        costs = {"measured": smooth_costs(strengths, mean), "expected": -share("expected")}
        raised = share(space)
        line: dict[str, Any] = {"plain_distance": float(plain[space])}
        for name, cost in costs.items():
            rising = np.maximum.accumulate(cost)
            line[f"raise_at_budget_{name}"] = float(np.interp(BUDGET, rising, raised))
            reached = raised.max() >= WANTED
            line[f"cost_of_wanted_{name}"] = float(np.interp(WANTED, raised, cost)) if reached else None
        line["error_at_budget"] = float(np.interp(BUDGET, np.maximum.accumulate(costs["measured"]), error))
        for name in [each for each in COMMON if each in spaces]:
            line[f"{name}_at_budget"] = float(np.interp(BUDGET, np.maximum.accumulate(costs["measured"]), share(name)))
        result[kind] = {name: value if value is None else round(value, 4) for name, value in line.items()}
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="run folder with everything up to the ranking")
    arguments = parser.parse_args()
    begun = time.perf_counter()
    visits, spaces = Visits.load(arguments.run / "ranking" / HELD_OUT), spaces_of(arguments.run)
    report: dict[str, Any] = {"benchmark": "diversity", "visits": len(visits), "budget": BUDGET, "wanted": WANTED}
    report["spaces"] = {}
    for name in spaces:
        kinds = ["score", "global", "discounted", "logit", "rank"] if name in ("tokens", "item_encoder") else ["score"]
        report["spaces"][name] = judge(visits, spaces, name, kinds)
        for kind, line in report["spaces"][name].items():
            print(f"{name:21} {kind:11}", json.dumps(line), flush=True)
    print(json.dumps({**report, "seconds": round(time.perf_counter() - begun, 1)}))


if __name__ == "__main__":
    main()
