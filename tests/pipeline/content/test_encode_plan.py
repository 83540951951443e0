"""Reading what is to be encoded: by one thread or by several, and with what cannot be read named."""

import threading
import time

import pytest

from data.content_key import content_hash
from pipeline.content import encode_plan
from pipeline.content.encode_plan import HASH_TRIAL, FileHashes


@pytest.fixture
def media(tmp_path):
    for number in range(HASH_TRIAL + 40):
        (tmp_path / f"{number}.png").write_bytes(b"%d" % number)
    return tmp_path


@pytest.mark.parametrize("slow", [False, True])
def test_files_are_hashed_once_and_by_threads_where_reading_takes_long(media, monkeypatch, slow):
    read, readers = encode_plan.read_media, []

    def watched(folder, name):
        readers.append(threading.current_thread().name)
        if slow:
            time.sleep(2 * encode_plan.QUICK_FILE)
        return read(folder, name)

    monkeypatch.setattr(encode_plan, "read_media", watched)
    monkeypatch.setattr(encode_plan, "QUICK_FILE", encode_plan.QUICK_FILE if slow else 10.0)
    names = [f"{number}.png" for number in range(HASH_TRIAL + 40)]
    told = []
    hashes = FileHashes(media, threads=3, progress=lambda done, total: told.append((done, total)))
    hashes.read([*names, "none.png", names[0]])
    hashes.read(names)
    assert hashes.found == {
        **{name: content_hash(name.removesuffix(".png").encode()) for name in names},
        "none.png": "missing: no file 'none.png' under the media folder",
    }
    assert len(readers) == len(names) + 1 and told == [(len(names) + 1, len(names) + 1)]
    assert len(set(readers) - {threading.current_thread().name}) == (3 if slow else 1)
