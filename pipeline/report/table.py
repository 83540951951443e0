"""A table of the report, and how its numbers are written."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any


@dataclasses.dataclass(frozen=True)
class ReportTable:
    """A table.

    Attributes:
        name: prefix of its id on the page. heading, columns, rows, caption: what is shown.
        words: how many of the leading columns are text; the others are numbers.
        prose: number of the text column that may take several lines; 0 = none.
        folded: whether it opens only when asked.
    """

    name: str
    heading: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""
    words: int = 1
    prose: int = 0
    folded: bool = False


def interval_text(triple: Sequence[Any] | None) -> str:
    """mean [low, high], to the place that intervals over some thousand users leave any sense in.

    Example:
        >>> interval_text([-0.01234, -0.02, None])
        '−.012 [−.020, –]'
    """
    if triple is None:
        return "–"
    mean, low, high = ("–" if value is None else short_number(value) for value in triple)
    return f"{mean} [{low}, {high}]"


def short_number(value: float) -> str:
    """Three places, no zero before the point, a real minus.

    Example:
        >>> short_number(-0.0123), short_number(-0.0001), short_number(2.5)
        ('−.012', '.000', '2.500')
    """
    text = f"{abs(value):.3f}"
    return ("−" if value < 0 and float(text) else "") + (text[1:] if text.startswith("0.") else text)


def signed_number(value: float, places: int) -> str:
    """A difference with its sign, of which the minus is a real one.

    Example:
        >>> signed_number(-0.01234, 4), signed_number(5.4, 0), signed_number(-0.2, 0)
        ('−0.0123', '+5', '0')
    """
    text = f"{abs(value):,.{places}f}"
    return text if not float(text.replace(",", "")) else ("−" if value < 0 else "+") + text


def format_milliseconds(value: float | None) -> str:
    """Milliseconds to the hundredth: what they are measured with tells no more.

    Example:
        >>> format_milliseconds(0.14051), format_milliseconds(None)
        ('0.14', '–')
    """
    return "–" if value is None else f"{value:,.2f}"


def format_number(value: Any) -> str:
    """A figure as people read it; a dash where there is none.

    Example:
        >>> format_number(0.12345), format_number(120000), format_number(None)
        ('0.1235', '120,000', '–')
    """
    if value is None:
        return "–"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4f}" if abs(value) < 10 else f"{value:.1f}"
