"""What scores a release is expected to answer: the histogram that it brings along, and that drift is measured against."""

from __future__ import annotations

import concurrent.futures
import functools
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from serving.client.recommend_requests import recommend_inputs
from serving.graphs.vocabulary_tables import VocabularyTables, vocabularies_again
from serving.releases.gc import folder_bytes
from serving.releases.manifest import Release
from serving.saved_model_again import write_again
from serving.score_histogram import REFERENCE, score_histogram
from serving.server.inference import predict_arrays
from serving.server.servable import Servable
from serving.status import ServingError

USERS = 128
"""Asked for a page, evenly over the vocabulary. At ten a page their scores move a PSI of ten bins by .007 (9 / 1,280), where .1
is worth a look."""
BATCH = 32
MOST_BYTES = 256 << 20
"""Of a model that is rehearsed, which is written once more and held while a job still trains: of what a larger one takes the
graph's is a small part."""
Ask = Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]]
"""A model `recommend`: the inputs of its signature in, its answer out."""


def expected_scores(ask: Ask, user_ids: list[bytes], k: int, timestamp: int) -> np.ndarray:
    """The scores on the pages of some users, as their stored histories and the release's policy have them. f32 [any]"""
    found = []
    for start in range(0, len(user_ids), BATCH):
        users = user_ids[start : start + BATCH]
        seeds = list(range(start, start + len(users)))
        page = ask(recommend_inputs(users, k=k, timestamps=[timestamp] * len(users), seeds=seeds))
        found.append(page["scores"][page["item_ids"] != b""])
    return np.concatenate(found) if found else np.zeros(0, np.float32)


def write_score_reference(folder: Path, ask: Ask, user_ids: Path, k: int, timestamp: int) -> Path | None:
    """Writes `score_reference.json` into a release; nothing where no user gets any item.

    Args:
        ask: the release's `recommend`. user_ids: the vocabulary. k: of a page.
        timestamp: of the requests, UTC seconds, 0 = unknown.
    """
    ids = user_ids.read_bytes().removesuffix(b"\n").split(b"\n")[1:]
    scores = expected_scores(ask, ids[:: max(1, len(ids) // USERS)][:USERS], k, timestamp)
    if not len(scores):
        return None
    file = folder / REFERENCE
    content: dict[str, Any] = score_histogram(scores)
    file.write_text(json.dumps(content) + "\n")
    return file


class ReferenceBeside:
    """Writes `score_reference.json` in a thread, by the model `recommend` as it was written into the release.

    Args:
        folder: of the SavedModel. version: its number.
    """

    def __init__(self, folder: Path, version: int):
        self.folder, self.version = folder, version
        self._threads = concurrent.futures.ThreadPoolExecutor(1)
        self._asked: concurrent.futures.Future[Servable] | None = None
        self._rehearsed: Servable | None = None

    def rehearse(self, previous: Release, user_ids: Path, item_ids: Path, scratch: Path) -> bool:
        """Load the model with today's vocabularies and the last release's weights, and ask it once, before there are today's.

        Whether that went well; where it did not, or the graph turns out to be another, the model is loaded as it is written.

        Args:
            previous: the last release. user_ids, item_ids: today's vocabularies.
            scratch: folder to write the model into, and to remove again; must not exist.
        """
        name = self.folder.parent.name
        before = previous.folder / name / str(previous.version)
        if not before.is_dir() or folder_bytes(before) > MOST_BYTES:
            return False
        try:
            vocabularies = VocabularyTables(user_ids, "users"), VocabularyTables(item_ids, "items")
            write_again(before, scratch, {}, *vocabularies_again(before, *vocabularies))
            self._rehearsed = Servable(name, self.version, scratch)
            nobody = recommend_inputs([b""] * BATCH, k=1, timestamps=[0] * BATCH, seeds=list(range(BATCH)))
            predict_arrays(self._rehearsed, "", nobody)
        except (ServingError, ValueError):
            self._forget()
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        return self._rehearsed is not None

    def begin(self, release: Path, user_ids: Path, k: int, timestamp: int) -> None:
        """Load the model and ask it, see `write_score_reference`."""

        def work() -> Servable:
            servable = self._loaded()
            try:
                ask = functools.partial(predict_arrays, servable, "")
                write_score_reference(release, ask, user_ids, k, timestamp)
            except BaseException:
                servable.retire()
                raise
            return servable

        self._asked = self._threads.submit(work)

    def _loaded(self) -> Servable:
        if self._rehearsed is not None:
            try:
                self._rehearsed.read_variables(self.folder)
            except ServingError:
                self._forget()
            else:
                servable, self._rehearsed = self._rehearsed, None
                return servable
        return Servable(self.folder.parent.name, self.version, self.folder)

    def _forget(self) -> None:
        if self._rehearsed is not None:
            self._rehearsed.retire()
            self._rehearsed = None

    def written(self) -> Servable | None:
        """Wait for the file; the model, which is warm now, until the block ends. None where nothing was begun."""
        return None if self._asked is None else self._asked.result()

    def __enter__(self) -> ReferenceBeside:
        return self

    def __exit__(self, *error: Any) -> None:
        self._threads.shutdown()
        self._forget()
        if self._asked is not None and self._asked.exception() is None:
            self._asked.result().retire()
