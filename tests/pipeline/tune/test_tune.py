"""The search of settings: what a space may hold, that it resumes, gives up, never sees the test split, and what it writes."""

import dataclasses
import json

import numpy as np
import optuna
import pandas as pd
import pytest
from PIL import Image

from pipeline.settings.config import Config, ConfigError, RetrievalConfig, load_config
from pipeline.stage import StageError
from pipeline.training.epoch_steps import NonFiniteLossError
from pipeline.tune import report
from pipeline.tune import study as module
from pipeline.tune.report import importances
from pipeline.tune.space import apply_values, read_space
from pipeline.tune.study import Search, tune, without_test
from tests.pipeline.training_world import make_world

SPACE = """
[retrieval.learning_rate]
low = 1e-3
high = 1e-1
log = true
[retrieval.history]
choices = ["mean", "attention"]
[retrieval.fusion_weights]
choices = [[], [1.0, 2.0]]
"""
SMALL = {"width": 8, "history_length": 4, "batch_size": 64, "epochs": 2}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture
def search(world, tmp_path):
    _, dataset, store = world
    config = Config(retrieval=RetrievalConfig(**SMALL))
    return Search(dataset, store, config, space_of(tmp_path, SPACE, config), tmp_path / "tune", {"ingest": "a"})


def space_of(folder, text, config=None):
    path = folder / "space.toml"
    path.write_text(text)
    return read_space(path, config or Config())


def run(search, trials, **options):
    said = []
    found = tune(search, trials, timeout=None, progress=lambda *_: None, say=said.append, **options)
    return found, said


def scripted(monkeypatch, quality, *, drawn=True):
    """Let `quality(section, epoch)` stand for training, which leaves nothing to clear; returns what every training was
    asked. Not `drawn`: no picture either."""
    asked = []
    monkeypatch.setattr(module.keras.utils, "clear_session", lambda **_: None)
    if not drawn:
        monkeypatch.setattr(report, "draw_search", lambda *_: None)

    def train(dataset, store, out, checkpoints, section, *, modalities, progress, after_epoch):
        asked.append((section, checkpoints, dataset))
        checkpoints.mkdir(exist_ok=True)
        log = []
        for epoch in range(section.epochs):
            log.append({"epoch": epoch, "valid_ndcg@20": quality(section, epoch)})
            after_epoch(log)
        best = max(log, key=lambda row: row["valid_ndcg@20"])
        return {"epochs": len(log), "best_epoch": best["epoch"], "valid_ndcg@20": best["valid_ndcg@20"]}

    monkeypatch.setattr(module, "train_retrieval", train)
    return asked


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[retrieval.dropout]\nlow = 0.0\nhigh = 1.0", r"retrieval\.dropout: Input should be less than 1, received 1"),
        ("[retrieval.fusion]\nchoices = ['gated', 'glue']", r"retrieval\.fusion: .*'bottleneck', received 'glue'"),
        ("[retrieval.droput]\nlow = 0.0\nhigh = 0.5", r"retrieval\.droput is no setting"),
        ("[retrieval.side]\nlow = 0.0\nhigh = 0.5", r"retrieval\.side is a section"),
        ("[retrieval.epochs]\nlow = 1\nhigh = 2.5", r"retrieval\.epochs: low, high and step must be whole numbers"),
        ("[retrieval.dropout]\nlow = 0.5\nhigh = 0.1", "low must be less than high, received 0.5 and 0.1"),
        ("[retrieval.dropout]\nlow = 0.0\nhigh = 0.1\nlog = true", "log = true needs low above 0"),
        ("[retrieval.dropout]\nlow = 0.0", r"must have choices, or low and high .*received \['low'\]"),
        ("[retrieval.fusion]\nlow = 0\nhigh = 1", "is no number"),
        ("[retrieval]\ndropout = 0.3", r"retrieval must have choices, or low and high .*received \['dropout'\]"),
        ("[ranking.dropout]\nlow = 0.0\nhigh = 0.5", r"only settings of \[retrieval\]"),
        ("", "nothing to search"),
        ("[retrieval", "is not TOML"),
    ],
)
def test_a_space_that_breaks_a_rule_says_which(tmp_path, text, words):
    with pytest.raises(ConfigError, match=words):
        space_of(tmp_path, text)


def test_the_spaces_that_come_along_are_valid():
    from pathlib import Path

    for path in Path("configs/spaces").glob("*.toml"):
        assert len(read_space(path, load_config("configs/demo.toml"))) > 3


