"""Moving labels between releases: one step forward, one step back, whole releases at a time, while servers serve."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from serving.releases.labels import CANARY, STABLE, ReleaseLabels, read_labels
from serving.releases.lock import alone
from serving.releases.manifest import Progress
from serving.releases.release import latest_release, verify_release
from serving.releases.view import put_in_force, release_models

SERVER_SECONDS = 300.0


@dataclasses.dataclass(frozen=True)
class Change:
    """Labels before and after, and the release that moved."""

    before: ReleaseLabels
    after: ReleaseLabels
    version: int


def promote(
    releases: Path,
    version: int | None = None,
    to: Literal["canary", "stable"] = "stable",
    *,
    servers: Sequence[str] = (),
    timeout: float = SERVER_SECONDS,
    progress: Progress | None = None,
) -> Change:
    """Makes a release the canary, or the canary (or another loaded release) stable.

    The release is verified whole first. With `servers`, a label in use moves only after every one of them says that it
    has loaded all models of the release, and the call returns when the label answers there. Without, a server that has
    not loaded the release yet keeps its labels as they are until it has.

    Args:
        releases: the folder of releases.
        version: which one; None = the canary where it becomes stable, else the newest release.
        to: "canary" or "stable".
        servers: "host:port" of gRPC ports.
        timeout: seconds to wait for each of them.
        progress: told of the bytes verified.

    Raises:
        ReleaseError: see `ReleaseLabels.to_canary`, `to_stable`, `verify_release` and `serving.releases.servers`.
    """
    with alone(releases, "release promote"):
        before = read_labels(releases)
        if version is None and (to == CANARY or before.stable is None):
            version = int(latest_release(releases).name)
        after = before.to_canary(version) if to == CANARY and version is not None else before.to_stable(version)
        moved = after.stable if after.stable != before.stable else after.canary
        assert moved is not None
        return _change(releases, Change(before, after, moved), servers, timeout, progress)


def roll_back(
    releases: Path,
    *,
    servers: Sequence[str] = (),
    timeout: float = SERVER_SECONDS,
    progress: Progress | None = None,
) -> Change:
    """Withdraws the canary or, where there is none, makes the previous release stable again.

    Raises:
        ReleaseError: see `ReleaseLabels.roll_back` and `promote`.
    """
    with alone(releases, "release rollback"):
        before = read_labels(releases)
        after = before.roll_back()
        assert after.stable is not None
        return _change(releases, Change(before, after, after.stable), servers, timeout, progress)


def _change(
    releases: Path, change: Change, servers: Sequence[str], timeout: float, progress: Progress | None
) -> Change:
    label = change.after.of(change.version)
    if change.version != change.before.stable:  # withdrawing a canary gives nobody anything new
        verify_release(releases / str(change.version), progress)
    if not servers:
        put_in_force(releases, change.after)
        return change
    # Only here, because the client's protocol messages bring TensorFlow with them.
    from serving.releases.servers import wait_until_labelled, wait_until_loaded

    models = release_models(releases, change.version)
    if label == STABLE and change.before.stable not in (None, change.version):
        wait_until_loaded(servers, models, change.version, timeout)
    put_in_force(releases, change.after)
    wait_until_labelled(servers, models, label, change.version, timeout)
    return change
