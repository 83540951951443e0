"""Questions out of a catalogue, and a search tower learned from them."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from data.content_key import read_content_keys
from data.features import FeatureStore
from data.schema import MODALITIES
from data.world_text import THEMES, write_text
from pipeline.content.encode_plan import item_text
from pipeline.retrieval.search_questions import CATEGORIES, SENTENCE, TITLE, make_questions, sample, split
from pipeline.retrieval.train_search import BALANCES, joint_pictures, train_search
from pipeline.settings.search import SearchSection
from towers.encoders import make_encoder
from towers.search import load_search_tower

ITEMS, WIDTH = 240, 16


def catalogue(items: int = ITEMS) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    texts = [("", "")] + [write_text(row % len(THEMES), row % 8 == 0, rng) for row in range(items)]
    categories = ["", *(("rock|live", "jazz", "folk|live|new")[row % 3] for row in range(items))]
    return pd.DataFrame(
        {"title": [title for title, _ in texts], "description": [body for _, body in texts], "categories": categories}
    )


class Counting:
    """An encoder that counts the questions it is asked to encode."""

    def __init__(self):
        self.encoder = make_encoder("text", "signal:")
        self.name, self.fingerprint, self.width = "signal:", self.encoder.fingerprint, self.encoder.width
        self.questions = 0

    def encode(self, texts):
        return self.encoder.encode(texts)

    def encode_queries(self, texts):
        self.questions += len(texts)
        return self.encoder.encode(texts)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Items whose embedding is their theme and some taste of their own."""
    items, encoder, rng = catalogue(), Counting(), np.random.default_rng(1)
    vectors = encoder.encode([item_text(*cells) for cells in items[["title", "description", "categories"]].to_numpy()])
    present = np.zeros((len(items), len(MODALITIES)), bool)
    present[1:, MODALITIES.index("text")] = True
    present[5] = False
    folder = tmp_path_factory.mktemp("search")
    info = {"modalities": {"text": {"encoder": "signal:", "fingerprint": encoder.fingerprint}}}
    store = FeatureStore.write(folder / "encode", {"text": vectors}, present, info=info)
    themes = rng.normal(size=(len(THEMES), WIDTH))
    embeddings = themes[np.arange(-1, ITEMS) % len(THEMES)] + 0.5 * rng.normal(size=(ITEMS + 1, WIDTH))
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    embeddings[0] = 0
    return items, store, embeddings.astype(np.float32), encoder, folder


def train(world, name: str, section: SearchSection | None = None, content_store: Path | None = None):
    items, store, embeddings, encoder, folder = world
    out = folder / name
    out.mkdir()
    counts = train_search(items, store, embeddings, encoder, out, section or SearchSection(), content_store=content_store)
    return out, counts


def test_questions_are_titles_categories_and_sentences():
    items = pd.DataFrame(
        {
            "title": ["", "Blue", "Blue", "月夜", "ab"],
            "description": ["", "Slow piano. For the night!", "Slow piano.", "海边的灯塔。水手出发！", ""],
            "categories": ["", "jazz| live", "", "", "jazz| live"],
        }
    )
    questions = make_questions(items)
    found = {(int(row), int(kind), questions.texts[text])
             for row, kind, text in zip(questions.rows, questions.kinds, questions.text, strict=True)}  # fmt: skip
    assert found == {
        (1, TITLE, "Blue"), (2, TITLE, "Blue"), (1, CATEGORIES, "jazz, live"), (4, CATEGORIES, "jazz, live"),
        (1, SENTENCE, "Slow piano."), (2, SENTENCE, "Slow piano."), (1, SENTENCE, "For the night!"),
        (3, SENTENCE, "海边的灯塔。"), (3, SENTENCE, "水手出发！"),
    }  # fmt: skip
    assert questions.shared[questions.text == questions.texts.index("Slow piano.")].tolist() == [2, 2]


def test_what_many_items_say_asks_for_none_of_them():
    items = pd.DataFrame({"title": ["", *["Same"] * 6, "Other"], "description": ["x. y."] * 8})
    assert make_questions(items).texts == ["Other"]
    assert make_questions(pd.DataFrame({"item_id": ["", "a"]})).texts == []


