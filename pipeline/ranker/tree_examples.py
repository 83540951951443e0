"""What trees are fitted to: the features of lists that mean something each alone, their clicks, and where each list ends."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from ranking.config import RankingConfig
from ranking.lists import RankingLists
from ranking.position_tower import PositionTower
from ranking.serving_form import RankingServingForm

if TYPE_CHECKING:
    import lightgbm

MOST_LISTS = 8_000
"""Training lists looked at: more would double the ranking stage for a figure that hardly moves."""
BLOCK_LISTS = 256


@dataclasses.dataclass(frozen=True)
class TreeExamples:
    """Elements of lists, one list after the other.

    Attributes:
        features: f32 [E, X'], see `tree_features`. clicks: [E]. sizes: [R], elements of each list; they sum to E.
        weights: [E], how much each counts; None = all alike. offsets: [E], what the place on the page added to each click
            logit, which is no merit of the item's; None = no place is known.
    """

    features: np.ndarray
    clicks: np.ndarray
    sizes: np.ndarray
    weights: np.ndarray | None = None
    offsets: np.ndarray | None = None

    def dataset(self, reference: lightgbm.Dataset | None = None, start: np.ndarray | None = None) -> lightgbm.Dataset:
        """The same for LightGBM, in the bins of `reference`; `start` [E]: the scores that trees are added to."""
        import lightgbm

        return lightgbm.Dataset(
            self.features, self.clicks, group=self.sizes, reference=reference, weight=self.weights, init_score=start
        )

    @classmethod
    def of(
        cls,
        form: RankingServingForm,
        lists: RankingLists,
        config: RankingConfig,
        rng: np.random.Generator,
        position: PositionTower | None = None,
    ) -> TreeExamples:
        """Of the lists that hold a click, at most `MOST_LISTS` drawn at random, each list's elements in a random order.

        Lists name their positives first, and equal scores keep the order of the data: without the shuffle a single tree
        looks perfect, and training stops there.

        Args:
            form: of the trained ranker, with popularity as of the past. position: trained beside it; None = there is none.
        """
        chosen = np.sort(rng.permutation(len(lists))[:MOST_LISTS])
        chosen = chosen[(lists.labels["click"][chosen] * lists.mask[chosen]).any(axis=1)]
        rows, clicks = [np.zeros((0, len(form.network.features.numbers)), np.float32)], [np.zeros(0)]
        added = None
        if position is not None and lists.position[chosen].any():
            added = keras.ops.convert_to_numpy(position(lists.position[chosen]))
        weights, offsets = [np.zeros(0)], [np.zeros(0)]
        for start in range(0, len(chosen), BLOCK_LISTS):
            at = chosen[start : start + BLOCK_LISTS]
            # A release grows old; the network is trained with popularity of up to so long ago, and so are the trees.
            delay = (rng.random(len(at)) * config.popularity_delay * 86_400).astype(np.int64)
            time = lists.timestamp[at].astype(np.int64)
            x = tree_features(form, list_inputs(form, lists, at), np.where(time > 0, time - delay, time))
            mask = lists.mask[at]
            order = np.argsort(np.where(mask, rng.random(mask.shape), 2.0), axis=1)
            inside = np.take_along_axis(mask, order, axis=1)
            rows.append(np.take_along_axis(x, order[..., None], axis=1)[inside])
            clicks.append(np.take_along_axis(lists.labels["click"][at], order, axis=1)[inside])
            weights.append(np.take_along_axis(lists.weight[at], order, axis=1)[inside])
            if added is not None:
                offsets.append(np.take_along_axis(added[start : start + len(at)], order, axis=1)[inside])
        counted = np.concatenate(weights)
        return cls(
            np.concatenate(rows),
            np.concatenate(clicks),
            lists.mask[chosen].sum(axis=1),
            None if (counted == 1).all() else counted,
            None if added is None else np.concatenate(offsets),
        )


def list_inputs(form: RankingServingForm, lists: RankingLists, at: np.ndarray) -> dict[str, Any]:
    """The inputs of some lists, as the features take them."""
    return form.request_inputs(
        lists.user[at], lists.history[at], lists.candidates[at], lists.retrieval_scores[at], lists.timestamp[at],
        lists.retrieval_ranks[at], lists.context[at],
    )  # fmt: skip


def tree_features(form: RankingServingForm, given: dict[str, Any], as_of: np.ndarray | None = None) -> np.ndarray:
    """The columns of x_0 that are `numbers`, of every candidate. [B, K, X']

    The coordinates of learned vectors are left to the network: with them trees need four times as long and rank no better
    (.168 against .172 alone, .173 against .176 beside the network; NDCG@10 of the demo's held-out requests, three seeds), and
    embeddings of ids were fitted to the clicks of the same lists, which trees that read them learn by heart.
    """
    features = form.network.features
    x0 = keras.ops.convert_to_numpy(features(form.tokens, form.present, None, given, as_of=as_of))
    return x0[..., features.numbers]
