"""The policy of a job that goes on: the settings', with what a full job has measured of diversity."""

import json

import pytest

from pipeline.nightly.run import JobRun
from pipeline.settings.config import load_config
from ranking.policy import Policy

POINTS = [{"weight": 0.9, "cost": 0.01}, {"weight": 0.7, "cost": 0.03}]
MEASURED = {"visits": 500, "mmr": POINTS, "dpp": [], "mmr_lambda": 0.9, "dpp_strength": 0.0}


@pytest.fixture
def night(tmp_path):
    """Makes the policy of a night by some settings after a full job that measured so much; the policy, counts and key."""

    def make(*settings, measured=MEASURED):
        parent, folder = tmp_path / "0001", tmp_path / "0002"
        for stage in (parent / "policy", folder / "ranking"):
            stage.mkdir(parents=True, exist_ok=True)
            (stage / "manifest.json").write_text(json.dumps({"key": str(measured), "counts": {}}))
        then = Policy(mmr_lambda=measured.get("mmr_lambda", 1.0))
        (parent / "policy" / "policy.json").write_text(then.to_json())
        (parent / "policy" / "report.json").write_text(json.dumps({**measured, "policy": then.weights()}))
        run = JobRun(tmp_path, folder, load_config(overrides=list(settings)), lambda line: None, parent=parent)
        manifest = run.choose_policy().manifest
        report = json.loads((folder / "policy" / "report.json").read_text())
        policy = Policy.from_json((folder / "policy" / "policy.json").read_text())
        assert report["policy"] == policy.weights() and report["mmr"] == measured["mmr"]
        return policy, manifest["counts"], manifest["key"]

    return make


def test_weights_are_those_of_the_settings_and_the_measured_diversity_stays(night):
    usual, counts, key = night()
    assert usual == Policy(mmr_lambda=0.9) and counts == {"visits": 500, "mmr_lambda": 0.9, "kept_from": "0001"}
    capped, _, other = night("policy.creator_cap=2", "policy.freshness=0.1")
    assert capped == Policy(mmr_lambda=0.9, creator_cap=2, freshness=0.1) and other != key
    assert night("policy.mmr_lambda=0.5")[0] == Policy(mmr_lambda=0.5)
    assert night()[0] == usual


def test_what_diversity_may_cost_chooses_among_what_was_measured(night):
    assert [night(f"policy.diversity_cost={cost}")[0].mmr_lambda for cost in (0.005, 0.02, 0.05)] == [1.0, 0.9, 0.7]
    blind = {**MEASURED, "mmr_lambda": 1.0, "reason": "99 held-out visits are too few to tell, 100 are needed"}
    policy, counts, _ = night("policy.diversity_cost=0.05", measured=blind)
    assert policy.mmr_lambda == 1.0 and counts["no_diversity_chosen"] == blind["reason"]
