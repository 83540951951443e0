"""Settings of nightly jobs: which days judge and validate, how long a warm start trains, and how a job holds its lock."""

from __future__ import annotations

import pydantic

from pipeline.settings.section import Section


class JobSection(Section):
    """`[job]`: `python -m pipeline job`. A job takes time from the end of the log, whatever `[data]` says of fractions: a
    day is 24 hours, counted back from the last event."""

    test_days: int = pydantic.Field(1, ge=1)
    """The newest days, on which the candidate and the current release are judged; neither has seen them."""
    valid_days: int = pydantic.Field(7, ge=1)
    """The days before, in a full training: retrieval validates on them, the ranker learns from them."""
    warm_days: int = pydantic.Field(3, ge=1)
    """The same after a warm start: the last ranker has learned from earlier days already, the towers get nearer to today. At
    most `valid_days`: the towers of a full training have learned from all days before these."""
    replay: float = pydantic.Field(19.0, ge=0)
    """Old events that the two towers train on beside the new ones, as a multiple of their number, of a usual day's at most:
    without, they forget, and what came last week is learned from too seldom. With 4 and two epochs, which take as long, the
    demo world's towers reach .95 of full retraining's NDCG@10 after 24 nights; with 19 and one, all of it."""
    epochs: int = pydantic.Field(1, ge=1)
    """Epochs of the two towers over new and replayed events; better once over many than twice over few."""
    learning_rate: float = pydantic.Field(0.3, gt=0, le=1)
    """Share of `retrieval.learning_rate`, `linear.*_learning_rate` and `ranking.learning_rate` after a warm start."""
    linear_epochs: int = pydantic.Field(2, ge=1)
    """Epochs of the linear towers that are trained; those in closed form are fitted again in full."""
    ranking_epochs: int = pydantic.Field(2, ge=1)
    """Epochs of the ranker over its days, once it is calibrated on the newest of them."""
    lock_seconds: float = pydantic.Field(900.0, ge=3)
    """A lock that its owner has not renewed for so long is nobody's; it is renewed every 20 s, and three times as often at
    least. After a kill a job on another machine waits so long at most."""
    keep: int = pydantic.Field(3, ge=1)
    """Finished jobs whose folders stay whole, beside those that labelled releases and the next job start from; of others
    the record remains."""

    @pydantic.model_validator(mode="after")
    def _unseen_after_a_full_training(self) -> JobSection:
        if self.warm_days > self.valid_days:
            raise ValueError(
                f"job.warm_days: must be at most job.valid_days, since the days before these trained the towers that a warm "
                f"start goes on from; received {self.warm_days} and {self.valid_days}. Lower the one or raise the other"
            )
        return self
