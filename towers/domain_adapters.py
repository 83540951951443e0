"""Per-domain adapters: what a domain does differently, on top of what all domains share."""

from __future__ import annotations

import keras
from keras import ops


@keras.saving.register_keras_serializable("triptych")
class DomainAdapters(keras.layers.Layer):
    """A small residual adapter for each domain of a catalogue.

    Formula: `y = x + U_d gelu(V_d x)` with d the item's domain and no bias, so 0 stays 0. Domain 0 is "unknown": its
    item keeps x. U starts at 0, so that every domain begins as the others. Houlsby et al., *Parameter-Efficient Transfer
    Learning for NLP*, ICML 2019; one adapter a domain as in Sheng et al., *One Model to Serve All*, CIKM 2021.

    Args:
        domains: number of domain codes, 0 included. rank: width of the adapter's hidden layer. seed: of the weights.

    Shapes: vectors [B, D], domain [B] int32 -> [B, D].

    Raises:
        ValueError: fewer than two codes or no hidden layer.
    """

    def __init__(self, domains: int, rank: int, seed: int = 0, **kwargs):
        super().__init__(**kwargs)
        if domains < 2 or rank < 1:
            raise ValueError(f"domains, rank: must be at least 2 and 1, received {domains} and {rank}")
        self.domains, self.rank, self.seed = domains, rank, seed

    def build(self, vectors_shape, domain_shape=None):
        width = vectors_shape[-1]
        normal = keras.initializers.RandomNormal(0.0, width**-0.5, seed=self.seed)
        self.down = self.add_weight(shape=(width, self.domains, self.rank), initializer=normal, name="down")
        self.up = self.add_weight(shape=(self.domains, self.rank, width), initializer="zeros", name="up")

    def call(self, vectors, domain):
        # All domains are computed and one is kept: they are few and small, and gathered matrices would be B of them.
        chosen = ops.one_hot(domain, self.domains, dtype=vectors.dtype)
        chosen = chosen * ops.cast(domain > 0, vectors.dtype)[:, None]
        hidden = ops.gelu(ops.einsum("bd,dek->bek", vectors, self.down)) * chosen[:, :, None]
        return vectors + ops.einsum("bek,ekd->bd", hidden, self.up)

    def compute_output_shape(self, vectors_shape, domain_shape=None):
        return vectors_shape

    def get_config(self):
        return {**super().get_config(), "domains": self.domains, "rank": self.rank, "seed": self.seed}
