"""deploy/: what starts the nightly job, and what each scheduler makes of its exit codes."""

from __future__ import annotations

import configparser
import datetime
import itertools
import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
import time
import types
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import typer
import yaml

from pipeline.__main__ import app
from pipeline.commands import exit_code
from pipeline.nightly.job import EXIT_CODES
from pipeline.release.deploy import DeployOptions, render_manifests

ROOT = Path(__file__).resolve().parent.parent
DEPLOY = ROOT / "deploy"
KEPT, STOPPED, LOCKED, FAILED = (EXIT_CODES[name] for name in ("kept", "stopped", "locked", "failed"))
FIGURES = dict.fromkeys(
    ("version", "models_mib", "base_mib", "serving_request_mib", "serving_limit_mib", "startup_failures",
     "gateway_request_mib", "gateway_limit_mib", "release_mib", "releases_kept", "job_mib", "jobs_kept", "store_mib", "run_mib",
     "run_storage_gib", "dataset_storage_gib", "canary_replicas"), 1,
) | {"fingerprint": "f"}  # fmt: skip


def test_kubernetes_tries_again_what_may_end_otherwise_and_nothing_else():
    manifest = yaml.safe_load(render_manifests(FIGURES, DeployOptions())["4-training.yaml"])
    kubernetes_validate.validate(manifest, "1.33", strict=True)
    job = manifest["spec"]
    assert job["concurrencyPolicy"] == "Forbid" and job["startingDeadlineSeconds"] > 0
    work = job["jobTemplate"]["spec"]
    assert work["activeDeadlineSeconds"] > 0 and work["template"]["spec"]["restartPolicy"] == "Never"
    first, second = work["podFailurePolicy"]["rules"]
    assert (first["action"], first["onPodConditions"][0]["type"]) == ("Ignore", "DisruptionTarget")
    assert second["action"] == "FailJob" and second["onExitCodes"]["operator"] == "In"
    assert second["onExitCodes"]["containerName"] in {one["name"] for one in work["template"]["spec"]["containers"]}
    ending = set(second["onExitCodes"]["values"])
    assert exit_code.UNDECIDED in ending, "every further try would train for a release that has to wait, too"
    assert {KEPT, STOPPED, LOCKED} <= ending and not {0, FAILED, 137} & ending and work["backoffLimit"] > 0
    # Beside the run folder a job keeps encoded media: that place must be a volume, the container's own disk is read-only.
    container = work["template"]["spec"]["containers"][0]
    mounts = [mount["mountPath"] for mount in container["volumeMounts"] if not mount.get("readOnly")]
    told = {one["name"]: one["value"] for one in container["env"]}
    assert any(told["STORE"].startswith(f"{mount}/") for mount in mounts)


