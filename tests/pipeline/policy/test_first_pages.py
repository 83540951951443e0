"""Days of several pages: the first one counts, and what it is said to earn is the truth of one page."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

from data.dataset import Dataset
from data.schema import EVENT_CODES, TEST, Schema
from pipeline.policy.first_pages import first_pages
from pipeline.policy.off_policy_stage import estimate_off_policy
from pipeline.ranker.lists import RankingFold
from ranking.requests import group_requests
from tests.pipeline.policy.test_logged_pages import CHANCE, DAY, ITEMS, log_of, served_log

BEGUN, HOUR = 1_700_000_000, 3600


def with_events(dataset, events):
    events = events.sort_values(["user", "timestamp"], kind="stable", ignore_index=True)
    return dataclasses.replace(dataset, events=events)


def requests_of(dataset):
    events = dataset.events
    kind = events["event"].to_numpy()
    labels = {"click": events["positive"].to_numpy(np.float32), "skip": (kind == EVENT_CODES["skip"]).astype(np.float32)}
    return group_requests(events["user"], events["item"], events["timestamp"], labels, DAY, position=dataset.position)


def day_of_pages(seed, most=4):
    """One to `most` pages a user on one day, hours apart, each written at one moment, each drawn as the first was."""
    dataset, _ = log_of(150, most, seed)
    page = (dataset.events["timestamp"] - BEGUN) // (2 * DAY)
    kept = page < np.random.default_rng(seed + 1000).integers(1, most + 1, 151)[dataset.events["user"]]
    return with_events(dataset, dataset.events.assign(timestamp=BEGUN + 2 * HOUR * page)[kept])


def day_of_places(seed):
    """Two pages a user, minutes apart and told by their places alone, each place with its propensity."""
    first, second = served_log(200, seed), served_log(200, seed + 500)
    second = second.events.assign(timestamp=second.events["timestamp"] + 60)
    events = pd.concat([first.events, second], ignore_index=True)
    kind = np.where(events["positive"], EVENT_CODES["click"], EVENT_CODES["skip"])
    return with_events(first, events.assign(event=kind, value=np.float32(np.nan)))


@pytest.mark.parametrize("world", [day_of_pages, day_of_places])
def test_days_of_several_pages_earn_what_one_page_does(world):
    served, other = np.arange(1, 11), np.array([7, 2, 9, 4, 1, 3, 5, 6, 8, 10])
    found = []
    for seed in range(30):
        dataset = world(seed)
        requests = requests_of(dataset)
        rows = np.tile(served, (len(requests), 1)).astype(np.int32)
        fold = RankingFold(requests, np.zeros((len(rows), 1)), rows, np.ones(rows.shape), np.zeros(0), np.zeros(0))
        told = {"click": np.tile(CHANCE[served] * 0.8, (len(rows), 1)), "score": -np.tile(np.argsort(other), (len(rows), 1))}
        found.append(estimate_off_policy(dataset, fold, told, ["click"], size=3, clip=None, window_seconds=DAY))
        assert found[-1]["later_impressions"] > 0.2 * found[-1]["impressions"]
    for policy, order in (("ranked", other), ("retrieval", served)):
        for kind in ("ips", "dr"):
            values = [one["policies"][policy][kind]["value"] for one in found]
            truth = CHANCE[order[:3]].sum()
            assert np.mean(values) == pytest.approx(truth, abs=4 * np.std(values) / np.sqrt(len(values)) + 0.005)


def first_of(*lines):
    """Items, labels and the number of others: of one user's events (seconds, item, kind, place)."""
    seconds, item, kind, place = zip(*lines, strict=True)
    events = pd.DataFrame({"user": 1, "item": item, "timestamp": BEGUN + np.array(seconds), "position": place})
    events = events.assign(event=[EVENT_CODES[name] for name in kind], value=np.nan, split=TEST)
    events["positive"] = ~events["event"].isin([EVENT_CODES[name] for name in ("view", "skip")])
    frames = (pd.DataFrame({"user_id": ["", "u"]}), pd.DataFrame({"item_id": [""] * (ITEMS + 1)}))
    dataset = Dataset(Schema(2, ITEMS + 1), *frames, events, np.zeros(ITEMS + 1, np.int64), {}, {}, {})
    pages, later = first_pages(dataset, "test", requests_of(dataset), DAY)
    return pages.item.tolist(), pages.labels["click"].tolist(), later


def test_what_begins_a_second_page_and_what_is_told_of_the_first_one_later():
    page = [(0, 3, "view", 0), (0, 5, "view", 0)]
    assert first_of(*page, (9, 7, "view", 0)) == ([3, 5, 7], [0, 0, 0], 0)
    assert first_of(*page, (90, 7, "view", 0), (90, 8, "view", 0)) == ([3, 5], [0, 0], 2)
    assert first_of(*page, (90, 5, "click", 0), (5000, 3, "purchase", 0)) == ([3, 5], [1, 1], 0)
    again = [(90, 5, "view", 0), (90, 8, "view", 0)]
    assert first_of(*page, *again, (95, 5, "click", 0)) == ([3, 5], [0, 0], 1)  # a click on the second page
    assert first_of(*page, *again, (95, 3, "purchase", 0)) == ([3, 5], [1, 0], 1)  # shown on the first one alone
    # Items that are heard one after another have a time each: a sitting is a page until half an hour passes.
    heard = [(0, 1, "skip", 0), (200, 2, "click", 0), (500, 3, "skip", 0)]
    assert first_of(*heard, (5000, 4, "click", 0)) == ([1, 2, 3], [0, 1, 0], 1)


def test_places_tell_pages_whatever_the_times():
    page = [(0, 3, "skip", 1), (2000, 5, "click", 2)]
    assert first_of(*page, (9000, 7, "skip", 3)) == ([3, 5, 7], [0, 1, 0], 0)
    assert first_of(*page, (2001, 7, "skip", 1), (2002, 8, "click", 2)) == ([3, 5], [0, 1], 2)
    assert first_of(*page, (2001, 3, "click", 2)) == ([3, 5], [0, 1], 0)  # shown again, and chosen there alone
