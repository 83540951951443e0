"""Feedback of clients that send pseudonyms: one person with what the log had of them, and none once forgotten."""

from __future__ import annotations

import hashlib
import hmac
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest

from data.dataset import Dataset
from data.ingest import IngestOptions, ingest
from data.pseudonyms import Pseudonyms
from data.validation import DatasetError
from pipeline.forget.user import forget_user
from pipeline.settings.config import load_config
from serving.feedback.compact import add_feedback
from serving.feedback.events import FeedbackEvent
from serving.feedback.log import FeedbackLog

SALT = b"a salt of well over sixteen bytes"
MARK = "user_is_pseudonym"


def by_hand(id_: str) -> str:
    return hmac.new(SALT, id_.encode(), hashlib.sha256).hexdigest()[:32]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Three people with four events each, and a salt beside."""
    folder = tmp_path / "data"
    folder.mkdir()
    items = [f"i{row % 5}" for row in range(12)]
    log = pd.DataFrame({"user_id": ["ann", "bob", "cy"] * 4, "item_id": items, "timestamp": range(1_000, 1_012)})
    log.to_parquet(folder / "interactions.parquet", index=False)
    pd.DataFrame({"item_id": [f"i{row}" for row in range(5)]}).to_parquet(folder / "items.parquet")
    (tmp_path / "salt").write_bytes(SALT)
    return folder


def come_back(source: Path, *users: str) -> dict[str, int]:
    """One new event of each user, from a gateway into the dataset folder."""
    log = FeedbackLog(source.parent / "run" / "gateway" / "feedback")
    given = {"item_id": "i1", "event": "like", "received": 8}
    log.append([{"event_id": f"{n}-{user}", "user_id": user, "timestamp": 2_000 + n, **given} for n, user in enumerate(users)])
    log.close()
    return add_feedback(log.folder, source)


def events_by_user(dataset: Dataset) -> dict[str, int]:
    counts = dataset.events["user"].value_counts()
    return {dataset.users["user_id"][row]: int(count) for row, count in counts.items()}


def hidden(source: Path, out: str = "hidden") -> Dataset:
    return ingest(source, source.parent / out, IngestOptions(split="random", pseudonym_salt_file=str(source.parent / "salt")))


def test_a_person_of_the_log_and_of_its_feedback_is_one(source):
    assert come_back(source, by_hand("ann"), by_hand("new"), "bob")["added"] == 3
    dataset = hidden(source)
    # Bob's client sent his id in spite of the salt: no run is to hold it.
    expected = {by_hand("ann"): 5, by_hand("bob"): 5, by_hand("cy"): 4, by_hand("new"): 1}
    assert events_by_user(dataset) == expected and dataset.schema.context == {}
    # Written before there was a mark: known again where the log, or the list of people, has the person.
    log = pd.read_parquet(source / "interactions.parquet")
    assert log[MARK].fillna(False).sum() == 2
    log.drop(columns=MARK).to_parquet(source / "interactions.parquet", index=False)
    del expected[by_hand("new")]
    assert events_by_user(hidden(source, "old")) == expected | {by_hand(by_hand("new")): 1}
    pd.DataFrame({"user_id": ["new"]}).to_parquet(source / "users.parquet")
    assert events_by_user(hidden(source, "listed")) == expected | {by_hand("new"): 1}


def test_a_mark_stands_for_rows_of_the_same_person_that_have_none(source):
    log = pd.read_parquet(source / "interactions.parquet")
    log.loc[12] = [by_hand("new"), "i1", 1_500]
    log.to_parquet(source / "interactions.parquet", index=False)
    come_back(source, by_hand("new"))
    assert events_by_user(hidden(source))[by_hand("new")] == 2


def test_a_log_whose_own_ids_look_like_pseudonyms_is_hashed(source):
    names = {name: hashlib.md5(name.encode()).hexdigest() for name in ("ann", "bob", "cy", "new")}
    log = pd.read_parquet(source / "interactions.parquet")
    log.assign(user_id=log["user_id"].map(names)).to_parquet(source / "interactions.parquet", index=False)
    come_back(source, names["ann"], names["new"], by_hand(names["bob"]))
    assert MARK not in pd.read_parquet(source / "interactions.parquet")
    counts = {"ann": 5, "bob": 5, "cy": 4, "new": 1}
    assert events_by_user(hidden(source)) == {by_hand(names[name]): count for name, count in counts.items()}


def test_a_run_without_salt_takes_every_id_as_it_is(source):
    come_back(source, "ann", "new")
    assert list(pd.read_parquet(source / "interactions.parquet")) == ["user_id", "item_id", "timestamp", "event"]
    come_back(source, by_hand("ann"))
    dataset = ingest(source, source.parent / "plain", IngestOptions(split="random"))
    assert events_by_user(dataset) == {"ann": 5, "bob": 4, "cy": 4, "new": 1, by_hand("ann"): 1}
    assert dataset.schema.context == {}


def test_the_list_of_people_says_more_than_a_mark():
    pseudonyms, own = Pseudonyms(SALT), "0" * 32
    table = pa.table({"user_id": [own, by_hand("ann")], MARK: [True, True]})
    column = pseudonyms.in_column(table, "user_id", pd.Series([True, True]).to_numpy(), [by_hand(own)])["user_id"]
    assert column.to_pylist() == [by_hand(own), by_hand("ann")]


def test_nobody_but_add_feedback_says_who_is_a_pseudonym(source):
    with pytest.raises(ValueError, match="no column of its own"):
        FeedbackEvent(user_id="u", item_id="i", event="like", context={MARK: "true"})
    log = pd.read_parquet(source / "interactions.parquet").assign(**{MARK: "yes"})
    log.to_parquet(source / "interactions.parquet", index=False)
    with pytest.raises(DatasetError, match="must be true or false, as `add-feedback` writes it, received"):
        hidden(source)


@pytest.mark.parametrize("marked", [True, False])
def test_forgetting_finds_every_form_of_an_id(source, tmp_path, marked):
    come_back(source, by_hand("ann"), by_hand("new"))
    if not marked:  # as an earlier version left it, and a run from then
        log = pd.read_parquet(source / "interactions.parquet").drop(columns=MARK)
        log.to_parquet(source / "interactions.parquet", index=False)
    out = tmp_path / "run"
    before = hidden(source, "run/ingest")
    assert (by_hand(by_hand("new")) in before.user_ids) != marked
    settings = load_config(overrides=[f"data.pseudonym_salt_file={tmp_path / 'salt'}"])
    assert [forget_user(name, out, data=source, config=settings).rows for name in ("ann", "new")] == [5, 1]
    left = {by_hand("bob"), by_hand("cy")}
    assert {user for user in Dataset.load(out / "ingest").user_ids if not user.startswith("forgotten-")} - {""} == left
    assert set(pd.read_parquet(source / "interactions.parquet")["user_id"]) == {"bob", "cy"}
    assert set(hidden(source, "again").user_ids) - {""} == left
