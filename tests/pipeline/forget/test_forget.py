"""Forgetting a user: what goes, what keeps its place, what the proof finds, and what a kill leaves to do."""

from __future__ import annotations

import dataclasses
import gzip
import io
import json
import threading
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from keras import ops

from data.dataset import Dataset, train_counts
from data.folder_lock import alone
from data.ingest import IngestOptions, ingest
from pipeline.forget import release as forget_release
from pipeline.forget import run as forget_run
from pipeline.forget.files import forget_in_dataset, forget_in_feedback, forget_in_json, forget_in_table
from pipeline.forget.proof import prove_forgotten
from pipeline.forget.user import forget_user
from pipeline.metrics.interactions import Interactions
from pipeline.ranker.visits import Visits
from pipeline.reproduce_record import made_from
from pipeline.stage import StageError, folder_fingerprint
from ranking.serving_form import RankingServingForm
from serving.feedback import compact
from serving.feedback.log import FeedbackLog
from serving.feedback.partitions import partition_files, read_partitions
from serving.releases.gc import remove
from serving.releases.labels import read_labels
from serving.releases.promotion import promote
from tests.ranking.worlds import SMALL, planted_world
from tests.serving.release_files import publish_all
from towers.config import TowerConfig
from towers.two_tower import TwoTower, load_two_tower

