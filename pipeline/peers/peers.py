"""Who is measured beside the towers: each model with the space it is tuned in, behind one contract.

A peer is fitted on a `Problem` and answers a `Question` with scores. Everything else, from the masks to the metrics and
the number of trials, is the same for all of them (`pipeline.peers.contest`).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from data.dataset import Dataset
from data.features import FeatureStore
from pipeline.metrics.examples import Requests
from pipeline.metrics.interactions import Interactions
from pipeline.metrics.top_k import ScoreBlock
from pipeline.peers.baselines_content import ContentKNN, ContentPopularity, RandomOrder, join_content
from pipeline.retrieval.baselines import EASE, Baseline, ItemKNN, Popularity, score_users

Settings = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Choice:
    """One of a few values, each as likely."""

    values: tuple[Any, ...]

    def draw(self, rng: np.random.Generator) -> Any:
        return self.values[int(rng.integers(len(self.values)))]


@dataclasses.dataclass(frozen=True)
class Range:
    """A number in [low, high], whole where `whole`, by its logarithm where `log`.

    >>> Range(1, 1000, log=True, whole=True).draw(np.random.default_rng(7))
    75
    """

    low: float
    high: float
    log: bool = False
    whole: bool = False

    def draw(self, rng: np.random.Generator) -> float | int:
        value = (
            float(np.exp(rng.uniform(np.log(self.low), np.log(self.high))))
            if self.log
            else float(rng.uniform(self.low, self.high))
        )
        # Six digits, so that a table's setting is the setting.
        return round(value) if self.whole else float(f"{value:.6g}")


Space = Mapping[str, Choice | Range]


@dataclasses.dataclass(frozen=True, eq=False)
class Problem:
    """What a peer may learn from.

    Attributes:
        dataset: the log (no events of withheld items), the catalogue and the users. store: content, where there is any.
        train: the training sets of all user rows.
    """

    dataset: Dataset
    store: FeatureStore | None
    train: Interactions

    @property
    def items(self) -> int:
        return self.dataset.schema.item_rows - 1

    @property
    def modalities(self) -> tuple[str, ...]:
        return self.store.modalities if self.store is not None else ()


@dataclasses.dataclass(frozen=True, eq=False)
class Question:
    """Whom to rank for, and what is known of them by then.

    Attributes:
        requests: users, recent history, items to leave out, held-out items. known: item sets of all user rows.
        allowed: bool [N + 1], the candidates; None is the whole catalogue.
    """

    requests: Requests
    known: Interactions
    allowed: np.ndarray | None = None


Answer = Callable[[Question], ScoreBlock]


@dataclasses.dataclass(frozen=True)
class Peer:
    """A model and how it is tuned.

    Attributes:
        name: in tables. fit: (problem, settings, seed) -> the fitted model, as a function from questions to scores.
        default: the first trial. space: where the others are drawn. seeded: whether another seed gives another model.
        needs_content: whether it is left out where the dataset brings no content. joins_content: whether the weights
            of the modalities are settings of its own (`weight_<modality>`).
    """

    name: str
    fit: Callable[[Problem, Settings, int], Answer]
    default: Settings = dataclasses.field(default_factory=dict)
    space: Space = dataclasses.field(default_factory=dict)
    seeded: bool = False
    needs_content: bool = False
    joins_content: bool = False

    def trials(self, problem: Problem, count: int, rng: np.random.Generator) -> list[Settings]:
        """The default setting and `count - 1` draws; one where there is nothing to choose."""
        space = dict(self.space)
        if self.joins_content and len(problem.modalities) > 1:
            space |= {f"weight_{name}": Range(0.0, 1.0) for name in problem.modalities}
        if not space:
            return [self.default]
        return [self.default] + [{name: part.draw(rng) for name, part in space.items()} for _ in range(count - 1)]


def from_baseline(build: Callable[..., Baseline], *, seeded: bool = False) -> Callable[[Problem, Settings, int], Answer]:
    """A peer's `fit` from a class behind the contract of `pipeline.retrieval.baselines`."""

    def fit(problem: Problem, settings: Settings, seed: int) -> Answer:
        model = build(**settings, **({"seed": seed} if seeded else {})).fit(problem.train, problem.items)
        return lambda question: score_users(model, question.known, question.requests.users)

    return fit


def from_content(build: Callable[..., Baseline]) -> Callable[[Problem, Settings, int], Answer]:
    """The same for a class that takes the joined content first; `weight_<modality>` settings say how it is joined."""

    def fit(problem: Problem, settings: Settings, seed: int) -> Answer:
        if problem.store is None:
            raise ValueError("store: this model reads content, received a dataset without any")
        weights = {name: settings.get(f"weight_{name}", 1.0) for name in problem.modalities}
        rest = {name: value for name, value in settings.items() if not name.startswith("weight_")}
        return from_baseline(functools.partial(build, join_content(problem.store, weights)))(problem, rest, seed)

    return fit


def _factors(name: str) -> Callable[..., Baseline]:
    def build(**settings: Any) -> Baseline:
        from pipeline.peers import baselines_factors

        return getattr(baselines_factors, name)(**settings)

    return build


CLASSIC = (
    Peer("popularity", from_baseline(Popularity)),
    Peer(
        "item_knn",
        from_baseline(ItemKNN),
        {"neighbours": 100, "shrinkage": 50.0},
        {"neighbours": Range(5, 1000, log=True, whole=True), "shrinkage": Range(0.1, 1000, log=True)},
    ),
    Peer("ease", from_baseline(EASE), {"regularisation": 200.0}, {"regularisation": Range(1, 5000, log=True)}),
    Peer(
        "ials",
        from_baseline(_factors("ImplicitALS"), seeded=True),
        {"factors": 64, "regularisation": 1.0, "weight": 10.0, "iterations": 15},
        {
            "factors": Choice((32, 64, 128, 256)),
            "regularisation": Range(0.01, 100, log=True),
            "weight": Range(0.5, 100, log=True),
            "iterations": Choice((10, 15, 25)),
        },
        seeded=True,
    ),
    Peer(
        "bpr",
        from_baseline(_factors("BPR"), seeded=True),
        {"factors": 64, "learning_rate": 0.05, "regularisation": 0.01, "iterations": 100},
        {
            "factors": Choice((32, 64, 128, 256)),
            "learning_rate": Range(0.005, 0.2, log=True),
            "regularisation": Range(1e-4, 0.1, log=True),
            "iterations": Choice((50, 100, 200)),
        },
        seeded=True,
    ),
    Peer(
        "content_knn",
        from_content(ContentKNN),
        {"neighbours": 100},
        {"neighbours": Range(3, 3000, log=True, whole=True)},
        needs_content=True,
        joins_content=True,
    ),
)
"""What needs neither Keras nor TensorFlow."""

COLD = (
    Peer("random", from_baseline(RandomOrder, seeded=True), seeded=True),
    Peer(
        "content_popularity",
        from_content(ContentPopularity),
        {"neighbours": 20},
        {"neighbours": Range(1, 500, log=True, whole=True)},
        needs_content=True,
        joins_content=True,
    ),
)
"""What stands for popularity where no item has a count."""
