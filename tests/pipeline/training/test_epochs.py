"""The loop of epochs on a model of one weight, against NumPy loops: averages, accumulation, positions, errors."""

import dataclasses
import json

import keras
import numpy as np
import pytest
from keras import ops

from pipeline.training.checkpoint import Checkpoint, training_variables
from pipeline.training.epoch_steps import LoopSettings, NonFiniteLossError
from pipeline.training.epochs import train_epochs
from pipeline.training.feed import as_dataset, made_ahead

RATE, STEPS = 0.1, 5
SETTINGS = LoopSettings(epochs=2, patience=5, seed=0, metric="quality")


class Slope(keras.Model):
    """Loss `mean (w x - y)^2`."""

    def __init__(self):
        super().__init__()
        self.slope = self.add_weight(shape=(), initializer="zeros", name="slope")
        self.built = True

    def call(self, batch, training=False):
        return self.slope * batch["x"]

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return ops.mean(ops.square(y_pred - x["y"]))

    def reseed(self, seed):
        return None


class Points:
    """Five batches an epoch, other ones in each."""

    def __init__(self, spoilt=()):
        self.spoilt, self.asked = spoilt, []

    def __len__(self):
        return STEPS

    def epoch(self, number, start=0):
        self.asked.append((number, start))
        for step in range(start, STEPS):
            rng = np.random.default_rng([number, step])
            x = rng.normal(size=4).astype("float32")
            y = np.full(4, np.nan, "float32") if (number, step) in self.spoilt else (3 * x).astype("float32")
            yield {"x": x, "y": y}


def gradients_of(epochs):
    """The batches of the epochs as functions of the weight."""
    for epoch in range(epochs):
        for batch in Points().epoch(epoch):
            yield lambda w, b=batch: float(np.mean(2 * (w * b["x"] - b["y"]) * b["x"]))


def train(folder, points=None, settings=SETTINGS, validate=None, progress=lambda *_: None, **options):
    task = Slope()
    task.compile(optimizer=keras.optimizers.SGD(RATE, **options), jit_compile=True)
    task.optimizer.build(task.trainable_variables)
    seen = []

    def judge():
        seen.append(float(task.slope.value))
        return seen[-1]  # the true slope is 3 and training starts at 0: the larger the better

    log = train_epochs(
        task,
        points or Points(),
        validate or judge,
        Checkpoint(folder, training_variables(task)),
        settings,
        progress,
    )
    return task, seen, log


def test_the_average_of_weights_is_judged_and_kept_while_training_goes_on_from_the_weights(tmp_path):
    task, seen, log = train(tmp_path, use_ema=True, ema_momentum=0.8)
    weight, average, expected = 0.0, None, []
    for number, gradient in enumerate(gradients_of(2), start=1):
        weight -= RATE * gradient(weight)
        average = weight if average is None else 0.8 * average + 0.2 * weight
        if number % STEPS == 0:
            expected.append(average)
    assert seen == pytest.approx(expected, abs=1e-5) and [row["quality"] for row in log] == seen
    assert float(task.slope.value) == pytest.approx(expected[-1], abs=1e-5)
    assert abs(expected[-1] - weight) > 0.01


def test_accumulated_gradients_move_the_weights_once_in_so_many_steps(tmp_path):
    seen = train(tmp_path, gradient_accumulation_steps=2)[1]
    weight, held, expected = 0.0, [], []
    for number, gradient in enumerate(gradients_of(2), start=1):
        held.append(gradient(weight))
        if len(held) == 2:
            weight, held = weight - RATE * np.mean(held), []
        if number % STEPS == 0:
            expected.append(weight)
    # An epoch is five steps, so one gradient is held over from the first epoch to the second.
    assert seen == pytest.approx(expected, abs=1e-5)


def test_the_best_epoch_is_kept_and_patience_ends_the_training(tmp_path):
    qualities = iter([0.1, 0.5, 0.4, 0.3, 0.9])
    settings = LoopSettings(epochs=5, patience=2, seed=0, metric="quality")
    task, _, log = train(tmp_path, settings=settings, validate=lambda: next(qualities))
    assert [row["quality"] for row in log] == [0.1, 0.5, 0.4, 0.3]
    weight = 0.0
    for gradient in gradients_of(2):
        weight -= RATE * gradient(weight)
    assert float(task.slope.value) == pytest.approx(weight, abs=1e-5)


