"""Lists: the right labels, nothing unreleased, nothing the user chose as a negative, score and rank of every element."""

import hashlib
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ranking.lists import BLOCK, assemble_lists, place_among
from ranking.requests import group_requests

DAY = 86_400


def made(seed=0, list_size=10, random_negatives=3, users=12, items=40, window=DAY, block=BLOCK):
    """Events of a fold and lists from them, with every ingredient at hand."""
    rng = np.random.default_rng(seed)
    events = rng.integers(1, 80)
    user = rng.integers(1, users, events)
    item = rng.integers(1, items, events)
    time = 1_000_000 + rng.integers(0, 5 * DAY, events)
    click = rng.random(events) < 0.7
    purchase = click & (rng.random(events) < 0.3)
    labels = {"click": click, "purchase": purchase, "skip": ~click}
    labels["value"] = np.where(rng.random(events) < 0.5, np.nan, rng.random(events))
    position, weight = rng.integers(0, 9, events), rng.random(events)
    context = np.stack([np.arange(events), rng.integers(0, 3, events)], axis=1)
    requests = group_requests(user, item, time, labels, window, position=position, weight=weight, context=context)
    logged = {"labels": labels, "position": position, "weight": weight, "context": context}
    seen = [rng.choice(np.arange(1, items), 4, replace=False).astype(np.int32) for _ in range(len(requests))]
    requests = requests.with_past(np.stack(seen)[:, :3], seen)
    embeddings = rng.normal(size=(items, 5)).astype(np.float32)
    embeddings[0] = 0
    queries = rng.normal(size=(len(requests), 5)).astype(np.float32)
    scores = queries @ embeddings.T
    scores[:, 0] = -np.inf
    rows = np.argsort(-scores, axis=1)[:, :15].astype(np.int32)
    top = np.take_along_axis(scores, rows, axis=1)
    released = np.where(rng.random(items) < 0.3, 0, 1_000_000 + rng.integers(-5 * DAY, 5 * DAY, items))
    lists = assemble_lists(
        requests,
        rows,
        top,
        queries,
        embeddings,
        chosen_user=user[click],
        chosen_item=item[click],
        released=released,
        list_size=list_size,
        random_negatives=random_negatives,
        rng=np.random.default_rng([seed, 1]),
        block=block,
    )
    return user, item, time, click, purchase, logged, requests, seen, queries, embeddings, top, released, lists


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 30), st.integers(0, 5), st.integers(1, 40))
def test_every_rule(seed, list_size, random_negatives, block):
    user, item, time, click, purchase, _, requests, seen, queries, embeddings, top, released, lists = made(
        seed, list_size, random_negatives, block=block
    )
    assert lists.candidates.shape == (len(requests), list_size)
    for line in range(len(requests)):
        begin = requests.timestamp[line]
        mine = (user == requests.user[line]) & (time >= begin) & (time < begin + DAY)
        shown = {row for row in item[mine] if row not in seen[line] and released[row] <= begin}
        clicked = set(item[mine & click]) & shown
        bought = set(item[mine & purchase]) & shown
        ever = set(item[(user == requests.user[line]) & click])
        listed = lists.candidates[line][lists.mask[line]]
        assert len(set(listed)) == len(listed)
        assert 0 not in listed
        assert not set(listed) & set(seen[line])
        assert (released[listed] <= begin).all()
        if not shown:
            assert not len(listed)
        if len(shown) <= list_size:
            assert shown <= set(listed) or not len(listed)
        for place in range(list_size):
            row = lists.candidates[line, place]
            if not lists.mask[line, place]:
                assert row == lists.labels["click"][line, place] == lists.labels["purchase"][line, place] == 0
                continue
            assert lists.labels["click"][line, place] == (row in clicked)
            assert lists.labels["purchase"][line, place] == (row in bought)
            if row not in shown:
                assert row not in ever
            score = float(queries[line] @ embeddings[row])
            assert lists.retrieval_scores[line, place] == pytest.approx(score, abs=1e-5)
            higher = int((top[line] > lists.retrieval_scores[line, place] + 1e-5).sum())
            # Scores that differ by less than float32 sums can tell may stand in either order.
            not_lower = int((top[line] >= lists.retrieval_scores[line, place] - 1e-5).sum())
            assert 1 + higher <= lists.retrieval_ranks[line, place] <= 1 + max(higher, not_lower)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([0, 3_600, DAY]))
