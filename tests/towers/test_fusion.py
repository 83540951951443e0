"""Fusion: one contract for every kind, against loops, and by what each learns."""

import keras
import numpy as np
import pytest
from keras import ops

from data.schema import Schema
from towers.augmentation import FeatureNoise
from towers.config import TowerConfig
from towers.domain_adapters import DomainAdapters
from towers.fusion import ConcatFusion, GatedFusion, WeightedFusion
from towers.fusion_attention import AttentionFusion, BottleneckFusion
from towers.item import ItemTower
from towers.projection import ModalityProjection
from towers.two_tower import TwoTower, load_two_tower

M, D = 3, 4
KINDS = {
    "gated": GatedFusion,
    "concat": ConcatFusion,
    "weighted": WeightedFusion,
    "attention": AttentionFusion,
    "bottleneck": lambda: BottleneckFusion(2, 2),
}
MASKED = {name: make for name, make in KINDS.items() if name != "gated"}
"""Gates look at learned absent tokens by design; the item tower puts these in place of whatever the features hold."""


def fill(layer, seed=0):
    rng = np.random.default_rng(seed)
    for weight in layer.trainable_weights:
        weight.assign(rng.normal(0, 0.6, weight.shape).astype("float32"))
    return layer


def built(make):
    layer = make()
    layer.build((None, M, D))
    return fill(layer)


def inputs(rows=6, seed=1):
    rng = np.random.default_rng(seed)
    present = np.array([[1, 1, 1], [1, 0, 1], [0, 1, 0], [0, 0, 0], [1, 1, 0], [0, 0, 1]], bool)[:rows]
    return rng.normal(size=(rows, M, D)).astype("float32"), present


def run(layer, tokens, present):
    fused, told = layer(ops.convert_to_tensor(tokens), ops.convert_to_tensor(present))
    return ops.convert_to_numpy(fused), {name: ops.convert_to_numpy(value) for name, value in told.items()}


@pytest.mark.parametrize("name", KINDS)
def test_all_absent_gives_zero_and_batch_equals_single(name):
    layer = built(KINDS[name])
    tokens, present = inputs()
    fused, told = run(layer, tokens, present)
    assert fused.shape == (6, D) and np.abs(fused[3]).max() == 0
    assert np.abs(fused[:3]).min() > 0
    for row in range(6):
        single, _ = run(layer, tokens[row : row + 1], present[row : row + 1])
        np.testing.assert_allclose(single[0], fused[row], rtol=1e-4, atol=1e-5)
    for value in told.values():
        assert len(value) == 6


@pytest.mark.parametrize("name", MASKED)
def test_an_absent_token_changes_nothing(name):
    layer = built(MASKED[name])
    tokens, present = inputs()
    noisy = np.where(present[:, :, None], tokens, tokens + 37.0)
    np.testing.assert_allclose(run(layer, noisy, present)[0], run(layer, tokens, present)[0], rtol=1e-5, atol=1e-5)
    assert np.abs(run(layer, tokens + 1.0, present)[0] - run(layer, tokens, present)[0])[[0, 1, 2, 4, 5]].max() > 1e-3


@pytest.mark.parametrize("name", KINDS)
def test_a_fresh_layer_is_the_plain_sum_or_mean(name):
    layer = KINDS[name]()
    layer.build((None, M, D))
    tokens, present = inputs()
    total = (tokens * present[:, :, None]).sum(axis=1)
    expected = total / np.maximum(present.sum(axis=1, keepdims=True), 1) if name == "attention" else total
    np.testing.assert_allclose(run(layer, tokens, present)[0], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["weighted", "attention", "bottleneck"])
def test_the_order_of_modalities_does_not_matter_where_nothing_names_them(name):
    layer = built(KINDS[name])
    for part in ("coefficients", "kinds"):  # what tells modalities apart, set equal
        if hasattr(layer, part):
            getattr(layer, part).assign(np.ones(getattr(layer, part).shape, "float32"))
    tokens, present = inputs()
    order = [2, 0, 1]
    np.testing.assert_allclose(
        run(layer, tokens[:, order], present[:, order])[0], run(layer, tokens, present)[0], rtol=1e-4, atol=1e-5
    )


