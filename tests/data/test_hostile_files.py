"""The hostile corpus: the same every time, of every family, and harmless to the decoders."""

import itertools

import pytest

from benchmarks.hostile_media import measure
from tests.data.hostile_files import good_files, hostile_files

FAMILIES = ("cut-", "noise-", "named-", "empty", "declares-", "nan-", "one-pixel", "hour", "zip-", "flipped-", "-notes.mid")


@pytest.fixture(scope="module")
def corpus():
    return list(hostile_files())


def test_the_same_seed_gives_the_same_files(corpus):
    assert list(itertools.islice(hostile_files(), 240)) == corpus[:240]


def test_every_family_is_there(corpus):
    names = [name for name, _ in corpus]
    assert len(names) == len(set(names)) == 500
    for family in FAMILIES:
        assert any(family in name for name in names), family


def test_every_good_file_is_cut_at_its_headers(corpus):
    cuts = {name.split("-", 1)[1] for name, _ in corpus if "-cut-" in name}
    for name in good_files():
        assert sum(cut.endswith(name) for cut in cuts) >= 4, name


def test_500_files_are_decoded_right_or_refused_with_a_reason(corpus):
    result = measure(corpus)
    assert result["faults"] == []
    assert result["files"] == 500 and result["decoded"] + result["quarantined"] == 500
    assert result["decoded"] > 100 and result["quarantined"] > 200  # neither everything nor nothing is refused
    assert result["slowest_seconds"] < 5
    assert result["peak_mb"] < 1_000
