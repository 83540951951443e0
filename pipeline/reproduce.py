"""A run once more from what it was made of, and whether each stage and the release come out the same."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pipeline.cores import share_cores
from pipeline.reproduce_record import SETTINGS, MadeFrom, differing, finished_record, made_from, stage_keys
from pipeline.settings.config import Config, load_config
from pipeline.settings.tracking import TrackingSection
from pipeline.stage import MANIFEST, StageError, digest
from serving.releases.manifest import ReleaseError, hash_files, read_release

TIMES = ("seconds", "_per_second", "_ms")
"""How the name of a measured time or speed ends; no two runs have the same."""
MEASURED = ("trade_off.csv", "trade_off.svg", "tensorboard/")
"""Files that hold measured times among their figures, and folders of such; `report.json` beside them has the figures."""
SHOWN = 10


@dataclasses.dataclass(frozen=True)
class Reproduction:
    """What came out.

    Attributes:
        notes: what differs between then and now without having to matter.
        stages: by stage, the files that differ; none = equal.
        left_out: stages of the old run that its settings do not make, such as commands of their own.
        release: files of the release that differ. fingerprints: of the old and the new release.
        gone: why the old release is not compared, for instance since it was removed; "" = it is.
    """

    notes: list[str]
    stages: dict[str, list[str]]
    left_out: list[str]
    release: list[str]
    fingerprints: tuple[str, str]
    gone: str = ""

    @property
    def equal(self) -> bool:
        return not self.release and not any(self.stages.values())


@dataclasses.dataclass(frozen=True)
class Released:
    """The release that a run's export made: its fingerprint, the digests of its files and, where it is gone, what says so."""

    fingerprint: str
    files: Mapping[str, str]
    gone: str = ""


def reproduce(
    run: Path,
    out: Path,
    walk: Callable[[Path, Path, Config], Any],
    *,
    source: Path | None = None,
    anyway: bool = False,
    say: Callable[[str], None] = print,
) -> Reproduction:
    """Makes a finished run again and compares the two.

    The old release is read first: `release gc` may have removed it, or do so in the hours that the run takes. The stages are
    compared all the same.

    Nothing is taken over from the old run: content is encoded anew into a store of its own. Only what a language model
    once wrote (`enrich.cache`) is read again.

    Args:
        run: the run folder. out: a folder for the new run; one that was interrupted goes on.
        walk: makes a run: (dataset folder, run folder, settings).
        source: where the dataset folder lies now; where it lay unless given.
        anyway: go on although data or code differ. say: is told beforehand that the old release is gone.

    Raises:
        StageError: `run` has no record, or data or code are not what they were; names the files.
    """
    if out.resolve() == run.resolve():
        raise StageError(f"--out: the new run needs a folder of its own, received {out}, which is the old one.")
    record = finished_record(run)
    source = source or Path(record.source)
    now = made_from(source, record)
    changed = [
        f"{what}: {line}"
        for what, then, there in (("data", record.data, now.data), ("code", record.code, now.code))
        for line in changes(then, there)
    ]
    if changed and not anyway:
        raise StageError(
            f"{run} was made from other files:\n  " + "\n  ".join(changed) + "\nBring them back, or pass --anyway to see "
            "what comes out with these."
        )
    config = load_config(run / SETTINGS)
    cache = config.enrich.cache or str((run.parent / "enrich-cache").resolve())
    again = config.model_copy(
        update={
            "encoders": config.encoders.model_copy(update={"store": str(out / "feature-store")}),
            "enrich": config.enrich.model_copy(update={"cache": cache}),
            "tracking": TrackingSection(),
        }
    )
    share_cores(again)
    was = released(run)
    if was.gone:
        say(f"the release of {run} cannot be compared, its stages alone ({was.gone})")
    walk(source, out, again)
    return compare_runs(run, out, [*changed, *notes(run, record, now)], was)


def changes(then: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """What two sets of digests or versions do not share, in words.

    Example:
        >>> changes({"a": "1", "b": "2"}, {"a": "3", "c": "4"})
        ['a has changed', 'b is missing', 'c is new']
    """
    lines = [
        f"{name} {'is new' if name not in then else 'is missing' if name not in now else 'has changed'}"
        for name in differing(then, now)
    ]
    return [*lines[:SHOWN], *([f"and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else [])]


def notes(run: Path, record: MadeFrom, now: MadeFrom) -> list[str]:
    """Why equal data, code and settings may still give other last digits."""
    found = []
    for then, there in ((record.machine, now.machine), (record.packages, now.packages)):
        found += [
            f"{name}: {then.get(name, 'none')} then, {there.get(name, 'none')} now"
            for name in differing(then, there)
        ]
    if not (run / "retrieval" / "full" / "tensorboard").is_dir():
        found.append(
            "the towers were trained on another backend than TensorFlow; to repeat that, train them into the new folder first: "
            f"KERAS_BACKEND=jax python -m pipeline train-retrieval --config {run / SETTINGS} ..."
        )
    return found


def compare_runs(old: Path, new: Path, notes: list[str], was: Released | None = None) -> Reproduction:
    """Every stage that both runs have, file by file, and their newest releases.

    Args:
        was: the release of the old run; read here unless given.
    """
    before, after = stage_keys(old), stage_keys(new)
    stages = {
        name: differing(stage_digests(old / name), stage_digests(new / name)) for name in after if name in before
    }
    was, now = was or released(old), released(new)
    differ = [] if was.gone else differing(was.files, now.files)
    left_out = sorted(before.keys() - after.keys())
    return Reproduction(notes, stages, left_out, differ, (was.fingerprint, now.fingerprint), was.gone)


def stage_digests(folder: Path) -> dict[str, str]:
    """Digest of what each file of a stage says, by its path: bytes, but for JSON, which counts without measured times."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and name != MANIFEST and not name.startswith(MEASURED):
            text, told = path.read_bytes(), path.suffix == ".json"
            found[name] = digest(without_times(json.loads(text))) if told else hashlib.sha256(text).hexdigest()
    return found


def without_times(value: Any) -> Any:
    """A JSON value without what was measured in seconds.

    Example:
        >>> without_times({"seconds": 1.5, "exact": [{"p50_ms": 3, "recall": 1.0}]})
        {'exact': [{'recall': 1.0}]}
    """
    if isinstance(value, dict):
        return {name: without_times(part) for name, part in value.items() if not name.endswith(TIMES)}
    return [without_times(part) for part in value] if isinstance(value, list) else value


def released(run: Path) -> Released:
    """The release that a run's export made.

    Its number, in paths and lists of models, is no difference: an old run may have been released before.
    """
    exported = json.loads((run / "export" / MANIFEST).read_text())["counts"]
    try:
        release = read_release(run / "releases" / str(exported["version"]))
    except ReleaseError as error:
        return Released(exported["fingerprint"], {}, str(error))
    files = {}
    for name, entry in hash_files(release.folder).items():
        if name.endswith(".config"):
            continue
        files[name.replace(f"/{release.version}/", "/N/")] = entry["sha256"]
    return Released(release.fingerprint, files)
