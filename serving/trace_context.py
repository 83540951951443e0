"""Trace ids in the form of W3C Trace Context, carried from a request through every call that it makes."""

from __future__ import annotations

import re
import secrets
from contextvars import ContextVar
from typing import NamedTuple

FORM = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.ASCII)
HEADER = "traceparent"


class Trace(NamedTuple):
    """One step of a trace.

    W3C Recommendation "Trace Context", 2021, section 3.2 (traceparent).

    Attributes:
        trace_id: 32 hex digits, the same for all steps. span_id: 16 hex digits, of this step. flags: 2 hex digits.
    """

    trace_id: str
    span_id: str
    flags: str = "01"

    @property
    def header(self) -> str:
        """The value of `traceparent` for whom this step calls.

        Example:
            >>> Trace("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7").header
            '00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01'
        """
        return f"00-{self.trace_id}-{self.span_id}-{self.flags}"


CURRENT: ContextVar[Trace | None] = ContextVar("trace", default=None)
"""The trace of the request that is being answered; None outside one."""


def continue_trace(given: str | None) -> Trace:
    """A new step of the trace that a caller's `traceparent` names, or of a new trace where it names none.

    Anything malformed starts a new trace, as the recommendation asks: the version "ff", ids of zeros, further fields in
    version 00. A higher version is read as far as version 00 goes.

    Example:
        >>> continue_trace("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00").trace_id
        '4bf92f3577b34da6a3ce929d0e0e4736'
        >>> len(continue_trace("00-00000000000000000000000000000000-00f067aa0ba902b7-01").trace_id.strip("0")) > 0
        True
    """
    match = FORM.fullmatch(given.strip()) if given is not None and len(given) <= 256 else None
    if match is not None:
        version, trace_id, parent, flags, more = match.groups()
        good = version != "ff" and not (version == "00" and more) and trace_id.strip("0") and parent.strip("0")
        if good:
            return Trace(trace_id, secrets.token_hex(8), flags if version == "00" else f"{int(flags, 16) & 1:02x}")
    return Trace(secrets.token_hex(16), secrets.token_hex(8))
