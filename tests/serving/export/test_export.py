"""A whole release: what retrieval and ranking answer, and that every way of asking gives the same answer."""

from __future__ import annotations

import dataclasses
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from serving.export.release import RANKING, RETRIEVAL, RETRIEVAL_SCANN, export_release
from serving.export.retrieval import RetrievalModule
from serving.graphs.request_history import ServingTables
from serving.graphs.vocabulary_tables import VocabularyTables
from serving.index.index import LOWEST, ExactIndex
from serving.index.partitioned_index import PartitionedIndex
from serving.index.scann_index import ScannIndex
from serving.releases.release import ReleaseError, verify_release
from serving.saved_model import operations
from serving.server.inference import predict_arrays
from serving.server.servable import Servable
from serving.server.warmup import read_warmup
from serving.status import ServingError

USERS, ITEMS, WIDTH, LENGTH = 30, 1_200, 8, 4
TOWNS = ["", "Rome", "Oslo", "Lima", "Bern"]


class MeanUserTower(keras.layers.Layer):
    """A user tower that NumPy can follow: unit(user vector + profile vector + mean of the history)."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.user = self.add_weight(
            shape=(USERS + 1, WIDTH), initializer=keras.initializers.RandomNormal(0, 0.3, seed=1)
        )
        self.profile = self.add_weight(shape=(5, WIDTH), initializer=keras.initializers.RandomNormal(0, 0.3, seed=2))
        self.built = True

    def call(self, user, profile, history, history_mask):
        mask = ops.cast(history_mask, "float32")[:, :, None]
        mean = ops.sum(history * mask, axis=1) / ops.maximum(ops.sum(mask, axis=1), 1.0)
        vector = ops.take(self.user, user, axis=0) + ops.take(self.profile, profile[:, 0], axis=0) + mean
        return ops.normalize(vector, axis=-1), {}


class CountingRanker(keras.Model):
    """A ranker whose answer shows all that it was given: user row, time, history, candidate and retrieval score."""

    def __init__(self):
        super().__init__()
        self.bias = self.add_weight(shape=(ITEMS + 1,), initializer=keras.initializers.RandomNormal(0, 1, seed=3))
        self.built = True

    def call(self, user_row, history_rows, candidate_rows, retrieval_scores, timestamp):
        shared = ops.cast(user_row, "float32") / 100 + ops.cast(timestamp % 7, "float32") / 10
        shared = shared + ops.sum(ops.cast(history_rows, "float32"), axis=1) / 1e4
        click = ops.sigmoid(ops.take(self.bias, candidate_rows, axis=0) + retrieval_scores + shared[:, None])
        return {"click": click, "purchase": click / 2, "score": click}


@dataclasses.dataclass
class World:
    tables: ServingTables
    items: np.ndarray
    tower: MeanUserTower
    ranker: CountingRanker
    folder: object

    def query(self, user: int, history: list[int], town: int | None = None) -> np.ndarray:
        rows = [row for row in history if row]
        mean = self.items[rows].mean(axis=0) if rows else 0.0
        user_vectors, profiles = (
            keras.ops.convert_to_numpy(weight) for weight in (self.tower.user, self.tower.profile)
        )
        vector = user_vectors[user] + profiles[self.tables.profile[user, 0] if town is None else town] + mean
        return vector / np.linalg.norm(vector)

    def expected(
        self, user: int, history: list[int], excluded: set[int], k: int, town: int | None = None
    ) -> list[bytes]:
        scores = self.items @ self.query(user, history, town)
        allowed = [row for row in range(1, ITEMS + 1) if row not in excluded]
        return [f"item {row}".encode() for row in sorted(allowed, key=lambda row: -scores[row])[:k]]

    def seen(self, user: int) -> set[int]:
        start, end = self.tables.seen_offsets[user : user + 2]
        return set(self.tables.seen_rows[start:end].tolist())


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("release")
    rng = np.random.default_rng(0)
    (folder / "user_ids.txt").write_text(
        "".join(f"{name}\n" for name in ["", *(f"user {row}" for row in range(1, USERS + 1))])
    )
    (folder / "item_ids.txt").write_text(
        "".join(f"{name}\n" for name in ["", *(f"item {row}" for row in range(1, ITEMS + 1))])
    )
    items = rng.normal(size=(ITEMS + 1, WIDTH)).astype(np.float32)
    items /= np.linalg.norm(items, axis=1, keepdims=True)
    items[0] = 0
    seen = [[], *(sorted(rng.choice(ITEMS, rng.integers(0, 40), replace=False) + 1) for _ in range(USERS))]
    history = np.array([([*map(int, rows[:LENGTH])] + [0] * LENGTH)[:LENGTH] for rows in seen], np.int32)
    offsets = np.concatenate([[0], np.cumsum([len(rows) for rows in seen])]).astype(np.int64)
    profile = np.concatenate([[[0]], rng.integers(0, 5, (USERS, 1))]).astype(np.int32)
    rows = np.array([row for line in seen for row in line], np.int32)
    tables = ServingTables(
        folder / "user_ids.txt", folder / "item_ids.txt", profile, history, offsets, rows, profile_words={"town": TOWNS}
    )
    return World(tables, items, MeanUserTower(), CountingRanker(), folder)


def export(world, releases, version=7, **ranked):
    # All leaves and all items scored anew: what is tested here is the release, not the approximation.
    index, approximate = ExactIndex(world.items), ScannIndex.build(world.items, leaves_to_search=ITEMS, reorder=ITEMS)
    models = {"user_tower": world.tower, "index": index, "approximate_index": approximate}
    models |= ranked or {"ranker": world.ranker}
    return export_release(releases, version, tables=world.tables, k=20, **models)


@pytest.fixture(scope="module")
def release(world):
    return export(world, world.folder / "releases")


@pytest.fixture(scope="module")
def models(release):
    return {name: tf.saved_model.load(str(release.folder / name / "7")).signatures["serving_default"] for name in
            (RETRIEVAL, RETRIEVAL_SCANN, RANKING)}  # fmt: skip


def strings(lines: list[list[str]]) -> np.ndarray:
    width = max((len(line) for line in lines), default=0)
    array = np.full((len(lines), width), b"", object)
    for place, line in enumerate(lines):
        array[place, : len(line)] = [text.encode() for text in line]
    return array


def request(users, recent=None, excluded=None, k=10, profile=None):
    nothing = [[]] * len(users)
    lists = (recent or nothing, excluded or nothing, profile or nothing)
    inputs = dict(zip(("recent_item_ids", "exclude_item_ids", "profile"), lists, strict=True))
    arrays = {name: strings(lines) for name, lines in inputs.items()}
    return {"user_id": np.array([user.encode() for user in users], object), **arrays, "k": np.int32(k)}


def ask(model, inputs):
    dtypes = {"k": tf.int32, "timestamp": tf.int64, "retrieval_scores": tf.float32}
    tensors = {name: tf.constant(value, dtypes.get(name, tf.string)) for name, value in inputs.items()}
    return {name: value.numpy() for name, value in model(**tensors).items()}


def session(folder, inputs):
    """The way TF Serving takes: a version 1 session that knows nothing of our Python."""
    with tf.Graph().as_default(), tf.compat.v1.Session() as running:
        graph = tf.compat.v1.saved_model.load(running, ["serve"], str(folder))
        signature = graph.signature_def["serving_default"]
        feeds = {signature.inputs[name].name: value for name, value in inputs.items()}
        return running.run({name: tensor.name for name, tensor in signature.outputs.items()}, feeds)


@pytest.mark.parametrize("name", [RETRIEVAL, RETRIEVAL_SCANN])
def test_known_user_gets_the_best_of_what_is_new_to_them(world, models, name):
    for user in (1, 2, 17):
        answer = ask(models[name], request([f"user {user}"]))
        history = world.tables.history[user].tolist()
        assert answer["item_ids"][0].tolist() == world.expected(user, history, world.seen(user), 10)
        assert answer["scores"].dtype == np.float32 and (np.diff(answer["scores"]) <= 0).all()


@pytest.mark.parametrize("name", [RETRIEVAL, RETRIEVAL_SCANN])
def test_recent_items_replace_the_stored_history_and_are_not_offered(world, models, name):
    answer = ask(models[name], request(["user 3"], [["", "item 9", "never heard of", "item 4"]]))
    assert answer["item_ids"][0].tolist() == world.expected(3, [9, 4], world.seen(3) | {9, 4}, 10)
    # Only the first L known ones are the history; all of them are left out of the answer.
    recent = [f"item {row}" for row in range(1, 8)]
    answer = ask(models[name], request(["user 3"], [recent]))
    assert answer["item_ids"][0].tolist() == world.expected(3, [1, 2, 3, 4], world.seen(3) | set(range(1, 8)), 10)
    # A list without one known item is an empty one.
    answer = ask(models[name], request(["user 3"], [["nothing", ""]]))
    assert answer["item_ids"][0].tolist() == world.expected(3, world.tables.history[3].tolist(), world.seen(3), 10)


@pytest.mark.parametrize("name", [RETRIEVAL, RETRIEVAL_SCANN])
def test_unknown_user_gets_items(world, models, name):
    answer = ask(models[name], request(["who?"], k=25))
    assert answer["item_ids"][0].tolist() == world.expected(0, [], set(), 25)
    answer = ask(models[name], request(["who?"], [["item 5"]]))
    assert answer["item_ids"][0].tolist() == world.expected(0, [5], {5}, 10)


@pytest.mark.parametrize("name", [RETRIEVAL, RETRIEVAL_SCANN])
def test_a_profile_in_the_request_counts_before_the_stored_one(world, models, name):
    said = [["town=Lima"], ["town=Bern", "shoe=44"], ["town=Atlantis"], ["Lima"], []]
    answer = ask(models[name], request(["who?", "user 6", "user 6", "user 6", "who?"], profile=said))
    history, seen = world.tables.history[6].tolist(), world.seen(6)
    assert answer["item_ids"][0].tolist() == world.expected(0, [], set(), 10, town=3)
    assert answer["item_ids"][1].tolist() == world.expected(6, history, seen, 10, town=4)
    for line in (2, 3):
        assert answer["item_ids"][line].tolist() == world.expected(6, history, seen, 10)
    assert answer["item_ids"][4].tolist() == world.expected(0, [], set(), 10)
    np.testing.assert_allclose(answer["query"][1], world.query(6, history, town=4), atol=1e-6)
    assert len({tuple(answer["item_ids"][line]) for line in (1, 2)}) == 2


def test_a_server_lets_a_request_leave_its_profile_out(release, models):
    served, inputs = Servable(RETRIEVAL, 7, release.folder / RETRIEVAL / "7"), request(["user 6", "who?"])
    whole = predict_arrays(served, "", inputs)
    without = predict_arrays(served, "", {name: inputs[name] for name in inputs if name != "profile"})
    assert without["item_ids"].tolist() == whole["item_ids"].tolist()
    with pytest.raises(ServingError, match=r"need words of one line a user or of none, received lines\] \[3\]"):
        predict_arrays(served, "", {**inputs, "profile": strings([["town=Rome"]] * 3)})


def test_words_of_another_number_of_columns_are_refused(world):
    with pytest.raises(ValueError, match=r"profile_words: need one entry a profile column \(1\), received town, age"):
        dataclasses.replace(world.tables, profile_words={"town": TOWNS, "age": ["", "9"]})


@pytest.mark.parametrize("name", [RETRIEVAL, RETRIEVAL_SCANN])
def test_exclusions(world, models, name):
    first = ask(models[name], request(["user 6"]))["item_ids"][0]
    excluded = [one.decode() for one in first[:5]]
    answer = ask(models[name], request(["user 6"], excluded=[[*excluded, "", "no such item"]]))
    assert not set(first[:5]) & set(answer["item_ids"][0]) and answer["item_ids"][0, :5].tolist() == first[5:].tolist()
    everything = [[f"item {row}" for row in range(1, ITEMS + 1)]]
    answer = ask(models[name], request(["user 6"], excluded=everything, k=3))
    assert answer["item_ids"].tolist() == [[b"", b"", b""]] and (answer["scores"] == LOWEST).all()


@pytest.mark.parametrize("name", [RETRIEVAL, RETRIEVAL_SCANN])
def test_batch_equals_single_for_any_batch_and_k(world, models, name):
    users = [f"user {row % (USERS + 3)}" for row in range(256)]
    recent = [[f"item {row + step}" for step in range(row % 3)] for row in range(256)]
    batch = ask(models[name], request(users, recent, k=12))
    assert batch["item_ids"].shape == (256, 12)
    for place in (0, 1, 31, 255):
        single = ask(models[name], request([users[place]], [recent[place]], k=12))
        assert single["item_ids"][0].tolist() == batch["item_ids"][place].tolist()
        np.testing.assert_allclose(single["scores"][0], batch["scores"][place], atol=1e-6)
    everything = ask(models[name], request(["user 1"], k=ITEMS + 5))["item_ids"][0]
    assert len(everything) == ITEMS + 5 and len(set(everything) - {b""}) == ITEMS - len(world.seen(1))


def rank_request(users, candidates, recent=None, scores=None):
    array = strings(candidates)
    given = np.linspace(1, 0, array.size, dtype=np.float32).reshape(array.shape) if scores is None else scores
    names = {"user_id": np.array([user.encode() for user in users], object), "candidate_ids": array}
    history = strings(recent or [[]] * len(users))
    return {
        **names,
        "recent_item_ids": history,
        "retrieval_scores": given,
        "timestamp": np.arange(len(users), dtype=np.int64),
        "context": strings([[]] * len(users)),
        "profile": strings([[]] * len(users)),
    }


def test_ranking_gives_the_ranker_what_it_was_promised(world, models):
    answer = ask(
        models[RANKING], rank_request(["user 4", "who?"], [["item 8", "item 3"], ["item 1"]], [[], ["item 20", "x"]])
    )
    scores = np.array([[1, 2 / 3], [1 / 3, 0]], np.float32)
    history = np.array([world.tables.history[4], [20, 0, 0, 0]], np.int32)
    candidates = np.array([[8, 3], [1, 0]], np.int32)
    direct = world.ranker(
        *map(ops.convert_to_tensor, (np.array([4, 0], np.int32), history, candidates, scores, np.array([0, 1])))
    )
    real = candidates > 0
    for name in ("click", "purchase", "score"):
        np.testing.assert_allclose(answer[name][real], keras.ops.convert_to_numpy(direct[name])[real], rtol=1e-5)
    assert answer["score"][1, 1] == -1 and answer["click"][1, 1] == answer["purchase"][1, 1] == 0


def test_ranking_of_padding_and_unknown_candidates(models):
    scores = np.array([[0.5, LOWEST, 0.2]], np.float32)
    answer = ask(models[RANKING], rank_request(["user 1"], [["item 1", "", "unheard"]], scores=scores))
    assert answer["score"][0, 1:].tolist() == [-1, -1] and 0 < answer["score"][0, 0] < 1
    alone = ask(models[RANKING], rank_request(["user 1"], [["item 1"]], scores=scores[:, :1]))
    np.testing.assert_allclose(alone["score"][0, 0], answer["score"][0, 0], rtol=1e-6)
    assert ask(models[RANKING], rank_request(["user 1"], [[]]))["score"].shape == (1, 0)


@pytest.mark.parametrize("name", [RETRIEVAL, RETRIEVAL_SCANN, RANKING])
def test_session_answers_as_python(release, models, name):
    if name == RANKING:
        inputs = rank_request(["user 2", "who?"], [["item 7", "item 2"], ["item 5", ""]])
    else:
        inputs = request(["user 2", "who?"], [["item 7"], []], [[], ["item 12"]])
    answer, python = session(release.folder / name / "7", inputs), ask(models[name], inputs)
    for output, values in python.items():
        np.testing.assert_array_equal(answer[output], values)


def test_a_copy_of_the_release_serves_without_the_run(release, tmp_path):
    copy = tmp_path / "elsewhere"
    shutil.copytree(release.folder, copy)
    assert verify_release(copy).fingerprint == release.fingerprint
    inputs = request(["user 2"])
    np.testing.assert_array_equal(
        session(copy / RETRIEVAL / "7", inputs)["item_ids"],
        session(release.folder / RETRIEVAL / "7", inputs)["item_ids"],
    )


def test_only_the_scann_model_needs_more_than_core_tensorflow(release):
    for name in (RETRIEVAL, RANKING):
        strange = {one for one in operations(release.folder / name / "7") if not hasattr(tf.raw_ops, one)}
        assert not strange
    assert any(one.startswith("Scann>") for one in operations(release.folder / RETRIEVAL_SCANN / "7"))


def test_warm_up_records_hold_answerable_requests(release, models):
    for name in (RETRIEVAL, RETRIEVAL_SCANN, RANKING):
        logs = list(read_warmup(release.folder / name / "7"))
        assert len(logs) >= 4
        for log in logs:
            assert log.predict_log.request.model_spec.name == name
            inputs = {key: tf.make_ndarray(proto) for key, proto in log.predict_log.request.inputs.items()}
            ask(models[name], inputs)


def test_same_inputs_same_fingerprint_and_a_ranker_may_come_when_all_else_is_written(world, release, tmp_path):
    written = []

    def ranked():
        written.extend(path.parts[-3] for path in tmp_path.glob("releases/.*/*/7/saved_model.pb"))
        return world.ranker, None

    again = export(world, tmp_path / "releases", ranked=ranked)
    assert sorted(written) == [RETRIEVAL, RETRIEVAL_SCANN]
    assert again.fingerprint == release.fingerprint and again.folder != release.folder
    assert again.manifest["counts"] == {"users": USERS, "items": ITEMS}


def test_a_published_version_never_changes(world, release):
    with pytest.raises(ReleaseError, match="already published"):
        export(world, world.folder / "releases")


def test_parts_of_different_runs_are_refused(world, tmp_path):
    with pytest.raises(ValueError, match="sizes must agree"):
        RetrievalModule(world.tables, world.tower, ExactIndex(world.items[:-1]))
    with pytest.raises(ValueError, match="one line a user row"):
        dataclasses.replace(world.tables, profile=world.tables.profile[:-1])
    with pytest.raises(ValueError, match="seen_offsets: must end"):
        dataclasses.replace(world.tables, seen_rows=world.tables.seen_rows[:-1])
    for text, rule in (
        ("a\nb\n", "line 0 must be empty"),
        ("\na\na\n", "unique"),
        ("\na\n\nb\n", "not empty"),
        ("\na\r\n", "carriage"),
    ):
        (tmp_path / "ids.txt").write_text(text, newline="")
        with pytest.raises(ValueError, match=rule):
            VocabularyTables(tmp_path / "ids.txt", "items")


def test_retrieval_searches_a_partitioned_index_of_core_operations(world, tmp_path):
    """Not all of the catalogue is read, so that not all is found; what is, is new to the user and truly scored."""
    index = PartitionedIndex.build(world.items, leaves=12, budget=8, measured_k=10, vectors="float32")
    assert index.blocks >= 2 * 8
    RetrievalModule(world.tables, world.tower, index).save(tmp_path / "retrieval")
    assert all(hasattr(tf.raw_ops, name) for name in operations(tmp_path / "retrieval"))
    users = [1, 2, 17, 0]
    answer = session(tmp_path / "retrieval", request([f"user {user}" if user else "who?" for user in users]))
    found = 0
    for line, user in enumerate(users):
        history = world.tables.history[user].tolist()
        rows = [int(name.removeprefix(b"item ")) for name in answer["item_ids"][line]]
        assert len(set(rows)) == 10 and not set(rows) & world.seen(user)
        np.testing.assert_allclose(answer["scores"][line], world.items[rows] @ world.query(user, history), atol=1e-5)
        found += len(set(answer["item_ids"][line]) & set(world.expected(user, history, world.seen(user), 10)))
    assert found >= 32
