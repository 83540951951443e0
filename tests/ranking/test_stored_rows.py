"""Tables in half precision and in eight bits: errors within their bounds, the same answer from every backend."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ranking.array_ops import numpy_ops
from ranking.stored_rows import restore_rows, store_rows, take_rows

TABLES = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=2, max_dims=3, min_side=8, max_side=12),
    elements=st.floats(-60_000, 60_000, width=32),
)


@given(TABLES, st.integers(-100, 0))
def test_eight_bits_err_by_less_than_a_step(table: np.ndarray, exponent: int):
    table = (table * np.float32(2.0**exponent)).astype(np.float32)
    stored = store_rows(table, "int8")
    assert stored.nbytes == table[..., 0].size * (table.shape[-1] + 2)
    restored = restore_rows(stored, ops=numpy_ops)
    # Half a step; a step is 1/127 of the largest value of the row, rounded up by 1/256 at most; and float32's own error.
    bound = np.abs(table).max(axis=-1, keepdims=True).astype(np.float64) / 254 * (1 + 1 / 256) * (1 + 1e-6) + 2.0**-119
    assert (np.abs(restored - table.astype(np.float64)) <= bound).all()
    # A row of one size keeps its signs and zeros, and a scaled row has scaled values.
    assert (np.sign(restored) * np.sign(table) >= 0).all()
    assert (restored[table == 0] == 0).all()


@given(TABLES)
def test_half_precision_errs_by_its_rounding(table: np.ndarray):
    restored = restore_rows(store_rows(table, "float16"), ops=numpy_ops)
    assert (np.abs(restored - table) <= np.abs(table) * 2.0**-11 + 2.0**-25).all()
    np.testing.assert_array_equal(restore_rows(store_rows(table, "float32"), ops=numpy_ops), table)


@pytest.mark.parametrize("precision", ["float32", "float16", "int8"])
def test_gathering_then_restoring_is_restoring_then_gathering(precision):
    table = np.random.default_rng(0).normal(size=(7, 3, 16)).astype(np.float32)
    rows = np.array([[0, 6, 6], [3, 1, 0]])
    stored = store_rows(table, precision)
    expected = restore_rows(stored, ops=numpy_ops)[rows]
    np.testing.assert_array_equal(take_rows(stored, rows, ops=numpy_ops), expected)
    found = np.asarray(take_rows(stored, rows))  # by the backend
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert found.dtype == np.float32


def test_narrow_rows_stay_exact_flags():
    flags = np.array([[0, 1, 1], [1, 0, 1]], np.float32)
    assert store_rows(flags, "int8").dtype == np.float16
    np.testing.assert_array_equal(np.asarray(take_rows(store_rows(flags, "int8"), np.array([1]))), flags[1:])


def test_refusals():
    with pytest.raises(ValueError, match="precision: must be one of"):
        store_rows(np.zeros((1, 8)), "int4")  # type: ignore[arg-type]
    for value in (np.nan, np.inf, 7e4):
        with pytest.raises(ValueError, match="table: values must be finite and within 65504"):
            store_rows(np.full((1, 8), value), "int8")
