"""`search`: words in, items out, through the exported signature and in another language than the items'."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf

from data.features import FeatureStore
from data.schema import MODALITIES
from data.world_text import THEMES, write_text
from pipeline.retrieval.train_search import train_search
from pipeline.settings.search import SearchSection
from serving.client.recommender import ModelClient, Recommender
from serving.export.raw_models_again import SearchAgain
from serving.export.raw_requests import search_requests
from serving.export.search import SearchModule, search_table
from serving.index.index import LOWEST
from serving.local import LocalServer
from serving.releases.models_config import ModelEntry, write_models_config
from serving.saved_model import operations, read_variables
from serving.server.warmup import write_warmup
from tests.serving.independent import run_capi_jobs
from towers.encoders import PACK, make_encoder
from towers.search import SearchTower, load_search_tower

ENGLISH, CHINESE, WIDTH = 120, 24, 16
SPEC = "pack:e5" if PACK["e5"].installed() else "signal:"


@dataclasses.dataclass
class World:
    """A searchable catalogue: theme and language of every row, and what Python says before any export."""

    ids: list[str]
    descriptions: list[str]
    themes: np.ndarray
    chinese: np.ndarray
    encoder: Any
    tower: SearchTower
    table: np.ndarray
    folder: Path

    def expected(self, question: str, k: int, excluded: tuple[str, ...] = ()) -> list[str]:
        encode = getattr(self.encoder, "encode_queries", self.encoder.encode)
        scores = keras.ops.convert_to_numpy(self.tower(encode([question])))[0] @ self.table.T
        order = [row for row in np.argsort(-scores, kind="stable") if row and self.ids[row] not in excluded]
        return [self.ids[row] for row in order[:k]]


@pytest.fixture(scope="session")
def world(tmp_path_factory) -> World:
    folder, rng = tmp_path_factory.mktemp("search"), np.random.default_rng(2)
    count = ENGLISH + CHINESE
    chinese = np.concatenate([[False], np.arange(count) >= ENGLISH])
    themes = np.concatenate([[-1], np.arange(count) % len(THEMES)])
    texts = [("", "")] + [write_text(int(themes[row]), bool(chinese[row]), rng) for row in range(1, count + 1)]
    encoder = make_encoder("text", SPEC)
    vectors = encoder.encode([f"{title}. {body}" if title else "" for title, body in texts])
    present = np.zeros((count + 1, len(MODALITIES)), bool)
    present[1:, MODALITIES.index("text")] = True
    store = FeatureStore.write(folder / "encode", {"text": vectors}, present)
    # What training learns of people: who likes a theme likes it in either language.
    embeddings = rng.normal(size=(len(THEMES), WIDTH))[themes] + 0.4 * rng.normal(size=(count + 1, WIDTH))
    embeddings = (embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)).astype(np.float32)
    embeddings[0] = 0
    items = pd.DataFrame({"title": [title for title, _ in texts], "description": [body for _, body in texts]})
    (folder / "search").mkdir()
    counts = train_search(items, store, embeddings, encoder, folder / "search", SearchSection(max_questions=300))
    assert counts["trained"], counts
    tower = load_search_tower(folder / "search")
    ids = ["", *(f"track {row}" for row in range(1, count + 1))]
    (folder / "item_ids.txt").write_text("".join(f"{name}\n" for name in ids))
    table = search_table(tower, embeddings, store.table("text"), present[:, MODALITIES.index("text")])
    export = folder / "models" / "search" / "1"
    SearchModule(folder / "item_ids.txt", encoder, tower, table).save(export)
    write_warmup(export, "search", search_requests((1, 4), 10))
    return World(ids, [body for _, body in texts], themes, chinese, encoder, tower, table, export)


@pytest.fixture(scope="session")
def ask(world):
    """The exported graph in Python: ids and scores of one question."""
    signature = tf.saved_model.load(str(world.folder)).signatures["search"]

    def call(question: str | bytes, k: int = 10, excluded: tuple[str, ...] = ()) -> tuple[list[str], np.ndarray]:
        answer = signature(
            query=tf.constant([question]), exclude_item_ids=tf.constant([list(excluded)], tf.string), k=tf.constant(k)
        )
        return [name.decode() for name in answer["item_ids"].numpy()[0]], answer["scores"].numpy()[0]

    return call


def test_the_graph_answers_as_python(world, ask):
    for question in ("astronauts among the stars", "国王和骑士守着城堡", "Fresh bread & soup", "naïve café"):
        ids, scores = ask(question, 10)
        assert ids == world.expected(question, 10)
        assert (np.diff(scores) <= 0).all()


def test_an_item_is_found_by_its_own_description(world, ask):
    ranks = [
        ask(world.descriptions[row], len(world.ids))[0].index(world.ids[row]) for row in range(1, len(world.ids), 7)
    ]
    assert np.mean(np.array(ranks) < 10) >= 0.9


CHINESE_QUESTIONS = {
    "sea": ("大海、灯塔和水手", "渔夫在港口等潮水"),
    "space": ("宇航员飞向太空和星星", "月球上的望远镜"),
    "kitchen": ("厨房里的面包和热茶", "奶奶做的饺子"),
    "forest animals": ("森林里的狐狸和小熊", "猫头鹰住在松树上"),
    "city trains": ("地铁和火车站的乘客", "末班车的司机"),
    "castle": ("城堡里的国王和骑士", "巨龙守着王座"),
}
"""Two questions about each theme, none of them a sentence of the world."""


@pytest.mark.skipif(SPEC != "pack:e5", reason="only a multilingual encoder can")
def test_a_chinese_question_finds_english_tracks_of_its_meaning(world, ask):
    """Above the median wrong one, for every theme and every question."""
    english = ~world.chinese & (world.themes >= 0)
    for theme, name in enumerate(THEMES):
        for question in CHINESE_QUESTIONS[name]:
            ids, _ = ask(question, len(world.ids) - 1)
            place = {item: rank for rank, item in enumerate(ids)}
            ranks = np.array([place[item] if item else -1 for item in world.ids])
            right, wrong = ranks[english & (world.themes == theme)], ranks[english & (world.themes != theme)]
            assert np.median(right) < np.median(wrong), (name, question)
            assert right.min() < np.median(wrong)


@pytest.mark.parametrize("question", ["", "   ", "?!…", "\n\t", b"\xff\xfe"])
def test_a_question_without_words_finds_nothing(ask, question):
    ids, scores = ask(question, 5)
    assert ids == [""] * 5 and (scores == np.float32(LOWEST)).all()


def test_unknown_words_are_no_error(ask):
    for question in ("zzqqxx vvkkjj", "\U0001f3b5 wug", "x" * 5000):
        ids, scores = ask(question, 3)
        assert len(ids) == 3 and np.isfinite(scores).all()


def test_k_and_exclusions(world, ask):
    whole, _ = ask("the sea", len(world.ids) + 5)
    assert whole[-6:] == [""] * 6 and set(whole) == set(world.ids) and len(set(whole[:-6])) == len(world.ids) - 1
    assert ask("the sea", 0)[0] == []
    excluded = (whole[0], whole[2], "nobody knows this")
    assert ask("the sea", 3, excluded)[0] == [whole[1], whole[3], whole[4]]


def test_a_batch_is_its_questions(world, ask):
    signature = tf.saved_model.load(str(world.folder)).signatures["serving_default"]
    questions = ["astronauts", "", "面包和热茶"]
    answer = signature(
        query=tf.constant(questions), exclude_item_ids=tf.zeros((3, 0), tf.string), k=tf.constant(4, tf.int32)
    )
    for row, question in enumerate(questions):
        assert [name.decode() for name in answer["item_ids"].numpy()[row]] == ask(question, 4)[0]


def test_an_item_outside_the_table_is_scored_as_if_it_stood_there(world):
    """`items` places it and `query` finds it: together the table's own scores."""
    signatures = tf.saved_model.load(str(world.folder)).signatures
    answer = signatures["serving_default"](
        query=tf.constant(["astronauts among the stars", "?!"]),
        exclude_item_ids=tf.zeros((2, 0), tf.string),
        k=tf.constant(3),
    )
    rows = [world.ids.index(name.decode()) for name in answer["item_ids"].numpy()[0]]
    query = answer["query"].numpy()
    np.testing.assert_allclose(world.table[rows] @ query[0], answer["scores"].numpy()[0], atol=1e-4)
    assert not query[1].any()
    texts = [world.descriptions[row] for row in (5, 9)]
    vectors, embeddings = world.encoder.encode(texts), world.table[[5, 9], :WIDTH]
    present = np.array([True, False])
    expected = keras.ops.convert_to_numpy(world.tower.items(embeddings, vectors, present))
    placed = signatures["items"](
        embedding=tf.constant(embeddings), text_vector=tf.constant(vectors), text_present=tf.constant(present)
    )
    np.testing.assert_allclose(placed["vectors"], expected, atol=1e-5)
    assert not placed["vectors"].numpy()[1, WIDTH:].any() and placed["vectors"].numpy()[0, WIDTH:].any()


