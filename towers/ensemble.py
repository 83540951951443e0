"""Two towers and a linear tower behind one dot product."""

from __future__ import annotations

import json
from pathlib import Path

import keras
import numpy as np
from keras import ops

from towers.content_map import ContentMap
from towers.fusion import unit_length
from towers.linear import LinearTower
from towers.two_tower import TwoTower, load_two_tower

DESCRIPTION, CONTENT_MAP, TOWERS = "ensemble.json", "content_map.npz", "two_tower"


@keras.saving.register_keras_serializable("triptych")
class EnsembleUserTower(keras.layers.Layer):
    """The query of an ensemble.

    Formula: `q = [w_1 q_towers ; w_2 s / |s|]`, s the sum of the linear tower's history vectors. The linear tower is
    whitened (`towers.linear.whiten`), so its scores spread alike for every user; a user without history is left to the
    two towers.

    Args:
        user_tower: of the two towers. weights: (w_1, w_2).

    Shapes: user [B], profile [B, P], history [B, L, D_1], history_mask [B, L], sums [B, D_2], and mixture [2], weights in the
    place of its own, or None -> [B, D_1 + D_2].
    """

    def __init__(self, user_tower: keras.layers.Layer, weights: tuple[float, float], **kwargs):
        super().__init__(**kwargs)
        self.user_tower, self.mixture = user_tower, tuple(weights)
        self.built = True

    def call(self, user, profile, history, history_mask, sums, mixture=None):
        queries, intermediates = self.user_tower(user, profile, history, history_mask)
        towers, linear = self.mixture if mixture is None else (mixture[0], mixture[1])
        return ops.concatenate([towers * queries, linear * unit_length(sums)], axis=-1), intermediates


class Ensemble:
    """Everything that an ensemble is served from.

    Attributes:
        two_tower: as trained. tower_items: [N + 1, D_1], its item embeddings, which its histories are made of.
        linear: [N + 1, D_2] tables, whitened; rows of items that nobody chose in training come from `content_map`.
        content_map: from content to `[history, item]` of the linear tower, [B, 2 D_2]; None without content.
        weights: (w_1, w_2) of `EnsembleUserTower`.
    """

    def __init__(
        self,
        two_tower: TwoTower,
        tower_items: np.ndarray,
        linear: LinearTower,
        content_map: ContentMap | None,
        weights: tuple[float, float],
    ):
        self.two_tower, self.tower_items, self.linear = two_tower, tower_items, linear
        self.content_map, self.weights = content_map, (float(weights[0]), float(weights[1]))
        self.user_tower = EnsembleUserTower(two_tower.user_tower, self.weights)

    @property
    def items(self) -> np.ndarray:
        """The candidates, float32 [N + 1, D_1 + D_2]."""
        return np.concatenate([self.tower_items, self.linear.items], axis=1)

    def save_to(self, folder: str | Path) -> None:
        """Write everything into an existing folder."""
        folder = Path(folder)
        (folder / TOWERS).mkdir()
        self.two_tower.save_to(folder / TOWERS)
        np.save(folder / TOWERS / "item_embeddings.npy", self.tower_items)
        self.linear.save(folder)
        content = None
        if self.content_map is not None:
            content = {key: getattr(self.content_map, key) for key in ("widths", "outputs", "frames")}
            np.savez(folder / CONTENT_MAP, *[ops.convert_to_numpy(weight) for weight in self.content_map.weights])
        (folder / DESCRIPTION).write_text(json.dumps({"weights": self.weights, "content_map": content}, indent=2))


def load_ensemble(folder: str | Path) -> Ensemble:
    """What `Ensemble.save_to` wrote. Errors: FileNotFoundError."""
    folder = Path(folder)
    described = json.loads((folder / DESCRIPTION).read_text())
    content_map = None
    if described["content_map"] is not None:
        content_map = ContentMap(**described["content_map"])
        with np.load(folder / CONTENT_MAP) as arrays:
            content_map.set_weights([arrays[name] for name in arrays.files])
    return Ensemble(
        load_two_tower(folder / TOWERS),
        np.load(folder / TOWERS / "item_embeddings.npy"),
        LinearTower.load(folder),
        content_map,
        tuple(described["weights"]),
    )
