"""Histograms of scores over deciles of their own, as a file: what is expected, to be compared with what is answered."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

BINS = 10
REFERENCE = "score_reference.json"
"""Name of the file in a release."""


def score_histogram(scores: np.ndarray) -> dict[str, list[float]]:
    """`edges` [b + 1], rising, and `shares` [b] of the scores between them; values outside count in the outer bins.

    Example:
        >>> found = score_histogram(np.arange(100.0))
        >>> len(found["edges"]), found["edges"] == sorted(found["edges"]), found["shares"][:2]
        (11, True, [0.1, 0.1])
    """
    values = np.asarray(scores, float)
    inner = np.unique(np.quantile(values, np.linspace(0, 1, BINS + 1)[1:-1]))
    counts = np.histogram(values, np.concatenate([[-np.inf], inner, [np.inf]]))[0]
    edges = [inner[0] - 1.0, *inner, inner[-1] + 1.0]
    return {"edges": [float(edge) for edge in edges], "shares": (counts / counts.sum()).tolist()}


def read_histogram(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Edges with infinite ends, and shares, of a file `{"edges": [b + 1 numbers, rising], "shares": [b]}`.

    Raises:
        ValueError: a file that is not of this form.
    """
    try:
        content = json.loads(path.read_text())
        edges, shares = np.array(content["edges"], float), np.array(content["shares"], float)
        good = edges.ndim == 1 and len(edges) == len(shares) + 1 and len(shares) > 0
        good = good and bool((np.diff(edges) > 0).all() and np.isfinite(shares).all() and (shares >= 0).all())
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"score_reference: {path} cannot be read ({type(error).__name__})") from None
    if not good:
        raise ValueError(f"score_reference: {path} must hold rising edges and one share a bin between them")
    edges[0], edges[-1] = -np.inf, np.inf
    return edges, shares
