"""Forgetting one person where ids of other people contain theirs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from data.ingest import IngestOptions, ingest
from pipeline.forget.user import forget_user
from pipeline.stage import StageError
from serving.feedback.log import FeedbackLog
from serving.feedback.partitions import partition_files, read_partitions

WHO = "lee@example.com"
OTHERS = ["ann.lee@example.com", "lee@example.com:home", "bob"]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A run with a refused row of two people, words about one, and feedback of somebody whom the run has not met."""
    data, out = tmp_path / "data", tmp_path / "run"
    data.mkdir()
    users = [WHO, *OTHERS]
    items = [f"i{row}" for row in range(4)]
    events = pd.DataFrame({"user_id": users * 3, "item_id": np.repeat(items, 3), "timestamp": range(1_000, 1_012)})
    refused = pd.DataFrame({"user_id": [OTHERS[0], WHO], "item_id": ["nowhere"] * 2, "timestamp": [1_000] * 2})
    pd.concat([events, refused]).to_parquet(data / "interactions.parquet", index=False)
    pd.DataFrame({"item_id": items}).to_parquet(data / "items.parquet")
    ingest(data, out / "ingest", IngestOptions(split="random"))
    (out / "evaluate").mkdir()
    pd.DataFrame({"user_id": users, "ndcg": 0.5}).to_parquet(out / "evaluate" / "users.parquet")
    (out / "evaluate" / "words.json").write_text('{"best": "ann.lee@example.com, then bob"}')
    np.savez(out / "evaluate" / "packed.npz", names=np.array([b"bobann.lee@example.combob"]))
    return out


def test_somebody_else_is_not_taken_for_the_person(out: Path, tmp_path: Path):
    log = FeedbackLog(out / "gateway" / "feedback")
    given = {"item_id": "i1", "timestamp": 7, "event": "like", "received": 8}
    log.append([{"event_id": name, "user_id": name, **given} for name in (WHO, "new.lee@example.com")])
    log.close()
    writing = FeedbackLog(out / "gateway" / "feedback")
    writing.append([{"event_id": "later", "user_id": "new.lee@example.com", **given}])
    done = forget_user(WHO, out, data=tmp_path / "data")
    assert (done.rows, done.events, done.searched.anywhere) == (4, 1, True)
    writing.close()
    left = read_partitions(partition_files(out / "gateway" / "feedback"))["user_id"].to_pylist()
    assert left == ["new.lee@example.com"] * 2
    refused = pd.read_parquet(out / "ingest" / "quarantine.parquet")["record"].tolist()
    assert len(refused) == 1 and OTHERS[0] in refused[0]
    assert sorted(pd.read_parquet(out / "evaluate" / "users.parquet")["user_id"]) == sorted(OTHERS)


@pytest.mark.parametrize("words", ["by lee@example.com", "ann.lee@example.com, lee@example.com", "mail:lee@example.com"])
def test_the_person_is_found_beside_somebody_else(out: Path, tmp_path: Path, words: str):
    for name in ("words.json", "words.bin"):
        (out / "evaluate" / name).write_text(f'"{words}"')
    with pytest.raises(StageError, match=r"something is left(.|\n)*words.bin(.|\n)*words.json"):
        forget_user(WHO, out, data=tmp_path / "data")
