"""Hashes of media kept from run to run: what is the same file is not read again, and what is not is."""

import os

import pytest

from data import known_hashes
from data.content_key import content_hash
from data.known_hashes import KnownHashes, stamp_of
from pipeline.content import encode_plan
from pipeline.content.encode_plan import FileHashes


@pytest.fixture
def media(tmp_path, monkeypatch):
    monkeypatch.setattr(known_hashes, "RECENT", 0.0)  # or the files of a test would all be too young
    folder = tmp_path / "media"
    (folder / "covers").mkdir(parents=True)
    for name in ("a.png", "b.png", "c.png"):
        (folder / "covers" / name).write_bytes(name.encode())
    return folder


NAMES = ["covers/a.png", "covers/b.png", "covers/c.png"]


@pytest.fixture
def read(monkeypatch):
    """Names of the files that are read."""
    names, real = [], encode_plan.read_media

    def watched(folder, name):
        names.append(name)
        return real(folder, name)

    monkeypatch.setattr(encode_plan, "read_media", watched)
    return names


def hashed(media, store, names=NAMES):
    known = KnownHashes(store, media)
    files = FileHashes(media, known=known)
    files.read(names)
    known.save()
    return files.found


def test_files_that_stay_the_same_are_read_once(media, tmp_path, read):
    first = hashed(media, tmp_path)
    assert first == {name: content_hash((media / name).read_bytes()) for name in NAMES} and sorted(read) == NAMES
    assert hashed(media, tmp_path) == first and len(read) == 3
    (media / "covers/d.png").write_bytes(b"new")
    assert hashed(media, tmp_path, [*NAMES, "covers/d.png"])["covers/d.png"] == content_hash(b"new")
    assert read[3:] == ["covers/d.png"]


def test_a_change_is_seen_even_with_the_same_size_and_time(media, tmp_path, read):
    hashed(media, tmp_path)
    file = media / "covers/a.png"
    before = os.stat(file)
    file.write_bytes(b"z.png")  # in place
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    other = media / "covers/b.png"
    before = os.stat(other)
    (media / "copy").write_bytes(b"y.png")
    os.utime(media / "copy", ns=(before.st_atime_ns, before.st_mtime_ns))
    os.replace(media / "copy", other)  # another file under the name
    found = hashed(media, tmp_path)
    assert found["covers/a.png"] == content_hash(b"z.png") and found["covers/b.png"] == content_hash(b"y.png")
    assert read[3:] == ["covers/a.png", "covers/b.png"]


def test_what_changes_while_it_is_read_is_read_again(media, tmp_path, read, monkeypatch):
    watched = encode_plan.read_media

    def slow(folder, name):
        content = watched(folder, name)
        (folder / name).write_bytes(b"later")
        return content

    monkeypatch.setattr(encode_plan, "read_media", slow)
    hashed(media, tmp_path, NAMES[:1])
    monkeypatch.setattr(encode_plan, "read_media", watched)
    assert hashed(media, tmp_path, NAMES[:1]) == {NAMES[0]: content_hash(b"later")}


def test_a_file_that_has_just_changed_is_not_trusted(media, tmp_path, read, monkeypatch):
    monkeypatch.setattr(known_hashes, "RECENT", 3600.0)
    hashed(media, tmp_path)
    hashed(media, tmp_path)
    assert sorted(read) == sorted([*NAMES, *NAMES]) and not list(tmp_path.glob("*.parquet"))


def test_a_known_name_is_refused_where_it_leaves_the_folder_or_is_gone(media, tmp_path):
    hashed(media, tmp_path)
    (tmp_path / "secret").write_bytes(b"a.png")
    (media / "covers/a.png").unlink()
    (media / "covers/a.png").symlink_to(tmp_path / "secret")
    (media / "covers/b.png").unlink()
    found = hashed(media, tmp_path)
    assert "links must stay" in found["covers/a.png"] and "missing" in found["covers/b.png"]
    assert found["covers/c.png"] == content_hash(b"c.png")


def test_another_folder_has_its_own_hashes_and_a_link_to_it_the_same(media, tmp_path, read):
    hashed(media, tmp_path)
    (tmp_path / "link").symlink_to(media)
    hashed(tmp_path / "link", tmp_path)
    assert len(read) == 3
    other = tmp_path / "other"
    (other / "covers").mkdir(parents=True)
    os.link(media / "covers/a.png", other / "covers/a.png")
    hashed(other, tmp_path, NAMES[:1])
    assert read[3:] == NAMES[:1] and len(list(tmp_path.glob("media-*.parquet"))) == 2


@pytest.mark.parametrize("content", [b"", b"PAR1", b"no parquet"])
def test_a_broken_file_is_as_good_as_none(media, tmp_path, read, content):
    first = hashed(media, tmp_path)
    known = next(tmp_path.glob("media-*.parquet"))
    known.write_bytes(content)
    assert hashed(media, tmp_path) == first and len(read) == 6
    assert hashed(media, tmp_path) == first and len(read) == 6


def test_what_nobody_asks_for_is_forgotten(media, tmp_path):
    hashed(media, tmp_path)
    hashed(media, tmp_path, NAMES[:1])
    known = KnownHashes(tmp_path, media)
    assert known.find(NAMES[0], stamp_of(media / NAMES[0])) and known.find(NAMES[1], stamp_of(media / NAMES[1])) is None
