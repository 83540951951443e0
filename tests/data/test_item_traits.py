"""Columns of a catalogue as tables: shared values by a loop, nearness of numbers by the share of items between."""

import numpy as np
import pandas as pd
import pytest

from data.ingest import ingest
from data.item_traits import FEWEST_ITEMS, item_traits, of_lists, of_numbers


def test_of_a_catalogue_every_column_that_says_something(tmp_path):
    folder = tmp_path / "source"
    folder.mkdir()
    ids = [f"i{row}" for row in range(6)]
    pd.DataFrame(
        {"user_id": ["a"] * 6 + ["b"] * 6, "item_id": ids * 2, "split": (["train"] * 4 + ["valid", "test"]) * 2}
    ).to_parquet(folder / "interactions.parquet")
    pd.DataFrame(
        {
            "item_id": ids,
            "categories": ["jazz|live", "jazz", "rock", "rock|live", None, "solo"],
            "tags": [["Ann", "Bob"], ["Ann"], ["Bob"], None, ["Cid"], []],
            "year": [1990, 1991, 1999, 1990, 2000, None],
            "label": ["x", "y", "x", "y", "z", None],
            "price": [1.0, 2.0, None, 4.0, 5.0, 6.0],
        }
    ).to_parquet(folder / "items.parquet")
    traits = item_traits(ingest(folder, tmp_path / "out"))
    assert set(traits) == {"categories", "tags", "attribute_year", "attribute_label", "price"}
    for name, words in {
        "categories": ["jazz", "live", "rock"],
        "tags": ["Ann", "Bob"],
        "attribute_label": ["x", "y"],
    }.items():
        table, present = traits[name]
        assert table.shape == (7, len(words)) and not present[0] and (table.any(axis=1) == present).all()
    assert traits["tags"][0][1:].tolist() == [[1, 1], [1, 0], [0, 1], [0, 0], [0, 0], [0, 0]]
    assert traits["price"][1].tolist() == [False, True, True, False, True, True, True]
    year = traits["attribute_year"][0]
    assert year[1].tolist() == year[4].tolist() and not year[6].any()
    assert year[1] @ year[2] > year[1] @ year[3] > year[1] @ year[5]


@pytest.mark.parametrize("categories", [None, ["rock", "rock", "jazz|live", "jazz"]])
def test_a_column_called_category_is_read_unless_the_first_of_categories_stands_in_its_place(tmp_path, categories):
    ids = ["i0", "i1", "i2", "i3"]
    log = pd.DataFrame({"user_id": ["a"] * 4, "item_id": ids, "split": ["train", "train", "valid", "test"]})
    log.to_parquet(tmp_path / "interactions.parquet")
    own = {"item_id": ids, "category": ["new", "used", "new", "used"]}
    pd.DataFrame(own | ({"categories": categories} if categories else {})).to_parquet(tmp_path / "items.parquet")
    dataset = ingest(tmp_path, tmp_path / "out")
    if categories:
        assert set(item_traits(dataset)) == {"categories"}
        assert dataset.attribute_vocabulary["category"] == ["", "jazz", "rock"]
        assert dataset.report["ignored_columns"]["items"] == {"category": "the first of `categories` stands in its place"}
    else:
        assert item_traits(dataset)["attribute_category"][0].tolist() == [[0, 0], [1, 0], [0, 1], [1, 0], [0, 1]]
        assert "items" not in dataset.report["ignored_columns"]


def test_values_are_those_that_several_items_have():
    lists = [[], ["a", "b"], ["b"], ["c"], ["b", "a"]]
    table, present = of_lists(lists)
    counts = {word: sum(word in values for values in lists) for word in "abc"}
    words = sorted((word for word in counts if counts[word] >= FEWEST_ITEMS), key=lambda word: (-counts[word], word))
    assert table.tolist() == [[float(word in values) for word in words] for values in lists]
    assert present.tolist() == [False, True, True, False, True]


def test_numbers_are_near_by_the_items_between_and_not_by_their_scale():
    numbers = np.array([np.nan, 3.0, 1.0, 3.0, 8.0, np.nan, 5.0])
    table, present = of_numbers(numbers)
    given = [value for value in numbers if np.isfinite(value)]
    for row, value in enumerate(numbers):
        rank = np.mean([other < value for other in given]) / 2 + np.mean([other <= value for other in given]) / 2
        expected = [np.exp(-((rank - step / 20) ** 2) / (2 * 0.07**2)) if present[row] else 0.0 for step in range(21)]
        assert table[row].tolist() == pytest.approx(expected, abs=1e-6)
    assert present.tolist() == np.isfinite(numbers).tolist()
    np.testing.assert_array_equal(of_numbers(np.exp(numbers))[0], table)
    assert of_numbers(np.array([np.nan, 2.0, 2.0]))[0].shape == (3, 0)
