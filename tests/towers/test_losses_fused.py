"""The losses over a batch's columns: against loops in NumPy, fused against plain, and by what they do."""

import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from tests.towers.gradients import value_and_gradients
from towers.fused_softmax import fused_softmax_loss, masked_logits
from towers.in_batch_elsa import in_batch_elsa_loss
from towers.losses import in_batch_softmax_loss, softmax_loss
from towers.query_blocks import block_size
from towers.retrieval_loss import column_bias
from towers.sigmoid_loss import fused_sigmoid_loss, sigmoid_loss

B, N, D = 40, 23, 8
FORMS = [
    {},
    {"excluded": True},
    {"hardest": 5},
    {"hardest": 40},
    {"label_smoothing": 0.2},
    {"excluded": True, "hardest": 3, "label_smoothing": 0.1},
]
BLOCKS = [N * 64, N * 16, N]
"""Block sizes of 40 queries (everything at once), 16 (the last block half empty), and 1 query."""


def unit(rng, *shape):
    vectors = rng.normal(size=shape).astype("float32")
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


@pytest.fixture
def world():
    rng = np.random.default_rng(3)
    copies = rng.integers(0, 4, N).astype("float32")
    own = rng.integers(0, N, B).astype("int32")
    log_q = np.log(rng.uniform(0.01, 0.3, N)).astype("float32")
    weights = rng.uniform(0, 2, B).astype("float32")
    weights[:3] = 0
    excluded = rng.integers(0, N, (B, 4)).astype("int32")
    excluded[::2, 1:] = own[::2, None]
    return {
        "queries": unit(rng, B, D),
        "candidates": unit(rng, N, D),
        "scale": np.float32(7.0),
        "own": own,
        "copies": copies,
        "bias": np.where(copies > 0, np.log(np.maximum(copies, 1)) - log_q, -1e9).astype("float32"),
        "own_bias": -log_q[own],
        "weights": weights,
        "excluded": excluded,
    }


def softmax_by_loop(world, excluded=False, hardest=0, label_smoothing=0.0):
    total = 0.0
    for i in range(B):
        own, logits = world["own"][i], {}
        for j in range(N):
            product = 7.0 * float(world["queries"][i].astype("float64") @ world["candidates"][j])
            if j == own:
                logits[j] = product + float(world["own_bias"][i])
            elif world["copies"][j] > 0 and not (excluded and j in world["excluded"][i]):
                logits[j] = product + float(world["bias"][j])
        if hardest:
            kept = sorted((j for j in logits if j != own), key=logits.get)[-hardest:]
            logits = {j: logits[j] for j in [*kept, own]}
        normaliser = np.log(sum(np.exp(value) for value in logits.values()))
        for j, value in logits.items():
            target = label_smoothing / len(logits) + (1 - label_smoothing) * (j == own)
            total += world["weights"][i] * target * (normaliser - value)
    return total / world["weights"].sum()


def softmax_of(world, form, fused=None):
    integers = {"own": ops.convert_to_tensor(world["own"])}
    rest = {key: value for key, value in form.items() if key != "excluded"}
    if form.get("excluded"):
        integers["excluded"] = ops.convert_to_tensor(world["excluded"])
    if fused:
        rest["block_logits"] = fused

    def loss(queries, candidates, scale):
        constants = {name: ops.convert_to_tensor(world[name]) for name in ("bias", "own_bias", "weights")}
        function = fused_softmax_loss if fused else softmax_loss
        return function(queries, candidates, scale=scale, **constants, **integers, **rest)

    return value_and_gradients(loss, [world["queries"], world["candidates"], world["scale"]])


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_softmax_equals_the_loop(world, form):
    assert softmax_of(world, form)[0] == pytest.approx(softmax_by_loop(world, **form), rel=1e-5)


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("form", FORMS, ids=str)
def test_fused_softmax_and_its_gradients_equal_the_plain_form(world, form, block, monkeypatch):
    # One query a block: more blocks than are unrolled, so the loop is what runs.
    monkeypatch.setattr("towers.query_blocks.SMALLEST_BLOCK", 1)
    plain, gradients = softmax_of(world, form)
    fused, fused_gradients = softmax_of(world, form, fused=block)
    assert fused == pytest.approx(plain, abs=1e-5)
    for one, other in zip(gradients, fused_gradients, strict=True):
        assert np.abs(one).max() > 1e-3
        np.testing.assert_allclose(other, one, atol=1e-5)


