"""The choice of how features meet each other, behind one contract.

An interaction is a layer `call(x0 [..., X], noise=None) -> straight [..., S], onward [..., O]`: what the heads read
directly, and what the experts read. It says S and O as `straight_width` and `onward_width`. Whatever it does, it does for
one user and candidate at a time.
"""

from __future__ import annotations

import keras

from ranking.config import RankingConfig
from ranking.crosses import CrossNetwork
from ranking.dot_interactions import DotInteractions
from ranking.final_mlp import FinalMLP


def build_interaction(
    groups: dict[str, list[tuple[int, int]]], width: int, config: RankingConfig, seed: int
) -> keras.layers.Layer:
    """The interaction that `config.interaction` names.

    Args:
        groups: name -> ranges of columns of x_0, see `PairFeatures`. width: X.
    """
    if config.interaction == "dcn":
        return CrossNetwork(width, config.cross_layers, config.cross_rank, seed, name="crosses")
    if config.interaction == "dlrm":
        return DotInteractions(groups, config.group_width, seed, name="dots")
    return FinalMLP(groups, width, config.stream_hidden, config.fusion_heads, config.dropout, seed, name="final_mlp")
