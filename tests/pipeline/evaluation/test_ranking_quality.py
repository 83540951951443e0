"""Judges of ranking by segment, against loops over users, items and labels of a small shop."""

import math
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from data.dataset import Dataset
from data.schema import EVENT_CODES, TEST, TRAIN, Schema
from pipeline.evaluation.exposure_quality import content_vectors, judge_exposure
from pipeline.evaluation.order_quality import judge_orders, task_targets
from pipeline.evaluation.probability_quality import judge_probabilities
from pipeline.metrics.examples import make_requests
from pipeline.metrics.probability_metrics import auc, expected_calibration_error, log_loss
from pipeline.metrics.segments import MINIMUM_USERS, by_dimension, domain_groups, find_segments, popularity_groups

USERS, ITEMS, SPLITS = 120, 60, ("train",)


@pytest.fixture(scope="module")
def shop():
    """Every user skips, views, likes or buys ten items; the first 15 users have no past, the last items no buyers."""
    rng = np.random.default_rng(3)
    lines = []
    for user in range(1, USERS + 1):
        for place, item in enumerate(rng.permutation(ITEMS)[:16] + 1):
            split = TEST if place >= 8 else TRAIN
            if split == TRAIN and (user <= 15 or item > 50):
                continue
            kind = ("view", "like", "purchase", "skip")[rng.integers(4)]
            lines.append((user, item, 1000 + place, EVENT_CODES[kind], np.nan, split, kind != "skip"))
    names = ["user", "item", "timestamp", "event", "value", "split", "positive"]
    events = pd.DataFrame(lines, columns=names).sort_values(["user", "timestamp"], ignore_index=True)
    schema = Schema(USERS + 1, ITEMS + 1, {"age": 3}, {"domain": 3}, {})
    users = pd.DataFrame({"user_id": [""] + [f"u{row}" for row in range(1, USERS + 1)]})
    users["profile_age"] = np.where(np.arange(USERS + 1) % 2, 1, 2).astype(np.int32)
    items = pd.DataFrame({"item_id": [""] + [f"i{row}" for row in range(1, ITEMS + 1)], "created_at": 0})
    items["attribute_domain"] = np.where(np.arange(ITEMS + 1) <= 20, 1, 2).astype(np.int32)
    items.loc[0, "attribute_domain"] = 0
    train = events[(events["split"] == TRAIN) & events["positive"]]
    counts = np.bincount(train["item"], minlength=ITEMS + 1)
    words = {"age": ["", "young", "old"]}, {"domain": ["", "books", "music"]}
    return Dataset(schema, users, items, events, counts, *words, {})


@pytest.fixture(scope="module")
def asked(shop):
    requests = make_requests(shop, "test", known_splits=SPLITS, history_length=5)
    groups = {"items": popularity_groups(shop.counts), "domain": domain_groups(shop)}
    segments = find_segments(shop, requests.users, SPLITS, groups)
    rng = np.random.default_rng(1)
    orders = {
        name: np.stack([rng.permutation(ITEMS)[:25] + 1 for _ in requests.users]) for name in ("ranked", "retrieval")
    }
    return SimpleNamespace(requests=requests, groups=groups, segments=segments, orders=orders)


def test_the_first_requests_are_those_of_everybody_cut_short(shop, asked):
    few = make_requests(shop, "test", known_splits=SPLITS, history_length=5, most=7)
    assert len(few.users) == 7 < len(asked.requests.users)
    for name in ("users", "history", "timestamps", "context"):
        np.testing.assert_array_equal(getattr(few, name), getattr(asked.requests, name)[:7])
    for name in ("seen", "relevant"):
        mine, all_of_them = getattr(few, name), getattr(asked.requests, name)
        assert [mine[number].tolist() for number in range(7)] == [all_of_them[number].tolist() for number in range(7)]


def test_segments_are_the_groups_they_are_called(shop, asked):
    found = {dimension: {one.name: one for one in group} for dimension, group in by_dimension(asked.segments).items()}
    assert set(found) == {"all", "items", "domain", "history", "age"}
    assert "no events" not in found["history"]  # 15 users without a past are too few to speak of
    assert {"young", "old"} == set(found["age"]) and {"books", "music"} == set(found["domain"])
    never, tail, head = (found["items"][name].items for name in ("never in training", "long tail", "head"))
    assert set(np.flatnonzero(never)) == {row for row in range(1, ITEMS + 1) if shop.counts[row] == 0}
    assert shop.counts[head].min() > shop.counts[tail].max()
    assert 0.2 * (tail | head).sum() - 1 <= head.sum() <= 0.35 * (tail | head).sum()
    assert not (never | tail | head)[0] and (never | tail | head)[1:].all()
    empty = find_segments(shop, np.arange(1, 40), SPLITS, {})
    assert "history" not in by_dimension(empty)