@pytest.mark.parametrize("feedback", [True, False])
def test_kubernetes_brings_what_gateways_keep_where_they_share_it(feedback: bool):
    texts = render_manifests(FIGURES, DeployOptions(feedback=feedback))
    manifest = yaml.safe_load(texts["4-training.yaml"])
    kubernetes_validate.validate(manifest, "1.33", strict=True)
    pod = manifest["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    told = {one["name"]: one["value"] for one in pod["containers"][0]["env"]}
    mounts = {one["mountPath"]: one for one in pod["containers"][0]["volumeMounts"]}
    assert {one["name"] for one in mounts.values()} == {one["name"] for one in pod["volumes"]}
    assert mounts[told["DATA"]].get("readOnly", False) is not feedback
    if feedback:
        gateways = [one for one in yaml.safe_load_all(texts["3-gateway.yaml"]) if one["kind"] == "Deployment"]
        for gateway in gateways:  # the very folder that each of them writes to
            there = gateway["spec"]["template"]["spec"]
            assert mounts[told["STATE"]] in there["containers"][0]["volumeMounts"]
            assert next(one for one in pod["volumes"] if one["name"] == "state") in there["volumes"]
        assert len(gateways) == 2
    else:
        assert "STATE" not in told and "state" not in {one["name"] for one in pod["volumes"]}


def night(folder: Path, command: str, code: int) -> subprocess.CompletedProcess[str]:
    """A scheduler's own shell line, with a nightly job that prints and ends with a code."""
    (folder / "deploy").mkdir(exist_ok=True)
    (folder / "deploy" / "nightly.sh").write_text(f"echo at work\nexit {code}\n")
    environment = {"PATH": os.environ["PATH"], "LOG": str(folder / "nightly.log")}
    return subprocess.run(
        ["/bin/sh", "-c", command], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def test_all_commands_end_with_the_codes_that_schedulers_know():
    assert (exit_code.LOCKED, exit_code.FAILED) == (LOCKED, FAILED) == (12, 13)
    service = (DEPLOY / "systemd" / "triptych-follow.service").read_text()
    assert "RestartPreventExitStatus=2 12\n" in service and "Restart=always\n" in service


def begin_night(folder: Path, does: str, **more: str) -> subprocess.Popen[str]:
    """`nightly.sh` with a command in the place of `python`; it keeps the words that it is called with in `called`."""
    (folder / "python").write_text(f'#!/bin/sh\necho "$3" >> {folder}/called\n{does}\n')
    (folder / "python").chmod(0o755)
    environment = {"PATH": f"{folder}:{os.environ['PATH']}", "DATA": "data", "OUT": "out", "CONFIG": "config"}
    command = ["/bin/sh", str(DEPLOY / "nightly.sh")]
    return subprocess.Popen(command, env=environment | more, text=True, stderr=subprocess.PIPE)


NIGHT = ["job", "release", "release"]


def test_a_night_begins_with_the_feedback_of_a_gateway(tmp_path: Path):
    called, state = tmp_path / "called", tmp_path / "state"
    for kept in ("", "items", "feedback"):
        (state / kept).mkdir(parents=True, exist_ok=True)
        process = begin_night(tmp_path, 'echo "$@" >> "$0.all"', STATE=str(state))
        assert (process.communicate(timeout=20)[1], process.returncode) == ("", 0)
        assert called.read_text().split() == (["add-feedback"] if kept else []) + NIGHT, kept
        called.unlink()
    assert f"-m pipeline add-feedback --state {state} --data data" in (tmp_path / "python.all").read_text()
    for code in (2, FAILED):  # what cannot be brought is no reason to learn without it
        assert begin_night(tmp_path, f"exit {code}", STATE=str(state)).wait(20) == code
        assert called.read_text().split() == ["add-feedback"]
        called.unlink()


def test_a_night_goes_on_with_the_data_of_a_job_that_was_interrupted(tmp_path: Path):
    """More data would make it another job, and its work would be lost; the next night brings what came meanwhile."""
    called, out = tmp_path / "called", tmp_path / "out"
    (tmp_path / "state" / "feedback").mkdir(parents=True)
    for number in (1, 2):
        (out / "jobs" / f"000{number}").mkdir(parents=True)
        (out / "jobs" / f"000{number}" / "job.json").touch()
    ended, record = (out / "jobs" / "0002" / name for name in ("outcome.json", "job.json"))

    def night() -> list[str]:
        assert begin_night(tmp_path, "exit 0", STATE=str(tmp_path / "state"), OUT=str(out)).wait(20) == 0
        words = called.read_text().split()
        called.unlink()
        return words

    assert night() == NIGHT
    ended.touch()
    assert night() == ["add-feedback", *NIGHT]
    ended.unlink()
    os.utime(record, (time.time() - 86_400,) * 2)
    assert night() == ["add-feedback", *NIGHT], "one that cannot end with what it has is not waited for"


def test_a_night_says_that_its_release_is_there_where_no_label_moved(tmp_path: Path):
    process = begin_night(tmp_path, '[ "$3" = job ] || exit 2')
    said = process.communicate(timeout=20)[1]
    assert process.returncode == 2 and "published" in said and "exit code 2" in said
    assert (tmp_path / "called").read_text().split() == NIGHT[:2]


def test_a_night_with_an_undecided_canary_clears_up_and_says_so(tmp_path: Path):
    for gc in (0, 1):
        does = f'case "$4" in promote) exit {exit_code.UNDECIDED} ;; gc) exit {gc} ;; esac'
        process = begin_night(tmp_path, does)
        assert "not the canary" in process.communicate(timeout=20)[1] and process.returncode == exit_code.UNDECIDED == 14
        assert (tmp_path / "called").read_text().split() == NIGHT
        (tmp_path / "called").unlink()
    assert begin_night(tmp_path, '[ "$4" != gc ] || exit 13').wait(20) == FAILED


def test_every_schedule_says_where_the_feedback_lies():
    follow = (DEPLOY / "systemd" / "triptych-follow.service").read_text()
    place = re.search(r"LOG=(\S+)/feedback", follow)
    assert place is not None
    for file in ("cron/triptych", "systemd/triptych-training.service", "airflow/triptych_nightly.py"):
        assert re.search(rf'STATE\W.*{re.escape(place[1])}"?\)?,?$', (DEPLOY / file).read_text(), re.MULTILINE), file


@pytest.mark.parametrize("code", [0, KEPT, LOCKED, FAILED])
def test_the_night_ends_with_the_code_of_its_job_and_goes_on_after_a_release(tmp_path: Path, code: int):
    assert begin_night(tmp_path, f"exit {code}").wait(20) == code
    assert (tmp_path / "called").read_text().split() == (["job"] if code else NIGHT)


def test_the_night_ends_with_its_job_when_it_is_told_to(tmp_path: Path):
    """As the first process of a container does: a pod that is evicted ends the job in order, and nothing comes after it."""
    called = tmp_path / "called"
    told = f"trap 'echo told >> {called}; exit 143' TERM; echo hears >> {called}; sleep 20 & wait $!"
    process = begin_night(tmp_path, told)
    until = time.monotonic() + 10
    while time.monotonic() < until and not (called.exists() and "hears" in called.read_text()):
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 143
    assert called.read_text().split() == ["job", "hears", "told"]


def test_cron_mails_what_somebody_must_look_at(tmp_path: Path):
    lines = [line for line in (DEPLOY / "cron" / "triptych").read_text().split("\n") if line and line[0] != "#"]
    settings = dict(line.split("=", 1) for line in lines[:-1])
    assert {"DATA", "OUT", "CONFIG", "PATH", "LOG"} <= settings.keys() and (ROOT / settings["CONFIG"]).is_file()
    *when, user, command = lines[-1].split(None, 6)
    assert len(when) == 5 and user == "triptych" and "%" not in command, "cron makes line breaks of %"
    bounds = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 7))
    assert all(value == "*" or low <= int(value) <= high for value, (low, high) in zip(when, bounds, strict=True))
    assert "cd /opt/triptych" in command
    for code in (0, KEPT, LOCKED, STOPPED, FAILED):
        done = night(tmp_path, command.replace("/opt/triptych", str(tmp_path)), code)
        mailed = f"nightly job: exit code {code}\nat work\n" if code in (STOPPED, FAILED) else ""
        assert done.stdout[: len(mailed) or 1] == mailed and done.stderr == "", (code, done)