def test_a_search_on_a_tiny_world_writes_a_config_a_table_and_a_picture(search, monkeypatch):
    seen, real = [], module.train_retrieval

    def spy(dataset, *arguments, **options):
        seen.append(set(dataset.events["split"]))
        return real(dataset, *arguments, **options)

    monkeypatch.setattr(module, "train_retrieval", spy)
    found, said = run(search, 2)
    assert seen == [{0, 1}, {0, 1}] and 2 in set(search.dataset.events["split"])
    assert len(said) == 2 and "[tune] trial 1" in said[1]
    table = pd.read_csv(search.folder / "trials.csv")
    assert len(table) == 2 and found["valid_ndcg@20"] == pytest.approx(table["valid_ndcg@20"].max())
    # The first trial is the config as it stands.
    assert table["retrieval.learning_rate"][0] == RetrievalConfig().learning_rate
    assert table["retrieval.history"][0] == "attention"
    best = load_config(search.folder / "best.toml")
    line = table.loc[table["valid_ndcg@20"].idxmax()]
    assert best.retrieval.learning_rate == pytest.approx(line["retrieval.learning_rate"], rel=1e-12)
    assert best == apply_values(search.config, found["settings"]) and best.retrieval.width == 8
    picture = np.asarray(Image.open(search.folder / "search.png").convert("L"))
    assert picture.min() < 100 and min(picture.shape) > 200
    assert not list(search.folder.glob(".checkpoints-*")) and not (search.folder / ".writing").exists()


def test_what_is_judged_does_not_depend_on_the_test_split(world):
    _, dataset, _ = world
    shorter = without_test(dataset)
    assert set(shorter.events["split"]) == {0, 1} and len(shorter.events) < len(dataset.events)
    np.testing.assert_array_equal(shorter.counts, dataset.counts)


def test_a_search_goes_on_where_it_was_interrupted(search, monkeypatch):
    interrupt = [None, None, KeyboardInterrupt]

    def quality(section, epoch):
        if epoch == 1 and interrupt and (error := interrupt.pop(0)):
            raise error
        return section.learning_rate

    asked = scripted(monkeypatch, quality, drawn=False)
    with pytest.raises(KeyboardInterrupt):
        run(search, 6)
    (kept,) = search.folder.glob(".checkpoints-*")
    assert kept == asked[2][1]
    found, _ = run(search, 6)
    # The interrupted trial came first, with its settings and its checkpoint, and was not counted twice.
    assert asked[3][:2] == asked[2][:2] and len(asked) == 3 + 4 and not kept.exists()
    assert found["complete"] == 6 and found["trials"] == 7
    rates = [section.learning_rate for section, _, _ in asked]
    # A resumed study does not draw the same settings again.
    assert len(set(rates)) == 6 and found["valid_ndcg@20"] == max(rates)
    again, said = run(search, 6)
    assert len(asked) == 7 and "already holds 6 trials" in said[0] and again == found


def test_a_trial_whose_process_died_is_taken_up_again(search, monkeypatch):
    """A kill -9 leaves a trial that the database believes to be running."""
    asked = scripted(monkeypatch, lambda section, epoch: section.learning_rate, drawn=False)
    run(search, 1)
    dead = module.open_study(search).ask()
    values = {setting.name: setting.suggest(dead) for setting in search.space}
    found, _ = run(search, 3)
    assert asked[1][0].learning_rate == values["retrieval.learning_rate"] and found["complete"] == 3


def test_poor_settings_are_given_up_early(search, monkeypatch):
    turns = iter(range(100))
    order = {}

    def quality(section, epoch):
        place = order.setdefault(section.learning_rate, next(turns) if epoch == 0 else 0)
        return (0.5 if place < 6 else 0.1) + 0.01 * epoch

    config = Config(retrieval=RetrievalConfig(**SMALL | {"epochs": 8}))
    longer = Search(search.dataset, search.store, config, search.space, search.folder, search.inputs)
    asked = scripted(monkeypatch, quality)
    found, said = run(longer, 8)
    table = pd.read_csv(search.folder / "trials.csv")
    assert table["state"].tolist() == ["complete"] * 6 + ["pruned"] * 2 and found["complete"] == 6
    assert table["epochs"][6] == module.WARMUP_EPOCHS + 1 and "given up after 3 epochs" in said[6]
    assert found["best_trial"] < 6 and len(asked) == 8


def test_a_trial_whose_loss_is_not_finite_ends_alone(search, monkeypatch):
    def quality(section, epoch):
        if section.learning_rate != RetrievalConfig().learning_rate:
            raise NonFiniteLossError("retrieval: the loss is nan")
        return 0.3

    asked = scripted(monkeypatch, quality)
    found, said = run(search, 3)
    assert len(asked) == 3 and found["complete"] == 1 and "failed: retrieval: the loss is nan" in said[1]
    run(search, 3)
    assert len(asked) == 3
    errors = pd.read_csv(search.folder / "trials.csv")["error"].fillna("").tolist()
    assert errors[0] == "" and "nan" in errors[1]


