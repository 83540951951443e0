"""Training and judging the ranker on a small log: resumable, honest about time, robust to what is absent."""

import dataclasses
import json

import keras
import numpy as np
import pandas as pd
import pytest

from data.dataset import Dataset
from data.features import FeatureStore
from data.schema import EVENT_CODES, MODALITIES, TEST, TRAIN, VALID, Schema
from pipeline.evaluation.evaluate_ranking import evaluate_ranking
from pipeline.evaluation.user_values import fingerprints, read_user_values
from pipeline.metrics.examples import make_requests
from pipeline.metrics.top_k import select_top_k
from pipeline.ranker.lists import retrieve_fold, search_released
from pipeline.ranker.train import train_ranking
from pipeline.training.epoch_steps import NonFiniteLossError
from ranking.config import RankingConfig
from ranking.model import Ranker
from ranking.serving_form import RankingServingForm

DAY, START = 86_400, 1_700_000_000
USERS, ITEMS = 60, 80
CONFIG = RankingConfig(
    history_length=5, list_size=10, retrieved=20, random_negatives=2, token_width=4, id_width=3, side_width=2, hidden=(8,),
    cross_rank=4, batch_lists=16, epochs=3, patience=3, calibration_share=0.4, jit_compile=False,
)  # fmt: skip


def log_of(seed=0, *, timestamps=True, purchases=True):
    """A dataset of random events; half of the items come out while it runs."""
    rng = np.random.default_rng(seed)
    user, item = (grid.ravel() for grid in np.meshgrid(np.arange(1, USERS + 1), np.arange(1, ITEMS + 1), indexing="ij"))
    created = np.where(np.arange(ITEMS + 1) % 2, 0, START + rng.integers(0, 25 * DAY, ITEMS + 1))
    time = np.maximum(START + rng.integers(0, 30 * DAY, len(user)), created[item])
    kept = rng.permutation(len(user))[:1500]
    kept = kept[np.lexsort((time[kept], user[kept]))]
    kinds = ["view", "like", "skip"] + (["purchase"] if purchases else [])
    event = np.array([EVENT_CODES[kind] for kind in kinds])[rng.integers(0, len(kinds), len(kept))]
    split = np.select([time[kept] < START + 15 * DAY, time[kept] < START + 22 * DAY], [TRAIN, VALID], TEST)
    events = pd.DataFrame(
        {
            "user": user[kept].astype(np.int32),
            "item": item[kept].astype(np.int32),
            "timestamp": time[kept] if timestamps else 0,
            "event": event.astype(np.int8),
            "value": np.float32(np.nan),
            "split": split.astype(np.int8),
            "positive": event != EVENT_CODES["skip"],
        }
    )
    schema = Schema(USERS + 1, ITEMS + 1, {"age": 3}, {"genre": 4}, {}, has_timestamps=timestamps)
    users = pd.DataFrame({"user_id": [""] + [f"u{row}" for row in range(1, USERS + 1)]})
    users["profile_age"] = rng.integers(0, 3, USERS + 1).astype(np.int32)
    items = pd.DataFrame({"item_id": [""] + [f"i{row}" for row in range(1, ITEMS + 1)], "price": np.nan})
    items["created_at"] = created if timestamps else 0
    items["attribute_genre"] = rng.integers(0, 4, ITEMS + 1).astype(np.int32)
    train = events[(events["split"] == TRAIN) & events["positive"]]
    counts = np.bincount(train["item"], minlength=ITEMS + 1)
    return Dataset(schema, users, items, events, counts, {}, {}, {})


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("store")
    table = np.random.default_rng(1).normal(size=(ITEMS + 1, 6)).astype(np.float16)
    table[0] = 0
    np.save(folder / "image.npy", table)
    present = np.zeros((ITEMS + 1, len(MODALITIES)), bool)
    present[1:, 1] = True
    np.save(folder / "present.npy", present)
    (folder / "widths.json").write_text(json.dumps({"image": 6}))
    return FeatureStore.open(folder)


EMBEDDINGS = np.vstack([np.zeros(4), np.random.default_rng(2).normal(size=(ITEMS, 4))]).astype(np.float32)


def query(users, history):
    return EMBEDDINGS[history].mean(axis=1) + 0.1


def search(queries, k, excluded):
    scores = queries @ EMBEDDINGS.T
    np.put_along_axis(scores, excluded.astype(np.int64), -np.inf, axis=1)
    scores[:, 0] = -np.inf
    rows, found = select_top_k(scores, min(k, ITEMS))
    return rows, np.maximum(found, np.finfo(np.float32).min)


def trained(dataset, store, folder, config=CONFIG, **options):
    folder.mkdir(parents=True, exist_ok=True)
    out, checkpoints = folder / "out", folder / "checkpoints"
    return train_ranking(
        dataset, store, EMBEDDINGS, query, search, out, checkpoints, config, query_history=5, **options
    ), RankingServingForm.load(out / "serving_form")


class Killed(Exception):
    """Stands in for kill -9: raised in the middle of an epoch."""


def test_interrupted_and_resumed_gives_the_same_ranker(store, tmp_path):
    dataset = log_of()
    _, whole = trained(dataset, store, tmp_path / "whole")

    def kill(what, done, total):
        if done > total * 0.6:
            raise Killed

    with pytest.raises(Killed):
        trained(dataset, store, tmp_path / "cut", progress=kill)
    report, resumed = trained(dataset, store, tmp_path / "cut")
    assert report["epochs"] == 3
    assert resumed.calibrations == whole.calibrations
    assert resumed.score_weights == whole.score_weights
    for mine, other in zip(resumed.weights, whole.weights, strict=True):
        np.testing.assert_array_equal(mine, other, err_msg=mine.path)


