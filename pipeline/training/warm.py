"""Warm starts: a model begins with the weights of the one before, whose rows it keeps, and its new rows with a guess."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np

from data.dataset import Dataset
from data.features import FeatureStore
from data.histories import Histories
from data.splits import DAY, USUAL_DAYS
from pipeline.settings.config import RetrievalConfig
from pipeline.settings.job import JobSection
from pipeline.stage import StageError
from pipeline.training.checkpoint import array_of
from towers.config import TowerConfig
from towers.content_map import fit_content_map, solve_ridge
from towers.item import FEWEST_COMPONENTS, ITEMS_PER_COMPONENT
from towers.two_tower import TwoTower, load_two_tower

RETRAIN = "Retrain in full: `python -m pipeline job --full`"
RIDGE = 1e-3
BY_DOMAIN = "adapters/down"
"""End of the path of the one weight whose second axis grows, by new domains; of all others it is the first."""


def copy_variables(old: Sequence[keras.Variable], new: Sequence[keras.Variable]) -> list[tuple[keras.Variable, int]]:
    """Give each variable the value of the one of its name, as they may come in another order; a table that has grown keeps its
    further rows, or domains, as they are.

    Generators of dropout stay as they are. Returns: the variables that have more rows than before, with their rows then.

    Raises:
        StageError: the two lists are of different models, or a table has shrunk.
    """
    one, other = by_name(old), by_name(new)
    if different := sorted(one.keys() ^ other.keys()):
        raise StageError(f"job: the last release's model is built otherwise (differing: {different[:5]}). {RETRAIN}.")
    grown = []
    for name, after in other.items():
        before = one[name]
        value, shape = array_of(before), tuple(after.shape)
        if value.shape != shape:
            axis = 1 if after.path.endswith(BY_DOMAIN) else 0
            value = enlarged(value, array_of(after), axis, after.path)
            grown.append((after, before.shape[axis]))
        after.assign(value)
    return grown


def by_name(variables: Sequence[keras.Variable]) -> dict[str, keras.Variable]:
    """Variables by their whole path, of one path by their turn, as both towers have an `id`; none of a generator of dropout.

    Its beginning belongs to the name: all that tells the embeddings of two columns apart is that of their layers.
    """
    named: dict[str, keras.Variable] = {}
    turns: Counter[str] = Counter()
    for variable in variables:
        if "seed_generator" in variable.path:
            continue
        turns[variable.path] += 1
        turn = turns[variable.path]
        named[variable.path if turn == 1 else f"{variable.path} ({turn})"] = variable
    return named


def enlarged(value: np.ndarray, start: np.ndarray, axis: int, name: str) -> np.ndarray:
    """An earlier value at the beginning of what has more along one axis by now; the further part keeps its start.

    Args:
        value, start: before, and now. axis: the one that may have grown, -1 for none. name: of the weight, for the error.

    Raises:
        StageError: they differ in anything else.

    Example:
        >>> enlarged(np.array([[1, 2]]), np.zeros((2, 2), int), 0, "table").tolist()
        [[1, 2], [0, 0]]
    """
    if value.ndim != start.ndim or any(
        old > now or (old < now and place != axis)
        for place, (old, now) in enumerate(zip(value.shape, start.shape, strict=True))
    ):
        raise StageError(f"job: {name} was {value.shape} in the last release and is {start.shape}. {RETRAIN}.")
    result = np.array(start)
    result[tuple(slice(size) for size in value.shape)] = value
    return result


def start_new_rows(table: keras.Variable, known_rows: int) -> None:
    """Rows from `known_rows` on become row 0's: that of whoever or whatever is unknown."""
    value = np.array(array_of(table))
    value[known_rows:] = value[0]
    table.assign(value)


@dataclasses.dataclass(frozen=True)
class WarmTowers:
    """Two towers that go on from those of an earlier run.

    Attributes:
        previous: folder of its trained towers (`retrieval/full`). learned_until: UTC seconds of its last training event.
        section: how long and how fast. seed: of the replay sample.
    """

    previous: Path
    learned_until: int
    section: JobSection
    seed: int = 7

    def settings(self, config: RetrievalConfig) -> RetrievalConfig:
        """The config of the short training; the towers see as many components of content as before, or the weights behind
        them would mean something else."""
        rank = same_components(TowerConfig(), self.previous).content_rank
        rate = config.learning_rate * self.section.learning_rate
        return config.model_copy(update={"epochs": self.section.epochs, "learning_rate": rate, "content_rank": rank})

    def paced(self, config: RetrievalConfig, steps: int) -> RetrievalConfig:
        """The config for so few steps: where a full training averages the gradients of more batches than a night has, all that
        it has move the weights once."""
        return config.model_copy(update={"accumulation": min(config.accumulation, max(steps, 1))})

    def positions(self, histories: Histories) -> np.ndarray:
        """Positions of the events to learn from: all since the last training, and a seeded sample of older ones; none where
        nothing is new (a second job of a day, or a quiet day entering the train part).

        Several days of new events, as after a full training, or a busy one are no reason to go through more of the older ones
        than a usual day's would be.
        """
        usual = usual_day(histories.timestamps, self.learned_until)
        return new_and_replayed(histories.timestamps, self.learned_until, self.section.replay, self.seed, usual)

    def start(self, two_tower: TwoTower, dataset: Dataset, store: FeatureStore) -> None:
        """Copy what the earlier towers know. A new item's vector begins where its content says (ridge regression from
        content to the known items' vectors), a new user's and a new profile value's at that of the unknown one."""
        before = load_two_tower(self.previous)
        items, rows = two_tower.item_tower, before.schema.item_rows
        counts_known = np.array(array_of(items.known))
        learned = array_of(before.item_tower.known) > 0
        for table, known_rows in copy_variables(before.variables, two_tower.variables):
            if table is not items.id_embedding.embeddings and len(table.shape) == 2:
                start_new_rows(table, known_rows)
        items.known.assign(counts_known)
        if items.adapters is not None:
            items.domain.assign(dataset.attributes[:, list(two_tower.schema.attributes).index("domain")])
        first_seen = np.flatnonzero(counts_known > 0)
        first_seen = first_seen[(first_seen >= rows) | ~learned[np.minimum(first_seen, rows - 1)]]
        if len(first_seen):
            vectors = array_of(items.id_embedding.embeddings).copy()
            vectors[first_seen] = content_guess(vectors, np.flatnonzero(learned), first_seen, store, items.modalities)
            items.id_embedding.embeddings.assign(vectors)


