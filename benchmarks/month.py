"""A simulated month of nightly jobs: against full retraining, through bad days and kills. See `--help`."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

from benchmarks.month_days import cut, scrambled, without_media
from benchmarks.month_kills import killed_nights
from benchmarks.month_nights import (
    Ledger,
    Night,
    finish,
    job_command,
    median_wall,
    newest_job,
    night_of,
    speedup,
    start,
    tables_of,
    walk,
)
from benchmarks.month_week import WEEK, Weeks
from data.world import generate_world
from data.world_config import WorldConfig
from pipeline.content.store_encoders import weights_folder
from pipeline.nightly.record import current_run, jobs_of
from pipeline.settings.config import load_config
from serving.releases.gc import remove
from serving.releases.release import list_releases

HELP = """
The log of a generated world is cut into days: items, users and tastes come and drift as the world has them. The first day is
trained in full; then a job runs every night, each in a process of its own as a scheduler would start it. On compared nights
everything is also trained in full, from nothing, on the same data. Both find the media of earlier days encoded, and encode
those of the day. Both are judged on the same newest day, of which they have seen nothing, and on the week that begins with
it, which has four times as many users to say what is chance: the last night is a week from the world's end.

The last line is one JSON object: `recall_ratio_to_full`, the lowest of the compared nights' ratios of recall@100 of
retrieval in the week; `recall_ratios`, all of them by night, with 95 % interval and number of users, and
`recall_ratios_of_the_day`, of the newest day alone; `ndcg_ratios`, of NDCG@10 of retrieved and ranked lists on that day;
`speedup_over_full`, processor seconds in full by those of the job, of the stages that train and build (retrieval, linear,
served, search, index, ranking, policy), and `speedup_of_whole_job`, of all that the processes did, imports, checks,
judging, export and gate on both sides; `speedup_of_wall`, seconds in full by those of the job, from start to end of the
process, of nights that none was beside; `full_every`, how far compared nights lie apart; `seconds_of_a_job`, processor
seconds by stage, `seconds_of_a_process`, of it all, and `wall_seconds`, medians; `outcomes` by night; `ids_stable`; what
became of a day with a tenth of its events scrambled and of one with half of the media missing (`--bad-days`); and with
`--kills` the last nights again, killed at random moments (see `benchmarks/month_kills.py`).

`--quick` makes no releases: its jobs end with the judgement, in one process.

