"""Nightly jobs end to end on a tiny world: a first release, a second from it, bad days, kills, and what the command says."""

import dataclasses
import json
import multiprocessing
import os
import random
import shutil
import signal
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from typer.testing import CliRunner

from benchmarks.month_days import cut, scrambled, without_media
from data.dataset import Dataset
from data.world import WorldConfig, generate_world
from pipeline.__main__ import app
from pipeline.nightly.beside import begun_early
from pipeline.nightly.data_checks import check_data
from pipeline.nightly.export import _made
from pipeline.nightly.gate_contestants import current_of
from pipeline.nightly.gate_judge import judge, judge_current, rows_shared
from pipeline.nightly.job import gate_lines, run_job
from pipeline.nightly.lock import held
from pipeline.nightly.process import JobProcess
from pipeline.nightly.record import current_run, outcome_of
from pipeline.nightly.run import JobRun
from pipeline.settings.config import ConfigError, load_config
from pipeline.stage import read_manifest
from serving.catalogue.released_run import ingested_folder
from serving.client.recommend_requests import recommend_inputs
from serving.graphs.request_words import word_codes
from serving.releases.release import latest_release, list_releases, verify_release
from tests.pipeline.nightly.test_grow_vocabulary import shifted_nights

pytestmark = pytest.mark.timeout(600)
SETTINGS = [
    "encoders.text=signal:", "encoders.image=signal:", "encoders.audio=none", "search.enabled=false", "index.scann=false",
    "linear.parts=['closed_form']", "retrieval.epochs=3", "retrieval.width=16", "retrieval.history_length=10",
    "retrieval.history=mean", "retrieval.batch_size=256", "ranking.epochs=2", "ranking.catch_up_epochs=0",
    "ranking.history_length=5", "ranking.cross_layers=1", "ranking.hidden=[16]", "ranking.retrieved=50",
    "policy.mmr_lambda=1.0", "job.ranking_epochs=1", "job.valid_days=5", "job.warm_days=5",
    "gate.tolerance=0.5", "gate.margin=2.0", "gate.segment_loss=0.5", "gate.fairness_gap=1.0", "gate.calibration=0.2",
    "checks.psi=[0.5, 2.0]",
]  # fmt: skip
KILLS = 4


@pytest.fixture(scope="module")
def night(tmp_path_factory):
    """Folders of two days, of the run after the first day and after the second, the settings, and both outcomes."""
    folder = tmp_path_factory.mktemp("job")
    world = folder / "world"
    generate_world(world, WorldConfig(seed=3, items=150, users=200, events=7000, days=30))
    days = [cut(world, folder / f"day-{number}", 1 - number) for number in range(2)]
    settings = [*SETTINGS, f"encoders.store={folder / 'store'}"]
    config = load_config(overrides=settings)
    first = run_job(days[0], folder / "first", config, say=lambda line: None)
    shutil.copytree(folder / "first", folder / "second")
    # A process of its own, as a scheduler would start: names in exported graphs count what a process has made before.
    process = fresh_process(days[1], folder / "second", settings)
    process.join()
    second = outcome_of(folder / "second" / "jobs" / "0002")
    assert process.exitcode == 0 and second is not None
    return folder, days, settings, first, second


def fresh_process(day, out, settings):
    """A job in a process that has done nothing before but import."""
    context = multiprocessing.get_context("forkserver")
    # Not what `serving.export.release` imports: that makes tensors, and TensorFlow, once in use, does not survive a fork.
    context.set_forkserver_preload(["pipeline.nightly.job", "pipeline.nightly.training"])
    process = context.Process(target=run_in_process, args=(day, out, settings))
    process.start()
    return process


def run_in_process(day, out, settings):
    with begun_early() as beside:  # as the command does
        assert beside.exporter.method == beside.linear.method == "fork"
        run_job(day, out, load_config(overrides=settings), say=lambda line: None, beside=beside)


def test_the_first_job_trains_in_full_and_the_second_goes_on(night):
    folder, _, _, first, second = night
    assert (first["outcome"], second["outcome"]) == ("published", "published"), (first["why"], second["why"])
    assert first["full"] and not second["full"]
    releases = folder / "second" / "releases"
    assert list_releases(releases) == [1, 2]
    assert verify_release(latest_release(releases)).fingerprint == second["release"]["fingerprint"]
    made = second["made_from"]
    assert made["release"] == first["release"] and made["parent"] == "jobs/0001"
    assert {"ingest", "encode", "retrieval/full", "ranking", "gate"} <= second["keys"].keys()
    assert current_run(folder / "second") == folder / "second" / "jobs" / "0002"
    kept = load_config(current_run(folder / "second") / "settings.toml")
    assert kept.retrieval == load_config(overrides=night[2]).retrieval  # what `forget-user` goes by
    for version, job in ((1, "0001"), (2, "0002")):
        assert ingested_folder(folder / "second", version) == folder / "second" / "jobs" / job / "ingest"


