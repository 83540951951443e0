"""An ensemble as it is exported: the graph's answers against the queries that Python makes of the same histories."""

import numpy as np
import pytest
import tensorflow as tf

from data.schema import Schema
from pipeline.retrieval.served import Served
from serving.export.item_encoder import ItemEncoderModule
from serving.export.retrieval import RetrievalModule
from serving.graphs.request_history import ServingTables
from serving.index.index import ExactIndex
from towers.config import TowerConfig
from towers.content_map import fit_content_map
from towers.ensemble import Ensemble, load_ensemble
from towers.linear import LinearTower, whiten
from towers.two_tower import TwoTower

USERS, ITEMS, LENGTH = 5, 30, 3
HISTORIES = {1: [4, 9, 2, 17, 30, 11], 2: [8], 3: [], 4: [5, 6], 5: [21, 22, 23, 24]}


@pytest.fixture(scope="module")
def ensemble() -> Ensemble:
    rng = np.random.default_rng(0)
    schema = Schema(user_rows=USERS + 1, item_rows=ITEMS + 1, modalities={"image": 4})
    two_tower = TwoTower(schema, TowerConfig(width=6, history_length=LENGTH))
    tables = rng.normal(size=(2, ITEMS + 1, 8)).astype(np.float32)
    tables[:, 0] = 0.0
    items = rng.normal(size=(ITEMS + 1, 6)).astype(np.float32)
    items /= np.linalg.norm(items, axis=1, keepdims=True)
    items[0] = 0.0
    linear = whiten(LinearTower(tables[0], tables[1]))
    features, present = {"image": rng.normal(size=(ITEMS + 1, 4))}, np.arange(ITEMS + 1)[:, None] > 0
    targets = np.concatenate([linear.history, linear.items], axis=1)
    content_map = fit_content_map(features, present, targets, np.arange(1, ITEMS + 1))
    return Ensemble(two_tower, items, linear, content_map, (0.7, 0.4))


@pytest.fixture(scope="module")
def module(ensemble, tmp_path_factory) -> RetrievalModule:
    folder = tmp_path_factory.mktemp("vocabulary")
    (folder / "users.txt").write_text("\n" + "".join(f"u{row}\n" for row in range(1, USERS + 1)))
    (folder / "items.txt").write_text("\n" + "".join(f"i{row}\n" for row in range(1, ITEMS + 1)))
    history = np.zeros((USERS + 1, LENGTH), np.int32)
    rows = [sorted(HISTORIES.get(user, [])) for user in range(USERS + 1)]
    for user, items in HISTORIES.items():
        history[user, : min(LENGTH, len(items))] = items[:LENGTH]
    offsets = np.concatenate([[0], np.cumsum([len(line) for line in rows])]).astype(np.int64)
    flat = np.concatenate([np.array(line, np.int32) for line in rows]).astype(np.int32)
    tables = ServingTables(
        folder / "users.txt", folder / "items.txt", np.zeros((USERS + 1, 0), np.int32), history, offsets, flat,
        chosen=(offsets, flat),
    )  # fmt: skip
    return RetrievalModule(tables, ensemble.user_tower, ExactIndex(ensemble.items), ensemble.linear.history)


def ask(module: RetrievalModule, users: list[str], recent: list[list[str]], k: int = ITEMS):
    none = tf.zeros((len(users), 0), tf.string)
    given = tf.constant(recent) if recent[0] else none
    answer = module.retrieve(tf.constant(users), given, none, tf.constant(k))
    return answer["item_ids"].numpy(), answer["scores"].numpy()


def expected(ensemble: Ensemble, user: int, history: list[int], hidden: list[int]) -> tuple[list[bytes], np.ndarray]:
    served = Served(ensemble.two_tower, ensemble.tower_items, ensemble, 10)
    padded = np.zeros((1, 10), np.int32)
    padded[0, : len(history)] = history
    query = served.queries(np.zeros((USERS + 1, 0), np.int32), np.array([user]), padded)[0]
    scores = ensemble.items @ query
    scores[[0, *hidden]] = -np.inf
    order = np.argsort(-scores)[: ITEMS - len(set(hidden))]
    return [f"i{row}".encode() for row in order], scores[order]


@pytest.mark.parametrize("user", [1, 2, 3, 5])
def test_a_known_user_is_answered_by_their_whole_stored_history(ensemble, module, user):
    history = HISTORIES[user]
    ids, scores = ask(module, [f"u{user}"], [[]])
    wanted, values = expected(ensemble, user, history, history)
    np.testing.assert_allclose(scores[0, : len(values)], values, atol=1e-4)
    assert ids[0, : len(wanted)].tolist() == wanted


