"""The content map: a linear world is recovered, absent modalities count for nothing, and batches equal singles."""

import numpy as np
import pytest

from towers.content_map import RIDGES, fit_content_map, fit_ridge, solve_ridge


def linear_world(rows: int = 400):
    rng = np.random.default_rng(0)
    features = {"text": rng.normal(size=(rows, 6)) + 3.0, "video": rng.normal(size=(rows, 2 * 4))}
    present = rng.random((rows, 2)) < 0.8
    text = features["text"] @ rng.normal(size=(6, 3))
    video = features["video"].reshape(rows, 2, 4).mean(axis=1) @ rng.normal(size=(4, 3))
    targets = np.where(present[:, :1], text - text.mean(axis=0), 0) + np.where(present[:, 1:], video + 1.0, 0)
    return features, present, targets


def test_a_linear_world_is_recovered_on_items_that_were_not_seen():
    features, present, targets = linear_world()
    layer = fit_content_map(features, present, targets, np.arange(300), frames={"video": 2})
    found = np.asarray(layer({name: table[300:] for name, table in features.items()}, present[300:]))
    error = ((found - targets[300:]) ** 2).sum() / (targets[300:] ** 2).sum()
    assert error < 0.05


class Table:
    """A table on disk: rows of it can be read, and it is never held whole."""

    def __init__(self, values):
        self.values, self.shape, self.read = values, values.shape, 0

    def __getitem__(self, rows):
        self.read += len(rows)
        return self.values[rows]


def test_of_very_many_items_a_sample_is_read_and_says_as_much():
    rng = np.random.default_rng(0)
    values, present = rng.normal(size=(70_000, 3)).astype(np.float16), np.ones((70_000, 1), bool)
    targets = values.astype(np.float64) @ rng.normal(size=(3, 2))
    learned, table = np.arange(5_000, 70_000), Table(values)
    layer = fit_content_map({"text": table}, present, targets, learned)
    assert table.read == 50_000
    np.testing.assert_allclose(np.asarray(layer({"text": values[:5_000]}, present[:5_000])), targets[:5_000], atol=0.05)


def test_what_an_absent_modality_holds_changes_nothing_and_nothing_present_is_zero():
    features, present, targets = linear_world(60)
    layer = fit_content_map(features, present, targets, np.arange(60), frames={"video": 2})
    hidden = np.array([[True, False]])
    first = {name: table[:1] for name, table in features.items()}
    other = {**first, "video": first["video"] + 100.0}
    np.testing.assert_array_equal(np.asarray(layer(first, hidden)), np.asarray(layer(other, hidden)))
    assert not np.asarray(layer(first, np.zeros((1, 2), bool))).any()


def test_a_batch_equals_its_items_one_by_one():
    features, present, targets = linear_world(20)
    layer = fit_content_map(features, present, targets, np.arange(20), frames={"video": 2})
    whole = np.asarray(layer(features, present))
    for row in range(20):
        single = layer({name: table[row : row + 1] for name, table in features.items()}, present[row : row + 1])
        np.testing.assert_allclose(np.asarray(single)[0], whole[row], atol=1e-5)


@pytest.mark.parametrize("shape", [(5, 20), (20, 5)])
def test_both_ways_to_solve_a_ridge_regression_agree_with_the_formula(shape):
    rng = np.random.default_rng(1)
    inputs, outputs = rng.normal(size=shape), rng.normal(size=(shape[0], 2))
    expected = np.linalg.inv(inputs.T @ inputs + 0.7 * np.eye(shape[1])) @ inputs.T @ outputs
    np.testing.assert_allclose(solve_ridge(inputs, outputs, 0.7), expected, atol=1e-8)


@pytest.mark.parametrize("shape", [(40, 60), (60, 20)])
def test_the_ridge_is_the_one_that_tells_rows_which_were_held_out(shape):
    rng = np.random.default_rng(2)
    inputs = rng.normal(size=shape)
    outputs = inputs @ rng.normal(size=(shape[1], 3)) + 4.0 * rng.normal(size=(shape[0], 3))
    held = rng.random(shape[0]) < 0.3
    errors = [((inputs[held] @ solve_ridge(inputs[~held], outputs[~held], ridge) - outputs[held]) ** 2).sum()
              for ridge in RIDGES]  # fmt: skip
    expected = solve_ridge(inputs, outputs, RIDGES[int(np.argmin(errors))])
    np.testing.assert_allclose(fit_ridge(inputs, outputs, held), expected, atol=1e-8)
    nobody = fit_ridge(inputs, outputs, np.zeros(shape[0], bool))
    np.testing.assert_allclose(nobody, solve_ridge(inputs, outputs, 1.0), atol=1e-8)
