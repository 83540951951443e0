"""The trained peers on a world whose answer is known: whoever learns, finds that even users take even items."""

import numpy as np
import pytest

from data.dataset import Dataset
from data.features import FeatureStore, FeatureWriter
from pipeline.metrics.metrics import mean_over_users
from pipeline.peers.contest import judge, warm_contest
from pipeline.peers.towers import TOWERS
from tests.pipeline.checkerboard import checkerboard

QUICK = {
    "two_tower": {"epochs": 8, "patience": 8, "batch_size": 64, "learning_rate": 0.02, "width": 16},
    "ids_two_tower": {"epochs": 12, "patience": 12, "batch_size": 64, "learning_rate": 0.02, "width": 16},
    "sasrec": {"epochs": 15, "patience": 15, "batch_size": 64, "learning_rate": 0.01, "width": 16, "length": 8, "layers": 1},
    "content_two_tower": {"epochs": 8, "patience": 8, "batch_size": 64, "learning_rate": 0.02, "width": 16},
    "tfrs_two_tower": {"epochs": 60, "batch_size": 64, "learning_rate": 0.3, "width": 16},
}


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return checkerboard(40, 60)


@pytest.fixture(scope="module")
def store(dataset, tmp_path_factory) -> FeatureStore:
    """Content that shows whether an item is even."""
    rows = np.arange(dataset.schema.item_rows)
    vectors = np.stack([rows % 2, 1 - rows % 2], axis=1) + np.random.default_rng(7).normal(0, 0.1, (len(rows), 2))
    writer = FeatureWriter(tmp_path_factory.mktemp("store"), dataset.schema.item_rows)
    writer.add("image", 2)
    writer.put("image", rows[1:], vectors[1:])
    return writer.close()


@pytest.mark.parametrize("peer", TOWERS, ids=[peer.name for peer in TOWERS])
def test_a_trained_peer_beats_chance_by_far_and_a_seed_repeats_it(peer, dataset, store):
    contest = warm_contest(dataset, store, ("train",), 7)
    (problem, _), (_, question) = contest.choosing, contest.testing
    scores = peer.fit(problem, QUICK[peer.name], 7)(question)
    # 46 items are unseen and 16 of them of the user's kind: chance finds 10/46 of the targets in ten places.
    assert mean_over_users(judge(scores, question)["recall@10"]) > 0.4
    if peer.name in ("ids_two_tower", "content_two_tower"):
        return  # it is the first's training, of fewer columns
    again = peer.fit(problem, QUICK[peer.name], 7)(question)
    np.testing.assert_allclose(again(slice(0, 5)), scores(slice(0, 5)), atol=1e-4)


def test_without_an_item_id_equal_content_means_equal_scores(dataset, store, tmp_path):
    """The content-only towers know nothing of an item but its vectors."""
    same = FeatureWriter(tmp_path, dataset.schema.item_rows)
    same.add("image", 2)
    rows = np.arange(1, dataset.schema.item_rows)
    same.put("image", rows, np.stack([rows % 2, 1 - rows % 2], axis=1) + 0.5)
    contest = warm_contest(dataset, same.close(), ("train",), 7)
    peer = next(peer for peer in TOWERS if peer.name == "content_two_tower")
    scores = peer.fit(contest.choosing[0], QUICK[peer.name], 7)(contest.testing[1])(slice(0, 10))
    assert np.ptp(scores[:, 1::2], axis=1).max() < 1e-5
    assert np.ptp(scores[:, 2::2], axis=1).max() < 1e-5
    assert np.abs(scores[:, 1] - scores[:, 2]).max() > 0.1
