"""The towers: masks, dropout, saving, and that a trained pair finds what it should."""

import keras
import numpy as np
import pytest
from keras import ops

from data.batches import RetrievalBatches
from data.histories import Histories
from data.schema import Schema
from towers.config import TowerConfig
from towers.fusion import GatedFusion, ModalityDropout, unit_length
from towers.projection import ModalityProjection, principal_whitening
from towers.task import RetrievalTask
from towers.two_tower import TwoTower, load_two_tower

SCHEMA = Schema(user_rows=5, item_rows=9, profile={"age": 4, "tier": 3}, modalities={"text": 6, "audio": 3})


@pytest.fixture(scope="module")
def two_tower():
    keras.utils.set_random_seed(1)
    model = TwoTower(SCHEMA, TowerConfig(width=8, history_length=4))
    model.item_tower.known.assign(np.array([0, 1, 1, 1, 1, 1, 1, 0, 0], "float32"))
    # The residual branches start at zero; give them something to do, or half of the tower would go untested.
    for variable in model.trainable_variables:
        variable.assign(
            ops.convert_to_numpy(variable.value)
            + np.random.default_rng(len(variable.path)).normal(0, 0.1, variable.shape).astype("float32")
        )
    return model


def item_inputs(rng, rows):
    features = {
        "text": rng.normal(size=(len(rows), 6)).astype("float32"),
        "audio": rng.normal(size=(len(rows), 3)).astype("float32"),
    }
    return ops.convert_to_tensor(np.array(rows, "int32")), {
        key: ops.convert_to_tensor(value) for key, value in features.items()
    }


def test_absent_modality_has_no_influence(two_tower):
    rng = np.random.default_rng(0)
    rows, features = item_inputs(rng, [1, 2, 7])
    present = ops.convert_to_tensor(np.array([[True, False], [True, True], [True, False]]))
    before, _ = two_tower.item_tower(rows, features, present)
    changed = {**features, "audio": features["audio"] + 100.0}
    after, intermediates = two_tower.item_tower(rows, changed, present)
    np.testing.assert_allclose(before[0], after[0], atol=1e-6)
    np.testing.assert_allclose(before[2], after[2], atol=1e-6)
    assert np.abs(ops.convert_to_numpy(before[1] - after[1])).max() > 1e-3
    assert ops.convert_to_numpy(intermediates["gates"])[0, 2] == 0


def test_new_item_is_what_its_content_says(two_tower):
    """Rows 7 and 8 had no training event: their ids must not matter, and equal content gives equal embeddings."""
    rng = np.random.default_rng(0)
    _, features = item_inputs(rng, [1])
    twice = {key: ops.repeat(value, 2, axis=0) for key, value in features.items()}
    present = ops.ones((2, 2), "bool")
    cold, _ = two_tower.item_tower(ops.convert_to_tensor(np.array([7, 8], "int32")), twice, present)
    known, _ = two_tower.item_tower(ops.convert_to_tensor(np.array([1, 2], "int32")), twice, present)
    np.testing.assert_allclose(cold[0], cold[1], atol=1e-6)
    assert np.abs(ops.convert_to_numpy(known[0] - known[1])).max() > 1e-3


def test_item_of_which_nothing_is_known_scores_zero(two_tower):
    rows, features = item_inputs(np.random.default_rng(0), [7])
    vectors, _ = two_tower.item_tower(rows, features, ops.zeros((1, 2), "bool"))
    assert np.abs(ops.convert_to_numpy(vectors)).max() == 0


