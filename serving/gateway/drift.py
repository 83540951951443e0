"""Whether the gateway still answers as it used to: drift of the scores, and how much of the catalogue is shown."""

from __future__ import annotations

import collections
import logging
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from serving.release_number import base_version
from serving.score_histogram import REFERENCE, read_histogram, score_histogram

logger = logging.getLogger(__name__)

WINDOW = 5_000
"""Scores that are compared, and items whose variety is measured: those of the last 500 lists of ten."""
LEAST_SHARE = 1e-4
"""An empty bin counts as this share, or one bin that fills would make the index infinite."""


def stability_index(expected: np.ndarray, received: np.ndarray) -> float:
    """Population stability index of two histograms over the same bins.

        PSI = Σ_i (r_i - e_i) ln(r_i / e_i)

    The symmetrised Kullback-Leibler divergence; by custom below 0.1 nothing has happened and above 0.25 something has.
    Siddiqi 2006, *Credit Risk Scorecards*, chapter 8.

    Args:
        expected, received: counts or shares, [bins].

    Example:
        >>> stability_index(np.array([50, 50]), np.array([500, 500]))
        0.0
        >>> round(stability_index(np.array([0.5, 0.5]), np.array([0.9, 0.1])), 3)
        0.879
    """
    shares = []
    for histogram in (expected, received):
        share = np.maximum(np.asarray(histogram, float) / max(float(np.sum(histogram)), 1e-12), LEAST_SHARE)
        shares.append(share / share.sum())
    return float(np.sum((shares[1] - shares[0]) * np.log(shares[1] / shares[0])))


class ScoreDrift:
    """The stability index of the last scores against what is expected. Thread safe.

    Expected is, of these, the first that there is: a file that is given; the histogram that the release brings along
    (`serving.export.score_reference`); the release's own first scores. Bins are the deciles of what is expected. An update
    between two releases is compared with what is expected of its release.

    Args:
        reference: a file of `serving.score_histogram`. releases: folder of the releases whose own files are looked for.

    Raises:
        ValueError: a reference that is not of that form.
    """

    def __init__(self, reference: Path | None = None, releases: Path | None = None) -> None:
        self._lock = threading.Lock()
        self._given = None if reference is None else read_histogram(reference)
        self._releases = releases
        self._edges: np.ndarray | None = None
        self._expected: np.ndarray | None = None
        self._edges, self._expected = self._given or (None, None)
        self._release: int | None = None
        self._scores: collections.deque[float] = collections.deque(maxlen=WINDOW)

    def observe(self, scores: Iterable[float]) -> None:
        """Takes in the scores of an answer; what is not finite is left out."""
        with self._lock:
            self._scores.extend(score for score in scores if np.isfinite(score))
            if self._edges is None and len(self._scores) == WINDOW:
                found = score_histogram(np.array(self._scores))
                self._edges, self._expected = np.array(found["edges"]), np.array(found["shares"])
                self._edges[0], self._edges[-1] = -np.inf, np.inf
                self._scores.clear()

    def restart(self, version: int | None = None) -> None:
        """Another release answers: its scores are compared with what is expected of it. An update of the same one changes
        nothing, or there would never be enough scores between two of them."""
        release = None if version is None else base_version(version)
        if release is not None and release == self._release:
            return
        expected = self._given or self._of_release(release)
        with self._lock:
            self._release = release
            self._edges, self._expected = expected or (None, None)
            self._scores.clear()

    def _of_release(self, release: int | None) -> tuple[np.ndarray, np.ndarray] | None:
        file = None if self._releases is None or release is None else self._releases / str(release) / REFERENCE
        if file is None or not file.is_file():
            return None
        try:
            return read_histogram(file)
        except ValueError as error:  # no reason to answer nobody
            logger.warning("%s; the release's first scores are taken instead", error)
            return None

    def index(self) -> float:
        """The stability index; NaN while there is no reference or fewer than a tenth of a window to compare."""
        with self._lock:
            if self._edges is None or self._expected is None or len(self._scores) < WINDOW // 10:
                return float("nan")
            return stability_index(self._expected, np.histogram(np.array(self._scores), self._edges)[0])


class Coverage:
    """How many different items the last lists held. Thread safe.

    Example:
        >>> coverage = Coverage(window=4)
        >>> coverage.observe(["a", "b"]); coverage.observe(["a", "c", "c"])
        >>> coverage.distinct()  # "a" of the first list has gone
        3
    """

    def __init__(self, window: int = WINDOW) -> None:
        self._lock = threading.Lock()
        self._window = window
        self._items: collections.deque[str] = collections.deque()
        self._counts: collections.Counter[str] = collections.Counter()

    def observe(self, item_ids: Sequence[str]) -> None:
        with self._lock:
            self._items.extend(item_ids)
            self._counts.update(item_ids)
            while len(self._items) > self._window:
                oldest = self._items.popleft()
                self._counts[oldest] -= 1
                if not self._counts[oldest]:
                    del self._counts[oldest]

    def distinct(self) -> int:
        with self._lock:
            return len(self._counts)
