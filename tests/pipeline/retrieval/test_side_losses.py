"""Terms beside the main loss in a whole training: logged apart, taught by labels and teachers, and off by default."""

import json
import shutil

import numpy as np
import pytest

from pipeline.retrieval.side_losses import load_teachers, make_side_losses
from pipeline.retrieval.train_retrieval import task_tables, train_retrieval
from pipeline.settings.config import ConfigError, load_config
from pipeline.training.record import read_records, write_records
from tests.pipeline.training_world import make_world
from towers.loss_options import LossOptions
from towers.side_weights import TERMS
from towers.task import RetrievalTask
from towers.two_tower import load_two_tower

SMALL = [
    "retrieval.width=8",
    "retrieval.history_length=4",
    "retrieval.batch_size=64",
    "retrieval.epochs=2",
]
LONGER = ["retrieval.epochs=8", "retrieval.patience=8", "retrieval.learning_rate=0.01"]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("side"))


def train(world, folder, *overrides):
    _, dataset, store = world
    config = load_config(overrides=[*SMALL, *overrides]).retrieval
    out = folder / "out"
    out.mkdir(parents=True)
    train_retrieval(
        dataset, store, out, folder / "checkpoints", config, modalities=store.modalities, progress=lambda *_: None
    )
    return out, json.loads((out / "history.json").read_text())


@pytest.fixture(scope="module")
def plain(world, tmp_path_factory):
    return train(world, tmp_path_factory.mktemp("plain"), *LONGER)


def test_terms_are_logged_apart_and_leave_the_towers_files_as_they_are(world, plain, tmp_path):
    terms = ["reconstruction", "per_modality", "adversarial", "l2", "distillation"]
    overrides = [f"retrieval.side.{name}=0.1" for name in terms]
    out, log = train(world, tmp_path, *LONGER, *overrides, f'retrieval.side.teachers=["{plain[0]}"]')
    assert len(log) == 8
    for row in log:
        assert {name for name in row if name.startswith("side/")} == {f"side/{name}" for name in terms}
        assert all(np.isfinite(row[f"side/{name}"]) and row[f"side/{name}"] > 0 for name in terms)
    assert log[-1]["side/reconstruction"] < log[0]["side/reconstruction"]
    assert not any(name.startswith("side/") for row in plain[1] for name in row)
    shapes = [[tuple(weight.shape) for weight in load_two_tower(folder).weights] for folder in (out, plain[0])]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize("learned", [True, False])
def test_a_temperature_that_is_not_learned_stays_beside_a_term_too(world, tmp_path, learned):
    # Both follow the term alone where the main loss has no temperature.
    settings = ["kind=elsa", f"learn_temperature={str(learned).lower()}"]
    overrides = ["retrieval.side.per_modality=0.5", *[f"retrieval.loss.{setting}" for setting in settings]]
    out, _ = train(world, tmp_path, *overrides)
    assert (float(load_two_tower(out).scale) == pytest.approx(10.0, rel=1e-6)) == (not learned)


@pytest.mark.parametrize(
    ("learned", "kind", "trained"), [(True, "softmax", True), (False, "softmax", False), (True, "elsa", False)]
)
def test_what_no_loss_asks_for_does_not_decay(world, plain, learned, kind, trained):
    """On JAX its gradient is 0 and not missing, and weight decay would move it."""
    _, dataset, store = world
    two_tower = load_two_tower(plain[0])
    loss = LossOptions(kind=kind, learn_temperature=learned)
    task = RetrievalTask(two_tower, **task_tables(dataset, store, two_tower), loss=loss, batch_size=8)
    assert any(variable is two_tower.log_scale for variable in task.trainable_variables) == trained


