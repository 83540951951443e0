"""Feedback on disk: acknowledged means durable, once, after kill -9, after a full disk, and in the next training run."""

from __future__ import annotations

import errno
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from data.dataset import DatasetError
from data.ingest import ingest
from serving.catalogue.live_items_log import LiveItem, LiveItemsLog, LiveVector, delete, put
from serving.feedback import log as feedback_log
from serving.feedback.compact import add_feedback, compact
from serving.feedback.log import FeedbackError, FeedbackLog
from serving.feedback.partitions import partition_files, read_partitions
from tests.nfs_locks import nfs_flock

ROOT = Path(__file__).resolve().parents[3]
WRITER = """
import sys, threading
from pathlib import Path
from serving.feedback.log import FeedbackLog

log = FeedbackLog(Path(sys.argv[1]), roll_seconds=0.15, roll_events=40)
lock, part = threading.Lock(), sys.argv[2]

def send(thread):
    for number in range(100000):
        ids = [f"{part}-{thread}-{number}-{place}" for place in range(3)]
        log.append([{"event_id": name, "user_id": "u", "item_id": "i", "timestamp": 1_700_000_000 + 50_000 * number,
                     "event": "click", "received": number} for name in ids])
        with lock:
            print("\\n".join(ids), flush=True)

for thread in range(4):
    threading.Thread(target=send, args=(thread,), daemon=True).start()
threading.Event().wait()
"""


def event(name: str, **values: Any) -> dict[str, Any]:
    given = {"event_id": name, "user_id": "ann", "item_id": "i1", "timestamp": 1_700_000_000, "event": "click"}
    return {**given, "received": 1_700_000_001, **values}


def kept(folder: Path) -> list[str]:
    return read_partitions(partition_files(folder))["event_id"].to_pylist()


def test_after_kill_9_every_acknowledged_event_is_there_once(tmp_path: Path) -> None:
    """Two processes, one after the other, killed while four threads write and files are rolled."""
    acknowledged: set[str] = set()
    for part in ("first", "second"):
        command = [sys.executable, "-c", WRITER, str(tmp_path), part]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
            assert process.stdout is not None
            lines = []
            for line in process.stdout:
                lines.append(line)
                if len(lines) == 600:
                    os.kill(process.pid, signal.SIGKILL)
                    break
            lines += process.stdout.readlines()
        # What was printed was acknowledged, but for a last line that the kill cut off.
        acknowledged |= {line.strip() for line in lines if line.endswith("\n")}
    assert len(acknowledged) >= 1200
    log = FeedbackLog(tmp_path)
    again = log.append([event(name) for name in sorted(acknowledged)])  # what a caller without an answer would do
    assert not any(again)
    log.close()
    counts = Counter(kept(tmp_path))
    assert acknowledged <= set(counts) and set(counts.values()) == {1}
    assert not list((tmp_path / "written").iterdir())


def test_a_duplicate_is_known_within_a_request_across_requests_and_after_a_restart(tmp_path: Path) -> None:
    log = FeedbackLog(tmp_path)
    assert log.append([event("a"), event("b"), event("a")]) == [True, True, False]
    assert log.append([event("b"), event("c")]) == [False, True]
    log.roll()
    assert log.append([event("c"), event("d")]) == [False, True]
    log._stop.set()  # its thread would roll the file that is closed here
    log._file.close()  # as a kill leaves it: "d" in a log file that nobody holds, the rest in Parquet
    again = FeedbackLog(tmp_path)
    assert again.append([event(name) for name in "abcde"]) == [False, False, False, False, True]
    again.close()
    assert sorted(kept(tmp_path)) == list("abcde")


def test_only_so_many_ids_are_remembered_and_compaction_finds_the_rest(tmp_path: Path) -> None:
    log = FeedbackLog(tmp_path, remember=10)
    for number in range(30):
        log.append([event(f"e{number}")])
    assert log.append([event("e29")]) == [False] and log.append([event("e0")]) == [True]
    log.close()
    assert compact(tmp_path) == 30 and len(partition_files(tmp_path)) == 1
    assert compact(tmp_path) == 30


