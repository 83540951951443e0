"""Judging visit by visit: what a visit wanted, three orders of the same candidates, and intervals over people."""

import dataclasses
import math

import numpy as np
import pytest

from pipeline.ranker.lists import RankingFold
from pipeline.ranker.rank_requests import answer_fold
from pipeline.ranker.request_quality import request_values, summarise_requests, wanted_items, with_intervals
from ranking.requests import group_requests

ITEMS, RETRIEVED = 30, 12


@pytest.fixture(scope="module")
def fold():
    """Visits of 15 people; the index answers twelve items of each, in an order that knows nothing."""
    rng = np.random.default_rng(3)
    user, item = rng.integers(1, 16, 200), rng.integers(1, ITEMS + 1, 200)
    time, click = rng.integers(1, 400_000, 200), (rng.random(200) < 0.4).astype(np.float32)
    requests = group_requests(user, item, time, {"click": click}, 86_400)
    count = len(requests)
    rows = np.stack([rng.permutation(ITEMS)[:RETRIEVED] + 1 for _ in range(count)]).astype(np.int32)
    rows[::7, -3:] = 0
    scores = -np.sort(-rng.random((count, RETRIEVED)), axis=1).astype(np.float32)
    requests = requests.with_past(np.zeros((count, 4), np.int32), [np.zeros(0, np.int32)] * count)
    return RankingFold(requests, np.zeros((count, 2)), rows, scores, user, item)


def wanted_of(requests, number):
    part = slice(requests.start[number], requests.start[number + 1])
    pairs = zip(requests.item[part], requests.labels["click"][part], strict=True)
    return {int(item) for item, click in pairs if click > 0}


def ndcg(ordered, wanted, k):
    if not wanted:
        return math.nan
    gained = sum(1 / math.log2(place + 2) for place, row in enumerate(ordered[:k]) if row in wanted)
    return gained / sum(1 / math.log2(place + 2) for place in range(min(k, len(wanted))))


class Knowing:
    """A ranker that knows who wants what, and how padding may score highest and still comes last."""

    def __init__(self, fold):
        self.wanted = {}
        for number, key in enumerate(zip(fold.requests.user, fold.requests.timestamp, strict=True)):
            self.wanted[tuple(map(int, key))] = wanted_of(fold.requests, number)

    def __call__(self, users, history, rows, scores, times, ranks, context):
        score = np.zeros(rows.shape, np.float32)
        for line, key in enumerate(zip(users, times, strict=True)):
            score[line] = [9 if row == 0 else float(row in self.wanted[tuple(map(int, key))]) for row in rows[line]]
        return {"score": score}


def test_a_visit_wants_what_was_chosen_in_it(fold):
    wanted = wanted_items(fold.requests)
    assert len(wanted) == len(fold.requests)
    assert [set(wanted[number].tolist()) for number in range(len(wanted))] == [
        wanted_of(fold.requests, number) for number in range(len(wanted))
    ]


def test_what_could_not_be_recommended_is_not_wanted(fold):
    rng = np.random.default_rng(8)
    asked = fold.requests
    released = rng.integers(0, 400_000, ITEMS + 1)
    past = [rng.integers(1, ITEMS + 1, rng.integers(0, 8)) for _ in range(len(asked))]
    asked = asked.with_past(asked.history, past)
    asked = dataclasses.replace(asked, timestamp=np.where(np.arange(len(asked)) % 5, asked.timestamp, 0))
    found = wanted_items(asked, released)
    left = 0
    for number in range(len(asked)):
        now = asked.timestamp[number]
        wanted = {
            item for item in wanted_of(asked, number) if item not in past[number] and (now == 0 or released[item] <= now)
        }
        assert set(found[number].tolist()) == wanted
        left += not wanted
    judged = dataclasses.replace(fold, requests=asked, released=released).take(np.arange(len(asked)))
    values = request_values(judged, -np.cumsum(np.ones(judged.rows.shape), axis=1), None, None)["ranked"]
    assert 0 < np.isnan(values).sum() == left < len(asked)


def test_orders_are_judged_as_in_the_loop(fold):
    knowing = Knowing(fold)
    by_request = request_values(fold, answer_fold(knowing, fold)["score"], knowing, None, k=5)
    found = summarise_requests(by_request, fold.requests.user, seed=1, k=5)
    expected = {"ranked": [], "retrieval": []}
    for number, rows in enumerate(fold.rows.tolist()):
        wanted = wanted_of(fold.requests, number)
        best = [row for row in rows if row in wanted] + [row for row in rows if row and row not in wanted]
        expected["ranked"].append(ndcg(best, wanted, 5))
        expected["retrieval"].append(ndcg(rows, wanted, 5))
    for name, values in expected.items():
        assert found[name][0] == pytest.approx(np.nanmean(values))
        assert found[name][1] <= found[name][0] <= found[name][2]
    assert found["ranked_less_retrieval"][0] == pytest.approx(found["ranked"][0] - found["retrieval"][0])
    assert found["ranked_less_retrieval"][1] > 0
    assert found["requests"] == np.count_nonzero(~np.isnan(expected["ranked"]))
    assert "lightgbm" not in found


def test_a_persons_visits_are_resampled_together():
    """Visits that repeat say nothing new: the interval is that of the people, wider than that of as many strangers."""
    rng = np.random.default_rng(5)
    people = rng.random(40)
    users, values = np.repeat(np.arange(40), 10), {"ndcg": np.repeat(people, 10)}
    (_, low, high), (_, other_low, other_high) = (
        with_intervals(values, owner, seed=1)["ndcg"] for owner in (users, np.arange(400))
    )
    assert high - low == pytest.approx(2 * 1.96 * people.std() / math.sqrt(40), rel=0.15)
    assert high - low > 2.5 * (other_high - other_low)
