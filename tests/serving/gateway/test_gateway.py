"""The gateway in front of a stand-in recommender, and in front of no model server at all."""

from __future__ import annotations

import json
import math
import socket
import time
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pandas as pd
import pytest
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serving.catalogue.catalogue import Catalogue
from serving.gateway.app import GatewaySettings, create_app
from serving.request_fields import MAX_EXCLUDED
from serving.status import ServingError
from tests.serving.fake_recommender import FakeRecommender
from tests.serving.gateway_folders import CLIP, ITEMS, write_folders


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_folders(tmp_path_factory.mktemp("gateway"))


@pytest.fixture
def fake() -> FakeRecommender:
    return FakeRecommender()


@pytest.fixture
def client(folders: tuple[Path, Path], fake: FakeRecommender) -> TestClient:
    run, source = folders
    settings = GatewaySettings(run=run, source=source, cache_seconds=0)  # every request reaches the stand-in
    return TestClient(create_app(settings, fake), raise_server_exceptions=False)


def test_recommend_answers_ranked_items_with_metadata(client: TestClient) -> None:
    reply = client.post("/v1/recommend", json={"user_id": "ann", "k": 3}).json()
    assert reply["known_user"] and not reply["fallback"] and reply["fallback_reason"] is None
    assert [entry["item"]["item_id"] for entry in reply["items"]] == ["i12", "i11", "i10"]
    first = reply["items"][0]
    assert (first["rank"], first["click"], first["purchase"], first["retrieval_rank"]) == (1, 0.2, 0.1, 9)
    assert first["item"]["title"] == "Title 12" and first["item"]["categories"] == "folk, live"
    assert {"retrieval", "ranking", "total"} == set(reply["seconds"])
    assert reply["versions"] == {"retrieval": 2, "ranking": 2}


def test_get_and_post_are_the_same_request(client: TestClient, fake: FakeRecommender) -> None:
    body: dict[str, Any] = {
        "user_id": "x",
        "recent_item_ids": ["i1", "i2"],
        "exclude_item_ids": ["i9"],
        "k": 2,
        "candidates": 5,
        "timestamp": 7,
    }
    by_post = client.post("/v1/recommend", json=body).json()
    by_get = client.get("/v1/recommend", params=body).json()
    by_post.pop("seconds"), by_get.pop("seconds")
    assert by_post == by_get
    assert fake.calls[0] == fake.calls[1]
    assert fake.calls[0]["recent_item_ids"] == ["i1", "i2"]
    assert (fake.calls[0]["k"], fake.calls[0]["candidates"], fake.calls[0]["timestamp"]) == (2, 5, 7)


def test_seen_items_are_left_out_unless_asked_for(client: TestClient, fake: FakeRecommender) -> None:
    client.post("/v1/recommend", json={"user_id": "ann", "exclude_item_ids": ["i9", "i3"]})
    assert fake.calls[-1]["exclude_item_ids"] == ["i9", "i3", "i2", "i1"]  # the request's own first, then the newest
    client.post("/v1/recommend", json={"user_id": "ann", "exclude_item_ids": ["i9"], "exclude_seen": False})
    assert fake.calls[-1]["exclude_item_ids"] == ["i9"]
    fields = client.get("/openapi.json").json()["components"]["schemas"]["RecommendRequest"]["properties"]
    told = fields["exclude_seen"]["description"]  # the models hide seen items themselves, which no request can change
    assert "never answers what a user had seen" in told and "ask without user_id" in told
    fake.error = ServingError(grpc.StatusCode.UNAVAILABLE, "gone")
    for seen, first in ((True, "i4"), (False, "i1")):  # of popular items it is the gateway that hides them
        reply = client.post("/v1/recommend", json={"user_id": "ann", "exclude_seen": seen}).json()
        assert reply["items"][0]["item"]["item_id"] == first
    fake.error = None
    many = [f"other{number}" for number in range(MAX_EXCLUDED)]
    client.post("/v1/recommend", json={"user_id": "ann", "exclude_item_ids": many})
    assert fake.calls[-1]["exclude_item_ids"] == many  # bounded, and what was asked for stays