def test_labels_positions_weights_and_context_are_those_of_the_log(seed, window):
    user, item, time, *_, logged, _, _, _, _, _, _, lists = made(seed, window=window)
    order = np.lexsort((time, user))
    for line in range(len(lists)):
        begin, mine = lists.timestamp[line], order[user[order] == lists.user[line]]
        mine = [event for event in mine if begin <= time[event] < begin + (window or 10**12)]
        assert (lists.context[line] == logged["context"][mine[0]]).all()
        for place in range(lists.mask.shape[1]):
            of_item = [event for event in mine if item[event] == lists.candidates[line, place]]
            known = {head: bool(told[line, place]) for head, told in lists.known.items()}
            value = {head: float(column[line, place]) for head, column in lists.labels.items()}
            if not lists.mask[line, place] or not of_item:
                drawn = bool(lists.mask[line, place])
                assert known == {"click": drawn, "purchase": drawn, "skip": False, "value": False}
                assert not any(value.values())
                assert (lists.position[line, place], lists.weight[line, place]) == (0, 1)
                continue
            assert known["click"] and known["purchase"] and known["skip"]
            clicked = any(logged["labels"]["click"][of_item])
            assert (value["click"], value["skip"]) == (clicked, not clicked)
            assert value["purchase"] == any(logged["labels"]["purchase"][of_item])
            told = [number for number in logged["labels"]["value"][of_item] if np.isfinite(number)]
            assert known["value"] == bool(told)
            assert value["value"] == pytest.approx(max(told, default=0.0))
            assert lists.position[line, place] == logged["position"][of_item[0]]
            assert lists.weight[line, place] == pytest.approx(logged["weight"][of_item[0]])


def test_a_session_logged_twice_counts_once():
    """The second one shows nothing that was not seen, and neither does one of items that are not yet out."""
    user, item, time = (
        np.ones(6, int),
        np.array([3, 4, 3, 4, 5, 6]),
        np.array([0, 1, 0, 1, 0, 0]) + np.array([0, 0, 2, 2, 4, 6]) * DAY,
    )
    requests = group_requests(user, item, 1 + time, {"click": np.ones(6)}, DAY)
    seen = [item[time < moment - 1] for moment in requests.timestamp]
    requests = requests.with_past(np.zeros((4, 0), int), seen)
    released = np.array([0, 0, 0, 0, 0, 0, 9 * DAY])
    kept = requests.with_news(released)
    assert kept.timestamp.tolist() == [1, 1 + 4 * DAY]
    assert kept.item.tolist() == [3, 4, 5]


def test_negatives_come_from_the_index_and_the_quota():
    *_, requests, _, queries, embeddings, _, _, lists = made(5, list_size=30, random_negatives=3)
    scores = queries @ embeddings.T
    scores[:, 0] = -np.inf
    retrieved = np.argsort(-scores, axis=1)[:, :15]
    for line in range(len(requests)):
        shown = set(requests.item[requests.start[line] : requests.start[line + 1]])
        outside = set(lists.candidates[line][lists.mask[line]]) - set(retrieved[line]) - shown
        assert len(outside) <= 2 * 3  # the list has room left once the index is used up


def test_same_generator_same_lists():
    first, again, other = (made(3)[-1], made(3)[-1], made(4)[-1])
    np.testing.assert_array_equal(first.candidates, again.candidates)
    assert first.candidates.shape != other.candidates.shape or (first.candidates != other.candidates).any()


@pytest.mark.parametrize(
    ("seed", "list_size", "window", "expected"),
    [(2, 2, DAY, "d0a232b1a6537abf"), (3, 5, 0, "6212c046596c67cb"), (5, 30, DAY, "40d088cbe232508b")],
)
def test_what_is_drawn_does_not_depend_on_what_is_left_out(seed, list_size, window, expected):
    """Digests of the lists that a table as wide as the longest request gave, here of up to 7 impressions for 2 and 5 places."""
    lists = made(seed, list_size=list_size, window=window)[-1]
    columns = (lists.candidates, lists.mask, lists.position.astype(np.int32), lists.known["value"], lists.labels["purchase"])
    assert hashlib.sha256(b"".join(column.tobytes() for column in columns)).hexdigest()[:16] == expected


