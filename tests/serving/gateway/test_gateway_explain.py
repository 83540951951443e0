"""`/v1/explain`: reasons in words, refusals that name the rule, and nothing made up while the models are away."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc
import pytest
from fastapi.testclient import TestClient

from serving.client.explanation import Explanation, GroupShare, LikeItem
from serving.gateway.app import GatewaySettings, create_app
from serving.status import ServingError
from tests.serving.gateway_folders import write_folders


class FakeExplainer:
    """Stands in for the client and remembers what it was asked."""

    def __init__(self) -> None:
        self.client = self
        self.calls: list[dict[str, Any]] = []
        self.error: ServingError | None = None

    def status(self, model: str) -> dict[int, str]:
        return {1: "AVAILABLE"}

    def recommend(self, user_id: str, **options: Any) -> Any:
        raise NotImplementedError

    def explain(self, user_id: str, item_ids: list[str], **options: Any) -> list[Explanation]:
        self.calls.append({"user_id": user_id, "item_ids": item_ids, **options})
        if self.error is not None:
            raise self.error
        groups = (GroupShare("audio", 0.03, 0.6), GroupShare("mood", -0.02, -0.4))
        like = (LikeItem("audio", "i2", 0.9), LikeItem("mood", "i3", 0.1))
        return [Explanation(item, 0.2, True, groups, like) for item in item_ids if item != "i9"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_folders(tmp_path_factory.mktemp("gateway"))


@pytest.fixture
def fake() -> FakeExplainer:
    return FakeExplainer()


@pytest.fixture
def gateway(folders: tuple[Path, Path], fake: FakeExplainer) -> TestClient:
    run, source = folders
    app = create_app(GatewaySettings(run=run, source=source, clock="log"), fake)
    return TestClient(app, raise_server_exceptions=False)


def test_the_gateway_puts_reasons_in_words(gateway: TestClient, fake: FakeExplainer):
    reply = gateway.get("/v1/explain?user=ann&item=i5&retrieval_score=0.5&retrieval_rank=3").json()
    assert (reply["user_id"], reply["known_user"], reply["item"]["title"]) == ("ann", True, "Title 5")
    assert [(group["words"], group["share"]) for group in reply["groups"]] == [("its sound", 0.6), ("mood", -0.4)]
    assert [(like["words"], like["item"]["title"]) for like in reply["like"]] == [
        ("Sounds like", "Title 2"), ("Like, by mood,", "Title 3"),
    ]  # fmt: skip
    assert fake.calls[0] | {"retrieval_scores": [0.5], "retrieval_ranks": [3], "timestamp": 300} == fake.calls[0]
    gateway.get("/v1/explain", params={"item": "i5", "recent_item_ids": ["i1", "i2"], "timestamp": 7})
    gateway.get("/v1/explain", params={"item": "i5", "context": ["device=phone", "hour=7"]})
    assert [call["context"] for call in fake.calls] == [{}, {}, {"device": "phone", "hour": "7"}]
    assert fake.calls[1]["retrieval_scores"] is None and fake.calls[1]["retrieval_ranks"] is None
    assert (fake.calls[1]["user_id"], fake.calls[1]["recent_item_ids"], fake.calls[1]["timestamp"]) == (
        "", ["i1", "i2"], 7,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("query", "status", "words"),
    [
        ("item=nope", 404, "item: must be in the catalogue, received 'nope'"),
        ("item=i9", 404, "item: must be in the served release, received 'i9'"),
        ("user=ann", 422, "item: field required"),
        ("item=i1&retrieval_rank=1", 422, "retrieval_score, retrieval_rank: give both or neither"),
        ("item=i1&retrieval_rank=0&retrieval_score=1", 422, "retrieval_rank: input should be greater"),
        ("item=i1&retrieval_rank=1&retrieval_score=nan", 422, "retrieval_score: input should be a finite number"),
        ("item=i1&context=phone", 422, "must be 'name=value'"),
        ("item=i1&itm=i1", 422, "'itm': is no field of this request"),
    ],
)
def test_refusals_name_the_rule(gateway: TestClient, query: str, status: int, words: str):
    reply = gateway.get(f"/v1/explain?{query}")
    assert reply.status_code == status and words in reply.json()["error"]


def test_no_reasons_are_made_up_while_the_models_are_away(gateway: TestClient, fake: FakeExplainer):
    fake.error = ServingError(grpc.StatusCode.UNAVAILABLE, "no")
    reply = gateway.get("/v1/explain?user=ann&item=i5")
    assert reply.status_code == 503 and "UNAVAILABLE" in reply.json()["error"]
