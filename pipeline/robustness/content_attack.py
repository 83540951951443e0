"""Content made to deceive: what FGSM and PGD on the vectors of single items do to who sees them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from keras import ops

from data.dataset import Dataset
from data.features import FeatureStore
from pipeline.metrics.bootstrap import bootstrap_means
from pipeline.retrieval.served import Served
from pipeline.robustness.target_exposure import TargetExposure
from towers.attack import STEPS, Norm, fgsm, pgd, relative_radius
from towers.input_gradient import Gain, InputGradient

SOFTNESS = 0.3
"""Of the threshold that an attacked score should pass, in standard deviations of a user's scores."""


@dataclasses.dataclass(frozen=True, eq=False)
class AttackedItems:
    """Items as they are served, as functions of their content.

    Attributes:
        served: the model under attack. rows: [B] items. features: {modality: [B, F_m]}, present: bool [B, M].
        placed: whether content alone places them in the linear tower's table, as it does with new items; of others the
            place is learned from events, and content moves only the two towers' half.
    """

    served: Served
    rows: np.ndarray
    features: dict[str, np.ndarray]
    present: np.ndarray
    placed: bool

    @classmethod
    def of(cls, dataset: Dataset, store: FeatureStore, served: Served, rows: np.ndarray) -> AttackedItems:
        """Items all new, or all known from training."""
        names = tuple(served.two_tower.schema.modalities)
        present = store.present_of(names)[rows]
        features = {name: store.gather(name, rows) for name in names}
        return cls(served, rows, features, present, bool((dataset.counts[rows] == 0).all()))

    def embed(self, features: Mapping[str, Any]) -> Any:
        """The served vectors [B, D] for content {modality: [B, F_m]}; what is not given is as it was."""
        content = {name: ops.convert_to_tensor(features.get(name, table)) for name, table in self.features.items()}
        present = ops.convert_to_tensor(self.present)
        two_tower, ensemble = self.served.two_tower, self.served.ensemble
        vectors, _ = two_tower.item_tower(ops.convert_to_tensor(self.rows), content, present, training=False)
        if ensemble is None:
            return vectors
        linear = ops.convert_to_tensor(ensemble.linear.items[self.rows])
        if self.placed and ensemble.content_map is not None:
            linear = ensemble.content_map(content, present)[:, ensemble.linear.width :]
        return ops.concatenate([vectors, linear], axis=1)

    def vectors(self, features: Mapping[str, np.ndarray]) -> np.ndarray:
        """`embed` as NumPy."""
        return np.asarray(ops.convert_to_numpy(self.embed(features)), np.float32)


def reach_gain(embed: Callable[[Any], Any], queries: np.ndarray, threshold: np.ndarray, spread: float) -> Gain:
    """What the attacker wants, made smooth: the share of users who get the item among their first k.

    Formula: `mean_u sigmoid((q_u . e(x) - t_u) / (0.3 sd))`, t_u the score of user u's k-th item, sd the spread of a
    user's scores. On the demo it gains twice the reach that the mean score does, for it spends nothing on users out of reach.

    Args:
        embed: of the inputs attacked -> [B, D]. queries: [Q, D]. threshold: [Q].
    """
    asked = ops.convert_to_tensor(queries.T.astype(np.float32))
    hurdle = ops.convert_to_tensor(np.where(np.isfinite(threshold), threshold, 0.0).astype(np.float32))

    def gain(inputs: Mapping[str, Any]) -> Any:
        return ops.mean(ops.sigmoid((ops.matmul(embed(inputs), asked) - hurdle) / (SOFTNESS * spread)), axis=1)

    return gain


def attack_content(
    items: AttackedItems,
    judge: TargetExposure,
    queries: np.ndarray,
    *,
    epsilons: Sequence[float],
    contents: Sequence[str],
    methods: Sequence[str] = ("fgsm", "pgd"),
    norm: Norm = "l2",
    steps: int = STEPS,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Attack some modalities of every item, each item alone, at every epsilon.

    Args:
        judge: of the unattacked lists. queries: [Q, D], known to the attacker (the worst case). contents: modalities.
        epsilons: shares of a vector's length.

    Returns: for each attack `content`, `norm`, `method`, `epsilon` and the figures of `TargetExposure` as [mean, low, high]
        with intervals over items; the first line is `none`, before any attack.
    """
    start = {name: items.features[name] for name in contents}
    spread = max(float(np.nanstd(queries @ items.served.items[1:].T, axis=1).mean()), 1e-9)
    gain = reach_gain(items.embed, queries, judge.threshold, spread)
    gradient = InputGradient(gain, {name: table.shape for name, table in start.items()})
    said = {"content": list(contents), "norm": norm}
    lines = [{**said, "method": "none", "epsilon": 0.0, **exposure_of(items, start, judge, queries, seed)}]
    for epsilon in epsilons:
        for method in methods:
            moved = moved_content(gradient, start, epsilon, method, norm, steps)
            figures = exposure_of(items, moved, judge, queries, seed)
            lines.append({**said, "method": method, "epsilon": epsilon, **figures})
    return lines


def moved_content(
    gradient: InputGradient, start: Mapping[str, np.ndarray], epsilon: float, method: str, norm: Norm, steps: int
) -> dict[str, np.ndarray]:
    """Content {modality: [B, F_m]} changed by shares `epsilon` of each vector's length, so that the gain grows."""
    radius = {name: relative_radius(table, epsilon, norm) for name, table in start.items()}
    return fgsm(gradient, start, radius, norm) if method == "fgsm" else pgd(gradient, start, radius, norm, steps=steps)


def exposure_of(
    items: AttackedItems, features: Mapping[str, np.ndarray], judge: TargetExposure, queries: np.ndarray, seed: int = 0
) -> dict[str, list[float]]:
    """The figures of items with this content, each put into the lists alone, as [mean, low, high] over the items."""
    scores = queries @ items.vectors(features).T
    return with_intervals([judge.figures(int(row), scores[:, place]) for place, row in enumerate(items.rows)], seed)


def with_intervals(figures: Sequence[Mapping[str, float]], seed: int) -> dict[str, list[float]]:
    """Figures of single items as [mean, low, high], intervals by resampling items."""
    names = tuple(figures[0])
    table = np.array([[one[name] for name in names] for one in figures])
    low, high = bootstrap_means(table, np.random.default_rng(seed))
    means = np.nanmean(table, axis=0)
    return {name: [float(means[at]), float(low[at]), float(high[at])] for at, name in enumerate(names)}
