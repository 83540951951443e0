"""From what the experts say to one logit a head: linear heads, what a domain does differently, purchases given clicks."""

from __future__ import annotations

import keras
import numpy as np
from keras import ops

from ranking.config import RankingConfig

FOLLOWS_RETRIEVAL = ("click", "like", "purchase")
"""Heads whose logit starts as the standardised retrieval score; the others start at 0."""


class PredictionHeads(keras.layers.Layer):
    """One logit per head and candidate.

        s_h = <(straight, f_h, z), w_h> + b_h  [+ <(straight, f_h, z), v_hd> + c_hd  for a candidate of domain d]

    z is the standardised retrieval score; w_h starts at 1 for it and 0 elsewhere, so that training starts from the
    retrieval order. v and c start at 0: every domain begins as the others, and domain 0 (unknown) stays so.

    With `purchase_given_click` the head `purchase` predicts a purchase *given a click*, and its logit is that of
    p(click) p(purchase | click), learned over everything that was shown and not over clicks alone:

        logit(sigma(a) sigma(b)) = -logsumexp(-a, -b, -a - b)

    Paper: Ma et al., "Entire Space Multi-Task Model: An Effective Approach for Estimating Post-Click Conversion Rate",
    SIGIR 2018.

    Args:
        width: of (straight, f_h, z). heads: names. domains: codes of the domain, 0 included; 0 = no domain heads.

    Shapes: `call(straight [B, K, S], experts {head: [B, K, E]}, score [B, K], domain int [B, K] or None)` returns {head:
    [B, K]}.
    """

    def __init__(self, width: int, heads: tuple[str, ...], config: RankingConfig, domains: int = 0, **kwargs):
        super().__init__(**kwargs)
        self.given_click = config.purchase_given_click and "purchase" in heads
        start = np.zeros((width, 1), np.float32)
        start[-1] = 1.0
        add = lambda shape, name: self.add_weight(shape=shape, initializer="zeros", name=name)  # noqa: E731
        self.kernels, self.biases, self.shifts, self.offsets = {}, {}, {}, {}
        for head in heads:
            self.kernels[head], self.biases[head] = add((width, 1), f"{head}_kernel"), add((1,), f"{head}_bias")
            self.biases[head].assign([0.0 if head == "value" else -3.0])
            if head in FOLLOWS_RETRIEVAL and not (self.given_click and head == "purchase"):
                self.kernels[head].assign(start)
            if domains:
                self.shifts[head] = add((width, domains), f"{head}_shift")
                self.offsets[head] = add((domains,), f"{head}_offset")
        self.domains = domains
        self.built = True

    def start_from(self, rates: dict[str, float]) -> None:
        """Sets every bias to the logit of a base rate in [0, 1], so that training does not begin by finding it."""
        rates = {head: float(np.clip(rate, 1e-4, 1 - 1e-4)) for head, rate in rates.items()}
        if self.given_click and {"click", "purchase"} <= set(rates):
            rates["purchase"] = min(rates["purchase"] / rates["click"], 1 - 1e-4)
        for head, rate in rates.items():
            self.biases[head].assign([np.log(rate / (1 - rate))])

    def call(self, straight, experts, score, domain=None):
        logits = {}
        for head, kernel in self.kernels.items():
            last = ops.concatenate([straight, experts[head], score[..., None]], axis=-1)
            logits[head] = ops.matmul(last, kernel)[..., 0] + self.biases[head]
            if self.domains:
                chosen = (
                    ops.one_hot(domain, self.domains, dtype=last.dtype) * ops.cast(domain > 0, last.dtype)[..., None]
                )
                shifted = ops.matmul(last, self.shifts[head]) + self.offsets[head]
                logits[head] = logits[head] + ops.sum(shifted * chosen, axis=-1)
        if self.given_click:
            logits["purchase"] = joint_logit(logits["click"], logits["purchase"])
        return logits


def joint_logit(first, second):
    """The logit of the product of two probabilities given by their logits, without overflow. Any one shape.

    Example:
        >>> float(joint_logit(np.float32(0.0), np.float32(0.0)))  # a quarter: log(1 / 3)
        -1.0986123085021973
    """
    return -ops.logsumexp(ops.stack([-first, -second, -first - second], axis=-1), axis=-1)
