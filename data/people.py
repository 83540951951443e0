"""Reading `users.parquet`: who is known, and the profile columns as codes."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import pandas as pd

from data.catalogue import Catalogue, accept_rows
from data.categorical import code_table
from data.columns import read_parquet, read_texts
from data.pseudonyms import Pseudonyms
from data.validation import Quarantine

FILE = "users.parquet"
USER_COLUMNS = ("user_id", "bio", "image")
"""Columns of users.parquet that are not profile columns."""


def read_users(
    source: Path,
    quarantine: Quarantine,
    *,
    columns: Collection[str] | None = None,
    pseudonyms: Pseudonyms | None = None,
    known: Mapping[str, Sequence[str]] | None = None,
) -> Catalogue:
    """Read and check `users.parquet`; every column but `USER_COLUMNS` becomes a profile column.

    Args:
        columns: those that may be read beside the id; None = all. pseudonyms: instead of the ids, where given.
        known: vocabularies of the release before, by column.
    """
    table = read_parquet(source / FILE, ["user_id"], quarantine, only=None if columns is None else {"user_id", *columns})
    if pseudonyms is not None:
        table = pseudonyms.in_column(table, "user_id")
    table, _, counts = accept_rows(table, "user_id", FILE, quarantine)
    codings, ignored = code_table(table, [name for name in table.column_names if name not in USER_COLUMNS], known)
    return Catalogue(pd.DataFrame({"user_id": read_texts(table, "user_id")}), codings, ignored, counts)
