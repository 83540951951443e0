"""Releases: retrieval, index, ranking and vocabulary under one fingerprint, published whole or not at all."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from data.durable_file import sync
from serving.models_config import CONTAINER_ROOT, read_models_config

MANIFEST = "manifest.json"
CHUNK = 1 << 20


class ReleaseError(ValueError):
    """A release that must not be served; the message lists every reason."""


@dataclasses.dataclass(frozen=True)
class Release:
    """A verified release.

    Attributes:
        folder: where it lies.
        version: its number, which is also the version of each of its models.
        fingerprint: SHA-256 over its version and all its files.
        manifest: the whole manifest.
    """

    folder: Path
    version: int
    fingerprint: str
    manifest: Mapping[str, Any]

    @property
    def models_config(self) -> Path:
        return self.folder / "models.config"


def _digest(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while chunk := stream.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def hash_files(folder: Path) -> dict[str, dict[str, Any]]:
    """SHA-256 and size of every file under a folder but the manifest, by its path with "/" separators, sorted.

    Raises:
        ReleaseError: a link or a special file, whose content the folder does not own.
    """
    files = {}
    for path in sorted(folder.rglob("*"), key=lambda path: path.relative_to(folder).as_posix()):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise ReleaseError(f"{folder}: {name} is a link or a special file; a release holds plain files, copy it in")
        if path.is_file() and name != MANIFEST:
            files[name] = {"sha256": _digest(path), "bytes": path.stat().st_size}
    return files


def compute_fingerprint(files: Mapping[str, Mapping[str, Any]], version: int) -> str:
    """One fingerprint over all files and the version.

    fingerprint = SHA-256("version V\\n" + one line "sha256  path\\n" for each file, sorted by path)

    Neither modification times nor the place of the folder enter, so a copy of a release keeps its fingerprint.

    Example:
        >>> compute_fingerprint({"a": {"sha256": "00"}}, 1) == compute_fingerprint({"a": {"sha256": "00"}}, 2)
        False
    """
    lines = [f"version {version}\n"] + [f"{files[name]['sha256']}  {name}\n" for name in sorted(files)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def write_manifest(
    folder: Path, *, version: int, counts: Mapping[str, int] | None = None, details: Mapping[str, Any] | None = None
) -> Release:
    """Writes the manifest of a finished release folder.

    Args:
        folder: holds `<model>/<version>/` folders and a models.config.
        version: the release's number.
        counts: items, users and the like, for people.
        details: anything else worth keeping beside: input fingerprints, library versions, seconds.

    Raises:
        ReleaseError: the folder holds no file, or a link.
    """
    files = hash_files(folder)
    if not files:
        raise ReleaseError(f"{folder}: no files to release; write the models before the manifest")
    manifest = {
        "version": version,
        "fingerprint": compute_fingerprint(files, version),
        "counts": dict(counts or {}),
        "details": dict(details or {}),
        "files": files,
    }
    temporary = folder / f".{MANIFEST}.{os.getpid()}"
    with temporary.open("w") as stream:
        json.dump(manifest, stream, indent=2, sort_keys=True)
        stream.write("\n")
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(folder / MANIFEST)
    return Release(folder, version, str(manifest["fingerprint"]), manifest)


def _read_manifest(folder: Path) -> dict[str, Any]:
    file = folder / MANIFEST
    if not file.is_file():
        raise ReleaseError(f"{folder}: no {MANIFEST}; this is not a release, or it was not finished: export it again")
    try:
        manifest = json.loads(file.read_text())
        version, fingerprint, files = manifest["version"], manifest["fingerprint"], manifest["files"]
        valid = isinstance(version, int) and isinstance(fingerprint, str)
        valid = valid and all(
            isinstance(entry["sha256"], str) and isinstance(entry["bytes"], int) for entry in files.values()
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ReleaseError(
            f"{file}: damaged manifest ({type(error).__name__}: {error}); export the release again"
        ) from error
    if not valid:
        raise ReleaseError(f"{file}: damaged manifest (a field of the wrong type); export the release again")
    return manifest


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


def verify_release(folder: Path) -> Release:
    """Checks a release whole: every file there, unchanged, none besides, all of one version, fingerprint right.

    Raises:
        ReleaseError: with all reasons found. Such a release must not be served: its models may not belong together.
    """
    folder = Path(folder)
    manifest = _read_manifest(folder)
    listed, found = manifest["files"], hash_files(folder)
    problems = [f"{name} is missing" for name in sorted(listed.keys() - found.keys())]
    problems += [f"{name} is not in the manifest" for name in sorted(found.keys() - listed.keys())]
    for name in sorted(listed.keys() & found.keys()):
        if found[name] != {"sha256": listed[name]["sha256"], "bytes": listed[name]["bytes"]}:
            problems.append(f"{name} has changed ({listed[name]['bytes']} bytes listed, {found[name]['bytes']} found)")
    if compute_fingerprint(listed, manifest["version"]) != manifest["fingerprint"]:
        problems.append("the manifest's fingerprint does not belong to its files and version")
    problems += _mixed(folder, manifest["version"])
    if problems:
        shown = "; ".join(problems[:10]) + (f"; and {len(problems) - 10} more" if len(problems) > 10 else "")
        raise ReleaseError(
            f"{folder}: refused, mixed or damaged: {shown}. Export it again, or serve an earlier release"
        )
    return Release(folder, manifest["version"], manifest["fingerprint"], manifest)


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
    manifest, verified, flushed to disk and renamed to `<releases>/<version>`. When the block fails, nothing is left.

    Args:
        releases: the folder of releases.
        version: a number not yet published.
        counts: for the manifest; may be filled inside the block when a dict is passed.
        details: for the manifest; likewise.

    Raises:
        ReleaseError: the version exists already, or what was written is not one release.
    """
    target = releases / str(version)
    if target.exists():
        raise ReleaseError(f"{target}: version {version} is already published and never changes; take the next number")
    releases.mkdir(parents=True, exist_ok=True)
    staging = releases / f".{version}.{os.getpid()}.partial"
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir()
    try:
        yield staging
        write_manifest(staging, version=version, counts=counts, details=details)
        verify_release(staging)
        for path in [*staging.rglob("*"), staging]:
            sync(path)
        staging.rename(target)
        sync(releases)  # makes the rename itself durable
    finally:
        shutil.rmtree(staging, ignore_errors=True)
