"""Which release a version number belongs to: a release's own number, or that of an update between two releases."""

from __future__ import annotations

NUMBERS = 1_000_000
"""Followed releases of release r are r * NUMBERS + n: they rise with updates and with releases, and 0 is r itself."""


def base_version(version: int) -> int:
    """The release that a version is, or is an update of: index, item encoder, ranker and search are those of that one.

    Example:
        >>> base_version(7), base_version(7_000_000), base_version(7_000_012)
        (7, 7, 7)
    """
    return version // NUMBERS if version >= NUMBERS else version
