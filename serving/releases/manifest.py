"""The manifest of a release: every file with its hash and size, under one fingerprint."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from data.durable_file import write_durably

MANIFEST = "manifest.json"

Progress = Callable[[str, int, int], None]
"""`progress(what, done, total)`, as `pipeline.progress` draws it."""


class ReleaseError(ValueError):
    """A release that must not be served, or a change of releases that must not be made; the message says why."""


@dataclasses.dataclass(frozen=True)
class Release:
    """A release and what its manifest says of it.

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

    @property
    def bytes(self) -> int:
        """Size of all its files."""
        return sum(entry["bytes"] for entry in self.manifest["files"].values())

    @property
    def model_bytes(self) -> dict[str, int]:
        """Size of each model in the order of their names, warm-up records and vocabularies included."""
        sizes: dict[str, int] = {}
        for name, entry in self.manifest["files"].items():
            model, _, inside = name.partition("/")
            if inside:
                sizes[model] = sizes.get(model, 0) + entry["bytes"]
        return dict(sorted(sizes.items()))


def hash_files(folder: Path, progress: Progress | None = None) -> dict[str, dict[str, Any]]:
    """SHA-256 and size of every file under a folder but the manifest, by its path with "/" separators, sorted.

    Raises:
        ReleaseError: a link or a special file, whose content the folder does not own.
    """
    paths = sorted(folder.rglob("*"), key=lambda path: path.relative_to(folder).as_posix())
    for path in paths:
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            name = path.relative_to(folder).as_posix()
            raise ReleaseError(f"{folder}: {name} is a link or a special file; a release holds plain files, copy it in")
    named = {path.relative_to(folder).as_posix(): path for path in paths if path.is_file()}
    sizes = {name: path.stat().st_size for name, path in named.items() if name != MANIFEST}
    files, total, done = {}, sum(sizes.values()), 0
    for name, size in sizes.items():
        with named[name].open("rb") as stream:
            files[name] = {"sha256": hashlib.file_digest(stream, "sha256").hexdigest(), "bytes": size}
        done += size
        if progress is not None:
            progress("bytes", done, total)
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
    write_durably(folder / MANIFEST, [json.dumps(manifest, indent=2, sort_keys=True).encode(), b"\n"])
    return Release(folder, version, str(manifest["fingerprint"]), manifest)


def read_release(folder: Path) -> Release:
    """What the manifest of a release says, without a look at its files; `serving.releases.release.verify_release` has one.

    Raises:
        ReleaseError: no manifest, or a damaged one.
    """
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
    return Release(folder, version, fingerprint, manifest)