def test_server_and_c_api_answer_the_same(world, ask, tmp_path):
    entry = ModelEntry("search", versions=(1,), labels={"stable": 1})
    config = write_models_config(tmp_path / "models.config", [entry], world.folder.parent.parent)
    expected, scores = ask("狐狸和小熊", 6, ("track 3",))
    with LocalServer(config) as server, ModelClient(server.target, deadline=60) as client:
        recommender = Recommender(client, label="stable", deadline=60)
        found = recommender.search("狐狸和小熊", 6, exclude_item_ids=["track 3"])
        assert recommender.search("", 5) == []
        with pytest.raises(ValueError, match="k: must be at least 1"):
            recommender.search("sea", 0)
    assert [item.item_id for item in found] == expected
    np.testing.assert_allclose([item.score for item in found], scores, atol=1e-4)
    request = {
        "query": np.array(["狐狸和小熊"]),
        "exclude_item_ids": np.array([["track 3"]]),
        "k": np.array(6, np.int32),
    }
    for (answer,) in run_capi_jobs([(world.folder, name, [request]) for name in ("search", "serving_default")]):
        assert answer["item_ids"][0].tolist() == expected
        np.testing.assert_allclose(answer["scores"][0], scores, atol=1e-4)


def test_only_operations_of_the_stock_server(world):
    foreign = {name for name in operations(world.folder) if not hasattr(tf.raw_ops, name)}
    assert foreign <= {"NormalizeUTF8", "SentencepieceOp", "SentencepieceTokenizeOp"}


