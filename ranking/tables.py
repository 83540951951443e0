"""Tables that the ranker gathers from on the device: raw content, and what is known of items and users by row."""

from __future__ import annotations

import dataclasses

import keras
import numpy as np
from keras import ops

from ranking.config import RankerSpec
from ranking.popularity import PopularityTable
from ranking.stored_rows import take_rows

ITEM_NUMBERS = ("log popularity", "never in training", "log price", "price known", "release known")
INTEGERS = keras.backend.standardize_dtype("int")
"""Codes are kept in the backend's wide integers: TensorFlow places int32 variables on the host even beside a GPU."""
TYPICAL = 64
"""Items of the catalogue that make the typical candidate."""


@dataclasses.dataclass(frozen=True)
class SideInformation:
    """What a ranker knows by row, beside content.

    Shapes: `numbers` f32 [N + 1, 5] in the order of `ITEM_NUMBERS`; `released` f32 [N + 1], days after
    `RankerSpec.reference_time`; `attributes` int [N + 1, A]; `item_known` bool [N + 1] and `user_known` bool [U],
    whether the row has training events of its own (else it uses the id embedding of row 0); `profile` int [U, P].
    `popularity`: see `ranking.popularity`; None = all alike.
    """

    numbers: np.ndarray
    released: np.ndarray
    attributes: np.ndarray
    item_known: np.ndarray
    profile: np.ndarray
    user_known: np.ndarray
    popularity: PopularityTable | None = None


def collect_side_information(
    *,
    counts,
    price,
    created_at,
    attributes,
    item_known,
    profile,
    user_known,
    reference_time: int,
    popularity: PopularityTable | None = None,
) -> SideInformation:
    """Standardises the item columns over rows 1 to N; unknown values become the mean (0) and say so in a column of
    their own.

    Args:
        counts: positive training events of each item, [N + 1]. price: [N + 1], NaN = unknown.
        created_at: UTC seconds [N + 1], 0 = unknown. attributes: [N + 1, A] codes. profile: [U, P] codes.
        item_known, user_known: bool [N + 1], [U].
        reference_time: UTC seconds, see `RankerSpec`. popularity: as of the days of the requests.
    """
    counts, price, created_at = (np.asarray(column) for column in (counts, price, created_at))
    priced, dated = np.isfinite(price) & (price >= 0), created_at > 0
    priced[0] = dated[0] = False
    log_price = np.log1p(np.where(priced, price, 0.0))
    rest = np.stack([_standardised(log_price, priced), priced, dated], axis=1)
    numbers = np.concatenate([popularity_numbers(counts), rest], axis=1).astype(np.float32)
    numbers[0] = 0
    released = np.where(dated, (created_at.astype(np.int64) - reference_time) / 86_400, 0).astype(np.float32)
    known = [np.asarray(flags, bool).copy() for flags in (item_known, user_known)]
    for flags in known:
        flags[0] = False
    return SideInformation(
        numbers, released, np.asarray(attributes), known[0], np.asarray(profile), known[1], popularity
    )


def popularity_numbers(counts: np.ndarray) -> np.ndarray:
    """The first two of `ITEM_NUMBERS`: standardised log1p of the counts, and whether it is 0. [N + 1] -> [N + 1, 2]"""
    there = np.arange(len(counts)) > 0
    return np.stack([_standardised(np.log1p(counts), there), there & (counts == 0)], axis=1).astype(np.float32)


def _standardised(column: np.ndarray, present: np.ndarray) -> np.ndarray:
    if not present.any():
        return np.zeros(len(column))
    return np.where(present, (column - column[present].mean()) / max(float(column[present].std()), 1e-6), 0.0)


