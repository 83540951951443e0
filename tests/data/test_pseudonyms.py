"""Ids under a salt, and columns that must not be read: what reaches the ingested folder, and what does not."""

import hashlib
import hmac
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from typer.testing import CliRunner

from data.dataset import Dataset
from data.ingest import IngestOptions, ingest
from data.pseudonyms import Pseudonyms
from data.validation import DatasetError
from pipeline.settings.config import load_config
from pipeline.stages.walk import Run
from tests.data.test_ingest import EVENTS, ITEMS, USERS

SALT = b"a salt of well over sixteen bytes"
PEOPLE = {"c", "b", "a", "idle", "stranger"}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    folder.mkdir()
    broken = pd.DataFrame({"user_id": ["broken\nid", None], "item_id": ["i1", "i1"], "timestamp": [1, 2],
                           "event": ["view", "view"], "split": ["train", "train"]})  # fmt: skip
    events = pd.concat([EVENTS, broken, EVENTS.iloc[[0]]]).assign(device="phone", secret="street 7")
    events.to_parquet(folder / "interactions.parquet", index=False)
    ITEMS.to_parquet(folder / "items.parquet", index=False)
    USERS.assign(secret="street 8", bio="I am idle").to_parquet(folder / "users.parquet", index=False)
    (tmp_path / "salt").write_bytes(SALT + b"\n")
    return folder


def by_hand(id_: str) -> str:
    return hmac.new(SALT, id_.encode(), hashlib.sha256).hexdigest()[:32]


def cells(folder: Path) -> list[str]:
    """Everything written in a folder, as texts: files, and the cells of tables."""
    found = [path.read_bytes().decode("latin-1") for path in folder.iterdir() if path.suffix != ".parquet"]
    for path in folder.glob("*.parquet"):
        frame = pd.read_parquet(path)
        found += [str(value) for value in frame.to_numpy(dtype=object).ravel()] + list(frame.columns)
    return found


def test_a_run_holds_pseudonyms_and_the_same_events(source, tmp_path):
    plain = ingest(source, tmp_path / "plain")
    hidden = ingest(source, tmp_path / "hidden", IngestOptions(pseudonym_salt_file=str(tmp_path / "salt")))
    assert set(hidden.user_ids) == {by_hand(id_) for id_ in PEOPLE}

    def told(dataset: Dataset, name_of) -> set:
        names = [name_of(id_) for id_ in dataset.users["user_id"]]
        lines = dataset.events[["user", "item", "timestamp", "event", "split"]]
        return {(names[user], *rest) for user, *rest in lines.itertuples(index=False, name=None)}

    assert told(plain, by_hand) == told(hidden, str)
    ages = [dict(zip(data.users["user_id"], data.users["profile_age"], strict=True)) for data in (plain, hidden)]
    assert {by_hand(id_): age for id_, age in ages[0].items() if id_} == {k: v for k, v in ages[1].items() if k}


def test_neither_ids_nor_salt_reach_the_folder_not_even_by_the_quarantine(source, tmp_path):
    options = IngestOptions(pseudonym_salt_file=str(tmp_path / "salt"))
    hidden = ingest(source, tmp_path / "out", options)
    refused = pd.read_parquet(tmp_path / "out/quarantine.parquet")
    assert {"user_id: blank", "user_id: missing"} < set(refused["reason"]) and len(refused) == 3
    text = "\n".join(cells(tmp_path / "out"))
    assert by_hand("b") in refused["record"].str.cat()  # the repeated line, under the pseudonym
    assert "broken" not in text and "stranger" not in text and '"b"' not in text and SALT.decode() not in text
    assert repr(Pseudonyms(SALT)) == "Pseudonyms()"
    assert len(hidden.events) == len(EVENTS)


def test_numbers_are_hashed_as_the_text_that_they_are_read_as():
    table = pa.table({"user_id": pa.array([7.0, None, 7.0, 8.0])})
    column = Pseudonyms(SALT).in_column(table, "user_id")["user_id"].to_pylist()
    assert column == [by_hand("7"), None, by_hand("7"), by_hand("8")]


def test_columns_not_allowed_are_not_read(source, tmp_path):
    everything = ingest(source, tmp_path / "all")
    assert set(everything.schema.profile) == {"age", "secret"} and "device" in "\n".join(cells(tmp_path / "all"))
    few = ingest(source, tmp_path / "few", IngestOptions(columns=("label",)))
    assert (few.schema.profile, few.schema.context) == ({}, {})
    assert "label" in few.schema.attributes and few.items["title"][1] == "Three & more"
    text = "\n".join(cells(tmp_path / "few"))
    assert "street" not in text and "phone" not in text and "I am idle" not in text
    np.testing.assert_array_equal(few.events["timestamp"], everything.events["timestamp"])


def test_a_misspelt_column_is_an_error(source, tmp_path):
    with pytest.raises(DatasetError, match=r"columns: must be columns of .*received \['agee'\]"):
        ingest(source, tmp_path / "out", IngestOptions(columns=("agee",)))
    with pytest.raises(DatasetError, match=r"context: must be among `columns`.*'device'"):
        IngestOptions(columns=("age",), context=("device",))


def test_another_salt_is_another_ingest_and_lies_outside_the_run(source, tmp_path):
    lines: list[str] = []
    settings = load_config(overrides=[f"data.pseudonym_salt_file={tmp_path / 'salt'}"])
    run = Run(source, tmp_path / "run", settings, say=lines.append)
    first, again = run.ingest(), run.ingest()
    assert not first.skipped and again.skipped
    (tmp_path / "salt").write_bytes(SALT[::-1])
    assert not run.ingest().skipped
    (tmp_path / "run/salt").write_bytes(SALT)
    inside = load_config(overrides=[f"data.pseudonym_salt_file={tmp_path / 'run/salt'}"])
    with pytest.raises(DatasetError, match="outside dataset and run"):
        Run(source, tmp_path / "run", inside, say=lines.append).ingest()


def test_a_salt_that_could_be_guessed_is_refused(tmp_path):
    (tmp_path / "salt").write_text("short\n")
    with pytest.raises(DatasetError, match="at least 16 bytes, received 5"):
        Pseudonyms.from_file(tmp_path / "salt")
    with pytest.raises(DatasetError, match="cannot be read"):
        Pseudonyms.from_file(tmp_path / "none")


def test_the_command_prints_what_the_ingest_writes(tmp_path):
    from pipeline.__main__ import app

    (tmp_path / "salt").write_bytes(SALT)
    command = ["pseudonym", "--salt-file", str(tmp_path / "salt"), "--id", "a", "--id", "stranger"]
    result = CliRunner().invoke(app, command, catch_exceptions=False)
    assert result.output.split() == [by_hand("a"), by_hand("stranger")]
