"""An exported item encoder over a tower with domain adapters: no table by item, and what the tower says of a new item."""

import numpy as np
import tensorflow as tf

from data.schema import Schema
from serving.export.item_encoder import ItemEncoderModule
from towers.config import TowerConfig
from towers.item import ItemTower

ITEMS, NAMES = 50, ("title", "description", "categories", "image_bytes")


def test_a_new_item_is_of_the_unknown_domain(tmp_path):
    schema = Schema(user_rows=2, item_rows=ITEMS, attributes={"domain": 3}, modalities={"text": 6})
    tower = ItemTower(schema, TowerConfig(width=8, domain_adapters=4))
    rng = np.random.default_rng(0)
    for weight in tower.trainable_weights:
        weight.assign(rng.normal(0, 0.3, weight.shape).astype("float32"))
    tower.domain.assign(np.full(ITEMS, 2, "int32"))
    ItemEncoderModule(tower, schema.modalities, {}).save(tmp_path / "1")
    loaded = tf.saved_model.load(str(tmp_path / "1")).signatures["serving_default"]
    vectors = rng.normal(size=(3, 6)).astype("float32")
    request = {name: tf.fill([3], "") for name in NAMES} | {
        "audio": tf.zeros((3, 0)),
        "audio_length": tf.zeros(3, tf.int32),
        "video_frames_bytes": tf.fill([3, 0], ""),
        "text_vector": tf.constant(vectors),
    }
    answer = loaded(**request)["embedding"].numpy()
    tower.domain.assign(np.zeros(ITEMS, "int32"))
    expected = np.asarray(tower(np.zeros(3, "int32"), {"text": vectors}, np.ones((3, 1), bool))[0])
    np.testing.assert_allclose(answer, expected, atol=1e-5)
    tower.domain.assign(np.full(ITEMS, 2, "int32"))
    adapted = np.asarray(tower(np.zeros(3, "int32"), {"text": vectors}, np.ones((3, 1), bool))[0])
    assert np.abs(adapted - expected).max() > 1e-3
    shapes = [shape for _, shape in tf.train.list_variables(str(tmp_path / "1" / "variables" / "variables"))]
    assert not any(ITEMS in shape for shape in shapes)
