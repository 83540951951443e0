"""The client's calls, errors and deadlines, and the two-stage recommendation."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest

from serving.client.recommender import ModelClient, Recommender
from serving.local import LocalServer
from serving.releases.models_config import ModelEntry, write_models_config
from serving.status import ServingError
from tests.serving.models import write_recommender

COUNT = 30


@pytest.fixture(scope="module")
def recommender(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recommender]:
    """A client of a two-stage server whose retrieval likes low item numbers and whose ranking likes high ones."""
    store = tmp_path_factory.mktemp("release")
    write_recommender(store, 7, COUNT)
    entries = [ModelEntry(name, versions=(7,), labels={"stable": 7}) for name in ("retrieval", "ranking")]
    with LocalServer(write_models_config(store / "models.config", entries)) as server:
        yield Recommender(server.target, label="stable", deadline=30)


def test_retrieves_then_ranks(recommender: Recommender):
    found = recommender.recommend("u1", k=3, candidates=10, timestamp=64)
    # Retrieval keeps i1..i10, ranking turns them round.
    assert [item.item_id for item in found.items] == ["i10", "i9", "i8"]
    for item, row in zip(found.items, (10, 9, 8), strict=True):
        assert item.retrieval_rank == row
        assert item.retrieval_score == pytest.approx(1 / row)
        assert item.click == pytest.approx(1 / row)  # the retrieval scores reached the ranker beside their items
        assert item.score == pytest.approx(row / COUNT)
        assert item.purchase == 64
    assert found.user_id == "u1"
    assert found.versions == {"retrieval": 7, "ranking": 7}
    assert 0 < found.seconds["retrieval"] < 30
    assert 0 < found.seconds["ranking"] < 30


def test_history_and_exclusions_are_sent(recommender: Recommender):
    found = recommender.recommend(
        "u1", recent_item_ids=["i3", "i4"], exclude_item_ids=["i10", "i9", "nothing"], k=2, candidates=10
    )
    assert [item.item_id for item in found.items] == ["i12", "i11"]
    assert found.items[0].retrieval_score == pytest.approx(2 + 1 / 12)


def test_padding_is_dropped(recommender: Recommender):
    everything = recommender.recommend("u1", k=50, candidates=50)
    assert len(everything.items) == COUNT
    assert len({item.item_id for item in everything.items}) == COUNT
    none = recommender.recommend("u1", exclude_item_ids=[f"i{row}" for row in range(1, COUNT + 1)], k=5, candidates=10)
    assert none.items == []
    assert none.versions == {"retrieval": 7}


def test_request_time_is_now_unless_given(recommender: Recommender):
    # float32 carries UTC seconds to within 128.
    assert abs(recommender.recommend("u1", k=1).items[0].purchase - time.time()) < 256


def test_refuses_impossible_lengths(recommender: Recommender):
    for k, candidates in ((0, 10), (11, 10)):
        with pytest.raises(ValueError, match=f"got k={k}, candidates={candidates}"):
            recommender.recommend("u1", k=k, candidates=candidates)


def test_unknown_models_and_both_version_and_label(recommender: Recommender):
    with pytest.raises(ServingError, match="Unrecognized servable version label: stable"):
        recommender.recommend("u1", retrieval_model="absent")
    with pytest.raises(ValueError, match="version and label: give one of them"):
        recommender.client.predict("retrieval", {}, version=1, label="stable")


def test_a_mixed_pair_is_refused(tmp_path: Path):
    """Retrieval of release 8 beside ranking of release 7: whichever way they got there, nothing is answered."""
    write_recommender(tmp_path, 7, COUNT)
    write_recommender(tmp_path, 8, COUNT)
    entries = [ModelEntry("retrieval", versions=(7, 8), labels={"stable": 8}), ModelEntry("ranking", versions=(7,))]
    with LocalServer(write_models_config(tmp_path / "models.config", entries)) as server:
        with pytest.raises(ServingError, match="answered from release 8, of which ranking is not served") as caught:
            Recommender(server.target, label="stable", deadline=30).recommend("u1")
        assert caught.value.code == grpc.StatusCode.ABORTED
        # A label that has moved for one model and not yet for the other makes no mixed pair.
        moving = [ModelEntry("retrieval", versions=(7, 8), labels={"stable": 8}),
                  ModelEntry("ranking", versions=(7, 8), labels={"stable": 7})]  # fmt: skip
        server.manager.reload(write_models_config(tmp_path / "models.config", moving))
        found = Recommender(server.target, label="stable", deadline=30).recommend("u1")
        assert found.versions == {"retrieval": 8, "ranking": 8}


def test_deadline(client: ModelClient):
    inputs = {"x": np.ones(1, np.float32), "n": np.array(20_000, np.int32)}
    started = time.monotonic()
    with pytest.raises(ServingError) as caught:
        client.predict("half_plus_two", inputs, signature_name="spin", deadline=0.05)
    assert caught.value.code == grpc.StatusCode.DEADLINE_EXCEEDED
    assert time.monotonic() - started < 5


def test_no_server(tmp_path: Path):
    with ModelClient(f"unix:{tmp_path / 'nobody'}", deadline=1) as client, pytest.raises(ServingError) as caught:
        client.predict("m", {})
    assert caught.value.code == grpc.StatusCode.UNAVAILABLE