def test_a_loss_that_is_not_finite_is_never_saved(tmp_path):
    settings = LoopSettings(epochs=2, patience=5, seed=0, checkpoint_steps=2, metric="quality", advice="Try less")
    with pytest.raises(NonFiniteLossError, match=r"epoch 1, by step 4. Try less"):
        train(tmp_path, Points(spoilt=[(1, 2)]), settings)
    (kept,) = tmp_path.glob("save-*")
    state = json.loads((kept / "state.json").read_text())
    assert (state["epoch"], state["step"]) == (1, 2)
    with np.load(kept / "variables.npz") as arrays:
        assert all(np.isfinite(arrays[name]).all() for name in arrays.files)
    # The batches are read on from there, not from the start of the epoch.
    points = Points()
    _, _, log = train(tmp_path, points, settings)
    assert points.asked == [(1, 2)] and [row["epoch"] for row in log] == [0, 1]


@pytest.mark.parametrize("steps_a_call", [2, 4, 8])
def test_several_steps_in_a_call_are_the_same_steps(tmp_path, steps_a_call, monkeypatch):
    """Five steps an epoch in calls of two, four and eight: the last call is short, or the only one."""
    one, _, log = train(tmp_path / "one")
    told = []
    settings = dataclasses.replace(SETTINGS, steps_a_call=steps_a_call)
    few, _, rows = train(tmp_path / "few", settings=settings)
    assert few.steps_per_execution == 1  # ten steps in all: no loop is traced for them
    assert [row["loss"] for row in log] == [row["loss"] for row in rows]
    monkeypatch.setattr("pipeline.training.epoch_steps.FEWEST_STEPS", 2 * STEPS)
    other, _, rows = train(tmp_path / "other", settings=settings, progress=lambda *said: told.append(said))
    assert other.steps_per_execution == steps_a_call
    assert float(one.slope.value) == float(other.slope.value)
    assert [row["loss"] for row in log] == [row["loss"] for row in rows]
    assert told[-1] == ("training", 2 * STEPS, 2 * STEPS)
    # Where it is saved every so many steps, calls are short enough to end there.
    saved, save = [], Checkpoint.save

    def noted(self, state, extra=None):
        saved.append((state["epoch"], state["step"]))
        save(self, state, extra)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Checkpoint, "save", noted)
        third = train(tmp_path / "third", settings=dataclasses.replace(settings, checkpoint_steps=2))[0]
    assert saved == [(0, 2), (0, 4), (1, 0), (1, 2), (1, 4), (2, 0)]
    assert float(third.slope.value) == float(one.slope.value)


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    one, other = keras.Variable(np.zeros(3)), keras.Variable(np.zeros(4))
    Checkpoint(tmp_path, [one]).save({"epoch": 0})
    with pytest.raises(ValueError, match=r"has shape \(4,\), the file holds \(3,\)"):
        Checkpoint(tmp_path, [other]).restore()
    with pytest.raises(ValueError, match="the model has 2 variables, the file holds 1"):
        Checkpoint(tmp_path, [one, other]).restore()


def test_the_best_weights_are_not_written_again_where_they_did_not_change(tmp_path):
    checkpoint = Checkpoint(tmp_path, [keras.Variable(1.0)])
    checkpoint.save({"epoch": 0}, {"0": np.arange(3)})
    file = next(tmp_path.glob("save-*/extra.npz")).stat().st_ino
    checkpoint.save({"epoch": 1})
    assert next(tmp_path.glob("save-*/extra.npz")).stat().st_ino == file
    state, extra = checkpoint.restore()
    assert state == {"epoch": 1} and extra["0"].tolist() == [0, 1, 2]
    assert len(list(tmp_path.iterdir())) == 1


def test_feeds_give_the_batches_in_order_and_raise_what_making_them_raises():
    points = Points()
    expected = [batch["x"] for batch in points.epoch(0, 2)]
    for feed in (as_dataset(points.epoch(0, 2), 3), ((batch,) for batch in made_ahead(points.epoch(0, 2)))):
        np.testing.assert_array_equal([np.asarray(batch["x"]) for (batch,) in feed], expected)

    def broken():
        yield {"x": np.zeros(1)}
        raise OSError("the disk is gone")

    batches = made_ahead(broken())
    next(batches)
    with pytest.raises(OSError, match="the disk is gone"):
        next(batches)
