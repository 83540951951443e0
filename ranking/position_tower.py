"""What the place on the page does to a click, learned beside the ranker and left out when it serves."""

from __future__ import annotations

import keras
from keras import ops


class PositionTower(keras.layers.Layer):
    """A logit for every place on the page, added to the click logit in training alone.

        s'_i = s_i + b[min(place_i, P)] - mean of b over the batch's entries of known place;   place 0 (unknown) adds 0

    The mean is taken out because being shown at all says much of a click in lists whose other entries were drawn and not
    shown: only *differences* between places are a matter of the page. What stays in s is what an item is worth anywhere.

    Paper: Zhao et al., "Recommending What Video to Watch Next: A Multitask Ranking System", RecSys 2019 (its shallow
    tower).

    Args:
        places: P; later ones share the last logit.

    Shapes: `call(position int [B, K]) -> [B, K]`.

    Example:
        >>> import numpy as np
        >>> tower = PositionTower(2)
        >>> _ = tower.logits.assign([1.0, -1.0])
        >>> ops.convert_to_numpy(tower(np.array([[1, 9, 0]]))).tolist()
        [[1.0, -1.0, 0.0]]
    """

    def __init__(self, places: int, **kwargs):
        super().__init__(**kwargs)
        if places < 1:
            raise ValueError(f"places must be at least 1, received {places}")
        self.places = int(places)
        self.logits = self.add_weight(shape=(self.places,), initializer="zeros", name="logits")
        self.built = True

    def call(self, position):
        known = ops.cast(position > 0, "float32")
        added = ops.take(self.logits, ops.clip(position, 1, self.places) - 1, axis=0)
        mean = ops.sum(added * known) / ops.maximum(ops.sum(known), 1.0)
        return (added - mean) * known