def typical_rows(item_rows: int) -> np.ndarray:
    """Rows spread evenly over the catalogue, at most `TYPICAL` of them; [0] where it is empty.

    Example:
        >>> typical_rows(4).tolist(), len(typical_rows(1501))
        ([1, 2, 3], 64)
    """
    count = item_rows - 1
    taken = min(count, TYPICAL)
    return (1 + np.arange(taken) * count // taken).astype(np.int32) if count > 0 else np.zeros(1, np.int32)


class SideTables(keras.layers.Layer):
    """`SideInformation` as non-trainable weights, so that a saved ranker needs nothing but rows.

    Args:
        spec: sizes of the tables. half_lives: H, columns of popularity.
    """

    def __init__(self, spec: RankerSpec, half_lives: int, **kwargs):
        super().__init__(**kwargs)
        self.spec, schema = spec, spec.schema
        shapes = {
            "numbers": ((schema.item_rows, len(ITEM_NUMBERS)), "float32"),
            "released": ((schema.item_rows,), "float32"),
            "attributes": ((schema.item_rows, len(schema.attributes)), INTEGERS),
            "item_known": ((schema.item_rows,), INTEGERS),
            "profile": ((schema.user_rows, len(schema.profile)), INTEGERS),
            "user_known": ((schema.user_rows,), INTEGERS),
        }
        self.tables = {
            name: self.add_weight(shape=shape, dtype=dtype, initializer="zeros", trainable=False, name=name)
            for name, (shape, dtype) in shapes.items()
        }
        self.popularity_table = self.add_weight(
            shape=(spec.popularity_moments * schema.item_rows, half_lives),
            dtype="float16",
            initializer="zeros",
            trainable=False,
            autocast=False,
            name="popularity",
        )
        self.built = True

    def assign(self, side: SideInformation) -> None:
        """Fills the tables.

        Raises:
            ValueError: if a table has another shape than the spec's.
        """
        for name, weight in self.tables.items():
            values = np.asarray(getattr(side, name))
            if values.shape != tuple(weight.shape):
                raise ValueError(f"side.{name} must have shape {tuple(weight.shape)}, received {values.shape}")
            weight.assign(values.astype(weight.dtype))
        if side.popularity is not None:
            shape = (self.spec.popularity_moments, self.spec.schema.item_rows, self.popularity_table.shape[1])
            if side.popularity.values.shape != shape:
                raise ValueError(f"side.popularity must have shape {shape}, received {side.popularity.values.shape}")
            lines = side.popularity.values.reshape(self.popularity_table.shape)
            self.popularity_table.assign(lines.astype(np.float16))

    def popularity(self, time, rows):
        """Popularity of rows [B, K] as of the last moment at or before each time [B]; time 0 (unknown) = the newest.

        Returns: f32 [B, K, H].
        """
        last = self.spec.popularity_moments - 1
        if not last:  # all times have the same answer, whenever it was
            return ops.cast(ops.take(self.popularity_table, rows, axis=0), "float32")
        moment = ops.clip((time - self.spec.popularity_start) // self.spec.popularity_step, 0, last)
        moment = ops.cast(ops.where(time > 0, moment, last), rows.dtype)
        lines = ops.take(self.popularity_table, moment[:, None] * self.spec.schema.item_rows + rows, axis=0)
        return ops.cast(lines, "float32")

    def take(self, name: str, rows):
        """Lines of a table for rows of any shape."""
        table = self.tables[name]
        # Numbers may be stored smaller; codes and days are taken as they are.
        return take_rows(table, rows) if name == "numbers" else ops.take(table, rows, axis=0)


class ContentTable(keras.layers.Layer):
    """Raw vectors of one modality as a non-trainable weight that is never written to a weights file.

    The table is an input, as large as the feature store; a checkpoint that repeated it would be mostly copy. The layer
    therefore saves nothing, and whoever loads a ranker assigns the tables again.

    Args:
        rows: N + 1. width: F_m. dtype: of the stored values; gathered lines are float32.
    """

    def __init__(self, rows: int, width: int, dtype: str = "float16", **kwargs):
        super().__init__(**kwargs)
        self.table = self.add_weight(
            shape=(rows, width), dtype=dtype, initializer="zeros", trainable=False, autocast=False, name="table"
        )
        self.built = True

    def call(self, rows):
        return ops.cast(ops.take(self.table, rows, axis=0), "float32")

    def save_own_variables(self, store):
        """Nothing: see the class."""

    def load_own_variables(self, store):
        """Nothing: see the class."""
