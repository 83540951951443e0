"""Training a large embedding table by the rows of the batch alone: the cost of a step is that of the batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from typing import Any

import keras
import numpy as np
from keras import ops

from towers.row_embedding import RowEmbedding, take_rows
from towers.table_rows import read_rows, write_rows

LARGE_TABLE = 50_000
"""Rows from which `auto` trains a table by rows: below, a pass over the table is a small part of a step."""


class SparseRows(keras.layers.Layer):
    """The rows of one table that a step works on, and their optimizer slots.

    Before a step the batch's rows, and what the optimizer remembers of them, are copied into variables of the batch's
    size; the step trains these as it would any weight, with any optimizer; then they are written back to their places.
    Rows that a batch does not name are not touched: their momentum does not decay and their weights do not (the lazy Adam
    of sparse training). Where every row is named in every step, it is exactly the dense training. The global norm of the
    gradients is the same as in dense training, where the other rows' are zeros.

    Args:
        embedding: the layer; its table stops being trainable and is written to by `store`.
        capacity: rows a batch names at most, repetitions included.
    """

    def __init__(self, embedding: RowEmbedding, capacity: int, **kwargs):
        super().__init__(**kwargs)
        table = embedding.embeddings
        table.trainable = False
        # Behind functions: the layer and its weights belong to the tower, and are not to be counted twice.
        self._embedding = lambda: embedding
        self.active = self.add_weight(shape=(capacity, table.shape[1]), initializer="zeros", name="active")
        self.capacity = capacity
        self._slots: list[tuple[keras.Variable, keras.Variable]] = []
        self.built = True

    @property
    def table(self) -> keras.Variable:
        return self._embedding().embeddings

    def connect(self, optimizer: keras.optimizers.Optimizer) -> None:
        """Give every slot that a built optimizer keeps of the active rows a table of the whole size."""
        name, shape = self.active.path.replace("/", "_"), tuple(self.active.shape)
        slots = [slot for slot in optimizer.variables if tuple(slot.shape) == shape and name in slot.path]
        self._slots = []
        for number, slot in enumerate(slots):
            start = float(np.asarray(ops.convert_to_numpy(slot.value)).flat[0])  # zeros, or Adagrad's first accumulator
            table = self.add_weight(
                shape=self.table.shape,
                initializer=keras.initializers.Constant(start),
                trainable=False,
                name=f"slot_{number}",
            )
            self._slots.append((slot, table))

    def _pairs(self) -> list[tuple[keras.Variable, keras.Variable]]:
        return [(self.active, self.table), *self._slots]

    def load(self, rows) -> None:
        """Copy rows [A] in; A is at most the capacity, repetitions are allowed."""
        places = ops.arange(ops.shape(rows)[0], dtype="int32")
        for active, table in self._pairs():
            write_rows(active, places, read_rows(table, rows))

    def store(self, rows) -> None:
        """Write rows [A], ascending, back. One named twice was trained in its first place, and is written from there."""
        first = ops.searchsorted(rows, rows)
        for active, table in self._pairs():
            write_rows(table, rows, read_rows(active, first))

    def looked_up(self, loaded) -> AbstractContextManager:
        """Within, the layer finds its rows among the loaded ones. loaded: [A], ascending."""

        def look_up(rows):
            if rows is loaded:  # all of them, in their order
                return ops.convert_to_tensor(self.active)[: ops.shape(rows)[0]]
            return take_rows(self.active, ops.searchsorted(loaded, rows))

        return self._embedding().looked_up(look_up)


def train_rows(rows_of: Sequence[tuple[SparseRows, Any]], step: Callable[[], Any]) -> Any:
    """Run a training step on loaded rows, where variables change in place.

    Args:
        rows_of: each table and its rows in the batch, ascending. step: () -> what is returned.
    """
    with ExitStack() as stack:
        for part, rows in rows_of:
            part.load(rows)
            stack.enter_context(part.looked_up(rows))
        result = step()
    for part, rows in rows_of:
        part.store(rows)
    return result


def train_rows_of_state(
    task: keras.Model, rows_of: Sequence[tuple[SparseRows, Any]], step: Callable[[Any], tuple[Any, Any]], state: Any
) -> tuple[Any, Any]:
    """The same where a step is a function of the state: four lists of values (trainable, not trainable, optimizer,
    metrics), as Keras passes them on JAX.

    Args:
        task: whose variables the state is of. step: state -> what is returned, new state.
    """
    groups = task.trainable_variables, task.non_trainable_variables, task.optimizer.variables, task.metrics_variables

    def changed(state: Any, change: Callable[[SparseRows, Any], None]) -> Any:
        pairs = [pair for group, values in zip(groups, state, strict=True) for pair in zip(group, values, strict=True)]
        with keras.StatelessScope(state_mapping=pairs) as scope:
            for part, rows in rows_of:
                change(part, rows)
        new = [[scope.get_current_value(variable) for variable in group] for group in groups]
        return tuple(
            [old if value is None else value for old, value in zip(olds, values, strict=True)]
            for olds, values in zip(state, new, strict=True)
        )

    with ExitStack() as stack:
        for part, rows in rows_of:
            stack.enter_context(part.looked_up(rows))
        result, state = step(changed(state, SparseRows.load))
    return result, changed(state, SparseRows.store)