def test_one_long_text_takes_its_own_room_and_not_that_of_all():
    titles, bodies = (f"Title {row}" for row in range(400)), ["word " * 40_000, *[""] * 399]
    items = pd.DataFrame({"title": ["", *titles], "description": ["", *bodies]})
    tracemalloc.start()
    questions = make_questions(items)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(questions.texts) == 401 and peak < 10 * 200_000
    assert questions.texts == sorted(questions.texts)


def test_items_are_held_out_whole():
    questions = make_questions(catalogue())
    learned, held = split(questions, 0.2, seed=3)
    assert not set(held.rows) & set(learned.rows)
    assert len(set(held.rows)) == len(held.rows) and (held.shared == 1).all() and (held.kinds != CATEGORIES).all()
    assert 0.1 * ITEMS < len(held.rows) <= 0.2 * ITEMS
    assert [held.texts[text] for text in held.text] == [split(questions, 0.2, seed=3)[1].texts[text] for text in held.text]
    few = sample(questions, 50, seed=0)
    assert 25 < len(few.texts) <= 50 and sample(questions, 10**6, seed=0) is questions
    chosen = set(few.rows)
    assert len(few.rows) >= 0.9 * np.isin(questions.rows, sorted(chosen)[:-1]).sum() - 5


def test_held_out_items_are_found_by_their_own_words(world):
    out, counts = train(world, "first")
    assert counts["trained"] and counts["held_out"] > 20
    assert counts["recall@10"] >= 0.6 > 5 * 10 / ITEMS
    assert counts["recall@10"] >= max(counts["recall@10_behaviour"], counts["recall@10_content"] - 0.03)
    assert counts["recall@10_behaviour"] > 2 * 10 / ITEMS, "meaning alone must beat chance"
    tower = load_search_tower(out)
    assert float(tower.balance) == counts["balance"] in BALANCES
    assert tower.config.text_width == 256 and tower.config.width == WIDTH


def test_questions_are_encoded_once(world, tmp_path):
    encoder = world[3]
    _, counts = train(world, "stored", content_store=tmp_path / "store")
    asked = encoder.questions
    again, second = train(world, "stored again", content_store=tmp_path / "store")
    assert encoder.questions == asked and second == counts
    assert len(read_content_keys([again])) > 100


def test_more_tolerance_leans_on_behaviour(world):
    _, counts = train(world, "tolerant", SearchSection(tolerance=1.0))
    assert counts["balance"] == 0.0


def test_without_words_of_an_items_own_nothing_is_held_out_and_every_epoch_learned(world, tmp_path):
    items, store, embeddings, encoder, _ = world
    pairs = items.assign(title=[f"Pair {(row + 1) // 2}" if row else "" for row in range(len(items))], description="")
    section, done = SearchSection(epochs=6, patience=1), []
    counts = train_search(
        pairs, store, embeddings, encoder, tmp_path, section, progress=lambda what, now, of: done.append((what, now))
    )
    assert counts["trained"] and counts["held_out"] == 0 and "recall@10" not in counts
    assert "of its own" in counts["reason"] and counts["best_epoch"] == 5 and ("training", 6) in done
    assert float(load_search_tower(tmp_path).balance) == counts["balance"] == 1.0
    assert counts["questions"] == len(make_questions(pairs).rows) - 1  # item 5 has no text vector


def test_too_few_words_train_nothing(world, tmp_path):
    items, store, embeddings, encoder, _ = world
    bare = items.assign(title="", description="", categories="rock")
    counts = train_search(bare, store, embeddings, encoder, tmp_path, SearchSection())
    assert not counts["trained"] and "20 are needed" in counts["reason"]
    assert not (tmp_path / "search.json").exists()


def test_pictures_of_a_joint_encoder_ask_too(tmp_path):
    present = np.zeros((4, len(MODALITIES)), bool)
    present[1:, MODALITIES.index("text")] = present[2:, MODALITIES.index("image")] = True
    vectors = np.arange(12, dtype=np.float32).reshape(4, 3)
    for name, image, rows in (("joint", "keras_hub:clip", [2]), ("apart", "signal:", [])):
        info = {"modalities": {"text": {"encoder": "keras_hub:clip"}, "image": {"encoder": image}}}
        store = FeatureStore.write(tmp_path / name, {"text": vectors, "image": vectors}, present, info=info)
        pictures, shown = joint_pictures(store, np.array([True, True, True, False]))
        assert shown.tolist() == rows and pictures.tolist() == vectors[rows].tolist()
