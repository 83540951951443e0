"""Fields of what callers send: ids, files, pairs and weights, each bounded, and how many there may be."""

from __future__ import annotations

import base64
import binascii
from typing import Annotated

from pydantic import AfterValidator, Field

from data.columns import MAX_ID_BYTES
from ranking.policy import Policy

MAX_ID_LENGTH = 256
MAX_RECENT = 200
MAX_EXCLUDED = 1000
MAX_K = 100
MAX_CANDIDATES = 1000
MAX_ALLOWED = 1000
MAX_CONTEXT = 32
MAX_PROFILE = 32

Id = Annotated[str, Field(max_length=MAX_ID_LENGTH)]
ItemId = Annotated[str, Field(min_length=1, max_length=MAX_ID_LENGTH)]


def _fits_a_vocabulary(text: str) -> str:
    if len(text.encode()) > MAX_ID_BYTES:
        raise ValueError(f"must be at most {MAX_ID_BYTES} bytes in UTF-8, received {len(text.encode())}")
    return text


KeptId = Annotated[
    str,
    Field(min_length=1, max_length=MAX_ID_LENGTH, pattern=r"^[^\x00-\x1f\x7f\x85\u2028\u2029]+$"),
    AfterValidator(_fits_a_vocabulary),
]
"""An id that a log or a catalogue will hold: on one line, as the ingest wants it."""


def _is_base64(text: str) -> str:
    try:
        base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("must be base64, without line breaks") from None
    return text


Base64 = Annotated[str, Field(max_length=32 * 2**20), AfterValidator(_is_base64)]
"""A file itself."""


def _is_a_pair(text: str) -> str:
    if not text.partition("=")[0] or "=" not in text:
        raise ValueError(f"must be 'name=value', received {text!r}")
    return text


def _is_a_weight(text: str) -> str:
    name, _, value = _is_a_pair(text).partition("=")
    try:
        number = float(value)
    except ValueError:
        raise ValueError(f"{name}: must be a number, received {value!r}") from None
    Policy().with_weights({name: number})
    return text


Pair = Annotated[str, Field(max_length=2 * MAX_ID_LENGTH), AfterValidator(_is_a_pair)]
Weight = Annotated[str, Field(max_length=MAX_ID_LENGTH), AfterValidator(_is_a_weight)]