def test_more_blocks_than_are_unrolled_take_lists_of_a_length_that_the_graph_does_not_know(world, monkeypatch):
    monkeypatch.setattr("towers.query_blocks.SMALLEST_BLOCK", 1)
    arrays = {name: tf.constant(value) for name, value in world.items() if name not in ("copies", "excluded")}
    one_a_block = {**arrays, "block_logits": N}

    @tf.function(input_signature=[tf.TensorSpec((B, None), tf.int32)])
    def loss_of(excluded):
        return fused_softmax_loss(**one_a_block, excluded=excluded)

    for length in (0, 1, 4):
        excluded = tf.constant(world["excluded"][:, :length])
        expected = softmax_loss(**arrays, excluded=excluded)
        np.testing.assert_allclose(loss_of(excluded), expected, rtol=1e-5, err_msg=str(length))


def test_columns_equal_the_batch_with_its_accidental_hits(world):
    """Distinct items with their numbers say the same as a row for every event and a mask."""
    rng = np.random.default_rng(0)
    rows = rng.integers(1, 12, B)
    counts = np.bincount(rows, minlength=12)
    table, queries, weights = unit(rng, 12, D), world["queries"], np.ones(B, "float32")
    weights[-4:] = 0
    log_q = np.log(np.maximum(counts, 1) / counts.sum()).astype("float32")
    padding = np.repeat(weights[None] == 0, B, axis=0)

    def by_events(queries, table, scale):
        return in_batch_softmax_loss(
            queries, ops.take(table, rows, axis=0), candidate_rows=ops.convert_to_tensor(rows), log_q=log_q[rows],
            scale=scale, weights=weights, masked=ops.convert_to_tensor(padding),
        )  # fmt: skip

    def by_columns(queries, table, scale):
        copies = ops.convert_to_tensor(np.bincount(rows[weights > 0], minlength=12).astype("float32"))
        return fused_softmax_loss(
            queries, table, own=ops.convert_to_tensor(rows.astype("int32")), bias=column_bias(copies, log_q),
            own_bias=ops.convert_to_tensor(-log_q[rows]), scale=scale, weights=ops.convert_to_tensor(weights),
        )  # fmt: skip

    expected, gradients = value_and_gradients(by_events, [queries, table, 6.0])
    received, others = value_and_gradients(by_columns, [queries, table, 6.0])
    assert received == pytest.approx(expected, abs=1e-5)
    for one, other in zip(gradients, others, strict=True):
        np.testing.assert_allclose(other, one, atol=1e-5)


def test_extreme_logits_stay_finite_and_exact(world):
    """At a scale of 100 and with biases far apart, exp of a plain difference would overflow."""
    world = {**world, "scale": np.float32(100.0), "bias": world["bias"] * np.where(np.arange(N) % 2, 1, 8)}
    world["bias"] = np.maximum(world["bias"], -1e9).astype("float32")
    plain, gradients = softmax_of(world, {})
    fused, fused_gradients = softmax_of(world, {}, fused=N * 16)
    assert np.isfinite(fused) and fused == pytest.approx(plain, rel=1e-5)
    for one, other in zip(gradients, fused_gradients, strict=True):
        assert np.isfinite(other).all()
        np.testing.assert_allclose(other, one, rtol=1e-4, atol=1e-5 * np.abs(one).max())


def test_mass_of_excluded_and_absent_columns_is_zero_and_only_the_hardest_keep_some(world):
    queries, own = ops.convert_to_tensor(world["queries"]), ops.convert_to_tensor(world["own"])
    logits = 7.0 * ops.matmul(queries, ops.transpose(world["candidates"])) + world["bias"]
    own_logits = 7.0 * ops.sum(queries * ops.take(world["candidates"], own, axis=0), axis=1) + world["own_bias"]
    mass = ops.convert_to_numpy(ops.softmax(masked_logits(logits, own, own_logits, ops.array(world["excluded"]))))
    hard = ops.convert_to_numpy(ops.softmax(masked_logits(logits, own, own_logits, hardest=3)))
    for i in range(B):
        others = [j for j in world["excluded"][i] if j != world["own"][i]]
        empty = [j for j in np.flatnonzero(world["copies"] == 0) if j != world["own"][i]]
        assert (mass[i, others] == 0).all() and (mass[i, empty] == 0).all() and mass[i, world["own"][i]] > 0
        assert (hard[i] > 0).sum() == 4 and hard[i, world["own"][i]] > 0
        left, negatives = np.delete(hard[i], world["own"][i]), np.delete(ops.convert_to_numpy(logits)[i], world["own"][i])
        assert negatives[left > 0].min() > negatives[left == 0].max()