WHO = "person-17"
IDS = frozenset([WHO])
USERS = [f"person-{number}" for number in range(1, 21)]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Twenty users; one of them has a profile value and a device that nobody else has, and a picture."""
    folder = tmp_path / "data"
    (folder / "media").mkdir(parents=True)
    rng = np.random.default_rng(0)
    events = pd.DataFrame({
        "user_id": pd.Categorical(np.repeat(USERS, 6)), "item_id": [f"i{item}" for item in rng.integers(0, 60, 120)],
        "timestamp": 1_600_000_000 + rng.permutation(120) * 3600, "device": ["phone", "desktop"] * 60,
    })  # fmt: skip
    events.loc[events["user_id"] == WHO, "device"] = "a device of my own"
    refused = pd.DataFrame({"user_id": [WHO], "item_id": ["nowhere"], "timestamp": [1], "device": ["phone"]})
    pd.concat([events, refused]).astype({"user_id": "category"}).to_parquet(folder / "interactions.parquet")
    pd.DataFrame({"item_id": [f"i{item}" for item in range(60)]}).to_parquet(folder / "items.parquet")
    people = pd.DataFrame({"user_id": USERS, "town": ["here", "there"] * 10, "image": ["all.png"] * 20})
    people.loc[people["user_id"] == WHO, ["town", "image"]] = ["a village", "mine.png"]
    people.to_parquet(folder / "users.parquet")
    for name in ("all.png", "mine.png"):
        (folder / "media" / name).write_bytes(b"picture")
    return folder


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    """A ranker and towers that know twenty users by their row, as stages save them."""
    folder = tmp_path_factory.mktemp("models")
    world = planted_world(requests=20)
    rng = np.random.default_rng(4)
    ranker = world.ranker(SMALL)
    for weight in ranker.trainable_variables:
        weight.assign(np.asarray(weight) + 0.1 * rng.normal(size=weight.shape))
    RankingServingForm.from_ranker(ranker).save(folder / "ranking" / "serving_form")
    schema = dataclasses.replace(world.spec.schema, modalities={})
    (folder / "retrieval" / "full").mkdir(parents=True)
    TwoTower(schema, TowerConfig(width=8, history_length=3, user_id=True)).save_to(folder / "retrieval" / "full")
    learned = {"features/user_id": rng.normal(size=(21, 8)).astype(np.float32), "side/user_known": np.arange(21) > 0}
    np.savez(folder / "ranking" / "learned.npz", **learned)
    return folder


@pytest.fixture
def run(data: Path, models: Path, tmp_path: Path) -> Path:
    """A finished run without releases: what its stages leave that is about users."""
    import shutil

    out = tmp_path / "run"
    shutil.copytree(models, out)
    ingest(data, out / "ingest", IngestOptions(split="random"))
    (out / "evaluate").mkdir()
    pd.DataFrame({"user_id": USERS, "ndcg": 0.5}).to_parquet(out / "evaluate" / "users.parquet")
    examples = [{"user_id": name, "history": ["i1"]} for name in USERS]
    (out / "evaluate" / "examples.json").write_text(json.dumps(examples))
    rng = np.random.default_rng(1)
    wanted = Interactions.from_pairs(np.arange(20), rng.integers(1, 60, 20), 20)
    rows = rng.integers(1, 60, (20, 5)).astype(np.int32)
    users = np.arange(1, 21, dtype=np.int32)
    Visits(users, rows, users.astype(np.int64), wanted, rows, rows.astype(np.float32), rows.astype(np.float32)).save(
        out / "ranking" / "held_out.npz"
    )
    (out / ".checkpoints-retrieval-full-0").mkdir()
    (out / ".checkpoints-retrieval-full-0" / "state.npz").write_bytes(b"an embedding table")
    return out


def tables_of(run: Path) -> dict[str, np.ndarray]:
    form = RankingServingForm.load(run / "ranking" / "serving_form").network.features
    towers = load_two_tower(run / "retrieval" / "full").user_tower
    found = {"ranker": form.embeddings["user_id"], "towers": towers.id_embedding.embeddings}
    found |= {name: form.side.tables[name] for name in ("profile", "user_known")}
    with np.load(run / "ranking" / "learned.npz") as learned:
        return {name: np.asarray(ops.convert_to_numpy(table)) for name, table in found.items()} | {
            "learned": learned["features/user_id"],
            "learned users": learned["side/user_known"],
        }


def test_a_run_without_the_user_and_everybody_else_as_before(run, data):
    before, tables, row = Dataset.load(run / "ingest"), tables_of(run), USERS.index(WHO) + 1
    done = forget_user(WHO, run, data=data)
    assert (done.rows, done.events, done.release, done.searched.anywhere) == (8, 0, None, True)
    after = Dataset.load(run / "ingest")
    names = before.users["user_id"].replace(WHO, f"forgotten-{row}")
    assert after.users["user_id"].tolist() == names.tolist() and after.user_ids.rows([WHO]).tolist() == [0]
    kept = before.events[before.events["user"] != row].reset_index(drop=True)
    pd.testing.assert_frame_equal(after.events, kept)
    np.testing.assert_array_equal(after.counts, train_counts(kept, 61))
    assert after.users["profile_town"][row] == 0
    assert (after.users["profile_town"].drop(row) == before.users["profile_town"].drop(row)).all()
    for vocabulary, rare in ((after.profile_vocabulary["town"], "a village"),
                             (after.context_vocabulary["device"], "a device of my own")):  # fmt: skip
        assert rare not in vocabulary and len(vocabulary) == 4
    for name, table in tables_of(run).items():
        expected = tables[name].copy()
        expected[row] = 0 if name in ("profile", "user_known", "learned users") else expected[0]
        np.testing.assert_array_equal(table, expected, err_msg=name)
    assert Visits.load(run / "ranking" / "held_out.npz").users.tolist() == [one for one in range(1, 21) if one != row]
    assert len(pd.read_parquet(run / "evaluate" / "users.parquet")) == 19
    assert [one["user_id"] for one in json.loads((run / "evaluate" / "examples.json").read_text())] == [
        one for one in USERS if one != WHO
    ]
    assert not list(run.glob(".checkpoints*"))
    assert sorted(path.name for path in (data / "media").iterdir()) == ["all.png"]
    assert "a village" not in pd.read_parquet(data / "users.parquet")["town"].tolist()


def test_started_twice_is_harmless(run, data):
    forget_user(WHO, run, data=data)
    files = {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and "jobs" not in path.parts}
    done = forget_user(WHO, run, data=data)
    assert (done.rows, done.events, done.release) == (0, 0, None)
    assert files == {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and "jobs" not in path.parts}


@pytest.mark.parametrize("last", ["held_out.npz", "events.parquet", "users.parquet", "user_ids.txt"])
def test_a_kill_leaves_what_the_next_start_finishes(run, data, monkeypatch, last):
    """Killed before each of these files is replaced; the second start does the rest."""
    real, real_arrays = forget_run.os.replace, forget_run.write_arrays

    class KilledError(BaseException):
        pass

    def killed(source, target):
        if Path(target).name == last and Path(target).parent.name == "ingest":
            raise KilledError
        real(source, target)

    def killed_arrays(path, arrays):
        if path.name == last:
            raise KilledError
        real_arrays(path, arrays)

    with monkeypatch.context() as patched:
        patched.setattr(forget_run.os, "replace", killed)
        patched.setattr(forget_run, "write_arrays", killed_arrays)
        with pytest.raises(KilledError):
            forget_run.forget_in_run(run, IDS)
    Dataset.load(run / "ingest")
    forget_user(WHO, run, data=data)
    after = Dataset.load(run / "ingest")
    assert WHO not in after.users["user_id"].tolist() and len(after.events) == 114
    assert WHO not in (run / "ingest" / "user_ids.txt").read_text().split("\n")


def test_kept_feedback_goes_and_a_file_being_written_stops_it(tmp_path):
    log = FeedbackLog(tmp_path)
    users = [WHO, "person-1", "person-170", WHO]
    events = [{"event_id": f"e{place}", "user_id": user, "item_id": "i", "timestamp": 86_400 * (place // 2), "event": "like",
               "received": place} for place, user in enumerate(users)]  # fmt: skip
    log.append(events)
    with pytest.raises(StageError, match="a gateway is writing this file"):
        forget_in_feedback(tmp_path, IDS)
    log.close()
    assert forget_in_feedback(tmp_path, IDS) == 2
    left = read_partitions(partition_files(tmp_path))["user_id"].to_pylist()
    assert left == ["person-1", "person-170"] and forget_in_feedback(tmp_path, IDS) == 0
    prove_forgotten([tmp_path], IDS)


def test_ids_that_are_numbers_are_found_as_they_are_read(tmp_path):
    pd.DataFrame({"user_id": [7.0, 70.0, None], "item_id": [7, 7, 7]}).to_parquet(tmp_path / "interactions.parquet")
    assert forget_in_dataset(tmp_path, frozenset("7")) == 1
    left = pd.read_parquet(tmp_path / "interactions.parquet")
    assert left["item_id"].tolist() == [7, 7] and left["user_id"].dropna().tolist() == [70]
    assert not prove_forgotten([tmp_path], frozenset("7")).anywhere


def test_json_loses_the_person_and_no_word_that_looks_alike(tmp_path):
    file = tmp_path / "figures.json"
    content = {"full": {"epochs": 7}, "mode": "full", "users": ["a", "full"], "examples": [{"user_id": "full", "k": 1},
               {"user_id": "b", "k": 2}], "by": {"users": {"full": 0.1, "b": 0.2}}}  # fmt: skip
    file.write_text(json.dumps(content))
    assert forget_in_json(file, frozenset(["full"])) and not forget_in_json(file, frozenset(["full"]))
    assert json.loads(file.read_text()) == {"full": {"epochs": 7}, "mode": "full", "users": ["a"],
                                            "examples": [{"user_id": "b", "k": 2}], "by": {"users": {"b": 0.2}}}  # fmt: skip


def hide(folder: Path, name: str) -> None:
    """Writes a trace of the user, or of their vector, in a form in which no plain search sees it, or only that one."""
    vector = np.random.default_rng(3).normal(size=(3, 8)).astype(np.float32)
    if name == "unused.parquet":  # a dictionary of which no row uses the value any more
        column = pa.DictionaryArray.from_arrays(pa.array([0, 0], pa.int32()), pa.array(["person-1", WHO]))
        pq.write_table(pa.table({"user_id": column}), folder / name, store_schema=True)
    elif name == "text.parquet":
        pd.DataFrame({"about": [f"written by {WHO}."]}).to_parquet(folder / name, compression="zstd")
    elif name in ("packed.npz", "vector.npz"):
        table = np.array([f"a{WHO}b".encode()]) if name == "packed.npz" else vector
        np.savez_compressed(folder / name, table=table)
    elif name == "log.gz":
        (folder / name).write_bytes(gzip.compress(f"{WHO} was here".encode()))
    elif name == "vector.npy":
        np.save(folder / name, vector)
    elif name == "users.txt":
        (folder / name).write_text(f"person-1\n{WHO}\n")
    else:
        (folder / name).write_text(json.dumps({"words": f"of {WHO}"}))


TRACES = ["unused.parquet", "text.parquet", "packed.npz", "vector.npz", "log.gz", "vector.npy", "users.txt", "any.json"]


@pytest.mark.parametrize("name", TRACES)
def test_the_proof_names_the_file_that_has_something(tmp_path, name):
    near = pd.DataFrame({"user_id": ["person-170", "person-1", "a-person-17"]})
    near.to_parquet(tmp_path / "near.parquet")
    (tmp_path / "near.bin").write_bytes(b"person-170person-1")
    (tmp_path / "near.txt").write_text("person-170, person-1 and person-17a")
    vectors = [np.random.default_rng(3).normal(size=(3, 8)).astype(np.float32)[1].tobytes()]
    assert prove_forgotten([tmp_path], IDS, vectors).files == 3
    hide(tmp_path, name)
    with pytest.raises(StageError, match=rf"something is left(.|\n)*{name} \({'vector' if 'vector' in name else 'id'}\)"):
        prove_forgotten([tmp_path], IDS, vectors)


def test_ids_that_json_escapes(tmp_path):
    who = frozenset(["zoë-and-zoé"])
    (tmp_path / "events.jsonl").write_text(json.dumps({"words": "zoë-and-zoé"}))
    with pytest.raises(StageError, match="something is left"):
        prove_forgotten([tmp_path], who)


def test_a_filtered_table_keeps_its_columns_and_compression(tmp_path):
    frame = pd.DataFrame({"user_id": pd.Categorical([WHO, "person-2"]), "value": [1.5, np.nan], "more": [[1], [2, 3]]})
    frame.to_parquet(tmp_path / "table.parquet", compression="gzip")
    assert forget_in_table(tmp_path / "table.parquet", IDS).num_rows == 1
    left = pq.read_table(tmp_path / "table.parquet")
    assert left.to_pylist() == [{"user_id": "person-2", "value": None, "more": [2, 3]}]
    assert pq.read_metadata(tmp_path / "table.parquet").row_group(0).column(0).compression == "GZIP"
    assert WHO.encode() not in io.BytesIO((tmp_path / "table.parquet").read_bytes()).read()


def test_labels_end_on_the_new_release_alone_whatever_they_were(tmp_path):
    releases = publish_all(tmp_path / "releases", 1, 2)
    promote(releases, 1)
    promote(releases, 2, "canary")
    publish_all(releases, 3)
    for _ in range(2):  # a start after a kill does it again
        forget_release._move_labels(releases, 3, ())
        assert str(read_labels(releases)) == "stable 3"
    assert sorted(removal.path.name for removal in remove(releases, newest=1)) == ["1", "2"]
    assert {path.name for path in (releases / "serving").glob("*/*")} == {"3"}


@pytest.mark.parametrize("moment", ["_marked", "write_table"], ids=["while it is added", "while it is merged"])
def test_feedback_on_its_way_into_the_dataset_does_not_bring_a_user_back(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
):
    folder, threads, real = tmp_path / "feedback", [], getattr(compact, moment)
    for number, user in enumerate((WHO, "person-3")):
        log = FeedbackLog(folder)
        log.append([{"event_id": f"e{number}", "user_id": user, "item_id": "i1", "timestamp": 1_700_000_000, "event": "like",
                     "received": 1_700_000_000}])  # fmt: skip
        log.close()

    def forget() -> None:
        forget_in_feedback(folder, IDS)
        forget_in_dataset(data, IDS)

    def meanwhile(*given):
        if not threads:  # what was read has the user still
            threads.append(threading.Thread(target=forget))
            threads[0].start()
            threads[0].join(0.5)
        return real(*given)

    monkeypatch.setattr(compact, moment, meanwhile)
    assert compact.add_feedback(folder, data)["added"] in (1, 2)
    threads[0].join(20)
    kept = pq.read_table(data / "interactions.parquet").to_pandas()
    assert WHO not in set(kept["user_id"]) and (kept["timestamp"] == 1_700_000_000).sum() == 1
    assert read_partitions(partition_files(folder))["user_id"].to_pylist() == ["person-3"]


def test_the_lock_of_a_dataset_folder_is_no_new_data(data: Path):
    before, digests = folder_fingerprint(data), made_from(data).data
    with alone(data):
        assert (data / ".lock").is_file()
    assert folder_fingerprint(data) == before and made_from(data).data == digests
