"""What a run was made from, kept in its folder: all its settings, digests of data and code, versions, its stages' keys."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
import os
import platform
from collections.abc import Mapping
from pathlib import Path

import tomli_w

from data.durable_file import write_durably
from data.folder_lock import LOCK_FILE
from pipeline.settings.config import Config
from pipeline.stage import StageError, folder_fingerprint, read_json, read_manifest

SETTINGS, RECORD = "settings.toml", "made_from.json"
ROOMS = ("data", "towers", "ranking", "serving", "pipeline")
PACKAGES = (
    "tensorflow", "tensorflow-text", "keras", "keras-hub", "scann", "jax", "numpy", "ml-dtypes", "scipy", "scikit-learn",
    "lightgbm", "pandas", "pyarrow", "pillow", "soundfile", "av", "mido", "sentencepiece", "safetensors",
)  # fmt: skip
"""What computes a run's numbers, where it is installed."""


@dataclasses.dataclass(frozen=True)
class MadeFrom:
    """What decides a run beside its settings.

    Attributes:
        source: the dataset folder. stamp: its cheap fingerprint, by names, sizes and times.
        data, code: sha256 of every file of the dataset folder and of the project's source, by path.
        packages, machine: versions, and what computed: other ones may give other last digits.
        stages: the keys of the stages when the run had ended.
    """

    source: str
    stamp: str
    data: Mapping[str, str]
    code: Mapping[str, str]
    packages: Mapping[str, str]
    machine: Mapping[str, str]
    stages: Mapping[str, str] = dataclasses.field(default_factory=dict)


def made_from(source: Path, earlier: MadeFrom | None = None) -> MadeFrom:
    """Looks at data, code and machine as they are now.

    Args:
        source: the dataset folder; every file is read once.
        earlier: a record whose digests of the data hold as long as its stamp does, so that nothing is read again.
    """
    source, stamp = source.resolve(), folder_fingerprint(source)
    known = earlier is not None and (earlier.source, earlier.stamp) == (str(source), stamp)
    root = Path(__file__).resolve().parent.parent
    code = [path for room in ROOMS for pattern in ("*.py", "*.j2") for path in (root / room).rglob(pattern)]
    return MadeFrom(
        source=str(source),
        stamp=stamp,
        data=earlier.data if known and earlier else file_digests(source, _files(source)),
        code=file_digests(root, sorted(code)),
        packages={name: version for name in PACKAGES if (version := _version(name))},
        machine={
            "python": platform.python_version(),
            "system": f"{platform.system()} {platform.machine()}",
            "processor": _processor(),
            "cores": str(len(os.sched_getaffinity(0))),
        },
    )


def _files(source: Path) -> list[Path]:
    return sorted(path for path in source.rglob("*") if path.name != LOCK_FILE)


def file_digests(folder: Path, paths: list[Path]) -> dict[str, str]:
    """Sha256 of files, by their paths under `folder`."""
    digests = {}
    for path in paths:
        if path.is_file():
            with path.open("rb") as stream:
                digests[path.relative_to(folder).as_posix()] = hashlib.file_digest(stream, "sha256").hexdigest()
    return digests


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _processor() -> str:
    """Its name as Linux tells it; what Python knows elsewhere."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def stage_keys(run: Path) -> dict[str, str]:
    """The keys of all finished stages of a run folder, by name."""
    folders = sorted(file.parent for depth in ("*", "*/*") for file in run.glob(f"{depth}/manifest.json"))
    manifests = [read_manifest(folder) or {} for folder in folders if ".old-" not in str(folder.relative_to(run))]
    return {manifest["stage"]: manifest["key"] for manifest in manifests if "stage" in manifest}


def differing(then: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """What only one of two mappings has, or both with other values.

    Example:
        >>> differing({"a": "1", "b": "2", "d": "5"}, {"a": "3", "c": "4", "d": "5"})
        ['a', 'b', 'c']
    """
    return sorted(name for name in then.keys() | now.keys() if then.get(name) != now.get(name))


def write_settings(run: Path, config: Config) -> None:
    """Puts `settings.toml` into a run folder, or a job's."""
    # TOML has no null; a setting that is None is None by default, so leaving it out says the same.
    write_durably(run / SETTINGS, [tomli_w.dumps(config.model_dump(mode="json", exclude_none=True)).encode()])


def write_made_from(run: Path, config: Config, record: MadeFrom) -> None:
    """Puts `settings.toml` and `made_from.json` into a run folder; the stages' keys are added here."""
    write_settings(run, config)
    whole = dataclasses.replace(record, stages=stage_keys(run))
    (run / RECORD).write_text(json.dumps(dataclasses.asdict(whole), indent=1, sort_keys=True))


def read_made_from(run: Path) -> MadeFrom | None:
    """The record of a run; None where it has none."""
    told = read_json(run / RECORD)
    return None if told is None else MadeFrom(**told)


def finished_record(run: Path) -> MadeFrom:
    """The record of a run that has ended and was not touched since.

    Raises:
        StageError: no record, or stages that ran again after it was written, under settings that it does not hold.
    """
    record = read_made_from(run)
    if record is None:
        raise StageError(
            f"{run}: there is no {RECORD}. Give the folder of a run that `python -m pipeline run` has finished; for an older "
            "one, run it again with its settings: what is unchanged is skipped, and the record is written."
        )
    changed = differing(record.stages, stage_keys(run))
    if changed:
        raise StageError(
            f"{run}: {', '.join(changed)} changed after the run had ended, so {SETTINGS} does not tell how they were made. "
            "Run `python -m pipeline run` on it again first."
        )
    return record
