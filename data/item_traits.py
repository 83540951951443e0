"""What a catalogue says of its items in words and numbers, one table a column: categories, tags, coded attributes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from data.catalogue import LISTS
from data.dataset import ATTRIBUTE, NEVER, Dataset

MOST_VALUES, FEWEST_ITEMS = 2000, 2
"""Values of a column that are told apart, the most frequent; one that a single item has likens it to nothing."""
STEPS = np.linspace(0.0, 1.0, 21)
NEARNESS = 0.07
"""Places along a column of numbers, in shares of the items, and how far around it each is felt."""
DERIVED = "category"
"""The attribute that the ingest makes of the first category, which `categories` holds whole; where a catalogue has none, a
column of its own."""

Trait = tuple[np.ndarray, np.ndarray]
"""(table [N + 1, F] float32, present [N + 1] bool); row 0 is absent."""


def item_traits(dataset: Dataset) -> dict[str, Trait]:
    """One table a column of the catalogue that says anything; items that share its values, or have near ones, are alike.

    Texts and codes become one column a value, numbers (price, release, attributes that are all numbers) a place among
    the items: what is near by the share of items between counts, not the difference.

    Returns: {column: (table [N + 1, F], present [N + 1])}.
    """
    items = dataset.items
    traits = {
        name: of_lists([split_values(text) for text in items[name].to_numpy(dtype=object)])
        for name in LISTS
        if name in items
    }
    for name in ("price", "created_at"):
        numbers = items[name].to_numpy(np.float64)
        traits[name] = of_numbers(np.where((numbers > 0) & (numbers < NEVER), numbers, np.nan))
    derived = {DERIVED} if "categories" in items and (items["categories"] != "").any() else set()
    for name, values in dataset.attribute_vocabulary.items():
        if name in derived:
            continue
        codes, places = items[ATTRIBUTE + name].to_numpy(np.int64), numbers_of(values)
        if places is None:
            traits[ATTRIBUTE + name] = of_lists([[values[code]] if code else [] for code in codes])
        else:
            traits[ATTRIBUTE + name] = of_numbers(places[codes])
    return {name: (table, present) for name, (table, present) in traits.items() if table.shape[1]}


def split_values(text: str) -> list[str]:
    """The values of a cell, joined by `|`, or by commas where there is no `|`; each once.

    Example:
        >>> split_values("Bill Paxton, Helen Hunt"), split_values("sun, sea | sand"), split_values("")
        (['Bill Paxton', 'Helen Hunt'], ['sun, sea', 'sand'], [])
    """
    parts = text.split("|" if "|" in text else ",")
    return list(dict.fromkeys(part.strip() for part in parts if part.strip()))


def numbers_of(values: Sequence[str]) -> np.ndarray | None:
    """The numbers behind a vocabulary's values, of a bucket its lower bound; None where they are no numbers.

    Args:
        values: index 0 is unknown and becomes NaN.

    Example:
        >>> numbers_of(["", "1999", "1987"]).tolist(), numbers_of(["", "[0.5, 2)", "[2, 7]"]).tolist()
        ([nan, 1999.0, 1987.0], [nan, 0.5, 2.0])
        >>> numbers_of(["", "1999", "PG"]) is None
        True
    """
    try:
        return np.array([np.nan, *(float(value.removeprefix("[").split(",")[0]) for value in values[1:])])
    except ValueError:
        return None


def of_lists(lists: Sequence[Sequence[str]]) -> Trait:
    """A column of ones and zeros a value. lists: [N + 1] of values -> table [N + 1, F], present [N + 1]."""
    counts = Counter(value for values in lists for value in values)
    common = sorted((value for value, count in counts.items() if count >= FEWEST_ITEMS), key=lambda v: (-counts[v], v))
    places = {value: place for place, value in enumerate(common[:MOST_VALUES])}
    table = np.zeros((len(lists), len(places)), np.float32)
    for row, values in enumerate(lists):
        table[row, [places[value] for value in values if value in places]] = 1.0
    return table, np.asarray(table.any(axis=1))


def of_numbers(numbers: np.ndarray) -> Trait:
    """Bumps around `STEPS`, so that two items' product falls with the share of the items between them.

    Formula: with `r` the share of the known items below, half of those level counted, `t_c = exp(-(r - c)^2 / 2 h^2)`.

    Shapes: numbers float64 [N + 1], NaN unknown -> table [N + 1, 21], present [N + 1]; no columns where all are level.
    """
    known = np.isfinite(numbers)
    given = np.sort(numbers[known])
    if len(given) == 0 or given[0] == given[-1]:
        return np.zeros((len(numbers), 0), np.float32), np.zeros(len(numbers), bool)
    rank = (np.searchsorted(given, numbers, "left") + np.searchsorted(given, numbers, "right")) / (2 * len(given))
    table = np.exp(-((rank[:, None] - STEPS) ** 2) / (2 * NEARNESS**2))
    return np.where(known[:, None], table, 0.0).astype(np.float32), known
