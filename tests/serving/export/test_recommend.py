"""`recommend` against the two calls it stands for, and what only it can do: lists, policies, propensities."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from benchmarks.serve_sessions import SavedSession, breakdown
from ranking.array_ops import numpy_ops
from ranking.exploration import posterior_std
from ranking.policy import Policy
from ranking.rerank import Candidates, rerank
from serving.client.recommend_requests import EVERY_POLICY, recommend_inputs, warm_up_requests
from serving.export.ranking import RankingModule
from serving.export.recommend import RecommendModule, RecommendSettings
from serving.export.retrieval import RetrievalModule
from serving.export.score_reference import write_score_reference
from serving.graphs.policy_tables import PolicyTables
from serving.graphs.request_policy import uniforms
from serving.index.allowed_items import among
from serving.index.index import LOWEST, ExactIndex
from serving.saved_model import operations
from serving.score_histogram import read_histogram
from serving.server.inference import predict_arrays
from serving.server.servable import Servable
from serving.status import ServingError
from tests.serving.export.test_export import ITEMS, USERS, CountingRanker, strings, world
from tests.serving.independent import run_capi

__all__ = ["world"]
COUNT, NOW = 40, 1_700_000_000
WORDS = {"device": ("", "tv", "phone"), "place": ("", "home")}


class ContextRanker(CountingRanker):
    """One that is told the context, and shows it."""

    def call(
        self, user_row, history_rows, candidate_rows, retrieval_scores, timestamp, retrieval_ranks=None, context=None
    ):
        answer = super().call(user_row, history_rows, candidate_rows, retrieval_scores, timestamp)
        like = ops.cast(context[:, :1] + 10 * context[:, 1:2], "float32") + 0 * answer["click"]
        return {**answer, "like": like}


@pytest.fixture(scope="module")
def facts() -> PolicyTables:
    rng, rows = np.random.default_rng(5), ITEMS + 1
    return PolicyTables(
        counts=rng.integers(0, 60, rows),
        released=np.where(rng.random(rows) < 0.2, 0, NOW - rng.integers(0, 90 * 86_400, rows)),
        creator=rng.integers(0, 12, rows),
        category=rng.integers(0, 4, rows),
        protected=rng.random(rows) < 0.2,
        user_group=np.arange(USERS + 1) % 3,
        group_floors=np.array([0.0, 0.0, 0.0]),
        context=WORDS,
    )


@pytest.fixture(scope="module")
def ranker() -> ContextRanker:
    return ContextRanker()


@pytest.fixture(scope="module")
def module(world, ranker, facts) -> RecommendModule:
    settings = RecommendSettings(facts, Policy(), COUNT)
    return RecommendModule(world.tables, world.tower, ExactIndex(world.items), ranker, settings)


@pytest.fixture(scope="module")
def folder(module, tmp_path_factory):
    folder = tmp_path_factory.mktemp("recommend") / "1"
    module.save(folder)
    return folder


@pytest.fixture(scope="module")
def two_calls(world):
    """What the client did before: retrieve, drop the padding, rank, sort."""
    retrieval = RetrievalModule(world.tables, world.tower, ExactIndex(world.items))
    ranking = RankingModule(world.tables, world.ranker)

    def ask(user: str, recent: list[str], excluded: list[str], k: int, count: int = COUNT):
        history = tf.constant(strings([recent]), tf.string)
        found = retrieval.retrieve(tf.constant([user]), history, tf.constant(strings([excluded]), tf.string), count)
        keep = found["item_ids"][0].numpy() != b""
        ids, scores = found["item_ids"].numpy()[:, keep], found["scores"].numpy()[:, keep]
        answer = ranking.rank(
            tf.constant([user]), history, tf.constant(ids), tf.constant(scores), tf.constant([NOW], tf.int64)
        )
        order = np.argsort(-answer["score"][0].numpy(), kind="stable")[:k]
        named = {name: answer[name][0].numpy()[order] for name in ("click", "purchase")}
        return {
            **named,
            "item_ids": ids[0, order],
            "scores": answer["score"][0].numpy()[order],
            "retrieval_scores": scores[0, order],
            "retrieval_ranks": order + 1,
        }

    return ask


def ask(module: RecommendModule, users: list[str], **options) -> dict[str, np.ndarray]:
    options = {"k": 10, "timestamps": [NOW] * len(users), **options}
    inputs = recommend_inputs(users, **options)
    return {name: value.numpy() for name, value in module.recommend(**tensors(inputs)).items()}


def tensors(inputs: dict[str, np.ndarray]) -> dict[str, tf.Tensor]:
    kinds = {name: tf.string if value.dtype == object else value.dtype for name, value in inputs.items()}
    return {name: tf.constant(value, kinds[name]) for name, value in inputs.items()}


@pytest.mark.parametrize(
    ("user", "recent", "excluded"),
    [
        ("user 4", [], []),
        ("user 4", ["item 9", "unheard", "item 4"], ["item 11", ""]),
        ("who?", [], []),
        ("", ["item 7"], [f"item {row}" for row in range(1, 500)]),
        ("user 9", [], [f"item {row}" for row in range(1, ITEMS - 2)]),
        ("user 9", [], [f"item {row}" for row in range(1, ITEMS + 1)]),
    ],
)
def test_without_a_policy_it_is_the_two_calls(module, two_calls, user, recent, excluded):
    single = ask(module, [user], recent_item_ids=[recent], exclude_item_ids=[excluded])
    expected = two_calls(user, recent, excluded, 10)
    size = len(expected["item_ids"])
    for name, values in expected.items():
        if name == "item_ids":
            assert single[name][0].tolist() == [*values.tolist(), *[b""] * (10 - size)]
        else:
            np.testing.assert_allclose(single[name][0, :size], values, rtol=1e-5, err_msg=name)
    assert (single["propensities"][0] == (np.arange(10) < size)).all()
    assert (single["scores"][0, size:] == -1).all() and not single["retrieval_ranks"][0, size:].any()


def test_batch_equals_single_for_any_batch_and_page(module):
    users = [f"user {row % (USERS + 3)}" for row in range(256)]
    recent = [[f"item {row + step}" for step in range(row % 3)] for row in range(256)]
    lists = [[f"item {row}" for row in range(1, 60)] if line % 5 == 0 else [] for line in range(256)]
    options = {"policy": EVERY_POLICY, "seeds": list(range(256))}
    batch = ask(module, users, recent_item_ids=recent, allow_item_ids=lists, **options)
    for place in (0, 1, 31, 255):
        options["seeds"] = [place]
        own = {"recent_item_ids": [recent[place]], "allow_item_ids": [lists[place]]}
        single = ask(module, users[place : place + 1], **own, **options)
        assert single["item_ids"][0].tolist() == batch["item_ids"][place].tolist()
        np.testing.assert_allclose(single["propensities"][0], batch["propensities"][place], atol=1e-4)
        np.testing.assert_allclose(single["scores"][0], batch["scores"][place], atol=1e-5)
    assert ask(module, users[:2], k=0)["item_ids"].shape == (2, 0)
    everything = ask(module, ["user 1"], k=ITEMS + 7)
    assert everything["item_ids"].shape == (1, ITEMS + 7) and everything["click"].shape == (1, ITEMS + 7)


def test_candidates_are_how_many_are_ranked(module, two_calls):
    assert (
        ask(module, ["user 2"])["item_ids"].tolist() == ask(module, ["user 2"], candidates=COUNT)["item_ids"].tolist()
    )
    few = ask(module, ["user 2"], candidates=12)
    assert few["item_ids"][0].tolist() == two_calls("user 2", [], [], 10, 12)["item_ids"].tolist()
    fewer = ask(module, ["user 2"], candidates=3)["item_ids"][0].tolist()
    assert fewer == two_calls("user 2", [], [], 10, 10)["item_ids"].tolist()


def test_allow_lists_are_ranked_whatever_else_would_be_found(module, world):
    worst = sorted(range(1, ITEMS + 1), key=lambda row: world.items[row] @ world.query(0, []))[:30]
    allowed = [f"item {row}" for row in [*worst, worst[0]]]
    answer = ask(module, ["who?", "who?", "who?"], allow_item_ids=[[*allowed, "unheard", ""], [], ["unheard"]], k=30)
    assert sorted(answer["item_ids"][0].tolist()) == sorted(one.encode() for one in set(allowed))
    expected = world.items[worst] @ world.query(0, [])
    np.testing.assert_allclose(np.sort(answer["retrieval_scores"][0]), np.sort(expected), atol=1e-5)
    assert answer["item_ids"][1].tolist() == ask(module, ["who?"], k=30)["item_ids"][0].tolist()
    assert set(answer["item_ids"][2].tolist()) == {b""}
    hidden = {"exclude_item_ids": [allowed[:4]], "recent_item_ids": [allowed[4:5]]}
    fewer = ask(module, ["who?"], allow_item_ids=[allowed], k=30, **hidden)
    shown = set(fewer["item_ids"][0].tolist()) - {b""}
    assert shown == {one.encode() for one in allowed[5:-1]} - {allowed[0].encode()}
    seen = sorted(world.seen(3))
    own = ask(module, ["user 3"], allow_item_ids=[[f"item {row}" for row in seen]])
    assert seen and set(own["item_ids"][0].tolist()) == {b""}
    nobody = {"recent_item_ids": [[f"item {seen[0]}"]], "allow_item_ids": [[f"item {row}" for row in seen]]}
    again = ask(module, [""], **nobody, k=COUNT)  # who must not be hidden what they had seen is not named
    assert set(again["item_ids"][0].tolist()) - {b""} == {f"item {row}".encode() for row in seen[1:]}


def test_items_that_are_gone_are_never_found_and_stay_in_histories(world, ranker, facts, module):
    found = ask(module, ["user 4"])["item_ids"][0]
    gone = np.array([int(name.decode().split()[1]) for name in found[:3]], np.int32)
    parts = (dataclasses.replace(world.tables, gone=gone), world.tower, ExactIndex(world.items))
    without = RecommendModule(*parts, ranker, RecommendSettings(facts, Policy(), COUNT))
    excluded = [found[:3].tolist()]
    for options in ({}, {"allow_item_ids": [found.tolist()]}):
        wanted = ask(module, ["user 4"], exclude_item_ids=excluded, **options)
        answer = ask(without, ["user 4"], **options)
        np.testing.assert_array_equal(answer["item_ids"], wanted["item_ids"])
        assert not set(answer["item_ids"][0]) & set(found[:3])
    recent = [[name.decode() for name in found[:3]]]
    one, other = (ask(model, ["user 4"], recent_item_ids=recent)["query"] for model in (module, without))
    np.testing.assert_array_equal(one, other)
    near = RetrievalModule(*parts).similar(tf.constant(world.items[gone[:1]]), tf.constant(strings([[]])), tf.constant(ITEMS))
    assert set(found[:3]).isdisjoint(near["item_ids"].numpy()[0])


def test_membership_by_search():
    rng = np.random.default_rng(0)
    rows, others = rng.integers(0, 30, (5, 20)), rng.integers(0, 30, (5, 12))
    expected = [[row in set(line) for row in asked] for asked, line in zip(rows.tolist(), others.tolist(), strict=True)]
    assert among(tf.constant(rows), tf.constant(others)).numpy().tolist() == expected
    assert not among(tf.constant(rows), tf.zeros((5, 0), tf.int64)).numpy().any()


def test_the_policy_is_that_of_ranking_on_what_is_retrieved(module, world, facts):
    """The graph's page, made again by NumPy from the graph's own candidates and the tables."""
    policy = Policy(**EVERY_POLICY)
    everyone = ask(module, ["user 8"], k=COUNT)
    order = np.argsort(everyone["retrieval_ranks"][0])
    rows = np.array([int(one.split()[1]) for one in everyone["item_ids"][0][order]])[None]
    codes = facts.item_codes()[rows[0]]
    unit = world.items[rows] / np.linalg.norm(world.items[rows], axis=2, keepdims=True)
    given = Candidates(
        rows=rows,
        scores=everyone["scores"][:, order],
        creator=codes[None, :, 0],
        category=codes[None, :, 1],
        protected=codes[None, :, 2] > 0,
        bucket=codes[None, :, 3],
        target=bucket_target(facts, world.tables.history[8]),
        vectors=unit[:, None],
        deviation=posterior_std(everyone["click"][:, order], codes[None, :, 4].astype(np.float32), ops=numpy_ops),
        uniforms=uniforms(tf.constant([3], tf.int64), tf.constant(10)).numpy(),
    )
    expected = rerank(given, policy, 10, ops=numpy_ops)
    answer = ask(module, ["user 8"], policy=EVERY_POLICY, seeds=[3])
    assert [int(one.split()[1]) for one in answer["item_ids"][0]] == expected.rows[0].tolist()
    np.testing.assert_allclose(answer["propensities"], expected.propensities, atol=1e-4)
    assert answer["item_ids"][0].tolist() != ask(module, ["user 8"])["item_ids"][0].tolist()


def bucket_target(facts: PolicyTables, history: np.ndarray) -> np.ndarray:
    buckets = facts.item_codes()[history[history > 0], 3]
    counts = np.bincount(buckets, minlength=3) + facts.bucket_prior()
    return (counts / (len(buckets) + 1))[None].astype(np.float32)


def test_propensities_are_frequencies(module):
    answer = ask(module, ["user 5"] * 256, policy={"epsilon": 0.9}, seeds=list(range(256)), candidates=12, k=1)
    first, chance = answer["item_ids"][:, 0], answer["propensities"][:, 0]
    best = ask(module, ["user 5"], candidates=12, k=1)["item_ids"][0, 0]
    np.testing.assert_allclose(chance, np.where(first == best, 0.1 + 0.9 / 12, 0.9 / 12), atol=1e-6)
    assert len(set(first.tolist())) == 12
    assert (first == best).mean() == pytest.approx(0.175, abs=0.1)
    again = ask(module, ["user 5"] * 2, policy={"epsilon": 0.9}, seeds=[17, 17], candidates=12, k=10)
    assert again["item_ids"][0].tolist() == again["item_ids"][1].tolist()


def test_uniforms_are_those_of_splitmix():
    def reference(seed: int, number: int) -> float:
        def mixed(state: int) -> int:
            for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
                state = ((state ^ (state >> shift)) * factor) % 2**64
            return state ^ (state >> 31)

        return (mixed((mixed(seed % 2**64) + number * 0x9E3779B97F4A7C15) % 2**64) >> 40) / 2**24

    seeds = [0, 1, -5, 2**62]
    found = uniforms(tf.constant(seeds, tf.int64), tf.constant(4)).numpy()
    np.testing.assert_array_equal(found, [[reference(seed, number) for number in range(1, 5)] for seed in seeds])
    many = uniforms(tf.range(20_000, dtype=tf.int64), tf.constant(3)).numpy()
    assert abs(many.mean() - 0.5) < 0.01 and np.abs(np.corrcoef(many.T) - np.eye(3)).max() < 0.03


def test_context_reaches_the_ranker_by_its_words(module):
    answer = ask(module, ["user 1"] * 3, context=[["place=home", "device=phone"], ["device=fridge", "x=y"], []], k=4)
    assert answer["like"].tolist() == [[12] * 4, [0] * 4, [0] * 4]


def test_ranking_reads_context_too_and_may_do_without(world, ranker, tmp_path):
    RankingModule(world.tables, ranker, context=WORDS).save(tmp_path / "1")
    served = Servable("ranking", 1, tmp_path / "1")
    asked = {
        "user_id": np.array(["user 1", "user 1"], object),
        "recent_item_ids": strings([[], []]),
        "candidate_ids": strings([["item 3", "item 8"]] * 2),
        "retrieval_scores": np.ones((2, 2), np.float32),
        "timestamp": np.array([NOW, NOW]),
    }
    words = strings([["place=home", "device=phone"], ["device=fridge", ""]])
    assert predict_arrays(served, "", {**asked, "context": words})["like"].tolist() == [[12] * 2, [0] * 2]
    assert predict_arrays(served, "", asked)["like"].tolist() == [[0] * 2, [0] * 2]
    with pytest.raises(ServingError, match="need words of one line a user or of none"):
        predict_arrays(served, "", {**asked, "context": words[:1]})


def test_users_groups_have_floors_of_their_own(world, ranker, facts):
    floors = dataclasses.replace(facts, group_floors=np.array([0.0, 1.0, 0.5]))
    policy = Policy(significance=0.5)
    settings = RecommendSettings(floors, policy, 200)
    module = RecommendModule(world.tables, world.tower, ExactIndex(world.items), ranker, settings)
    answer = ask(module, ["user 3", "user 4", "user 5"])
    rows = np.array([[int(one.split()[1]) for one in line] for line in answer["item_ids"]])
    shown = facts.protected[rows].sum(axis=1)
    assert shown[1] == 10 and shown[2] >= 4
    same = ask(module, ["user 4"], policy={"group_share": 0.0})
    assert same["item_ids"][0].tolist() != answer["item_ids"][1].tolist()


def test_a_release_brings_the_scores_that_are_expected_of_it(module, world, tmp_path):
    answered = lambda inputs: {name: value.numpy() for name, value in module.recommend(**inputs).items()}  # noqa: E731
    file = write_score_reference(tmp_path, answered, world.tables.user_ids, k=5, timestamp=NOW)
    edges, shares = read_histogram(file)
    users = [f"user {row}" for row in range(1, USERS + 1)]
    seeds = list(range(USERS))
    scores = ask(module, users, k=5, seeds=seeds)["scores"]
    counts = np.histogram(scores, edges)[0]
    np.testing.assert_allclose(shares, counts / counts.sum(), atol=1e-3)
    assert len(shares) == 10 and shares.min() > 0.05 and shares.max() < 0.15


def test_wrong_requests_say_so(module):
    for options, message in (
        ({"policy": {"mmr": 0.5}}, "policy_names: must be of freshness"),
        ({"policy": {"epsilon": 2.0}}, "epsilon must lie between 0 and 1"),
        ({"policy": {"dpp": float("nan")}}, "dpp must lie between 0 and 10"),
        ({"k": -1}, "k: must lie between 0"),
    ):
        with pytest.raises(tf.errors.InvalidArgumentError, match=message):
            ask(module, ["user 1"], **options)
    with pytest.raises(ValueError, match="need one a user, received 1 for 2 users"):
        recommend_inputs(["a", "b"], k=3, exclude_item_ids=[["i"]])


def test_facts_of_another_run_are_refused(world, facts):
    few = PolicyTables(np.zeros(5, int), np.zeros(5, int))
    with pytest.raises(ValueError, match=r"settings\.facts: need one line an item row, received 5"):
        RecommendModule(world.tables, world.tower, ExactIndex(world.items), ContextRanker(), RecommendSettings(few))
    with pytest.raises(ValueError, match="need one line an item row"):
        dataclasses.replace(facts, creator=np.zeros(3, int))
    with pytest.raises(ValueError, match="must be shares"):
        dataclasses.replace(facts, group_floors=np.array([2.0]))
    with pytest.raises(ValueError, match=r"user_group: must lie in 0\.\.0, received 0 to 2"):
        dataclasses.replace(facts, group_floors=np.array([0.5]))


def test_any_server_answers_as_python_does(module, folder):
    assert not {one for one in operations(folder) if not hasattr(tf.raw_ops, one)}
    users, recent = ["user 2", "who?"], [["item 7"], []]
    options = {"recent_item_ids": recent, "context": [["device=tv"], []], "seeds": [4, 9], "policy": EVERY_POLICY}
    requests = [
        recommend_inputs(users, k=6, timestamps=[NOW, NOW], **options),
        recommend_inputs(["user 3"], k=4, allow_item_ids=[["item 3", "item 9"]]),
        recommend_inputs([""], k=0),
    ]
    expected = [ask(module, users, k=6, **options)]
    expected.append(ask(module, ["user 3"], k=4, allow_item_ids=[["item 3", "item 9"]], timestamps=[0]))
    answers = run_capi(folder, requests)
    for answer, python in zip(answers, expected, strict=False):
        assert answer["item_ids"].tolist() == [[one.decode() for one in line] for line in python["item_ids"]]
        for name in ("scores", "click", "propensities", "retrieval_scores"):
            np.testing.assert_allclose(answer[name], python[name], atol=1e-5, err_msg=name)
    assert answers[2]["item_ids"].shape == (1, 0)


def test_the_same_parts_give_the_same_bytes_and_no_table_twice(world, ranker, facts, module, folder, tmp_path):
    settings = RecommendSettings(facts, Policy(), COUNT)
    RecommendModule(world.tables, world.tower, ExactIndex(world.items), ranker, settings).save(tmp_path / "1")
    files = [file.relative_to(folder) for file in folder.rglob("*") if file.is_file()]
    assert files and all((tmp_path / "1" / file).read_bytes() == (folder / file).read_bytes() for file in files)
    tables = [variable for variable in module.variables if np.size(variable.numpy()) > ITEMS]
    names = sorted(variable.name.removesuffix(":0") for variable in tables)
    assert names == ["index_item_embeddings", "item_codes", "item_released", "items_ids", "ranker_000"]


def test_warm_up_runs_every_branch(module):
    ids = [f"item {row}".encode() for row in range(1, 33)]
    requests = warm_up_requests((1, 8), [f"user {row}".encode() for row in range(1, 9)], ids, 4, 5)
    assert len(requests) == 6
    for inputs in requests:
        answer = module.recommend(**tensors(inputs))
        assert answer["item_ids"].shape == (len(inputs["user_id"]), 5)
        assert (answer["scores"].numpy() > LOWEST).all()


def test_a_trace_tells_the_steps_apart(folder):
    session = SavedSession(folder, "serving_default")
    requests = [
        recommend_inputs(["user 1"], k=5, exclude_item_ids=[["item 3"]], policy={"mmr_lambda": 0.5}, seeds=[n])
        for n in (0, 1)
    ]
    found = breakdown(session, requests, 10.0)
    assert {"request", "query", "filter", "retrieve", "rank", "policy", "page"} <= set(found)
    assert sum(step["ms"] for step in found.values()) == pytest.approx(10.0, abs=0.01)
    more = breakdown(session, [recommend_inputs(["user 1"], k=50, policy={"mmr_lambda": 0.5})] * 2, 10.0)
    assert more["policy"]["operations"] > 2 * found["policy"]["operations"]  # forty-five places more
    assert more["query"]["operations"] == found["query"]["operations"]
