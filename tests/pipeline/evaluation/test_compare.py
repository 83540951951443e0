"""Two runs compared on planted differences, refused where they were not asked the same, and printed."""

import json

import numpy as np
import pandas as pd
import pytest
import typer
from typer.testing import CliRunner

from pipeline.commands.compare import compare
from pipeline.evaluation.compare import check_same_questions, compare_runs, read_judged
from pipeline.evaluation.user_values import JUDGED_ON, VALUES, UserValues
from pipeline.metrics.significance import holm_adjusted
from pipeline.stage import StageError

ASKED = {"users": "a", "items": "b", "events": "c", "splits": "d", "known_splits": ["train"]}
USERS = 300


def values(seed=0, gain=0.0, users=USERS):
    rng, noise = np.random.default_rng(1), np.random.default_rng(seed)
    hard = rng.random(users)
    table = pd.DataFrame(
        {
            "ranked_ndcg@10": hard + gain + noise.normal(0, 0.02, users),
            "retrieval_ndcg@10": hard + noise.normal(0, 0.02, users),
            "ranked_new_items_ndcg@10": np.where(np.arange(users) % 2, hard, np.nan),
            f"only_{seed}": hard,
        },
        index=pd.Index([f"u{user}" for user in range(users)], name="user_id"),
    )
    return UserValues(table, dict(ASKED))


def write_run(folder, found, *, ranking="r1"):
    (folder / "evaluate").mkdir(parents=True)
    found.table.reset_index().to_parquet(folder / "evaluate" / VALUES)
    (folder / "evaluate" / JUDGED_ON).write_text(json.dumps(found.judged_on))
    manifest = {"stage": "evaluate", "key": "k", "inputs": {"ranking": ranking, "served": "s1"}}
    (folder / "evaluate" / "manifest.json").write_text(json.dumps(manifest))
    release = folder / "releases" / "3"
    release.mkdir(parents=True)
    made_from = {"ranking": "r1", "served/full": "s1"}
    (release / "manifest.json").write_text(json.dumps({"version": 3, "details": {"made_from": made_from}}))
    return folder


def test_a_planted_difference_is_found_and_no_other():
    found = {line.metric: line for line in compare_runs(values(1, gain=0.01), values(2))}
    assert set(found) == {"ranked_ndcg@10", "retrieval_ndcg@10", "ranked_new_items_ndcg@10"}
    better, same = found["ranked_ndcg@10"], found["retrieval_ndcg@10"]
    assert better.low < 0.01 < better.high and better.low > 0
    assert better.p_adjusted < 0.01
    assert same.low < 0 < same.high and same.p_value > 0.05
    assert found["ranked_new_items_ndcg@10"].users == USERS / 2
    assert better.first - better.second == pytest.approx(better.difference)


def test_users_are_paired_by_id_and_not_by_place():
    one = values(1)
    turned = UserValues(one.table.iloc[::-1], one.judged_on)
    assert all(line.wins == line.losses == 0 for line in compare_runs(one, turned))


@pytest.mark.parametrize("part", list(ASKED))
def test_runs_of_other_data_are_refused_by_the_part_that_differs(part):
    other = values(2)
    other.judged_on[part] = "else"
    with pytest.raises(StageError, match=f"these differ in {part}. Users can only"):
        compare_runs(values(1), other)


def test_other_users_and_unknown_metrics_are_refused():
    with pytest.raises(StageError, match="differ in test users"):
        check_same_questions(values(1), values(2, users=USERS - 1))
    with pytest.raises(StageError, match=r"--metric: must be among ranked_ndcg@10.*received magic"):
        compare_runs(values(1), values(2), ("magic",))


def test_holm_is_the_step_down_of_its_definition():
    p = [0.01, 0.04, 0.03, 0.005]
    ordered = sorted(range(4), key=p.__getitem__)
    expected, running = [0.0] * 4, 0.0
    for place, index in enumerate(ordered):
        running = max(running, min(1.0, (4 - place) * p[index]))
        expected[index] = running
    assert holm_adjusted(p) == pytest.approx(expected)
    assert holm_adjusted([]) == []


def test_a_release_has_its_runs_figures_while_they_are_of_the_same_models(tmp_path):
    run = write_run(tmp_path / "run", values(1))
    pd.testing.assert_frame_equal(read_judged(run / "releases" / "3").table, read_judged(run).table)
    newer = write_run(tmp_path / "newer", values(1), ranking="r2")
    with pytest.raises(StageError, match=r"was made from other models \(ranking\)"):
        read_judged(newer / "releases" / "3")
    with pytest.raises(StageError, match="must hold a finished `evaluate` stage"):
        read_judged(tmp_path / "nothing")
    (run / "evaluate" / VALUES).unlink()
    with pytest.raises(StageError, match=r"must hold users\.parquet"):
        read_judged(run)


def test_the_command_prints_a_table_or_json(tmp_path):
    app = typer.Typer()
    app.command()(compare)
    runs = [str(write_run(tmp_path / f"run{seed}", values(seed, gain=0.01 * seed))) for seed in (1, 2)]
    shown = CliRunner().invoke(app, [*runs, "--metric", "ranked_ndcg@10"])
    assert shown.exit_code == 0
    assert "ranked_ndcg@10" in shown.output and "−" in shown.output and "retrieval_ndcg@10" not in shown.output
    told = json.loads(CliRunner().invoke(app, [*runs, "--json"]).output)
    expected = compare_runs(read_judged(tmp_path / "run1"), read_judged(tmp_path / "run2"))
    assert [line["p_value"] for line in told] == [line.p_value for line in expected]
