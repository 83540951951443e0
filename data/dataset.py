"""The ingested dataset: integer events, users and items with coded columns, and the vocabularies, in one folder."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from data.schema import TRAIN, Schema
from data.validation import DatasetError
from data.vocabulary import Vocabulary

EVENT_COLUMNS = {
    "user": "int32",
    "item": "int32",
    "timestamp": "int64",
    "event": "int8",
    "value": "float32",
    "split": "int8",
    "positive": "bool",
}
OPTIONAL_EVENT_COLUMNS = {"position": "int32", "propensity": "float32", "place_propensity": "float32"}
"""Numbers that a log may carry beside the context of its events; 0 and NaN where unknown."""
NEVER = int(np.iinfo(np.int64).max)
"""`created_at` of an item that is gone from the catalogue: it keeps its row and is never released."""
PROFILE = "profile_"
ATTRIBUTE = "attribute_"
CONTEXT = "context_"


@dataclasses.dataclass(frozen=True)
class Dataset:
    """What the ingest stage writes and every later stage reads.

    Attributes:
        schema: the sizes.
        users: one line a user row, row 0 included: `user_id`, `profile_<column>` int32 codes (0 unknown).
        items: one line an item row (N + 1): `item_id`, `title`, `description`, `categories` (joined by `|`), `price`
            (NaN none), `created_at` (0 unknown, `NEVER` gone), `domain`, `image`, `audio`, `video` (paths under the dataset
            folder's `media/`, "" none), `attribute_<column>` int32 codes.
        events: sorted by (user, timestamp, input order): `user`, `item` int32 rows, `timestamp` int64 UTC seconds (0 if
            there are none), `event` int8 (`EVENT_CODES`), `value` float32 (NaN none), `split` int8, `positive` bool;
            `context_<column>` int32 codes (0 unknown) and, where the log has them, `position` int32 (place on the page
            from 1, 0 unknown), `propensity` float32 (probability of having been shown on the page, NaN unknown) and
            `place_propensity` float32 (that of having been chosen for its place, given the items above it).
        counts: int64 [N+1], positive training events an item; the popularity of the logQ correction.
        profile_vocabulary: the values behind the codes of each profile column; index 0 is "".
        attribute_vocabulary, context_vocabulary: the same for the item attributes and the context of events.
        report: what was read, accepted, quarantined and ignored.
        folder: where it lies, if it was saved or loaded.
    """

    schema: Schema
    users: pd.DataFrame
    items: pd.DataFrame
    events: pd.DataFrame
    counts: np.ndarray
    profile_vocabulary: dict[str, list[str]]
    attribute_vocabulary: dict[str, list[str]]
    report: dict[str, Any]
    folder: Path | None = None
    context_vocabulary: dict[str, list[str]] = dataclasses.field(default_factory=dict)

    @property
    def positive(self) -> np.ndarray:
        """bool [E]: the events that say a user wanted the item."""
        return self.events["positive"].to_numpy(np.bool_)

    @property
    def user_ids(self) -> Vocabulary:
        return Vocabulary(self.users["user_id"].to_numpy(dtype=object)[1:])

    @property
    def item_ids(self) -> Vocabulary:
        return Vocabulary(self.items["item_id"].to_numpy(dtype=object)[1:])

    @property
    def profile(self) -> np.ndarray:
        """int32 [user rows, P]: codes in the column order of `schema.profile`."""
        return _codes(self.users, PROFILE, self.schema.profile)

    @property
    def attributes(self) -> np.ndarray:
        """int32 [N+1, A]: codes in the column order of `schema.attributes`."""
        return _codes(self.items, ATTRIBUTE, self.schema.attributes)

    @property
    def context(self) -> np.ndarray:
        """int32 [E, C]: codes in the column order of `schema.context`."""
        return _codes(self.events, CONTEXT, self.schema.context)

    @property
    def position(self) -> np.ndarray:
        """int32 [E]: place on the page from 1, 0 unknown."""
        if "position" in self.events:
            return self.events["position"].to_numpy(np.int32)
        return np.zeros(len(self.events), np.int32)

    @property
    def propensity(self) -> np.ndarray:
        """float32 [E]: probability of having been shown, NaN unknown."""
        return self._numbers("propensity")

    @property
    def place_propensity(self) -> np.ndarray:
        """float32 [E]: probability of having been chosen for its place given the items above it, NaN unknown."""
        return self._numbers("place_propensity")

    def _numbers(self, name: str) -> np.ndarray:
        """float32 [E]: a column of numbers, NaN everywhere where the log has none."""
        if name in self.events:
            return self.events[name].to_numpy(np.float32)
        return np.full(len(self.events), np.nan, np.float32)

    def save(self, folder: str | Path) -> None:
        """Fill a folder (the caller writes beside and renames); `quarantine.parquet` is written by the ingest."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.events.to_parquet(folder / "events.parquet", index=False)
        self.users.to_parquet(folder / "users.parquet", index=False)
        self.items.to_parquet(folder / "items.parquet", index=False)
        self.user_ids.save(folder / "user_ids.txt")
        self.item_ids.save(folder / "item_ids.txt")
        np.save(folder / "counts.npy", self.counts)
        for name, value in (
            ("profile_vocabulary.json", self.profile_vocabulary),
            ("attribute_vocabulary.json", self.attribute_vocabulary),
            ("context_vocabulary.json", self.context_vocabulary),
            ("report.json", self.report),
        ):
            (folder / name).write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
        (folder / "schema.json").write_text(self.schema.to_json() + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: str | Path) -> Dataset:
        """Open an ingested folder and check that its parts belong together.

        Raises:
            DatasetError: not such a folder, or parts whose sizes disagree.
        """
        folder = Path(folder)
        contexts = folder / "context_vocabulary.json"  # a folder from before events had a context has none
        if not (folder / "schema.json").is_file():
            raise DatasetError(f"{folder}: must be an ingested dataset (schema.json), received none. Run `ingest`.")
        dataset = cls(
            schema=Schema.load(folder / "schema.json"),
            users=pd.read_parquet(folder / "users.parquet"),
            items=pd.read_parquet(folder / "items.parquet"),
            events=pd.read_parquet(folder / "events.parquet"),
            counts=np.load(folder / "counts.npy"),
            profile_vocabulary=_read_json(folder / "profile_vocabulary.json"),
            attribute_vocabulary=_read_json(folder / "attribute_vocabulary.json"),
            report=_read_json(folder / "report.json"),
            folder=folder,
            context_vocabulary=_read_json(contexts) if contexts.is_file() else {},
        )
        dataset.check()
        return dataset

    def check(self) -> None:
        """Every invariant that the models rely on and that is cheap to look at.

        Raises:
            DatasetError: names the part that disagrees.
        """
        sizes = {
            "users.parquet": (len(self.users), self.schema.user_rows),
            "items.parquet": (len(self.items), self.schema.item_rows),
            "counts.npy": (len(self.counts), self.schema.item_rows),
        }
        for file, (received, expected) in sizes.items():
            if received != expected:
                raise DatasetError(
                    f"{file}: must have {expected} rows (schema.json), received {received}. Ingest again."
                )
        received_columns = dict(self.events.dtypes.astype("str"))
        optional = {name: kind for name, kind in OPTIONAL_EVENT_COLUMNS.items() if name in received_columns}
        expected_columns = EVENT_COLUMNS | {CONTEXT + name: "int32" for name in self.schema.context} | optional
        if received_columns != expected_columns:
            raise DatasetError(
                f"events.parquet: must have the columns {expected_columns}, received {received_columns}. Ingest again."
            )
        for column, rows in (("user", self.schema.user_rows), ("item", self.schema.item_rows)):
            values = self.events[column].to_numpy()
            if len(values) and not (values.min() >= 1 and values.max() < rows):
                raise DatasetError(f"events.parquet: {column} rows must lie in 1..{rows - 1}. Ingest again.")


def train_counts(events: pd.DataFrame, item_rows: int) -> np.ndarray:
    """int64 [N+1]: positive training events an item row."""
    chosen = events["positive"].to_numpy() & (events["split"].to_numpy() == TRAIN)
    return np.bincount(events["item"].to_numpy()[chosen], minlength=item_rows).astype(np.int64)


def gone_rows(items: pd.DataFrame) -> np.ndarray:
    """int32 [G]: rows of the items that are gone from the catalogue, which nothing may recommend.

    Example:
        >>> gone_rows(pd.DataFrame({"created_at": [0, 1_700_000_000, NEVER]})).tolist()
        [2]
    """
    return np.flatnonzero(items["created_at"].to_numpy(np.int64) == NEVER).astype(np.int32)


def _codes(frame: pd.DataFrame, prefix: str, columns: Mapping[str, int]) -> np.ndarray:
    names = [prefix + name for name in columns]
    return np.ascontiguousarray(frame[names].to_numpy(np.int32).reshape(len(frame), len(names)))


def _read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))
