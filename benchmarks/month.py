"""A simulated month of nightly jobs: against full retraining, through bad days and kills. See `--help`."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

from benchmarks.month_days import cut, scrambled, without_media
from data.world import generate_world
from data.world_config import WorldConfig
from pipeline.config import Config, load_config
from pipeline.job import run_job, seconds_of
from pipeline.job_record import outcome_of
from pipeline.job_run import JobRun
from serving.release import list_releases, verify_release

HELP = """
The log of a generated world is cut into days: items, users and tastes come and drift as the world has them. The first day is
trained in full; then a job runs every night. On compared days everything is also trained in full, from nothing, on the same
data, and judged on the same newest day.

The last line is one JSON object: `recall_ratio_to_full`, the lowest of the compared days' ratios of recall@100 of retrieval;
`speedup_over_full`, processor seconds of the stages that train and build (retrieval, linear, served, search, index, ranking,
policy) in full by those of the job, and `speedup_of_whole_job` with encoding, judging and export on both sides, over the
compared days;
`outcomes` by day; `ids_stable`; what became of a day with a tenth of its events scrambled and of one with half of the media
missing; with --kills the same job killed at random moments, whether it ended with the undisturbed fingerprint, and
whether ever a release was visible that was not whole.

example: python benchmarks/month.py --days 30 --compare-every 10 --config configs/demo.toml --kills 50
"""
ROOT = Path(__file__).resolve().parent.parent
TRAINING = ("retrieval", "linear", "served", "search", "index", "ranking", "policy")
QUICK = [
    "encoders.text=signal:", "encoders.image=signal:", "encoders.audio=none", "search.enabled=false", "index.scann=false",
    "linear.parts=['closed_form']", "retrieval.width=32", "retrieval.history_length=15",
    "retrieval.history=mean", "retrieval.batch_size=256", "retrieval.learning_rate=0.004",
    "ranking.catch_up_epochs=0", "ranking.history_length=10", "ranking.cross_layers=1", "ranking.hidden=[32]",
    "ranking.retrieved=100", "policy.mmr_lambda=1.0", "job.valid_days=10", "job.warm_days=5",
    # One day of a small world has a hundred users: what chance does to their mean is more than two percent.
    "gate.tolerance=0.15", "gate.margin=0.5",
]  # fmt: skip


def job_command(day: Path, out: Path, options: argparse.Namespace) -> list[str]:
    """A job in a process of its own."""
    command = [sys.executable, "-m", "pipeline", "job", "--data", str(day), "--out", str(out)]
    command += ["--config", str(options.config)] if options.config else []
    return command + [part for setting in options.set for part in ("--set", setting)]


def figures(out: Path, outcome: dict[str, Any]) -> dict[str, float]:
    """Recall of a job's candidate on its newest day, and its seconds of processor time."""
    folder = out / "jobs" / f"{outcome['job']:04d}"
    line = json.loads((folder / "judge" / "figures.json").read_text())["metrics"]["retrieval recall@100"]
    seconds = {}
    for file in [*folder.glob("*/manifest.json"), *folder.glob("*/full/manifest.json")]:
        manifest = json.loads(file.read_text())
        stage = manifest["stage"].split("/")[0]
        seconds[stage] = seconds.get(stage, 0.0) + manifest["processor_seconds"]
    return {
        "recall": line["candidate"],
        "training": sum(seconds.get(name, 0.0) for name in TRAINING),
        "total": sum(seconds.values()),
    }


def row_tables(out: Path, outcome: dict[str, Any]) -> dict[str, list[str]]:
    """Ids of a job in the order of their rows."""
    folder = out / "jobs" / f"{outcome['job']:04d}" / "ingest"
    return {name: (folder / f"{name}.txt").read_text().split("\n")[:-1] for name in ("user_ids", "item_ids")}


def bad_day(day: Path, out: Path, place: Path, config: Config) -> dict[str, Any]:
    """What a job on a bad day's folder ends with, from a copy of the run folder."""
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(out, place)
    before = list_releases(place / "releases")
    outcome = run_job(day, place, config, say=lambda line: None)
    return {
        "outcome": outcome["outcome"],
        "why": outcome["why"],
        "warnings": outcome["checks"]["warn"],
        "released": list_releases(place / "releases") != before,
    }


