"""The served stage: two towers and the linear tower become one dot product, weighed on validation."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from data.dataset import Dataset
from data.features import FeatureStore
from pipeline.metrics.examples import interactions
from pipeline.metrics.metrics import mean_or_none, ndcg_at_k
from pipeline.metrics.segments import MINIMUM_USERS
from pipeline.retrieval.linear_judge import K, LinearJudge
from pipeline.retrieval.linear_stage import INFO, REFIT
from pipeline.retrieval.new_items import with_new_items
from pipeline.retrieval.queries import embed_queries
from pipeline.retrieval.served import UNSEEN, Served
from pipeline.settings.linear import LinearSection
from pipeline.training.record import read_records, write_records
from towers.content_map import ContentMap
from towers.ensemble import Ensemble
from towers.fusion import unit_length
from towers.linear import FILE, LinearTower, whiten
from towers.two_tower import load_two_tower

Setting = tuple[float, float]
"""(share, boost)."""
SHARES = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9)
"""Of the two towers in the sum. Never 0: a user without history is theirs alone."""

BOOSTS = (1.0, 1.25, 1.5, 1.75, 2.0, 2.5, 3.0, 4.0, 6.0)
"""Of items that nobody has chosen yet. A prediction from content is shrunk towards the mean, by as much as content fails
to say, and would lose against items that are known; how far to stretch it is for the validation split to say."""

LONGEST_HISTORY = 4096
"""Events of a user that a query reads at most. Who asks for many users holds them as a table of that width, which one robot
with a hundred thousand events would set for everybody; MovieLens-1M's longest history has 2,314."""


def build_served(
    dataset: Dataset,
    store: FeatureStore,
    trained: Path,
    linear: Path,
    out: Path,
    section: LinearSection,
    *,
    modalities: tuple[str, ...],
    fixed: Setting | None = None,
) -> dict[str, Any]:
    """Write the ensemble into `out`; nothing where there is no linear tower or it does not help on validation.

    Args:
        trained, linear: folders of the two stages before. modalities: content that this variant may see.
        fixed: share and boost that were chosen before; None = they are chosen now.

    Returns: for the manifest: settings tried, each with its NDCG@20 of all items and of new ones.
    """
    if not (linear / FILE).is_file():
        return {"kind": "two_tower"}
    two_tower, tower_items = load_two_tower(trained), np.load(trained / "item_embeddings.npy")
    length = two_tower.config.history_length
    judge = LinearJudge(dataset, section.validation_users, section.seed, history_length=length)
    requests = judge.requests
    unknown = dataset.counts == 0
    tower, content_map = with_new_items(whiten(LinearTower.load(linear)), unknown, store, modalities)
    queries = embed_queries(two_tower, tower_items, dataset.profile, requests.users, requests.history)
    scores = queries @ tower_items.T
    spread = max(float(scores[:, 1:].std(axis=1).mean()), 1e-9)
    linear_scores = keras.ops.convert_to_numpy(unit_length(tower.queries(judge.taken))) @ tower.items.T
    fresh = requests.relevant.restrict(unknown)
    boosts = BOOSTS if content_map is not None and fresh.counts.any() else BOOSTS[:1]
    shares, boosts = (SHARES, boosts) if fixed is None else ((fixed[0],), (fixed[1],))
    overall, new = {}, {}
    for boost in boosts:
        stretched = np.where(unknown, boost, 1.0).astype(np.float32) * linear_scores
        for share in shares:
            ranked = judge.rank(share / spread * scores + (1.0 - share) * stretched)
            overall[share, boost] = ndcg_at_k(ranked, requests.relevant, K)
            new[share, boost] = ndcg_at_k(ranked, fresh, K)
    share, boost = choose(overall, new)
    figure, alone = float(overall[share, boost].mean()), judge.ndcg(scores)
    info = {
        "two_towers_alone": alone,
        "linear_alone": judge.ndcg(linear_scores),
        "by_share_and_boost": {
            f"{one}, {other}": [float(values.mean()), mean_or_none(new[one, other])]
            for (one, other), values in overall.items()
        },
        "validation_users": len(requests.users),
    }
    if figure <= alone and fixed is None:
        return {"kind": "two_tower", "valid_ndcg@20": alone, **info}
    weights = (share / spread, 1.0 - share)
    longest = history_length(dataset, length)

    def save(
        folder: Path, tower: LinearTower, content_map: ContentMap | None, unknown: np.ndarray, source: Path
    ) -> Ensemble:
        stretched = stretch(tower, content_map, unknown, boost)
        ensemble = Ensemble(two_tower, tower_items, stretched, content_map, weights)
        folder.mkdir(exist_ok=True)
        ensemble.save_to(folder)
        (folder / "history_length.txt").write_text(str(longest))
        np.save(folder / "item_embeddings.npy", Served(two_tower, tower_items, ensemble, length).items)
        write_records(folder, read_records(trained) + read_records(source))
        return ensemble

    if not (linear / REFIT / FILE).is_file():
        ensemble = save(out, tower, content_map, unknown, linear)
    else:
        # Fitted again on the validation split, the index knows that split's answers; the ranker, which learns from
        # them, is shown the candidates of the one that does not.
        again = whiten(LinearTower.load(linear / REFIT))
        # An item chosen in what it was fitted on again is known to it, and needs no place from its content.
        splits = json.loads((linear / INFO).read_text())["refitted_on"]
        never = unknown & ~np.isin(np.arange(len(unknown)), interactions(dataset, splits).rows)
        ensemble = save(out, *with_new_items(again, never, store, modalities), never, linear / REFIT)
        save(out / UNSEEN, tower, content_map, unknown, linear)
    chosen = {"kind": "ensemble", "share": share, "boost": boost, "valid_ndcg@20": figure}
    return {**chosen, "width": ensemble.items.shape[1], **info}