def test_one_request_of_thousands_makes_no_other_wider():
    requests, items, places = 400, 20_001, 8
    user = np.concatenate([np.full(items - 1, 1), np.arange(2, requests + 1)])
    item = np.concatenate([np.arange(1, items), np.arange(2, requests + 1)])
    click = item % 5_000 == 0
    grouped = group_requests(user, item, np.ones(len(user)), {"click": click, "skip": ~click}, DAY)
    grouped = grouped.with_past(np.zeros((requests, 0), np.int32), [np.zeros(0, np.int32)] * requests)
    embeddings, rows = np.ones((items, 2), np.float32), np.tile(np.arange(1, 6), (requests, 1))
    tracemalloc.start()
    lists = assemble_lists(
        grouped, rows, np.ones(rows.shape), np.ones((requests, 2), np.float32), embeddings, chosen_user=user[click],
        chosen_item=item[click], released=np.zeros(items, np.int64), list_size=places, random_negatives=2,
        rng=np.random.default_rng(0),
    )  # fmt: skip
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20e6  # one table [R, W] of float64 would have 64 MB
    assert lists.mask.shape == (requests, places) and lists.mask[0].all()
    assert lists.labels["click"][0].tolist() == [1, 1, 1, 1, 0, 0, 0, 0]  # items 5,000 to 20,000, then skips
    assert lists.known["skip"][0].all() and lists.known["skip"][1:].sum(axis=1).tolist() == [1] * (requests - 1)


def test_what_many_requests_need_beside_their_lists_is_bounded():
    requests, items = 6_000, 101
    grouped = group_requests(np.arange(requests), np.arange(requests) % 100 + 1, np.ones(requests),
                             {"click": np.ones(requests, bool)}, DAY)  # fmt: skip
    grouped = grouped.with_past(np.zeros((requests, 0), np.int32), [np.zeros(0, np.int32)] * requests)
    rows = np.tile(np.arange(1, 101), (requests, 1))

    def peak(block: int) -> int:
        tracemalloc.start()
        assemble_lists(
            grouped, rows, np.ones(rows.shape), np.ones((requests, 2), np.float32), np.ones((items, 2), np.float32),
            chosen_user=grouped.user, chosen_item=grouped.item, released=np.zeros(items, np.int64), list_size=4,
            random_negatives=1, rng=np.random.default_rng(0), block=block,
        )  # fmt: skip
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    assert peak(500) < peak(requests) / 4


def test_requests_are_windows_from_the_first_event():
    requests = group_requests(
        np.array([2, 1, 1, 1, 1]),
        np.array([9, 5, 6, 5, 7]),
        np.array([50, 0, DAY - 1, DAY - 1, DAY]),
        {"click": [True, False, True, True, False], "purchase": [False, False, False, True, False]},
        DAY,
    )
    assert requests.user.tolist() == [1, 1, 2]
    assert requests.timestamp.tolist() == [0, DAY, 50]
    assert requests.item.tolist() == [5, 6, 7, 9]
    # A skip and a later purchase of item 5 are one impression.
    assert requests.labels["click"].tolist() == [True, True, False, True]
    assert requests.labels["purchase"].tolist() == [True, False, False, False]


def test_window_zero_is_one_request_a_user():
    requests = group_requests(
        np.array([1, 1, 2]), np.array([3, 4, 3]), np.array([0, 9 * DAY, 0]), {"click": np.ones(3)}, 0
    )
    assert requests.user.tolist() == [1, 2]
    assert requests.item.tolist() == [3, 4, 3]


def test_take_keeps_each_requests_own():
    *_, requests, seen, _, _, _, _, _ = made(6)
    chosen = np.arange(len(requests))[::-2]
    part = requests.take(chosen)
    for place, line in enumerate(chosen):
        expected = requests.item[requests.start[line] : requests.start[line + 1]]
        np.testing.assert_array_equal(part.item[part.start[place] : part.start[place + 1]], expected)
        np.testing.assert_array_equal(part.seen_item[part.seen_start[place] : part.seen_start[place + 1]], seen[line])


def test_place_among():
    places = place_among(np.array([[5.0, 3.0, 0.0]]), np.array([[4.0, 3.0, 1.0]]))
    assert places.tolist() == [[1.0, 2.0, 4.0]]
