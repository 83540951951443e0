"""One call where the server has `recommend`, two where it has not, and nobody has to know."""

from __future__ import annotations

import grpc
import numpy as np
import pytest

from serving.client.added_items import AddedItems
from serving.client.one_call import ASK_AGAIN_SECONDS, OneCall
from serving.client.page_request import PageRequest
from serving.client.recommender import Recommender
from serving.status import ServingError

NOT_FOUND = ServingError(grpc.StatusCode.NOT_FOUND, "Servable not found for request: Latest(recommend)")


def ids(*names: str) -> np.ndarray:
    array = np.empty((1, len(names)), object)
    array[0, :] = [name.encode() for name in names]
    return array


class Server:
    """A model server in a few lines: retrieval finds a, b and c, ranking turns them round, `recommend` shows b and a."""

    def __init__(self, error: ServingError | None = None):
        self.error, self.calls = error, []

    def predict_version(self, model, inputs, **options):
        self.calls.append((model, inputs, options))
        one = np.ones((1, 3), np.float32)
        if model == "recommend":
            if self.error is not None:
                raise self.error
            figures = {name: np.array([[0.5, 0.25, 0.0]], np.float32) for name in ("scores", "click", "purchase", "like")}
            ranks = np.array([[2, 1, 0]], np.int32)
            answer = {"item_ids": ids("b", "a", ""), "propensities": 0.9 * one, "retrieval_scores": one, **figures}
            return {**answer, "retrieval_ranks": ranks, "query": np.ones((1, 2), np.float32)}, 4
        if model == "retrieval":
            return {"item_ids": ids("a", "b", "c"), "scores": one, "query": np.ones((1, 2), np.float32)}, 4
        order = np.arange(inputs["candidate_ids"].shape[1], dtype=np.float32)[None]
        return {"click": order, "purchase": order, "score": order}, 4


def recommender(server: Server) -> Recommender:
    made = Recommender("unix:/nowhere", label="stable")
    for part in (made._one_call, made._two_calls):
        part.__dict__.update({name: server for name in ("client", "_client") if name in part.__dict__})
    return made


def test_one_call_has_the_page_as_it_is():
    server = Server()
    found = recommender(server).recommend(
        "u", recent_item_ids=["x"], exclude_item_ids=["y"], k=3, candidates=50, timestamp=9, seed=5,
        allow_item_ids=["a", "b"], policy={"dpp": 0.5}, context={"device": "phone"},
    )  # fmt: skip
    ((model, inputs, options),) = server.calls
    assert model == "recommend" and options["label"] == "stable"
    told = {name: value.tolist() for name, value in inputs.items()}
    assert told == {
        "user_id": ["u"], "recent_item_ids": [["x"]], "context": [["device=phone"]], "k": 3, "candidates": 50,
        "exclude_item_ids": [["y"]], "allow_item_ids": [["a", "b"]], "policy_names": ["dpp"], "policy_values": [0.5],
        "timestamp": [9], "seed": [5],
    }  # fmt: skip
    assert [item.item_id for item in found.items] == ["b", "a"]
    first = found.items[0]
    assert (first.retrieval_rank, first.click, first.heads["like"]) == (2, 0.5, 0.5)
    assert first.propensity == pytest.approx(0.9)
    assert found.versions == {"recommend": 4, "retrieval": 4, "ranking": 4} and set(found.seconds) == {"recommend"}


def test_seeds_are_drawn_anew():
    server = Server()
    for _ in range(3):
        recommender(server).recommend("u")
    assert len({int(inputs["seed"][0]) for _, inputs, _ in server.calls}) == 3


@pytest.mark.parametrize(
    "error", [NOT_FOUND, ServingError(grpc.StatusCode.INVALID_ARGUMENT, "Unrecognized servable version label: stable")]
)
def test_two_calls_where_the_release_has_no_such_model(error):
    server = Server(error)
    asked = recommender(server)
    for _ in range(2):
        found = asked.recommend("u", k=2)
        assert [item.item_id for item in found.items] == ["c", "b"] and found.items[0].propensity == 1
        assert found.versions == {"retrieval": 4, "ranking": 4}
    # The absence is remembered: one question, then two calls each.
    assert [model for model, _, _ in server.calls] == ["recommend", *(["retrieval", "ranking"] * 2)]
    assert asked.recommend("u", k=2, context={"device": "tv"}).items == found.items
    assert server.calls[-1][1]["context"].tolist() == [["device=tv"]] and "context" not in server.calls[2][1]
    for needs in ({"allow_item_ids": ["a"]}, {"policy": {"dpp": 0.1}}):
        with pytest.raises(ServingError, match="need a release with the model `recommend`") as caught:
            asked.recommend("u", **needs)
        assert caught.value.code == grpc.StatusCode.FAILED_PRECONDITION


def test_a_server_is_asked_again_after_a_while():
    server, now = Server(NOT_FOUND), [0.0]
    one = OneCall(server, clock=lambda: now[0])
    request = PageRequest("u", k=1, candidates=5, timestamp=0)
    assert one.recommend(request) is None and one.recommend(request) is None
    assert len(server.calls) == 1
    server.error, now[0] = None, ASK_AGAIN_SECONDS + 1
    assert one.recommend(request).versions == {"recommend": 4, "retrieval": 4, "ranking": 4}
    assert OneCall(server, model="").recommend(request) is None


def test_other_failures_are_failures():
    server = Server(ServingError(grpc.StatusCode.UNAVAILABLE, "gone"))
    with pytest.raises(ServingError, match="gone"):
        recommender(server).recommend("u")
    assert len(server.calls) == 1


def test_added_items_that_reach_the_page_take_two_calls_more_and_hidden_ones_none():
    server = Server()
    added = AddedItems(4, ("new",), np.ones((1, 2), np.float32))
    found = recommender(server).recommend("u", added=added, k=4)
    assert "new" in [item.item_id for item in found.items]
    assert [call[0] for call in server.calls] == ["recommend", "retrieval", "ranking"]
    for other in (AddedItems(4, ("far",), -np.ones((1, 2), np.float32)), AddedItems(4, hidden=frozenset({"gone"}))):
        del server.calls[:]
        recommender(server).recommend("u", added=other, exclude_item_ids=["y"])
        ((model, inputs, _),) = server.calls
        assert model == "recommend" and inputs["exclude_item_ids"].tolist() == [["y", *other.hidden]]
