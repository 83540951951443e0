"""An embedding table that can be looked up elsewhere for a while: in the few of its rows that a step is about."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import keras
from keras import ops


@keras.saving.register_keras_serializable("triptych")
class RowEmbedding(keras.layers.Embedding):
    """`keras.layers.Embedding` whose rows a training step can take from a working copy.

    Under mixed precision rows are found in float32 and only then cast; Keras would cast the whole table in every step.

    Example:
        >>> layer = RowEmbedding(3, 2)
        >>> with layer.looked_up(lambda rows: "rows of the copy"):
        ...     layer.rows(1)
        'rows of the copy'
    """

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **{**options, "dtype": "float32"})
        self._works_in = keras.config.dtype_policy().compute_dtype
        self._look_up: Callable | None = None

    @contextmanager
    def looked_up(self, look_up: Callable) -> Iterator[None]:
        """Within, rows come from `look_up(rows)`."""
        self._look_up = look_up
        try:
            yield
        finally:
            self._look_up = None

    def rows(self, rows, training=False):
        """Rows in float32. Outside training by the plain operation: an exported graph needs no gradient, and a function of
        one's own in it has another name in every process."""
        if self._look_up is not None:
            return self._look_up(rows)
        return take_rows(self.embeddings, rows) if training else ops.take(self.embeddings, rows, axis=0)

    def call(self, inputs, training=False):
        return ops.cast(self.rows(inputs, training), self._works_in)


def take_rows(table, rows):
    """Rows of a table, with a gradient that is an array like the table.

    TensorFlow would hand the optimizer the gradient as a list of rows, and Keras merges such lists by comparing every row
    number with every other: for 4,096 of them that takes longer than the loss.

    Shapes: table [N, D], rows int [...] -> [..., D].
    """
    number, width = table.shape

    @ops.custom_gradient
    def taken(table):
        def gradient(upstream):
            return ops.segment_sum(ops.reshape(upstream, (-1, width)), ops.reshape(rows, (-1,)), number)

        return ops.take(table, rows, axis=0), gradient

    # A cast to its own type reads the variable: TensorFlow takes no variables into a custom gradient outside a graph.
    return taken(ops.cast(table, table.dtype))
