"""Which loss trains the towers, as plain data."""

from __future__ import annotations

import dataclasses
from typing import Any

KINDS = ("softmax", "sigmoid", "elsa")
NEGATIVES = ("batch", "mixed", "sampled", "catalogue")
LOG_Q = ("counts", "streaming", "none")
PRODUCTS = ("float32", "bfloat16")


_NAMED = {"kind": KINDS, "negatives": NEGATIVES, "log_q": LOG_Q, "products": PRODUCTS}


@dataclasses.dataclass(frozen=True)
class LossOptions:
    """The retrieval loss and what it is computed from.

    Attributes:
        kind: `softmax`, `sigmoid` (SigLIP) or `elsa`.
        negatives: `batch`: the other events' items. `mixed`: these and uniform draws from the catalogue (Yang et al.,
            *Mixed Negative Sampling for Learning Two-Tower Neural Networks*, WWW 2020). `sampled`: the draws alone; not
            for `elsa`. `catalogue`: every item, for catalogues that fit.
        uniform_negatives: draws a batch, for `mixed` and `sampled`.
        log_q: correction of the softmax for how often an item is a negative: from the `counts` of training, from a
            `streaming` estimate that follows the batches, or `none`.
        streaming_rate: weight of the newest gap in the streaming estimate.
        exclude_positives: leave the user's other positives out of the negatives. `elsa` always takes them as positives.
        hardest: of the softmax, the K hardest negatives alone; 0 = all.
        memory: embeddings of earlier batches kept as further negatives; 0 = none. Not with `exclude_positives`.
        label_smoothing: of the softmax.
        learn_temperature: whether the temperature is trained, or stays where it starts.
        block_logits: logits computed at a time; 0 = chosen by backend.
        products: what the softmax's matrix products are computed in, `float32` or `bfloat16`.

    Raises:
        ValueError: an unknown name, or options that do not go together.

    Example:
        >>> LossOptions(kind="softmax", negatives="mixed", uniform_negatives=512).needs_others
        False
        >>> LossOptions(kind="elsa").needs_others
        True
    """

    kind: str = "softmax"
    negatives: str = "batch"
    uniform_negatives: int = 0
    log_q: str = "counts"
    streaming_rate: float = 0.05
    exclude_positives: bool = False
    hardest: int = 0
    memory: int = 0
    label_smoothing: float = 0.0
    learn_temperature: bool = True
    block_logits: int = 0
    products: str = "float32"

    def __post_init__(self) -> None:
        for name, allowed in _NAMED.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}: must be among {allowed}, received {getattr(self, name)!r}")
        draws = self.negatives in ("mixed", "sampled")
        if draws != (self.uniform_negatives > 0):
            raise ValueError(
                f"uniform_negatives: must be positive with negatives 'mixed' or 'sampled' and 0 otherwise, received "
                f"{self.uniform_negatives} with {self.negatives!r}"
            )
        if self.memory and (self.kind != "softmax" or self.negatives not in ("batch", "mixed")):
            raise ValueError(
                "memory: works with the softmax and a correction known for past items, that is negatives 'batch' or "
                f"'mixed'; received kind {self.kind!r} and negatives {self.negatives!r}"
            )
        if self.memory and self.exclude_positives:
            raise ValueError(
                "exclude_positives: a batch says which of its own columns a user chose, not which of the memory's, where other "
                f"positives would stay negatives; set memory = 0 or exclude_positives = false, received memory {self.memory}"
            )
        if self.kind != "softmax" and (self.hardest or self.label_smoothing):
            raise ValueError(f"hardest, label_smoothing: belong to the softmax, received kind {self.kind!r}")
        if self.kind != "softmax" and (self.products != "float32" or self.log_q == "streaming"):
            raise ValueError(
                f"products, log_q: are of the softmax; kind {self.kind!r} takes 'float32', and 'counts' or 'none', received "
                f"{self.products!r} and {self.log_q!r}"
            )
        if self.kind == "elsa" and self.negatives == "sampled":
            raise ValueError(
                "negatives: elsa scores a user's own items among the columns, and the draws alone leave them out; take "
                "'batch', 'mixed' or 'catalogue', received 'sampled'"
            )
        if not 0 <= self.label_smoothing < 1 or not 0 < self.streaming_rate <= 1:
            raise ValueError(
                "label_smoothing, streaming_rate: must lie in [0, 1) and (0, 1], received "
                f"{self.label_smoothing} and {self.streaming_rate}"
            )

    def check_memory(self, batch_size: int) -> None:
        """Raises: ValueError: a memory that is smaller than what a batch of so many events brings to it."""
        fewest = batch_size + self.uniform_negatives + 1
        if 0 < self.memory < fewest:
            raise ValueError(f"loss.memory: must hold a whole batch, {fewest} columns, received {self.memory}")

    @property
    def needs_others(self) -> bool:
        """Whether a batch has to say which of its columns are other positives of each user."""
        return self.exclude_positives or self.kind == "elsa"

    @property
    def columns(self) -> dict[str, Any]:
        """What the batches must know: arguments of `data.loss_columns.LossColumns`."""
        return {"negatives": self.negatives, "uniform": self.uniform_negatives, "others": self.needs_others}
