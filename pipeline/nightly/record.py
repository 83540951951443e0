"""The record of a job: what it was made from, what became of it, and which run the current release came from."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

from data.durable_file import write_durably
from pipeline.reproduce_record import SETTINGS
from pipeline.stage import read_json, read_manifest

JOBS, RECORD, OUTCOME = "jobs", "job.json", "outcome.json"
PUBLISHED, KEPT, STOPPED, SUPERSEDED = "published", "kept", "stopped", "superseded"
REMAINS = (RECORD, OUTCOME, SETTINGS, "checks", "gate", "judge", "report.json", "report.html")
"""What stays of a job whose models are no longer needed."""


@dataclasses.dataclass(frozen=True)
class JobRecord:
    """What decides a job's result, written before its first stage.

    Attributes:
        number: of the job. parent: folder of the run that the current release came from, relative to the run folder; ""
            none. release: version and fingerprint of that release; None without one.
        source: fingerprint of the dataset folder. settings: digest of the settings. code: of the project's code.
        full: whether everything is trained from nothing.
    """

    number: int
    parent: str
    release: dict[str, Any] | None
    source: str
    settings: str
    code: str
    full: bool

    @property
    def name(self) -> str:
        return f"{self.number:04d}"

    def same_work(self, other: JobRecord) -> bool:
        """Whether the other would do the same; code may have changed in between, stages see to that."""
        fields = ("parent", "release", "source", "settings", "full")
        return all(getattr(self, name) == getattr(other, name) for name in fields)

    def write(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        write_durably(folder / RECORD, [json.dumps(dataclasses.asdict(self), indent=2).encode()])

    @classmethod
    def read(cls, folder: Path) -> JobRecord | None:
        told = read_json(folder / RECORD)
        return None if told is None else cls(**told)


def jobs_of(out: Path) -> list[Path]:
    """Folders of all jobs of a run folder, oldest first."""
    return sorted(path for path in (out / JOBS).glob("[0-9]*") if (path / RECORD).is_file())


def outcome_of(folder: Path) -> dict[str, Any] | None:
    """What became of a job; None while it is not finished."""
    return read_json(folder / OUTCOME)


def write_outcome(folder: Path, outcome: dict[str, Any]) -> None:
    write_durably(folder / OUTCOME, [json.dumps(outcome, indent=2, default=str).encode()])


def current_run(out: Path) -> Path | None:
    """The run folder whose models are released now: a job's, or the run folder itself; None where nothing is released.

    Of the published releases that nobody has withdrawn, the newest counts; see `ReleaseLabels.standing`.
    """
    published = _standing(out / "releases")
    run = run_of(out, published[-1]) if published else None
    return run if run != out or read_manifest(out / "export") else None


def run_of(out: Path, version: int) -> Path:
    """The run folder that a release was made in: a job's, or the run folder itself."""
    made = {outcome["release"]["version"]: folder for folder in jobs_of(out)
            if (outcome := outcome_of(folder)) and outcome["outcome"] == PUBLISHED}  # fmt: skip
    return made.get(version, out)


def released_folder(run: Path) -> Path | None:
    """The release that a run became, of a run that is no job's the newest that nobody has withdrawn; None where it is gone."""
    outcome = outcome_of(run)
    if outcome is not None:
        return run.parent.parent / "releases" / str(outcome["release"]["version"])
    published = _standing(run / "releases")
    return run / "releases" / str(published[-1]) if published else None


def release_lost(out: Path, outcome: dict[str, Any]) -> bool:
    """Whether the release of a job is there no more, though nobody has withdrawn it: its folder was taken away by hand."""
    from serving.releases.labels import read_labels
    from serving.releases.release import list_releases

    if outcome["outcome"] != PUBLISHED:
        return False
    releases, version = out / "releases", int(outcome["release"]["version"])
    return version not in list_releases(releases) and version in read_labels(releases).standing([version])


def next_version(out: Path) -> int:
    """The number of the next release: above all that are there and all that ever were, since a server that holds a release in
    memory would take another of the same number for it."""
    from serving.releases.labels import read_labels
    from serving.releases.release import list_releases

    releases = out / "releases"
    told = [outcome for folder in jobs_of(out) if (outcome := outcome_of(folder)) and outcome["outcome"] == PUBLISHED]
    published = [int(outcome["release"]["version"]) for outcome in told]
    return max([0, *list_releases(releases), *published, *read_labels(releases).versions]) + 1


def clear_up(out: Path, keep: int) -> None:
    """Leave the record alone of every job but the newest, which may be gone on with; the newest `keep` that came to an end;
    and those that the current and the labelled releases came from: by a roll back the stable or the previous one is current
    again. A job that was superseded, or is not finished while there is a newer one, is never gone on with: nights that fail
    one after the other, each with other data, leave one folder that is whole."""
    from serving.releases.labels import read_labels

    jobs = jobs_of(out)
    ended = [folder for folder in jobs if (outcome := outcome_of(folder)) and outcome["outcome"] != SUPERSEDED]
    labelled = {run_of(out, version) for version in read_labels(out / "releases").versions}
    for folder in set(jobs[:-1]) - {current_run(out), *ended[-keep:], *labelled}:
        for path in folder.iterdir():
            if path.name not in REMAINS:
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def _standing(releases: Path) -> list[int]:
    from serving.releases.labels import read_labels
    from serving.releases.release import list_releases

    return read_labels(releases).standing(list_releases(releases))