def test_a_trial_that_fails_or_whose_settings_do_not_go_together_is_not_tried_again(search, monkeypatch, tmp_path):
    """Of two choices that are valid each, one pair is not."""
    text = """
        [retrieval.loss.kind]
        choices = ["softmax", "sigmoid"]
        [retrieval.loss.label_smoothing]
        choices = [0, 0.1]
        [retrieval.width]
        choices = [8, 16]
    """

    def quality(section, epoch):
        if section.width == 16:
            raise MemoryError("no room for the batch")
        return 0.3

    searched = dataclasses.replace(search, space=space_of(tmp_path, text, search.config))
    scripted(monkeypatch, quality, drawn=False)
    found, said = run(searched, 12)
    table = pd.read_csv(search.folder / "trials.csv").fillna({"error": ""})
    clash = (table["retrieval.loss.kind"] == "sigmoid") & (table["retrieval.loss.label_smoothing"] > 0)
    full = ~clash & (table["retrieval.width"] == 16)
    assert clash.any() and full.any() and found["trials"] == len(said) == 12
    assert (table["state"] == np.where(clash | full, "fail", "complete")).all()
    assert table["error"][clash].str.contains("belong to the softmax").all()
    assert set(table["error"][full]) == {"MemoryError: no room for the batch"}
    assert sum("failed: MemoryError: no room for the batch" in line for line in said) == full.sum()
    again, said = run(searched, 12)
    assert again == found and "already holds 12 trials" in said[0] and not list(search.folder.glob(".checkpoints-*"))


def test_a_search_whose_every_trial_fails_says_why(search, monkeypatch):
    def quality(section, epoch):
        raise MemoryError("no room for the batch")

    asked = scripted(monkeypatch, quality)
    for _ in range(2):
        with pytest.raises(StageError, match="none of 2 trials came to an end; the last to fail: MemoryError: no room"):
            run(search, 2)
    assert len(asked) == 2 and len(pd.read_csv(search.folder / "trials.csv")) == 2


def test_other_settings_and_a_second_process_are_refused(search, monkeypatch):
    scripted(monkeypatch, lambda section, epoch: 0.1, drawn=False)
    run(search, 1)
    wider = search.config.model_copy(update={"retrieval": RetrievalConfig(**SMALL | {"width": 16})})
    for changed in ({"config": wider}, {"inputs": {"ingest": "b"}}, {"space": search.space[:1]}):
        with pytest.raises(StageError, match="other settings, another space or other data"):
            run(Search(**{**vars(search), **changed}), 2)
    # A searched setting may change: it is only where the search begins.
    begun = search.config.model_copy(update={"retrieval": RetrievalConfig(**SMALL, learning_rate=0.05)})
    assert Search(**{**vars(search), "config": begun}).key == search.key
    with module.alone(search.folder), pytest.raises(StageError, match="another process"):
        run(search, 2)


def test_the_important_setting_is_named(tmp_path):
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0))
    study.optimize(lambda t: t.suggest_float("matters", 0, 1) + 0.001 * t.suggest_float("not", 0, 1), n_trials=60)
    shares = importances(study)
    assert shares["matters"] > 5 * shares["not"] and sum(shares.values()) == pytest.approx(1)
    few = optuna.create_study()
    few.optimize(lambda t: t.suggest_float("x", 0, 1), n_trials=3)
    assert importances(few) == {}


def test_choices_travel_through_the_database_as_they_are(tmp_path):
    space = space_of(tmp_path, SPACE)
    study = optuna.create_study()
    study.enqueue_trial({setting.name: setting.known_as(value) for setting, value in zip(
        space, (0.01, "mean", [1.0, 2.0]), strict=True)})
    trial = study.ask()
    values = {setting.name: setting.suggest(trial) for setting in space}
    assert values == {"retrieval.learning_rate": 0.01, "retrieval.history": "mean", "retrieval.fusion_weights": [1.0, 2.0]}
    assert apply_values(Config(), values).retrieval.fusion_weights == (1.0, 2.0)
    assert json.loads(json.dumps(values)) == values
    assert space[0].known_as(0.5) is None and space[1].known_as("sum") is None
    # The config holds 0.0 where the space says 0; the study knows the space's own word.
    whole = space_of(tmp_path, "[retrieval.dropout]\nchoices = [0, 0.1]")[0]
    assert whole.known_as(Config(retrieval={"dropout": 0.0}).retrieval.dropout) == "0"
