"""One network of the ranker: pair features, how they interact, experts, and one logit per head and candidate."""

from __future__ import annotations

import keras
from keras import ops

from ranking.config import RankerSpec, RankingConfig
from ranking.domain_calibration import domain_of
from ranking.experts import build_experts
from ranking.features import PairFeatures
from ranking.heads import PredictionHeads
from ranking.interactions import build_interaction
from ranking.tables import SideTables


class RankingNetwork(keras.layers.Layer):
    """Everything after the tokens; training and serving share it, so that folding changes nothing but where tokens
    come from.

        x_0 = pair features;  straight, onward = interaction(x_0);  f_h = experts_h(onward)
        logit_h = linear_h(straight, f_h, retrieval score)

    Args:
        spec, config: see `ranking.config`. side: tables that another network reads too; None = its own.

    Shapes: `call(tokens [U, M, D], present [U, M], items [U] or None, inputs) -> {head: [B, K]}`; `inputs` as in
    `PairFeatures.call`.
    """

    def __init__(self, spec: RankerSpec, config: RankingConfig, side: SideTables | None = None, **kwargs):
        super().__init__(**kwargs)
        self.spec, self.config = spec, config
        self.features = PairFeatures(spec, config, side, name="features")
        width = self.features.width
        self.interaction = build_interaction(self.features.groups, width, config, config.seed + 1000)
        self.experts = build_experts(self.interaction.onward_width, spec.heads, config, config.seed + 10_000)
        width = self.interaction.straight_width + self.experts.width + 1
        self.domains = spec.domains if config.domain_heads else 0
        self.heads = PredictionHeads(width, spec.heads, config, self.domains, name="heads")
        self.built = True

    def each(self, *inputs, **options):
        """The answer of every member. [{head: [B, K]}] of length 1"""
        return [self(*inputs, **options)]

    def call(self, tokens, present, items, inputs, noise=None, group_mask=None):
        """`noise`: a `keras.random.SeedGenerator` in training (dropout, id dropout, delay of popularity), None otherwise.
        `group_mask`: see `PairFeatures.call`."""
        config, kept, as_of = self.config, None, None
        if noise is not None and config.id_dropout > 0:
            keep = lambda like: keras.random.uniform(ops.shape(like), seed=noise) >= config.id_dropout  # noqa: E731
            kept = {"user": keep(inputs["user"]), "item": keep(inputs["candidates"])}
        if noise is not None and config.popularity_delay > 0:
            time = inputs["timestamp"]
            delay = keras.random.uniform(ops.shape(time), seed=noise) * (config.popularity_delay * 86_400)
            as_of = ops.where(time > 0, time - ops.cast(delay, time.dtype), time)
        x0 = self.features(tokens, present, items, inputs, id_kept=kept, group_mask=group_mask, as_of=as_of)
        rows = inputs["candidates"] if items is None else ops.take(items, inputs["candidates"], axis=0)
        return self.logits(x0, rows, noise=noise)

    def logits(self, x0, rows, noise=None):
        """From features on: x0 [B, K, X] and the candidates' rows [B, K] -> {head: [B, K]}."""
        # No dropout on the features themselves: a list without its retrieval scores teaches the wrong order.
        straight, onward = self.interaction(x0, noise=noise)
        domain = domain_of(self.features.side, self.spec, rows) if self.domains else None
        experts = self.experts(onward, noise=noise)
        return self.heads(straight, experts, x0[..., self.features.score_column], domain)
