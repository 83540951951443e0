"""Retrieval training: resumed equals undisturbed, and a loss that is not finite stops the run with words."""

import dataclasses
import json

import numpy as np
import pandas as pd
import pytest

from data.batches import RetrievalBatches
from data.schema import TRAIN, VALID
from data.validation import DatasetError
from pipeline.evaluation.evaluate import Judge, evaluate_retrieval, masked_scores, served_scores
from pipeline.metrics.examples import make_requests, positive_histories
from pipeline.retrieval.served import load_served
from pipeline.retrieval.train_retrieval import tower_config, train_retrieval
from pipeline.settings.config import EvaluationConfig, RetrievalConfig
from pipeline.settings.job import JobSection
from pipeline.training.epoch_steps import NonFiniteLossError
from pipeline.training.record import read_records
from pipeline.training.warm import WarmTowers
from tests.pipeline.training_world import make_world
from towers.two_tower import load_two_tower

CONFIG = RetrievalConfig(width=8, history_length=4, batch_size=64, epochs=3, patience=3, learning_rate=0.01)


def silent(what, done, total):
    return None


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("world"))


def train(world, folder, config=CONFIG, modalities=("text",), checkpoints=None):
    _, dataset, store = world
    out = folder / "out"
    out.mkdir(parents=True)
    train_retrieval(
        dataset, store, out, checkpoints or folder / "checkpoints", config, modalities=modalities, progress=silent
    )
    return out


