"""Turning profile and attribute columns of any type into small integer codes with a readable vocabulary.

Where a vocabulary is known already, that of the release before, a column goes on in it: what was learned of a code is about
the same values. Intervals keep their edges, and categories stay categories however many they are by now.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd
import pyarrow as pa

from data.columns import read_numbers, read_texts

MAX_VALUES = 1000
"""A text column with more distinct values is an identifier or prose, not a category."""
BUCKETS = 10
NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
INTERVAL = re.compile(rf"\[({NUMBER}), ({NUMBER})([\])])")
TOMBSTONE = "forgotten-"
"""Start of what stands in the place of the id of a forgotten person, and of a value that nobody else had."""


@dataclasses.dataclass(frozen=True)
class Coding:
    """One coded column: int32 `codes` [rows] (0 = unknown) and `values`, the vocabulary (index 0 is "").

    `note`: what a known vocabulary could not take, "" = nothing.
    """

    codes: np.ndarray
    values: list[str]
    note: str = ""


def code_table(
    table: pa.Table, columns: Iterable[str], known: Mapping[str, Sequence[str]] | None = None
) -> tuple[dict[str, Coding], dict[str, str]]:
    """Code the named columns of a table; also returns the ignored ones, each with the reason.

    Args:
        known: vocabularies that columns go on in, by name; see `code_known`.
    """
    codings: dict[str, Coding] = {}
    ignored: dict[str, str] = {}
    for name in columns:
        kind, before = table.schema.field(name).type, (known or {}).get(name, [""])
        numeric = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
        if len(before) > 1:
            coding: Coding | None = code_known(table, name, before, numeric=numeric)
        elif numeric:
            coding = code_numbers(_given(table, name))
        else:
            coding = code_texts(read_texts(table, name))
        if coding is None:
            ignored[name] = f"more than {MAX_VALUES} distinct values"
        elif len(coding.values) == 1 or (len(before) > 1 and not coding.codes.any()):
            ignored[name] = f"no value in any row{'; ' if coding.note else ''}{coding.note}"
        else:
            codings[name] = coding
    return codings, ignored


def code_known(table: pa.Table, name: str, values: Sequence[str], *, numeric: bool) -> Coding:
    """A column in the codes of a vocabulary that it had before, new words behind.

    A column of intervals stays one: its numbers, of any type, fall into those of before, and what is no number is unknown.
    A column of words stays one: whole numbers are words, and what is not whole is unknown. Texts that name the intervals
    themselves are words.

    Args:
        values: the vocabulary; index 0 is "". numeric: whether the column is of a type of numbers.
    """
    edges = interval_edges(values)
    if not numeric:
        told = read_texts(table, name)
        if edges is None or pd.Series(told, dtype="str").str.strip().isin(values[1:]).any():
            return code_words(told, values)
    if edges is not None:
        coding = Coding(code_intervals(_given(table, name), edges), list(values))
        count, what = 0 if numeric else int(read_numbers(table, name).bad.sum()), "no numbers"
    else:
        texts, fractions = whole_texts(_given(table, name))
        coding, count, what = code_words(texts, values), int(fractions.sum()), "not whole"
    unread = f"{count:,} cells are {what} and count as unknown" if count else ""
    return dataclasses.replace(coding, note="; ".join(filter(None, [coding.note, unread])))


def code_words(texts: np.ndarray, values: Sequence[str]) -> Coding:
    """Codes of a vocabulary that is known, new words behind it, by frequency and then by value.

    Of a column that has more than `MAX_VALUES` distinct values by now the known words stay, and all others are unknown.

    Args:
        texts: object [rows]; surrounding blanks do not count, "" is unknown. values: the vocabulary; index 0 is "".

    Example:
        >>> coding = code_words(np.array(["new", "b", "", "newer", "new"], dtype=object), ["", "a", "b"])
        >>> coding.values, coding.codes.tolist()
        (['', 'a', 'b', 'new', 'newer'], [3, 2, 0, 4, 3])
    """
    of_row, words = pd.factorize(pd.Series(texts, dtype="str").str.strip())  # what follows is of distinct words, not of rows
    places: dict[str, int] = {}
    for code, value in enumerate(values):
        places.setdefault(value, code)
    found = pd.Index(list(places), dtype="str").get_indexer(pd.Index(words))
    codes = np.append(np.fromiter(places.values(), np.int64), -1)[found]
    new, distinct = np.flatnonzero(codes < 0), len(words) - int((codes == 0).sum())
    names: list[str] = []
    note = ""
    if len(new) and distinct > MAX_VALUES:
        note = f"{distinct:,} distinct values, above {MAX_VALUES:,}; the {len(new):,} new ones count as unknown"
        codes[new] = 0
    else:
        counts = np.bincount(of_row, minlength=len(words))
        ranked = sorted(new.tolist(), key=lambda row: (-counts[row], str(words[row])))
        codes[ranked] = len(values) + np.arange(len(ranked))
        names = [str(words[row]) for row in ranked]
    return Coding(codes[of_row].astype(np.int32), [*values, *names], note)


def code_intervals(numbers: np.ndarray, edges: Sequence[float]) -> np.ndarray:
    """int32 [rows]: the interval of every number, from 1; what lies beyond all of them falls into the nearest that has a name.

    Args:
        numbers: float64 [rows], NaN = unknown. edges: lower ones, see `interval_edges`.

    Example:
        >>> code_intervals(np.array([7, 18, 25, 120, np.nan]), [18.0, 25.0]).tolist()
        [1, 1, 2, 2, 0]
    """
    known = np.isfinite(numbers)
    codes = np.zeros(len(numbers), np.int32)
    codes[known] = np.maximum(np.searchsorted(np.asarray(edges), numbers[known], side="right"), first_interval(edges))
    return codes


def first_interval(edges: Sequence[float]) -> int:
    """The code of the lowest interval that a number may fall into; those before it are forgotten, and share its edge.

    Example:
        >>> first_interval([18.0, 25.0]), first_interval([40.0, 40.0, 60.0])
        (1, 2)
    """
    return int(np.searchsorted(np.asarray(edges), edges[0], side="right"))


def interval_edges(values: Sequence[str]) -> list[float] | None:
    """The lower edge of every interval of a column of numbers, rising; None for a column of other words.

    No number falls into an interval whose name has been forgotten, nor into those that follow the closed one, the last: a
    release whose nights cut anew has several sets of them, of which the first has learned the most.

    Args:
        values: the vocabulary; index 0 is "".

    Example:
        >>> interval_edges(["", "[18, 25)", "[25, 99]"]), interval_edges(["", "18", "25"])
        ([18.0, 25.0], None)
        >>> interval_edges(["", "[18, 25)", "forgotten-2", "[40, 99]", "[19, 27)", "[27, 98]"])
        [18.0, 40.0, 40.0]
    """
    matches = [INTERVAL.fullmatch(value) for value in values[1:]]
    if not any(matches) or any(
        match is None and not value.startswith(TOMBSTONE) for match, value in zip(matches, values[1:], strict=True)
    ):
        return None
    closed = next((place for place, match in enumerate(matches) if match and match[3] == "]"), len(matches) - 1)
    edges, above = [], math.inf
    for match in reversed(matches[: closed + 1]):
        above = float(match[1]) if match else above
        edges.append(above)
    edges.reverse()
    return edges if edges == sorted(edges) else None


def whole_texts(numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Whole numbers as text, object [rows], "" where there is none; and which are not whole, bool [rows].

    Example:
        >>> [part.tolist() for part in whole_texts(np.array([3, 0.5, np.nan]))]
        [['3', '', ''], [False, True, False]]
    """
    known = np.isfinite(numbers)
    whole = known & (np.abs(numbers) < 2.0**53)
    whole[whole] = np.floor(numbers[whole]) == numbers[whole]
    texts = np.full(len(numbers), "", dtype=object)
    texts[whole] = numbers[whole].astype(np.int64).astype(str)
    return texts, known & ~whole


def _given(table: pa.Table, name: str) -> np.ndarray:
    """float64 [rows]: the numbers of a column, NaN where there is none."""
    numbers = read_numbers(table, name)
    return np.where(numbers.bad, np.nan, numbers.values)


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
    texts, fractions = whole_texts(numbers)
    if not fractions.any() and len(np.unique(given)) <= MAX_VALUES:
        coding = code_texts(texts)
        assert coding is not None
        return coding
    edges = np.unique(np.quantile(given, np.linspace(0, 1, BUCKETS + 1), method="lower"))
    starts = edges[:-1] if len(edges) > 1 else edges
    # Read back, an edge must be the number that it was: the next release codes by these names.
    names = [repr(float(edge)).removesuffix(".0") for edge in edges]
    labels = [f"[{low}, {high})" for low, high in itertools.pairwise(names[:-1])]
    return Coding(code_intervals(numbers, starts.tolist()), ["", *labels, f"[{names[-2:][0]}, {names[-1]}]"])
