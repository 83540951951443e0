"""A deep ensemble: networks that were drawn apart and learn from the same lists, and the mean of their logits."""

from __future__ import annotations

import dataclasses

import keras
import numpy as np
from keras import ops

from ranking.config import RankerSpec, RankingConfig
from ranking.features import PairFeatures
from ranking.network import RankingNetwork

SEEDS_APART = 100_000
"""Between the seeds of two members: a network draws from many seeds above its own."""

MEMBER = "member_"
"""With its number, the first part of the names of a member's weights."""


class EnsembleFeatures:
    """The members' pair features beside each other, as if they were those of one network of S times the width.

    A group of features is the same group of every member, so that whoever masks groups masks them in all members at once.

    Attributes:
        groups: group -> ranges of columns, one a member. width: S X. score_column: where the standardised retrieval score
            stands first. group_of_column: int [S X]. side: the tables that all members read.

    Shapes: `call` is that of `PairFeatures`, and returns [B, K, S X].
    """

    def __init__(self, members: list[PairFeatures]):
        self.members, first = members, members[0]
        self.side, self.score_column = first.side, first.score_column
        self.width = len(members) * first.width
        starts = first.width * np.arange(len(members))
        self.groups = {
            name: [(int(at) + start, int(at) + end) for at in starts for start, end in ranges]
            for name, ranges in first.groups.items()
        }
        self.group_of_column = np.tile(first.group_of_column, len(members))

    def __call__(self, *inputs, **options):
        return ops.concatenate([features(*inputs, **options) for features in self.members], axis=-1)

    def neutral(self):
        """Features of a user and an item of whom nothing is known. [1, 1, S X]"""
        return ops.concatenate([features.neutral() for features in self.members], axis=-1)


class RankingEnsemble(keras.layers.Layer):
    """S networks of one kind whose weights were drawn, and whose noise is drawn, each with its own seed; one answer.

        logit_h = 1/S sum_s logit_hs

    Each learns by its own loss (`ranking.model.Ranker`) and none by the error of the mean, which would let them lean on
    each other. They share what is not learned, the side tables, and the content tokens of the items: one table of tokens
    serves all. Everything after it is a member's own.

    Paper: Lakshminarayanan, Pritzel and Blundell, "Simple and Scalable Predictive Uncertainty Estimation using Deep
    Ensembles", NeurIPS 2017. The mean is that of the logits, whose probabilities are calibrated afterwards, as those of one
    network are.

    Args:
        spec, config: as of `RankingNetwork`; `config.members` is S, `config.seed` that of the first member.

    Shapes: `call` and `logits` are those of `RankingNetwork`; `each` returns a list of S such answers.

    Example:
        RankingEnsemble(spec, RankingConfig(members=3)).members[1].heads
    """

    def __init__(self, spec: RankerSpec, config: RankingConfig, **kwargs):
        super().__init__(**kwargs)
        self.members: list[RankingNetwork] = []
        for place in range(config.members):
            own = dataclasses.replace(config, seed=config.seed + place * SEEDS_APART)
            side = self.members[0].features.side if place else None
            with keras.name_scope(f"{MEMBER}{place}"):
                self.members.append(RankingNetwork(spec, own, side, name=f"{MEMBER}{place}"))
        self.features = EnsembleFeatures([member.features for member in self.members])
        self.built = True

    def call(self, tokens, present, items, inputs, noise=None, group_mask=None):
        return mean_over(self.each(tokens, present, items, inputs, noise=noise, group_mask=group_mask))

    def each(self, tokens, present, items, inputs, noise=None, group_mask=None):
        """The answer of every member. [{head: [B, K]}] of length S"""
        return [member(tokens, present, items, inputs, noise=noise, group_mask=group_mask) for member in self.members]

    def logits(self, x0, rows, noise=None):
        """From features on: x0 [B, K, S X] and the candidates' rows [B, K] -> {head: [B, K]}."""
        parts = ops.split(x0, len(self.members), axis=-1)
        return mean_over([member.logits(part, rows, noise) for member, part in zip(self.members, parts, strict=True)])


def mean_over(answers):
    """The mean of what several members say, head by head; of one member just that. [{head: tensor}] -> {head: tensor}

    Example:
        >>> found = mean_over([{"click": np.array([[1.0, 2.0]])}, {"click": np.array([[3.0, 0.0]])}])
        >>> np.asarray(found["click"]).tolist()
        [[2.0, 1.0]]
    """
    if len(answers) == 1:
        return answers[0]
    return {head: sum(answer[head] for answer in answers) / len(answers) for head in answers[0]}


def members_of(network: RankingNetwork | RankingEnsemble) -> list[RankingNetwork]:
    """The networks whose answers are averaged: an ensemble's members, or the one network."""
    return [network] if isinstance(network, RankingNetwork) else network.members


def build_network(spec: RankerSpec, config: RankingConfig) -> RankingNetwork | RankingEnsemble:
    """One network, or an ensemble where `config.members` says so."""
    kind = RankingNetwork if config.members == 1 else RankingEnsemble
    return kind(spec, config, name="network")
