"""Columns in the closed form, in a world whose known items go by their maker and whose new ones can be told by text alone."""

import json

import numpy as np
import pandas as pd
import pytest

from data.features import FeatureWriter
from data.ingest import ingest
from pipeline.metrics.metrics import ndcg_at_k
from pipeline.nightly.linear import refit_linear
from pipeline.retrieval.linear_closed_form import (
    COLUMNS,
    ClosedFormTrials,
    climb,
    fit_closed_form,
    join_columns,
    refit_closed_form,
)
from pipeline.retrieval.linear_judge import K, LinearJudge
from pipeline.retrieval.linear_stage import closed_form_content, content_of, fit_linear
from pipeline.retrieval.new_items import judge_new_items
from pipeline.settings.job import JobSection
from pipeline.settings.linear import LinearSection
from towers.closed_form import ClosedFormSettings
from towers.linear import LinearTower

KNOWN, NEW, USERS = 60, 16, 80
SECTION = LinearSection(width=6, l2=(1.0, 5.0, 20.0), parts=("closed_form",))


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Everybody has a maker and a mood. Of the known items they take some of both kinds, and then more of their maker's; of
    the new ones, which come with the validation split, those of their mood. Text tells the mood, `tags` the maker, and
    prices are dealt out at random."""
    folder, rng, items = tmp_path_factory.mktemp("makers"), np.random.default_rng(0), KNOWN + NEW
    makers, moods, known = np.arange(items) % 10, rng.integers(4, size=items), np.arange(items) < KNOWN
    rows = [("u0", "i0", "test")]
    for user in range(USERS):
        maker, mood = 1 + rng.integers(9), user % 4
        owned = rng.permutation(np.flatnonzero(known & (makers == maker)))
        felt = rng.permutation(np.flatnonzero(known & (moods == mood) & (makers != maker)))[:3]
        fresh = rng.permutation(np.flatnonzero(~known & (moods == mood)))[:2]
        for split, taken in (("train", [*owned[:3], *felt]), ("valid", [*owned[3:5], *fresh])):
            rows += [(f"u{user}", f"i{item}", split) for item in taken if item]
    for name in ("source", "ingest", "encode"):
        (folder / name).mkdir()
    pd.DataFrame(rows, columns=["user_id", "item_id", "split"]).to_parquet(folder / "source" / "interactions.parquet")
    pd.DataFrame(
        {
            "item_id": [f"i{item}" for item in range(items)],
            "tags": [f"maker {maker}" for maker in makers],
            "price": rng.random(items),
        }
    ).to_parquet(folder / "source" / "items.parquet")
    dataset = ingest(folder / "source", folder / "ingest")
    writer = FeatureWriter(folder / "encode", dataset.schema.item_rows)
    writer.add("text", 4)
    ids = [int(item[1:]) for item in dataset.items["item_id"][1:]]
    told = np.eye(4, dtype=np.float32)[moods] + 0.3 * rng.normal(size=(items, 4)).astype(np.float32)
    writer.put("text", np.arange(1, len(ids) + 1), told[ids])
    return dataset, writer.close()


@pytest.fixture(scope="module")
def judge(world):
    return LinearJudge(world[0], 1000, 7)


@pytest.fixture(scope="module")
def features(world):
    return closed_form_content(world[0], content_of(world[1], ("text",)))


@pytest.fixture(scope="module")
def blind(judge, features):
    """Fitted as if nobody had asked for new items."""
    return fit_closed_form(judge, features, SECTION)


def test_a_column_that_tells_who_likes_what_joins_and_chance_does_not(judge, features, blind):
    tower, info = blind
    assert list(features) == ["text", "tags", "price"]
    assert info[COLUMNS] == ["tags"] and info["columns"] > 0
    without = fit_closed_form(judge, {"text": features["text"]}, SECTION)[1]
    assert without[COLUMNS] == [] and without["columns"] == 0
    assert info["valid_ndcg@20_full_rank"] > without["valid_ndcg@20_full_rank"] + 0.05
    again = refit_closed_form(judge.train, features, info)
    np.testing.assert_allclose(again.history @ again.items.T, tower.history @ tower.items.T, atol=1e-4)


def test_a_column_does_not_join_at_the_cost_of_new_items(world, judge, features, blind):
    """Text is of no use for known items, and the only thing that new ones can be found by: what a narrow tower keeps of the
    makers, it does not keep of the moods."""
    new_items = judge_new_items(judge, *world, ("text",))
    tower, info = fit_closed_form(judge, features, SECTION, new_items=new_items)
    assert info[COLUMNS] == []
    found, lost = np.nanmean(new_items(tower)), np.nanmean(new_items(blind[0]))
    unknown = world[0].counts == 0
    by_chance = np.where(unknown, np.random.default_rng(1).random((len(judge.requests.users), len(unknown))), -np.inf)
    chance = np.nanmean(ndcg_at_k(judge.rank(by_chance), judge.requests.relevant.restrict(unknown), K))
    assert found > lost + 0.03 and found > chance + 0.15
    # Whoever loses nothing, has nothing to say against it.
    alike, joined = join_columns(
        ClosedFormTrials(judge, features, SECTION), features, ClosedFormSettings(5.0), [ClosedFormSettings(5.0, columns=0.2)],
        lambda tower: np.full(len(judge.requests.users), 0.5),
    )  # fmt: skip
    assert joined == ["tags"] and alike is not None


def test_where_few_took_new_items_they_have_no_say(world, judge):
    dataset, store = world
    few = LinearJudge(dataset, 20, 7)
    assert judge_new_items(few, dataset, store, ("text",)) is None and judge_new_items(judge, dataset, store, ()) is None


def test_a_night_keeps_the_columns_that_were_chosen(world, judge, features, blind, tmp_path):
    dataset, store = world
    before, after = tmp_path / "before", tmp_path / "after"
    for folder in (before, after):
        folder.mkdir()
    fit_linear(dataset, store, before, tmp_path / "ck", SECTION, modalities=("text",), progress=lambda *a: None)
    info = json.loads((before / "info.json").read_text())
    info["parts"]["closed_form"] = blind[1]
    (before / "info.json").write_text(json.dumps(info))
    told = refit_linear(
        dataset, store, before, after, tmp_path / "again", SECTION, JobSection(), modalities=("text",), progress=lambda *a: None
    )
    assert told["parts"]["closed_form"][COLUMNS] == ["tags"]
    tower, expected = LinearTower.load(after), blind[0]
    scores = [part.history @ part.items.T for part in (tower, expected)]
    scores = [part / np.linalg.norm(part) for part in scores]
    np.testing.assert_allclose(*scores, atol=1e-4)


def test_what_was_chosen_before_there_were_columns_is_fitted_again_without(judge, features):
    only = {"text": features["text"]}
    _, info = fit_closed_form(judge, only, SECTION)
    older = {name: value for name, value in info.items() if name not in ("columns", COLUMNS)}
    towers = [refit_closed_form(judge.train, read, given) for read, given in ((features, older), (only, info))]
    np.testing.assert_allclose(*[tower.history @ tower.items.T for tower in towers], atol=1e-5)


def test_climbing_looks_at_neighbours_only():
    seen = []

    def quality(value):
        seen.append(value)
        return -abs(value - 1)

    assert climb([0, 1, 2, 3, 4, 5], 3, quality) == 1
    assert 5 not in seen
