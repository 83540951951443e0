"""A release with the graphs of an earlier one: byte for byte what tracing gives, and traced wherever that would differ."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from tensorflow.core.protobuf import saved_model_pb2

from ranking.calibration import calibration_table
from ranking.config import HEADS
from ranking.policy import Policy
from serving.client.recommend_requests import recommend_inputs
from serving.export.graphs_again import TRACED_FROM, GraphsAgain, module_variables, save_again
from serving.export.ranking import RankingModule
from serving.export.recommend import RecommendModule, RecommendSettings
from serving.export.retrieval import RetrievalModule
from serving.export.score_reference import ReferenceBeside
from serving.graphs.policy_tables import PolicyTables
from serving.index.index import ExactIndex
from serving.index.partitioned_index import PartitionedIndex
from serving.releases.manifest import Release
from serving.saved_model import read_variables
from serving.score_histogram import REFERENCE
from serving.server.inference import predict_arrays
from serving.server.servable import Servable
from tests.serving.random_world import WORDS, World, random_world

PLATT = {"kind": "platt", "slope": 0.5, "intercept": -0.25}


def modules(world: World, index: Any, policy: Policy, context: dict = WORDS) -> dict[str, Any]:
    rows = len(world.ensemble.items)
    facts = PolicyTables(np.arange(rows), np.arange(rows) * 86_400, context=context)
    tower, history = world.ensemble.user_tower, world.ensemble.linear.history
    settings = RecommendSettings(facts, policy, candidates=12)
    return {
        "retrieval": RetrievalModule(world.tables, tower, index, history),
        "recommend": RecommendModule(world.tables, tower, index, world.form, settings, history),
        "ranking": RankingModule(world.tables, world.form, context=context),
    }


@pytest.fixture(scope="module")
def nights(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Two nights: users, items, weights, calibrations, blend, mixture, policy and index of the second are others."""
    other = {"kind": "by_domain", "otherwise": {**PLATT, "slope": 2.0}, "domains": {}}
    folders = [tmp_path_factory.mktemp(name) for name in ("first", "second")]
    keras.utils.clear_session()  # whose names of layers a graph repeats: an export has a process of its own
    first = random_world(folders[0], 20, 70, calibrations=dict.fromkeys(HEADS, PLATT))
    keras.utils.clear_session()
    score, calibrations = ({"click": 2.0, "skip": -1.0}, 0.3), {**dict.fromkeys(HEADS, PLATT), "click": other}
    second = random_world(folders[1], 23, 90, 1, (0.5, 0.9), score, calibrations)
    indexes = [PartitionedIndex.build(world.ensemble.items, leaves=leaves) for world, leaves in ((first, 2), (second, 5))]
    return [
        modules(world, index, Policy(mmr_lambda=weight))
        for world, index, weight in zip((first, second), indexes, (0.9, 0.7), strict=True)
    ]


def test_another_night_has_the_graph_of_the_last_to_the_byte(nights: list[dict[str, Any]], tmp_path: Path):
    graphs = GraphsAgain(basis="code of today")
    for name, module in nights[0].items():
        graphs.write(name, module, tmp_path / "1" / name / "1")
    assert graphs.again == [] and set(graphs.digests) == set(nights[0])
    before = Release(tmp_path / "1", 1, "", {"details": {TRACED_FROM: graphs.digests}})
    later = GraphsAgain("code of today", before)
    for name, module in nights[1].items():
        later.write(name, module, tmp_path / "2" / name / "2")
        module.save(tmp_path / "traced" / name)
        again, traced = tmp_path / "2" / name / "2", tmp_path / "traced" / name
        for file in ("saved_model.pb", "assets/users.txt", "assets/items.txt"):
            assert (again / file).read_bytes() == (traced / file).read_bytes(), (name, file)
        values, expected = read_variables(again), read_variables(traced)
        assert values.keys() == expected.keys() == module_variables(module).keys()
        for path, value in expected.items():
            np.testing.assert_array_equal(values[path], value, err_msg=f"{name} {path}")
    assert later.again == list(nights[1]) and later.digests == graphs.digests