def same_components(config: TowerConfig, previous: Path) -> TowerConfig:
    """The config with as many components of content as the towers in `previous` see, however many items there are now."""
    told = json.loads((previous / "model.json").read_text())
    rank = told["config"]["content_rank"] or max(FEWEST_COMPONENTS, told["schema"]["item_rows"] // ITEMS_PER_COMPONENT)
    return dataclasses.replace(config, content_rank=rank)


def start_history(previous: Path, two_tower: TwoTower) -> None:
    """Fill history towers from the earlier ones in a folder; which items are known stays as it is now."""
    known = two_tower.item_tower.known
    value = np.array(array_of(known))
    copy_variables(load_two_tower(previous).variables, two_tower.variables)
    known.assign(value)


def usual_day(timestamps: np.ndarray, until: int) -> int:
    """How many events a day of the last four weeks until a moment had, the median of those that had any; at least 1.

    Example:
        >>> usual_day(np.array([5, 7, 8, 8, 8, 9, 9, 9, 9]) * DAY, 8 * DAY), usual_day(np.array([], int), 0)
        (1, 1)
    """
    ages = (until - timestamps[timestamps <= until]) // DAY
    counts = np.bincount(ages[ages < USUAL_DAYS])
    return int(max(np.median(counts[counts > 0]), 1)) if counts.any() else 1


def new_and_replayed(
    timestamps: np.ndarray, until: int, replay: float, seed: int, most: int | None = None
) -> np.ndarray:
    """Positions of events after `until` and of `replay` times as many older ones, drawn without repetition, ascending.

    Args:
        most: new events that older ones are drawn for; None = all of them.

    Example:
        >>> new_and_replayed(np.array([1, 2, 3, 9]), 5, 2.0, 0).tolist()[-1], len(new_and_replayed(np.arange(9), 7, 3.0, 0))
        (3, 4)
    """
    new, old = np.flatnonzero(timestamps > until), np.flatnonzero(timestamps <= until)
    number = min(len(old), round(replay * min(len(new), len(new) if most is None else most)))
    drawn = np.random.default_rng([seed, len(old)]).choice(old, number, replace=False)
    return np.sort(np.concatenate([new, drawn]))


def content_guess(
    vectors: np.ndarray, known: np.ndarray, wanted: np.ndarray, store: FeatureStore, modalities: Sequence[str]
) -> np.ndarray:
    """What the content of rows `wanted` says of their vectors, by the rows `known`; their mean where nothing is present.

    Shapes: vectors [N + 1, D], known [R], wanted [Q] -> [Q, D].
    """
    mean = vectors[known].mean(axis=0) if len(known) else np.zeros(vectors.shape[1], np.float32)
    guess = np.repeat(mean[None], len(wanted), axis=0)
    if not modalities or not len(known):
        return guess
    present = store.present_of(modalities)
    tables = {name: store.table(name) for name in modalities}
    frames = {name: count for name, count in store.frames.items() if name in modalities}
    learned = known[present[known].any(axis=1)]
    seen = present[wanted].any(axis=1)
    if len(learned) and seen.any():
        content = fit_content_map(tables, present, vectors, learned, frames=frames)
        rows = wanted[seen]
        features = {name: np.asarray(table[rows], np.float32) for name, table in tables.items()}
        guess[seen] = keras.ops.convert_to_numpy(content(features, present[rows]))
    return guess


def ridge_map(new: np.ndarray, old: np.ndarray) -> np.ndarray:
    """M with `new M` nearest to `old` over the rows that both have: `(X'X + ridge I)^-1 X'Y`, the ridge a thousandth of the
    mean variance.

    Item embeddings of two fits lie in two bases, since singular vectors are any rotation of themselves; what was learned
    against the old ones is carried over by M.

    Shapes: new [N', D'], old [N, D], N <= N' -> [D', D].

    Example:
        >>> turned = np.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
        >>> ridge_map(turned[:, ::-1].copy(), turned).round(2).tolist()
        [[0.0, 1.0], [1.0, 0.0]]
    """
    inputs, outputs = np.asarray(new[: len(old)], np.float64), np.asarray(old, np.float64)
    filled = (np.abs(inputs).sum(axis=1) > 0) & (np.abs(outputs).sum(axis=1) > 0)
    inputs, outputs = inputs[filled], outputs[filled]
    return solve_ridge(inputs, outputs, RIDGE * max(float((inputs**2).sum()) / inputs.shape[1], 1e-12))
