"""A Keras text model inside a `tf.Module` whose table of tokens is packed and read row by row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf

from serving.graphs.packed_table import PackedTable
from serving.graphs.partial_weights import PartialWeights

TOKENS = "token_ids"
TABLE = "token_embedding/embeddings"


class TokenWeights(tf.Module):
    """Runs a Keras text model on copies of its weights; of its token table only the rows of a batch are ever unpacked.

    The batch's distinct tokens are looked up first; their rows stand in for the whole table, and the tokens are
    numbered anew to match. Nothing of the model has to be known but where it keeps its tokens.

    Args:
        model: a built Keras model over a dict of tensors, `token_ids` among them, with one weight whose path ends in
            `token_embedding/embeddings`.
        name: prefix of the variables.

    Raises:
        ValueError: the model has no such weight, or several.
    """

    def __init__(self, model: Any, name: str):
        super().__init__(name=name)
        tables = [weight for weight in model.weights if weight.path.endswith(TABLE)]
        if len(tables) != 1:
            raise ValueError(f"model: needs one weight {TABLE}, received {[weight.path for weight in tables]}")
        self.table = PackedTable(keras.ops.convert_to_numpy(tables[0]), f"{name}_tokens")
        self.model = PartialWeights(model, name, tables)

    def __call__(self, tensors: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """What the model answers in inference mode."""
        tokens = tensors[TOKENS]
        distinct, places = tf.unique(tf.reshape(tokens, (-1,)))
        return self.model([self.table.rows(distinct)], {**tensors, TOKENS: tf.reshape(places, tf.shape(tokens))})
