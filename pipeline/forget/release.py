"""Releases without a person: a new one from the edited run in the place of those that know them, which are removed."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from data.dataset import Dataset
from data.durable_file import write_durably
from pipeline.forget.run import knows
from pipeline.nightly.record import outcome_of, write_outcome
from pipeline.release.export_stage import export_stage
from pipeline.settings.config import Config
from pipeline.settings.policy import PolicySection
from pipeline.stage import MANIFEST, StageError, read_manifest
from pipeline.stages.run_folder import RunFolder
from serving.catalogue.released_run import run_made_from
from serving.releases.gc import remove
from serving.releases.labels import ReleaseLabels, read_labels
from serving.releases.lock import alone
from serving.releases.manifest import read_release
from serving.releases.promotion import promote, roll_back
from serving.releases.release import list_releases
from serving.releases.view import put_in_force

DECIDING: dict[str, tuple[str, ...]] = {"ranking": ("retrieved",), "policy": tuple(PolicySection.model_fields)}
"""Settings of stages that a release takes, too: `Config` has to be the run's own in these."""


def replace_releases(
    out: Path,
    data: Path | None,
    config: Config,
    ids: frozenset[str],
    *,
    servers: Sequence[str] = (),
    say: Callable[[str], None] = print,
) -> int | None:
    """Publishes the models of the stable release once more, out of a run from which a person has gone; moves the labels to
    it, and removes all releases before it. Without labels it is the newest release.

    A canary, which nobody has promoted yet, is withdrawn and goes with the others: what answers is a person's decision.
    A step that a kill cut off is done by the next call: a release with the same models and users is not made twice.

    Args:
        out: the run folder; the release may come from one of its jobs. data: the dataset folder, if at hand.
        servers: "host:port" of model servers that have to have loaded the new release before labels move.

    Returns:
        Its number; None where no release knows the person.

    Raises:
        StageError: the models of that release are no longer in the run, or the settings are not the run's.
    """
    releases = out / "releases"
    if not releases.is_dir() or not any(knows(path, ids) for path in releases.iterdir() if path.is_dir()):
        return None
    if numbers := list_releases(releases):
        labels = read_labels(releases)
        version = _publish(out, data, config, answering(labels, numbers), say)
        if labels.stable is not None:
            if labels.canary not in (None, version):
                say(f"[forget] withdrawing release {labels.canary}, the canary; export or train again what is to be tried")
            _move_labels(releases, version, servers)
    removed = remove(releases, newest=1)
    say(f"[forget] removed {', '.join(removal.path.name for removal in removed) or 'no'} older releases")
    return version if numbers else None


def answering(labels: ReleaseLabels, numbers: Sequence[int]) -> int:
    """The release whose models answer: the stable one or, where none is labelled or it is gone, the newest standing one.

    Example:
        >>> [answering(labels, [3, 4, 6]) for labels in (ReleaseLabels(4, ("canary", 6)), ReleaseLabels())]
        [4, 6]
    """
    return labels.stable if labels.stable is not None and labels.stable in numbers else labels.standing(numbers)[-1]


def answering_run(out: Path) -> Path | None:
    """The run folder whose models answer and would be published again; None where there is no release, or they are gone."""
    numbers = list_releases(out / "releases")
    return _run_of(out, answering(read_labels(out / "releases"), numbers))[0] if numbers else None


def _run_of(out: Path, version: int) -> tuple[Path | None, dict[str, Any]]:
    made_from = read_release(out / "releases" / str(version)).manifest["details"].get("made_from", {})
    return run_made_from(out, made_from), made_from


def _publish(out: Path, data: Path | None, config: Config, version: int, say: Callable[[str], None]) -> int:
    run, made_from = _run_of(out, version)
    if run is None:
        raise StageError(
            f"{out}: release {version} was made from models that are no longer there. Export those that are (`python -m "
            "pipeline export`), then start forget-user again."
        )
    for name, settings in DECIDING.items():
        section = json.loads(json.dumps(getattr(config, name).model_dump(), default=str))
        had = (read_manifest(run / name) or {}).get("config", {})
        # Settings that came later, or are gone, were none when the stage ran.
        if other := sorted(key for key in had.keys() & set(settings) if had[key] != section[key]):
            raise StageError(
                f"--config, --set: must be those of {run}, received another {name}.{other[0]} ({section[other[0]]!r}, where "
                f"its stage had {had[other[0]]!r}); a release made with these would be another."
            )
    folder = RunFolder(data or out, run, config, say)
    say(f"[forget] publishing the models of release {version} again")
    counts = export_stage(
        Dataset.load(run / "ingest"), run, config, store=folder.store(), search="search" in made_from,
        releases=out / "releases",
    )  # fmt: skip
    _record(run, counts)
    return int(counts["version"])


def _record(run: Path, counts: dict[str, Any]) -> None:
    """The new number and fingerprint where the run, or the job, keeps those of its release."""
    manifest = read_manifest(run / "export")
    if manifest is not None:
        manifest["counts"] |= counts
        write_durably(run / "export" / MANIFEST, [json.dumps(manifest, indent=2, default=str).encode()])
    outcome = outcome_of(run)
    if outcome is not None and outcome.get("release"):
        release = {name: counts[name] for name in ("version", "fingerprint")}
        write_outcome(run, outcome | {"release": release, "why": f"release {counts['version']}"})


def _move_labels(releases: Path, version: int, servers: Sequence[str]) -> None:
    """From whatever is labelled to one release alone, by the steps that servers can follow."""
    labels = read_labels(releases)
    if labels.stable != version:
        if labels.canary not in (None, version):
            roll_back(releases, servers=servers)
        if version not in read_labels(releases).versions:
            promote(releases, version, "canary", servers=servers)
        promote(releases, version, "stable", servers=servers)
    with alone(releases, "forget-user"):
        put_in_force(releases, ReleaseLabels(version))
