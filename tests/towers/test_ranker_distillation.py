"""Distillation from a ranker: against a loop, deaf to padding, and it hands the ranker's order over."""

import math

import numpy as np
import pytest
from keras import ops

from tests.towers.descent import descend
from tests.towers.gradients import value_and_gradients
from towers.ranker_distillation import RankedLists, list_distillation_loss


def tensor(values):
    return ops.convert_to_tensor(np.asarray(values, np.float32))


def loss_of(student, teacher, mask, weights, temperature=1.0):
    return list_distillation_loss(
        student, tensor(teacher), mask=ops.convert_to_tensor(mask), weights=tensor(weights), temperature=temperature
    )


def loop(student, teacher, mask, weights, temperature=1.0):
    total = count = 0.0
    for line in range(len(mask)):
        places = [place for place in range(mask.shape[1]) if mask[line, place]]
        if len(places) < 2:
            continue
        said = sum(math.exp(student[line, place]) for place in places)
        told = sum(math.exp(teacher[line, place] / temperature) for place in places)
        for place in places:
            p, q = math.exp(teacher[line, place] / temperature) / told, math.exp(student[line, place]) / said
            total += weights[line] * p * math.log(p / q)
        count += weights[line]
    return total / count


@pytest.fixture
def lists():
    """Student, teacher, mask and weights; one list is empty and one has a single entry."""
    rng = np.random.default_rng(3)
    mask = rng.random((6, 7)) < 0.7
    mask[0], mask[3] = False, np.arange(7) == 2
    return *rng.normal(size=(2, 6, 7)).astype(np.float32), mask, rng.random(6)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_equals_the_loop(lists, temperature):
    assert float(loss_of(tensor(lists[0]), *lists[1:], temperature)) == pytest.approx(
        loop(*lists, temperature), rel=1e-5
    )


@pytest.mark.parametrize("filling", [0.0, 50.0, np.inf, np.nan, np.finfo(np.float32).min])
def test_padding_and_constants_change_nothing(lists, filling):
    student, teacher, mask, weights = lists
    student, teacher = (np.where(mask, scores, filling).astype(np.float32) for scores in (student + 5, teacher - 2))
    value, gradients = value_and_gradients(lambda scores: loss_of(scores, teacher, mask, weights), [student])
    assert value == pytest.approx(loop(*lists), rel=1e-4)
    assert np.isfinite(gradients[0]).all()
    assert not gradients[0][~mask].any()
    assert float(loss_of(tensor(student), teacher, np.zeros_like(mask), weights)) == 0.0


def test_no_gradient_reaches_the_teacher(lists):
    student, teacher, mask, weights = lists

    def total(one, other):
        return list_distillation_loss(
            one, other, mask=ops.convert_to_tensor(mask), weights=tensor(weights), temperature=1.0
        ) + ops.sum(other)

    _, gradients = value_and_gradients(total, [student, teacher])
    assert gradients[0].any()
    assert (gradients[1] == 1).all()


def test_the_student_ends_in_the_teachers_order(lists):
    student, teacher, mask, _ = lists
    learned = descend(lambda scores: loss_of(scores, teacher, mask, np.ones(6)), student, steps=300, rate=5.0)
    for line in np.flatnonzero(mask.sum(axis=1) > 1):
        there = mask[line]
        np.testing.assert_array_equal(np.argsort(learned[line][there]), np.argsort(teacher[line][there]))


def test_lists_of_different_shapes_are_refused():
    with pytest.raises(ValueError, match="received"):
        RankedLists(np.zeros((2, 3), np.int32), np.zeros((2, 4), np.float32))
