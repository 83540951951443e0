"""The nights of a month again, with every job killed at random moments: what is released must be what was."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.month_nights import newest_job, start
from pipeline.job_record import outcome_of
from serving.release import list_releases, verify_release


def killed_nights(
    days: list[Path],
    first: Path,
    out: Path,
    kills: int,
    command: Callable[[Path, Path], list[str]],
    seed: int,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Jobs on these days, undisturbed and killed, from the same first release.

    Every job is killed until its share of the kills is spent, each time after a while that is drawn evenly from zero to the
    seconds that the undisturbed one took, and then left to end. A job that ends before its share is spent passes the rest on;
    what the last one leaves is spent on another walk from the first release.

    Args:
        first: run folder with the release that the first of the jobs goes on from; stays as it is.
        out: folder to work in. command: (day, run folder) -> command line of a job.

    Returns: `kills`; `moments`, how often each stage was under way; `walks`; `partial_releases`, how often one was visible that
        does not verify; `same_releases`, whether versions and fingerprints of every walk are those of the undisturbed one.
    """
    calm, log = out / "calm", out / "kills.log"
    if not calm.is_dir():
        shutil.copytree(first, out / "copying", dirs_exist_ok=True)
        (out / "copying").rename(calm)
    seconds = []
    for day in days:
        begun = time.perf_counter()
        start(command(day, calm), log).wait()
        seconds.append(time.perf_counter() - begun)
        say(f"undisturbed {day.name}: {outcome_of(newest_job(calm))['outcome']}, {seconds[-1]:.1f} s")
    wanted, rng = fingerprints(calm), random.Random(seed)
    done, walks, partial, same, moments = 0, 0, 0, True, {}
    while done < kills:
        disturbed = out / f"walk-{walks}"
        shutil.rmtree(disturbed, ignore_errors=True)
        shutil.copytree(first, disturbed)
        for number, day in enumerate(days):
            share = (kills - done) // (len(days) - number)
            while True:
                process = start(command(day, disturbed), log)
                try:
                    process.wait(rng.uniform(0, seconds[number]) if share > 0 else None)
                except subprocess.TimeoutExpired:
                    process.send_signal(signal.SIGKILL)
                    process.wait()
                    done, share = done + 1, share - 1
                    stage = under_way(newest_job(disturbed))
                    moments[stage] = moments.get(stage, 0) + 1
                for version in list_releases(disturbed / "releases"):
                    try:
                        verify_release(disturbed / "releases" / str(version))
                    except ValueError:
                        partial += 1
                if process.returncode != -signal.SIGKILL:
                    break
            say(f"walk {walks}, {day.name}: exit {process.returncode}, {done} kills")
        same &= fingerprints(disturbed) == wanted
        walks += 1
    return {"kills": done, "moments": moments, "walks": walks, "releases": len(wanted), "partial_releases": partial,
            "same_releases": same}  # fmt: skip


def fingerprints(out: Path) -> dict[int, str]:
    """Fingerprint of every release that is there, by version, each verified."""
    releases = out / "releases"
    return {version: verify_release(releases / str(version)).fingerprint for version in list_releases(releases)}


def under_way(job: Path) -> str:
    """The stage that a killed job had begun and not finished; "between stages" where there is none."""
    begun = sorted(path.name.removeprefix(".writing-") for path in job.glob(".writing-*"))
    return begun[-1].split("-")[0] if begun else "between stages"
