"""Settings of the candidate index: which kind answers, and how much of exact search it has to find."""

from __future__ import annotations

from typing import Literal

import pydantic

from pipeline.settings.section import Section


class IndexSection(Section):
    kind: Literal["auto", "exact", "partitioned", "scann"] = "auto"
    """What answers in evaluation and what ranking learns from. auto = exact search in a small catalogue, in a large one the
    partitioned index if its recall is no lower than the floor. `retrieval` is released with it, but for "scann", whose
    operations a stock server lacks: there it is what auto would choose."""
    scann: bool = True
    """Build ScaNN's index as well, for the same table of figures and for `retrieval_scann`."""
    recall_floor: float = pydantic.Field(0.95, ge=0, le=1)
    """An approximate index that finds less of exact search is refused."""
    recall_target: float = pydantic.Field(0.98, ge=0, le=1)
    """What the choice of leaves and blocks aims at, on one half of the queries."""
    points_beyond: int = pydantic.Field(2, ge=0)
    """Settings that are measured after the first one that reaches the target, for the table and its plot; a nightly job that
    searches exactly measures none."""
    k: int = pydantic.Field(500, ge=1)
    """The first k that recall is chosen by; fewer in a small catalogue, a hundredth of it or 100."""
    queries: int = pydantic.Field(500, ge=1)
    """Validation requests that recall is measured on."""
    exact_below: int = pydantic.Field(50_000, ge=0)
    """Items below which auto searches exactly."""
    vectors: Literal["float16", "float32"] = "float16"
    """What the partitioned index keeps for its exact scores; half precision is a third smaller than the exact index."""
    seed: int = pydantic.Field(7, ge=0)
