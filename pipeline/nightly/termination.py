"""SIGTERM, as a job takes it: an end in order, so that the next one need not wait for its lock."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

EXIT_CODE = 128 + signal.SIGTERM
"""What a shell says of a process that SIGTERM has ended."""


@contextlib.contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """SIGTERM ends the block as an error would: locks are given up, and processes beside it end.

    Raises:
        SystemExit: it came; the code is 143.
    """
    if threading.current_thread() is not threading.main_thread():  # Python allows no other to hear signals
        yield
        return

    def end(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one must not disturb the end
        raise SystemExit(EXIT_CODE)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
