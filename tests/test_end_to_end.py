"""The whole walk on a small world with broken rows: stages, report, release, and one answer from five kinds of client."""

from __future__ import annotations

import json
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pandas as pd
import pytest

from pipeline.demo import serving
from pipeline.forget.files import TOMBSTONE
from pipeline.forget.user import forget_user
from pipeline.reproduce_record import finished_record
from pipeline.settings.config import ServingConfig, load_config
from pipeline.stages.walk import Run
from serving.client.recommend_requests import recommend_inputs
from serving.client.recommender import ModelClient, Recommender
from serving.local import LocalServer
from serving.releases.labels import read_labels
from serving.releases.models_config import ModelEntry, write_models_config
from serving.releases.promotion import promote
from serving.releases.release import latest_release, verify_release
from tests.serving.independent import run_capi
from tests.serving.same_answers import answers_of, assert_same, cases

MODELS = ("retrieval", "ranking", "recommend", "item_encoder", "search", "content_search")


@pytest.fixture(scope="module")
def source(record_shop) -> Path:
    return record_shop.source


@pytest.fixture(scope="module")
def finished(record_shop, tmp_path_factory) -> tuple[Run, dict, list[str]]:
    lines: list[str] = []
    run = record_shop.copy(tmp_path_factory.mktemp("end_to_end") / "run", say=lines.append)
    return run, json.loads((run.folder / "report.json").read_text()), lines


def test_report_has_every_figure(finished):
    run, _, _ = finished
    report = json.loads((run.folder / "report.json").read_text())
    metrics = {"recall@10", "recall@20", "recall@100", "ndcg@10", "ndcg@20"}
    places = ["test", "cold_items"]
    for part in (
        report["retrieval"],
        report["retrieval"]["oracle"],
        *(report["retrieval"]["baselines"][name] for name in ("popularity", "item_knn", "ids_only")),
        *(report["retrieval"]["ablation"][name] for name in ("text", "image", "audio")),
    ):
        assert all(metrics <= set(part[place]) for place in places)
    assert {"kind", "recall@100_vs_exact", "p50_ms", "p99_ms", "bytes"} <= set(report["index"])
    assert {"auc", "logloss", "ece", "ndcg@10", "retrieval_order_ndcg@10"} <= set(report["ranking"])
    assert {"users", "items", "events", "quarantined"} <= set(report["data"])
    assert report["fingerprint"] and {"ingest", "encode", "index", "ranking", "evaluate", "export"} <= set(
        report["seconds"]
    )
    assert report["index"]["recall@100_vs_exact"] >= 0.9
    page = (run.folder / "report.html").read_text()
    assert "<svg" in page or "data:image" in page


def test_broken_input_is_quarantined_with_a_reason(finished):
    run, _, _ = finished
    ingested = pd.read_parquet(run.folder / "ingest" / "quarantine.parquet")
    encoded = pd.read_parquet(run.folder / "encode" / "quarantine.parquet")
    reasons = " | ".join([*ingested["reason"], *encoded["reason"]]).lower()
    assert len(encoded) == 2, encoded["reason"].tolist()
    for word in ("duplicate", "value", "type"):
        assert word in reasons, reasons
    assert len(ingested) >= 3


def test_second_run_skips_every_stage_and_repeats_the_fingerprint(finished):
    run, report, lines = finished
    del lines[:]
    again = run.all()
    assert again["fingerprint"] == report["fingerprint"]
    assert not [line for line in lines if line.endswith("running")]


def test_a_run_keeps_what_it_was_made_from(finished):
    run, _, _ = finished
    record = finished_record(run.folder)
    assert load_config(run.folder / "settings.toml") == run.config
    assert record.source == str(run.source.resolve()) and {"retrieval/full", "ranking", "export"} <= set(record.stages)
    assert "interactions.parquet" in record.data and "pipeline/stages/walk.py" in record.code and "keras" in record.packages


