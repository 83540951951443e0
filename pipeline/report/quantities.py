"""Shares, times, sizes and lists of words as a person says them."""

from __future__ import annotations

from collections.abc import Sequence


def percent(share: float, places: int | None = None) -> str:
    """A share in percent, with as many places as it needs by itself, unless told.

    Example:
        >>> percent(0.5), percent(0.034), percent(0.0), percent(0.9994), percent(0.5, 1)
        ('50 %', '3.4 %', '0 %', '99.9 %', '50.0 %')
    """
    return f"{100 * share:.{percent_places([share]) if places is None else places}f} %"


def percent_places(shares: Sequence[float]) -> int:
    """The places that shares which stand beside each other need, so that all of them have as many.

    Example:
        >>> percent_places([0.5, 0.28]), percent_places([0.5, 0.07])
        (0, 1)
    """
    return int(any(0 < share < 0.1 or 0.99 < share < 1 for share in shares))


def format_seconds(seconds: float) -> str:
    """Seconds as a person says them.

    Example:
        >>> format_seconds(7.2), format_seconds(200)
        ('7 s', '3 min 20 s')
    """
    whole = round(seconds)
    return f"{whole // 60} min {whole % 60} s" if whole >= 60 else f"{whole} s"


def format_bytes(count: float | None) -> str:
    """A size in powers of 1,000.

    Example:
        >>> format_bytes(1_234_567), format_bytes(None)
        ('1.2 MB', '–')
    """
    if count is None:
        return "–"
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def listed(words: Sequence[str]) -> str:
    """Words as a list in a sentence.

    Example:
        >>> listed(["a"]), listed(["a", "b", "c"])
        ('a', 'a, b and c')
    """
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1])))