def test_concat_equals_the_loop_and_moves_with_its_weights():
    layer = built(ConcatFusion)
    tokens, present = inputs()
    kernel, presence = np.asarray(layer.kernel), np.asarray(layer.presence)
    fused, _ = run(layer, tokens, present)
    for row in range(6):
        expected = np.zeros(D)
        for m in range(M):
            if present[row, m]:
                expected += tokens[row, m] @ kernel[m * D : (m + 1) * D] + presence[m]
        np.testing.assert_allclose(fused[row], expected, rtol=1e-4, atol=1e-5)
    order = [1, 2, 0]
    layer.kernel.assign(kernel.reshape(M, D, D)[order].reshape(M * D, D))
    layer.presence.assign(presence[order])
    np.testing.assert_allclose(run(layer, tokens[:, order], present[:, order])[0], fused, rtol=1e-4, atol=1e-5)


def test_weighted_equals_the_loop_and_can_be_fixed():
    layer = WeightedFusion((2.0, 0.5, 1.0))
    layer.build((None, M, D))
    tokens, present = inputs()
    fused, told = run(layer, tokens, present)
    for row in range(6):
        expected = sum(c * tokens[row, m] for m, c in enumerate((2.0, 0.5, 1.0)) if present[row, m])
        np.testing.assert_allclose(fused[row], expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(told["weights"][1], [2.0, 0.0, 1.0])
    assert not layer.trainable_weights and built(WeightedFusion).trainable_weights
    with pytest.raises(ValueError, match="3 modalities"):
        WeightedFusion((1.0, 2.0)).build((None, M, D))


def test_attention_equals_the_loop():
    layer = built(AttentionFusion)
    tokens, present = inputs()
    fused, told = run(layer, tokens, present)
    wq, bq, wk = (np.asarray(value) for value in (layer.query.kernel, layer.query.bias, layer.key.kernel))
    for row in (0, 1, 2, 4, 5):
        there = np.flatnonzero(present[row])
        query = tokens[row, there].mean(axis=0) @ wq + bq
        scores = np.array([query @ (tokens[row, m] @ wk) / np.sqrt(D) for m in there])
        weights = np.exp(scores) / np.exp(scores).sum()
        np.testing.assert_allclose(fused[row], weights @ tokens[row, there], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(told["weights"][row, there], weights, rtol=1e-4)


def test_bottleneck_equals_the_loop():
    """Every modality through the block by itself, fusion tokens averaged over those that are there."""
    layer = built(lambda: BottleneckFusion(2, 2))
    tokens, present = inputs()
    fused, _ = run(layer, tokens, present)
    kinds, start = np.asarray(layer.kinds), np.asarray(layer.fusion_tokens)
    for row in (0, 1, 4):
        own = {m: tokens[row, m] for m in np.flatnonzero(present[row])}
        meeting = start
        for block in layer.blocks:
            after = {}
            for m, token in own.items():
                pair = np.concatenate([(token + kinds[m])[None], meeting])[None]
                after[m] = ops.convert_to_numpy(block(ops.convert_to_tensor(pair)))[0]
            own = {m: value[0] for m, value in after.items()}
            meeting = np.mean([value[1:] for value in after.values()], axis=0)
        expected = sum(own.values()) + meeting.mean(axis=0) @ np.asarray(layer.output_dense.kernel)
        np.testing.assert_allclose(fused[row], expected, rtol=1e-3, atol=1e-4)


def test_domain_adapters_equal_the_loop_and_unknown_is_the_identity():
    layer = DomainAdapters(3, 2)
    layer.build((None, D))
    vectors, domain = inputs()[0][:, 0], np.array([0, 1, 2, 1, 0, 2], "int32")
    np.testing.assert_allclose(np.asarray(layer(vectors, domain)), vectors)
    fill(layer)
    adapted = np.asarray(layer(ops.convert_to_tensor(vectors), ops.convert_to_tensor(domain)))
    down, up = np.asarray(layer.down), np.asarray(layer.up)
    for row, code in enumerate(domain):
        hidden = ops.convert_to_numpy(ops.gelu(ops.convert_to_tensor(vectors[row] @ down[:, code])))
        expected = vectors[row] if code == 0 else vectors[row] + hidden @ up[code]
        np.testing.assert_allclose(adapted[row], expected, rtol=1e-4, atol=1e-5)
    zero = layer(ops.zeros((1, D)), ops.convert_to_tensor(np.array([2], "int32")))
    assert np.abs(np.asarray(zero)).max() == 0
    with pytest.raises(ValueError, match="at least 2 and 1"):
        DomainAdapters(1, 2)


SCHEMA = Schema(
    user_rows=3, item_rows=9, attributes={"domain": 3}, modalities={"text": 6, "image": 5, "audio": 3}
)


def tower_inputs(rows, seed=0):
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=(rows, width)).astype("float32") for name, width in SCHEMA.modalities.items()}