def test_a_domain_is_a_list_of_its_items(client: TestClient, fake: FakeRecommender) -> None:
    everything = [f"i{row}" for row in range(1, ITEMS + 1)]
    assert client.get("/v1/domains").json() == {"domains": [{"domain": "music", "items": ITEMS}]}
    for body, allowed in (
        ({"domain": "music"}, everything),
        ({"domain": "music", "allow_item_ids": ["i3", "zz", "i2"]}, ["i2", "i3"]),
        ({"allow_item_ids": ["i3"]}, ["i3"]),
        ({}, []),
    ):
        client.post("/v1/recommend", json=body)
        assert fake.calls[-1]["allow_item_ids"] == allowed
    client.post("/v1/recommend", json={"domain": "furniture"})
    (nothing,) = fake.calls[-1]["allow_item_ids"]  # an empty list would allow everything
    assert nothing not in everything and nothing != ""
    fake.error = ServingError(grpc.StatusCode.UNAVAILABLE, "away")
    for domain, count in (("music", 3), ("furniture", 0)):
        reply = client.post("/v1/recommend", json={"domain": domain, "k": 3}).json()
        assert reply["fallback"] and len(reply["items"]) == count


@pytest.mark.parametrize("user_id", ["", "never-seen", "日本", "a/b?c#d%00", "ann "])
def test_an_unknown_user_gets_cold_start_items(client: TestClient, user_id: str) -> None:
    reply = client.post("/v1/recommend", json={"user_id": user_id})
    assert reply.status_code == 200
    assert reply.json()["known_user"] is (user_id.strip() == "ann")
    assert len(reply.json()["items"]) > 0


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"user_id": "ann", "k": 0}, ["k:", "greater than or equal to 1", "received 0"]),
        ({"user_id": "ann", "k": 101}, ["k:", "less than or equal to 100", "received 101"]),
        ({"user_id": "ann", "k": 20, "candidates": 10}, ["k: must be at most candidates", "k=20"]),
        ({"user_id": "ann", "candidates": 10**9}, ["candidates:", "less than or equal to 1000"]),
        ({"user_id": "a" * 257}, ["user_id:", "at most 256"]),
        ({"user_id": 5}, ["user_id:", "valid string", "received 5"]),
        ({"recent_item_ids": ["i1"] * 201}, ["recent_item_ids:", "at most 200"]),
        ({"exclude_item_ids": ["i1", ""]}, ["exclude_item_ids.1:", "at least 1"]),
        ({"timestamp": -1}, ["timestamp:", "greater than or equal to 0"]),
        ({"usr_id": "ann"}, ["'usr_id': is no field of this request"]),
        ([], ["body:", "valid dictionary"]),
    ],
)
def test_a_broken_rule_is_named_with_the_value(client: TestClient, body: Any, words: list[str]) -> None:
    reply = client.post("/v1/recommend", json=body)
    assert reply.status_code == 422
    for word in words:
        assert word in reply.json()["error"]
    assert reply.json()["details"][0] == reply.json()["error"]


def test_bad_bodies_and_queries_are_refused_without_a_trace(client: TestClient) -> None:
    for content in (b"{", b"\xff\xfe", b'{"user_id": "\\ud800"}', b'{"k": NaN}', b"[" * 5000):
        reply = client.post("/v1/recommend", content=content, headers={"content-type": "application/json"})
        assert reply.status_code in (400, 422), content[:20]
        assert set(reply.json()) == {"error", "details"} and "Traceback" not in reply.text
    assert client.get("/v1/recommend?k=ten").json()["error"].startswith("k: input should be a valid integer")
    assert client.get("/v1/users?count=51").status_code == 422
    assert client.get("/v1/history/ann?limit=0").status_code == 422
    assert client.delete("/v1/recommend").status_code == 405


def test_large_bodies_are_refused_with_and_without_a_length(folders: tuple[Path, Path], fake: FakeRecommender) -> None:
    run, source = folders
    app = create_app(GatewaySettings(run=run, source=source, max_body_bytes=1024), fake)
    client = TestClient(app, raise_server_exceptions=False)
    body = b'{"user_id": "' + b"a" * 2000 + b'"}'
    headers = {"content-type": "application/json"}
    assert client.post("/v1/recommend", content=body, headers=headers).status_code == 413
    chunked = client.post("/v1/recommend", content=iter([body[:1000], body[1000:]]), headers=headers)
    assert chunked.status_code == 413 and "1024 bytes" in chunked.json()["error"]
    assert not fake.calls


@given(
    body=st.dictionaries(
        st.sampled_from(["user_id", "k", "candidates", "recent_item_ids", "timestamp", "exclude_seen", "other"]),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
            lambda s: st.lists(s, max_size=3),
        ),
    )
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_body_makes_the_gateway_fail(client: TestClient, body: dict[str, Any]) -> None:
    reply = client.post("/v1/recommend", content=json.dumps(body), headers={"content-type": "application/json"})
    assert reply.status_code in (200, 422)


