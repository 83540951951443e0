"""Turning profile and attribute columns of any type into small integer codes with a readable vocabulary."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable

import numpy as np
import pandas as pd
import pyarrow as pa

from data.columns import read_numbers, read_texts

MAX_VALUES = 1000
"""A text column with more distinct values is an identifier or prose, not a category."""
BUCKETS = 10


@dataclasses.dataclass(frozen=True)
class Coding:
    """One coded column: int32 `codes` [rows] (0 = unknown) and `values`, the vocabulary (index 0 is "")."""

    codes: np.ndarray
    values: list[str]


def code_table(table: pa.Table, columns: Iterable[str]) -> tuple[dict[str, Coding], dict[str, str]]:
    """Code the named columns of a table; also returns the ignored ones, each with the reason."""
    codings: dict[str, Coding] = {}
    ignored: dict[str, str] = {}
    for name in columns:
        kind = table.schema.field(name).type
        if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
            numbers = read_numbers(table, name)
            coding: Coding | None = code_numbers(np.where(numbers.bad, np.nan, numbers.values))
        else:
            coding = code_texts(read_texts(table, name))
        if coding is None:
            ignored[name] = f"more than {MAX_VALUES} distinct values"
        elif len(coding.values) == 1:
            ignored[name] = "no value in any row"
        else:
            codings[name] = coding
    return codings, ignored


def code_texts(texts: np.ndarray, *, keep_most_frequent: bool = False) -> Coding | None:
    """Codes by frequency, then by value; None if there are more than `MAX_VALUES` distinct ones.

    Args:
        texts: object [rows]; surrounding blanks do not count, "" is unknown.
        keep_most_frequent: code the `MAX_VALUES` most frequent instead of giving up.

    Example:
        >>> coding = code_texts(np.array(["b", "a", "", "b", "c"], dtype=object))
        >>> coding.values, coding.codes.tolist()
        (['', 'b', 'a', 'c'], [1, 2, 0, 1, 3])
    """
    column = pd.Series(texts, dtype="str").str.strip()
    counts = column[column != ""].value_counts()
    if len(counts) > MAX_VALUES and not keep_most_frequent:
        return None
    ranked = sorted(counts.items(), key=lambda pair: (-pair[1], str(pair[0])))[:MAX_VALUES]
    values = ["", *(str(value) for value, _ in ranked)]
    codes = pd.Index(values).get_indexer(pd.Index(column))
    return Coding(np.maximum(codes, 0).astype(np.int32), values)


def code_numbers(numbers: np.ndarray) -> Coding:
    """Whole numbers with at most `MAX_VALUES` distinct values are categories, others fall into quantile buckets.

    Args:
        numbers: float64 [rows], NaN = unknown.

    Example:
        >>> code_numbers(np.array([25, 18, np.nan, 25])).values
        ['', '25', '18']
        >>> code_numbers(np.array([0.5, 1.5])).values
        ['', '[0.5, 1.5]']
    """
    known = np.isfinite(numbers)
    given = numbers[known]
    whole = bool((np.floor(given) == given).all() and (np.abs(given) < 2.0**53).all())
    if whole and len(np.unique(given)) <= MAX_VALUES:
        texts = np.full(len(numbers), "", dtype=object)
        texts[known] = given.astype(np.int64).astype(str)
        coding = code_texts(texts)
        assert coding is not None
        return coding
    edges = np.unique(np.quantile(given, np.linspace(0, 1, BUCKETS + 1), method="lower"))
    codes = np.zeros(len(numbers), np.int32)
    codes[known] = np.searchsorted(edges[:-1], given, side="right")
    if len(edges) == 1:
        codes[known] = 1
        return Coding(codes, ["", f"[{edges[0]:g}, {edges[0]:g}]"])
    labels = [f"[{low:g}, {high:g})" for low, high in itertools.pairwise(edges[:-1])]
    return Coding(codes, ["", *labels, f"[{edges[-2]:g}, {edges[-1]:g}]"])
