"""Killed in the middle of encoding: what was flushed is not encoded again, and at most one shard is lost."""

import signal
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from pipeline.content.encode import encode
from tests.data.media_files import image_bytes
from tests.pipeline.interrupted_encode import SPECS

ITEMS, BATCH, SHARD = 60, 4, 8


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("source")
    (folder / "media").mkdir()
    rng = np.random.default_rng(0)
    for number in range(ITEMS):
        (folder / "media" / f"{number}.png").write_bytes(image_bytes(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8)))
    ids = ["", *(f"item {number}" for number in range(ITEMS))]
    images = ["", *(f"{number}.png" for number in range(ITEMS))]
    pd.DataFrame({"item_id": ids, "image": images}).to_parquet(folder / "items.parquet")
    return folder


def run_until(done, source, out, store):
    """Start a run, kill it -9 once it says that so many are done, and return how many it had said."""
    command = [sys.executable, "-m", "tests.pipeline.interrupted_encode", *map(str, (source, out, store, SHARD, BATCH))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        said = 0
        for line in process.stdout:
            what, _, number = line.rpartition(" ")
            said = int(number) if what == "image" else said
            if said >= done:
                process.kill()
                break
    assert process.returncode == -signal.SIGKILL
    return said


def test_what_was_flushed_is_not_encoded_again(source, tmp_path):
    store = tmp_path / "content"
    done = run_until(36, source, tmp_path / "killed", store)
    items = SimpleNamespace(items=pd.read_parquet(source / "items.parquet"))
    made = encode(source, items, tmp_path / "again", SPECS, store, batch_size=BATCH)
    counts = made.info["modalities"]["image"]
    assert counts["present"] == ITEMS and counts["encoded"] + counts["reused"] == ITEMS
    assert counts["reused"] >= done - SHARD, (done, counts)
    whole = encode(source, items, tmp_path / "whole", SPECS, tmp_path / "other", batch_size=BATCH)
    np.testing.assert_array_equal(made.table("image"), whole.table("image"))


def test_an_error_keeps_what_was_encoded(source, tmp_path):
    items = SimpleNamespace(items=pd.read_parquet(source / "items.parquet"))

    def interrupt(what, done, total):
        if what == "image" and done == 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        encode(source, items, tmp_path / "out", SPECS, tmp_path / "content", batch_size=BATCH, progress=interrupt)
    made = encode(source, items, tmp_path / "again", SPECS, tmp_path / "content", batch_size=BATCH)
    assert made.info["modalities"]["image"]["encoded"] == ITEMS - 20