def test_scores_that_are_no_number_become_null(client: TestClient, fake: FakeRecommender) -> None:
    fake.score = math.nan
    assert client.get("/v1/recommend?user_id=ann").json()["items"][0]["score"] is None


@pytest.mark.parametrize(
    "code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.NOT_FOUND]
)
def test_when_the_model_fails_popular_items_are_marked(
    client: TestClient, fake: FakeRecommender, code: grpc.StatusCode
) -> None:
    fake.error = ServingError(code, "no")
    reply = client.post("/v1/recommend", json={"user_id": "bob", "k": 4, "exclude_item_ids": ["i2"]}).json()
    assert reply["fallback"] is True and reply["fallback_reason"] == code.name and reply["known_user"] is True
    # Popularity falls with the row; i2 is excluded and bob already has i4.
    assert [entry["item"]["item_id"] for entry in reply["items"]] == ["i1", "i3", "i5", "i6"]
    assert [entry["rank"] for entry in reply["items"]] == [1, 2, 3, 4]
    assert all(entry["click"] is None and entry["retrieval_rank"] is None for entry in reply["items"])
    metrics = client.get("/metrics").text
    assert f'triptych_gateway_fallbacks_total{{reason="{code.name}",stage="recommend"}} 1.0' in metrics
    assert "triptych_gateway_models_available 0.0" in metrics


def test_a_gateway_that_nobody_asks_knows_whether_its_models_answer(folders: tuple[Path, Path], fake: FakeRecommender) -> None:
    app = create_app(GatewaySettings(run=folders[0], poll_seconds=0.02), fake)
    with TestClient(app) as client:
        for error, told in ((None, "1.0"), (ServingError(grpc.StatusCode.UNAVAILABLE, "gone"), "0.0"), (None, "1.0")):
            fake.error = error
            deadline = time.monotonic() + 5
            while f"triptych_gateway_models_available {told}" not in client.get("/metrics").text:
                assert time.monotonic() < deadline, told
                time.sleep(0.02)


def test_kept_answers_count_and_stand_ins_are_told_by_stage(folders: tuple[Path, Path], fake: FakeRecommender) -> None:
    client = TestClient(create_app(GatewaySettings(run=folders[0]), fake))
    for cached in (False, False, True):  # the first answer tells the release, and drops what was kept before it
        assert client.get("/v1/recommend").json()["cached"] is cached
    fake.error = ServingError(grpc.StatusCode.UNAVAILABLE, "gone")
    for address in ("/v1/recommend?user_id=bob", "/v1/search?query=1", "/v1/search?query=2", "/v1/similar?item_id=i3"):
        assert client.get(address).json()["fallback"]
    metrics = client.get("/metrics").text
    for result, count in (("miss", 3), ("hit", 1)):
        assert f'triptych_gateway_cache_total{{result="{result}"}} {count}.0' in metrics
    for stage, count in (("recommend", 1), ("search", 2), ("similar", 1)):
        assert f'triptych_gateway_fallbacks_total{{reason="UNAVAILABLE",stage="{stage}"}} {count}.0' in metrics


def test_a_dead_model_server_is_noticed_over_the_wire(folders: tuple[Path, Path]) -> None:
    pytest.importorskip("tensorflow_serving")
    with socket.socket() as probe:  # a port that was free a moment ago and that nobody listens on
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    run, source = folders
    app = create_app(GatewaySettings(run=run, source=source, target=f"127.0.0.1:{port}", deadline_seconds=1.0))
    client = TestClient(app)
    started = time.perf_counter()
    reply = client.get("/v1/recommend", params={"user_id": "nobody", "k": 5}).json()
    assert time.perf_counter() - started < 2.5
    assert reply["fallback"] is True and reply["known_user"] is False
    assert [entry["item"]["item_id"] for entry in reply["items"]] == ["i1", "i2", "i3", "i4", "i5"]
    health = client.get("/healthz")
    assert health.status_code == 200
    assert health.json()["status"] == "degraded" and health.json()["error"] in ("UNAVAILABLE", "DEADLINE_EXCEEDED")


def test_health_shows_each_model(client: TestClient) -> None:
    health = client.get("/healthz").json()
    assert health["status"] == "ok" and health["models"]["ranking"] == {"1": "END", "2": "AVAILABLE"}
    assert (health["items"], health["users"]) == (ITEMS, 2)


