"""Heads: where they start, what a domain adds, and purchases as clicks times purchases given clicks."""

import numpy as np
import pytest

from ranking.config import RankingConfig
from ranking.heads import PredictionHeads, joint_logit

HEADS = ("click", "purchase", "skip")


def parts(seed=0):
    rng = np.random.default_rng(seed)
    draw = lambda *shape: rng.normal(size=shape).astype(np.float32)  # noqa: E731
    return draw(2, 4, 3), {head: draw(2, 4, 2) for head in HEADS}, draw(2, 4), rng.integers(0, 4, (2, 4))


def made(domains=4, shake=False, **options):
    layer = PredictionHeads(6, HEADS, RankingConfig(**options), domains=domains)
    rng = np.random.default_rng(5)
    for weight in layer.trainable_variables if shake else []:
        weight.assign(rng.normal(size=weight.shape))
    return layer


def test_every_domain_starts_from_the_retrieval_order():
    straight, experts, score, domain = parts()
    layer = made()
    layer.start_from({"click": 0.2, "purchase": 0.02, "skip": 0.5})
    logits = layer(straight, experts, score, domain)
    np.testing.assert_allclose(logits["click"], score + np.log(0.2 / 0.8), atol=1e-5)
    np.testing.assert_allclose(logits["purchase"], score + np.log(0.02 / 0.98), atol=1e-5)
    np.testing.assert_allclose(logits["skip"], 0 * score, atol=1e-5)


def test_logits_equal_the_loop():
    straight, experts, score, domain = parts()
    layer = made(shake=True)
    logits = layer(straight, experts, score, domain)
    for head in HEADS:
        kernel, shift, offset = (np.asarray(table[head]) for table in (layer.kernels, layer.shifts, layer.offsets))
        for place in np.ndindex(2, 4):
            last = np.concatenate([straight[place], experts[head][place], [score[place]]])
            expected = last @ kernel[:, 0] + float(np.asarray(layer.biases[head])[0])
            code = domain[place]
            if code:
                expected += last @ shift[:, code] + offset[code]
            assert float(logits[head][place]) == pytest.approx(float(expected), rel=1e-4, abs=1e-4)


def test_a_purchase_is_a_click_and_a_purchase_given_a_click():
    straight, experts, score, _ = parts()
    layer = made(0, shake=True, purchase_given_click=True)
    plain = made(0, shake=True)
    joint, apart = layer(straight, experts, score), plain(straight, experts, score)
    sigmoid = lambda values: 1 / (1 + np.exp(-np.asarray(values, np.float64)))  # noqa: E731
    np.testing.assert_allclose(sigmoid(joint["click"]), sigmoid(apart["click"]), rtol=1e-5)
    expected = sigmoid(apart["click"]) * sigmoid(apart["purchase"])
    np.testing.assert_allclose(sigmoid(joint["purchase"]), expected, rtol=1e-4)
    assert (np.asarray(joint["purchase"]) < np.asarray(joint["click"])).all()


def test_purchases_given_clicks_start_at_their_rate():
    straight, experts, score, _ = parts()
    layer = made(0, purchase_given_click=True)
    layer.start_from({"click": 0.2, "purchase": 0.05})
    logits = layer(straight, experts, np.zeros_like(score))
    np.testing.assert_allclose(1 / (1 + np.exp(-np.asarray(logits["purchase"]))), 0.05, rtol=1e-5)


def test_the_joint_logit_does_not_overflow():
    first, second = np.array([90.0, -90.0, 90.0, -90.0], "float32"), np.array([90.0, 90.0, -90.0, -90.0], "float32")
    np.testing.assert_allclose(joint_logit(first, second), [90 - np.log(2), -90, -90, -180], rtol=1e-6)