example: python benchmarks/month.py --days 30 --full-every 10 --config configs/demo.toml --bad-days --folder month
"""
KILLED_NIGHTS = 3
QUICK = [
    "encoders.text=signal:", "encoders.image=signal:", "encoders.audio=none", "search.enabled=false", "index.scann=false",
    "linear.parts=['closed_form']", "retrieval.width=32", "retrieval.history_length=15",
    "retrieval.history=mean", "retrieval.batch_size=256", "retrieval.learning_rate=0.004",
    "ranking.catch_up_epochs=0", "ranking.history_length=10", "ranking.cross_layers=1", "ranking.hidden=[32]",
    "ranking.retrieved=100", "policy.mmr_lambda=1.0", "job.valid_days=10", "job.warm_days=5",
    # One day of a small world has a hundred users: what chance does to their mean is more than two percent.
    "gate.tolerance=0.15", "gate.margin=0.5",
]  # fmt: skip


class Month:
    """Days of a world, the run folder that jobs work in, and a ledger of the nights that are done.

    Args:
        folder: of the month. options: of the command line.
    """

    def __init__(self, folder: Path, options: argparse.Namespace):
        self.folder, self.options, self.out = folder, options, folder / "run"
        world = options.world or folder / "world"
        if not (world / "interactions.parquet").is_file():
            generate_world(world, WorldConfig(seed=options.seed, items=options.items, users=options.users,
                                              events=options.events, days=options.history))  # fmt: skip
        self.store = Path(load_config(options.config, options.set).encoders.store or folder / "feature-store")
        self.settings = [*options.set, f"encoders.store={self.store}"]
        self.config = load_config(options.config, self.settings)
        self.ledger = Ledger(folder / "nights.json")
        self.last = options.days - 1
        left = [self.last - night + WEEK - 1 for night in range(options.days)]
        self.days = [cut(world, folder / f"day-{night:02d}", days) for night, days in enumerate(left)]
        self.weeks = Weeks(folder / "weeks", world, left, self.config)

    def command(self, day: Path, out: Path, *more: str, settings: Sequence[str] = ()) -> list[str]:
        settings = [*self.settings, *settings]
        if self.options.quick:
            return [sys.executable, __file__, "--walk", json.dumps([str(day), str(out), settings])]
        return job_command(day, out, self.options.config, settings, *more)

    def job(self, name: str, day: Path, out: Path) -> Night:
        """The night of that name: a job on a day's folder, unless the ledger has it."""
        if name in self.ledger.nights:
            return self.ledger.nights[name]
        log, processor, wall = self.folder / "jobs.log", None, None
        parent = (jobs_of(out) or [None])[-1] if self.options.quick else current_run(out)
        known = None if parent is None else tables_of(parent)  # the job may clear its folder
        if self.options.quick:
            walk(day, out, self.config, len(jobs_of(out)) + 1, self.say)
        else:
            before, begun = len(jobs_of(out)), time.perf_counter()
            code, used = finish(start(self.command(day, out), log))
            wall = time.perf_counter() - begun
            if code not in (0, 10, 11):
                raise SystemExit(f"month: the job of {name} ended with exit code {code}; see {log}")
            processor = used if len(jobs_of(out)) > before else None  # else it went on with an interrupted one
            if (out / "releases").is_dir():
                remove(out / "releases")
        night = night_of(newest_job(out), processor, known)
        night = self.ledger.add(name, dataclasses.replace(night, wall=None if processor is None else wall))
        print(f"{name}: {night.outcome} {night.why}, {night.total:.1f} s of a processor", file=sys.stderr)
        return night

    def say(self, line: str) -> None:
        if self.options.verbose:
            print(line, file=sys.stderr)

    def simulate(self) -> dict[str, Any]:
        """The whole month; what an interrupted one had finished is not done again."""
        options, last = self.options, self.last
        every = options.full_every
        compared = [night for night in range(1, last + 1) if night == last or (every and night % every == 0)]
        beside = self.retrain(last) if options.quick else None  # on another core
        nights, pairs = [], {}
        for number, day in enumerate(self.days):
            if number == last - KILLED_NIGHTS + 1 and options.kills:
                self.keep_run(number, "before-the-kills")
            if number == last and options.bad_days:
                self.keep_run(number, "before-the-last")
            if number in compared and not options.quick:
                self.keep_store(number)
            nights.append(self.job(f"night {number}", day, self.out))
            if number in compared:
                self.weeks.ask(number, "job", newest_job(self.out))
                pairs[number] = nights[number], self.full(number, beside)
        ratios = {number: self.weeks.ratio(number, "job", "full") for number in pairs}
        jobs = nights[1:]
        result: dict[str, Any] = {
            "recall_ratio_to_full": min(found["ratio"] for found in ratios.values()), "recall_ratios": ratios,
            "recall_ratios_of_the_day": {number: round(job.recall / full.recall, 4)
                                         for number, (job, full) in pairs.items() if job.recall and full.recall},
            "ndcg_ratios": {number: {part: round(job.ndcg[part] / value, 4) for part, value in full.ndcg.items() if value}
                            for number, (job, full) in pairs.items() if job.ndcg},
            "speedup_over_full": speedup(pairs.values(), "training"),
            "speedup_of_whole_job": speedup(pairs.values(), "whole"),
            "speedup_of_wall": speedup([pair for pair in pairs.values() if all(night.wall for night in pair)], "wall"),
            "full_every": every, "nights": len(jobs),
            "seconds_of_a_job": {name: round(float(np.mean([night.stages.get(name, 0.0) for night in jobs])), 2)
                                 for name in jobs[-1].stages},
            "seconds_of_a_process": round(float(np.mean([night.whole for night in jobs])), 2),
            "wall_seconds": {"job": median_wall(jobs), "full": median_wall([full for _, full in pairs.values()])},
            "ids_stable": all(night.ids for night in jobs),
            "outcomes": [night.outcome for night in nights],
        }  # fmt: skip
        day = self.days[-1]
        if options.bad_days:
            for name, spoil, share in (("scrambled_day", scrambled, 0.1), ("half_media_day", without_media, 0.5)):
                result[name] = self.bad_day(name, spoil(day, self.folder / name, share, options.seed))
        if options.kills:
            (self.folder / "kills").mkdir(exist_ok=True)
            result["kills"] = killed_nights(
                list(zip(self.days, nights, strict=True))[-KILLED_NIGHTS:], self.folder / "before-the-kills",
                self.folder / "kills", options.kills, self.command, options.seed, lambda line: print(line, file=sys.stderr),
            )  # fmt: skip
        return result

    def full(self, number: int, process: subprocess.Popen | None) -> Night:
        """The full retraining of a night, unless the ledger has it. `process`: it has begun already."""
        name, out = f"full {number}", self.folder / f"full-{number:02d}"
        if name not in self.ledger.nights:
            whole = not (out.is_dir() or self.options.quick)  # else it goes on with an interrupted one
            begun = time.perf_counter()
            code, used = finish(process or self.retrain(number))
            wall = time.perf_counter() - begun if whole else None
            if code not in (0, 10):
                raise SystemExit(f"month: {name} ended with exit code {code}; see {self.folder / 'jobs.log'}")
            self.weeks.ask(number, "full", newest_job(out))
            night = night_of(newest_job(out), used if whole else None, None)
            night = self.ledger.add(name, dataclasses.replace(night, wall=wall))
            print(f"{name}: {night.outcome} {night.why}, {night.total:.1f} s of a processor", file=sys.stderr)
            shutil.rmtree(out)
            shutil.rmtree(self.store_before(number), ignore_errors=True)
            weights_folder(self.store_before(number)).unlink(missing_ok=True)
        return self.ledger.nights[name]

    def retrain(self, night: int) -> subprocess.Popen:
        """A full retraining on a night's data, begun."""
        out, store = self.folder / f"full-{night:02d}", self.store_before(night)
        own = [f"encoders.store={store}"] if store.is_dir() else []
        return start(self.command(self.days[night], out, "--full", settings=own), self.folder / "jobs.log")

    def store_before(self, night: int) -> Path:
        """The content store as that night found it, for its full retraining."""
        return self.folder / f"store-before-{night:02d}"

    def keep_store(self, night: int) -> None:
        """Keep the content store as it is before a night, unless the night has begun; weights of encoders are shared."""
        kept, weights = self.store_before(night), weights_folder(self.store)
        if f"night {night}" in self.ledger.nights or not self.store.is_dir():
            return
        if weights.is_dir() and not weights_folder(kept).exists():
            weights_folder(kept).symlink_to(weights.resolve())
        self.keep_copy(self.store, kept.name)

    def keep_run(self, night: int, name: str) -> None:
        """Keep the run folder as it is before a night; after it, it is that of another story."""
        if f"night {night}" in self.ledger.nights and not (self.folder / name).is_dir():
            raise SystemExit(f"month: {self.folder} has no run folder of before night {night}, for --bad-days and --kills")
        self.keep_copy(self.out, name)

    def keep_copy(self, folder: Path, name: str) -> None:
        """A folder as it is now, whole, under a name in the month's own; unless it was kept before."""
        if not (self.folder / name).is_dir():
            shutil.rmtree(self.folder / "copying", ignore_errors=True)
            shutil.copytree(folder, self.folder / "copying")
            (self.folder / "copying").rename(self.folder / name)

    def bad_day(self, name: str, day: Path) -> dict[str, Any]:
        """What a job on a bad day's folder ends with, from a copy of the run folder."""
        out = self.folder / f"run-{name}"
        if name not in self.ledger.nights:
            shutil.rmtree(out, ignore_errors=True)
            shutil.copytree(self.folder / "before-the-last", out)
        before = list_releases(self.folder / "before-the-last" / "releases")
        night = self.job(name, day, out)
        checks = json.loads((newest_job(out) / "checks" / "checks.json").read_text())["checks"]
        warned = [f"{check['name']}: {check['found']}" for check in checks if check["verdict"] != "go"]
        released = list_releases(out / "releases") != before
        return {"outcome": night.outcome, "why": night.why, "checks": warned, "released": released}