def ndcg(rows, wanted, k):
    if not wanted:
        return None
    gain = sum(1 / math.log2(place + 1) for place, row in enumerate(rows[:k], start=1) if row in wanted)
    return gain / sum(1 / math.log2(place + 1) for place in range(1, min(k, len(wanted)) + 1))


def test_orders_are_judged_as_loops_over_users_and_kinds_would(shop, asked):
    targets = task_targets(shop, asked.requests)
    found = judge_orders(asked.orders, targets, asked.requests.users, asked.segments, 7)
    assert set(found) == {"click", "like", "purchase"}
    test = shop.events[shop.events["split"] == TEST]
    kinds = {"click": lambda kind: kind != EVENT_CODES["skip"], "like": lambda kind: kind == EVENT_CODES["like"]}
    for task, is_wanted in kinds.items():
        for segment in asked.segments:
            values = {"ranked": [], "retrieval": []}
            for line, user in enumerate(asked.requests.users):
                if segment.users is not None and not segment.users[user]:
                    continue
                mine = test[(test["user"] == user) & is_wanted(test["event"])]
                wanted = {row for row in mine["item"] if segment.items is None or segment.items[row]}
                for name in values:
                    values[name].append(ndcg(asked.orders[name][line].tolist(), wanted, 10))
            defined = [
                (one, other)
                for one, other in zip(values["ranked"], values["retrieval"], strict=True)
                if one is not None
            ]
            if len(defined) < MINIMUM_USERS:
                assert segment.name not in found[task].get(segment.dimension, {})
                continue
            figures = found[task][segment.dimension][segment.name]
            one, other = (float(np.mean([pair[place] for pair in defined])) for place in (0, 1))
            assert figures["users"] == len(defined)
            assert figures["ndcg@10"]["ranked"][0] == pytest.approx(one)
            assert figures["ndcg@10"]["difference"][0] == pytest.approx(one - other)
            for mean, low, high in figures["ndcg@10"].values():
                assert low < mean < high


def test_an_order_that_is_better_for_everyone_is_better_beyond_doubt_and_equal_ones_are_not(asked, shop):
    wanted = asked.requests.relevant
    best = np.stack([
        np.concatenate([rows, np.setdiff1d(np.arange(1, ITEMS + 1), rows)])[:25] for rows in wanted
    ])  # fmt: skip
    orders = {"ranked": best, "retrieval": asked.orders["retrieval"]}
    whole = judge_orders(orders, {"click": wanted}, asked.requests.users, asked.segments, 7)["click"]["all"]["all"]
    assert whole["ndcg@20"]["ranked"] == pytest.approx([1.0, 1.0, 1.0])
    assert whole["ndcg@5"]["difference"][1] > 0
    same = judge_orders(
        {"ranked": best, "retrieval": best}, {"click": wanted}, asked.requests.users, asked.segments[:1], 7
    )
    assert same["click"]["all"]["all"]["ndcg@5"]["difference"] == [0.0, 0.0, 0.0]