def test_a_lost_manifest_never_makes_a_second_release(finished):
    """What a kill between publishing and the stage's own manifest leaves behind."""
    run, report, _ = finished
    shutil.rmtree(run.folder / "export")
    run.export()
    assert [path.name for path in (run.folder / "releases").iterdir() if path.name.isdigit()] == ["1"]
    assert run.report()["fingerprint"] == report["fingerprint"]


def strings(*rows: list[str]) -> np.ndarray:
    array = np.empty((len(rows), len(rows[0])), object)
    for row, values in enumerate(rows):
        array[row, :] = values
    return array


def test_every_signature_answers_the_same_by_every_way(finished):
    """All models and signatures of the release, in Python, by the C API without our Python, over gRPC, REST and
    `ovmsclient`; and what no warm-up request says: strangers, exclusions, padding."""
    run, _, _ = finished
    release = verify_release(latest_release(run.folder / "releases"))
    users, ids = run.dataset().users["user_id"], run.dataset().items["item_id"]
    some = ids.iloc[1:4].tolist()
    two, recent = np.array([users.iloc[1], "nobody"], object), strings(["", ""], [some[0], "zz"])
    column, words = next(iter(run.dataset().profile_vocabulary.items()))
    said = strings(["", ""], [f"{column}={words[1]}", "shoe=44"])
    retrieve = {"user_id": two, "recent_item_ids": recent, "exclude_item_ids": strings([some[1]], [some[2]])}
    retrieve["profile"] = said
    rank = {
        "user_id": two,
        "recent_item_ids": recent,
        "candidate_ids": strings([ids.iloc[7], ids.iloc[8], ""], [ids.iloc[9], "zz", ids.iloc[7]]),
        "retrieval_scores": np.array([[0.5, 0.3, 0.0], [0.4, 0.2, 0.1]], np.float32),
        "timestamp": np.array([1_767_000_000, 1_767_000_000], np.int64),
        "context": strings([""], [""]),
        "profile": said,
    }
    own = [("retrieval", {**retrieve, "k": np.array(7, np.int32)}), ("ranking", rank)]
    asked = cases(release, MODELS, own)
    assert {"serving_default", "similar", "explain", "search", "items", "image"} <= {case.signature for case in asked}
    assert {case.model for case in asked} == set(MODELS)
    with LocalServer(release.models_config) as server:
        ways = Counter()
        for way, case, answer in answers_of(release, server, asked):
            assert_same(way, case, answer)
            ways[way] += 1
        recommendation = Recommender(server.target).recommend(str(users.iloc[1]), k=5, candidates=50)
    assert ways["C API"] == ways["gRPC"] == ways["REST"] == len(asked) > ways["ovmsclient"] > len(MODELS)
    retrieved, ranked = (case.expected for case in asked[-2:])
    found = [[text(value) for value in row] for row in retrieved["item_ids"]]
    assert some[1] not in found[0] and some[2] not in found[1] and some[0] not in found[1]
    known = np.array([[True, True, False], [True, False, True]])
    assert (ranked["score"][~known] == -1).all() and (ranked["score"][known] > -1).all()
    assert ((ranked["click"][known] > 0) & (ranked["click"][known] < 1)).all()
    assert len(recommendation.items) == 5
    assert all(0 <= item.click <= 1 and 0 <= item.purchase <= 1 for item in recommendation.items)


