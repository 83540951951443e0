"""A nightly job: last release and new data in, next release out, or a reason why not; safe to start twice and to kill."""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from data.durable_file import sync
from pipeline.cores import compute_on, cores_beside
from pipeline.nightly.beside import Beside
from pipeline.nightly.check import STOP
from pipeline.nightly.export import Exporter
from pipeline.nightly.gate import DECISION, explain
from pipeline.nightly.lock import JobLock, held
from pipeline.nightly.record import (
    JOBS,
    KEPT,
    PUBLISHED,
    STOPPED,
    SUPERSEDED,
    JobRecord,
    clear_up,
    current_run,
    jobs_of,
    next_version,
    outcome_of,
    release_lost,
    released_folder,
    write_outcome,
)
from pipeline.nightly.run import JobRun
from pipeline.reproduce_record import write_settings
from pipeline.settings.config import Config
from pipeline.stage import (
    StageError,
    StageResult,
    code_fingerprint,
    digest,
    folder_fingerprint,
    read_manifest,
    stage_seconds,
)

EXIT_CODES = {PUBLISHED: 0, KEPT: 10, STOPPED: 11, "locked": 12, "failed": 13}
"""What a scheduler reads; 2 is a wrong command line, as everywhere."""
Say = Callable[[str], None]


def run_job(
    source: Path,
    out: Path,
    config: Config,
    *,
    full: bool = False,
    say: Say = print,
    beside: Beside | None = None,
) -> dict[str, Any]:
    """Do the next job of a run folder, or go on with the one that was interrupted.

    The same data, settings and release as those of a finished job are the same job: its outcome is returned, nothing is
    done. Other data than those of an unfinished one begin a new job, and the old one is superseded.

    Args:
        source: dataset folder. out: run folder, with `releases/` and `jobs/`; may be empty, for the first release.
        full: train everything from nothing; ids keep their rows all the same.
        beside: processes that have been begun for this job; an exporter of its own unless given.

    Returns: the outcome, as `outcome.json` in the job's folder has it.

    Raises:
        LockedError: another job is at work. StageError, DatasetError: nothing can be made of this, and why.
    """
    if not config.encoders.store:
        # Jobs share the store of the run folder: only new media are encoded.
        store = config.encoders.model_copy(update={"store": str(out.parent / "feature-store")})
        config = config.model_copy(update={"encoders": store})
    with held(out / JOBS, "job", config.job.lock_seconds, say) as lock:
        record, folder = open_job(source, out, config, full)
        finished = outcome_of(folder)
        if finished is not None:
            say(f"[job {record.name}] {finished['outcome']} before; nothing is new")
            return finished
        clear_up(out, config.job.keep)  # a night that fails does not get to it again, and the next one needs the place
        say(f"[job {record.name}] from {record.parent or 'nothing'}{', in full' if record.full else ''}")
        write_settings(folder, config)
        with beside or Beside(Exporter()) as processes:
            outcome = work(source, out, config, record, folder, lock, processes, say)
            write_outcome(folder, outcome)
            write_job_report(folder, source, processes, say)
        clear_up(out, config.job.keep)
        say(f"[job {record.name}] {outcome['outcome']}: {outcome['why']}")
        return outcome


def open_job(source: Path, out: Path, config: Config, full: bool) -> tuple[JobRecord, Path]:
    """The job to do: the last one where it would be the same, else the next number."""
    parent = current_run(out)
    release = None
    if parent is not None and (place := released_folder(parent)) is not None:
        manifest = read_manifest(place) or {}
        release = {name: manifest.get(name) for name in ("version", "fingerprint")}
    jobs = jobs_of(out)
    record = JobRecord(
        number=int(jobs[-1].name) + 1 if jobs else 1,
        parent="" if parent is None else str(parent.relative_to(out)),
        release=release,
        source=folder_fingerprint(source),
        settings=digest(deciding(config)),
        code=code_fingerprint("data", "towers", "ranking", "serving", "pipeline"),
        full=full or parent is None,
    )
    if jobs and (last := JobRecord.read(jobs[-1])) is not None:
        ended = outcome_of(jobs[-1])
        told = (ended or {}).get("release") or {}
        # A published job has become the parent itself; its own record names the one before.
        again = ended is not None and ended["outcome"] == PUBLISHED and told.get("version") == (release or {}).get("version")
        # What mended code would decide is for it to say; a job that is not finished goes on with it.
        same = last.same_work(record) and (ended is None or last.code == record.code)
        lost = ended is not None and release_lost(out, ended)  # it is to be made again, whoever asks
        if (same and not lost) or (again and same_questions(last, record, full)) or (
            ended is None and interrupted_publishing(out, jobs[-1])
        ):
            return last, jobs[-1]
        if ended is None:
            write_outcome(jobs[-1], {"job": last.number, "outcome": SUPERSEDED, "why": f"job {record.name} has other data"})
    folder = out / JOBS / record.name
    record.write(folder)
    return record, folder


def same_questions(last: JobRecord, record: JobRecord, full: bool) -> bool:
    """Whether a job asks for what the last one has published already."""
    return last.source == record.source and last.settings == record.settings and (last.full or not full)


def interrupted_publishing(out: Path, folder: Path) -> bool:
    """Whether a job was killed after its release had become visible and before its outcome was written."""
    made = ((read_manifest(folder / "export") or {}).get("counts")) or {}
    there = read_manifest(out / "releases" / str(made.get("version", "")))
    return there is not None and there.get("fingerprint") == made.get("fingerprint")