def history_length(dataset: Dataset, least: int) -> int:
    """L of a query: the longest history of the dataset, at most `LONGEST_HISTORY` and at least what the two towers read."""
    longest = int(dataset.events[dataset.positive].groupby("user").size().max())
    return max(min(longest, LONGEST_HISTORY), least)


def choose(overall: Mapping[Setting, np.ndarray], new: Mapping[Setting, np.ndarray]) -> Setting:
    """What new items may cost: of the settings within a standard error of the best, one that is best on new items.

    Where several are as good on new items, by a standard error of their difference, it is the best overall. So it is where
    fewer than `MINIMUM_USERS` took a new item: a dozen users' luck is no ground for what everybody is shown.

    Args:
        overall: NDCG of every user. new: NDCG of the items that nobody had chosen, NaN for users who took none.

    Example:
        >>> users = np.linspace(0.0, 1.0, 40)
        >>> overall, new = {(0.1, 1.0): users, (0.1, 2.0): 0.98 * users}, {(0.1, 1.0): 0.0 * users, (0.1, 2.0): 0.5 * users}
        >>> choose(overall, new)
        (0.1, 2.0)
        >>> choose(overall, {setting: np.where(users < 0.7, np.nan, value) for setting, value in new.items()})
        (0.1, 1.0)
    """
    best = max(overall, key=lambda setting: overall[setting].mean())
    floor = overall[best].mean() - overall[best].std() / np.sqrt(len(overall[best]))
    good = [setting for setting in overall if overall[setting].mean() >= floor]
    asked = ~np.isnan(new[best])
    if asked.sum() >= MINIMUM_USERS:
        freshest = new[max(good, key=lambda setting: new[setting][asked].mean())][asked]
        short = {setting: freshest - new[setting][asked] for setting in good}
        good = [setting for setting in good if short[setting].mean() <= short[setting].std() / np.sqrt(asked.sum())]
    return max(good, key=lambda setting: overall[setting].mean())


def stretch(tower: LinearTower, content_map: ContentMap | None, unknown: np.ndarray, boost: float) -> LinearTower:
    """The tower with the item vectors of `unknown` rows `boost` times as long, and the content map that makes such ones."""
    if content_map is not None:
        factors = np.repeat(np.array([1.0, boost], np.float32), tower.width)
        for weight in (*content_map.kernels, *content_map.biases):
            weight.assign(weight * factors)
    return LinearTower(tower.history, tower.items * np.where(unknown, boost, 1.0).astype(np.float32)[:, None])
