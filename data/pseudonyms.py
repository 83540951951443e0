"""Pseudonyms: user ids under a secret salt, so that no run, release or log of ours holds the ids of people.

The salt stays in a file of its own, outside dataset and run folders. Whoever has it can tell the pseudonym of an id, and so
find again all that is kept of a person; whoever has not can neither read an id nor try a list of likely ones. Under the
General Data Protection Regulation (article 4(5)) this is pseudonymous data, still personal, and no longer identifying alone.
"""

from __future__ import annotations

import dataclasses
import hmac
import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from data.columns import IdColumn, read_ids
from data.validation import DatasetError, RowChecks

LEAST_SALT = 16
"""Bytes. A shorter salt could be found by trying them all against one known id."""
DIGEST_BYTES = 16
"""128 of HMAC's 256 bits: two of a billion people share a pseudonym with a probability of 1.5e-21."""
MARK = "user_is_pseudonym"
"""Column of a log: true where the row's user is named by a pseudonym already, as in what a gateway's clients sent."""
FORM = re.compile(rf"[0-9a-f]{{{2 * DIGEST_BYTES}}}")
"""What every pseudonym looks like; an id that looks so need not be one."""


@dataclasses.dataclass(frozen=True)
class Pseudonyms:
    """The map from ids to pseudonyms under one salt.

        pseudonym(id) = hex(HMAC-SHA-256(salt, id in UTF-8)[:16])

    The same id has the same pseudonym in every run with this salt, so histories, feedback and releases fit together. A
    client that asks a release whose ingest had a salt sends pseudonyms, from this function or any HMAC-SHA-256.

    Bellare, Canetti and Krawczyk 1996, *Keying hash functions for message authentication*; RFC 2104.

    Raises:
        DatasetError: a salt of fewer than 16 bytes.

    Example:
        >>> Pseudonyms(b"sixteen bytes or more").of("u00001")
        'c873f6d9e9b5a20ba1cf52ef32ceb6c1'
    """

    salt: bytes = dataclasses.field(repr=False)

    def __post_init__(self) -> None:
        if len(self.salt) < LEAST_SALT:
            raise DatasetError(
                f"pseudonym_salt_file: the salt must have at least {LEAST_SALT} bytes, received {len(self.salt)}. Make one "
                "with `openssl rand -hex 32`."
            )

    @classmethod
    def from_file(cls, path: str | Path) -> Pseudonyms:
        """The salt is the file's content without the line break at its end.

        Raises:
            DatasetError: no such file, or too short a salt.
        """
        try:
            return cls(Path(path).read_bytes().rstrip(b"\r\n"))
        except OSError as error:
            raise DatasetError(
                f"pseudonym_salt_file: {path} cannot be read ({error.strerror}). Name the file that holds the salt."
            ) from None

    @property
    def fingerprint(self) -> str:
        """Tells one salt from another and nothing else about it; part of a run's keys."""
        # No id can hold a zero byte, so this is the pseudonym of nobody.
        return hmac.digest(self.salt, b"\x00fingerprint", "sha256")[:8].hex()

    def of(self, id_: str) -> str:
        """The pseudonym of one id."""
        return hmac.digest(self.salt, id_.encode(), "sha256")[:DIGEST_BYTES].hex()

    def of_all(self, ids: Iterable[str]) -> np.ndarray:
        """The pseudonyms of some ids, dtype object."""
        return np.array([self.of(id_) for id_ in ids], dtype=object)

    def in_column(self, table: pa.Table, name: str, sent: np.ndarray | None = None, people: Iterable[str] = ()) -> pa.Table:
        """The table with pseudonyms in a column of ids, every distinct id hashed once, in the form in which ids are read.

        An id that is a pseudonym already stays as it is: one that a row of `sent` has, and one that is the pseudonym of
        another id of the column or of `people`, which nobody without the salt could have made.

        What is no usable id becomes blank, and so is refused as a blank one: the quarantine keeps whole records, and a
        broken id may still tell who it was.

        Args:
            sent: rows whose ids are marked as pseudonyms, bool [rows]. people: the pseudonyms of ids that are known to be
                none themselves.
        """
        ids = read_ids(table, name, RowChecks(table.num_rows))
        hashed = self.of_all(ids.values)
        if sent is not None:
            hashed = np.where(_already(ids, hashed, sent, list(people)), ids.values, hashed)
        pseudonyms = np.append(hashed, "")[ids.codes]  # code -1, of an unusable id, is the last
        missing = np.asarray(table[name].is_null().to_numpy(), np.bool_)
        place = table.column_names.index(name)
        return table.set_column(place, name, pa.array(pseudonyms, pa.string(), mask=missing))


def marked(log: pa.Table) -> np.ndarray:
    """The rows of a log whose users are named by pseudonyms, as its column `MARK` says, bool [rows]; none without it.

    Raises:
        DatasetError: the column is of another type, and so was not written by `add-feedback`.
    """
    if MARK not in log.column_names:
        return np.zeros(log.num_rows, np.bool_)
    kind = log.schema.field(MARK).type
    if not (pa.types.is_boolean(kind) or pa.types.is_null(kind)):
        raise DatasetError(
            f"interactions.parquet: the column {MARK!r} must be true or false, as `add-feedback` writes it, received {kind}. "
            "Rename your own column of this name."
        )
    return np.asarray(pc.fill_null(log[MARK].cast(pa.bool_()), False).to_numpy(), np.bool_)


def _already(ids: IdColumn, hashed: np.ndarray, sent: np.ndarray, people: list[str]) -> np.ndarray:
    """Which distinct ids are pseudonyms already, bool [U]."""
    marked = np.zeros(len(ids.values), np.bool_)
    marked[ids.codes[sent & (ids.codes >= 0)]] = True
    made = pd.Index(ids.values).isin([*hashed, *people])
    # A mark goes by the form of an id; that the list of people has it as it is says more.
    return (made | marked) & ~pd.Index(hashed).isin(people)
