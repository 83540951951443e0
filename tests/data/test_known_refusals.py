"""Reasons kept from run to run: the same content has the same one, and what may have changed has none."""

import pytest

from data import known_refusals
from data.known_refusals import KnownRefusals

ONE, OTHER = bytes(16), bytes([1] * 16)


@pytest.fixture
def folder(tmp_path):
    refusals = KnownRefusals(tmp_path, "media")
    refusals.remember(ONE, "no sound: …")
    refusals.remember(OTHER, "broken image")
    refusals.save()
    return tmp_path


def test_what_was_not_asked_for_is_forgotten_and_the_rest_stays(folder):
    refusals = KnownRefusals(folder, "media")
    assert (refusals.find(ONE), refusals.find(bytes([2] * 16))) == ("no sound: …", None)
    refusals.save()
    again = KnownRefusals(folder, "media")
    assert (again.find(ONE), again.find(OTHER)) == ("no sound: …", None)
    assert [path.suffix for path in folder.iterdir()] == [".parquet"]  # nothing half written lies about


def test_another_media_folder_or_another_decoder_knows_nothing(folder, monkeypatch):
    assert KnownRefusals(folder, "other").find(ONE) is None
    monkeypatch.setattr(known_refusals, "version", lambda package: "9.9" if package == "pillow" else "1.0")
    assert KnownRefusals(folder, "media").find(ONE) is None


@pytest.mark.parametrize("content", [b"", b"PAR1", b"no parquet"])
def test_a_broken_file_is_as_good_as_none(folder, content):
    refusals = KnownRefusals(folder, "media")
    refusals.file.write_bytes(content)
    again = KnownRefusals(folder, "media")
    assert again.find(ONE) is None
    again.remember(ONE, "no sound: …")
    again.save()
    assert KnownRefusals(folder, "media").find(ONE) == "no sound: …"


def test_where_nothing_was_refused_there_is_no_file(tmp_path):
    KnownRefusals(tmp_path, "media").save()
    assert not list(tmp_path.iterdir())
