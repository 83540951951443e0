"""Fusion: one vector out of the modalities that an item has.

One contract: `fusion(tokens [B, M, D], present [B, M]) -> (fused [B, D], {name: intermediate})`. What is absent counts for
nothing and all absent gives 0. `towers.fusion_attention` holds the forms that attend. Every form starts as the plain sum
(or mean) of the tokens, which already works.
"""

from __future__ import annotations

from collections.abc import Sequence

import keras
import numpy as np
from keras import ops


@keras.saving.register_keras_serializable("triptych")
class ModalityDropout(keras.layers.Layer):
    """Hide present modalities at random in training, never the last one an item has.

    This is what makes an item without a cover, or without a history (its id is a modality too), as good as its
    remaining modalities allow: the tower has met such items. Ngiam et al., *Multimodal Deep Learning*, ICML 2011;
    Volkovs et al., *DropoutNet*, NeurIPS 2017.

    Args:
        rates: probability of hiding each modality, in the order of axis M.

    Shapes: present [B, M] bool -> [B, M] bool.
    """

    def __init__(self, rates, seed: int = 0, **kwargs):
        super().__init__(**kwargs)
        self.rates = tuple(float(rate) for rate in rates)
        if any(not 0 <= rate < 1 for rate in self.rates):
            raise ValueError(f"rates: every rate must lie in [0, 1), received {self.rates}")
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed)

    def call(self, present, training=False):
        if not training or not any(self.rates):
            return present
        draw = keras.random.uniform(ops.shape(present), seed=self.seed_generator)
        kept = ops.logical_and(present, draw >= ops.convert_to_tensor(self.rates, dtype=draw.dtype))
        return ops.where(ops.any(kept, axis=-1, keepdims=True), kept, present)

    def compute_output_shape(self, present_shape):
        return present_shape

    def get_config(self):
        return {**super().get_config(), "rates": self.rates, "seed": self.seed}


@keras.saving.register_keras_serializable("triptych")
class GatedFusion(keras.layers.Layer):
    """Weigh each modality by a gate that looks at all of them, and add them up.

    Formula: `g = 2 sigmoid(W [t_1; ...; t_M] + b)`, zero where absent; `fused = sum_m g_m t_m`. With W = 0 at the
    start every gate is 1 and fusion is a plain sum. The gates see the learned absent token where a modality is absent,
    so that "no cover" is information. Arevalo et al., *Gated Multimodal Units*, 2017.

    Shapes: tokens [B, M, D], present [B, M] bool -> fused [B, D] and {"gates": [B, M]}. All absent gives 0.
    """

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense: keras.layers.Dense | None = None

    def build(self, tokens_shape, present_shape=None):
        modalities, width = tokens_shape[1], tokens_shape[2]
        self.dense = keras.layers.Dense(modalities, kernel_initializer="zeros", name="gate")
        self.dense.build((None, modalities * width))

    def call(self, tokens, present):
        modalities, width = tokens.shape[1], tokens.shape[2]
        gates = 2.0 * ops.sigmoid(self.dense(ops.reshape(tokens, (-1, modalities * width))))
        gates = gates * ops.cast(present, gates.dtype)
        return ops.sum(gates[:, :, None] * tokens, axis=1), {"gates": gates}

    def compute_output_shape(self, tokens_shape, present_shape=None):
        return (tokens_shape[0], tokens_shape[2]), {"gates": (tokens_shape[0], tokens_shape[1])}


