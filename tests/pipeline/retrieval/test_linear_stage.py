"""The linear stage and what is served: chosen on validation, whole after an interruption, equal to its parts."""

import dataclasses
import functools
import json

import numpy as np
import pandas as pd
import pytest

from data.dataset import train_counts
from data.schema import SPLIT_CODES
from pipeline.ranker.leak_checks import LeakError, check_retrieval
from pipeline.retrieval import linear_stage, served_stage
from pipeline.retrieval.linear_closed_form import fit_closed_form
from pipeline.retrieval.linear_judge import LinearJudge
from pipeline.retrieval.linear_parts import choose_weights, fit_spectral
from pipeline.retrieval.linear_stage import closed_form_content, content_of, fit_linear
from pipeline.retrieval.served import Served, history_matrix, load_served, served_history_length, served_items
from pipeline.retrieval.served_stage import build_served, history_length
from pipeline.retrieval.train_history import train_history
from pipeline.retrieval.train_retrieval import train_retrieval
from pipeline.settings.linear import LinearSection
from pipeline.settings.retrieval import RetrievalConfig
from pipeline.training.record import read_records
from tests.pipeline.training_world import make_world
from towers.ensemble import DESCRIPTION
from towers.linear import FILE, LinearTower

SECTION = LinearSection(width=8, epochs=4, l2=(1.0, 5.0, 20.0), users_per_batch=16)


def silent(what, done, total):
    return None


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def judge(world):
    return LinearJudge(world[1], 100, 7)


@pytest.fixture(scope="module")
def run(world, tmp_path_factory):
    """A run folder with `retrieval`, `linear` and `served`, as the stages leave it."""
    _, dataset, store = world
    folder = tmp_path_factory.mktemp("run")
    trained, linear, served = (folder / name / "full" for name in ("retrieval", "linear", "served"))
    for path in (trained, linear, served):
        path.mkdir(parents=True)
    config = RetrievalConfig(width=8, history_length=4, batch_size=64, epochs=2, learning_rate=0.01)
    train_retrieval(dataset, store, trained, folder / "ck", config, modalities=("text",), progress=silent)
    info = fit_linear(dataset, store, linear, folder / "cl", SECTION, modalities=("text",), progress=silent)
    chosen = build_served(dataset, store, trained, linear, served, SECTION, modalities=("text",))
    return folder, info, chosen


def fit(world, out, checkpoints, section=SECTION, modalities=("text",)):
    _, dataset, store = world
    out.mkdir()
    return fit_linear(dataset, store, out, checkpoints, section, modalities=modalities, progress=silent)


def test_every_part_is_better_than_chance_and_the_sum_as_good_as_its_best_part(run, judge):
    folder, info, _ = run
    random = np.mean(
        [judge.ndcg(np.random.default_rng(seed).random((len(judge.requests.users), 21))) for seed in range(9)]
    )
    figures = {part: values["valid_ndcg@20"] for part, values in info["parts"].items()}
    assert set(figures) == set(SECTION.parts)
    assert min(figures.values()) > random
    assert info["valid_ndcg@20_joined"] >= max(figures.values()) - 1e-6
    tower = LinearTower.load(folder / "linear" / "full")
    assert judge.ndcg(judge.scores(tower)) == pytest.approx(info["valid_ndcg@20"], abs=1e-6)


def test_what_is_served_is_at_least_as_good_on_validation_as_the_two_towers_alone(run):
    _, _, chosen = run
    assert chosen["valid_ndcg@20"] >= chosen["two_towers_alone"]


def test_served_queries_are_the_two_halves_written_out(world, run):
    folder, _, chosen = run
    assert chosen["kind"] == "ensemble"
    served, dataset = load_served(folder), world[1]
    assert np.array_equal(served_items(folder), served.items) and served_history_length(folder) == served.history_length
    history = np.array([[3, 7, 3, 5, 1, 2]], np.int32)
    query = served.queries(dataset.profile, np.array([4]), history)[0]
    towers, linear = served.ensemble.weights
    total = sum(served.ensemble.linear.history[row] for row in {3, 7, 5, 1, 2})
    np.testing.assert_allclose(query[8:], linear * total / np.linalg.norm(total), atol=1e-5)
    alone = Served(served.two_tower, served.tower_items, None, 4).queries(dataset.profile, np.array([4]), history)[0]
    np.testing.assert_allclose(query[:8], towers * alone, atol=1e-6)
    np.testing.assert_array_equal(np.load(folder / "served" / "full" / "item_embeddings.npy"), served.items)


