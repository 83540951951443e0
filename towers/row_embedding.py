"""An embedding table that can be looked up elsewhere for a while: in the few of its rows that a step is about."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import keras


@keras.saving.register_keras_serializable("triptych")
class RowEmbedding(keras.layers.Embedding):
    """`keras.layers.Embedding` whose rows a training step can take from a working copy.

    Example:
        >>> layer = RowEmbedding(3, 2)
        >>> with layer.looked_up(lambda rows: "rows of the copy"):
        ...     layer.rows(1)
        'rows of the copy'
    """

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self._look_up: Callable | None = None

    @contextmanager
    def looked_up(self, look_up: Callable) -> Iterator[None]:
        """Within, rows come from `look_up(rows)`."""
        self._look_up = look_up
        try:
            yield
        finally:
            self._look_up = None

    def rows(self, rows):
        return super().call(rows) if self._look_up is None else self._look_up(rows)

    def call(self, inputs):
        return self.rows(inputs)