@pytest.mark.parametrize(("timestamps", "purchases"), [(True, True), (False, True), (True, False)])
def test_trains_and_judges(store, tmp_path, timestamps, purchases):
    dataset = log_of(3, timestamps=timestamps, purchases=purchases)
    report, form = trained(dataset, store, tmp_path, baseline=True)
    assert ("purchase" in report["heads"]) == purchases
    assert form.score_weights["click"] > 0
    requests = make_requests(dataset, "test", known_splits=("train", "valid"), history_length=5)
    figures = evaluate_ranking(
        dataset, form, EMBEDDINGS, requests, query, search, CONFIG, known_splits=("train", "valid"), query_history=5,
        vectors=EMBEDDINGS, trained=tmp_path / "out", out=tmp_path,
    )  # fmt: skip
    for name in ("ndcg@10", "retrieval_order_ndcg@10", "lightgbm_ndcg@10", "auc", "logloss", "ece"):
        assert np.isfinite(figures[name])
    assert 0 <= figures["ece"] <= 1
    whole = figures["order"]["click"]["all"]["all"]
    assert whole["ndcg@10"]["ranked"][0] == pytest.approx(figures["by_user"]["ndcg@10"])
    assert "off_policy" not in figures  # the log has no propensities
    kept = read_user_values(tmp_path)
    assert kept.judged_on == {**fingerprints(dataset), "known_splits": ["train", "valid"], "request_seconds": 86_400}
    assert kept.table["ranked_ndcg@10"].mean() == pytest.approx(figures["by_user"]["ndcg@10"])
    assert set(kept.table.index) == set(dataset.users["user_id"].iloc[requests.users])
    assert kept.table["ranked_visits_ndcg@10"].notna().any()
    assert set(figures["without_modality"]["without"]) == {"image", "behaviour"}


def test_graded_values_train_a_head_that_no_calibration_error_is_asked_of(store, tmp_path):
    dataset = log_of(4)
    stars = np.random.default_rng(9).integers(1, 6, len(dataset.events)).astype(np.float32)
    dataset = dataclasses.replace(dataset, events=dataset.events.assign(value=stars))
    report, form = trained(dataset, store, tmp_path, dataclasses.replace(CONFIG, epochs=1))
    assert "value" in report["heads"] and set(report["valid_ece"]) == set(report["heads"]) - {"value"}
    assert "value" in form.calibrations


def test_the_past_of_a_request_is_strictly_before_it():
    dataset = log_of(5)
    fold = retrieve_fold(dataset, "valid", query, search, CONFIG, known_splits=("train",), query_history=5)
    events = dataset.events
    requests = fold.requests
    for line in range(len(requests)):
        mine = events[events["user"] == requests.user[line]]
        past = mine[(mine["timestamp"] < requests.timestamp[line]) & (mine["split"] <= VALID)]
        expected = past[past["positive"]].sort_values("timestamp", kind="stable")["item"].to_numpy()[::-1][:5]
        history = requests.history[line]
        np.testing.assert_array_equal(history[history > 0], expected)
        seen = requests.seen_item[requests.seen_start[line] : requests.seen_start[line + 1]]
        assert set(seen) == set(past["item"])
        retrieved = fold.rows[line][fold.rows[line] > 0]
        assert len(retrieved)
        assert not set(retrieved) & set(seen)
        assert (dataset.items["created_at"].to_numpy()[retrieved] <= requests.timestamp[line]).all()


def test_released_search_equals_a_search_of_what_was_there():
    rng = np.random.default_rng(7)
    queries, released = rng.normal(size=(9, 4)).astype(np.float32), rng.integers(0, 100, ITEMS + 1)
    time = rng.integers(20, 100, 9)
    rows, scores = search_released(search, queries, 6, np.arange(10), rng.integers(1, ITEMS, 9), released, time)
    seen = np.random.default_rng(7)
    seen.normal(size=(9, 4)), seen.integers(0, 100, ITEMS + 1), seen.integers(20, 100, 9)
    excluded = seen.integers(1, ITEMS, 9)
    everything = queries @ EMBEDDINGS.T
    for line in range(9):
        there = (released <= time[line]) & (np.arange(ITEMS + 1) > 0) & (np.arange(ITEMS + 1) != excluded[line])
        expected = np.where(there, everything[line], -np.inf)
        count = min(6, int(there.sum()))
        np.testing.assert_array_equal(rows[line][:count], np.argsort(-expected, kind="stable")[:count])
        assert (rows[line][count:] == 0).all()
        assert (scores[line][count:] < -1e30).all()


def test_a_loss_that_is_not_finite_stops_the_run(store, tmp_path, monkeypatch):
    broken = lambda self, x=None, y=None, y_pred=None, sample_weight=None: keras.ops.sum(y_pred["click"]) * np.nan  # noqa: E731
    monkeypatch.setattr(Ranker, "compute_loss", broken)
    with pytest.raises(NonFiniteLossError, match="epoch 0, step 0"):
        trained(log_of(), store, tmp_path)


def test_a_split_without_events_says_so(store, tmp_path):
    dataset = log_of()
    events = dataset.events[dataset.events["split"] != VALID]
    empty = Dataset(dataset.schema, dataset.users, dataset.items, events, dataset.counts, {}, {}, {})
    with pytest.raises(ValueError, match="valid_fraction"):
        trained(empty, store, tmp_path)