def test_what_has_not_changed_is_taken_over(night):
    folder, *_ = night
    first, second = (folder / "second" / "jobs" / job for job in ("0001", "0002"))
    graphs = [read_manifest(job / "export")["counts"]["raw_graphs"] for job in (first, second)]
    assert graphs == ["traced: there is no release before", "those of release 1"]
    one, two = (folder / "second" / "releases" / number / "item_encoder" / number for number in ("1", "2"))
    assert (two / "saved_model.pb").read_bytes() == (one / "saved_model.pb").read_bytes()
    variables = [(model / "variables" / "variables.data-00000-of-00001").read_bytes() for model in (one, two)]
    assert variables[0] != variables[1]
    assert (second / "policy" / "policy.json").read_bytes() == (first / "policy" / "policy.json").read_bytes()


def test_ids_keep_their_rows_in_the_releases_themselves(night):
    folder, *_ = night
    for name in ("user_ids.txt", "item_ids.txt"):
        for table in (folder / "second" / "releases" / "1").rglob(name):
            later = Path(str(table).replace("releases/1/", "releases/2/").replace("/1/", "/2/"))
            assert later.read_bytes().startswith(table.read_bytes())
        one, two = ((folder / "second" / "jobs" / job / "ingest" / name).read_text() for job in ("0001", "0002"))
        assert two.startswith(one) and len(two) >= len(one)


def test_going_on_forgets_nothing_and_costs_less(night):
    folder, *_ = night
    first, second = (folder / "second" / "jobs" / job for job in ("0001", "0002"))
    rows = len((first / "ingest" / "item_ids.txt").read_text().split("\n")) - 1
    one, two = (np.load(job / "retrieval" / "full" / "item_embeddings.npy")[1:rows] for job in (first, second))
    assert (one * two).sum(axis=1).mean() > 0.8  # the same space, moved on; two trainings from nothing share none
    figures = json.loads((second / "judge" / "figures.json").read_text())
    recall = figures["metrics"]["retrieval recall@20"]
    assert recall["candidate"] > 0.8 * recall["current"] > 0
    steps = [len(json.loads((job / "retrieval" / "full" / "history.json").read_text())) for job in (first, second)]
    assert steps == [3, 1]


def test_the_current_release_is_judged_alike_beside_the_job_and_in_it(night):
    folder, days, settings, *_ = night
    parent, job = (folder / "second" / "jobs" / number for number in ("0001", "0002"))
    config, dataset = load_config(overrides=settings), Dataset.load(job / "ingest")
    with JobProcess(judge_current) as process:
        process.order(days[1], job, config, parent)
        beside, failure = process.answer()
    assert not failure
    here = judge(dataset, current_of(dataset, parent), config, rows_shared(dataset, parent))
    figures = json.loads((job / "judge" / "figures.json").read_text())
    for part in ("metrics", "segments"):
        assert beside[part].keys() == here[part].keys()
        for name, values in here[part].items():
            np.testing.assert_array_equal(beside[part][name], values)
            if name in figures[part]:
                assert figures[part][name]["current"] == pytest.approx(np.nanmean(values))
    assert figures["heads"]["current"] == here["heads"] == beside["heads"]
    assert figures["calibration"]["current"] == pytest.approx(here["calibration"])
    assert figures["exposure"]["current"] == pytest.approx(here["exposure"])


def test_the_current_release_is_asked_on_without_a_column_that_it_knew(night):
    folder, *_ = night
    parent, job = (folder / "second" / "jobs" / number for number in ("0001", "0002"))
    dataset = Dataset.load(job / "ingest")
    names = list(dataset.schema.context)
    assert names
    less = dataclasses.replace(dataset, schema=dataclasses.replace(dataset.schema, context={}))
    who, history, rows = np.array([1, 2], np.int32), np.array([[3, 0], [4, 5]], np.int32), np.array([[1, 2], [3, 4]], np.int32)
    given = who, history, rows, np.zeros((2, 2), np.float32), np.full(2, int(dataset.events["timestamp"].max()))
    unknown = current_of(dataset, parent).form(*given, None, np.zeros((2, len(names)), np.int32))
    gone = current_of(less, parent).form(*given, None, np.zeros((2, 0), np.int32))
    np.testing.assert_array_equal(gone["score"], unknown["score"])


