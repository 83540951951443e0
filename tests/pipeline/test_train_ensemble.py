"""An ensemble through training, and on into the next night's ranker: every member goes on from its own weights."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from pipeline.job_ranker import LEARNED, WarmRanker, members
from pipeline.stage import StageError
from ranking.ensemble import members_of
from ranking.model import Ranker
from ranking.serving_form import RankingServingForm
from tests.pipeline.test_train_ranking import CONFIG, EMBEDDINGS, log_of, store, trained  # noqa: F401

PAIR = dataclasses.replace(CONFIG, members=2, epochs=1, catch_up_epochs=1)


@pytest.fixture(scope="module")
def run(store, tmp_path_factory):  # noqa: F811
    folder = tmp_path_factory.mktemp("ensemble")
    return folder, *trained(log_of(), store, folder, PAIR)


def test_the_mean_of_trained_members_is_calibrated_and_served(run):
    folder, report, form = run
    assert report["epochs"] == 1 and set(report["valid_ece"]) == set(report["heads"])
    with np.load(folder / "out" / LEARNED) as learned:
        assert members(learned.files) == {"member_0", "member_1"}
        assert len({name for name in learned.files if name.endswith("features/user_id")}) == 2
    kernels = [np.asarray(member.heads.kernels["click"]) for member in members_of(form.network)]
    assert np.abs(kernels[0] - kernels[1]).max() > 1e-4


def test_every_member_goes_on_from_its_own_weights(run):
    folder, _, form = run
    warm, ranker = WarmRanker(folder / "out", EMBEDDINGS, EMBEDDINGS), Ranker(form.spec, PAIR)
    warm.start(ranker)
    again = RankingServingForm.from_ranker(ranker)
    kept = [weight for weight in form.network.weights if "side" not in weight.path]
    begun = [weight for weight in again.network.weights if "side" not in weight.path]
    for mine, theirs in zip(begun, kept, strict=True):
        np.testing.assert_array_equal(np.asarray(mine), np.asarray(theirs), err_msg=mine.path)
    for count in (1, 3):
        with pytest.raises(StageError, match=f"ranking.members was 2 in the last release and is {count}"):
            warm.start(Ranker(form.spec, dataclasses.replace(PAIR, members=count)))
