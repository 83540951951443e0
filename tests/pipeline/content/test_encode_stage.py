"""The stage around `encode`: when it runs again, where its vectors lie, and what its progress bar shows."""

import io
import re

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from pipeline.progress import progress_bar
from pipeline.settings.config import load_config
from pipeline.stages.walk import Run
from tests.data.media_files import image_bytes


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("source")
    (folder / "media").mkdir()
    rng = np.random.default_rng(0)
    for number in range(6):
        (folder / "media" / f"{number}.png").write_bytes(image_bytes(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8)))
    items = {
        "item_id": [f"i{number}" for number in range(6)],
        "title": [f"Title {number}" for number in range(6)],
        "image": [f"{number}.png" for number in range(6)],
    }
    pd.DataFrame(items).to_parquet(folder / "items.parquet")
    users, chosen = np.repeat([f"u{number}" for number in range(5)], 6), np.tile(items["item_id"], 5)
    events = {"user_id": users, "item_id": chosen, "timestamp": np.arange(30) * 60 + 1_700_000_000, "event": ["like"] * 30}
    pd.DataFrame(events).to_parquet(folder / "interactions.parquet")
    return folder


def run_with(source, folder, *overrides):
    signal = [f"encoders.{name}.spec=signal:" for name in ("text", "image", "audio", "video")]
    return Run(source, folder, load_config(None, [*signal, *overrides]), say=lambda line: None)


def test_what_decides_the_vectors_decides_whether_the_stage_runs(source, tmp_path):
    folder = tmp_path / "runs" / "one"
    run_with(source, folder).ingest()
    first = run_with(source, folder).encode()
    assert not first.skipped and first.manifest["counts"]["encoded"] == 12
    assert list((tmp_path / "runs" / "feature-store").rglob("*.shard"))
    assert run_with(source, folder).encode().skipped
    assert run_with(source, folder, "encoders.workers=1", "encoders.engine=ray").encode().skipped
    other = run_with(source, folder, "encoders.image.spec=signal:+signal:").encode()
    assert not other.skipped and other.manifest["counts"]["encoded"] == 6 and other.manifest["counts"]["reused"] == 6


def test_runs_share_a_store_and_may_name_another(source, tmp_path):
    for name, encoded in (("one", 12), ("two", 0)):
        run = run_with(source, tmp_path / name)
        run.ingest()
        assert run.encode().manifest["counts"]["encoded"] == encoded
    run = run_with(source, tmp_path / "two", f"encoders.store={tmp_path / 'elsewhere'}", "encoders.batch_size=3")
    assert run.encode().manifest["counts"]["encoded"] == 12
    assert list((tmp_path / "elsewhere").rglob("*.shard"))


def drawn(single):
    console = Console(file=io.StringIO(), force_terminal=True, width=100, color_system=None)
    with progress_bar("encode", single=single, console=console) as progress:
        for step in (("reading media", 5, 5), ("text", 0, 20), ("text", 10, 20), ("image", 14, 20), ("image", 20, 20)):
            progress(*step)
    return re.sub(r"\x1b\[[^A-Za-z]*[A-Za-z]", "", console.file.getvalue()).splitlines()


def test_one_bar_for_all_modalities_with_speed_and_time_left():
    last = [line for line in drawn(single=True) if "20/20" in line][-1]
    assert re.search(r"encode image .* 20/20 [\d,.]+/s \d:\d\d:\d\d", last), last
    assert not any("encode text" in line or "reading" in line for line in drawn(single=True)[-2:])
    many = "\n".join(drawn(single=False)[-4:])
    assert "encode reading media" in many and "encode text" in many and "encode image" in many
