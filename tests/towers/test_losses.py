"""The retrieval loss against a loop in NumPy, and by its effects."""

import numpy as np
import pytest
from keras import ops

from towers.losses import in_batch_logits, in_batch_softmax_loss


def unit(rng, *shape):
    vectors = rng.normal(size=shape).astype("float32")
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


@pytest.fixture
def batch():
    rng = np.random.default_rng(0)
    return {
        "queries": unit(rng, 6, 4),
        "candidates": unit(rng, 6, 4),
        "candidate_rows": np.array([3, 5, 3, 8, 9, 5], "int32"),
        "log_q": np.log(rng.uniform(0.01, 0.5, 6)).astype("float32"),
        "weights": np.array([1, 1, 2, 1, 0, 1], "float32"),
        "scale": 5.0,
    }


def call(function, batch, **changes):
    arguments = {key: ops.convert_to_tensor(value) for key, value in {**batch, **changes}.items()}
    return function(arguments.pop("queries"), arguments.pop("candidates"), **arguments)


def loss_by_loop(batch):
    total = 0.0
    for i in range(6):
        logits = {}
        for j in range(6):
            if j == i or batch["candidate_rows"][j] != batch["candidate_rows"][i]:
                logits[j] = batch["scale"] * float(batch["queries"][i] @ batch["candidates"][j]) - float(
                    batch["log_q"][j]
                )
        total += batch["weights"][i] * (np.log(sum(np.exp(value) for value in logits.values())) - logits[i])
    return total / batch["weights"].sum()


def test_equals_the_loop(batch):
    assert float(call(in_batch_softmax_loss, batch)) == pytest.approx(loss_by_loop(batch), rel=1e-5)


def test_accidental_hit_has_softmax_mass_zero(batch):
    logits = {key: value for key, value in batch.items() if key != "weights"}
    mass = ops.convert_to_numpy(ops.softmax(call(in_batch_logits, logits)))
    assert mass[0, 2] == 0 and mass[2, 0] == 0 and mass[1, 5] == 0
    assert mass[0, 0] > 0 and mass[2, 2] > 0


def test_masked_equals_removed(batch):
    """Masking the last candidate for everybody else gives what a batch without it would."""
    masked = np.zeros((6, 6), bool)
    masked[:, 5] = True
    weights = batch["weights"].copy()
    weights[5] = 0
    with_mask = call(in_batch_softmax_loss, batch, masked=masked, weights=weights)
    shorter = {key: value[:5] if isinstance(value, np.ndarray) else value for key, value in batch.items()}
    assert float(with_mask) == pytest.approx(float(call(in_batch_softmax_loss, shorter)), rel=1e-5)


def test_log_q_moves_probability_from_popular_to_rare(batch):
    """With equal cosines the uncorrected softmax treats all candidates alike; the corrected one expects to have met
    the popular
    item (0) as a negative five times as often as item 1, and gives it a fifth of the mass."""
    inputs = {key: value for key, value in batch.items() if key != "weights"}
    inputs |= {"candidates": np.tile(batch["candidates"][:1], (6, 1)), "candidate_rows": np.arange(1, 7, dtype="int32")}
    log_q = np.log(np.array([0.5, 0.1, 0.1, 0.1, 0.1, 0.1], "float32"))
    plain = ops.convert_to_numpy(ops.softmax(call(in_batch_logits, inputs, log_q=np.zeros(6, "float32"))))
    corrected = ops.convert_to_numpy(ops.softmax(call(in_batch_logits, inputs, log_q=log_q)))
    np.testing.assert_allclose(plain, 1 / 6, rtol=1e-4)
    np.testing.assert_allclose(corrected[:, 1] / corrected[:, 0], 0.5 / 0.1, rtol=1e-4)
    assert (corrected[:, 0] < plain[:, 0]).all() and (corrected[:, 1:] > plain[:, 1:]).all()


def test_all_weights_zero_gives_zero(batch):
    assert float(call(in_batch_softmax_loss, batch, weights=np.zeros(6, "float32"))) == 0
