"""A stage: reads folders, writes one folder whole or not at all, and is skipped when nothing it depends on changed."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from data.folder_lock import LOCK_FILE

MANIFEST = "manifest.json"
WALK = ("ingest", "enrich", "encode", "finetune", "encode_tuned", "checks", "retrieval", "linear", "served", "search", "index",
        "ranking", "policy", "evaluate", "judge", "export", "gate", "robustness")  # fmt: skip
"""Stages in the order in which their seconds are told."""
WALL, PROCESSOR = "seconds", "processor_seconds"
"""What a manifest says that its stage took."""


class StageError(RuntimeError):
    """A stage cannot run; the message says which and what to do."""


@dataclasses.dataclass(frozen=True)
class StageResult:
    """What a finished stage left behind: its folder, its manifest, and whether it was skipped."""

    folder: Path
    manifest: dict[str, Any]
    skipped: bool

    @property
    def key(self) -> str:
        return self.manifest["key"]


def digest(value: Any) -> str:
    """Short sha256 of anything JSON can hold, independent of key order.

    Example:
        >>> digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
        True
    """
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]


def folder_fingerprint(folder: Path) -> str:
    """Fingerprint of a source folder by names, sizes and modification times: cheap enough for a million media files.

    A folder that is a link is looked into as well, each once, since media often lie on another disk. The folder's lock
    (`data.folder_lock`) does not count.
    """
    if not folder.is_dir():
        raise StageError(
            f"source: {folder} is not a folder. Make a world (`python -m pipeline world --out DIR`), convert a log "
            f"(`python -m pipeline convert --help`), or pass --data."
        )
    entries: list[tuple[str, int, int]] = []
    places, seen = [""], set()
    while places:
        place = places.pop()
        real = os.path.realpath(folder / place)
        if real in seen:
            continue
        seen.add(real)
        try:
            found = sorted(os.scandir(real), key=lambda entry: entry.name)  # of two links to one folder the same is followed
        except OSError as error:
            raise StageError(f"source: {folder / place} cannot be read ({error.strerror}); mend its rights") from error
        for entry in found:
            name = place + entry.name
            with contextlib.suppress(OSError):  # links in a circle, or gone meanwhile: no file either
                if entry.is_dir():
                    places.append(name + "/")
                elif entry.is_file() and entry.name != LOCK_FILE:
                    told = entry.stat()
                    entries.append((name, told.st_size, told.st_mtime_ns))
    return digest(sorted(entries))


def code_fingerprint(*places: str) -> str:
    """Fingerprint of our own source: packages (`towers`) or files (`pipeline/report/page.py`). Changed code runs its stage
    again."""
    root = Path(__file__).resolve().parent.parent
    found = ([root / place] if place.endswith(".py") else (root / place).rglob("*.py") for place in places)
    files = sorted(path for paths in found for path in paths)
    return digest([(path.relative_to(root).as_posix(), hashlib.sha256(path.read_bytes()).hexdigest()) for path in files])


def read_json(path: Path, default: Any = None) -> Any:
    """What a stage left in a file; `default` where there is no such file.

    Raises:
        StageError: it is no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else default
    except ValueError as error:
        raise StageError(f"{path}: must be JSON, received {error}; run its stage again") from error


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of a finished stage, or None where there is none.

    Raises:
        StageError: it is no JSON.
    """
    return read_json(folder / MANIFEST)


def stage_seconds(run: Path, spent: str = WALL) -> dict[str, float]:
    """Seconds of every finished stage in the order of the walk, by the clock or a processor's (`spent`); the variants of one
    (`retrieval/full`, ...) add up."""
    seconds: dict[str, float] = {}
    for file in sorted([*run.glob("*/manifest.json"), *run.glob("[a-z]*/*/manifest.json")]):
        manifest = {} if file.parent.name.startswith(".") else read_manifest(file.parent)
        if isinstance(manifest, dict) and "stage" in manifest and spent in manifest:
            stage = str(manifest["stage"]).split("/")[0]
            seconds[stage] = round(seconds.get(stage, 0.0) + float(manifest[spent]), 3)
    place = {name: number for number, name in enumerate(WALK)}
    return {name: seconds[name] for name in sorted(seconds, key=lambda name: (place.get(name, len(WALK)), name))}


def run_stage(
    run: Path,
    name: str,
    work: Callable[[Path, Path], dict[str, Any]],
    *,
    config: Mapping[str, Any],
    inputs: Mapping[str, str],
    say: Callable[[str], None] = print,
    keeps: bool = True,
) -> StageResult:
    """Run `work(out, checkpoints)` into `<run>/<name>`, or skip it.

    `out` is a fresh folder beside the final one; it is renamed into place, manifest inside, only after `work` returned.
    `checkpoints` outlives a kill and is removed after success, so that long training resumes where it was. The stage's
    key is the digest of its name, its config and the keys of its inputs.

    Args:
        run: the run folder. name: may contain slashes (`retrieval/full`).
        work: does the job and returns counts for the manifest.
        config: everything that decides the result. inputs: keys of the stages and sources it reads.
        keeps: False for a worker that is not the first of several: it does the same work, reads the first one's
            checkpoints (`run` lies on a disk that all of them see), and leaves nothing behind.

    Returns: the `StageResult`, with `skipped` set when the manifest already there carries the same key.
    """
    final, key = run / name, digest({"stage": name, "config": dict(config), "inputs": dict(inputs)})
    try:
        previous = read_manifest(final)
    except StageError:  # whoever reads it says to run the stage again, which must help
        previous = None
    if previous is not None and previous["key"] == key:
        say(f"[{name}] unchanged, skipped (took {previous['seconds']:.1f} s when it ran)")
        return StageResult(final, previous, skipped=True)
    flat = name.replace("/", "-")
    out, checkpoints = run / f".writing-{flat}", run / f".checkpoints-{flat}-{key}"
    if not keeps:
        say(f"[{name}] helping; the first worker writes it")
        with tempfile.TemporaryDirectory() as thrown_away:
            counts = work(Path(thrown_away), checkpoints)
        return StageResult(final, {"stage": name, "key": key, "counts": counts}, skipped=False)
    for stale in run.glob(f".checkpoints-{flat}-*"):
        # Checkpoints of another config must never leak into this one.
        if stale != checkpoints and stale.name[len(f".checkpoints-{flat}-") :].count("-") == 0:
            shutil.rmtree(stale)
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    checkpoints.mkdir(parents=True, exist_ok=True)
    say(f"[{name}] running")
    start, worked = time.perf_counter(), sum(os.times()[:4])
    counts = work(out, checkpoints)
    seconds, worked = time.perf_counter() - start, sum(os.times()[:4]) - worked
    manifest = {
        "stage": name,
        "key": key,
        "seconds": round(seconds, 3),
        "processor_seconds": round(worked, 3),
        "config": dict(config),
        "inputs": dict(inputs),
        "counts": counts,
    }
    (out / MANIFEST).write_text(json.dumps(manifest, indent=2, default=str))
    publish(out, final)
    shutil.rmtree(checkpoints)
    say(f"[{name}] done in {seconds:.1f} s")
    return StageResult(final, manifest, skipped=False)


def publish(written: Path, final: Path) -> None:
    """Put a finished folder in its place. A reader sees the old one or the new one, never a mixture.

    A folder cannot be renamed over another, so the old one steps aside first; a kill in between leaves no final
    folder, and the stage is simply run again.
    """
    aside = final.with_name(f".old-{final.name}")
    shutil.rmtree(aside, ignore_errors=True)
    final.parent.mkdir(parents=True, exist_ok=True)
    if final.exists():
        os.rename(final, aside)
    os.rename(written, final)
    shutil.rmtree(aside, ignore_errors=True)
