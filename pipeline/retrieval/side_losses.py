"""What the terms beside the main loss learn from: labels of a dataset's items, and towers trained before."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from data.dataset import Dataset
from data.item_labels import item_labels
from data.schema import TRAIN
from pipeline.metrics.examples import interactions, positive_histories
from pipeline.retrieval.queries import embed_queries
from pipeline.settings.side_losses import SideLossesConfig
from pipeline.training.record import pairs_digest, read_records
from towers.distillation import Teacher, join_teachers
from towers.ranker_distillation import RankedLists
from towers.side_losses import SideLosses
from towers.two_tower import TwoTower, load_two_tower


def make_side_losses(
    dataset: Dataset, two_tower: TwoTower, config: SideLossesConfig, distill_ranker: str = ""
) -> SideLosses | None:
    """The terms that a config turns on, with what they need of the dataset; None where it turns none on.

    Args:
        distill_ranker: folder of the run whose ranker teaches the term `ranker`.

    Raises:
        ValueError, FileNotFoundError: teachers of another dataset, or none in a folder. LeakError: a ranker that has seen
            this dataset's later splits.
    """
    weights = config.weights()
    if not weights.terms:
        return None
    labels = item_labels(dataset.items, dataset.events) if {"category", "sentiment"} & set(weights.terms) else None
    projections = two_tower.item_tower.projections
    return SideLosses(
        weights,
        two_tower.schema,
        two_tower.config.width,
        {name: int(projection.whitening.shape[-1]) for name, projection in projections.items()},
        categories=None if labels is None else labels.categories,
        sentiment=None if labels is None else labels.sentiment,
        known=None if labels is None else labels.known,
        teacher=load_teachers(dataset, config.teachers) if weights.distillation else None,
        ranked=_ranked(dataset, distill_ranker, config) if weights.ranker else None,
    )


def _ranked(dataset: Dataset, run: str, config: SideLossesConfig) -> RankedLists:
    # The one step back in the order of the rooms: a teacher is a finished run, whose ranker came after its retrieval.
    from pipeline.ranker.ranker_teacher import ranker_lists

    return ranker_lists(dataset, Path(run), config.ranker_candidates)


def load_teachers(dataset: Dataset, folders: tuple[str, ...]) -> Teacher:
    """Towers trained on this dataset as one teacher: every user's query after the whole train split, and every item."""
    return join_teachers([tower_teacher(dataset, Path(folder)) for folder in folders])


def check_teacher(dataset: Dataset, folder: Path) -> None:
    """Refuses towers that know what the student is judged by.

    Raises:
        ValueError: they learned from other events than the train split's, and later ones, or no record says from which.
    """
    records, own = read_records(folder), pairs_digest(interactions(dataset, ("train",)))
    later = dataset.events["split"] != TRAIN
    first = int(dataset.events.loc[later, "timestamp"].min()) if dataset.schema.has_timestamps and later.any() else 0
    for record in records:
        if record["digest"] != own and not 0 < record["last_timestamp"] < first:
            raise ValueError(
                f"retrieval.side.teachers: must have learned from the train split or from events before all others, received "
                f"{folder}, of {record['pairs']} other pairs; train it on this dataset"
            )
    if not records:
        raise ValueError(f"retrieval.side.teachers: {folder} does not say what it learned from; train it again")


def tower_teacher(dataset: Dataset, folder: Path) -> Teacher:
    """One pair of trained towers as tables of vectors."""
    two_tower, items = load_two_tower(folder), np.load(folder / "item_embeddings.npy")
    check_teacher(dataset, folder)
    users = np.arange(dataset.schema.user_rows, dtype=np.int32)
    histories = positive_histories(dataset, ("train",))
    if not dataset.schema.has_timestamps:
        histories = histories.shuffled(np.random.default_rng(two_tower.config.seed))
    history = histories.latest(users, two_tower.config.history_length)
    return Teacher(items, embed_queries(two_tower, items, dataset.profile, users, history))