def test_one_call_recommends_what_two_calls_do(finished, tmp_path):
    """`recommend` without a policy is retrieval and ranking, from any server; with one it tells its propensities."""
    run, _, _ = finished
    release = verify_release(latest_release(run.folder / "releases"))
    users = [*run.dataset().users["user_id"].iloc[1:5], "nobody"]
    request = recommend_inputs(users, k=6, timestamps=[1_767_000_000] * len(users), policy={"mmr_lambda": 1.0})
    by_c = run_capi(release.folder / "recommend" / str(release.version), [request])[0]
    entries = [ModelEntry(name) for name in ("retrieval", "ranking", "recommend")]
    with LocalServer(write_models_config(tmp_path / "models.config", entries, release.folder)) as server:
        by_grpc = ModelClient(server.target).predict("recommend", request)
        one, two = Recommender(server.target), Recommender(server.target, recommend_model="")
        for place, user in enumerate(users):
            asked = {"k": 6, "timestamp": 1_767_000_000}
            pages = one.recommend(user, policy={"mmr_lambda": 1.0}, **asked), two.recommend(user, **asked)
            first, second = ([(item.item_id, item.retrieval_rank) for item in page.items] for page in pages)
            assert first == second and len(first) == 6
            assert [text(value) for value in by_grpc["item_ids"][place]] == [item for item, _ in first]
            for name in ("score", "click", "purchase", "retrieval_score"):
                values = [[getattr(item, name) for item in page.items] for page in pages]
                np.testing.assert_allclose(*values, atol=1e-5)
            assert pages[0].versions["recommend"] == release.version and "recommend" not in pages[1].versions
        mixed = one.recommend(users[0], policy={"epsilon": 1.0}, seed=3, **asked)
        assert all(0 < item.propensity < 0.05 for item in mixed.items)
    assert by_c["item_ids"].tolist() == [[text(value) for value in line] for line in by_grpc["item_ids"]]
    for name in ("scores", "propensities", "click"):
        np.testing.assert_allclose(by_c[name], by_grpc[name], atol=1e-5)
    assert "recommend" in release.models_config.read_text()
    expected = json.loads((release.folder / "score_reference.json").read_text())
    assert sum(expected["shares"]) == pytest.approx(1.0) and expected["edges"] == sorted(expected["edges"])
    report = json.loads((run.folder / "report.json").read_text())
    assert {"default", "dpp", "policy", "validation"} <= set(report["ranking"]["diversity"])
    assert {"none", "floor", "boost"} == set(report["ranking"]["fairness"]["policies"])


def text(value) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def test_export_equals_the_towers_in_python(finished):
    """The release answers for a request's own recent items and profile what the towers say before any export."""
    from pipeline.retrieval.served import load_served

    run, _, _ = finished
    dataset, served = run.dataset(), load_served(run.folder)
    assert served.ensemble is not None
    history = np.zeros((1, served.history_length), np.int32)
    history[0, :3] = [5, 9, 2]
    profile = dataset.profile.copy()
    profile[0] = profile[5]  # somebody who says that they are as user 5 is
    codes = zip(dataset.schema.profile, profile[5], strict=True)
    said = [f"{column}={dataset.profile_vocabulary[column][code]}" for column, code in codes]
    query = served.queries(profile, np.array([0], np.int32), history)
    scores = (query @ served.items.T)[0]
    scores[[0, 5, 9, 2]] = -np.inf
    expected = dataset.items["item_id"].to_numpy()[np.argsort(-scores, kind="stable")[:10]].tolist()
    ids = dataset.items["item_id"]
    release = verify_release(latest_release(run.folder / "releases"))
    request = {
        "user_id": np.array(["nobody"], object),
        "recent_item_ids": strings([ids.iloc[row] for row in (5, 9, 2)]),
        "exclude_item_ids": np.empty((1, 0), object),
        "k": np.array(10, np.int32),
        "profile": strings(said),
    }
    for name in ("retrieval", "retrieval_scann"):
        answer = run_capi(release.folder / name / "1", [request])[0]
        assert [text(value) for value in answer["item_ids"][0]] == expected


@pytest.fixture(scope="module")
def gateway(finished, source) -> Iterator[httpx.Client]:
    """A client of the gateway, in front of the release on a server."""
    ports = ServingConfig(grpc_port=0, rest_port=0, gateway_port=0)
    with serving(source, finished[0].folder, ports) as (_, url), httpx.Client(base_url=url, timeout=30) as client:
        yield client


def test_gateway_answers_known_and_unknown_users(finished, gateway):
    run, _, _ = finished
    users = str(run.dataset().users["user_id"].iloc[1]), "somebody-new"
    answers = [gateway.post("/v1/recommend", json={"user_id": user, "k": 8}).json() for user in users]
    assert [answer["known_user"] for answer in answers] == [True, False]
    for answer in answers:
        assert len(answer["items"]) == 8 and not answer["fallback"]
        assert len({item["item"]["item_id"] for item in answer["items"]}) == 8