def test_a_query_reads_the_longest_history_there_is_within_bounds(world):
    dataset = world[1]
    one = dataset.events[dataset.positive & (dataset.events["user"] == 3)]
    assert history_length(dataset, 4) == dataset.events["user"].value_counts().max() == 12 and history_length(dataset, 40) == 40
    robot = pd.concat([dataset.events, *[one] * 500], ignore_index=True)
    assert history_length(dataclasses.replace(dataset, events=robot), 4) == 4096


def test_items_nobody_chose_get_vectors_from_their_content(world, run):
    folder, dataset = run[0], world[1]
    cold = np.flatnonzero(dataset.counts == 0)[1:]
    assert len(cold) and load_served(folder).ensemble.linear.items[cold].any(axis=1).all()


def test_an_interrupted_stage_does_not_fit_its_finished_parts_again(world, run, tmp_path, monkeypatch):
    calls = []
    real = linear_stage.fit_spectral
    monkeypatch.setattr(linear_stage, "fit_closed_form", lambda *a: calls.append("closed_form") or fit_closed_form(*a))

    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(linear_stage, "fit_spectral", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fit(world, tmp_path / "first", tmp_path / "checkpoints")
    monkeypatch.setattr(linear_stage, "fit_spectral", real)
    fit(world, tmp_path / "second", tmp_path / "checkpoints")
    assert calls == ["closed_form"]
    again, whole = (LinearTower.load(path) for path in (tmp_path / "second", run[0] / "linear" / "full"))
    np.testing.assert_allclose(again.history @ again.items.T, whole.history @ whole.items.T, atol=1e-4)


def test_a_refit_learns_from_the_splits_named_and_is_what_is_served(world, run, tmp_path):
    _, dataset, store = world
    out, served = tmp_path / "linear", tmp_path / "served" / "full"
    out.mkdir()
    served.mkdir(parents=True)
    info = fit_linear(
        dataset, store, out, tmp_path / "ck", SECTION, modalities=("text",), progress=silent,
        refit_splits=("train", "valid"),
    )  # fmt: skip
    assert info["valid_ndcg@20"] == pytest.approx(run[1]["valid_ndcg@20"], abs=1e-4)
    first, again = LinearTower.load(out), LinearTower.load(out / "refit")
    assert not np.allclose(first.history @ first.items.T, again.history @ again.items.T, atol=1e-3)
    trained = run[0] / "retrieval" / "full"
    build_served(dataset, store, trained, out, served, SECTION, modalities=("text",))
    tower, kept = load_served(tmp_path).ensemble.linear, np.flatnonzero(dataset.counts > 0)
    scores, expected = (part.history[kept] @ part.items[kept].T for part in (tower, again))
    np.testing.assert_allclose(scores, expected, rtol=1e-2, atol=1e-2)
    # The ranker learns from the validation split: it is asked with what has not seen it, which is as if without a refit.
    unseen, before = (load_served(tmp_path, "full/unseen"), load_served(run[0]))
    rows = np.arange(1, 6)
    history = np.stack([rows, rows + 1], axis=1)
    asked = [part.queries(dataset.profile, rows, history) @ part.items.T for part in (unseen, before)]
    np.testing.assert_allclose(*asked, rtol=1e-3, atol=1e-3)
    assert [record["splits"] for record in read_records(served)] == [["train"], ["train", "valid"]]
    check_retrieval(dataset, read_records(served), "test")
    check_retrieval(dataset, read_records(served / "unseen"), "valid")
    with pytest.raises(LeakError, match=r"trained on train and valid .* and is asked about valid"):
        check_retrieval(dataset, read_records(served), "valid")


def test_an_item_that_only_validation_knows_is_served_as_it_was_fitted_again(world, run, tmp_path, monkeypatch):
    _, dataset, store = world
    events, late = dataset.events.copy(), int(np.argmax(dataset.counts))
    events.loc[(events["item"] == late) & (events["split"] == SPLIT_CODES["train"]), "split"] = SPLIT_CODES["valid"]
    moved = dataclasses.replace(dataset, events=events, counts=train_counts(events, dataset.schema.item_rows))
    assert moved.counts[late] == 0
    linear, served = tmp_path / "linear", tmp_path / "served" / "full"
    linear.mkdir()
    served.mkdir(parents=True)
    section = LinearSection(width=8, parts=("closed_form",), l2=(1.0,), user_power=(0.0,), content=(0.0,))
    fit_linear(
        moved, store, linear, tmp_path / "ck", section, modalities=("text",), progress=silent,
        refit_splits=("train", "valid"),
    )  # fmt: skip
    stretched = functools.partial(max, key=lambda setting: setting[1])
    monkeypatch.setattr(served_stage, "choose", lambda overall, new: stretched(overall))
    monkeypatch.setattr(LinearJudge, "ndcg", lambda judge, scores: -1.0)  # whatever it costs
    build_served(moved, store, run[0] / "retrieval" / "full", linear, served, section, modalities=("text",))
    again, tower = LinearTower.load(linear / "refit"), load_served(tmp_path).ensemble.linear
    known = [*np.flatnonzero(moved.counts), late]
    scores = [part.history[known] @ part.items[late] for part in (again, tower)]
    np.testing.assert_allclose(*scores, atol=1e-3)
    unseen = load_served(tmp_path, "full/unseen").ensemble.linear
    assert np.linalg.norm(unseen.items[late]) > 2 * np.linalg.norm(tower.items[late])  # there it is new, and stretched


def test_a_training_of_so_many_epochs_ends_with_the_same_weights_after_an_interruption(world, judge, tmp_path):
    _, dataset, store = world

    def stopped(what, done, total):
        if 5 * done >= 4 * total:  # in the fourth of five epochs
            raise KeyboardInterrupt

    def train(checkpoints, progress):
        return train_history(
            dataset, store, judge, checkpoints, SECTION, loss="elsa", modalities=("text",), progress=progress,
            splits=("train", "valid"), epochs=5,
        )  # fmt: skip

    whole, _ = train(tmp_path / "whole", silent)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "stopped", stopped)
    resumed, told = train(tmp_path / "stopped", silent)
    np.testing.assert_array_equal(resumed.items, whole.items)
    assert (told["epochs"], told["best_epoch"]) == (5, 4)


