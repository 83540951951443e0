"""One protocol on a small world whose answers are known: tuning, withheld items, intervals, and who beats whom."""

import dataclasses

import numpy as np
import pytest

from data.dataset import Dataset
from data.schema import TEST, VALID
from pipeline.metrics.metrics import ndcg_at_k, recall_at_k
from pipeline.metrics.top_k import dot_product_scores, top_k
from pipeline.peers.contest import (
    METRICS,
    ask,
    cold_contest,
    compare,
    compete,
    enter_runs,
    judge,
    summarise,
    warm_contest,
)
from pipeline.peers.peers import CLASSIC, COLD, Choice, Peer, Problem, Range, from_baseline
from pipeline.retrieval.baselines import ItemKNN, Popularity
from tests.pipeline.checkerboard import checkerboard
from towers.ensemble import DESCRIPTION

USERS, ITEMS = 40, 60


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return checkerboard(USERS, ITEMS)


KNN = Peer(
    "item_knn",
    from_baseline(ItemKNN),
    {"neighbours": 1, "shrinkage": 1000.0},
    {"neighbours": Choice((40,)), "shrinkage": Range(0.1, 1.0)},
)


def test_judging_by_places_equals_judging_by_lists(dataset):
    contest = warm_contest(dataset, None, ("train", "valid"), 7)
    problem, question = contest.testing
    scores = KNN.fit(problem, {"neighbours": 40, "shrinkage": 1.0}, 7)(question)
    values = judge(scores, question)
    ranked, _ = top_k(scores, np.arange(USERS), question.requests.seen, 20)
    for k in (10, 20):
        np.testing.assert_array_equal(values[f"recall@{k}"], recall_at_k(ranked, question.requests.relevant, k))
        np.testing.assert_array_equal(values[f"ndcg@{k}"], ndcg_at_k(ranked, question.requests.relevant, k))


def test_tuning_prefers_what_validation_prefers_and_a_model_that_knows_the_taste_beats_popularity(dataset):
    contest = warm_contest(dataset, None, ("train",), 7)
    said = []
    entries = [compete(peer, contest, trials=3, seeds=(7, 8), say=said.append) for peer in (CLASSIC[0], KNN)]
    assert [entry.trials for entry in entries] == [1, 3]  # popularity has nothing to choose
    assert len(said) == 4
    assert entries[1].settings["neighbours"] == 40  # the default knows one neighbour an item, which is not enough
    summaries = [summarise(entry, 7) for entry in entries]
    for metric in METRICS:
        assert summaries[1][metric]["low"] > summaries[0][metric]["high"]
        assert summaries[1][metric]["std_over_seeds"] is None  # no chance in it: one seed is enough
    against = compare(entries, "item_knn", "ndcg@20", 7)["popularity"]
    assert against["high"] < 0
    assert against["p_value"] < 0.001


def test_the_chosen_trial_is_also_the_first_seeds_model_where_both_phases_learn_from_the_same(dataset):
    fits = []

    def fit(problem, settings, seed):
        fits.append((settings["best"], seed))
        return lambda question: dot_product_scores(np.ones((len(question.requests.users), 1)), np.ones((ITEMS + 1, 1)))

    peer = Peer("counted", fit, {"best": 0}, {"best": Choice((1,))}, seeded=True)
    entry = compete(peer, warm_contest(dataset, None, ("train",), 7), trials=3, seeds=(7, 8), say=lambda line: None)
    assert fits == [(0, 7), (1, 7), (1, 7), (0, 8)]  # equal values: the first stays
    assert entry.settings == {"best": 0} and entry.users["ndcg@20"].shape == (2, USERS)
    fits.clear()
    compete(peer, cold_contest(dataset, None, ("train",), 7), trials=1, seeds=(7, 8), say=lambda line: None)
    assert fits == [(0, 7), (0, 7), (0, 8)]  # other items are withheld for the test


def test_known_splits_are_masked_and_validation_never_sees_the_test_split(dataset):
    contest = warm_contest(dataset, None, ("train", "valid"), 7)
    (problem, choosing), (_, testing) = contest.choosing, contest.testing
    np.testing.assert_array_equal(choosing.requests.seen.counts, 14)
    np.testing.assert_array_equal(testing.requests.seen.counts, 17)
    np.testing.assert_array_equal(problem.train.counts[1:], 14)
    shorter = dataclasses.replace(dataset, events=dataset.events[dataset.events["split"] != TEST])
    without = ask(shorter, "valid", ("train",), 7)
    np.testing.assert_array_equal(without.requests.relevant.rows, choosing.requests.relevant.rows)