def test_unit_length_batch_equals_single_and_padding_is_ignored(two_tower):
    rng = np.random.default_rng(2)
    history = ops.convert_to_tensor(rng.normal(size=(3, 4, 8)).astype("float32"))
    mask = np.array([[1, 1, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1]], bool)
    user, profile = np.array([1, 0, 3], "int32"), np.array([[1, 2], [0, 0], [3, 1]], "int32")
    queries, intermediates = two_tower.user_tower(
        ops.convert_to_tensor(user), ops.convert_to_tensor(profile), history, ops.convert_to_tensor(mask)
    )
    queries = ops.convert_to_numpy(queries)
    np.testing.assert_allclose(np.linalg.norm(queries, axis=1), 1.0, rtol=1e-5)
    attention = ops.convert_to_numpy(intermediates["attention"])
    assert (attention[~mask] == 0).all()
    np.testing.assert_allclose(attention.sum(axis=1), [1, 0, 1], atol=1e-5)
    for number in range(3):
        part = slice(number, number + 1)
        single, _ = two_tower.user_tower(
            ops.convert_to_tensor(user[part]),
            ops.convert_to_tensor(profile[part]),
            history[part],
            ops.convert_to_tensor(mask[part]),
        )
        np.testing.assert_allclose(single[0], queries[number], atol=1e-5)
    noisy = history + ops.convert_to_tensor((~mask)[:, :, None].astype("float32") * 50)
    again, _ = two_tower.user_tower(
        ops.convert_to_tensor(user), ops.convert_to_tensor(profile), noisy, ops.convert_to_tensor(mask)
    )
    np.testing.assert_allclose(again, queries, atol=1e-5)


def test_save_load_compare(two_tower, tmp_path):
    two_tower.save_to(tmp_path)
    loaded = load_two_tower(tmp_path)
    assert loaded.config == two_tower.config and loaded.schema == two_tower.schema
    rows, features = item_inputs(np.random.default_rng(5), [1, 7, 3])
    present = ops.ones((3, 2), "bool")
    np.testing.assert_array_equal(
        two_tower.item_tower(rows, features, present)[0], loaded.item_tower(rows, features, present)[0]
    )
    with pytest.raises(FileNotFoundError, match="train-retrieval"):
        load_two_tower(tmp_path / "nowhere")


def test_gated_fusion_equals_the_loop():
    rng = np.random.default_rng(0)
    tokens, present = rng.normal(size=(3, 2, 4)).astype("float32"), np.array([[1, 1], [1, 0], [0, 0]], bool)
    fusion = GatedFusion()
    fusion.build((None, 2, 4))
    kernel, bias = rng.normal(size=(8, 2)).astype("float32"), np.array([0.3, -0.2], "float32")
    fusion.dense.kernel.assign(kernel)
    fusion.dense.bias.assign(bias)
    fused, _ = fusion(ops.convert_to_tensor(tokens), ops.convert_to_tensor(present))
    for b in range(3):
        logits = tokens[b].reshape(-1) @ kernel + bias
        expected = sum((2 / (1 + np.exp(-logits[m]))) * tokens[b, m] * present[b, m] for m in range(2))
        np.testing.assert_allclose(fused[b], expected, atol=1e-5)


def test_modality_dropout_keeps_one_and_is_off_outside_training():
    layer = ModalityDropout((0.9, 0.9, 0.9), seed=1)
    present = np.array([[True, True, False]] * 200)
    kept = ops.convert_to_numpy(layer(ops.convert_to_tensor(present), training=True))
    assert kept.any(axis=1).all() and not kept[:, 2].any() and (kept != present).any()
    np.testing.assert_array_equal(layer(ops.convert_to_tensor(present), training=False), present)
    with pytest.raises(ValueError, match="rates"):
        ModalityDropout((1.0,))


def test_whitening_ignores_absent_rows_and_gives_equal_components():
    rng = np.random.default_rng(0)
    table, present = rng.normal(3, 5, size=(500, 7)) * np.array([9, 5, 1, 1, 1, 1, 0]), np.ones(500, bool)
    table[:50], present[:50] = 1e6, False
    mean, projection = principal_whitening(table[present], 3)
    whitened = (table[present] - mean) @ projection
    np.testing.assert_allclose(np.cov(whitened, rowvar=False), np.eye(3) / 3, atol=0.01)
    # The first component is the direction of the largest variance, which is the first column's.
    assert abs(np.corrcoef(whitened[:, 0], table[present][:, 0])[0, 1]) > 0.95
    layer = ModalityProjection(4, rank=3)
    layer.build((None, 7))
    layer.adapt(table, present)
    np.testing.assert_allclose(np.asarray(layer.whitening), projection, rtol=1e-5)
    assert layer.dense.kernel.shape == (3, 4)


