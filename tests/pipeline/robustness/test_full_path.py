"""Final lists with an item put in anew are those of the whole path asked again, and the ranker's gradient leads into them."""

import types

import numpy as np
import pytest
from keras import ops

from pipeline.metrics.examples import Requests
from pipeline.metrics.interactions import Interactions
from pipeline.metrics.metrics import mean_over_users, ndcg_at_k
from pipeline.metrics.top_k import select_top_k
from pipeline.ranker.rank_requests import answer, order_by
from pipeline.ranker.warm import save_learned
from pipeline.robustness.full_path import FullPath
from pipeline.robustness.nightly_update import ServedModels
from pipeline.robustness.ranker_attack import RankedItems, attack_ranker
from ranking.serving_form import RankingServingForm
from tests.ranking.worlds import NOW, SMALL, planted_world

RETRIEVED, K = 15, 4
ROWS = np.array([3, 11, 20])


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """Forty people, sixty items and a ranker of random weights; an item's served vector is a map of its text and its image."""
    world, rng = planted_world(requests=40), np.random.default_rng(5)
    for name in ("text", "image"):  # as the ranker's tables hold them
        world.tables[name] = world.tables[name].astype(np.float16).astype(np.float32)
    maps = {name: rng.normal(size=(width, 8)).astype(np.float32) / width for name, width in (("text", 7), ("image", 10))}
    items = sum(world.tables[name] @ maps[name] for name in maps)
    queries = rng.normal(size=(41, 8)).astype(np.float32)
    world.tables["behaviour"] = items
    ranker, folder = world.ranker(SMALL), tmp_path_factory.mktemp("ranking")
    for weight in ranker.trainable_variables:
        weight.assign(np.asarray(weight) + 0.1 * rng.normal(size=weight.shape))
    save_learned(ranker, folder)
    served = types.SimpleNamespace(
        items=items,
        queries=lambda profile, users, history: queries[users],
        two_tower=types.SimpleNamespace(schema=world.spec.schema),
        maps=maps,
    )
    form = RankingServingForm.from_ranker(ranker, score_weights={"click": 1.0, "purchase": 1.0}, blend=0.1)
    seen = Interactions.from_lists([np.unique(line) for line in world.history])
    relevant = Interactions.from_lists([rng.choice(np.arange(1, 61), 3, False) for _ in range(40)])
    requests = Requests(world.user, world.history, seen, relevant, world.timestamp, np.zeros((40, 0), np.int32))
    released = np.where(np.arange(61) % 7 == 0, NOW + 1, 0)
    models = ServedModels(served, form, folder)
    return world, FullPath(models, np.zeros((41, 1), np.int32), requests, released, RETRIEVED, K)


def attacked(world, path):
    """Items as `AttackedItems` are: functions of their content."""
    served = path.models.served
    features = {name: world.tables[name][ROWS] for name in ("text", "image")}
    embed = lambda changed: sum(ops.matmul({**features, **changed}[name], served.maps[name]) for name in features)  # noqa: E731
    return types.SimpleNamespace(
        served=served, rows=ROWS, features=features, embed=embed, vectors=lambda changed: np.asarray(embed(changed))
    )


def asked_again(path, target, vector, token):
    """The figures of `FullPath` by asking the whole path with one item's vector and token exchanged."""
    models, requests, form = path.models, path.requests, path.models.form
    items, before = models.served.items.copy(), np.array(form.tokens)
    items[target] = vector
    tokens = before.copy()
    tokens[target] = token
    rows, scores = select_top_k(np.where(path.open, path.queries @ items.T, -np.inf), RETRIEVED)
    asked = (form, requests.users, requests.history, rows, scores, requests.timestamps)
    as_it_was = answer(*asked)["score"]
    form.tokens.assign(tokens)
    # Whoever has chosen the item reads it in the history as it was.
    final = np.where((requests.history == target).any(axis=1)[:, None], as_it_was, answer(*asked)["score"])
    form.tokens.assign(before)
    ranked = order_by(rows, final)
    free = path.open[:, target]
    place = np.array([list(line).index(target) + 1 if target in line else RETRIEVED + 1 for line in ranked])[free]
    return {
        "retrieved": (rows == target).any(axis=1)[free].mean(),
        "reach": (place <= K).mean(),
        "exposure": np.where(place <= K, 1 / np.log2(1 + place), 0).mean(),
        "rank": place.mean(),
        "ndcg": mean_over_users(ndcg_at_k(ranked[:, :K], requests.relevant, K)),
    }


