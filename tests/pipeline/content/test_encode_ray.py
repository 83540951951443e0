"""The Ray engine with two local workers against the local engine: the same bytes, in the table and in the store."""

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from data.schema import MODALITIES
from pipeline.content.encode import encode
from pipeline.content.encode_local import Encoded
from pipeline.content.encode_plan import Batch, Content
from pipeline.content.encode_ray import pack, read_batch, unpack, write_batch, write_manifests
from tests.data.media_files import colour_steps, image_bytes, sound_bytes, video_bytes
from towers.encoders import describe_encoder

ITEMS = 40


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("source")
    (folder / "media").mkdir()
    rng = np.random.default_rng(0)
    for number in range(ITEMS):
        (folder / "media" / f"{number}.png").write_bytes(image_bytes(rng.integers(0, 256, (40, 60, 3), dtype=np.uint8)))
        (folder / "media" / f"{number}.wav").write_bytes(sound_bytes(rng.normal(0, 0.1, 4_000 + 100 * number)))
    (folder / "media" / "7.png").write_bytes(b"no picture")
    (folder / "media" / "0.mp4").write_bytes(video_bytes(colour_steps()))
    return folder


@pytest.fixture(scope="module")
def items():
    numbers = range(ITEMS)
    columns = {
        "item_id": ["", *(f"item {number}" for number in numbers)],
        "title": ["", *(f"Title {number} " + "word " * (number % 7) for number in numbers)],
        "image": ["", *(f"{number}.png" for number in numbers)],
        "audio": ["", *(f"{number}.wav" for number in numbers)],
        "video": ["", "0.mp4", *("" for _ in numbers[1:])],
        "description": [""] * (ITEMS + 1),
        "categories": [""] * (ITEMS + 1),
    }
    return SimpleNamespace(items=pd.DataFrame(columns))


def files_of(folder, *suffixes):
    found = {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.suffix in suffixes}
    assert found
    return found


def run_on_ray(*arguments):
    """What `encode_with_ray` prints, and its errors: from a group of processes that is ended when it takes too long.

    Ray gives its node 30 s to start, which is little where the tests beside this one hold every core: a second go.
    """
    command = [sys.executable, "-m", "tests.pipeline.encode_with_ray", *map(str, arguments)]
    for _ in range(2):
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        try:
            said, errors = process.communicate(timeout=100)
        except subprocess.TimeoutExpired:
            said, errors = "", "Ray hung for 100 s"
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        if process.returncode == 0:
            break
    return said, errors


def test_ray_and_local_write_the_same_bytes(source, items, tmp_path):
    pytest.importorskip("ray")
    items.items.to_parquet(source / "items.parquet")
    said, errors = run_on_ray(source, tmp_path / "ray" / "out", tmp_path / "ray" / "content")
    assert said, errors[-4000:]
    told = json.loads(said.splitlines()[-1])
    assert told["still_up"]  # a cluster that was there before the stage is left running
    specs = dict.fromkeys(MODALITIES, "signal:")
    local = encode(source, items, tmp_path / "local" / "out", specs, tmp_path / "local" / "content", batch_size=8, workers=2)
    assert told["encoded"] == local.info["encoded"] == 4 * ITEMS - ITEMS - 1 + 1
    for folder, suffixes in (("content", (".shard",)), ("out", (".npy", ".parquet"))):
        assert files_of(tmp_path / "ray" / folder, *suffixes) == files_of(tmp_path / "local" / folder, *suffixes)
    assert not list((tmp_path / "ray").rglob(".manifests"))


def test_a_batch_survives_the_way_there_and_back():
    card = describe_encoder("image", "signal:")
    contents = (Content("image", "a.png"), Content("image", "繁體/b.png"), Content("image", "c.png"))
    batch = Batch("signal:", card, (b"0" * 16, b"1" * 16, b"\0" * 16), contents, {"image": "image-1/96"})
    assert read_batch(write_batch(3, batch)) == batch
    vectors = np.random.default_rng(0).normal(size=(2, card.width)).astype(np.float32)
    sent = Encoded(batch, np.array([0, 2]), vectors, {1: "broken image"})
    received = unpack(pack(3, sent), batch)
    np.testing.assert_array_equal(received.vectors, vectors)
    assert received.positions.tolist() == [0, 2] and received.refused == {1: "broken image"}


@pytest.mark.parametrize(("count", "size", "workers", "expected"), [(40, 8, 2, [8] * 5), (4096, 64, 2, [1024] * 4)])
def test_manifests_share_the_work_and_hold_whole_batches(tmp_path, count, size, workers, expected):
    import pyarrow.parquet as pq

    card = describe_encoder("image", "signal:")
    batch = Batch("signal:", card, (bytes(16),) * size, (Content("image", "a"),) * size, {"image": ""})
    text = dataclasses.replace(batch, card=describe_encoder("text", "signal:"))
    files = write_manifests([batch] * (count // size) + [text], tmp_path, workers)
    rows = [pq.read_table(file).to_pylist() for file in files]
    assert [sum(len(row["keys"]) for row in group) for group in rows] == [*expected, size]
    assert [row["number"] for group in rows for row in group] == list(range(count // size + 1))


def test_nothing_of_ray_is_imported_unless_chosen():
    code = "import sys, pipeline.content.encode, pipeline.stages.walk, pipeline.content.encode_ray; print('ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