def test_items_users_and_history(client: TestClient) -> None:
    item = client.get("/v1/items/i1").json()
    assert (item["price"], item["created"], item["image"]) == (9.99, "2023-10-05", "/media/covers/a%20b.png")
    assert client.get("/v1/items/i5").json()["price"] is None
    missing = client.get("/v1/items/nope")
    assert missing.status_code == 404 and "'nope'" in missing.json()["error"]
    assert client.get("/v1/items/").status_code == 404
    assert client.get("/v1/users").json()["users"] == [
        {"user_id": "ann", "events": 3, "profile": {"tier": "plus"}},
        {"user_id": "bob", "events": 1, "profile": {}},
    ]
    history = client.get("/v1/history/ann?limit=2").json()
    assert [(event["item"]["item_id"], event["event"], event["positive"]) for event in history["events"]] == [
        ("i3", "skip", False),
        ("i2", "purchase", True),
    ]
    assert client.get("/v1/history/nobody").json() == {"user_id": "nobody", "known_user": False, "events": []}


def test_media_is_handed_out_with_its_type_and_in_ranges(client: TestClient) -> None:
    cover = client.get("/media/covers/a%20b.png")
    assert cover.status_code == 200 and cover.content == b"\x89PNG cover"
    assert cover.headers["content-type"] == "image/png" and cover.headers["x-content-type-options"] == "nosniff"
    part = client.get("/media/clips/1.wav", headers={"Range": "bytes=10-19"})  # what a player that seeks asks for
    assert part.status_code == 206 and part.content == CLIP[10:20]
    assert client.head("/media/clips/1.wav").headers["content-length"] == str(len(CLIP))


@pytest.mark.parametrize(
    "path",
    [
        "../secret.wav",
        "%2e%2e/secret.wav",
        "..%2fsecret.wav",
        "clips/..%2f..%2fsecret.wav",
        "clips%5c..%5c1.wav",
        "/etc/passwd",
        "%2fetc%2fpasswd",
        "covers/unlisted.png",  # in the folder, in no catalogue line
        "covers/page.html",  # in the catalogue, of a type that a browser would run
        "covers/link.png",  # in the catalogue, a link out of the folder
        "clips/1.wav%00.png",
        "clips/",
        "",
        "clips/" + "a" * 3000 + ".wav",
    ],
)
def test_media_outside_the_catalogue_is_refused(client: TestClient, path: str) -> None:
    # A client tidies "../" away before it sends it, so the path is also given to the application untouched.
    for reply in (client.get(f"/media/{path}"), _raw_get(client, f"/media/{path}")):
        assert reply.status_code == 404
        assert b"secret" not in reply.content and b"<script>" not in reply.content


def _raw_get(client: TestClient, target: str) -> Any:
    class Untouched:
        """An application that puts the raw target back before the gateway sees it."""

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            from urllib.parse import unquote

            if scope["type"] == "http":
                scope = {**scope, "path": unquote(target), "raw_path": target.encode()}
            await client.app(scope, receive, send)

    return TestClient(Untouched(), raise_server_exceptions=False).get("/")


def test_without_a_source_no_media_and_no_failure(folders: tuple[Path, Path], fake: FakeRecommender) -> None:
    client = TestClient(create_app(GatewaySettings(run=folders[0]), fake))
    assert client.get("/media/clips/1.wav").status_code == 404
    assert client.get("/v1/items/i1").status_code == 200


def test_the_log_clock_asks_for_the_time_of_the_logs_end(folders: tuple[Path, Path], fake: FakeRecommender) -> None:
    client = TestClient(create_app(GatewaySettings(run=folders[0], clock="log"), fake))
    client.get("/v1/recommend")
    client.get("/v1/recommend?timestamp=5")
    assert [call["timestamp"] for call in fake.calls] == [300, 5]


@pytest.mark.parametrize("clock", ["now", "log"])
def test_models_of_a_log_without_times_are_told_none(tmp_path: Path, fake: FakeRecommender, clock: str) -> None:
    run, _ = write_folders(tmp_path)
    file = run / "ingest" / "events.parquet"
    pd.read_parquet(file).assign(timestamp=0).to_parquet(file)
    client = TestClient(create_app(GatewaySettings(run=run, clock=clock), fake))
    client.get("/v1/recommend")
    client.get("/v1/recommend?timestamp=5")
    assert [call["timestamp"] for call in fake.calls] == [0, 5]


def test_a_folder_that_is_no_run_is_refused_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"ingest: must be an ingested folder with items\.parquet.*run the ingest"
    ):
        create_app(GatewaySettings(run=tmp_path), FakeRecommender())