def test_recent_items_stand_in_for_the_stored_ones_and_count_once(ensemble, module):
    ids, scores = ask(module, ["u1"], [["i12", "i3", "i12", "nobody", "i7"]])
    # The towers read the first three as they come; the sum takes each item once.
    wanted, values = expected(ensemble, 1, [12, 3, 12, 7], [12, 3, 7, *HISTORIES[1]])
    np.testing.assert_allclose(scores[0, : len(values)], values, atol=1e-4)
    assert ids[0, : len(wanted)].tolist() == wanted


def test_strangers_and_mixed_batches(ensemble, module):
    ids, scores = ask(module, ["u1", "stranger", "u3"], [["", ""], ["i5", ""], ["", ""]], k=5)
    for line, (user, history, hidden) in enumerate([(1, HISTORIES[1], HISTORIES[1]), (0, [5], [5]), (3, [], [])]):
        wanted, values = expected(ensemble, user, history, hidden)
        np.testing.assert_allclose(scores[line], values[:5], atol=1e-4)
        assert ids[line].tolist() == wanted[:5]


def test_the_query_of_a_score_is_told(ensemble, module):
    """So that a caller can score items that the release does not hold."""
    none = tf.zeros((1, 0), tf.string)
    answer = module.retrieve(tf.constant(["u2"]), none, none, tf.constant(4))
    rows = [int(name[1:]) for name in answer["item_ids"].numpy()[0]]
    np.testing.assert_allclose(ensemble.items[rows] @ answer["query"].numpy()[0], answer["scores"].numpy()[0], atol=1e-4)


def test_similar_weighs_the_halves_of_an_embedding_as_a_query_does(ensemble, module):
    rng = np.random.default_rng(4)
    embedding = rng.normal(size=(2, ensemble.items.shape[1])).astype(np.float32)
    embedding[1] = 0.0  # an item of which nothing is known
    answer = module.similar(tf.constant(embedding), tf.constant([["i3"], ["i3"]]), tf.constant(ITEMS))
    halves = [0.7 * embedding[0, :6] / np.linalg.norm(embedding[0, :6])]
    halves.append(0.4 * embedding[0, 6:] / np.linalg.norm(embedding[0, 6:]))
    scores = ensemble.items @ np.concatenate(halves)
    scores[[0, 3]] = -np.inf
    order = np.argsort(-scores)[: ITEMS - 1]
    assert answer["item_ids"].numpy()[0, : ITEMS - 1].tolist() == [f"i{row}".encode() for row in order]
    np.testing.assert_allclose(answer["scores"].numpy()[0, : ITEMS - 1], scores[order], atol=1e-4)
    assert not any(answer["item_ids"].numpy()[1])


def test_a_new_item_gets_both_halves_from_its_content(ensemble):
    module = ItemEncoderModule(ensemble.two_tower.item_tower, {"image": 4}, {}, ensemble.content_map)
    vector = np.random.default_rng(1).normal(size=(2, 4)).astype(np.float32)
    text = tf.constant(["", ""])
    answer = module.encode(
        text, text, text, text, tf.zeros((2, 0)), tf.zeros(2, tf.int32), tf.zeros((2, 0), tf.string), vector
    )
    there = np.ones((2, 1), bool)
    towers = np.asarray(ensemble.two_tower.item_tower(np.zeros(2, np.int32), {"image": vector}, there)[0])
    linear = np.asarray(ensemble.content_map({"image": vector}, there))[:, 8:]
    np.testing.assert_allclose(answer["embedding"].numpy(), np.concatenate([towers, linear], axis=1), atol=1e-5)


def test_an_ensemble_survives_a_folder(ensemble, tmp_path):
    ensemble.save_to(tmp_path)
    again = load_ensemble(tmp_path)
    np.testing.assert_array_equal(again.items, ensemble.items)
    assert again.weights == ensemble.weights
    features, present = {"image": np.ones((1, 4), np.float32)}, np.ones((1, 1), bool)
    np.testing.assert_allclose(
        np.asarray(again.content_map(features, present)), np.asarray(ensemble.content_map(features, present))
    )


def test_a_linear_history_without_whole_histories_is_refused(ensemble, module, tmp_path):
    tables = ServingTables(
        tmp_path / "none", tmp_path / "none", np.zeros((2, 0), np.int32), np.zeros((2, 1), np.int32),
        np.zeros(3, np.int64), np.zeros(0, np.int32), chosen=(np.zeros(3, np.int64), np.zeros(0, np.int32)),
    )  # fmt: skip
    assert tables.chosen is not None
    with pytest.raises(ValueError, match="chosen"):
        ServingTables(
            tmp_path / "none", tmp_path / "none", np.zeros((2, 0), np.int32), np.zeros((2, 1), np.int32),
            np.zeros(3, np.int64), np.zeros(0, np.int32), chosen=(np.zeros(2, np.int64), np.zeros(0, np.int32)),
        )  # fmt: skip