def killed(
    day: Path, out: Path, place: Path, kills: int, seconds: float, options: argparse.Namespace
) -> dict[str, Any]:
    """The same job killed at random moments until that many kills are done, and then left to end.

    Args:
        out: run folder as it was before the job. seconds: that an undisturbed job takes.
    """
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(out, place)
    rng, partial, done = random.Random(options.seed), 0, 0
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    while True:
        process = subprocess.Popen(
            job_command(day, place, options), cwd=ROOT, env=environment,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            process.wait(timeout=rng.uniform(0.1, 1.0) * seconds if done < kills else None)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            done += 1
        for number in list_releases(place / "releases"):
            try:
                verify_release(place / "releases" / str(number))
            except ValueError:
                partial += 1
        if process.returncode == 0 and done < kills:
            # It ended before all kills were spent: once more from the start.
            shutil.rmtree(place)
            shutil.copytree(out, place)
        elif process.returncode != -signal.SIGKILL:
            break
    outcome = outcome_of(max((place / "jobs").glob("[0-9]*"))) or {}
    return {"kills": done, "partial_releases": partial, "release": outcome.get("release"), "exit": process.returncode}


def walk(day: Path, out: Path, config: Config, number: int, say: Callable[[str], None]) -> dict[str, Any]:
    """A job of `--quick`: its stages as far as the judgement, from the job before, without a release and its gate."""
    parent = out / "jobs" / f"{number - 1:04d}" if number > 1 else None
    run = JobRun(day, out / "jobs" / f"{number:04d}", config, say, parent=parent, full=parent is None, version=number)
    for stage in (run.ingest, run.encode, run.check_data, run.train_retrieval, run.train_linear, run.train_search,
                  run.index, run.train_ranking, run.choose_policy, run.judge):  # fmt: skip
        stage()
    decision = run.check_data().manifest["counts"]["decision"]
    return {"job": number, "outcome": f"judged, data {decision}", "why": "", "seconds": seconds_of(run.folder)}


def simulate(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """The whole month in `folder`; what an interrupted one had finished is not done again."""
    world = options.world or folder / "world"
    if not (world / "interactions.parquet").is_file():
        generate_world(world, WorldConfig(seed=options.seed, items=options.items, users=options.users,
                                          events=options.events, days=options.history))  # fmt: skip
    config, out = load_config(options.config, options.set), folder / "run"
    options.set = [*options.set, f"encoders.store={config.encoders.store or folder / 'feature-store'}"]
    config = load_config(options.config, options.set)
    say = lambda line: print(line, file=sys.stderr) if options.verbose else None  # noqa: E731

    def night_of(number: int, day: Path) -> dict[str, Any]:
        outcome = walk(day, out, config, number + 1, say) if options.quick else run_job(day, out, config, say=say)
        took = outcome["seconds"]["total"]
        print(f"night {number}: {outcome['outcome']} {outcome['why']}, {took:.1f} s", file=sys.stderr)
        return outcome

    nights = options.days - 1
    days = [cut(world, folder / f"day-{night:02d}", nights - night) for night in range(nights + 1)]
    compared = [night for night in range(1, nights + 1)
                if night == nights or (options.compare_every and night % options.compare_every == 0)]  # fmt: skip
    beside = {night: retrain(days[night], folder, night, options) for night in compared} if options.quick else {}
    outcomes = [night_of(0, days[0])]
    tables, stable = row_tables(out, outcomes[0]), True
    for night in range(1, nights + 1):
        if night == nights and (options.kills or options.bad_days) and not (folder / "before-the-last").is_dir():
            shutil.copytree(out, folder / "copying", dirs_exist_ok=True)
            (folder / "copying").rename(folder / "before-the-last")
        outcomes.append(night_of(night, days[night]))
        now = row_tables(out, outcomes[-1])
        stable &= all(now[name][: len(rows)] == rows for name, rows in tables.items())
        tables = now
    pairs = []
    for night in compared:
        process = beside.get(night) or retrain(days[night], folder, night, options)
        if process.wait():
            raise SystemExit(f"month: the full retraining of night {night} ended with exit code {process.returncode}")
        other = folder / f"full-{night:02d}"
        full = {"job": 1, "seconds": seconds_of(other / "jobs" / "0001")}
        pairs.append((figures(out, outcomes[night]), figures(other, full)))
    result: dict[str, Any] = {
        "recall_ratio_to_full": round(min(job["recall"] / full["recall"] for job, full in pairs), 4),
        "speedup_over_full": round(ratio(pairs, "training"), 2),
        "speedup_of_whole_job": round(ratio(pairs, "total"), 2),
        "compared_days": len(pairs),
        "seconds_of_a_job": round(float(np.mean([job["total"] for job, _ in pairs])), 2),
        "ids_stable": stable,
        "outcomes": [outcome["outcome"] for outcome in outcomes],
    }
    before, day = folder / "before-the-last", days[-1]
    if options.bad_days:
        bad = scrambled(day, folder / "scrambled", 0.1, options.seed)
        result["scrambled_day"] = bad_day(bad, before, folder / "run-scrambled", config)
        bad = without_media(day, folder / "half-media", 0.5, options.seed)
        result["half_media_day"] = bad_day(bad, before, folder / "run-half-media", config)
    if options.kills:
        found = killed(day, before, folder / "run-killed", options.kills, outcomes[-1]["seconds"]["total"] + 8, options)
        result["kills"] = {**found, "same_release": found["release"] == outcomes[-1]["release"]}
    return result


def retrain(day: Path, folder: Path, night: int, options: argparse.Namespace) -> subprocess.Popen:
    """A full retraining on a night's data, in a process of its own; in `--quick` as far as the judgement."""
    out = folder / f"full-{night:02d}"
    command = [*job_command(day, out, options), "--full"]
    if options.quick:
        told = json.dumps([str(day), str(out), options.set])
        command = [sys.executable, __file__, "--walk", told]
    quiet = None if options.verbose else subprocess.DEVNULL
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=quiet)


def ratio(compared: list[tuple[dict[str, float], dict[str, float]]], name: str) -> float:
    """Seconds in full by seconds of the job, over the compared days."""
    return sum(full[name] for _, full in compared) / sum(job[name] for job, _ in compared)


def main() -> None:
    parser = argparse.ArgumentParser(description=HELP, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="three days of a small world, with signal: encoders")
    parser.add_argument("--days", type=int, default=30, help="the first in full, then a job a night")
    parser.add_argument(
        "--compare-every", type=int, default=0, help="nights between full retrainings; 0 = the last alone"
    )
    parser.add_argument("--world", type=Path, help="a generated world's folder; made unless given")
    parser.add_argument("--items", type=int, default=1500)
    parser.add_argument("--users", type=int, default=2500)
    parser.add_argument("--events", type=int, default=120_000)
    parser.add_argument("--history", type=int, default=90, help="days of the generated world")
    parser.add_argument("--config", type=Path, help="TOML file of settings")
    parser.add_argument("--set", action="append", default=[], help="override a setting")
    parser.add_argument(
        "--bad-days", action="store_true", help="also a scrambled day, and one without half of its media"
    )
    parser.add_argument("--kills", type=int, default=0, help="kill the last night's job so often at random moments")
    parser.add_argument("--folder", type=Path, help="keep everything there; an interrupted simulation goes on")
    parser.add_argument("--walk", help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--verbose", action="store_true", help="say what every stage does")
    options = parser.parse_args()
    if options.walk:
        day, out, settings = json.loads(options.walk)
        walk(Path(day), Path(out), load_config(None, settings), 1, lambda line: None)
        return
    if options.quick:
        if options.bad_days or options.kills:
            parser.error("--quick: makes no releases, so leave --bad-days and --kills for a whole month")
        options.days = 3
        options.items, options.users, options.events, options.history = 250, 300, 12_000, 60
        options.set = [*QUICK, *options.set]
    if options.days < 2:
        parser.error("--days: needs at least 2, one to start from and one night")
    start = time.perf_counter()
    with contextlib.ExitStack() as stack:
        kept = options.folder
        folder = kept or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="triptych-month-")))
        folder.mkdir(parents=True, exist_ok=True)
        result = simulate(options, folder)
    print(json.dumps({**result, "seconds": round(time.perf_counter() - start, 1)}))


if __name__ == "__main__":
    main()