@pytest.mark.parametrize("name", KINDS)
def test_item_tower_ignores_what_is_absent_and_survives_saving(name, tmp_path):
    config = TowerConfig(width=D, fusion=name, domain_adapters=2, fusion_layers=2)
    two_tower = TwoTower(SCHEMA, config)
    tower = fill(two_tower.item_tower, seed=3)
    tower.known.assign(np.array([0, 1, 1, 0, 0, 0, 0, 0, 0], "float32"))
    tower.domain.assign(np.array([0, 1, 2, 1, 0, 0, 0, 0, 0], "int32"))
    rows = ops.convert_to_tensor(np.array([1, 2, 3, 4, 5], "int32"))
    present = np.array([[1, 1, 0], [0, 1, 1], [1, 0, 1], [0, 0, 1], [0, 0, 0]], bool)
    features = tower_inputs(5)
    noisy = {name: value + 50 * ~present[:, [m]] for m, (name, value) in enumerate(features.items())}
    vectors, told = tower(rows, features, ops.convert_to_tensor(present))
    again, _ = tower(rows, noisy, ops.convert_to_tensor(present))
    np.testing.assert_allclose(np.asarray(vectors), np.asarray(again), atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(np.asarray(vectors), axis=1), [1, 1, 1, 1, 0], atol=1e-4)
    assert told["tokens"].shape == (5, 4, D)
    other = tower_inputs(5, seed=8)
    assert np.abs(np.asarray(tower(rows, other, ops.convert_to_tensor(present))[0]) - np.asarray(vectors)).max() > 0.01
    two_tower.save_to(tmp_path)
    loaded = load_two_tower(tmp_path)
    assert loaded.config == config
    np.testing.assert_array_equal(
        np.asarray(loaded.item_tower(rows, features, ops.convert_to_tensor(present))[0]), np.asarray(vectors)
    )


def test_linear_items_are_the_plain_sum_of_projections():
    config = TowerConfig(width=D, fusion="weighted", fusion_weights=(1.0,), item_hidden=False)
    tower = fill(ItemTower(SCHEMA, config), seed=5)
    tower.known.assign(np.ones(9, "float32"))
    rows, present = np.array([1, 2], "int32"), np.array([[1, 0, 1], [1, 1, 1]], bool)
    features = tower_inputs(2)
    vectors, _ = tower(ops.convert_to_tensor(rows), features, ops.convert_to_tensor(present))
    for row in range(2):
        total = np.asarray(tower.id_embedding.embeddings)[rows[row]].copy()
        for m, (name, value) in enumerate(features.items()):
            if present[row, m]:
                dense = tower.projections[name].dense
                total += value[row] @ np.asarray(dense.kernel) + np.asarray(dense.bias)
        np.testing.assert_allclose(np.asarray(vectors)[row], total / np.linalg.norm(total), rtol=1e-4, atol=1e-5)
    assert not hasattr(tower, "hidden")
    with pytest.raises(ValueError, match="'weighted'"):
        ItemTower(SCHEMA, TowerConfig(width=D, fusion="average"))