def test_vertex_ai_takes_the_job_and_a_release_that_was_kept_for_success(tmp_path: Path):
    spec = yaml.safe_load((DEPLOY / "vertex" / "nightly.yaml").read_text())
    jsonschema.validate(spec, CUSTOM_JOB)
    with pytest.raises(jsonschema.ValidationError, match="imageURI"):
        pool = spec["workerPoolSpecs"][0]
        jsonschema.validate({**spec, "workerPoolSpecs": [{**pool, "containerSpec": {"imageURI": "x"}}]}, CUSTOM_JOB)
    shell, option, command = spec["workerPoolSpecs"][0]["containerSpec"]["command"]
    assert (shell, option) == ("/bin/sh", "-c")
    work = re.search(r"WORKDIR (\S+)", (DEPLOY / "gateway.Dockerfile").read_text())
    assert work and f"cd {work[1]} " in command
    for code, seen in ((0, 0), (KEPT, 0), (STOPPED, STOPPED), (LOCKED, LOCKED), (FAILED, FAILED)):
        assert night(tmp_path, command.replace(work[1], str(tmp_path)), code).returncode == seen
    mounted = {f"/mnt/nfs/{one['mountPoint']}" for one in spec["workerPoolSpecs"][0]["nfsMounts"]}
    places = {one["name"]: one["value"] for one in spec["workerPoolSpecs"][0]["containerSpec"]["env"]}
    assert all(any(places[name].startswith(f"{mount}/") for mount in mounted) for name in ("DATA", "OUT", "STATE"))


STRING = {"type": "string"}
CUSTOM_JOB: dict[str, Any] = {
    # `google.cloud.aiplatform.v1.CustomJobSpec`, the fields in use; names outside are refused, as gcloud does.
    "type": "object", "additionalProperties": False, "required": ["workerPoolSpecs"],
    "properties": {
        "scheduling": {
            "type": "object", "additionalProperties": False,
            "properties": {
                "timeout": {"type": "string", "pattern": r"^\d+s$"},
                "restartJobOnWorkerRestart": {"type": "boolean"}, "disableRetries": {"type": "boolean"},
            },
        },
        "workerPoolSpecs": {"type": "array", "minItems": 1, "items": {
            "type": "object", "additionalProperties": False, "required": ["machineSpec", "replicaCount", "containerSpec"],
            "properties": {
                "machineSpec": {"type": "object", "required": ["machineType"]},
                "replicaCount": {"type": "integer", "minimum": 1},
                "diskSpec": {"type": "object"},
                "nfsMounts": {"type": "array", "items": {
                    "type": "object", "additionalProperties": False, "required": ["server", "path", "mountPoint"],
                    "properties": {"server": STRING, "path": STRING, "mountPoint": STRING}}},
                "containerSpec": {
                    "type": "object", "additionalProperties": False, "required": ["imageUri"],
                    "properties": {"imageUri": STRING, "command": {"type": "array"}, "args": {"type": "array"},
                                   "env": {"type": "array", "items": {"required": ["name", "value"]}}}},
            }}},
    },
}  # fmt: skip


