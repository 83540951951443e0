"""One night of a simulated month: a job as a scheduler starts it, and the record of what it made and cost."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import numpy as np

from data.durable_file import write_durably
from pipeline.nightly.record import JobRecord, outcome_of, write_outcome
from pipeline.nightly.run import JobRun
from pipeline.settings.config import Config
from pipeline.stage import PROCESSOR, read_manifest, stage_seconds

ROOT = Path(__file__).resolve().parent.parent
Tables = tuple[bytes, ...]
"""Ids of users and of items, a line each, in the order of their rows."""
TRAINING = ("retrieval", "linear", "served", "search", "index", "ranking", "policy")


@dataclasses.dataclass(frozen=True)
class Night:
    """What one night's job ended with.

    Attributes:
        outcome, why: as `outcome.json` says. release: version and fingerprint, where one was published.
        recall: recall@100 of the candidate's retrieval on the newest day; None where it was not measured. ndcg: NDCG@10 there,
            of its "retrieval" and of its "ranked" lists.
        stages: processor seconds by stage. processor: of the whole process, from its start; None where it was interrupted.
        ids: whether every id of the release that it went on from has kept its row.
        candidate: fingerprint of what was exported, published or not. job: number of the job. wall: seconds from the start of
            the process to its end; None where it was interrupted, or had another process beside it.
    """

    outcome: str
    why: str
    release: dict[str, Any] | None
    recall: float | None
    stages: dict[str, float]
    processor: float | None
    ids: bool
    candidate: str | None = None
    job: int = 0
    wall: float | None = None
    ndcg: dict[str, float] = dataclasses.field(default_factory=dict)

    @property
    def training(self) -> float:
        """Processor seconds of the stages that train and build."""
        return sum(self.stages.get(name, 0.0) for name in TRAINING)

    @property
    def whole(self) -> float:
        """Processor seconds of the whole process; of its stages alone where it was interrupted."""
        return self.processor or self.total

    @property
    def total(self) -> float:
        """Processor seconds of all stages."""
        return sum(self.stages.values())


def job_command(day: Path, out: Path, config: Path | None, settings: list[str], *more: str) -> list[str]:
    """The command line of a job."""
    command = [sys.executable, "-m", "pipeline", "job", "--data", str(day), "--out", str(out), *more]
    command += ["--config", str(config)] if config else []
    return command + [part for setting in settings for part in ("--set", setting)]


def start(command: list[str], log: Path) -> subprocess.Popen:
    """A process of its own, what it says added to a file."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with log.open("a") as lines:
        return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=lines, stderr=lines)


def finish(process: subprocess.Popen) -> tuple[int, float]:
    """Exit code and processor seconds of a process and its children."""
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return process.returncode, used.ru_utime + used.ru_stime


def newest_job(out: Path) -> Path:
    """Folder of the job that was begun last."""
    return max((out / "jobs").glob("[0-9]*"))


def walk(day: Path, out: Path, config: Config, number: int, say: Callable[[str], None]) -> None:
    """A job of `--quick`: its stages as far as the judgement, from the job before, without a release and its gate."""
    parent = f"jobs/{number - 1:04d}" if number > 1 else ""
    folder = out / "jobs" / f"{number:04d}"
    run = JobRun(day, folder, config, say, parent=out / parent if parent else None, full=not parent, version=number)
    JobRecord(number, parent, None, "", "", "", not parent).write(folder)
    for stage in (run.ingest, run.encode, run.check_data, run.train_retrieval, run.train_linear, run.train_search,
                  run.index, run.train_ranking, run.choose_policy, run.judge):  # fmt: skip
        stage()
    decision = run.check_data().manifest["counts"]["decision"]
    write_outcome(folder, {"job": number, "outcome": f"judged, data {decision}", "why": ""})


def night_of(folder: Path, processor: float | None, before: Tables | None) -> Night:
    """What a finished job's folder says. `before`: tables of the job whose rows this one keeps."""
    outcome, stages = outcome_of(folder) or {}, stage_seconds(folder, PROCESSOR)
    judged, recall, ndcg = folder / "judge" / "figures.json", None, {}
    if judged.is_file():
        metrics = {name: found.get("candidate") for name, found in json.loads(judged.read_text())["metrics"].items()}
        recall, ndcg = metrics.get("retrieval recall@100"), {"retrieval": metrics["retrieval NDCG@10"]}
        ndcg["ranked"] = metrics["ranked NDCG@10"]
    return Night(
        outcome.get("outcome", "not finished"), outcome.get("why", ""), outcome.get("release"), recall, stages,
        processor, before is None or keeps_rows(before, tables_of(folder)), candidate_of(folder),
        int(folder.name), ndcg=ndcg,
    )  # fmt: skip


def candidate_of(folder: Path) -> str | None:
    """Fingerprint of what a job has exported."""
    return ((read_manifest(folder / "export") or {}).get("counts") or {}).get("fingerprint")


def tables_of(job: Path) -> Tables:
    """The vocabularies of a job, whose folder may be cleared once it is no longer the current one."""
    return tuple((job / "ingest" / name).read_bytes() for name in ("user_ids.txt", "item_ids.txt"))


def keeps_rows(before: Tables, after: Tables) -> bool:
    r"""Whether every id that the earlier job's tables hold has the same row in the later one's.

    Example:
        >>> keeps_rows((b"", b"a\nb\n"), (b"u\n", b"a\nb\nc\n")), keeps_rows((b"", b"a\nb\n"), (b"", b"b\na\n"))
        (True, False)
    """
    return all(later.startswith(earlier) for earlier, later in zip(before, after, strict=True))


class Ledger:
    """Nights that are done, in a file of the month's folder: an interrupted month goes on with the next.

    Args:
        file: of the ledger.
    """

    def __init__(self, file: Path):
        self.file = file
        self.nights: dict[str, Night] = {}
        if file.is_file():
            self.nights = {name: Night(**told) for name, told in json.loads(file.read_text()).items()}

    def add(self, name: str, night: Night) -> Night:
        self.nights[name] = night
        told = {key: dataclasses.asdict(value) for key, value in self.nights.items()}
        write_durably(self.file, [json.dumps(told, indent=1).encode()])
        return night


def speedup(pairs: Collection[tuple[Night, Night]], name: str) -> float | None:
    """Seconds in full by those of the job, over the compared nights; None without any."""
    if not pairs:
        return None
    job, full = (sum(getattr(night, name) for night in side) for side in zip(*pairs, strict=True))
    return round(full / job, 2)


def median_wall(nights: list[Night]) -> float | None:
    """Of those that were measured."""
    measured = [night.wall for night in nights if night.wall]
    return round(float(np.median(measured)), 1) if measured else None