def test_the_same_again_is_no_work_and_the_command_says_so(night):
    folder, days, settings, _, second = night
    said = []
    again = run_job(days[1], folder / "second", load_config(overrides=settings), say=said.append)
    assert again == second and said == ["[job 0002] published before; nothing is new"]
    arguments = ["job", "--data", str(days[1]), "--out", str(folder / "second")]
    arguments += [part for setting in settings for part in ("--set", setting)]
    with held(folder / "second" / "jobs", "job", 60):
        locked = CliRunner().invoke(app, arguments)
    assert locked.exit_code == 12 and "locked by process" in locked.output
    assert CliRunner().invoke(app, arguments).exit_code == 0
    lost = CliRunner().invoke(app, [*arguments[:2], str(folder / "nowhere"), *arguments[3:]])
    assert lost.exit_code == 13 and "is not a folder" in lost.output


def test_the_gate_explains_itself_and_the_report_has_both_pages(night):
    folder, *_ = night
    lines = gate_lines(folder / "second", None)
    assert lines[:2] == ["job 0002: published; release 2", "release 2: published"]
    assert any("rows of known ids" in line for line in lines) and not any("FAILED" in line for line in lines)
    told = CliRunner().invoke(app, ["gate", "--explain", "--out", str(folder / "second"), "--job", "1"])
    assert told.exit_code == 0 and "job 0001" in told.output
    page = (folder / "second" / "jobs" / "0002" / "report.html").read_text()
    assert 'id="table-data-checks"' in page and 'id="table-gate"' in page


def test_a_policy_that_names_what_the_data_does_not_have_fails_before_training(night, tmp_path):
    _, days, settings, *_ = night
    with pytest.raises(ConfigError, match=r"policy\.protected: .* received 'domain=nowhere'"):
        run_job(days[0], tmp_path / "run", load_config(overrides=[*settings, "policy.protected=domain=nowhere"]), say=str)
    made = tmp_path / "run" / "jobs" / "0001"
    assert (made / "ingest").is_dir() and not (made / "encode").exists()


def test_a_number_that_a_request_names_is_known_after_many_nights(tmp_path):
    (_, first), _, (people, third) = shifted_nights(tmp_path)
    codes = third.users.set_index("user_id")["profile_income"][people["user_id"]].tolist()
    asked = tf.constant([[f"income={income!r}"] for income in people["income"].tolist()])
    found = word_codes(asked, {"income": third.profile_vocabulary["income"]}, tf.constant(len(people)))
    assert found.numpy()[:, 0].tolist() == codes and min(codes) > 0
    assert third.schema.profile["income"] == first.schema.profile["income"]


def test_half_of_the_media_missing_stops_before_training(night, tmp_path):
    folder, days, settings, *_ = night
    out = tmp_path / "run"
    shutil.copytree(folder / "first", out)
    outcome = run_job(without_media(days[1], tmp_path / "day", 0.5, 0), out, load_config(overrides=settings), say=str)
    assert outcome["outcome"] == "stopped" and "lost image" in outcome["why"] and outcome["current"] == 1
    assert list_releases(out / "releases") == [1] and not (out / "jobs" / "0002" / "retrieval").exists()


def test_other_settings_or_a_full_training_need_no_new_events(night, tmp_path):
    folder, days, settings, *_ = night
    out, again = tmp_path / "run", tmp_path / "again"
    shutil.copytree(folder / "second", out)
    shutil.copytree(days[1], again, symlinks=True)  # written anew, with nothing new in it
    for file in again.glob("*.parquet"):
        os.utime(file, (1, 1))
    stopped = run_job(again, out, load_config(overrides=settings), say=str)
    assert (stopped["outcome"], stopped["why"]) == ("stopped", "volume: no event since the last release")
    changed = load_config(overrides=[*settings, "policy.popularity=0.1"])
    full = JobRun(again, tmp_path / "full", changed, str, parent=out / "jobs" / "0002", full=True)
    full.ingest(), full.encode()
    assert full.check_data().manifest["counts"]["decision"] == "warn"
    outcome = run_job(days[1], out, changed, say=str)
    assert outcome["outcome"] == "published" and outcome["checks"]["stop"] == 0, outcome["why"]


