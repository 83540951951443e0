"""Raw text of items made fit for encoders, pages and logs."""

from __future__ import annotations

import html
import re
import unicodedata

import numpy as np

_BLANKS = re.compile(r"[\s\x1c-\x1f\x85\u2028\u2029]+")
# Control characters, the overrides that make text read backwards, the byte order mark and non-characters.
_DROPPED = re.compile("[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\u202a-\u202e\u2066-\u2069\ufeff\ufffe\uffff\ud800-\udfff]")


def clean_text(text: str, max_length: int) -> str:
    """One line of NFC text: HTML entities resolved, control characters dropped, blanks joined, at most `max_length`.

    Args:
        text: as it came.
        max_length: characters kept.

    Example:
        >>> clean_text("Rock &amp; Roll\\x00\\n  cafe\\u0301", 100)
        'Rock & Roll café'
    """
    # A bound before the work: entities shrink text at most to about a tenth, marks to a quarter.
    text = html.unescape(text[: 16 * max_length])
    text = _DROPPED.sub("", text)
    text = unicodedata.normalize("NFC", _BLANKS.sub(" ", text).strip())
    return text[:max_length].rstrip()


def clean_texts(texts: np.ndarray, max_length: int) -> tuple[np.ndarray, int]:
    """`clean_text` over an object array [rows]; also says how many texts were cut."""
    cleaned = np.array([clean_text(text, max_length + 1) for text in texts], dtype=object)
    long = np.array([len(text) > max_length for text in cleaned], np.bool_)
    for row in np.flatnonzero(long):
        cleaned[row] = cleaned[row][:max_length].rstrip()
    return cleaned, int(long.sum())