@pytest.mark.parametrize("name", KINDS)
def test_each_kind_learns_a_world_whose_answer_is_in_one_modality(name):
    """Only the image tells an item's class; text and audio are noise of the same size. Items of the test are new."""
    rng = np.random.default_rng(0)
    count, classes = 1600, 4
    labels = rng.integers(0, classes, count)
    schema = Schema(user_rows=2, item_rows=3, modalities={"text": 6, "image": 6, "audio": 6})
    features = {modality: rng.normal(size=(count, 6)).astype("float32") for modality in schema.modalities}
    features["image"][np.arange(count), labels] += 3.0
    present = rng.random((count, 3)) < 0.8
    present[:, 1] = True
    keras.utils.set_random_seed(2)
    tower = ItemTower(schema, TowerConfig(width=16, fusion=name, modality_dropout=0.0))
    given = {modality: keras.Input((6,), name=modality) for modality in schema.modalities}
    mask, rows = keras.Input((3,), name="present", dtype="bool"), keras.Input((), name="rows", dtype="int32")
    vectors, _ = tower(rows, given, mask)
    outputs = keras.layers.Dense(classes, use_bias=False)(10.0 * vectors)
    model = keras.Model({**given, "present": mask, "rows": rows}, outputs)
    model.compile(keras.optimizers.Adam(0.01), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    data = {**features, "present": present, "rows": np.zeros(count, "int32")}
    train, test = slice(0, 1200), slice(1200, count)
    model.fit({key: value[train] for key, value in data.items()}, labels[train], batch_size=100, epochs=8, verbose=0)
    predicted = model.predict({key: value[test] for key, value in data.items()}, verbose=0).argmax(axis=1)
    best = (features["image"][test, :classes].argmax(axis=1) == labels[test]).mean()
    assert best > 0.9 and (predicted == labels[test]).mean() > best - 0.06


def test_a_modality_with_few_columns_keeps_a_vector_of_scales():
    layer = ModalityProjection(D, rank=8)
    layer.build((None, 6))
    table = np.random.default_rng(0).normal(2.0, [1, 2, 3, 4, 5, 6], size=(4000, 6))
    layer.adapt(table, np.ones(4000, bool))
    assert tuple(layer.whitening.shape) == (6,)
    values = ops.convert_to_numpy(layer.standardise(ops.convert_to_tensor(table.astype("float32"))))
    np.testing.assert_allclose(values.mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(values.var(axis=0), 1 / 6, rtol=0.2)
    wide = ModalityProjection(D, rank=2)
    wide.build((None, 6))
    assert tuple(wide.whitening.shape) == (6, 2)


def test_of_rows_that_are_all_alike_another_one_is_not_blown_up():
    layer = ModalityProjection(D, rank=8)
    layer.build((None, 6))
    layer.adapt(np.full((5, 6), 2.0), np.ones(5, bool))
    values = ops.convert_to_numpy(layer.standardise(ops.convert_to_tensor(np.full((1, 6), 3.0, "float32"))))
    np.testing.assert_array_equal(values, np.zeros((1, 6)))


def test_feature_noise_has_the_stated_size_and_only_in_training():
    values = ops.zeros((4000, 16))
    noise = FeatureNoise(0.5, seed=1)
    blurred = ops.convert_to_numpy(noise(values, training=True))
    np.testing.assert_allclose(np.square(blurred).sum(axis=1).mean(), 0.25, rtol=0.05)
    dropped = ops.convert_to_numpy(FeatureNoise(drop=0.25, seed=1)(ops.ones((500, 16)), training=True))
    np.testing.assert_allclose((dropped == 0).mean(), 0.25, atol=0.02)
    np.testing.assert_allclose(dropped.mean(), 1.0, atol=0.05)
    np.testing.assert_array_equal(ops.convert_to_numpy(noise(values, training=False)), 0.0)
    with pytest.raises(ValueError, match="received -1"):
        FeatureNoise(-1.0)
    projection = ModalityProjection(D, noise=0.5)
    projection.build((None, 6))
    features, there = ops.ones((3, 6)), ops.ones((3,), "bool")
    clean, still = projection(features, there), projection(features, there, training=False)
    np.testing.assert_array_equal(np.asarray(clean), np.asarray(still))
    assert np.abs(np.asarray(projection(features, there, training=True)) - np.asarray(clean)).max() > 1e-3
