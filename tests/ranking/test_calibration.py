"""Calibration: monotone, and it mends what was bent on purpose."""

import json

import numpy as np
import pytest

from pipeline.metrics.probability_metrics import expected_calibration_error
from ranking.calibration import apply_calibration, fit_calibration

KINDS = ["platt", "isotonic"]


def bent(seed: int, size: int = 20_000):
    """Logits three times too sure and shifted, with labels drawn from the true ones."""
    rng = np.random.default_rng(seed)
    true = rng.normal(-2, 1, size)
    return (3 * true + 4).astype(np.float32), (rng.random(size) < 1 / (1 + np.exp(-true))).astype(float)


@pytest.mark.parametrize("kind", KINDS)
def test_mends_a_planted_miscalibration(kind):
    calibration = fit_calibration(kind, *bent(0))
    logits, labels = bent(1)
    before = expected_calibration_error(labels, 1 / (1 + np.exp(-logits)))
    after = expected_calibration_error(labels, np.asarray(apply_calibration(logits, calibration)))
    assert before > 0.1
    assert after < 0.015


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("world", ["bent", "upside down", "all ones", "all zeros", "one example", "ties"])
def test_is_monotone_and_a_probability(kind, world):
    logits, labels = bent(2, 500)
    if world == "upside down":
        logits = -logits
    elif world == "ties":
        logits = np.round(logits)
    elif world.startswith("all"):
        labels = np.full_like(labels, world == "all ones")
    elif world == "one example":
        logits, labels = logits[:1], labels[:1]
    calibration = fit_calibration(kind, logits, labels)
    asked = np.sort(np.concatenate([np.linspace(-40, 40, 2001), logits])).astype(np.float32)
    probability = np.asarray(apply_calibration(asked, calibration))
    assert np.isfinite(probability).all()
    assert (np.diff(probability) >= -1e-6).all()
    assert (probability >= 0).all()
    assert (probability <= 1).all()


def test_isotonic_tells_candidates_beyond_its_outermost_pools_apart():
    logits, labels = bent(7, 5000)
    calibration = fit_calibration("isotonic", logits, labels)
    for end, rate in ((np.sort(logits)[-50:], 1.0), (np.sort(logits)[:50], 0.0)):
        beyond = np.float32(end.mean()) + np.arange(0.5, 15, 0.5).astype(np.float32) * (1 if rate else -1)
        probability = np.asarray(apply_calibration(beyond, calibration))
        assert (np.diff(probability) * (1 if rate else -1) > 0).all()
        pool = np.asarray(apply_calibration(np.float32([end.mean()]), calibration))[0]
        assert np.abs(probability - pool).max() <= 0.01 * abs(rate - pool) + 1e-6


def test_platt_recovers_the_bend():
    calibration = fit_calibration("platt", *bent(3, 200_000))
    assert calibration["slope"] == pytest.approx(1 / 3, abs=0.01)
    assert calibration["intercept"] == pytest.approx(-4 / 3, abs=0.03)


@pytest.mark.parametrize(("slope", "centre"), [(-0.3, -4.0), (0.0, -10.0), (-1.0, 4.0)])
def test_a_flat_or_reversed_head_still_has_the_mean_right(slope, centre):
    rng = np.random.default_rng(6)
    logits = rng.normal(centre, 1, 5000)
    labels = (rng.random(5000) < 1 / (1 + np.exp(2 - slope * (logits - centre)))).astype(float)
    calibration = fit_calibration("platt", logits, labels)
    assert 0 < calibration["slope"] < 0.1
    # Platt's smoothed labels lie at most 1 / (P + 2) from the labels.
    assert np.asarray(apply_calibration(logits, calibration)).mean() == pytest.approx(labels.mean(), abs=2e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_is_json(kind):
    calibration = fit_calibration(kind, *bent(4, 300))
    again = json.loads(json.dumps(calibration))
    logits = bent(5, 50)[0]
    np.testing.assert_array_equal(apply_calibration(logits, calibration), apply_calibration(logits, again))


def test_wrong_arguments_say_so():
    with pytest.raises(ValueError, match="received 'beta'"):
        fit_calibration("beta", [0.0], [1.0])
    with pytest.raises(ValueError, match="keep some users"):
        fit_calibration("platt", [], [])
