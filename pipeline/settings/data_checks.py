"""Thresholds of the data checks: what is worth a warning, and what stops a job, each with its reason."""

from __future__ import annotations

import pydantic

from pipeline.settings.section import Section

Bounds = tuple[float, float]
"""(warn, stop)."""


class ChecksSection(Section):
    """`[checks]`: each pair is (warn, stop). Shares are of the new rows alone: among a year of good ones a bad day drowns."""

    reference_days: int = pydantic.Field(28, ge=1)
    """History that new days are compared with: four whole weeks, so that every weekday counts alike."""
    quarantined: Bounds = (0.01, 0.1)
    """Share of the new rows that the ingest refuses. One in a hundred is a bug somewhere; one in ten is another format."""
    gone_items: Bounds = (0.1, 0.3)
    """Share of the items of before that are no longer in the catalogue: shops take some out every night; a file that was cut
    off, or one of a part of the shop, lacks many."""
    duplicates: Bounds = (0.02, 0.2)
    """Share of the new rows that repeat another: a retried upload repeats some, a file sent twice repeats all."""
    volume: Bounds = (1.7, 3.0)
    """Events a day against the median day, either way up (3 = a third, or three times): holidays double a day, outages and
    doubled logs do more."""
    psi: Bounds = (0.1, 0.5)
    """Population stability index of a column, less what chance gives so few rows. Credit scoring calls .1 a shift and .25 a
    large one; a single day against a month moves more than a quarter against a year."""
    label_shift: Bounds = (0.2, 0.5)
    """Relative change of the share of positive events and of each kind, where it is no chance either (`significance`)."""
    missing_media: Bounds = (0.1, 0.3)
    """Share of the new items without a modality, above that of the items before: models live with missing content, but not
    with a third of a day's items being blind to it."""
    lost_media: Bounds = (0.02, 0.1)
    """Share of the items that had a modality and have it no more: files on the way out, or a mount that is not there."""
    changed_vectors: Bounds = (0.05, 0.5)
    """Share of the items known before whose ready-made vectors are others now: some are made again as items are edited, most
    only by another encoder, whose space the models of the last release have not learned."""
    mmd: Bounds = (0.1, 0.4)
    """Maximum mean discrepancy (not squared) between embeddings of new and of old items, less what chance gives; 0 to
    about 1.4. New items of another genre reach .1 to .2; another encoder or empty pictures reach .5."""
    surprise: Bounds = (0.05, 0.3)
    """Relative fall of how much better than chance the current model knows who chose what, where it is no chance itself. It
    falls by the share of events that were exchanged at random."""
    significance: float = pydantic.Field(3.0, gt=0)
    """Standard errors beyond which a difference is no chance."""
    sample: int = pydantic.Field(400, ge=20)
    """Vectors of each side that the discrepancy is computed from; its cost grows with the square."""
    fewest: int = pydantic.Field(20, ge=1)
    """New rows (events, items, vectors) below which a distribution is not judged, and the report says so."""
    seed: int = pydantic.Field(7, ge=0)

    @pydantic.model_validator(mode="after")
    def _in_order(self) -> ChecksSection:
        for name, field in type(self).model_fields.items():
            value = getattr(self, name)
            if field.annotation == Bounds and not 0 <= value[0] <= value[1]:
                raise ValueError(f"checks.{name}: must be (warn, stop) with 0 <= warn <= stop, received {value}")
        return self
