"""Bounds of the release gate: how much worse than the current release a candidate may be, and what it may cost."""

from __future__ import annotations

import pydantic

from pipeline.settings.section import Section


class GateSection(Section):
    """`[gate]`: a candidate that breaks one bound, or of which a figure is missing, is not published."""

    tolerance: float = pydantic.Field(0.02, ge=0)
    """Relative loss of a retrieval or ranking metric that is accepted: what seeds and days differ by."""
    margin: float = pydantic.Field(0.1, ge=0)
    """How low the 95 % interval of the difference may reach, relative to the current figure. A slice too small to rule out a
    loss of a tenth is no ground for a release."""
    segment_loss: float = pydantic.Field(0.05, ge=0)
    """Relative loss in a segment of users beyond which it counts, once its whole interval lies below zero."""
    item_loss: float = pydantic.Field(0.5, ge=0)
    """The same for a group of items. These share the places of one list: where people want new items the head loses up to a
    third to them (nights of the demo world), and the figures of the whole say whether that is right."""
    calibration: float = pydantic.Field(0.1, ge=0, le=1)
    """Highest expected calibration error of a probability, unless the current one's is higher still. A well calibrated one has
    .01 over weeks of events, and .03 to .06 on a single day, by chance."""
    recall_floor: float = pydantic.Field(0.95, ge=0, le=1)
    """Lowest recall@100 of the index that answers, against exact search."""
    latency_ms: float = pydantic.Field(250.0, gt=0)
    """Highest median milliseconds of a whole recommendation (one user) by the released graph, on this machine."""
    size_growth: float = pydantic.Field(1.5, ge=1)
    """How many times as large as the current release the candidate may be, in bytes."""
    fairness_gap: float = pydantic.Field(0.1, ge=0)
    """How far the gap between the best and the worst served group of users (NDCG@10, relative to the mean) may grow."""
    exposure_loss: float = pydantic.Field(0.5, ge=0, le=1)
    """Share of its exposure that a group of items (never in training, long tail, a domain) may lose."""
    users: int = pydantic.Field(30, ge=1)
    """Fewest users on the newest slice that a decision may rest on."""
    seed: int = pydantic.Field(7, ge=0)
