"""Which release is stable and which stands beside it: the labels of a folder of releases, and their lawful moves."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path

from serving.releases.manifest import ReleaseError
from serving.releases.models_config import read_models_config

STABLE, CANARY, PREVIOUS, WITHDRAWN = "stable", "canary", "previous", "withdrawn"
LABELS = (STABLE, CANARY, PREVIOUS, WITHDRAWN)


class UndecidedCanaryError(ReleaseError):
    """Somebody has to promote the canary or roll it back first; trying again changes nothing."""


@dataclasses.dataclass(frozen=True)
class ReleaseLabels:
    """The labels of all models of all releases: no model moves alone.

    A server holds the stable release and at most one beside it, which is why memory for two is enough. The one beside
    it is the canary (to be tried), the previous one (stable until the last promotion) or a withdrawn one (rolled back).
    The last two get no traffic by label; they stay loaded so that requests under way end well and a change is undone at
    once. A label in use moves only to a release that is loaded, because TF Serving refuses any other move.

    Attributes:
        stable: what answers; None = nothing is served yet.
        beside: label -> release, one entry or none.

    Example:
        >>> labels = ReleaseLabels().to_stable(7).to_canary(8)
        >>> labels.as_dict(), labels.to_stable().as_dict(), labels.to_stable().roll_back().as_dict()
        ({'stable': 7, 'canary': 8}, {'stable': 8, 'previous': 7}, {'stable': 7, 'withdrawn': 8})
    """

    stable: int | None = None
    beside: tuple[str, int] | None = None

    @property
    def canary(self) -> int | None:
        return self.beside[1] if self.beside and self.beside[0] == CANARY else None

    @property
    def versions(self) -> tuple[int, ...]:
        """What a server holds loaded, ascending."""
        return tuple(sorted(self.as_dict().values()))

    def as_dict(self) -> dict[str, int]:
        """Release by label."""
        stable = {} if self.stable is None else {STABLE: self.stable}
        return {**stable, **dict([self.beside] if self.beside else [])}

    def of(self, version: int) -> str:
        """The label of a release, or ""."""
        return next((label for label, number in self.as_dict().items() if number == version), "")

    def standing(self, numbers: Iterable[int]) -> list[int]:
        """Those of some releases that nobody has withdrawn.

        A server holds one withdrawn release at most, so its label tells of the last one alone. All between the stable
        release and it are left out: each was withdrawn before, or gave way, untried, to one that was made from it. One that
        was good is lost for little: the next is made from the stable release.

        Example:
            >>> ReleaseLabels(4, ("withdrawn", 6)).standing([3, 4, 5, 6, 7])
            [3, 4, 7]
            >>> ReleaseLabels(4, ("canary", 6)).standing([4, 5, 6])
            [4, 5, 6]
        """
        stable, withdrawn = self.stable or 0, self.as_dict().get(WITHDRAWN, 0)
        return [number for number in numbers if not stable < number <= withdrawn]

    def to_canary(self, version: int) -> ReleaseLabels:
        """A release to be tried beside the stable one. The first release ever has nothing to stand beside: it is stable.

        Raises:
            ReleaseError: it is stable, or the canary.
            UndecidedCanaryError: another canary is still being tried.
        """
        if version in (self.stable, self.canary):
            raise ReleaseError(f"version: release {version} is {self.of(version)} already")
        if self.stable is None:
            return ReleaseLabels(version)
        if self.canary is not None:
            raise UndecidedCanaryError(
                f"version: release {self.canary} is the canary still; promote it or roll it back before {version} takes "
                f"its place"
            )
        return ReleaseLabels(self.stable, (CANARY, version))

    def to_stable(self, version: int | None = None) -> ReleaseLabels:
        """A release that is loaded, the canary where none is named, answers from now on.

        Raises:
            ReleaseError: there is no canary, the release is stable already, or it is not loaded.
        """
        if version is None and self.canary is None:
            raise ReleaseError(f"version: there is no canary to promote ({self}); name a release")
        version = self.canary if version is None else version
        if version == self.stable:
            raise ReleaseError(f"version: release {version} is stable already")
        if self.stable is None:
            return ReleaseLabels(version)
        if version not in self.versions:
            raise ReleaseError(
                f"version: release {version} is not loaded ({self}), and a label in use moves only to what is; make it the "
                f"canary first"
            )
        assert version is not None
        return ReleaseLabels(version, (PREVIOUS, self.stable))

    def roll_back(self) -> ReleaseLabels:
        """One step back: the canary is withdrawn; without one, the previous release becomes stable again.

        Raises:
            ReleaseError: neither is loaded.
        """
        label, version = self.beside or ("", 0)
        if label == CANARY:
            return ReleaseLabels(self.stable, (WITHDRAWN, version))
        if label == PREVIOUS and self.stable is not None:
            return ReleaseLabels(version, (WITHDRAWN, self.stable))
        raise ReleaseError(
            f"releases: no canary and no previous release is loaded ({self}); to serve an older one, promote it twice: to "
            f"canary, then to stable"
        )

    def __str__(self) -> str:
        return ", ".join(f"{label} {version}" for label, version in self.as_dict().items()) or "no release is labelled"


def read_labels(releases: Path) -> ReleaseLabels:
    """The labels in force, out of `<releases>/models.config`; none where it is not there.

    Raises:
        ReleaseError: not a config that `serving.releases.view` wrote: it mixes releases.
    """
    file = releases / "models.config"
    if not file.is_file():
        return ReleaseLabels()
    found: dict[str, int] = {}
    try:
        models = read_models_config(file).model_config_list.config
    except ValueError as error:
        raise ReleaseError(f"{error}; move the file away and promote a release again") from error
    for model in models:
        for label, version in model.version_labels.items():
            if found.setdefault(label, version) != version:
                raise _foreign(file, f"{label} is {found[label]} and {version}")
    return _labels(file, found)


def _labels(file: Path, found: dict[str, int]) -> ReleaseLabels:
    others: Sequence[str] = [label for label in found if label != STABLE]
    unknown = [label for label in others if label not in LABELS]
    if unknown or len(others) > 1 or (found and STABLE not in found):
        raise _foreign(file, f"labels {sorted(found)}")
    return ReleaseLabels(found.get(STABLE), (others[0], found[others[0]]) if others else None)


def _foreign(file: Path, what: str) -> ReleaseError:
    return ReleaseError(
        f"{file}: mixes releases ({what}); it was not written by `release promote`. Move it away and promote again"
    )