def test_probabilities_are_judged_where_the_label_is_known(asked):
    rng, shape = np.random.default_rng(8), (300, 12)
    mask = rng.random(shape) < 0.9
    user, candidates = rng.integers(1, USERS + 1, shape[0]), rng.integers(1, ITEMS + 1, shape)
    shown = mask & (rng.random(shape) < 0.5)
    known = {"click": mask, "skip": shown, "purchase": mask, "value": shown}
    found = {head: rng.random(shape) for head in known}
    labels = {head: (rng.random(shape) < chance).astype(np.float32) for head, chance in found.items()}
    labels["value"] = np.clip(found["value"] + rng.normal(0, 0.1, shape), 0, 1)
    labels["purchase"][:] = 0
    labels["skip"][~shown] = 1  # would spoil every figure of the head if it were counted
    lists = SimpleNamespace(labels=labels, known=known, mask=mask, user=user, candidates=candidates)
    result = judge_probabilities(found, lists, ("click", "purchase", "skip", "value"), asked.segments)
    assert set(result) == {"click", "skip", "value"}  # nobody bought: there is nothing to judge that head by
    for head in ("click", "skip"):
        truth, chance = labels[head][known[head]], found[head][known[head]]
        assert result[head]["auc"] == pytest.approx(auc(truth, chance))
        assert result[head]["ece"] == pytest.approx(expected_calibration_error(truth, chance))
        assert (result[head]["examples"], result[head]["positives"]) == (known[head].sum(), truth.sum())
        young = next(one for one in asked.segments if one.name == "young")
        rows = [
            (truth, chance)
            for line in range(shape[0])
            if young.users[user[line]]
            for place in range(shape[1])
            if known[head][line, place]
            for truth, chance in [(labels[head][line, place], found[head][line, place])]
        ]
        truth, chance = np.array(rows).T
        figures = result[head]["segments"]["age"]["young"]
        assert figures["logloss"] == pytest.approx(log_loss(truth, chance))
        assert figures["examples"] == len(rows)
        books = next(one for one in asked.segments if one.name == "books")
        inside = known[head] & books.items[candidates]
        assert result[head]["segments"]["domain"]["books"]["examples"] == inside.sum()
    difference = (labels["value"] - found["value"])[shown]
    assert result["value"]["rmse"] == pytest.approx(math.sqrt((difference**2).mean()))
    assert result["value"]["spread"] == pytest.approx(labels["value"][shown].std())


def test_exposure_is_counted_by_place_and_group(shop, asked):
    wanted, counts = asked.requests.relevant, shop.counts
    found = judge_exposure(asked.orders, wanted, counts, asked.groups, None, k=5)
    rows = asked.orders["ranked"][:, :5]
    books = sum(1 / math.log2(place + 2) for line in rows for place, row in enumerate(line) if row <= 20)
    whole = len(rows) * sum(1 / math.log2(place + 2) for place in range(5))
    assert found["groups"]["domain"]["books"]["ranked"] == pytest.approx(books / whole)
    assert found["groups"]["domain"]["books"]["catalogue"] == pytest.approx(20 / 60)
    assert found["groups"]["domain"]["books"]["chosen"] == pytest.approx((wanted.rows <= 20).mean())
    for shares in found["groups"].values():
        assert sum(group["ranked"] for group in shares.values()) == pytest.approx(1)
    per_user = [np.mean([math.log1p(counts[row]) for row in line]) for line in rows.tolist()]
    chosen = [np.mean([math.log1p(counts[row]) for row in line]) for line in wanted]
    assert found["orders"]["ranked"]["mean_log_popularity"] == pytest.approx(np.mean(per_user))
    assert found["chosen"]["mean_log_popularity"] == pytest.approx(np.mean(chosen))
    assert found["orders"]["ranked"]["popularity_bias"] == pytest.approx(np.mean(per_user) - np.mean(chosen))
    assert "intra_list_diversity" not in found["orders"]["ranked"]
    everybody = np.tile(np.arange(1, 6), (len(rows), 1))
    same = judge_exposure({"same": everybody}, wanted, counts, {}, np.ones((ITEMS + 1, 2)), k=5)["orders"]["same"]
    assert same["coverage"] == pytest.approx(5 / ITEMS)
    assert same["gini"] > found["orders"]["ranked"]["gini"]
    assert same["intra_list_diversity"] == pytest.approx(0)


def test_content_of_items_is_centred_and_absent_modalities_are_unlike():
    rng = np.random.default_rng(2)
    text, image = rng.normal(5, 1, (6, 4)), rng.normal(size=(6, 3))
    present = {"text": np.array([0, 1, 1, 1, 1, 1], bool), "image": np.array([0, 1, 1, 0, 1, 1], bool)}
    vectors = content_vectors({"text": text, "image": image}, present)
    centred = text - text[1:].mean(axis=0)
    cosine = centred[1] @ centred[3] / np.linalg.norm(centred[1]) / np.linalg.norm(centred[3])
    assert vectors[1] @ vectors[3] == pytest.approx(cosine, abs=1e-5)
    assert not vectors[0].any() and not vectors[3, 4:].any()
    assert content_vectors({}, {}) is None