def test_resumed_training_equals_undisturbed(world, tmp_path, monkeypatch):
    whole = train(world, tmp_path / "whole")
    checkpoints = tmp_path / "kept"
    import pipeline.retrieval.train_retrieval as module

    real, calls = module.validation_ndcg, []

    def interrupted(*arguments):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(module, "validation_ndcg", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(world, tmp_path / "first", checkpoints=checkpoints)
    monkeypatch.setattr(module, "validation_ndcg", real)
    resumed = train(world, tmp_path / "second", checkpoints=checkpoints)
    np.testing.assert_allclose(
        np.load(resumed / "item_embeddings.npy"), np.load(whole / "item_embeddings.npy"), atol=1e-6
    )
    logs = [[row["loss"] for row in json.loads((out / "history.json").read_text())] for out in (whole, resumed)]
    assert logs[0] == pytest.approx(logs[1], abs=1e-5) and len(logs[0]) == 3


def test_non_finite_loss_stops_with_a_clear_error(world, tmp_path):
    with pytest.raises(NonFiniteLossError, match="learning_rate"):
        train(
            world, tmp_path, CONFIG.model_copy(update={"temperature": 1e-30, "learning_rate": 1e30, "batch_size": 16})
        )


def test_a_variant_keeps_the_fusion_coefficients_of_what_it_sees(world, tmp_path):
    config = CONFIG.model_copy(update={"fusion": "weighted", "fusion_weights": (1.0, 0.5), "epochs": 1})
    full, ids_only = train(world, tmp_path / "full", config), train(world, tmp_path / "ids", config, modalities=())
    for out, expected in ((full, [1.0, 0.5]), (ids_only, [1.0])):
        assert np.asarray(load_two_tower(out).item_tower.fusion.coefficients).tolist() == expected
    stored, weights = ("text", "image", "audio"), (1.0, 2.0, 3.0, 4.0)
    config = CONFIG.model_copy(update={"fusion_weights": weights})
    assert tower_config(config, ("text", "audio"), stored).fusion_weights == (1.0, 2.0, 4.0)
    assert tower_config(config, stored, stored).fusion_weights == weights
    one = CONFIG.model_copy(update={"fusion_weights": (0.7,)})
    assert tower_config(one, ("image", "audio"), stored).fusion_weights == (0.7,)
    with pytest.raises(ValueError, match=r"retrieval\.fusion_weights"):
        train(world, tmp_path / "wrong", config.model_copy(update={"fusion": "weighted"}))


@pytest.mark.parametrize("repeats", [False, True])
def test_nothing_new_to_validate_on_stops_before_the_first_epoch(world, tmp_path, repeats):
    source, dataset, store = world
    train_events = dataset.events[dataset.events["split"] == TRAIN]
    parts = [train_events, train_events.assign(split=np.int8(VALID))] if repeats else [train_events]
    events = pd.concat(parts, ignore_index=True)
    with pytest.raises(DatasetError, match=r"the valid part must have .* Raise data\.valid_fraction"):
        train((source, dataclasses.replace(dataset, events=events), store), tmp_path)


def test_towers_are_judged_as_they_were_trained_with_nothing_hidden(world, tmp_path):
    """A task takes who is known from the data; towers that were trained in private know of nobody who is not."""
    _, dataset, store = world
    two_tower = load_two_tower(train(world, tmp_path))
    two_tower.item_tower.known.assign(np.ones(dataset.schema.item_rows, np.float32))
    before = [np.array(variable) for variable in two_tower.variables]
    requests = make_requests(dataset, "test", known_splits=("train",), history_length=4)
    assert (dataset.counts[1:] == 0).any()
    masked_scores(two_tower, dataset, store, requests, ())
    for variable, value in zip(two_tower.variables, before, strict=True):
        np.testing.assert_array_equal(np.array(variable), value, err_msg=variable.path)


def test_log_q_goes_by_the_events_that_are_learned(world):
    """A warm training learns new events and some old ones; of the others' items nothing is a negative."""
    _, dataset, _ = world
    histories = positive_histories(dataset, ("train",), kinds=True)
    settings = {"item_rows": dataset.schema.item_rows, "batch_size": 8, "history_length": 0, "ordered": True, "seed": 1}
    assert RetrievalBatches(histories, **settings).drawn is None
    chosen = np.arange(0, len(histories.items), 3)
    batches = RetrievalBatches(histories, positions=chosen, **settings)
    expected = np.zeros(dataset.schema.item_rows)
    for position in chosen:
        expected[histories.items[position]] += 1
    np.testing.assert_array_equal(batches.drawn, expected)
    with pytest.raises(ValueError, match="event_weights: must be above 0"):
        RetrievalBatches(histories, kind_weights=np.zeros(8), **settings)


def test_evaluation_counts_and_masks(world, tmp_path):
    source, dataset, store = world
    run, out = tmp_path / "run" / "retrieval", tmp_path / "evaluate"
    run.mkdir(parents=True)
    out.mkdir()
    train(world, tmp_path / "full").rename(run / "full")
    longer = CONFIG.model_copy(update={"history_length": 8})
    train(world, tmp_path / "ids", longer, modalities=()).rename(run / "ids_only")
    result = evaluate_retrieval(
        dataset,
        store,
        source,
        run.parent,
        ["full", "ids_only"],
        out,
        EvaluationConfig(recommendations=10),
        progress=silent,
    )
    table = pd.read_parquet(out / "recommendations.parquet")
    events = dataset.events
    seen = {
        (dataset.users["user_id"][user], dataset.items["item_id"][item])
        for user, item in events.loc[events["split"] < 2, ["user", "item"]].to_numpy()
    }
    assert not seen & set(zip(table["user_id"], table["item_id"], strict=True))
    assert (table.groupby("user_id")["rank"].max() <= 10).all() and not table.duplicated(["user_id", "item_id"]).any()
    assert (
        0 <= result["test"]["recall@20"] <= 1
        and result["baselines"]["popularity"]["test"]["users"] == result["test"]["users"]
    )
    assert set(result["ablation"]["text"]) >= {"masked", "test"}
    # Who reads more than what is served is judged by all that they read.
    requests = make_requests(dataset, "test", known_splits=EvaluationConfig().mask_splits, history_length=8)
    ids_only = served_scores(load_served(run.parent, "ids_only"), dataset, requests)
    assert (requests.history[:, 4:] > 0).any()
    assert result["baselines"]["ids_only"] == Judge(requests, dataset.counts).judge(ids_only)
    options = EvaluationConfig(recommendations=10)
    alone = evaluate_retrieval(dataset, store, source, run.parent, ["full"], out, options, progress=silent)
    assert set(result["baselines"]) - set(alone["baselines"]) == {"ids_only"} and alone["test"] == result["test"]


def test_where_nothing_is_new_warm_towers_stay_and_their_figure_with_them(world, tmp_path):
    _, dataset, store = world
    parent = train(world, tmp_path / "parent")
    until = read_records(parent)[0]["last_timestamp"]
    out = tmp_path / "out"
    out.mkdir()
    told = train_retrieval(
        dataset, store, out, tmp_path / "checkpoints", CONFIG, modalities=("text",), progress=silent,
        warm=WarmTowers(parent, until, JobSection()),
    )  # fmt: skip
    one, two = (np.load(folder / "item_embeddings.npy") for folder in (parent, out))
    np.testing.assert_array_equal(two, one)
    log = json.loads((out / "history.json").read_text())
    assert told["epochs"] == 0 and [row.keys() for row in log] == [{"epoch", "valid_ndcg@20", "seconds"}]
    assert log[0]["valid_ndcg@20"] == pytest.approx(max(
        row["valid_ndcg@20"] for row in json.loads((parent / "history.json").read_text())
    ))  # fmt: skip


def test_a_night_of_fewer_batches_than_gradients_are_averaged_over_moves_the_weights(world, tmp_path):
    _, dataset, store = world
    config = CONFIG.model_copy(update={"accumulation": 6})
    parent = train(world, tmp_path / "parent", config)
    out = tmp_path / "out"
    out.mkdir()
    until = int(np.quantile(dataset.events["timestamp"][dataset.events["split"] == TRAIN], 0.9))
    told = train_retrieval(
        dataset, store, out, tmp_path / "checkpoints", config, modalities=("text",), progress=silent,
        warm=WarmTowers(parent, until, JobSection(replay=1.0, epochs=1)),
    )  # fmt: skip
    one, two = (np.load(folder / "item_embeddings.npy") for folder in (parent, out))
    assert told["epochs"] == 1 and np.abs(two - one).max() > 0