def test_the_catalogue_and_the_session_change_while_they_are_served(finished, gateway):
    """Through real models: a new item is found by content alone, a deleted one never, and feedback moves the next list."""
    run, _, _ = finished
    user = str(run.dataset().users["user_id"].iloc[1])

    def ids(path: str, **body) -> list[str]:
        answer = gateway.post(path, json=body).json()
        assert not answer["fallback"], answer
        return [entry["item"]["item_id"] for entry in answer["items"]]

    before = ids("/v1/recommend", user_id=user, k=50)
    model = gateway.get(f"/v1/items/{before[0]}").json()
    like = {name: model[name] for name in ("title", "description")} | {"categories": model["categories"].split(", ")}
    media = {name: model[name].removeprefix("/media/") for name in ("image", "audio") if model[name]}
    started = time.perf_counter()
    reply = gateway.post("/v1/items", json={"item_id": "brand-new", **like, **media})
    assert reply.status_code == 201 and reply.json()["encoded"], reply.text
    assert set(ids("/v1/search", query=model["description"], k=2)) == {"brand-new", before[0]}
    after = ids("/v1/recommend", user_id=user, k=50)
    assert "brand-new" in after and after.index("brand-new") < 40
    assert [one for one in after if one != "brand-new"] == before[:49]
    assert before[0] in ids("/v1/similar", item_id="brand-new", k=20)
    assert "brand-new" in ids("/v1/similar", item_id=before[0], k=20)
    assert time.perf_counter() - started < 5
    assert gateway.delete(f"/v1/items/{before[0]}").status_code == 200
    assert before[0] not in ids("/v1/recommend", user_id=user, k=100)
    assert before[0] not in ids("/v1/search", query=model["description"], k=100)
    done = {after[2]: "skip", after[4]: "like"}
    events = [{"user_id": user, "item_id": item_id, "event": event} for item_id, event in done.items()]
    assert gateway.post("/v1/feedback", json={"events": events}).json()["accepted"] == 2
    moved = ids("/v1/recommend", user_id=user, k=50)
    assert not set(done) & set(moved)
    assert moved != [one for one in after if one in moved]  # not only shorter: the history has moved the order


def test_a_forgotten_user_is_a_stranger_to_the_next_release(finished, source, tmp_path):
    """The release made again knows nothing of one user, answers all others as before, and is the only one left."""
    run, _, _ = finished
    out, data = tmp_path / "run", tmp_path / "world"
    shutil.copytree(run.folder, out)
    shutil.copytree(source, data)
    promote(out / "releases", 1)
    users = run.dataset().users["user_id"]
    user, other = str(users.iloc[7]), str(users.iloc[8])
    request = {
        "user_id": np.array([user, other, "nobody"], object), "recent_item_ids": strings([""], [""], [""]),
        "exclude_item_ids": strings([""], [""], [""]), "k": np.array(9, np.int32), "profile": strings([""], [""], [""]),
    }  # fmt: skip
    before = run_capi(out / "releases/1/retrieval/1", [request])[0]
    assert before["item_ids"][0].tolist() != before["item_ids"][2].tolist()
    done = forget_user(user, out, data=data, config=run.config)
    assert done.release == 2 and done.searched.anywhere and done.rows > 1
    assert [path.name for path in (out / "releases").iterdir() if path.name.isdigit()] == ["2"]
    assert str(read_labels(out / "releases")) == "stable 2"
    request["user_id"] = np.array([user, other, f"{TOMBSTONE}7"], object)
    after = run_capi(verify_release(out / "releases" / "2").folder / "retrieval/2", [request])[0]
    for place, line in ((0, 2), (1, 1), (2, 2)):
        assert after["item_ids"][place].tolist() == before["item_ids"][line].tolist()
        np.testing.assert_allclose(after["scores"][place], before["scores"][line], atol=1e-6)
    assert user not in (out / "report.html").read_text()
    assert json.loads((out / "report.json").read_text())["fingerprint"] == verify_release(out / "releases" / "2").fingerprint
    again = forget_user(user, out, data=data, config=run.config)
    assert (again.rows, again.release) == (0, None)
