"""Calibration by domain: each domain's own bend is mended, and a domain with few labels is not trusted with one."""

import json

import numpy as np
import pytest

from pipeline.metrics.probability_metrics import expected_calibration_error
from ranking.calibration import apply_calibration, best_kind, fit_calibration
from ranking.domain_calibration import fit_domain_calibration

KINDS = ["platt", "isotonic", "best"]


def two_worlds(seed: int, size: int = 20_000, share: float = 0.5):
    """Logits that are too high by 1.5 in domain 1 and too low by 1.5 in domain 2 (`share` of the entries)."""
    rng = np.random.default_rng(seed)
    true, domain = rng.normal(-1, 1, size), 1 + (rng.random(size) < share)
    labels = (rng.random(size) < 1 / (1 + np.exp(-true))).astype(float)
    return (true + np.where(domain == 1, 1.5, -1.5)).astype(np.float32), labels, domain, rng.integers(0, 500, size)


@pytest.mark.parametrize("kind", KINDS)
def test_every_domain_is_calibrated_on_fresh_data(kind):
    logits, labels, domain, users = two_worlds(0)
    by_domain = fit_domain_calibration(kind, logits, labels, domain, users)
    plain = fit_calibration(kind, logits, labels, users)
    logits, labels, domain, _ = two_worlds(1)
    for calibration, low, high in ((plain, 0.05, 1.0), (by_domain, 0.0, 0.02)):
        probability = np.asarray(apply_calibration(logits, calibration, domain))
        for code in (1, 2):
            assert low <= expected_calibration_error(labels[domain == code], probability[domain == code]) < high


@pytest.mark.parametrize("kind", KINDS)
def test_few_labels_fall_back_to_the_heads_own(kind):
    logits, labels, domain, users = two_worlds(2, share=0.01)
    fitted = fit_domain_calibration(kind, logits, labels, domain, users)
    assert set(fitted["domains"]) == {"1"}
    plain = fit_calibration(kind, logits, labels, users)
    asked = np.linspace(-4, 4, 40).astype(np.float32)
    for unheard in (0, 2, 900):
        answer = apply_calibration(asked, fitted, np.full(40, unheard))
        np.testing.assert_allclose(answer, apply_calibration(asked, plain), rtol=1e-6)
    assert fit_domain_calibration(kind, logits, labels, domain, users, minimum_labels=10**6) == plain


@pytest.mark.parametrize("kind", KINDS[:2])
def test_a_batch_is_its_candidates_one_by_one(kind):
    logits, labels, domain, _ = two_worlds(3, 5000)
    fitted = json.loads(json.dumps(fit_domain_calibration(kind, logits, labels, domain)))
    whole = np.asarray(apply_calibration(logits[:60].reshape(5, 12), fitted, domain[:60].reshape(5, 12)))
    for place in range(60):
        part = fitted["domains"][str(domain[place])]
        one = np.asarray(apply_calibration(logits[place : place + 1], part))
        assert whole.ravel()[place] == pytest.approx(float(one[0]), abs=1e-6)


def test_the_kind_is_chosen_by_the_log_loss_of_other_users():
    logits, labels, _, users = two_worlds(4, 30_000, share=0.0)
    assert best_kind(logits, labels, users) == "platt"
    steps = (np.random.default_rng(5).random(30_000) < np.where(logits > 0, 0.9, 0.1)).astype(float)
    assert best_kind(logits, steps, users) == "isotonic"


def test_wrong_arguments_say_so():
    fitted = fit_domain_calibration("platt", *two_worlds(6)[:3])
    with pytest.raises(ValueError, match="needs the candidates' codes"):
        apply_calibration(np.zeros(2, np.float32), fitted)
    with pytest.raises(ValueError, match="one code"):
        fit_domain_calibration("platt", [0.0, 1.0], [0.0, 1.0], [1])
