"""Removing releases that nobody needs: unlabelled old ones, and what killed processes left half done."""

from __future__ import annotations

import dataclasses
import fcntl
import os
import shutil
import time
from pathlib import Path

from serving.releases.labels import read_labels
from serving.releases.lock import alone
from serving.releases.manifest import Progress, ReleaseError
from serving.releases.models_config import read_models_config
from serving.releases.release import PARTIAL, list_releases
from serving.releases.view import STOCK, WITH_SCANN, put_in_force, stale_links

REMOVED = ".removed"
"""End of the name of a release that is being removed."""

GRACE_SECONDS = 60
"""An export's folder is younger than this when its process has not locked it yet."""


@dataclasses.dataclass(frozen=True)
class Removal:
    """Something that goes: its path, why, and the bytes it frees."""

    path: Path
    reason: str
    bytes: int


def labelled_versions(releases: Path) -> set[int]:
    """Every release that any label of any config beside the releases names, or that one keeps loaded."""
    found: set[int] = set()
    for file in (releases / STOCK, releases / WITH_SCANN):
        if file.is_file():
            for model in read_models_config(file).model_config_list.config:
                found |= {*model.version_labels.values(), *model.model_version_policy.specific.versions}
    return found


def plan_removals(releases: Path, newest: int = 3) -> list[Removal]:
    """What `remove` would remove; changes nothing.

    Args:
        releases: the folder of releases.
        newest: how many of the highest numbers stay, labelled or not; at least 1, because the next release takes its
            number from the highest.

    Raises:
        ReleaseError: newest below 1, or a config of labels cannot be read: what it names might be in use.
    """
    if newest < 1:
        raise ReleaseError(f"newest: must be at least 1, received {newest}; the highest release tells the next number")
    read_labels(releases)  # refuses a config that it does not understand
    numbers = list_releases(releases)
    kept = labelled_versions(releases) | set(numbers[-newest:])
    leftovers = [(path, "left by a removal that was killed") for path in sorted(releases.glob(f".*{REMOVED}"))]
    leftovers += [
        (path, "left by an export that was killed")
        for path in sorted(releases.glob(f".*{PARTIAL}"))
        if not _still_written(path)
    ]
    old = [
        (releases / str(number), f"no label, older than the newest {newest}") for number in numbers if number not in kept
    ]
    return [Removal(path, reason, folder_bytes(path)) for path, reason in [*leftovers, *old]]


def remove(releases: Path, newest: int = 3, progress: Progress | None = None) -> list[Removal]:
    """Removes what `plan_removals` names, with nobody else changing labels meanwhile.

    A release first loses its name, by one rename, and is no release from then on; a kill leaves a folder that the next
    call removes. A server that still holds a removed release in memory goes on answering from it.

    Raises:
        ReleaseError: as `plan_removals`, or somebody else has the lock.
    """
    with alone(releases, "release gc"):
        removals = plan_removals(releases, newest)
        labels = read_labels(releases)
        if labels.versions:
            put_in_force(releases, labels)  # what a killed promotion left between its two configs
        gone = [int(removal.path.name) for removal in removals if removal.path.name.isdigit()]
        total, done = sum(removal.bytes for removal in removals), 0
        for removal in removals:
            path = removal.path
            if path.name.isdigit():
                path = releases / f".{path.name}{REMOVED}"
                shutil.rmtree(path, ignore_errors=True)
                removal.path.rename(path)
            shutil.rmtree(path)
            done += removal.bytes
            if progress is not None:
                progress("bytes", done, total)
        for link in stale_links(releases, gone):
            link.unlink(missing_ok=True)
    return removals


def folder_bytes(folder: Path) -> int:
    """Of all files below a folder, links as links."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir())


def _still_written(folder: Path) -> bool:
    """Whether a process may still be writing a folder, see `serving.releases.release.publish`."""
    if time.time() - folder.stat().st_mtime < GRACE_SECONDS:
        return True  # it may not have said so yet
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(handle)
    return False