def main() -> None:
    parser = argparse.ArgumentParser(description=HELP, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="three days of a small world, with signal: encoders")
    parser.add_argument("--days", type=int, default=30, help="the first in full, then a job a night")
    parser.add_argument("--full-every", type=int, default=0, help="nights between full retrainings; 0 = the last alone")
    parser.add_argument("--world", type=Path, help="a generated world's folder; made unless given")
    parser.add_argument("--items", type=int, default=1500)
    parser.add_argument("--users", type=int, default=2500)
    parser.add_argument("--events", type=int, default=128_000)
    parser.add_argument("--history", type=int, default=96, help="days of the generated world")
    parser.add_argument("--config", type=Path, help="TOML file of settings")
    parser.add_argument("--set", action="append", default=[], help="override a setting")
    parser.add_argument(
        "--bad-days", action="store_true", help="also a scrambled day, and one without half of its media"
    )
    parser.add_argument(
        "--kills", type=int, default=0, help="kill the jobs of the last nights so often at random moments"
    )
    parser.add_argument("--folder", type=Path, help="keep everything there; an interrupted simulation goes on")
    parser.add_argument("--walk", help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--verbose", action="store_true", help="say what every stage of `--quick` does")
    options = parser.parse_args()
    if options.walk:
        day, out, settings = json.loads(options.walk)
        walk(Path(day), Path(out), load_config(None, settings), 1, lambda line: None)
        return
    if options.quick:
        if options.bad_days or options.kills:
            parser.error("--quick: makes no releases, so leave --bad-days and --kills for a whole month")
        options.days = 3
        options.items, options.users, options.events, options.history = 250, 300, 13_200, 66
        options.set = [*QUICK, *options.set]
    if options.days < (KILLED_NIGHTS + 1 if options.kills else 2):
        parser.error(f"--days: one to start from and a night at least, with --kills {KILLED_NIGHTS} nights")
    # Jobs run in the repository, wherever this was started.
    options.config, options.world = (path and path.resolve() for path in (options.config, options.world))
    begun = time.perf_counter()
    with contextlib.ExitStack() as stack:
        folder = options.folder or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="triptych-month-")))
        folder.mkdir(parents=True, exist_ok=True)
        result = Month(folder.resolve(), options).simulate()
    print(json.dumps({**result, "seconds": round(time.perf_counter() - begun, 1)}))


if __name__ == "__main__":
    main()