def test_no_graph_reads_whole_what_it_gathers_from(nights: list[dict[str, Any]], tmp_path: Path):
    """TensorFlow copies such a variable for every request: a whole catalogue, where a few rows are asked for."""
    made = modules(other := random_world(tmp_path, 20, 70), ExactIndex(other.ensemble.items), Policy())
    for name, module in {"exact": made["retrieval"], "partitioned": nights[0]["retrieval"]}.items():
        module.save(tmp_path / name)
        saved = saved_model_pb2.SavedModel.FromString((tmp_path / name / "saved_model.pb").read_bytes())
        for function in saved.meta_graphs[0].graph_def.library.function:
            read, gathered = (
                {node.input[0] for node in function.node_def if node.op == kind}
                for kind in ("ReadVariableOp", "ResourceGather")
            )
            assert not read & gathered, (name, function.signature.name)


def test_what_a_graph_follows_from_is_compared(
    nights: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for module in nights[0].values():  # what is told of a graph needs none
        monkeypatch.setattr(type(module), "save", lambda module, folder: None)
    digests = {}
    other = random_world(tmp_path, 20, 70)
    one = {"code": modules(other, ExactIndex(other.ensemble.items), Policy())}
    one["words"] = modules(other, ExactIndex(other.ensemble.items), Policy(), {"device": ("", "tv", "radio")})
    one["index"] = nights[0]
    for why, made in one.items():
        graphs = GraphsAgain(basis="code of today")
        for name, module in made.items():
            graphs.write(name, module, tmp_path / why)
        digests[why] = graphs.digests
    assert digests["code"]["retrieval"] == digests["words"]["retrieval"] != digests["index"]["retrieval"]
    assert digests["code"]["ranking"] != digests["words"]["ranking"]
    assert len({found["recommend"] for found in digests.values()}) == 3


def test_a_model_with_other_variables_is_refused(nights: list[dict[str, Any]], tmp_path: Path):
    nights[0]["retrieval"].save(tmp_path / "retrieval")
    with pytest.raises(ValueError, match="variables must be those of"):
        save_again(nights[0]["recommend"], tmp_path / "retrieval", tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_a_domain_without_a_calibration_of_its_own_has_that_of_all():
    isotonic = {"kind": "isotonic", "x": [0.0, 1.0, 3.0], "y": [0.1, 0.2, 0.6]}
    table = calibration_table({"kind": "by_domain", "otherwise": isotonic, "domains": {"2": {**isotonic, "y": [0, 0, 1]}}}, 4)
    np.testing.assert_allclose(table[[0, 1, 3]], np.float32([[0.1, 0, 1, 1, 2, 0.1, 0.4]] * 3))
    np.testing.assert_array_equal(table[2], np.float32([0, 0, 1, 1, 2, 0, 1]))


@pytest.mark.parametrize("same", [True, False])
def test_a_model_that_was_rehearsed_answers_as_one_that_was_loaded(same: bool, nights: list[dict[str, Any]], tmp_path: Path):
    """And where the graph turns out to be another, it is loaded; nothing of the rehearsal stays either way."""
    nights[0]["recommend"].save(tmp_path / "1" / "recommend" / "1")
    before = Release(tmp_path / "1", 1, "", {})
    users, items = (tmp_path / name for name in ("users.txt", "items.txt"))
    for file, table in ((users, nights[1]["recommend"].users), (items, nights[1]["recommend"].items)):
        file.write_bytes(b"\n" + table.asset.read_bytes())
    folder = tmp_path / "2" / "recommend" / "2"
    if same:
        save_again(nights[1]["recommend"], tmp_path / "1" / "recommend" / "1", folder)
    else:
        modules(random_world(tmp_path, 23, 90), nights[1]["recommend"].index, Policy(), {})["recommend"].save(folder)
    loaded = Servable("recommend", 2, folder)
    asked = recommend_inputs([b"u1", b"u23", b""], k=5, timestamps=[9, 9, 9], seeds=[1, 2, 3])
    with ReferenceBeside(folder, 2) as reference:
        assert reference.rehearse(before, users, items, tmp_path / "2" / "rehearsed")
        rehearsed = reference._rehearsed
        reference.begin(tmp_path / "2", users, 5, 9)
        servable = reference.written()
        assert (servable is rehearsed) == same and servable.folder == folder
        answers = [predict_arrays(one, "", asked) for one in (servable, loaded)]
        for name, answer in answers[1].items():
            np.testing.assert_array_equal(answers[0][name], answer, err_msg=name)
        assert answers[1]["item_ids"][0, 0] and (tmp_path / "2" / REFERENCE).is_file()
    assert not (tmp_path / "2" / "rehearsed").exists()
    assert not rehearsed.acquire()  # its session is closed
    loaded.retire()
