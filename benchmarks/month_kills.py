"""The nights of a month again, with every job killed at random moments: what is released must be what was."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.month_nights import Night, candidate_of, newest_job, start
from pipeline.nightly.record import outcome_of
from pipeline.stage import PROCESSOR, stage_seconds
from serving.releases.release import list_releases, verify_release


def killed_nights(
    nights: list[tuple[Path, Night]],
    first: Path,
    out: Path,
    kills: int,
    command: Callable[[Path, Path], list[str]],
    seed: int,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """The same jobs once more, killed.

    Every job is killed until its share of the kills is spent, each time after a while that is drawn evenly from zero to the
    seconds that it has still to go, by what the undisturbed one took, and then left to end. A job that ends before its share
    is spent passes the rest on; what the last one leaves is spent on another walk from the first release.

    Args:
        nights: day's folder and undisturbed job of each. first: run folder as it was before them; stays as it is.
        out: folder to work in. command: (day, run folder) -> command line of a job.

    Returns: `kills`; `moments`, which stage was under way how often; `walks`; `partial_releases`, how often one was visible
        that does not verify; `releases`, how many the jobs of all walks made; `same_releases`, whether version,
        fingerprint and outcome of each, published or kept back, are those of the undisturbed job.
    """
    rng = random.Random(seed)
    found: dict[str, Any] = {"kills": 0, "moments": {}, "walks": 0, "partial_releases": 0, "releases": 0,
                             "same_releases": True}  # fmt: skip
    while found["kills"] < kills:
        place = out / f"walk-{found['walks']}"
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(first, place)
        for number, (day, calm) in enumerate(nights):
            share = (kills - found["kills"]) // (len(nights) - number)
            while True:
                left = max(calm.whole - seconds_done(place, calm.job), 1.0)
                process = start(command(day, place), out / "kills.log")
                try:
                    process.wait(rng.uniform(0, left) if share > 0 else None)
                except subprocess.TimeoutExpired:
                    process.send_signal(signal.SIGKILL)
                    process.wait()
                    share -= 1
                    found["kills"] += 1
                    stage = under_way(newest_job(place))
                    found["moments"][stage] = found["moments"].get(stage, 0) + 1
                found["partial_releases"] += partial_releases(place / "releases")
                if process.returncode != -signal.SIGKILL:
                    break
            job = newest_job(place)
            made, outcome = candidate_of(job), outcome_of(job) or {}
            found["releases"] += made is not None
            same = (made, outcome.get("release"), outcome.get("outcome")) == (
                calm.candidate,
                calm.release,
                calm.outcome,
            )
            found["same_releases"] &= same
            say(f"walk {found['walks']}, {day.name}: exit {process.returncode}, {made}, {found['kills']} kills")
        shutil.rmtree(place)
        found["walks"] += 1
    return found


def seconds_done(out: Path, number: int) -> float:
    """Processor seconds of the stages that the job of that number has behind it."""
    return sum(stage_seconds(out / "jobs" / f"{number:04d}", PROCESSOR).values())


def partial_releases(releases: Path) -> int:
    """How many of the visible releases are not whole."""
    broken = 0
    for version in list_releases(releases):
        try:
            verify_release(releases / str(version))
        except ValueError:
            broken += 1
    return broken


def under_way(job: Path) -> str:
    """The stage that a killed job had begun and not finished; "between stages" where there is none."""
    begun = sorted(path.name.removeprefix(".writing-") for path in job.glob(".writing-*"))
    return begun[-1].split("-")[0] if begun else "between stages"