def test_requests_share_a_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forty requests at once take far fewer than forty writes of a slow disk, and all of them are there."""
    syncs: list[int] = []
    monkeypatch.setattr(feedback_log.os, "fsync", lambda handle: (syncs.append(handle), time.sleep(0.02)))
    log = FeedbackLog(tmp_path)
    threads = [threading.Thread(target=log.append, args=([event(f"e{number}")],)) for number in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(syncs) < 20
    log.close()
    assert sorted(kept(tmp_path)) == sorted(f"e{number}" for number in range(40))


def test_what_the_disk_refuses_is_not_acknowledged_and_may_be_sent_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = FeedbackLog(tmp_path)
    log.append([event("before")])
    real = os.fsync

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(feedback_log.os, "fsync", full)
    with pytest.raises(FeedbackError, match="send the events again"):
        log.append([event("lost")])
    monkeypatch.setattr(feedback_log.os, "fsync", real)
    assert log.append([event("before"), event("lost")]) == [False, True]
    log.close()
    assert sorted(kept(tmp_path)) == ["before", "lost"]


def test_what_cannot_be_rolled_waits_in_its_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = FeedbackLog(tmp_path)
    log.append([event("a")])
    (tmp_path / "interactions").write_text("a file where a folder should be")
    log.roll()
    assert log.append([event("a"), event("b")]) == [False, True]
    (tmp_path / "interactions").unlink()
    log.close()
    assert sorted(kept(tmp_path)) == ["a", "b"]


def test_a_file_that_another_process_writes_is_left_to_it(tmp_path: Path) -> None:
    one, other = FeedbackLog(tmp_path), FeedbackLog(tmp_path)
    one.append([event("a")])
    other.append([event("b")])
    compact(tmp_path)
    assert len(list((tmp_path / "written").iterdir())) == 2  # both are being written
    one.append([event("c")])
    one.close(), other.close()
    assert sorted(kept(tmp_path)) == ["a", "b", "c"]


def test_on_nfs_too_the_files_of_a_process_that_is_gone_are_taken_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("fcntl.flock", nfs_flock)
    written = tmp_path / "written"
    written.mkdir()
    left = written / "20240101T000000000000000-left.jsonl"
    left.write_text(json.dumps(event("a")) + "\n")
    log = FeedbackLog(tmp_path)
    assert log.append([event("a"), event("b")]) == [False, True]
    assert not left.exists() and len(list(written.iterdir())) == 1, "what a process writes is left to it"
    log.close()
    left.write_text(json.dumps(event("c")) + "\n")

    def refuse(file: Any, operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.flock", refuse)
    assert feedback_log.adopt(tmp_path) == 0 and left.exists()
    assert "could not be taken over" in caplog.text and "No locks available" in caplog.text


@given(
    names=st.lists(st.text(st.characters(codec="utf-8"), max_size=12), max_size=12),
    cut=st.integers(0, 400),
)
@settings(max_examples=40, deadline=None)
def test_a_log_file_cut_anywhere_gives_every_whole_line(tmp_path_factory: pytest.TempPathFactory, names, cut) -> None:
    folder = tmp_path_factory.mktemp("cut")
    (folder / "written").mkdir()
    lines = [json.dumps(event(f"e{place}", user_id=name)).encode() + b"\n" for place, name in enumerate(names)]
    content = b"".join(lines)[:cut]
    (folder / "written" / "x.jsonl").write_bytes(content)
    whole = next((place for place in range(len(lines) + 1) if len(b"".join(lines[: place + 1])) - 1 > cut), len(lines))
    whole = min(whole, len(lines))
    assert compact(folder) == whole
    assert read_partitions(partition_files(folder))["user_id"].to_pylist() == names[:whole]


def test_events_lie_by_the_day_in_the_columns_of_a_dataset_folder(tmp_path: Path) -> None:
    log = FeedbackLog(tmp_path)
    log.append([event("a", value=2.5, position=3, device="phone"), event("b", timestamp=1_700_100_000)])
    log.close()
    days = {path.parent.name: pd.read_parquet(path) for path in partition_files(tmp_path)}
    assert set(days) == {"date=2023-11-14", "date=2023-11-16"}
    first = days["date=2023-11-14"]
    columns = ["user_id", "item_id", "timestamp", "event", "value", "position", "propensity", "session_id", "event_id"]
    assert list(first.columns) == [*columns, "received", "device"]
    assert first.loc[0, "value"] == 2.5 and first.loc[0, "device"] == "phone" and str(first["timestamp"].dtype) == "int64"


def test_feedback_reaches_the_next_ingest(tmp_path: Path) -> None:
    source = tmp_path / "data"
    source.mkdir()
    items = [f"i{row}" for row in range(1, 6)]
    pd.DataFrame({"item_id": items, "title": items}).to_parquet(source / "items.parquet")
    before = pd.DataFrame(
        {
            "user_id": [7] * 5,  # numbers, as many logs have them
            "item_id": items,
            "timestamp": np.arange(5) * 1000 + 1_699_000_000,
            "event": "view",
            "hour": np.arange(5, dtype=np.int8),
        }
    )
    before.to_parquet(source / "interactions.parquet")
    log = FeedbackLog(tmp_path / "feedback")
    second = event("b", item_id="i2", event="rating", value=4.0, device="tv", position=1, propensity=0.25)
    log.append([event("a", hour="23"), event("a2"), second])
    assert add_feedback(tmp_path / "feedback", source)["added"] == 0  # the log file is still being written
    log.close()
    # "a2" says what "a" says, and the log takes an event once.
    assert add_feedback(tmp_path / "feedback", source) == {"before": 5, "added": 2, "after": 7}
    assert add_feedback(tmp_path / "feedback", source) == {"before": 7, "added": 0, "after": 7}
    table = parquet.read_table(source / "interactions.parquet")
    told = {"position", "place_propensity"}  # how it was chosen for its place; no telling how probably it was on the page
    assert set(table.column_names) == {"user_id", "item_id", "timestamp", "event", "value", "hour", "device", *told}
    assert str(table.schema.field("hour").type) == "int8"
    dataset = ingest(source, tmp_path / "ingested")
    assert dataset.report["events"] == 7 and dataset.report["quarantined"] == 0
    ann = dataset.events[dataset.events["user"] == dataset.user_ids.rows(np.array(["ann"], object))[0]]
    assert ann["place_propensity"].dropna().tolist() == [0.25] and np.isnan(dataset.propensity).all()
    assert len(ann) == 2 and set(dataset.items["item_id"].iloc[ann["item"]]) == {"i1", "i2"}


def test_items_of_a_running_catalogue_reach_the_next_ingest(tmp_path: Path) -> None:
    source, media = tmp_path / "data", tmp_path / "data" / "media"
    media.mkdir(parents=True)
    table = {"item_id": ["i1", "i2"], "title": ["One", "Two"], "categories": [["a", "b"], ["c"]], "colour": ["red", "blue"]}
    pd.DataFrame({**table, "created_at": pd.to_datetime([0, 86_400], unit="s", utc=True)}).to_parquet(source / "items.parquet")
    users = pd.DataFrame({"user_id": ["u", "v"] * 2, "item_id": ["i1", "i2"] * 2, "timestamp": [1000, 2000, 90_000, 95_000]})
    users.to_parquet(source / "interactions.parquet")
    log = LiveItemsLog(tmp_path / "state" / "items")
    picture = io.BytesIO()
    Image.new("RGB", (8, 8)).save(picture, "PNG")
    path = log.keep_media(picture.getvalue(), ".png")
    vector = LiveVector(1, False, np.ones(2, np.float32), None)
    log.add(put(LiveItem("i2", title="Two, again", categories="c|d", created_at=172_800, price=2.5), vector))
    log.add(put(LiveItem("new", title="New", categories="e", created_at=100_000, image=path), vector))
    log.add(delete("i1"))
    feedback = FeedbackLog(tmp_path / "state" / "feedback")
    feedback.append([event("a", user_id="u", item_id="new", timestamp=150_000)])
    feedback.close()
    command = [sys.executable, "-m", "pipeline", "add-feedback", "--state", str(tmp_path / "state"), "--data", str(source)]
    for added in ("1 changed, 1 added", "0 changed, 0 added"):
        said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
        assert added in said and "3 in all" in said and "5 in all" in said
    dataset = ingest(source, tmp_path / "ingested")
    items = dataset.items.set_index("item_id")
    assert list(dataset.items["item_id"]) == ["", "i1", "i2", "new"]
    assert (items.loc["i2", "title"], items.loc["i2", "categories"], items.loc["i2", "price"]) == ("Two, again", "c|d", 2.5)
    assert items.loc["new", "image"] == path and items.loc["new", "created_at"] == 100_000
    words = dataset.attribute_vocabulary["colour"]
    assert [words[code] for code in items["attribute_colour"]] == ["", "red", "blue", ""]
    assert len(dataset.events) == 5 and dataset.report["quarantined"] == 0


def test_a_folder_that_takes_no_feedback_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="must be a dataset folder"):
        add_feedback(tmp_path / "feedback", tmp_path)
    pd.DataFrame({"user_id": ["u"], "item_id": ["i"]}).to_parquet(tmp_path / "interactions.parquet")
    with pytest.raises(DatasetError, match=r"none of \['timestamp'\]"):
        add_feedback(tmp_path / "feedback", tmp_path)
