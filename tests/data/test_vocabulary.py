"""Vocabularies: row 0 reserved, one id a line, nothing that a file of lines cannot hold."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.validation import DatasetError
from data.vocabulary import Vocabulary

IDS = st.lists(
    st.text(st.characters(exclude_categories=("Cc", "Cs", "Zl", "Zp")), min_size=1, max_size=40).filter(str.strip),
    unique=True,
    max_size=20,
)


@given(IDS)
def test_file_round_trip(tmp_path_factory, ids):
    path = tmp_path_factory.mktemp("vocabulary") / "ids.txt"
    Vocabulary(ids).save(path)
    loaded = Vocabulary.load(path)
    assert list(loaded) == ids
    # The file is what any other tool reads: line number = row.
    assert path.read_bytes().decode().split("\n")[:-1] == ["", *ids]


@given(IDS, st.lists(st.text(max_size=10)))
def test_rows_and_ids_are_inverse_and_strangers_are_row_0(ids, strangers):
    vocabulary = Vocabulary(ids)
    assert vocabulary.rows(ids).tolist() == list(range(1, len(ids) + 1))
    rows = vocabulary.rows(strangers)
    assert rows.dtype == np.int32
    for stranger, row in zip(strangers, rows, strict=True):
        assert row == (ids.index(stranger) + 1 if stranger in ids else 0)
        assert (stranger in vocabulary) == (row > 0)


@pytest.mark.parametrize(
    "bad", ["", "  ", "a\nb", "a\rb", "a\x00b", "a\u2028b", "a\x85b", "x" * 513, "é" * 257, "\ud800", None, 7]
)
def test_refused_ids(bad):
    with pytest.raises(DatasetError, match="one non-blank line") as error:
        Vocabulary(["fine", bad])
    assert "position 1" in str(error.value)


def test_limit_counts_bytes():
    assert len(Vocabulary(["é" * 256])) == 2


def test_repeated_id_is_named():
    with pytest.raises(DatasetError, match="'b' more than once"):
        Vocabulary(["a", "b", "b"])


@pytest.mark.parametrize("content", [b"", b"a\nb\n", b"\na\nb"])
def test_cut_file_is_refused(tmp_path, content):
    path = tmp_path / "ids.txt"
    path.write_bytes(content)
    with pytest.raises(DatasetError, match=r"(?i)ingest again"):
        Vocabulary.load(path)