@pytest.mark.parametrize("address", ["/", "/engineers"])
def test_a_page_asks_nothing_of_other_hosts(client: TestClient, address: str) -> None:
    page = client.get(address)
    assert page.status_code == 200 and page.headers["content-type"].startswith("text/html")
    assert "http://" not in page.text and "https://" not in page.text and "innerHTML" not in page.text
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "'unsafe-inline'" not in policy and "script-src 'sha256-" in policy
    assert "default-src 'none'" in client.get("/healthz").headers["content-security-policy"]
    assert client.get("/docs").status_code == 404
    assert "/v1/recommend" in client.get("/openapi.json").json()["paths"]


def test_metrics_count_by_route_template_and_stage(client: TestClient) -> None:
    client.get("/v1/items/i1")
    client.get("/v1/items/i2")
    client.get("/no/such/place")
    client.get("/v1/recommend")
    text = client.get("/metrics").text
    assert 'requests_total{method="GET",route="/v1/items/{item_id:path}",status="200"} 2.0' in text
    assert 'requests_total{method="GET",route="other",status="404"} 1.0' in text
    for stage in ("retrieval", "ranking", "catalogue", "total"):
        assert f'stage_seconds_count{{stage="{stage}"}} 1.0' in text
    assert "triptych_gateway_unknown_users_total 1.0" in text


def test_lists_policies_and_context_reach_the_models(client: TestClient, fake: FakeRecommender) -> None:
    body = {"user_id": "ann", "allow_item_ids": ["i3", "i7"], "policy": ["mmr_lambda=0.7"], "context": ["device=tv"]}
    reply = client.post("/v1/recommend", json=body).json()
    told = fake.calls[-1]
    assert (told["allow_item_ids"], told["policy"], told["context"]) == (["i3", "i7"], {"mmr_lambda": 0.7}, {"device": "tv"})
    assert reply["items"][0]["propensity"] == 1.0 and reply["items"][0]["heads"] == {}
    assert client.get("/v1/recommend", params=body).json()["items"] == reply["items"]
    for field, value, words in (
        ("policy", "mmr=1", "weights are freshness"),
        ("policy", "epsilon=2", "epsilon: must lie between 0 and 1"),
        ("policy", "dpp=much", "dpp: must be a number"),
        ("policy", "dpp=nan", "must be a finite number"),
        ("context", "phone", "must be 'name=value'"),
    ):
        refused = client.post("/v1/recommend", json={field: [value]})
        assert refused.status_code == 422 and words in refused.json()["error"], refused.json()


def test_a_visitor_may_say_who_they_are(client: TestClient, fake: FakeRecommender) -> None:
    for body, told in (({"profile": ["tier=plus", "age=31"]}, {"tier": "plus", "age": "31"}), ({}, {})):
        assert client.post("/v1/recommend", json={"user_id": "nobody", **body}).status_code == 200
        assert fake.calls[-1]["profile"] == told
        client.get("/v1/explain", params={"user": "nobody", "item": "i3", **body})
        assert fake.calls[-1]["profile"] == told
    refused = client.post("/v1/recommend", json={"profile": ["plus"]})
    assert refused.status_code == 422 and "must be 'name=value'" in refused.json()["error"]
    assert client.get("/v1/profile").json() == {"columns": {}}, "what one user alone says would tell who they are"


def test_profile_words_that_several_users_share_are_offered(tmp_path: Path) -> None:
    run_folder = write_folders(tmp_path)[0] / "ingest"
    users = pd.DataFrame({"user_id": ["", *(f"u{row}" for row in range(1, 20))]})
    codes = np.array([0, *[1] * 5, *[2] * 9, *[3] * 4, 0], np.int32)
    users.assign(profile_tier=codes, profile_town=codes).to_parquet(run_folder / "users.parquet")
    words = {"tier": ["", "plus", "free", "rare"], "town": ["", *(f"town {row}" for row in range(60))]}
    (run_folder / "profile_vocabulary.json").write_text(json.dumps(words))
    catalogue = Catalogue(run_folder, None)
    assert catalogue.profile_choices() == {"tier": ["free", "plus"], "town": ["town 1", "town 0"]}
    assert catalogue.profile_choices(users=1, words=2) == {}


def test_popular_items_keep_to_the_list_too(client: TestClient, fake: FakeRecommender) -> None:
    fake.error = ServingError(grpc.StatusCode.UNAVAILABLE, "gone")
    reply = client.post("/v1/recommend", json={"user_id": "", "allow_item_ids": ["i3", "i9", "unheard"]}).json()
    assert reply["fallback"] and {entry["item"]["item_id"] for entry in reply["items"]} == {"i3", "i9"}