def test_withheld_items_are_unknown_in_training_and_alone_in_the_question(dataset):
    contest = cold_contest(dataset, None, ("train", "valid"), 7, share=0.2)
    sets = []
    for (problem, question), split in ((contest.choosing, VALID), (contest.testing, TEST)):
        cold = np.flatnonzero(question.allowed)
        sets.append(set(cold.tolist()))
        assert len(cold) == 12
        assert not problem.dataset.counts[cold].any()
        assert not np.isin(problem.dataset.events["item"], cold).any()
        assert not np.isin(problem.train.rows, cold).any()
        assert not np.isin(question.known.rows, cold).any()
        relevant = question.requests.relevant
        assert relevant.counts.min() >= 1
        events = dataset.events
        truth = events[(events["split"] == split) & events["item"].isin(cold)]
        assert sorted(zip(question.requests.users[relevant.users], relevant.rows, strict=True)) == sorted(
            zip(truth["user"], truth["item"], strict=True)
        )
        # Only withheld items are ranked: knowing nothing, popularity still finds some of 12, and never a warm one.
        scores = from_baseline(Popularity)(problem, {}, 7)(question)
        ranked, _ = top_k(
            scores, np.arange(len(question.requests.users)), question.requests.seen, 20, allowed=question.allowed
        )
        assert np.isin(ranked[ranked > 0], cold).all()
    assert not sets[0] & sets[1]


def test_random_order_reaches_its_expectation_among_withheld_items(dataset):
    contest = cold_contest(dataset, None, ("train",), 7, share=0.4)
    entry = compete(COLD[0], contest, trials=5, seeds=tuple(range(20)), say=lambda line: None)
    assert entry.trials == 1
    values = summarise(entry, 7)["recall@10"]
    assert values["mean"] == pytest.approx(10 / 24, abs=0.04)
    assert values["std_over_seeds"] > 0


def test_the_draws_of_a_model_depend_on_its_name_and_seed_alone(dataset):
    problem = Problem(dataset, None, ask(dataset, "test", ("train",), 7).known)
    first, again, other = (KNN.trials(problem, 5, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert first == again != other
    assert first[0] == KNN.default
    assert all(0.1 <= trial["shrinkage"] <= 1.0 for trial in first[1:])


def test_impossible_contests_are_refused(dataset):
    contest = warm_contest(dataset, None, ("train",), 7)
    with pytest.raises(ValueError, match=r"metric, trials, seeds: .* received 'mrr', 0"):
        compete(KNN, contest, trials=0, seeds=(7,), metric="mrr")
    with pytest.raises(ValueError, match=r"must withhold 1 to half of 60 items, received 0\.9"):
        cold_contest(dataset, None, ("train",), 7, share=0.9)
    with pytest.raises(ValueError, match="reads content, received a dataset without any"):
        CLASSIC[-1].fit(contest.testing[0], {"neighbours": 3}, 7)


def test_what_a_finished_run_serves_is_judged_like_every_model(dataset, tmp_path, monkeypatch):
    """Vectors that know the answer, given as a run's: recall is 1 where the ten best are the user's own kind."""
    dataset.save(tmp_path / "a" / "ingest")
    kinds = np.eye(2, dtype=np.float32)
    items = kinds[np.arange(ITEMS + 1) % 2]

    class Served:
        history_length = 5

        def __init__(self):
            self.items = items

        def queries(self, profile, users, history):
            assert history.shape[1] == 5
            return kinds[users % 2]

    monkeypatch.setattr("pipeline.retrieval.served.load_served", lambda folder, variant: Served())
    entry = enter_runs("known", [(tmp_path / "a", "full")] * 2, dataset, ("train", "valid"), "ndcg@20", 7)
    assert entry.users["recall@20"].shape == (2, USERS)
    assert entry.values("recall@20").min() == 1.0  # 13 unseen items of the kind, three of them asked for
    assert summarise(entry, 7)["trials"] == 0
    other = dataclasses.replace(dataset, events=dataset.events.iloc[1:].reset_index(drop=True))
    with pytest.raises(ValueError, match="must be made from the same dataset and split"):
        enter_runs("known", [(tmp_path / "a", "full")], other, ("train",), "ndcg@20", 7)


def test_a_run_that_was_fitted_again_answers_validation_as_it_was_before(dataset, tmp_path, monkeypatch):
    """`full` knows everybody's kind, `full/unseen` shows everybody the other one."""
    run, kinds = tmp_path / "a", np.eye(2, dtype=np.float32)
    dataset.save(run / "ingest")
    for folder in ("served/full/unseen", "linear/full"):
        (run / folder).mkdir(parents=True)
    (run / "served/full" / DESCRIPTION).write_text("{}")
    (run / "linear/full/info.json").write_text('{"refitted_on": ["train", "valid"]}')

    class Served:
        history_length = 5
        items = kinds[np.arange(ITEMS + 1) % 2]

        def __init__(self, variant):
            self.wrong = variant == "full/unseen"

        def queries(self, profile, users, history):
            return kinds[(users + self.wrong) % 2]

    monkeypatch.setattr("pipeline.retrieval.served.load_served", lambda folder, variant: Served(variant))
    entry = enter_runs("again", [(run, "full")], dataset, ("train", "valid"), "ndcg@20", 7)
    assert entry.valid == 0.0 and entry.values("recall@20").min() == 1.0
    assert entry.settings["refitted_on"] == ["train", "valid"]
    with pytest.raises(ValueError, match="must have learned from"):
        enter_runs("again", [(run, "full")], dataset, ("train",), "ndcg@20", 7)
