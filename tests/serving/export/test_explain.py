"""`explain`: the exported signature answers as the ranker in Python, over the server and through the C API alike."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tensorflow as tf

from ranking.explain import explain, group_names
from ranking.serving_form import RankingServingForm
from serving.client.recommender import Recommender
from serving.export.explain import EXPLAIN, explain_requests
from serving.export.ranking import RankingModule
from serving.graphs.request_history import ServingTables
from serving.local import LocalServer
from serving.releases.models_config import ModelEntry, write_models_config
from serving.saved_model import operations
from serving.server.warmup import read_warmup, write_warmup
from tests.ranking.worlds import SMALL, PlantedWorld, planted_world
from tests.serving.independent import run_capi
from tests.serving.models import write_recommender

USERS, ITEMS = 20, 60
TOWNS = ["", "Rome", "Oslo", "Lima"]


@dataclasses.dataclass
class Exported:
    world: PlantedWorld
    form: RankingServingForm
    store: Path

    @property
    def folder(self) -> Path:
        return self.store / "ranking" / "7"


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """A ranker with random weights, released beside a stand-in for retrieval that likes low item numbers."""
    store = tmp_path_factory.mktemp("explain")
    world = planted_world(requests=USERS, items=ITEMS)
    ranker = world.ranker(SMALL)
    rng = np.random.default_rng(6)
    for weight in ranker.trainable_variables:
        weight.assign(np.asarray(weight) + 0.1 * rng.normal(size=weight.shape))
    form = RankingServingForm.from_ranker(ranker, score_weights={"click": 1.0, "purchase": 1.0}, blend=0.02)
    (store / "user_ids.txt").write_text("\n" + "".join(f"u{row}\n" for row in range(1, USERS + 1)))
    (store / "item_ids.txt").write_text("\n" + "".join(f"i{row}\n" for row in range(1, ITEMS + 1)))
    history = np.concatenate([np.zeros((1, world.history.shape[1]), np.int32), world.history])
    tables = ServingTables(
        store / "user_ids.txt", store / "item_ids.txt", np.zeros((USERS + 1, 1), np.int32), history,
        np.zeros(USERS + 2, np.int64), np.zeros(0, np.int32), profile_words={"town": TOWNS},
    )  # fmt: skip
    write_recommender(store, 7, ITEMS)
    tf.io.gfile.rmtree(str(store / "ranking"))
    RankingModule(tables, form).save(store / "ranking" / "7")
    return Exported(world, form, store)


def request(world: PlantedWorld) -> dict[str, np.ndarray]:
    """A known user with stored history, and an unknown one with recent items and a candidate of padding."""
    rows = world.candidates[3, :4]
    ids = [[f"i{row}" for row in rows], [f"i{rows[0]}", "", "unheard", f"i{rows[1]}"]]
    recent = [["", ""], ["i9", "i4"]]
    return {
        "user_id": np.array(["u4", "who?"], object),
        "recent_item_ids": np.array(recent, object),
        "candidate_ids": np.array(ids, object),
        "retrieval_scores": np.array([[1.0, 0.5, -0.5, 2.0], [0.1, 0.2, 0.3, 0.4]], np.float32),
        "retrieval_ranks": np.array([[1, 7, 30, 0], [2, 3, 4, 5]], np.float32),
        "timestamp": np.array([1_700_000_000, 0], np.int64),
        "context": np.full((2, 1), "", object),
        "profile": np.array([[""], ["town=Lima"]], object),
    }


def in_python(exported: Exported) -> dict[str, np.ndarray]:
    world, asked = exported.world, request(exported.world)
    rows = world.candidates[3, :4]
    history = np.stack([world.history[3], [9, 4, 0, 0, 0, 0]]).astype(np.int32)
    candidates = np.stack([rows, [rows[0], 0, 0, rows[1]]]).astype(np.int32)
    answer = explain(
        exported.form, np.array([4, 0], np.int32), history, candidates, asked["retrieval_scores"],
        asked["retrieval_ranks"], asked["timestamp"], None, np.array([[0], [TOWNS.index("Lima")]], np.int32),
    )  # fmt: skip
    return {name: np.asarray(values) for name, values in answer.items()}


def warm_ups() -> list[dict[str, np.ndarray]]:
    return explain_requests(b"u1", [b"i%d" % row for row in range(1, 11)], [b"town=Lima"])


def texts(values: Any) -> list:
    return np.vectorize(lambda value: value.decode() if isinstance(value, bytes) else value)(np.asarray(values)).tolist()


def test_python_server_and_c_api_agree(exported: Exported):
    expected, asked = in_python(exported), request(exported.world)
    by_c = run_capi(exported.folder, [asked], EXPLAIN)[0]
    config = write_models_config(exported.store / "one.config", [ModelEntry("ranking", versions=(7,))])
    write_warmup(exported.folder, "ranking", warm_ups(), EXPLAIN)
    with LocalServer(config) as server:
        client = Recommender(server.target).client
        by_grpc = client.predict("ranking", asked, signature_name=EXPLAIN)
        without = client.predict("ranking", {name: asked[name] for name in asked if name != "context"}, signature_name=EXPLAIN)
        body = {"signature_name": EXPLAIN, "inputs": {name: values.tolist() for name, values in asked.items()}}
        by_rest = httpx.post(f"{server.url}/v1/models/ranking:predict", json=body).json()["outputs"]
        rows = [{name: values.tolist()[line] for name, values in asked.items()} for line in range(2)]
        body = {"signature_name": EXPLAIN, "instances": rows}
        by_row = httpx.post(f"{server.url}/v1/models/ranking:predict", json=body).json()["predictions"]
    for answer in (by_c, by_grpc, by_rest, without):
        for name in ("score", "contributions", "shares", "cosines"):
            np.testing.assert_allclose(answer[name], expected[name], atol=1e-5)
        near = [[[f"i{row}" if row else "" for row in cell] for cell in line] for line in expected["nearest_rows"]]
        assert texts(answer["nearest_item_ids"]) == near
        assert texts(answer["group_names"]) == [list(group_names(exported.form))] * 2
        assert texts(answer["modality_names"]) == [["text", "image", "behaviour"]] * 2
    np.testing.assert_allclose(by_row[1]["shares"], expected["shares"][1], atol=1e-5)
    assert (expected["score"][1] == -1).tolist() == [False, True, True, False]
    assert np.abs(expected["contributions"][0]).max() > 1e-3


def test_scores_are_those_of_ranking_and_one_set_of_weights_serves_both(exported: Exported):
    served = tf.saved_model.load(str(exported.folder))
    asked = request(exported.world)
    asked["retrieval_ranks"][0] = [2, 3, 4, 1]  # as ranking finds them among the four
    tensors = {name: tf.constant(values) for name, values in asked.items()}
    explained = served.signatures[EXPLAIN](**tensors)
    tensors.pop("retrieval_ranks")
    ranked = served.signatures["serving_default"](**tensors)
    np.testing.assert_allclose(explained["score"][0], ranked["score"][0], atol=1e-5)
    assert all(hasattr(tf.raw_ops, name) for name in operations(exported.folder))
    tokens = exported.form.tokens.shape
    variables = tf.train.list_variables(str(exported.folder / "variables" / "variables"))
    assert sum(tuple(shape) == tuple(tokens) for _, shape in variables) == 1


def test_warm_up_records_are_answerable(exported: Exported, tmp_path: Path):
    write_warmup(tmp_path, "ranking", warm_ups(), EXPLAIN)
    explained = tf.saved_model.load(str(exported.folder)).signatures[EXPLAIN]
    logs = list(read_warmup(tmp_path))
    assert len(logs) == 4
    for log in logs:
        assert log.predict_log.request.model_spec.signature_name == EXPLAIN
        inputs = log.predict_log.request.inputs
        answer = explained(**{name: tf.constant(tf.make_ndarray(proto)) for name, proto in inputs.items()})
        assert (answer["score"].numpy() > -1).all()


def test_the_client_reads_reasons_and_looks_items_up(exported: Exported):
    config = write_models_config(
        exported.store / "both.config", [ModelEntry(name, versions=(7,)) for name in ("retrieval", "ranking")]
    )
    with LocalServer(config) as server:
        recommender = Recommender(server.target, deadline=30)
        given = recommender.explain("u4", ["i3"], retrieval_scores=[1 / 3], retrieval_ranks=[3], timestamp=1_700_000_000)
        found = recommender.explain("u4", ["i3", "unheard", "i50"], candidates=20, timestamp=1_700_000_000)
        with pytest.raises(ValueError, match="got 1 and None for 1 items"):
            recommender.explain("u4", ["i3"], retrieval_scores=[0.5])
        with pytest.raises(ValueError, match="at least one"):
            recommender.explain("u4", [])
    assert [one.item_id for one in found] == ["i3", "i50"]  # what the model does not know has no reasons
    assert [one.retrieved for one in found] == [True, False]
    # The stand-in's score of item n is 1 / n.
    both = [{group.group: group.contribution for group in one.groups} for one in (given[0], found[0])]
    assert both[0] == pytest.approx(both[1], abs=1e-6)
    names = [group.group for group in given[0].groups]
    assert sorted(names) == sorted(group_names(exported.form))
    assert [group.contribution for group in given[0].groups] == sorted(
        (group.contribution for group in given[0].groups), reverse=True
    )
    assert sum(abs(group.share) for group in given[0].groups) == pytest.approx(1, abs=1e-5)
    assert all(1 >= a.cosine >= b.cosine >= -1 for a, b in zip(given[0].like, given[0].like[1:], strict=False))
