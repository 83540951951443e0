"""Settings of the loss that trains the two towers; `towers.loss_options.LossOptions` says what each means."""

from __future__ import annotations

from typing import Literal, Self

import numpy as np
import pydantic

from data.schema import EVENT_KINDS
from pipeline.settings.section import Section
from towers.loss_options import LossOptions


class LossConfig(Section):
    """`[retrieval.loss]`: what a query's own item is compared with, and how."""

    kind: Literal["softmax", "sigmoid", "elsa"] = "softmax"
    """Cross-entropy over the negatives; SigLIP's question a pair; or ELSA's squared error between directions."""
    negatives: Literal["batch", "mixed", "sampled", "catalogue"] = "batch"
    """The batch's other items; these and uniform draws from the catalogue; the draws alone (not for `elsa`); or every item."""
    uniform_negatives: int = pydantic.Field(0, ge=0)
    """Uniform draws a batch, for `mixed` and `sampled`."""
    log_q: Literal["counts", "streaming", "none"] = "counts"
    """Correction for how often an item is met as a negative: by training counts, by an estimate that follows the batches,
    or not at all. Uniform draws and the whole catalogue need none."""
    streaming_rate: float = pydantic.Field(0.05, gt=0, le=1)
    """Weight of the newest gap between two events of an item in the streaming estimate."""
    exclude_positives: bool = False
    """Leave a user's other positives out of the negatives; not with `memory`, of whose items a batch knows no users."""
    hardest: int = pydantic.Field(0, ge=0)
    """Of the softmax, keep that many hardest negatives of each query; 0 = all."""
    memory: int = pydantic.Field(0, ge=0)
    """Item embeddings of earlier batches kept as further negatives of the softmax; 0 = none."""
    label_smoothing: float = pydantic.Field(0.0, ge=0, lt=1)
    """Share of the softmax's target that is spread evenly over all candidates."""
    learn_temperature: bool = True
    """Whether the temperature is trained or stays at `retrieval.temperature`."""
    block_logits: int = pydantic.Field(0, ge=0)
    """Logits computed at a time, 4 bytes each; 0 = a million on TensorFlow, 64 million on JAX."""
    products: Literal["float32", "bfloat16"] = "float32"
    """What the softmax's matrix products are computed in; bfloat16 pays on an accelerator."""

    event_weights: dict[str, float] = pydantic.Field(default_factory=dict)
    """How much a positive event counts by its kind, as in `{ purchase = 5.0, click = 0.5 }`; 1 where nothing is said."""

    @pydantic.model_validator(mode="after")
    def _options_go_together(self) -> Self:
        self.options()
        unknown = set(self.event_weights) - set(EVENT_KINDS)
        if unknown or any(not 0 <= weight < float("inf") for weight in self.event_weights.values()):
            raise ValueError(f"event_weights: must be 0 or more for kinds among {EVENT_KINDS}, received {self.event_weights}")
        return self

    def options(self) -> LossOptions:
        """The same as what the towers take."""
        return LossOptions(**self.model_dump(exclude={"event_weights"}))

    def kind_weights(self) -> np.ndarray | None:
        """Weight by code of kind, as `data.batches.RetrievalBatches` takes it; None where all count the same.

        Example:
            >>> LossConfig(event_weights={"click": 0.5}).kind_weights()[:4].tolist()
            [1.0, 1.0, 0.5, 1.0]
        """
        if not self.event_weights:
            return None
        return np.array([1.0, *(self.event_weights.get(kind, 1.0) for kind in EVENT_KINDS)])
