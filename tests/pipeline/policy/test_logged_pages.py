"""Policies judged on a log of pages whose propensities and chances are known, by enumeration."""

import numpy as np
import pandas as pd
import pytest

from data.dataset import Dataset
from data.schema import EVENT_CODES, TEST, Schema
from pipeline.policy.logged_pages import judge_pages, page_propensities, whole_pages
from ranking.requests import group_requests

ITEMS, DAY = 15, 86_400
RNG = np.random.default_rng(2)
CHANCE = np.concatenate([[0], RNG.uniform(0.1, 0.9, ITEMS)])
SHOWN_WITH = np.concatenate([[0], RNG.uniform(0.15, 0.7, ITEMS)])


def log_of(users, days, seed, *, known=1.0):
    """Each user's page of a day shows every item with its own chance; some propensities were never written down."""
    rng = np.random.default_rng(seed)
    user, day, item = np.nonzero(rng.random((users, days, ITEMS)) < SHOWN_WITH[1:])
    clicked = rng.random(len(user)) < CHANCE[item + 1]
    propensity = np.where(rng.random(len(user)) < known, SHOWN_WITH[item + 1], np.nan).astype(np.float32)
    events = pd.DataFrame(
        {
            "user": (user + 1).astype(np.int32),
            "item": (item + 1).astype(np.int32),
            "timestamp": 1_700_000_000 + day * 2 * DAY + rng.integers(0, 3000, len(user)),
            "event": np.where(clicked, EVENT_CODES["click"], EVENT_CODES["skip"]).astype(np.int8),
            "value": np.float32(np.nan),
            "split": np.int8(TEST),
            "positive": clicked,
            "propensity": propensity,
        }
    ).sort_values(["user", "timestamp"], ignore_index=True)
    frames = (pd.DataFrame({"user_id": [""] * (users + 1)}), pd.DataFrame({"item_id": [""] * (ITEMS + 1)}))
    dataset = Dataset(Schema(users + 1, ITEMS + 1), *frames, events, np.zeros(ITEMS + 1, np.int64), {}, {}, {})
    labels = {"click": events["positive"].to_numpy(np.float32)}
    requests = group_requests(events["user"], events["item"], events["timestamp"], labels, DAY)
    return dataset, requests


def test_propensities_find_the_impression_they_belong_to():
    dataset, requests = log_of(30, 3, 1, known=0.8)
    found = page_propensities(dataset, "test", requests)
    for place, (owner, item) in enumerate(zip(requests.owner, requests.item, strict=True)):
        begun = requests.timestamp[owner]
        mine = dataset.events.query(f"user == {requests.user[owner]} and item == {item}")
        mine = mine[(mine["timestamp"] >= begun) & (mine["timestamp"] < begun + DAY)]
        np.testing.assert_equal(found[place], np.float64(mine["propensity"].iloc[0]))
    pages = requests.take(whole_pages(dataset, "test", requests))
    assert 0 < len(pages) < len(requests)
    assert np.isfinite(page_propensities(dataset, "test", pages)).all()


def test_pages_of_an_order_earn_what_their_items_earn():
    """The policy shows the same three items to everybody: its value is the sum of their chances."""
    best, plain = np.argsort(-CHANCE)[:-1], np.arange(1, ITEMS + 1)
    truth = {"ranked": CHANCE[best[:3]].sum(), "retrieval": CHANCE[plain[:3]].sum()}
    found = []
    for seed in range(60):
        dataset, requests = log_of(80, 2, seed)
        count = len(requests)
        rows = np.tile(plain, (count, 1))
        orders = {"ranked": np.tile(best, (count, 1)), "retrieval": rows}
        chance = np.tile(np.clip(CHANCE[1:] + 0.1, 0, 1), (count, 1))  # a model that promises too much
        propensity = page_propensities(dataset, "test", requests)
        found.append(judge_pages(requests, propensity, orders, chance, rows, size=3, clip=None))
    for policy, value in truth.items():
        for kind in ("ips", "snips", "dr"):
            values = [one["policies"][policy][kind]["value"] for one in found]
            assert np.mean(values) == pytest.approx(value, abs=4 * np.std(values) / np.sqrt(len(values)) + 0.005)
    ips, dr = ([one["policies"]["ranked"][kind]["value"] for one in found] for kind in ("ips", "dr"))
    assert np.std(dr) < 0.8 * np.std(ips)
    covered = [
        low <= truth["ranked"] - truth["retrieval"] <= high
        for one in found
        for _, low, high in [one["difference"]["dr"]]
    ]
    assert np.mean(covered) > 0.85
    weights = [one["policies"]["ranked"]["ips"]["weight"] for one in found]
    assert np.mean(weights) == pytest.approx(3, abs=0.1)
    assert found[0]["logged"] == pytest.approx(log_of(80, 2, 0)[0].events["positive"].sum() / found[0]["pages"])