def test_a_student_comes_nearer_to_its_teacher(world, plain, tmp_path):
    settings = ["retrieval.seed=11", *LONGER]
    taught = ["retrieval.side.distillation=20.0", f'retrieval.side.teachers=["{plain[0]}"]']
    distilled, log = train(world, tmp_path, *settings, *taught)
    alone, _ = train(world, tmp_path / "alone", *settings)
    dataset = world[1]
    teacher = load_teachers(dataset, (str(plain[0]),))
    target = (teacher.users @ teacher.items.T)[1:, 1:]

    def agreement(folder):
        student = load_teachers(dataset, (str(folder),))
        return np.corrcoef(target.ravel(), (student.users @ student.items.T)[1:, 1:].ravel())[0, 1]

    assert log[-1]["side/distillation"] < log[0]["side/distillation"]
    assert agreement(distilled) > agreement(alone)


def test_a_teacher_that_knows_what_the_student_is_judged_by_is_refused(world, plain, tmp_path):
    folder, first = tmp_path / "teacher", int(world[1].events.loc[world[1].events["split"] > 0, "timestamp"].min())
    shutil.copytree(plain[0], folder)
    (record,) = read_records(folder)
    write_records(folder, [{**record, "digest": "of other pairs", "last_timestamp": first - 1}])
    load_teachers(world[1], (str(folder),))  # of an earlier log
    write_records(folder, [{**record, "digest": "of other pairs", "last_timestamp": first}])
    with pytest.raises(ValueError, match=r"retrieval\.side\.teachers: must have learned from the train split"):
        load_teachers(world[1], (str(folder),))
    write_records(folder, [])
    with pytest.raises(ValueError, match="does not say what it learned from"):
        load_teachers(world[1], (str(folder),))


def test_off_makes_nothing_and_labels_reach_the_layer(world, plain):
    _, dataset, _ = world
    two_tower = load_two_tower(plain[0])
    assert make_side_losses(dataset, two_tower, load_config().retrieval.side) is None
    side = load_config(overrides=["retrieval.side.category=0.1", "retrieval.side.l2=0.2"]).retrieval.side
    layer = make_side_losses(dataset, two_tower, side)
    assert layer is not None and layer.terms == {"l2": 0.2}  # this world has no categories
    dataset.items["categories"] = np.where(np.arange(21) % 2, "odd", "even")
    layer = make_side_losses(dataset, two_tower, side)
    assert layer is not None and layer.terms == {"category": 0.1, "l2": 0.2}
    assert tuple(layer.tables["categories"].shape) == (21, 8)


def test_the_config_names_every_term_and_asks_for_a_teacher():
    assert set(TERMS) <= set(type(load_config().retrieval.side).model_fields)
    with pytest.raises(ConfigError, match="teachers: distillation needs"):
        load_config(overrides=["retrieval.side.distillation=1.0"])
    with pytest.raises(ConfigError, match=r"retrieval\.side\.alignment"):
        load_config(overrides=["retrieval.side.alignment=-1.0"])
    with pytest.raises(ConfigError, match=r"retrieval\.fusion"):
        load_config(overrides=["retrieval.fusion=average"])


@pytest.mark.parametrize(
    "overrides",
    [
        ["fusion=bottleneck", "history=transformer", "attention_heads=4"],
        ["fusion=weighted", "fusion_weights=[1.0]", "item_hidden=false", "history=sum"],
        ["fusion=concat", "history=mean", "user_id=false", "feature_noise=0.2", "feature_dropout=0.1"],
        ["fusion=attention"],
    ],
    ids=lambda overrides: overrides[0],
)
def test_every_form_trains_and_loads_as_it_was(world, tmp_path, overrides):
    out, log = train(world, tmp_path, *LONGER, *[f"retrieval.{setting}" for setting in overrides])
    assert log[-1]["loss"] < log[0]["loss"] - 0.1 and np.isfinite(log[-1]["valid_ndcg@20"])
    config = load_two_tower(out).config
    for setting in overrides:
        name, _, value = setting.partition("=")
        expected = {"fusion_weights": (1.0,)}.get(name, value)
        assert str(getattr(config, name)).lower() == str(expected).lower()
