"""Search by words: the stage that trains it, and a question asked of a finished run."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data.dataset import Dataset
from data.features import FeatureStore
from pipeline.content.store_encoders import store_encoders
from pipeline.retrieval.served import load_served
from pipeline.retrieval.train_search import Progress, train_search
from pipeline.settings.encoders import EncodersConfig
from pipeline.settings.search import SearchSection
from pipeline.stage import StageError
from serving.releases.release import latest_release, verify_release
from serving.server.inference import predict_arrays
from serving.server.servable import Servable


@dataclasses.dataclass(frozen=True)
class SearchResult:
    """One item found: its place in the list is its place in the answer."""

    item_id: str
    title: str
    description: str
    score: float


def search_stage(
    dataset: Dataset,
    store: FeatureStore,
    run: Path,
    out: Path,
    encoders: EncodersConfig,
    section: SearchSection,
    *,
    content_store: Path | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Train the search tower of a run into `out`; says why where there is nothing to train.

    Args:
        dataset: with the texts that the encoders read. store: the features that the towers read.
        run: the run folder, with what is served. content_store: where questions' vectors are kept.

    Returns: see `train_search`.
    """
    if not section.enabled:
        return {"trained": False, "reason": "search.enabled is false"}
    if "text" not in store.modalities:
        return {"trained": False, "reason": "no item has text"}
    made = store_encoders(store, encoders, run, ["text"])
    if "text" not in made:
        return {"trained": False, "reason": "the text vectors came ready-made, so questions cannot be encoded"}
    embeddings = load_served(run).items
    return train_search(
        dataset.items, store, embeddings, made["text"], out, section, content_store=content_store, progress=progress
    )


def search_run(run: Path, query: str, k: int = 10, exclude: Sequence[str] = ()) -> list[SearchResult]:
    """The answer of the newest release to a typed question, through the exported signature.

    Args:
        run: a finished run folder. query: any language that the run's text encoder reads.
        k: items at most. exclude: ids never answered.

    Raises:
        ReleaseError: the release is missing or damaged.
        StageError: the release has no search.
    """
    release = verify_release(latest_release(run / "releases"))
    folder = release.folder / "search" / str(release.version)
    if not folder.is_dir():
        raise StageError(
            f"{release.folder}: has no search; it needs texts and an encoder that can be exported (pack: or signal:). "
            f"Run `python -m pipeline train-search`, then `export`."
        )
    request = {
        "query": np.array([query.encode()], object),
        "exclude_item_ids": np.array([[name.encode() for name in exclude]], object).reshape(1, -1),
        "k": np.array(k, np.int32),
    }
    servable = Servable("search", release.version, folder)
    try:
        answer = predict_arrays(servable, "search", request)
    finally:
        servable.retire()
    items = Dataset.load(run / "ingest").items.set_index("item_id")
    found = []
    for item_id, score in zip(answer["item_ids"][0], answer["scores"][0], strict=True):
        if name := item_id.decode():
            title, description = (str(items.loc[name].get(column) or "") for column in ("title", "description"))
            found.append(SearchResult(name, title, description, float(score)))
    return found