def test_an_item_taken_out_of_the_catalogue_stops_nothing_and_is_answered_no_more(night, tmp_path):
    folder, days, settings, *_ = night
    out, day = tmp_path / "run", tmp_path / "day"
    shutil.copytree(folder / "first", out)
    shutil.copytree(days[1], day, symlinks=True)
    items, counts = pd.read_parquet(day / "items.parquet"), np.load(out / "jobs" / "0001" / "ingest" / "counts.npy")
    gone = Dataset.load(out / "jobs" / "0001" / "ingest").items["item_id"][int(counts.argmax())]
    items[items["item_id"] != gone].to_parquet(day / "items.parquet", index=False)
    # It has been sold to the last, as goods are: the events of its last day are refused as well.
    outcome = run_job(day, out, load_config(overrides=[*settings, "checks.quarantined=[0.01, 0.5]"]), say=str)
    assert outcome["outcome"] == "published", outcome["why"]
    checks = json.loads((out / "jobs" / "0002" / "checks" / "checks.json").read_text())["checks"]
    assert int(next(check["found"] for check in checks if check["name"] == "quarantined rows").split()[0]) < counts.max()
    users = Dataset.load(out / "jobs" / "0001" / "ingest").users["user_id"][1:21].tolist()
    for version, answered in (("1", True), ("2", False)):
        model = tf.saved_model.load(str(out / "releases" / version / "recommend" / version))
        asked = recommend_inputs(users, k=100, candidates=100)
        kinds = {name: tf.string if value.dtype == object else value.dtype for name, value in asked.items()}
        found = model.signatures["serving_default"](**{name: tf.constant(value, kinds[name]) for name, value in asked.items()})
        assert (found["item_ids"].numpy() == gone.encode()).any() == answered


def test_choices_exchanged_between_users_are_a_surprise(night, tmp_path):
    folder, days, settings, *_ = night
    verdicts = {}
    for share in (0.0, 1.0):
        day = scrambled(days[1], tmp_path / f"day-{share:g}", share, 0)
        run = JobRun(day, tmp_path / f"run-{share:g}", load_config(overrides=settings), str,
                     parent=folder / "first" / "jobs" / "0001")  # fmt: skip
        run.ingest(), run.encode()
        check_data(run, tmp_path)
        checks = json.loads((tmp_path / "checks.json").read_text())["checks"]
        verdicts[share] = next(check["found"] for check in checks if check["name"] == "surprise")
    expected = [float(found.split()[0]) for found in verdicts.values()]
    assert expected[0] > 0.53 and expected[1] - 0.5 < 0.5 * (expected[0] - 0.5), verdicts


def test_killed_at_random_moments_it_ends_with_the_same_release(night, tmp_path):
    folder, days, settings, _, second = night
    out = tmp_path / "run"
    shutil.copytree(folder / "first", out)
    killed, rng = 0, random.Random(5)
    while (outcome := outcome_of(max((out / "jobs").glob("[0-9]*")))) is None or outcome["job"] == 1:
        process = fresh_process(days[1], out, settings)
        process.join(rng.uniform(1.0, 6.0) if killed < KILLS else None)
        if process.exitcode is None:
            os.kill(process.pid, signal.SIGKILL)
            process.join()
            killed += 1
        for number in list_releases(out / "releases"):
            verify_release(out / "releases" / str(number))
        assert process.exitcode in (0, -signal.SIGKILL)
    assert killed >= KILLS - 1 and outcome["release"] == second["release"]


def test_a_release_that_a_kill_kept_unheard_of_is_measured_and_not_made_again(night, tmp_path):
    folder, days, settings, _, second = night
    out = tmp_path / "run"
    shutil.copytree(folder / "second", out)
    job, config = out / "jobs" / "0002", load_config(overrides=settings)
    shutil.move(out / "releases" / "2", job / "releases" / "2")
    told = _made(days[1], job, config, 2, out / "releases" / "1", ready=lambda: None)
    assert (told["version"], told["fingerprint"]) == (2, second["release"]["fingerprint"])
    assert told["latency_ms"] > 0 and list_releases(job / "releases") == [2]


def test_a_candidate_that_breaks_a_bound_is_kept_back(night, tmp_path):
    folder, days, settings, *_ = night
    out = tmp_path / "run"
    shutil.copytree(folder / "second", out)
    run = JobRun(days[1], out / "jobs" / "0002", load_config(overrides=[*settings, "gate.latency_ms=0.001"]), str,
                 parent=out / "jobs" / "0001", version=2)  # fmt: skip
    shutil.move(out / "releases" / "2", out / "jobs" / "0002" / "releases" / "2")
    counts = run.decide().manifest["counts"]
    assert counts["publish"] is False and counts["failed"] == ["latency of a recommendation"]