def deciding(config: Config) -> dict[str, Any]:
    """The settings that decide what a job makes: all but where it keeps vectors and how it holds its lock."""
    settings = config.model_dump(mode="json")
    settings["encoders"].pop("store", None)
    for name in ("lock_seconds", "keep"):
        settings["job"].pop(name)
    return settings


def work(
    source: Path, out: Path, config: Config, record: JobRecord, folder: Path, lock: JobLock, beside: Beside, say: Say
) -> dict[str, Any]:
    """Every stage in order; each is whole or not at all, so that a job goes on where it was killed."""
    start = time.perf_counter()
    lineage = {"job": record.number, "full": record.full, "made_from": dataclasses.asdict(record)}
    if interrupted_publishing(out, folder):
        counts = (read_manifest(folder / "export") or {})["counts"]
        return lineage | outcome_released(folder, counts, start)
    if config.encoders.trained() and not record.full:
        raise StageError("job: encoders that train (encoders.*.train) know the events of their run; use --full, or 'frozen'.")
    if record.full:
        # The others work for one that goes on from the last release.
        beside = Beside(beside.exporter, reporter=beside.reporter)
    elif beside.linear is not None:
        compute_on(cores_beside())
    parent = out / record.parent if record.parent else None
    run = JobRun(
        source,
        folder,
        config,
        say,
        parent=parent,
        full=record.full,
        version=next_version(out),
        exporter=beside.exporter,
        linear=beside.linear,
        encoder=beside.encoder,
        current_judge=beside.current_judge,
        reporter=beside.reporter,
    )

    def step(stage: Callable[[], Any]) -> Any:
        lock.check()
        return stage()

    step(run.begin_encoding)
    step(run.ingest)
    step(run.check_policy)
    if config.enrich.enabled:
        step(run.enrich)
    step(run.encode)
    step(run.finetune)
    checked: StageResult = step(run.check_data)
    lineage["checks"] = checked.manifest["counts"]
    if checked.manifest["counts"]["decision"] == STOP:
        why = "; ".join(checked.manifest["counts"]["stopped_by"])
        return lineage | {"outcome": STOPPED, "why": why, "release": None, "seconds": seconds_of(folder), **kept(out)}
    for stage in (run.begin_linear, run.begin_judging, run.train_retrieval, run.train_linear, run.train_search,
                  run.begin_export, run.index, run.train_ranking, run.choose_policy, run.judge, run.export):  # fmt: skip
        step(stage)
    decided: StageResult = step(run.decide)
    if not decided.manifest["counts"]["publish"]:
        why = "the gate: " + ", ".join(decided.manifest["counts"]["failed"])
        return lineage | {"outcome": KEPT, "why": why, "release": None, "seconds": seconds_of(folder), **kept(out)}
    lock.check()
    counts = (read_manifest(folder / "export") or {})["counts"]
    publish(folder / "releases" / str(run.version), out / "releases" / str(run.version))
    return lineage | outcome_released(folder, counts, start)


def publish(candidate: Path, place: Path) -> None:
    """Make a verified candidate visible by one rename; nobody ever sees a part of it.

    Raises:
        StageError: somebody has published that number meanwhile; the job, started again, takes the next.
    """
    place.parent.mkdir(parents=True, exist_ok=True)
    if place.exists():
        raise StageError(f"{place}: was published by somebody else meanwhile; start the job again.")
    os.rename(candidate, place)
    sync(place.parent)


def outcome_released(folder: Path, counts: dict[str, Any], start: float) -> dict[str, Any]:
    release = {name: counts[name] for name in ("version", "fingerprint")}
    return {
        "outcome": PUBLISHED, "why": f"release {counts['version']}", "release": release, "seconds": seconds_of(folder),
        "keys": {file.parent.relative_to(folder).as_posix(): json.loads(file.read_text())["key"]
                 for file in sorted([*folder.glob("*/manifest.json"), *folder.glob("*/full/manifest.json")])
                 if not file.parent.name.startswith(".")},
    }  # fmt: skip


def seconds_of(folder: Path) -> dict[str, float]:
    """Seconds of every stage that has finished, and of all together."""
    seconds = stage_seconds(folder)
    return {**seconds, "total": round(sum(seconds.values()), 3)}


def kept(out: Path) -> dict[str, Any]:
    """The release that stays."""
    run = current_run(out)
    place = None if run is None else released_folder(run)
    return {"current": None if place is None else int(place.name)}


def write_job_report(folder: Path, source: Path, beside: Beside, say: Say) -> None:
    """`report.json` and `report.html` of a job: data checks and gate, beside what its stages measured."""
    written = None
    if beside.reporter is not None:
        beside.reporter.go_on()
        written, _ = beside.reporter.answer()
    if not written:
        from pipeline.report.page import write_report

        write_report(folder, source)
    say(f"[job {folder.name}] {folder / 'report.html'}")


def gate_lines(out: Path, number: int | None) -> list[str]:
    """What the gate said of a job, the newest unless told otherwise, line by line.

    Raises:
        StageError: there is no such job, or its gate has not been reached.
    """
    jobs = [folder for folder in jobs_of(out) if number is None or int(folder.name) == number]
    if not jobs:
        raise StageError(f"{out / JOBS}: has no job{'' if number is None else f' {number}'}; run `python -m pipeline job`.")
    folder = jobs[-1]
    outcome = outcome_of(folder) or {"outcome": "not finished", "why": "start `python -m pipeline job` again to go on"}
    lines = [f"job {folder.name}: {outcome['outcome']}; {outcome['why']}"]
    if (folder / "gate" / DECISION).is_file():
        lines += explain(json.loads((folder / "gate" / DECISION).read_text()))
    return lines
