"""What ranking asks of retrieval: the trained towers and the built index of a run, as plain functions."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from data.dataset import Dataset
from pipeline.metrics.top_k import select_top_k
from pipeline.ranker.lists import QueryFunction, SearchFunction
from pipeline.retrieval.served import FULL, UNSEEN, served_folder, shared_served
from pipeline.training.record import read_records


class RetrievalSide:
    """The trained towers and the built index of a run, as the plain functions that ranking asks.

    Args:
        dataset: the ingested data. run: the run folder. kind: which index answers, as `load_index` names it.
        unseen: what has not been fitted again on the validation split, where the served one has; searched exactly.

    Attributes:
        records: what the models behind it were trained on. variant: which of the run's models these are.
    """

    def __init__(self, dataset: Dataset, run: Path, kind: str, *, unseen: bool = False):
        # TensorFlow comes with the index; who asks a ranker alone, on JAX, does without.
        from serving.index.build import load_index

        apart = unseen and (served_folder(run) / UNSEEN).is_dir()
        self.variant = variant = f"{FULL}/{UNSEEN}" if apart else FULL
        self._served = shared_served(run, variant)
        self.records = read_records(served_folder(run, variant))
        self.item_embeddings = self._served.items
        self.history_length = self._served.history_length
        self._profile = dataset.profile
        self._index = None if apart else load_index(run / "index", kind)

    @property
    def query(self) -> QueryFunction:
        return lambda users, history: self._served.queries(self._profile, users, history)

    @property
    def search(self) -> SearchFunction:
        def search(queries: np.ndarray, k: int, excluded: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            if self._index is None:
                return exact_search(queries, self.item_embeddings, k, excluded)
            rows, scores = self._index.search(queries, np.int32(k), excluded)
            return np.asarray(rows), np.asarray(scores)

        return search


def exact_search(queries: np.ndarray, items: np.ndarray, k: int, excluded: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The k best items of each query without the excluded rows, as an index answers.

    Shapes: queries [B, D], items [N + 1, D], excluded [B, E] padded with 0 -> rows, scores [B, k], padded with row 0 and
    the lowest float.

    Example:
        >>> items = np.array([[0.0], [1.0], [3.0], [2.0]], np.float32)
        >>> exact_search(np.ones((1, 1), np.float32), items, 2, np.array([[2]]))[0].tolist()
        [[3, 1]]
    """
    scores = queries @ items.T
    np.put_along_axis(scores, excluded.astype(np.int64), -np.inf, axis=1)
    scores[:, 0] = -np.inf
    rows, found = select_top_k(scores, min(k, len(items) - 1))
    short = ((0, 0), (0, k - rows.shape[1]))
    rows, found = np.pad(rows, short), np.pad(found, short, constant_values=-np.inf)
    return np.where(np.isfinite(found), rows, 0), np.maximum(found, np.finfo(np.float32).min)
