"""Releases: retrieval, index, ranking and vocabulary under one fingerprint, published whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from data.durable_file import sync
from serving.releases.manifest import (
    MANIFEST,
    Progress,
    Release,
    ReleaseError,
    compute_fingerprint,
    hash_files,
    read_release,
    write_manifest,
)
from serving.releases.models_config import CONTAINER_ROOT, read_models_config

PARTIAL = ".partial"
"""End of the name of a release that is not finished: version and process stand before it."""


def _mixed(folder: Path, version: int) -> list[str]:
    """Where models of another version, or a models.config that names one, lie in a release."""
    problems = []
    for saved_model in sorted(folder.glob("*/*/saved_model.pb")):
        if saved_model.parent.name != str(version):
            problems.append(f"{saved_model.parent.relative_to(folder)} is not of version {version}")
    for config_file in sorted(folder.glob("*.config")):
        if "monitoring" in config_file.name:
            continue
        try:
            models = read_models_config(config_file).model_config_list.config
        except ValueError as error:
            problems.append(str(error))
            continue
        for model in models:
            named = set(model.model_version_policy.specific.versions) | set(model.version_labels.values())
            for other in sorted(named - {version}):
                problems.append(
                    f"{config_file.name} asks for version {other} of {model.name}, the release is {version}"
                )
            base = Path(model.base_path)
            inside = folder / (base.relative_to(CONTAINER_ROOT) if base.is_relative_to(CONTAINER_ROOT) else base)
            if not (inside / str(version) / "saved_model.pb").is_file():
                problems.append(
                    f"{config_file.name} names {model.base_path}, where the release has no version {version}"
                )
    return problems


def verify_release(folder: Path, progress: Progress | None = None) -> Release:
    """Checks a release whole: every file there, unchanged, none besides, all of one version, fingerprint right.

    Args:
        folder: the release. progress: told of the bytes hashed.

    Raises:
        ReleaseError: with all reasons found. Such a release must not be served: its models may not belong together.
    """
    folder = Path(folder)
    release = read_release(folder)
    listed, found = release.manifest["files"], hash_files(folder, progress)
    problems = [f"{name} is missing" for name in sorted(listed.keys() - found.keys())]
    problems += [f"{name} is not in the manifest" for name in sorted(found.keys() - listed.keys())]
    for name in sorted(listed.keys() & found.keys()):
        if found[name] != {"sha256": listed[name]["sha256"], "bytes": listed[name]["bytes"]}:
            problems.append(f"{name} has changed ({listed[name]['bytes']} bytes listed, {found[name]['bytes']} found)")
    if compute_fingerprint(listed, release.version) != release.fingerprint:
        problems.append("the manifest's fingerprint does not belong to its files and version")
    problems += _mixed(folder, release.version)
    if problems:
        raise _refused(folder, problems)
    return release


def _refused(folder: Path, problems: list[str]) -> ReleaseError:
    shown = "; ".join(problems[:10]) + (f"; and {len(problems) - 10} more" if len(problems) > 10 else "")
    return ReleaseError(f"{folder}: refused, mixed or damaged: {shown}. Export it again, or serve an earlier release")


def list_releases(releases: Path) -> list[int]:
    """Numbers of the published releases in a folder, ascending; unfinished ones have no integer name."""
    if not releases.is_dir():
        return []
    return sorted(int(path.name) for path in releases.iterdir() if path.name.isdigit() and (path / MANIFEST).is_file())


def latest_release(releases: Path) -> Path:
    """The folder of the highest release.

    Raises:
        ReleaseError: there is none.
    """
    numbers = list_releases(releases)
    if not numbers:
        raise ReleaseError(f"{releases}: no release here; run the export stage first")
    return releases / str(numbers[-1])


@contextlib.contextmanager
def publish(
    releases: Path,
    version: int,
    *,
    counts: Mapping[str, int] | None = None,
    details: dict[str, Any] | None = None,
) -> Iterator[Path]:
    """Publishes a release atomically: yields a folder to write into; when the block ends well, it is given its
    manifest, checked, flushed to disk and renamed to `<releases>/<version>`. When the block fails, nothing is left;
    what a killed process leaves is held by nobody, and `serving.releases.gc` removes it.

    Args:
        releases: the folder of releases.
        version: a number not yet published.
        counts: for the manifest; may be filled inside the block when a dict is passed.
        details: for the manifest; likewise.

    Raises:
        ReleaseError: the version exists already, or what was written is not one release.
    """
    target = releases / str(version)
    taken = ReleaseError(f"{target}: version {version} is already published and never changes; take the next number")
    if target.exists():
        raise taken
    releases.mkdir(parents=True, exist_ok=True)
    staging = releases / f".{version}.{os.getpid()}{PARTIAL}"
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir()
    held = os.open(staging, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # a file system without locks, on which nothing is ever cleared up
            fcntl.flock(held, fcntl.LOCK_EX)  # says that somebody is still writing here
        yield staging
        write_manifest(staging, version=version, counts=counts, details=details)  # hashes every file
        if problems := _mixed(staging, version):
            raise _refused(staging, problems)
        for path in [*staging.rglob("*"), staging]:
            sync(path)
        try:
            staging.rename(target)
        except OSError as error:  # another process published this number meanwhile
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            raise taken from None
        sync(releases)  # makes the rename itself durable
    finally:
        os.close(held)
        shutil.rmtree(staging, ignore_errors=True)
