"""The proof on files of any size and form: blocks, texts of many lines, and Parquet under any name."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline.forget import blocks
from pipeline.forget.files import forget_in_feedback
from pipeline.forget.proof import Search, prove_forgotten
from pipeline.stage import StageError
from serving.feedback.log import FeedbackLog

WHO = "person-17"
IDS = frozenset([WHO])


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of some hundred bytes, the least that the longest word of a search allows."""
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 1)


@pytest.mark.parametrize("filler", ["é ", "- "])
@pytest.mark.parametrize("ending", ["txt", "bin"])
@pytest.mark.usefixtures("small_blocks")
def test_a_word_is_found_wherever_blocks_end_and_a_longer_one_is_not(tmp_path: Path, ending: str, filler: str):
    file = tmp_path / f"any.{ending}"
    search = Search(IDS, others=frozenset([f"ann.{WHO}.home"]))
    longer = [f"{WHO}0", f"ann.{WHO}.home", *([f"a-{WHO}"] if ending == "txt" else [])]
    for before in range(0, 700, 3):
        for word in (WHO, *longer):
            file.write_text("." * (before % 2) + filler * (before // 2) + f" {word} " + filler * 350)
            assert search.trace(file) == ("id" if word == WHO else ""), (before, word)


@pytest.mark.parametrize("name", ["long.npy", "long.npz", "long.gz"])
@pytest.mark.usefixtures("small_blocks")
def test_a_vector_is_found_in_the_midst_of_a_long_file(tmp_path: Path, name: str):
    table = np.random.default_rng(0).normal(size=(500, 8)).astype(np.float32)
    if name == "long.gz":
        (tmp_path / name).write_bytes(gzip.compress(table.tobytes()))
    else:
        np.savez_compressed(tmp_path / name, table=table) if name == "long.npz" else np.save(tmp_path / name, table)
    for row in range(0, 500, 7):
        assert Search(IDS, (table[row].tobytes(),)).trace(tmp_path / name) == "vector"
    assert Search(IDS, (table[0][::-1].tobytes(),)).trace(tmp_path / name) == ""


def test_a_long_file_is_read_block_by_block(tmp_path: Path):
    (tmp_path / "film.mp4").write_bytes(b"\x01" * (9 * 2**20))
    parts = list(blocks.blocks(tmp_path / "film.mp4", 20))
    assert len(parts) == 3 and max(len(part.content) for part in parts) <= 4 * 2**20 + 180
    assert [(part.head, part.tail) for part in parts] == [(0, 20), (20, 20), (20, 0)]


@pytest.mark.parametrize("name", ["log.json", "log.jsonl"])
def test_json_lines_are_searched_whatever_their_name(tmp_path: Path, name: str):
    lines = [{"user_id": "30", "position": 3}, {"user_id": "4", "words": "3"}]
    (tmp_path / name).write_text("\n".join(map(json.dumps, lines)) + '\n{"user_id": "3", "cut o')
    assert prove_forgotten([tmp_path], frozenset(["3"])).files == 1
    with (tmp_path / name).open("a") as file:
        file.write(f"ff\n{json.dumps({'user_id': '3'})}\n")
    with pytest.raises(StageError, match=rf"{name} \(id\)"):
        prove_forgotten([tmp_path], frozenset(["3"]))
    (tmp_path / name).write_text(f"by {WHO}, no JSON at all")
    with pytest.raises(StageError, match=rf"{name} \(id\)"):
        prove_forgotten([tmp_path], IDS)


def test_an_id_that_is_a_number_does_not_stop_a_gateway_that_counts_places(tmp_path: Path):
    log = FeedbackLog(tmp_path)
    given = {"item_id": "42", "timestamp": 3, "event": "like", "received": 3, "position": 3}
    log.append([{"event_id": "3", "user_id": "u", **given}])
    assert forget_in_feedback(tmp_path, frozenset(["3"])) == forget_in_feedback(tmp_path, frozenset(["42"])) == 0
    log.append([{"event_id": "4", "user_id": "3", **given}])
    with pytest.raises(StageError, match="a gateway is writing this file, and it holds events of the user"):
        forget_in_feedback(tmp_path, frozenset(["3"]))
    log.close()
    assert forget_in_feedback(tmp_path, frozenset(["3"])) == 1


def test_parquet_is_searched_under_any_name_and_not_believed_where_it_is_broken(tmp_path: Path):
    file = tmp_path / ".writing-elsewhere-1-0123456789ab"
    for user, what in ((WHO, "id"), ("person-1", "")):
        pd.DataFrame({"user_id": [user] * 99, "about": ["words"] * 99}).to_parquet(file, compression="zstd")
        assert Search(IDS).trace(file) == what and Search(frozenset(["3", user])).trace(file) == "id"
    file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(StageError, match=r"0123456789ab .a broken Parquet file, which cannot be searched"):
        prove_forgotten([tmp_path], IDS)