def test_catalogues_that_are_too_large_and_no_parts_are_left_to_the_two_towers(world, run, tmp_path):
    few = SECTION.model_copy(update={"max_items": 10})
    assert fit(world, tmp_path / "large", tmp_path / "a", few)["reason"].startswith("20 items")
    assert "empty" in fit(world, tmp_path / "none", tmp_path / "b", SECTION.model_copy(update={"parts": ()}))["reason"]
    assert not (tmp_path / "large" / FILE).exists()
    out = tmp_path / "served"
    out.mkdir()
    _, dataset, store = world
    trained = run[0] / "retrieval" / "full"
    assert build_served(dataset, store, trained, tmp_path / "large", out, SECTION, modalities=()) == {
        "kind": "two_tower"
    }
    assert not (out / DESCRIPTION).exists()


def test_parts_that_learn_are_left_out_where_nobody_chose_two_items(world, tmp_path):
    source, dataset, store = world
    first = dataset.events.drop_duplicates(["user", "split"])
    events = pd.concat([first, first[first["split"] == 0]]).sort_values(["user", "timestamp"])  # again, and no other item
    single = dataclasses.replace(dataset, events=events, counts=train_counts(events, dataset.schema.item_rows))
    info = fit((source, single, store), tmp_path / "out", tmp_path / "a")
    assert info["fitted"] and set(info["parts"]) == set(info["weights"]) == {"closed_form", "spectral"}
    assert info["left_out"] == dict.fromkeys(("elsa", "softmax"), "no user has 2 different training items, 1 at most")
    assert json.loads((tmp_path / "out" / "info.json").read_text()) == info
    learning = SECTION.model_copy(update={"parts": ("elsa",)})
    none = fit((source, single, store), tmp_path / "none", tmp_path / "b", learning)
    assert not none["fitted"] and "no user has 2 different training items" in none["reason"]


def test_ids_alone_see_no_content(world, judge):
    features = content_of(world[2], ())
    assert features == closed_form_content(world[1], features) == {}
    _, closed = fit_closed_form(judge, features, SECTION)
    _, spectral = fit_spectral(judge, features, SECTION)
    assert closed["content"] == closed["columns"] == 0.0 and spectral["content_edges"] == 0.0


def test_weights_find_the_part_that_knows(judge):
    users = len(judge.requests.users)
    truth = np.zeros((users, 21), np.float32)
    truth[judge.requests.relevant.users, judge.requests.relevant.rows] = 1.0
    noise = np.random.default_rng(0).random((users, 21)).astype(np.float32)
    weights, figure = choose_weights(judge, {"noise": noise, "truth": truth})
    assert figure == pytest.approx(1.0)
    assert weights["truth"] > weights["noise"]


def test_a_history_counts_an_item_once_and_padding_not_at_all():
    matrix = history_matrix(np.array([[2, 2, 0, 1], [0, 0, 0, 0]]), 4).toarray()
    assert matrix.tolist() == [[0, 1, 1, 0], [0, 0, 0, 0]]


def test_figures_of_the_stage_can_be_written_as_json(run):
    assert json.loads(json.dumps(run[1])) == run[1]
