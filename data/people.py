"""Reading `users.parquet`: who is known, and the profile columns as codes."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from data.catalogue import Catalogue, accept_rows
from data.categorical import code_table
from data.columns import read_parquet, read_texts
from data.validation import Quarantine

FILE = "users.parquet"
USER_COLUMNS = ("user_id", "bio", "image")
"""Columns of users.parquet that are not profile columns."""


def read_users(source: Path, quarantine: Quarantine) -> Catalogue:
    """Read and check `users.parquet`; every column but `USER_COLUMNS` becomes a profile column."""
    table = read_parquet(source / FILE, ["user_id"], quarantine)
    table, _, counts = accept_rows(table, "user_id", FILE, quarantine)
    codings, ignored = code_table(table, [name for name in table.column_names if name not in USER_COLUMNS])
    return Catalogue(pd.DataFrame({"user_id": read_texts(table, "user_id")}), codings, ignored, counts)