class Step:
    """A task of the DAG, as far as the file uses one."""

    def __init__(self, name: str, after: list[tuple[str, str]]):
        self.name, self._after = name, after

    def __rshift__(self, other: Step) -> Step:
        self._after.append((self.name, other.name))
        return other


@pytest.fixture(params=["airflow.sdk.exceptions", "airflow.exceptions"], ids=["3.2", "3.0"])
def nightly(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> dict[str, Any]:
    """The DAG's file, executed with what it takes of Airflow: exceptions of Airflow's names, where newer and older ones have
    them, `dag` and `task`."""
    told: dict[str, Any] = {"order": []}
    names = ("airflow", "airflow.sdk", "airflow.sdk.exceptions", "airflow.exceptions")
    modules = {name: types.ModuleType(name) for name in names}
    sdk = modules["airflow.sdk"]
    for name in ("AirflowException", "AirflowFailException", "AirflowSkipException"):
        setattr(modules[request.param], name, type(name, (Exception,), {}))

    def dag(**settings):
        told["settings"] = settings
        return lambda build: lambda: told.update(dag_id=build.__name__, built=build())

    sdk.dag = dag  # type: ignore[attr-defined]
    sdk.task = lambda task_id: lambda run: lambda *given: Step(task_id, told["order"])  # type: ignore[attr-defined]
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    told["names"] = runpy.run_path(str(DEPLOY / "airflow" / "triptych_nightly.py"))
    return told


def test_airflow_runs_one_night_at_a_time_in_order(nightly: dict[str, Any]):
    settings = nightly["settings"]
    assert nightly["dag_id"] == "triptych_nightly" and settings["max_active_runs"] == 1 and settings["catchup"] is False
    assert settings["dagrun_timeout"] <= datetime.timedelta(hours=24) and settings["start_date"].tzinfo is not None
    assert len(settings["schedule"].split()) == 5 and settings["default_args"]["retries"] > 0
    steps = ["add_feedback", "job", "make_canary", "clear_up"]
    assert nightly["order"] == list(itertools.pairwise(steps))
    root = typer.main.get_command(app)
    for command in nightly["names"]["COMMANDS"].values():  # each is a command that we have, with options that it has
        group, words = root, list(command)
        while hasattr(group, "commands"):
            group = group.commands[words.pop(0)]
        group.make_context("python -m pipeline", words)


def test_airflow_tells_what_to_try_again(nightly: dict[str, Any], monkeypatch: pytest.MonkeyPatch):
    run, meant = nightly["names"]["run"], {}
    for code in (0, KEPT, LOCKED, STOPPED, 2, FAILED, 137):
        answer = types.SimpleNamespace(returncode=code)
        monkeypatch.setattr(subprocess, "run", lambda command, answer=answer, **options: answer)
        try:
            run("job")
            meant[code] = "success"
        except Exception as error:
            meant[code] = type(error).__name__
    skipped, failed, again = "AirflowSkipException", "AirflowFailException", "AirflowException"
    assert meant == {
        0: "success", KEPT: skipped, LOCKED: skipped, STOPPED: failed, 2: failed, FAILED: again, 137: again,
    }  # fmt: skip


def test_airflow_clears_up_behind_an_undecided_canary_and_does_not_try_again(
    nightly: dict[str, Any], monkeypatch: pytest.MonkeyPatch
):
    asked: list[tuple[str, str]] = []

    def answer(command, **options):
        asked.append((command[3], command[4]))
        return types.SimpleNamespace(returncode=exit_code.UNDECIDED if "promote" in command else 0)

    monkeypatch.setattr(subprocess, "run", answer)
    with pytest.raises(Exception, match="exit code 14") as ended:
        nightly["names"]["run"]("make_canary")
    assert type(ended.value).__name__ == "AirflowFailException" and asked == [("release", "promote"), ("release", "gc")]


@pytest.mark.parametrize("unit", sorted((DEPLOY / "systemd").iterdir()), ids=lambda unit: unit.name)
def test_units_of_systemd_are_whole(unit: Path):
    verify = shutil.which("systemd-analyze")
    if verify:
        done = subprocess.run([verify, "verify", "--man=no", str(unit)], capture_output=True, text=True, check=False)
        assert done.returncode == 0 and unit.name not in done.stderr, done.stderr
    parser = configparser.ConfigParser(strict=False)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read(unit)
    if unit.suffix == ".service":
        service = parser["Service"]
        assert "/var/lib/triptych" in service["ReadWritePaths"] and service["ProtectSystem"] == "strict"
        assert parser["Unit"]["Description"].startswith("Triptych")
        command = re.search(r"python -m pipeline (\S+)", service["ExecStart"])
        assert command is None or command[1] in typer.main.get_command(app).commands