def test_whitening_of_a_constant_or_nothing_is_finite():
    for rows in (np.ones((5, 3)), np.zeros((0, 3)), np.eye(3)[:1]):
        mean, projection = principal_whitening(rows, 2)
        assert np.isfinite(mean).all() and np.isfinite(projection).all() and projection.shape == (3, 2)
        assert np.abs((rows - mean) @ projection).max(initial=0) < 1e-3


def test_unit_length_of_zero_has_finite_gradient():
    import tensorflow as tf

    vectors = tf.Variable(np.zeros((2, 3), "float32"))
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(unit_length(vectors) * 3.0)
    assert np.isfinite(tape.gradient(total, vectors).numpy()).all()


def test_training_finds_the_checkerboard():
    """Even users like even items and odd users odd ones; each user's withheld item must beat every item of the other
    colour."""
    rng = np.random.default_rng(0)
    users = np.repeat(np.arange(1, 41), 9)
    items = np.concatenate([rng.permutation(np.arange(2 if user % 2 == 0 else 1, 21, 2))[:9] for user in range(1, 41)])
    histories = Histories.from_events(users, items, np.arange(len(users)), user_rows=41)
    schema = Schema(user_rows=41, item_rows=21)
    keras.utils.set_random_seed(0)
    two_tower = TwoTower(schema, TowerConfig(width=8, history_length=8, id_dropout=0.0, user_id_dropout=0.5))
    counts = np.bincount(items, minlength=21)
    task = RetrievalTask(
        two_tower, features={}, present=np.zeros((21, 0), bool), profile=np.zeros((41, 0), "int32"), counts=counts
    )
    task.compile(optimizer=keras.optimizers.Adam(0.02), jit_compile=False)
    batches = RetrievalBatches(histories, item_rows=21, batch_size=90, history_length=8, ordered=True, seed=0)
    for epoch in range(15):
        for batch in batches.epoch(epoch):
            task.train_on_batch({key: ops.convert_to_tensor(value) for key, value in batch.items()})
    vectors = task.all_item_embeddings()
    history = histories.latest(np.arange(1, 41), 8)
    # Users are asked for as strangers (row 0): the answer has to come from their history.
    queries, _ = two_tower.user_tower(
        ops.zeros(40, "int32"),
        ops.zeros((40, 0), "int32"),
        ops.convert_to_tensor(vectors[history]),
        ops.convert_to_tensor(history > 0),
    )
    scores = ops.convert_to_numpy(queries) @ vectors.T
    for number, user in enumerate(range(1, 41)):
        own = np.arange(2 if user % 2 == 0 else 1, 21, 2)
        withheld = np.setdiff1d(own, items[users == user])
        other = np.arange(1 if user % 2 == 0 else 2, 21, 2)
        assert scores[number, withheld].min() > scores[number, other].max()


def test_dropout_draws_from_seeds_of_any_size():
    tables = {"features": {}, "present": np.zeros((9, 0), bool), "profile": np.zeros((5, 0), "int32"), "counts": np.ones(9)}
    task = RetrievalTask(TwoTower(Schema(user_rows=5, item_rows=9), TowerConfig(width=8)), **tables)
    for seed in (7 * 100_003, 42_949 * 100_003 + 2, 10**9 * 100_003):
        task.reseed(seed)
        layers = [layer for layer in task._flatten_layers() if getattr(layer, "seed_generator", None) is not None]
        states = [ops.convert_to_numpy(layer.seed_generator.state).tolist() for layer in layers]
        low_bits = int(np.array(seed, np.uint64).astype(np.uint32))  # of a small seed all that it has
        assert states == [[low_bits, number] for number in range(len(layers))] and states
