"""What a kill has left of a file that was being written: gone where nobody writes it, kept where somebody may."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from pathlib import Path

import pandas as pd
import pytest

from data.ingest import IngestOptions, ingest
from pipeline.forget.leftovers import clear_leftovers
from pipeline.forget.user import forget_user

HERE, WHO = socket.gethostname(), "person-1"


def unfinished(folder: Path, host: str, process: int, age: float = 0.0) -> Path:
    """A file as `write_durably` names it before it is whole: rows of a person, packed so that no plain search sees them."""
    path = folder / f".writing-{host}-{process}-0123456789ab"
    pd.DataFrame({"user_id": [WHO] * 99}).to_parquet(path, compression="zstd")
    os.utime(path, (time.time() - age,) * 2)
    return path


def gone() -> int:
    """The number of a process that is no more."""
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


@pytest.mark.parametrize(("host", "alive", "age", "stays"), [
    (HERE, False, 0, False), (HERE, True, 0, True),
    (HERE, True, 10**9, False),  # the number of a dead process, used again
    ("else-where", True, 0, True), ("else-where", False, 60, True), ("else-where", False, 4_000, False),
])  # fmt: skip
def test_what_nobody_writes_goes(tmp_path: Path, host: str, alive: bool, age: float, stays: bool):
    (tmp_path / "date=2024-01-01").mkdir()
    path = unfinished(tmp_path / "date=2024-01-01", host, os.getpid() if alive else gone(), age)
    assert clear_leftovers([tmp_path, tmp_path / "nowhere"]) == (not stays) and path.exists() == stays


def test_other_files_and_folders_stay(tmp_path: Path):
    (tmp_path / f".writing-{HERE}-1-0123456789ac").mkdir()
    (tmp_path / ".writing-weights.h5").write_bytes(b"of somebody at work")
    assert clear_leftovers([tmp_path]) == 0 and len(list(tmp_path.iterdir())) == 2


def test_a_person_leaves_what_kills_have_left(tmp_path: Path):
    data, out = tmp_path / "data", tmp_path / "run"
    data.mkdir()
    users = [WHO, "person-2", "person-3"]
    events = {"user_id": users * 4, "item_id": [f"i{row % 5}" for row in range(12)], "timestamp": range(1_000, 1_012)}
    pd.DataFrame(events).to_parquet(data / "interactions.parquet")
    pd.DataFrame({"item_id": [f"i{row}" for row in range(5)]}).to_parquet(data / "items.parquet")
    ingest(data, out / "ingest", IngestOptions(split="random"))
    (out / "gateway" / "feedback").mkdir(parents=True)
    left = [unfinished(folder, HERE, gone()) for folder in (data, out, out / "ingest", out / "gateway" / "feedback")]
    (out / ".writing-words").write_text("a file where a stage would have a folder")
    (out / ".old-served").mkdir()
    assert forget_user(WHO, out, data=data).rows == 4
    assert not any(path.exists() for path in [*left, out / ".writing-words", out / ".old-served"])
