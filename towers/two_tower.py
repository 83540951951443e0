"""Both towers under one roof: what is trained, saved, and taken apart again for serving."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import keras
from keras import ops

from data.schema import Schema
from towers.config import TowerConfig
from towers.item import ItemTower
from towers.user import UserTower

MAXIMUM_SCALE = 100.0
"""Logits are cosines times at most this (CLIP, Radford et al. 2021): beyond it float32 softmax gradients vanish."""


class TwoTower(keras.Model):
    """User tower, item tower and the learned temperature.

    `item_tower(rows, features, present)` and `user_tower(user, profile, history, history_mask)` are used on their own;
    the
    model is never called as a whole. Similarity is the dot product of unit vectors, divided by the temperature in
    training.

    Args:
        schema: sizes of the ingested dataset with the feature store's widths.
        config: see `TowerConfig`.

    Example:
        >>> schema = Schema(user_rows=3, item_rows=5, modalities={"text": 8})
        >>> two_tower = TwoTower(schema, TowerConfig(width=4, history_length=2))
        >>> vectors, _ = two_tower.item_tower(ops.array([1, 2]), {"text": ops.ones((2, 8))}, ops.ones((2, 1), "bool"))
        >>> profile, mask = ops.zeros((1, 0), "int32"), ops.ones((1, 2), "bool")
        >>> queries, _ = two_tower.user_tower(ops.array([1]), profile, vectors[None], mask)
        >>> tuple(vectors.shape), tuple(queries.shape)
        ((2, 4), (1, 4))
    """

    def __init__(self, schema: Schema, config: TowerConfig):
        super().__init__(name="two_tower")
        self.schema = schema
        self.config = config
        self.item_tower = ItemTower(schema, config, name="item_tower")
        self.user_tower = UserTower(schema, config, name="user_tower")
        start = math.log(1.0 / config.temperature)
        self.log_scale = self.add_weight(shape=(), initializer=keras.initializers.Constant(start), name="log_scale")
        self.built = True

    @property
    def scale(self):
        """1 / temperature, the factor from cosine to logit."""
        return ops.exp(ops.minimum(self.log_scale, math.log(MAXIMUM_SCALE)))

    def call(self, inputs, training=False):
        raise NotImplementedError("TwoTower is used through item_tower and user_tower; it has no call of its own.")

    def save_to(self, folder: str | Path) -> None:
        """Write `model.json` and `weights.weights.h5` into an existing folder."""
        folder = Path(folder)
        description = {"schema": dataclasses.asdict(self.schema), "config": dataclasses.asdict(self.config)}
        (folder / "model.json").write_text(json.dumps(description, indent=2))
        self.save_weights(folder / "weights.weights.h5")


def load_two_tower(folder: str | Path) -> TwoTower:
    """Rebuild the towers that `TwoTower.save_to` wrote.

    Errors: FileNotFoundError naming the missing file when the folder holds no finished training.
    """
    folder = Path(folder)
    for name in ("model.json", "weights.weights.h5"):
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"{folder / name} is missing: run the train-retrieval stage into this folder first."
            )
    description = json.loads((folder / "model.json").read_text())
    model = TwoTower(Schema(**description["schema"]), TowerConfig(**description["config"]))
    model.load_weights(folder / "weights.weights.h5")
    return model
