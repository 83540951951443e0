"""Frames of a video pooled by attention: against a loop, and by what it learns."""

import keras
import numpy as np
import pytest

from data.schema import Schema
from towers.config import TowerConfig
from towers.frames import FrameProjection
from towers.item import ItemTower


def layer_with_weights(frames=3, frame_width=4, width=5):
    layer = FrameProjection(width, frames)
    layer.build((None, frames * frame_width))
    rng = np.random.default_rng(0)
    for weight in layer.weights:
        weight.assign(rng.normal(0, 0.5, weight.shape))
    return layer


def test_pooling_equals_the_loop():
    layer = layer_with_weights()
    rng = np.random.default_rng(1)
    features, present = rng.normal(size=(6, 12)).astype(np.float32), np.array([1, 1, 0, 1, 1, 0], bool)
    values = {weight.path.split("/", 1)[-1]: np.asarray(weight) for weight in layer.weights}
    tokens = np.asarray(layer(features, present))
    for row in range(6):
        if not present[row]:
            np.testing.assert_allclose(tokens[row], values["absent"], rtol=1e-5)
            continue
        projected, logits = [], []
        for frame in features[row].reshape(3, 4):
            hidden = (frame - values["mean"]) * values["whitening"] @ values["dense/kernel"] + values["dense/bias"]
            projected.append(hidden)
            told = np.tanh(hidden @ values["hidden/kernel"] + values["hidden/bias"])
            logits.append(float(told @ values["attention/kernel"][:, 0]))
        weights = np.exp(logits) / np.exp(logits).sum()
        np.testing.assert_allclose(tokens[row], (weights[:, None] * projected).sum(axis=0), rtol=1e-4, atol=1e-5)


def test_untrained_is_the_mean_and_order_does_not_matter():
    fresh = FrameProjection(5, 3)
    fresh.build((None, 12))
    features = np.random.default_rng(2).normal(size=(4, 3, 4)).astype(np.float32)
    _, weights = fresh.weigh(features.reshape(4, 12))
    np.testing.assert_allclose(np.asarray(weights), 1 / 3, rtol=1e-6)
    layer, there = layer_with_weights(), np.ones(4, bool)
    forwards, backwards = (np.asarray(layer(part.reshape(4, 12), there)) for part in (features, features[:, ::-1]))
    np.testing.assert_allclose(forwards, backwards, rtol=1e-4, atol=1e-6)


def test_whitening_is_of_single_frames():
    table = np.random.default_rng(3).normal(2.0, 3.0, (4000, 12)) * np.tile([5.0, 1.0, 1.0, 1.0], 3)
    layer = FrameProjection(5, 3, rank=2)
    layer.build((None, 12))
    layer.adapt(table, np.ones(4000, bool))
    frames = (table.reshape(-1, 4) - np.asarray(layer.mean)) @ np.asarray(layer.whitening)
    np.testing.assert_allclose(np.cov(frames, rowvar=False), np.eye(2) / 2, atol=0.01)


def test_attention_learns_which_frame_tells():
    """One frame of six carries the class beside a mark; the others carry classes of their own without the mark."""
    rng = np.random.default_rng(4)
    count, frames, classes = 2000, 6, 4
    shown = rng.integers(0, classes, (count, frames))
    telling = rng.integers(0, frames, count)
    features = np.zeros((count, frames, classes + 1), np.float32)
    np.put_along_axis(features, shown[..., None], 1.0, axis=2)
    features[np.arange(count), telling, classes] = 1.0
    labels = shown[np.arange(count), telling]
    inputs = keras.Input((frames * (classes + 1),))
    layer = FrameProjection(16, frames)
    outputs = keras.layers.Dense(classes, activation="softmax")(layer(inputs, keras.ops.ones_like(inputs[:, 0]) > 0))
    model = keras.Model(inputs, outputs)
    model.compile("adam", "sparse_categorical_crossentropy")
    model.optimizer.learning_rate = 0.02
    flat = features.reshape(count, -1)
    model.fit(flat[:1500], labels[:1500], batch_size=100, epochs=12, verbose=0)
    predicted = model.predict(flat[1500:], verbose=0).argmax(axis=1)
    weights = np.asarray(layer.weigh(flat[1500:])[1])
    assert (predicted == labels[1500:]).mean() > 0.9
    assert weights[np.arange(500), telling[1500:]].mean() > 0.6


def test_item_tower_takes_frames():
    schema = Schema(user_rows=2, item_rows=4).with_modalities({"image": 3, "video": 12}, {"video": 4})
    tower = ItemTower(schema, TowerConfig(width=8))
    rng = np.random.default_rng(5)
    features = {name: rng.normal(size=(2, width)).astype(np.float32) for name, width in schema.modalities.items()}
    vectors, _ = tower(np.array([1, 2]), features, np.ones((2, 2), bool))
    assert np.asarray(vectors).shape == (2, 8)
    with pytest.raises(ValueError, match="divide the width 12"):
        schema.with_modalities({"video": 12}, {"video": 5})
