"""The ranker against boosted trees on its own features: both order the same candidates of the same test users."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.boosted_trees import REPORT, load_boosted_trees, score_candidates
from pipeline.bootstrap import bootstrap_means
from pipeline.examples import Requests
from pipeline.metrics import mean_over_users, ndcg_at_k
from ranking.serving_form import RankingServingForm

MOST_USERS = 5_000
"""Trees answer a candidate at a time; of more test users a random choice is judged."""


def judge_trees(
    folder: Path,
    form: RankingServingForm,
    requests: Requests,
    rows: NDArray,
    scores: NDArray,
    ranked: NDArray,
    seed: int,
    k: int = 10,
) -> dict[str, Any]:
    """NDCG of the trees' order, and of the ranker's less it, with its interval over the same users.

    Args:
        folder: of the ranking stage, see `pipeline.boosted_trees`.
        rows, scores: [Q, T], what was retrieved. ranked: [Q, T], the ranker's order of it.

    Returns: what was said of the fit (or why there was none), `ndcg@k`, `ranker_less_trees` as [mean, low, high], `users`.
    """
    fitted = folder / REPORT
    report = json.loads(fitted.read_text()) if fitted.is_file() else {"skipped": "the ranking stage fitted none"}
    booster = load_boosted_trees(folder)
    if booster is None:
        return report
    count = len(requests.users)
    chosen = np.sort(np.random.default_rng(seed).permutation(count)[:MOST_USERS])
    part, rows = requests.take(chosen), rows[chosen]
    found = score_candidates(
        booster, form, part.users, part.history, rows, scores[chosen], part.timestamps, part.context
    )
    ordered = np.take_along_axis(rows, np.argsort(-found, axis=1, kind="stable"), axis=1)
    values = ndcg_at_k(ordered, part.relevant, k)
    difference = ndcg_at_k(ranked[chosen], part.relevant, k) - values
    low, high = bootstrap_means(difference[:, None], np.random.default_rng(seed))
    return {
        **report,
        f"ndcg@{k}": mean_over_users(values),
        "ranker_less_trees": [mean_over_users(difference), float(low[0]), float(high[0])],
        "users": int(np.count_nonzero(~np.isnan(values))),
    }