def test_final_lists_are_those_of_the_whole_path_asked_again(path):
    world, lists = path
    items = attacked(world, lists)
    ranked = RankedItems(items, lists)
    tokens = np.asarray(ranked.tokens({}, items.vectors({})))
    np.testing.assert_allclose(tokens, np.asarray(lists.models.form.tokens)[ROWS], atol=1e-5)
    rng = np.random.default_rng(0)
    for scale in (0.0, 2.0, 6.0):
        noise = {name: scale * rng.normal(size=table.shape) for name, table in items.features.items()}
        changed = {name: (table + noise[name]).astype(np.float32) for name, table in items.features.items()}
        vectors = items.vectors(changed)
        tokens, found = np.asarray(ranked.tokens(changed, vectors)), ranked.figures(changed, 0)
        expected = [asked_again(lists, row, vectors[place], tokens[place]) for place, row in enumerate(ROWS)]
        for name, (mean, _, _) in found.items():
            assert mean == pytest.approx(np.mean([one[name] for one in expected]), abs=1e-6), (scale, name)
        if not scale:
            assert [lists.as_served(row) for row in ROWS] == [pytest.approx(one, abs=1e-6) for one in expected]


def test_the_gain_is_that_of_a_loop_over_users(path):
    world, lists = path
    items, asked = attacked(world, lists), lists.requests
    gain = np.asarray(RankedItems(items, lists).gain({}))
    vectors, sigmoid = items.vectors({}), lambda x: 1 / (1 + np.exp(-x))
    spread, width = np.nanstd(np.where(np.isfinite(lists.scores), lists.scores, np.nan)), lists.now.std(axis=1).mean()
    for place, row in enumerate(ROWS):
        found = []
        for user in np.flatnonzero(lists.open[:, row]):
            score = lists.queries[user] @ vectors[place]
            others = lists.scores[user][lists.rows[user] != row]
            rank = 1 + sigmoid((others - score) / (0.1 * spread)).sum()
            one = slice(user, user + 1)
            final = answer(
                lists.models.form, asked.users[one], asked.history[one], np.array([[row]], np.int32),
                np.array([[score]], np.float32), asked.timestamps[one], np.array([[rank]], np.float32),
            )["score"][0, 0]  # fmt: skip
            retrieved = sigmoid((score - lists.scores[user, RETRIEVED - 1]) / (0.3 * spread))
            found.append(retrieved * sigmoid((final - lists.threshold[user]) / (0.3 * width)))
        assert gain[place] == pytest.approx(np.mean(found), abs=1e-4)


def test_the_rankers_gradient_leads_into_final_lists(path):
    world, lists = path
    ranked = RankedItems(attacked(world, lists), lists)
    before = np.array(lists.models.form.tokens)
    lines = attack_ranker(ranked, epsilons=(1.0,), steps=4)
    assert [(line["aim"], line["method"]) for line in lines] == [
        ("", "none"), ("retrieval", "pgd"), ("ranker", "fgsm"), ("ranker", "pgd")
    ]  # fmt: skip
    none, transferred, one_step, several = (line["reach"][0] for line in lines)
    assert none + 0.1 < one_step < several and transferred > none + 0.1
    np.testing.assert_array_equal(np.asarray(lists.models.form.tokens), before)