def test_same_bytes_again(world, tmp_path):
    ids = world.folder.parent.parent.parent / "item_ids.txt"
    SearchModule(ids, world.encoder, world.tower, world.table).save(tmp_path / "again")
    for name in ("saved_model.pb", "fingerprint.pb", "variables/variables.index"):
        assert (tmp_path / "again" / name).read_bytes() == (world.folder / name).read_bytes(), name


def test_other_items_in_the_graph_of_an_earlier_release(world, tmp_path):
    ids, fewer = world.folder.parent.parent.parent / "item_ids.txt", tmp_path / "item_ids.txt"
    fewer.write_text("".join(f"{name}\n" for name in world.ids[:-9]))
    SearchAgain(world.folder, fewer, world.tower, world.table[:-9]).save(tmp_path / "fewer")
    answer = tf.saved_model.load(str(tmp_path / "fewer")).signatures["search"](
        query=tf.constant([world.descriptions[3]]),
        exclude_item_ids=tf.zeros((1, 0), tf.string),
        k=tf.constant(len(world.ids)),
    )
    wanted = [name for name in world.expected(world.descriptions[3], len(world.ids)) if name in world.ids[1:-9]]
    assert [name.decode() for name in answer["item_ids"].numpy()[0] if name] == wanted
    SearchAgain(tmp_path / "fewer", ids, world.tower, world.table).save(tmp_path / "back")
    for name in ("saved_model.pb", "assets/items.txt"):
        assert (tmp_path / "back" / name).read_bytes() == (world.folder / name).read_bytes(), name
    back, first = read_variables(tmp_path / "back"), read_variables(world.folder)
    assert back.keys() == first.keys() and all((back[name] == value).all() for name, value in first.items())


def test_items_that_are_gone_are_not_found(world, tmp_path):
    ids = world.folder.parent.parent.parent / "item_ids.txt"
    all_names = world.expected(world.descriptions[3], len(world.ids))
    gone = np.array([list(world.ids).index(name) for name in all_names[:2]], np.int32)
    SearchModule(ids, world.encoder, world.tower, world.table, gone=gone).save(tmp_path / "traced")
    SearchAgain(world.folder, ids, world.tower, world.table, gone).save(tmp_path / "again")
    for folder in ("traced", "again"):
        answer = tf.saved_model.load(str(tmp_path / folder)).signatures["search"](
            query=tf.constant([world.descriptions[3]]), exclude_item_ids=tf.zeros((1, 0), tf.string), k=tf.constant(9)
        )
        assert [name.decode() for name in answer["item_ids"].numpy()[0]] == all_names[2:11]


def test_a_graph_of_another_form_is_refused(world):
    ids = world.folder.parent.parent.parent / "item_ids.txt"
    with pytest.raises(ValueError, match=r"index/item_embeddings was float32 \(None, .*trace the model instead"):
        SearchAgain(world.folder, ids, world.tower, world.table[:, :-1])


def test_tables_of_another_run_are_refused(world):
    ids = world.folder.parent.parent.parent / "item_ids.txt"
    with pytest.raises(ValueError, match="take both from one run"):
        SearchModule(ids, world.encoder, world.tower, world.table[:-1])
