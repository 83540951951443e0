"""Settings of search by words."""

from __future__ import annotations

import pydantic

from pipeline.settings.section import Section


class SearchSection(Section):
    """`[search]`: a tower from typed questions to items; see `towers.search`."""

    enabled: bool = True
    """Where the catalogue has texts and their encoder can be exported."""
    content_width: int = pydantic.Field(128, ge=2)
    hidden: int = pydantic.Field(256, ge=1)
    dropout: float = pydantic.Field(0.3, ge=0, lt=1)
    learning_rate: float = pydantic.Field(3e-3, gt=0)
    weight_decay: float = pydantic.Field(1e-3, ge=0)
    batch_size: int = pydantic.Field(256, ge=2)
    epochs: int = pydantic.Field(20, ge=1)
    patience: int = pydantic.Field(4, ge=1)
    max_questions: int = pydantic.Field(4000, ge=1)
    """Different texts encoded as questions; a larger catalogue is sampled."""
    held_out: float = pydantic.Field(0.15, gt=0, lt=0.5)
    """Share of the items whose questions choose the epoch and the balance, and are learned from by nobody."""
    tolerance: float = pydantic.Field(0.02, ge=0, le=1)
    """Recall@10 by an item's own words that may be given up for meaning: the smallest balance within it is taken."""
    seed: int = pydantic.Field(7, ge=0)