@keras.saving.register_keras_serializable("triptych")
class ConcatFusion(keras.layers.Layer):
    """One linear map of all tokens side by side, and of which of them are there.

    Formula: `fused = W [p_1 t_1; ...; p_M t_M] + U p` with p in {0, 1}. W starts as M identities, U as 0. There is no
    bias, so nothing present gives 0; U says what "no cover" means.

    Shapes: tokens [B, M, D], present [B, M] bool -> fused [B, D] and {}.
    """

    def build(self, tokens_shape, present_shape=None):
        modalities, width = tokens_shape[1], tokens_shape[2]
        start = np.tile(np.eye(width, dtype=np.float32), (modalities, 1))
        self.kernel = self.add_weight(
            shape=start.shape, initializer=lambda shape, dtype=None: ops.convert_to_tensor(start, dtype), name="kernel"
        )
        self.presence = self.add_weight(shape=(modalities, width), initializer="zeros", name="presence")

    def call(self, tokens, present):
        modalities, width = tokens.shape[1], tokens.shape[2]
        there = ops.cast(present, tokens.dtype)
        side_by_side = ops.reshape(tokens * there[:, :, None], (-1, modalities * width))
        return ops.matmul(side_by_side, self.kernel) + ops.matmul(there, self.presence), {}

    def compute_output_shape(self, tokens_shape, present_shape=None):
        return (tokens_shape[0], tokens_shape[2]), {}


@keras.saving.register_keras_serializable("triptych")
class WeightedFusion(keras.layers.Layer):
    """A sum of the tokens that are there, each times a coefficient of its modality.

    Formula: `fused = sum_m p_m c_m t_m`. With c fixed the item tower stays linear in its content.

    Args:
        fixed: c; one number stands for every modality. Empty = learned, 1 at the start.

    Shapes: tokens [B, M, D], present [B, M] bool -> fused [B, D] and {"weights": [B, M]}.

    Raises:
        ValueError: another number of coefficients than modalities.

    Example:
        >>> fusion = WeightedFusion((1.0, 0.5))
        >>> fused, _ = fusion(ops.array([[[2.0, 0.0], [0.0, 2.0]]]), ops.array([[True, True]]))
        >>> ops.convert_to_numpy(fused).tolist()
        [[2.0, 1.0]]
    """

    def __init__(self, fixed: Sequence[float] = (), **kwargs):
        super().__init__(**kwargs)
        self.fixed = tuple(float(number) for number in fixed)

    def build(self, tokens_shape, present_shape=None):
        modalities = tokens_shape[1]
        if len(self.fixed) not in (0, 1, modalities):
            raise ValueError(
                f"fixed: must hold no coefficient, one, or one for each of {modalities} modalities (the id first), "
                f"received {self.fixed}; see retrieval.fusion_weights"
            )
        start = np.broadcast_to(np.array(self.fixed or (1.0,), np.float32), (modalities,))
        self.coefficients = self.add_weight(
            shape=(modalities,),
            initializer=lambda shape, dtype=None: ops.convert_to_tensor(start, dtype),
            trainable=not self.fixed,
            name="coefficients",
        )

    def call(self, tokens, present):
        weights = self.coefficients * ops.cast(present, tokens.dtype)
        return ops.sum(weights[:, :, None] * tokens, axis=1), {"weights": weights}

    def compute_output_shape(self, tokens_shape, present_shape=None):
        return (tokens_shape[0], tokens_shape[2]), {"weights": (tokens_shape[0], tokens_shape[1])}

    def get_config(self):
        return {**super().get_config(), "fixed": self.fixed}


def unit_length(vectors, there=None):
    """Scale vectors to length 1; a zero vector stays zero and has a finite gradient (`ops.normalize` gives NaN there).

    Formula: `x / sqrt(sum x^2 + 1e-12)`, and 0 where nothing is `there` (None = everywhere). Shapes: [..., D], [..., 1] bool ->
    [..., D] float32, whatever the layer before computed in: half precision has no room for the squares.

    Example:
        >>> ops.convert_to_numpy(unit_length(ops.array([[3.0, 4.0], [0.0, 0.0]]))).astype("float64").round(3).tolist()
        [[0.6, 0.8], [0.0, 0.0]]
    """
    vectors = ops.cast(vectors, "float32")
    scales = ops.rsqrt(ops.sum(ops.square(vectors), axis=-1, keepdims=True) + 1e-12)
    return vectors * (scales if there is None else scales * ops.cast(there, "float32"))
