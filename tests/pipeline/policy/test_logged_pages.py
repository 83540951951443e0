"""Policies judged on a log of pages whose propensities and chances are known, by enumeration."""

import numpy as np
import pandas as pd
import pytest

from data.dataset import Dataset
from data.schema import EVENT_CODES, TEST, Schema
from pipeline.policy.logged_pages import judge_pages, page_propensities, whole_pages
from ranking.array_ops import numpy_ops
from ranking.policy import Policy
from ranking.requests import group_requests
from ranking.rerank import Candidates, rerank

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
    found, at = page_propensities(dataset, "test", requests)
    assert not at.any()
    for place, (owner, item) in enumerate(zip(requests.owner, requests.item, strict=True)):
        begun = requests.timestamp[owner]
        mine = dataset.events.query(f"user == {requests.user[owner]} and item == {item}")
        mine = mine[(mine["timestamp"] >= begun) & (mine["timestamp"] < begun + DAY)]
        np.testing.assert_equal(found[place], np.float64(mine["propensity"].iloc[0]))
    pages = requests.take(whole_pages(dataset, "test", requests))
    assert 0 < len(pages) < len(requests)
    assert np.isfinite(page_propensities(dataset, "test", pages)[0]).all()


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
        propensity, _ = page_propensities(dataset, "test", requests)
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


def served_log(users, seed, *, shown=10, size=5):
    """A page a user as `recommend` serves it with chance, each item with the place and the propensity that the answer told."""
    rng = np.random.default_rng(seed)
    rows = np.tile(np.arange(1, shown + 1), (users, 1))
    scores = np.linspace(1, 0, shown) + rng.normal(scale=0.1, size=rows.shape)
    page = rerank(Candidates(rows, scores, uniforms=rng.random((users, size))), Policy(epsilon=0.5), size, ops=numpy_ops)
    user, place = (grid.ravel() for grid in np.indices(page.rows.shape))
    item = np.asarray(page.rows).ravel()
    clicked = rng.random(len(item)) < CHANCE[item]
    events = pd.DataFrame(
        {
            "user": (user + 1).astype(np.int32),
            "item": item.astype(np.int32),
            "timestamp": 1_700_000_000 + place,
            "split": np.int8(TEST),
            "positive": clicked,
            "position": (place + 1).astype(np.int32),
            "place_propensity": np.asarray(page.propensities).ravel().astype(np.float32),
        }
    )
    frames = (pd.DataFrame({"user_id": [""] * (users + 1)}), pd.DataFrame({"item_id": [""] * (ITEMS + 1)}))
    return Dataset(Schema(users + 1, ITEMS + 1), *frames, events, np.zeros(ITEMS + 1, np.int64), {}, {}, {})


def requests_of(dataset):
    events = dataset.events
    labels = {"click": events["positive"].to_numpy(np.float32)}
    return group_requests(events["user"], events["item"], events["timestamp"], labels, DAY, position=dataset.position)


def test_pages_served_with_chance_tell_what_another_order_would_earn():
    other, served = np.array([7, 2, 9, 4, 1, 3, 5, 6, 8, 10]), np.arange(1, 11)
    truth = {"ranked": CHANCE[other[:3]].sum(), "retrieval": CHANCE[served[:3]].sum()}
    found = []
    for seed in range(40):
        dataset = served_log(400, seed)
        requests = requests_of(dataset)
        count = len(requests)
        propensity, place = page_propensities(dataset, "test", requests)
        assert place.min() == 1 and len(whole_pages(dataset, "test", requests)) == count
        rows = np.tile(served, (count, 1))
        orders = {"ranked": np.tile(other, (count, 1)), "retrieval": rows}
        chance = np.tile(CHANCE[served] * 0.8, (count, 1))
        found.append(judge_pages(requests, propensity, orders, chance, rows, size=3, clip=None, place=place))
    for policy, value in truth.items():
        for kind in ("ips", "snips", "dr"):
            answers = [one["policies"][policy][kind] for one in found]
            values = [answer["value"] for answer in answers]
            assert np.mean(values) == pytest.approx(value, abs=4 * np.std(values) / np.sqrt(len(values)) + 0.005)
            assert np.mean([answer["low"] <= value <= answer["high"] for answer in answers]) > 0.85
        assert np.mean([one["policies"][policy]["ips"]["weight"] for one in found]) == pytest.approx(3, abs=0.1)


def test_pages_that_are_not_known_from_the_first_place_on_are_left_out():
    dataset = served_log(30, 0)
    events = dataset.events
    gone = ((events["user"] == 3) & (events["position"] == 1)) | ((events["user"] == 5) & (events["position"] == 4))
    unknown = (events["user"] == 7) & (events["position"] == 2)
    events = events.assign(place_propensity=events["place_propensity"].mask(unknown))[~gone].reset_index(drop=True)
    events["propensity"] = np.where(events["user"] == 9, np.float32(0.5), np.float32(np.nan))
    dataset = Dataset(dataset.schema, dataset.users, dataset.items, events, dataset.counts, {}, {}, {})
    requests = requests_of(dataset)
    left = requests.user[whole_pages(dataset, "test", requests)]
    assert left.tolist() == [user for user in range(1, 31) if user not in (3, 5, 7)]
    propensity, place = page_propensities(dataset, "test", requests)
    nine = requests.user[requests.owner] == 9  # whose page tells how probably each item was on it
    assert (propensity[nine] == 0.5).all() and not place[nine].any() and place[~nine & np.isfinite(propensity)].all()
