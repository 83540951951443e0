"""Optimizers of one operation a weight: against loops in NumPy, against Keras's own, and with all that goes round a step."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from pipeline.settings.config import RetrievalConfig
from pipeline.stage import StageError
from pipeline.training.fused_optimizers import FusedAdagrad, FusedAdam, FusedAdamW
from pipeline.training.optimizer import make_optimizer

SHAPES = [(40, 8), (8,), ()]
STEPS = 30


@pytest.fixture
def gradients():
    rng = np.random.default_rng(5)
    return [[rng.normal(0, 3, shape).astype("float32") for shape in SHAPES] for _ in range(STEPS)]


def weights():
    rng = np.random.default_rng(6)
    return [keras.Variable(rng.normal(0, 1, shape).astype("float32")) for shape in SHAPES]


def trained(optimizer, gradients, graph=True):
    """The weights after all steps, in a graph or without one."""
    variables = weights()
    optimizer.build(variables)
    step = lambda *given: optimizer.apply(list(given), variables)  # noqa: E731
    step = tf.function(step) if graph else step
    for given in gradients:
        step(*(tf.constant(values) for values in given))
    return [ops.convert_to_numpy(variable.value) for variable in variables]


def schedule():
    return keras.optimizers.schedules.CosineDecay(0.0, STEPS, alpha=0.1, warmup_target=0.05, warmup_steps=5)


def rate_of(step):
    if step < 5:
        return 0.05 * step / 5
    return 0.05 * (0.1 + 0.9 * 0.5 * (1 + np.cos(np.pi * (step - 5) / STEPS)))


@pytest.mark.parametrize("graph", [True, False])
@pytest.mark.parametrize("decay", [0.0, 0.2])
def test_adamw_is_its_formula(gradients, graph, decay):
    optimizer = FusedAdamW(schedule(), weight_decay=decay, global_clipnorm=1.0)
    received = trained(optimizer, gradients, graph)
    expected = [ops.convert_to_numpy(variable.value).astype("float64") for variable in weights()]
    first, second = ([np.zeros(shape) for shape in SHAPES] for _ in range(2))
    for step, given in enumerate(gradients):
        norm = np.sqrt(sum((values.astype("float64") ** 2).sum() for values in given))
        for n, values in enumerate(given):
            values = values / max(norm, 1.0)
            first[n] = 0.9 * first[n] + 0.1 * values
            second[n] = 0.999 * second[n] + 0.001 * values**2
            mean, spread = first[n] / (1 - 0.9 ** (step + 1)), second[n] / (1 - 0.999 ** (step + 1))
            expected[n] = expected[n] * (1 - decay * rate_of(step))
            # Keras adds its epsilon before the correction of the spread.
            unit = 1e-7 / np.sqrt(1 - 0.999 ** (step + 1))
            expected[n] = expected[n] - rate_of(step) * mean / (np.sqrt(spread) + unit)
    for one, other in zip(received, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=2e-6)


def test_adagrad_is_its_formula(gradients):
    received = trained(FusedAdagrad(0.3, initial_accumulator_value=0.1), gradients)
    for n, (one, start) in enumerate(zip(received, weights(), strict=True)):
        weight, sum_of_squares = ops.convert_to_numpy(start.value).astype("float64"), 0.1
        for given in gradients:
            values = given[n].astype("float64")
            sum_of_squares = sum_of_squares + values**2
            weight = weight - 0.3 * values / np.sqrt(sum_of_squares)
        np.testing.assert_allclose(one, weight, atol=2e-6)


KERAS = keras.optimizers
PAIRS = {
    "adam": (FusedAdam, KERAS.Adam, {"global_clipnorm": 1.0}),
    "adamw, accumulated": (FusedAdamW, KERAS.AdamW, {"weight_decay": 0.1, "gradient_accumulation_steps": 3}),
    "adamw, averaged": (FusedAdamW, KERAS.AdamW, {"weight_decay": 0.1, "use_ema": True, "ema_momentum": 0.9}),
    "adagrad, decayed": (FusedAdagrad, KERAS.Adagrad, {"weight_decay": 0.1, "clipnorm": 1.0}),
    "amsgrad": (FusedAdam, KERAS.Adam, {"amsgrad": True}),
}


@pytest.mark.parametrize("name", PAIRS)
def test_all_that_goes_round_a_step_is_as_in_keras(gradients, name):
    # TensorFlow's kernel takes 1 - .999 of floats, Keras of doubles, 5e-5 less.
    fused, plain, options = PAIRS[name]
    one, other = fused(schedule(), **options), plain(schedule(), **options)
    received, expected = trained(one, gradients), trained(other, gradients)
    for ours, theirs in zip(received, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-4)
    assert len(one.variables) == len(other.variables)
    for ours, theirs in zip(one.variables, other.variables, strict=True):  # what is remembered, and averages
        np.testing.assert_allclose(ops.convert_to_numpy(ours.value), ops.convert_to_numpy(theirs.value), atol=1e-4)


def test_weights_that_are_excluded_do_not_decay_and_rows_may_come_as_slices():
    table, bias = keras.Variable(np.ones((5, 2), "float32")), keras.Variable(np.ones(2, "float32"))
    optimizer = FusedAdamW(0.1, weight_decay=0.5)
    optimizer.exclude_from_weight_decay([bias])
    rows = tf.IndexedSlices(tf.constant([[1.0, 1.0], [2.0, 2.0]]), tf.constant([3, 3]), tf.constant([5, 2]))
    optimizer.apply([rows, tf.zeros(2)], [table, bias])
    np.testing.assert_allclose(ops.convert_to_numpy(table.value)[:, 0], [0.95, 0.95, 0.95, 0.85, 0.95], atol=1e-6)
    np.testing.assert_allclose(ops.convert_to_numpy(bias.value), [1.0, 1.0])


def test_a_step_of_many_weights_is_few_operations():
    """What it is for: no schedule's condition a weight, and a kernel where Keras has a dozen operations."""

    def operations(optimizer):
        variables = [keras.Variable(np.ones(3, "float32")) for _ in range(20)]
        optimizer.build(variables)
        step = tf.function(lambda given: optimizer.apply([given] * 20, variables))
        graph = step.get_concrete_function(tf.ones(3)).graph
        return len(graph.get_operations()), sum("cond" in operation.name for operation in graph.get_operations())

    few, conditions = operations(FusedAdamW(schedule(), weight_decay=0.1))
    many, of_keras = operations(keras.optimizers.AdamW(schedule(), weight_decay=0.1))
    assert few < many / 3 and 0 < conditions < of_keras / 10


def test_weights_that_would_never_move_are_an_error():
    make_optimizer(RetrievalConfig(accumulation=STEPS), STEPS)
    with pytest.raises(StageError, match="the weights move once in 31 batches, and there are 30 in all"):
        make_optimizer(RetrievalConfig(accumulation=STEPS + 1), STEPS)


def test_the_setting_names_the_optimizer(gradients):
    config = RetrievalConfig(optimizer="adagrad", learning_rate=0.2, warmup_steps=0, weight_decay=0.0)
    plain = keras.optimizers.Adagrad(
        keras.optimizers.schedules.CosineDecay(0.0, STEPS, alpha=config.final_rate, warmup_target=0.2, warmup_steps=0),
        global_clipnorm=1.0,
    )
    received, expected = trained(make_optimizer(config, STEPS), gradients), trained(plain, gradients)
    for ours, theirs in zip(received, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-4)