def test_no_weight_gives_zero_and_finite_gradients(world):
    value, gradients = softmax_of({**world, "weights": np.zeros(B, "float32")}, {}, fused=N * 16)
    assert value == 0 and all(np.isfinite(gradient).all() for gradient in gradients)


def test_event_weights_are_repetitions(world):
    """An event of weight 3 counts as three events do."""
    weights = np.where(np.arange(B) < 5, 3.0, 1.0).astype("float32")
    repeats = weights.astype(int)
    repeated = {name: np.repeat(world[name], repeats, axis=0) for name in ("queries", "own", "own_bias")}
    repeated["weights"] = np.ones(repeats.sum(), "float32")
    weighted = softmax_of({**world, "weights": weights}, {}, fused=N * 16)[0]
    assert weighted == pytest.approx(softmax_of({**world, **repeated}, {}, fused=N * 16)[0], rel=1e-5)


def sigmoid_of(world, excluded, fused=None):
    integers = {"own": ops.convert_to_tensor(world["own"])}
    if excluded:
        integers["excluded"] = ops.convert_to_tensor(world["excluded"])
    rest = {"block_logits": fused} if fused else {}

    def loss(queries, candidates, scale, shift):
        function = fused_sigmoid_loss if fused else sigmoid_loss
        constants = {name: ops.convert_to_tensor(world[name]) for name in ("copies", "weights")}
        return function(queries, candidates, scale=scale, shift=shift, **constants, **integers, **rest)

    return value_and_gradients(loss, [world["queries"], world["candidates"], world["scale"], -2.0])


@pytest.mark.parametrize("excluded", [False, True])
def test_sigmoid_equals_the_loop_and_its_fused_form(world, excluded, monkeypatch):
    monkeypatch.setattr("towers.query_blocks.SMALLEST_BLOCK", 1)
    total = 0.0
    for i in range(B):
        for j in range(N):
            logit = 7.0 * float(world["queries"][i].astype("float64") @ world["candidates"][j]) - 2.0
            if j == world["own"][i]:
                total += world["weights"][i] * np.log1p(np.exp(-logit))
            elif not (excluded and j in world["excluded"][i]):
                total += world["weights"][i] * world["copies"][j] * np.log1p(np.exp(logit))
    plain, gradients = sigmoid_of(world, excluded)
    assert plain == pytest.approx(total / world["weights"].sum(), rel=1e-5)
    for block in BLOCKS:
        fused, others = sigmoid_of(world, excluded, fused=block)
        assert fused == pytest.approx(plain, rel=1e-5)
        for one, other in zip(gradients, others, strict=True):
            assert np.abs(one).max() > 1e-3
            np.testing.assert_allclose(other, one, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("absent", [False, True])
def test_elsa_equals_the_scores_written_out(world, absent):
    present = (world["copies"] > 0).astype("float32")
    present[world["own"]] = 1
    excluded = np.stack([np.unique(row)[np.arange(4) % len(np.unique(row))] for row in world["excluded"]])
    excluded = np.where(
        [[list(row).index(value) != place for place, value in enumerate(row)] for row in excluded],
        world["own"][:, None], excluded,
    ).astype("int32")  # fmt: skip
    if absent:  # some other positives are of events that weigh nothing
        assert (present[excluded] == 0).any()
    else:
        excluded = np.where(present[excluded] > 0, excluded, world["own"][:, None])
    scores = world["queries"] @ (world["candidates"] * present[:, None]).T
    total = 0.0
    for i in range(B):
        chosen = np.zeros(N)
        chosen[[world["own"][i], *excluded[i]]] = 1
        chosen *= present
        difference = scores[i] / np.linalg.norm(scores[i]) - chosen / np.linalg.norm(chosen)
        total += world["weights"][i] * (difference**2).sum()
    received = in_batch_elsa_loss(
        *(ops.convert_to_tensor(world[name]) for name in ("queries", "candidates")),
        own=ops.convert_to_tensor(world["own"]),
        present=ops.convert_to_tensor(present),
        weights=ops.convert_to_tensor(world["weights"]),
        excluded=ops.convert_to_tensor(excluded),
    )
    assert float(received) == pytest.approx(total / world["weights"].sum(), rel=1e-4)


def test_blocks_hold_what_they_were_given():
    assert block_size(65_536, 65_536, 2**20) * 65_536 <= 2**22 and block_size(10, 10, 2**20) == 10
