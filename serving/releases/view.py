"""What a server of all releases reads: `models.config` beside the releases, and `serving/<model>/<version>` links.

A server with the folder of releases mounted at `/models` finds `/models/models.config`; base paths there are
`/models/serving/<model>`, whose entries are relative links to the models inside the releases. Links come before the
config that names them, and the config changes by one rename, so that a reader at any moment sees whole releases.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from data.durable_file import sync
from serving.releases.labels import ReleaseLabels
from serving.releases.manifest import ReleaseError, read_release
from serving.releases.models_config import ModelEntry, read_models_config, write_models_config, write_monitoring_config

VIEW = "serving"
STOCK, WITH_SCANN = "models.config", "models_scann.config"
MONITORING = "monitoring.config"


def release_models(releases: Path, version: int, config: str = STOCK) -> list[str]:
    """The models of a release that a config of its own names, in its order; none where it has no such config."""
    file = releases / str(version) / config
    return [model.name for model in read_models_config(file).model_config_list.config] if file.is_file() else []


def put_in_force(releases: Path, labels: ReleaseLabels) -> None:
    """Writes links and configs for some labels. The caller has `serving.releases.lock.alone`.

    A kill leaves the old `models.config` or the new one. `models_scann.config`, for servers that have ScaNN's
    operations, is written before it; after a kill in between it is one change ahead until the next change.

    Raises:
        ReleaseError: a label names a release that is not there.
    """
    for version in labels.versions:
        read_release(releases / str(version))
    _link(releases, labels.versions)
    for config in (WITH_SCANN, STOCK):
        entries = _entries(releases, labels, config)
        if entries:
            write_models_config(releases / config, entries)
    if not (releases / MONITORING).is_file():
        write_monitoring_config(releases / MONITORING)


def _entries(releases: Path, labels: ReleaseLabels, config: str) -> list[ModelEntry]:
    """One entry a model of any labelled release. A model that a release lacks has none of that release's labels.

    Once there are releases with ScaNN, one without is served by servers that have it as by any other: they would keep the
    one before for ever.
    """
    by_version = {version: release_models(releases, version, config) for version in labels.versions}
    if any(by_version.values()) or (releases / config).is_file():
        by_version = {version: names or release_models(releases, version) for version, names in by_version.items()}
    entries = []
    for name in dict.fromkeys(name for names in by_version.values() for name in names):
        having = tuple(version for version, names in by_version.items() if name in names)
        named = {label: version for label, version in labels.as_dict().items() if version in having}
        entries.append(ModelEntry(name, f"{VIEW}/{name}", having, named))
    return entries


def _link(releases: Path, versions: Iterable[int]) -> None:
    """Makes `serving/<model>/<version>` for every model of some releases; each link appears by a rename."""
    for version in versions:
        for model in sorted(releases.glob(f"{version}/*/{version}")):
            folder, target = releases / VIEW / model.parent.name, Path("..", "..", *model.relative_to(releases).parts)
            folder.mkdir(parents=True, exist_ok=True)
            link, temporary = folder / str(version), folder / f".{version}.{os.getpid()}"
            if link.is_symlink() and link.readlink() == target:
                continue
            if link.exists() and not link.is_symlink():
                raise ReleaseError(f"{link}: expected a link to {target}, found something else; move it away")
            temporary.unlink(missing_ok=True)
            temporary.symlink_to(target)
            temporary.replace(link)
            sync(folder)


def stale_links(releases: Path, gone: Iterable[int] = ()) -> list[Path]:
    """Links whose release is not there, or is about to go, and unfinished ones."""
    leaving = {str(version) for version in gone}
    links = [link for link in sorted((releases / VIEW).glob("*/*")) if link.is_symlink()]
    return [link for link in links if link.name in leaving or not link.name.isdigit() or not link.exists()]
