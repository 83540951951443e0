"""Followed releases: the last release with what users did since, in a folder of releases of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.follow.journal import FOLLOWED, Base, Cursor
from pipeline.stage import StageError
from serving.export.overlay import publish_overlay
from serving.release_number import NUMBERS
from serving.releases.gc import remove
from serving.releases.labels import CANARY, PREVIOUS, ReleaseLabels, read_labels
from serving.releases.lock import alone
from serving.releases.manifest import read_release
from serving.releases.promotion import SERVER_SECONDS
from serving.releases.release import list_releases
from serving.releases.view import put_in_force, release_models
from serving.saved_model import read_variables

KEPT = 2
"""Followed releases on disk, beside those with a label."""


class Followed:
    """`<out>/followed`, which a server that is to follow has mounted in the place of `<out>/releases`.

    Its `models.config` names the release itself (number r * 1,000,000, the very bytes of release r) or an update of it
    (r * 1,000,000 + n) as stable. Nothing in `<out>/releases` changes, so jobs, gate and promotion go on as without a
    follower, and whoever does not want one serves from there.

    Args:
        out: run folder. servers: "host:port" of gRPC ports that are waited for, see `serving.releases.promotion`.
    """

    def __init__(self, out: Path, servers: Sequence[str] = ()) -> None:
        self.releases, self.folder = out / "releases", out / FOLLOWED
        self._servers = list(servers)

    def publish(self, base: Base, update: int, values: Mapping[str, np.ndarray], events: str) -> int:
        """Publishes an update, and makes it stable; update 0 without values is the release itself. Returns: its number.

        Doing it again after a kill changes nothing.

        Args:
            events: digest of the update's events.

        Raises:
            StageError: that number is taken by other events. ReleaseError: see `publish_overlay`.
        """
        version = base.version * NUMBERS + update
        told: dict[str, Any] = {"release": base.fingerprint, "update": update, "events": events}
        if version in list_releases(self.folder):
            found = read_release(self.folder / str(version)).manifest["details"].get("follows")
            if found != told:
                raise StageError(
                    f"{self.folder / str(version)}: holds another update ({found}); move the folder away, then start again."
                )
        else:
            place = self.releases / str(base.version)
            details = {**read_release(place).manifest["details"], "follows": told}
            publish_overlay(place, self.folder, version, values, details)
        self.answer_with(version)
        return version

    def fresh_cursor(self, base: Base) -> Cursor:
        """Where a release's updates begin, or begin anew: beyond those that are there already, of a time in which it was
        followed before, as a number never stands for two updates."""
        there = (version % NUMBERS for version in list_releases(self.folder) if version // NUMBERS == base.version)
        last = max(there, default=0)
        return Cursor(base.version, base.fingerprint, update=last, since=last)

    def answer_with(self, version: int) -> None:
        """Makes a followed release stable: it is loaded beside the one before, and the label moves."""
        with alone(self.folder, "follow"):
            before = read_labels(self.folder).stable
            if before == version:
                return
            if before is None:
                put_in_force(self.folder, ReleaseLabels(version))
            else:
                put_in_force(self.folder, ReleaseLabels(before, (CANARY, version)))
                self._wait(version, CANARY)
                put_in_force(self.folder, ReleaseLabels(version, (PREVIOUS, before)))
            self._wait(version, "")

    def _wait(self, version: int, label: str) -> None:
        if not self._servers:
            return
        # Only here, because the client's protocol messages bring TensorFlow with them.
        from serving.releases.servers import wait_until_labelled, wait_until_loaded

        models = release_models(self.folder, version)
        if label:
            wait_until_loaded(self._servers, models, version, SERVER_SECONDS)
        else:
            wait_until_labelled(self._servers, models, "stable", version, SERVER_SECONDS)

    def clear_up(self) -> None:
        """Removes followed releases that are neither labelled nor among the newest."""
        remove(self.folder, KEPT)

    def roll_back(self, base: Base) -> int:
        """The release itself answers again, with the bytes that it has; its number among the followed ones."""
        return self.publish(base, 0, {}, "")


def check_made_from(place: Path, weights: Sequence[np.ndarray]) -> None:
    """Refuses a release whose user tower is not the run's.

    Args:
        place: folder of the release's `retrieval` model. weights: of the run's user tower.

    Raises:
        StageError: they differ.
    """
    found = read_variables(place)
    for number, weight in enumerate(weights):
        kept = found.get(f"user_tower/values/{number}")
        if kept is None or kept.shape != weight.shape or not np.array_equal(weight.astype(kept.dtype), kept):
            raise StageError(
                f"{place}: was not exported from the models in its run folder (weight {number} of the user tower differs); "
                "run `python -m pipeline export`, or follow a release whose run is there."
            )


def answering(cursor: Cursor) -> str:
    """What answers, in words.

    Example:
        >>> answering(Cursor(3, "f", update=5)), answering(Cursor(3, "f", update=5, rolled_back="asked for"))
        ('release 3 with update 5 (3000005)', 'release 3 itself (3000000)')
    """
    number = cursor.version % NUMBERS
    what = f"release {cursor.base} with update {number}" if number else f"release {cursor.base} itself"
    return f"{what} ({cursor.version})"
