"""The choice and the judgement of policies, on requests whose right answers are planted."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.dataset import Dataset
from data.schema import SPLIT_CODES, Schema
from pipeline.metrics.interactions import Interactions
from pipeline.metrics.list_metrics import intra_list_distance
from pipeline.policy.facts import check_policy, policy_tables, protected_items
from pipeline.policy.judge import LAMBDAS, judge_diversity, judge_fairness, judge_user_groups, smooth_costs, trade_off
from pipeline.policy.pages import RankedVisits
from pipeline.ranker.visits import Visits
from pipeline.settings.config import ConfigError, load_config
from pipeline.settings.policy import PolicySection
from ranking.policy import BOUNDS, Policy
from serving.graphs.policy_tables import PolicyTables

ITEMS, USERS, KEPT = 120, 200, 40
NOW = 1_700_000_000


def ranked_visits(seed: int = 0, blind: float = 0.0) -> RankedVisits:
    """Users who choose what scores high; items come in styles, a third of the items is protected and scores lower.

    `blind` is how much less of it users of even rows are shown, for no reason in what they choose.
    """
    rng = np.random.default_rng(seed)
    style = rng.integers(0, 6, ITEMS + 1)
    tokens = np.eye(6)[style][:, None, :] + 0.3 * rng.normal(size=(ITEMS + 1, 1, 6))
    tokens = (tokens / np.linalg.norm(tokens, axis=2, keepdims=True)).astype(np.float32)
    tokens[0] = 0
    protected = np.arange(ITEMS + 1) % 3 == 0
    protected[0] = False
    rows = np.stack([1 + rng.permutation(ITEMS)[:KEPT] for _ in range(USERS)]).astype(np.int32)
    users = np.arange(1, USERS + 1, dtype=np.int32)
    taste = rng.normal(size=(USERS, 6))
    appeal = 0.3 * np.take_along_axis(taste, style[rows], axis=1) + rng.normal(size=rows.shape)
    chosen = np.argsort(-appeal, axis=1)[:, :4]
    relevant = Interactions.from_lists(np.take_along_axis(rows, chosen, axis=1))
    scores = appeal + 0.3 * rng.normal(size=rows.shape) - 0.8 * protected[rows]
    scores -= blind * protected[rows] * (users % 2 == 0)[:, None]
    history = np.stack([1 + rng.permutation(ITEMS)[:5] for _ in users]).astype(np.int32)
    facts = PolicyTables(rng.integers(0, 40, ITEMS + 1), np.full(ITEMS + 1, NOW - 86_400), protected=protected)
    scores = (1 / (1 + np.exp(-scores))).astype(np.float32)
    return RankedVisits(Visits(users, history, np.full(USERS, NOW), relevant, rows, scores, scores), facts, tokens)


@pytest.fixture(scope="module")
def ranked() -> RankedVisits:
    return ranked_visits()


def test_distance_is_that_of_a_loop():
    rng = np.random.default_rng(0)
    tokens = rng.normal(size=(9, 3, 4))
    tokens /= np.linalg.norm(tokens, axis=2, keepdims=True)
    tokens[rng.random((9, 3)) < 0.3] = 0
    tokens[[0, 5]] = 0
    ranked = np.array([[1, 2, 5, 3], [4, 0, 5, 0], [6, 7, 8, 0]])
    found = intra_list_distance(ranked, tokens)
    for line, rows in enumerate(ranked):
        real = [row for row in rows if tokens[row].any()]
        pairs = [
            1 - max(tokens[a, m] @ tokens[b, m] for m in range(3)) for place, a in enumerate(real) for b in real[:place]
        ]
        assert np.isnan(found[line]) if not pairs else found[line] == pytest.approx(np.mean(pairs), abs=1e-6)


def test_pages_of_no_policy_follow_the_scores(ranked):
    order = np.argsort(-ranked.visits.scores, axis=1, kind="stable")[:, :10]
    np.testing.assert_array_equal(ranked.pages(Policy(), 10), np.take_along_axis(ranked.visits.rows, order, axis=1))


def test_the_choice_keeps_its_bound_and_takes_no_less_than_it_may(ranked):
    costs = []
    for cost in (0.0, 0.02, 0.1, 0.9):
        found = trade_off(ranked, cost)
        points = {point["weight"]: point for point in found["mmr"]}
        chosen = found["mmr_lambda"]
        if chosen < 1:
            assert points[chosen]["cost"] <= cost
            assert points[chosen]["distance"] > found["plain"]["distance"]
        lower = [weight for weight in points if weight < chosen]
        if lower:
            assert points[max(lower)]["cost"] > cost
        costs.append(chosen)
    assert costs == sorted(costs, reverse=True) and costs[-1] == min(LAMBDAS) < costs[1] < costs[0] == 1
    for point in points.values():  # the curve is about what was measured
        assert point["cost"] == pytest.approx(1 - point["ndcg@10"] / found["plain"]["ndcg@10"], abs=0.02)


def test_where_nothing_is_known_of_costs_no_diversity_is_chosen_and_the_reason_is_told(ranked):
    few = ranked.take(np.arange(99))
    nothing = Interactions.from_lists(np.full((USERS, 1), ITEMS + 1))  # what nobody could be shown
    blind = dataclasses.replace(ranked, visits=dataclasses.replace(ranked.visits, relevant=nothing))
    for visits, words in ((few, "99 held-out visits are too few"), (blind, "no visit chose anything that its plain page")):
        found = trade_off(visits, 0.9)
        assert (found["mmr_lambda"], found["dpp_strength"]) == (1.0, 0.0) and words in found["reason"]
        assert len(found["mmr"]) == len(LAMBDAS)
    assert "reason" not in trade_off(ranked, 0.9)


@given(st.lists(st.floats(-0.1, 0.3), min_size=3, max_size=8))
def test_a_curve_of_costs_never_falls_and_is_no_further_off_than_none(costs):
    strengths, measured = np.arange(1.0, len(costs) + 1), np.array(costs)
    smooth = smooth_costs(strengths, measured)
    assert (np.diff(smooth, prepend=0.0) >= -1e-12).all()
    assert np.square(smooth - measured).sum() <= np.square(measured).sum() + 1e-12


def test_diversity_is_reported_with_what_it_costs(ranked):
    vectors = ranked.tokens[:, 0]
    found = judge_diversity(ranked, Policy(mmr_lambda=0.4), 0.5, vectors, seed=1, people=ranked)
    for name in ("default", "dpp"):
        figures = found[name]
        assert figures["distance"]["change"] > 0.05 and figures["content_distance"]["change"] > 0.05
        # One modality: the most alike one is all there is.
        assert figures["distance"]["before"] == pytest.approx(figures["content_distance"]["before"], abs=1e-5)
        change = figures["ndcg@10"]["after"] - figures["ndcg@10"]["before"]
        mean, low, high = figures["ndcg_difference"]
        assert mean == pytest.approx(change) and low <= mean <= high < 0
        # Every user has one visit here, so that both ways of asking are the same.
        assert figures["by_user"] == {name: figures[name] for name in ("ndcg@10", "distance")}
    assert found["policy"]["mmr_lambda"] == 0.4 and found["visits"] == USERS
    twice = dataclasses.replace(ranked, visits=ranked.visits.take(np.tile(np.arange(USERS), 2)))
    again = judge_diversity(twice, Policy(mmr_lambda=0.4), 0.5, None, seed=1)["default"]["ndcg_difference"]
    assert again == pytest.approx(found["default"]["ndcg_difference"])  # the same users with twice the visits know no more


def test_visits_come_back_from_their_file(ranked, tmp_path):
    visits = ranked.visits.take(np.array([5, 2]))
    visits.save(tmp_path / "visits.npz")
    back = Visits.load(tmp_path / "visits.npz")
    assert [items.tolist() for items in back.relevant] == [items.tolist() for items in visits.relevant]
    for name in ("users", "history", "timestamps", "rows", "scores", "click"):
        mine, theirs = getattr(visits, name), getattr(back, name)
        assert mine.dtype == theirs.dtype and (mine == theirs).all()


def test_fairness_reaches_the_share_that_people_choose_and_says_what_it_costs(ranked):
    found = judge_fairness(ranked, ranked, "every third")
    policies, target = found["policies"], found["target"]
    assert target == pytest.approx(found["share_of_choices"]) and 0.25 < target < 0.42
    assert policies["none"]["exposure_share"] < 0.6 * target and policies["none"]["disparity"] < 0.6
    assert policies["boost"]["exposure_share"] == pytest.approx(target, abs=0.01)
    assert policies["floor"]["exposure_share"] > policies["none"]["exposure_share"] + 0.05
    raised = found["raised"]
    assert [each["boost"] for each in raised] == sorted(each["boost"] for each in raised) and raised[0]["boost"] > 0
    np.testing.assert_allclose([each["exposure_share"] for each in raised], [each["target"] for each in raised], atol=0.01)
    # What was withheld for no reason is what people chose: here fairness costs nothing.
    assert policies["boost"]["cost"] < 0 and policies["none"]["cost"] == 0


def test_floors_are_judged_at_the_significance_they_are_served_with(ranked):
    shares = {}
    for significance in (0.05, Policy().significance):
        found = judge_fairness(ranked, ranked, "every third", significance=significance)
        policy = Policy(group_share=found["target"], significance=significance)
        pages = ranked.pages(policy, 10)
        weights = 1 / np.log2(np.arange(2, 12)) * (pages > 0)
        shares[significance] = found["policies"]["floor"]["exposure_share"]
        assert shares[significance] == pytest.approx((weights * ranked.facts.protected[pages]).sum() / weights.sum())
    assert shares[0.05] < shares[0.5] - 0.05


def test_floors_bring_groups_of_users_together():
    blind = ranked_visits(3, blind=1.5)
    group = (np.arange(USERS + 1) % 2 == 0).astype(np.int32)
    found = judge_user_groups(blind, group, ["odd", "even"])
    before, after = found["gap"]["protected_share"]  # half the users are lifted to the average of both halves
    assert before > 0.05 and after == pytest.approx(before / 2, abs=0.01)
    assert found["groups"]["odd"]["floor"] == 0 < found["groups"]["even"]["floor"]
    shares = found["groups"]["odd"]["protected_share"]
    assert shares[0] == shares[1] > found["groups"]["even"]["protected_share"][1]


def dataset() -> Dataset:
    items = pd.DataFrame({"item_id": ["", "a", "b", "c", "d"], "created_at": [0, 5, 6, 7, 0]})
    items["attribute_maker"] = np.array([0, 1, 2, 1, 0], np.int32)
    users = pd.DataFrame({"user_id": ["", "u", "v"], "profile_age": np.array([0, 2, 1], np.int32)})
    lines = [(1, 1, "train", True)] * 4 + [(1, 2, "train", True), (2, 3, "valid", True), (2, 3, "test", False)]
    events = pd.DataFrame(lines, columns=["user", "item", "split", "positive"]).replace({"split": SPLIT_CODES})
    schema = Schema(3, 5, profile={"age": 3}, attributes={"maker": 3})
    words = {"age": ["", "old", "young"]}, {"maker": ["", "x", "y"]}
    return Dataset(schema, users, items, events, np.array([0, 4, 1, 0, 0]), *words, {})


def test_facts_are_those_of_the_splits_asked_for():
    data = dataset()
    facts = policy_tables(data, PolicySection(creator="maker"), ("train",))
    assert facts.counts.tolist() == [0, 4, 1, 0, 0] and facts.released.tolist() == [0, 5, 6, 7, 0]
    assert facts.creator.tolist() == [0, 1, 2, 1, 0] and facts.category is None and facts.user_group is None
    assert policy_tables(data, PolicySection(), ("train", "valid", "test")).counts.tolist() == [0, 4, 1, 1, 0]
    floors = PolicySection(user_groups="age", user_floors={"young": 0.3})
    facts = policy_tables(data, floors, ("train",))
    assert facts.user_group.tolist() == [0, 2, 1]
    np.testing.assert_allclose(facts.group_floors, [0, 0, 0.3])


def test_protected_groups_by_their_names():
    data = dataset()
    assert protected_items(data, "new", data.counts).tolist() == [False, False, False, True, True]
    assert protected_items(data, "maker=x", data.counts).tolist() == [False, True, False, True, False]
    assert protected_items(data, "rare", data.counts).tolist() == [False, False, True, True, True]
    for group in ("maker", "maker=z", "label=x"):
        with pytest.raises(ValueError, match=r"policy\.protected: must be 'rare', 'new' or an item attribute"):
            protected_items(data, group, data.counts)
    with pytest.raises(ValueError, match=r"received 'maker=z'; values of maker are x, y$"):
        check_policy(data, PolicySection(protected="maker=z"))
    with pytest.raises(ValueError, match=r"policy\.user_groups: must be a profile column \(age\)"):
        check_policy(data, PolicySection(user_groups="sex"))
    check_policy(data, PolicySection(protected="maker=x", user_groups="age", user_floors={"old": 0.1}))
    with pytest.raises(ValueError, match=r"policy\.user_groups: must be a profile column \(age\)"):
        policy_tables(data, PolicySection(user_groups="sex", user_floors={"m": 0.1}), ("train",))
    with pytest.raises(ValueError, match="groups of age are unknown, old, young, received new"):
        policy_tables(data, PolicySection(user_groups="age", user_floors={"new": 0.1}), ("train",))


def test_settings_are_those_of_a_policy():
    fields = PolicySection.model_fields
    assert set(BOUNDS) <= set(fields)
    defaults = {name: fields[name].default for name in BOUNDS}
    # "auto" is the one default of the settings that is no number: where nothing was chosen it is the policy's own.
    assert defaults == Policy().weights() | {"mmr_lambda": "auto"}
    assert PolicySection().weights() == Policy()
    config = load_config(overrides=["policy.creator_cap=2", "policy.epsilon=0.05"])
    assert config.policy.weights(0.8) == Policy(creator_cap=2, epsilon=0.05, mmr_lambda=0.8)
    assert load_config(overrides=["policy.mmr_lambda=0.6"]).policy.weights(0.8).mmr_lambda == 0.6
    for override, words in (
        ("policy.epsilon=2", "epsilon: must lie between 0 and 1, received 2"),
        ("policy.mmr=0.5", "policy.mmr"),
        ("policy.user_floors={ young = 0.2 }", "user_floors: need user_groups"),
    ):
        with pytest.raises(ConfigError, match=words):
            load_config(overrides=[override])
