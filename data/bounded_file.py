"""Bytes as a file for the decoder libraries: one that ends early when reading it has cost too much."""

from __future__ import annotations

import io
import time
from typing import Any

from data.media import MediaError

WORK_SECONDS = 3.0
"""Processor seconds that reading and decoding one file may take; waiting for a busy machine does not count."""
MAX_CALLS = 250_000
"""Reads of one file. An hour of MP3, the longest honest reader, asks for 100,000."""
CALLS_A_CHECK = 64


class BoundedFile(io.BytesIO):
    """Some files are made of millions of tiny parts, each of which a library walks over: the work ends, not the file.

    After `MAX_CALLS` reads or `WORK_SECONDS` of processor time every read finds the end of the file, which all libraries
    survive (an exception inside a callback of theirs, some do not); `check` then tells that this was the cause. A seek to
    before the first byte, as damaged headers ask for, stays where it is.

    Example:
        >>> file = BoundedFile(b"abc")
        >>> file.seek(-5), file.read(), file.check()
        (0, b'abc', None)
    """

    def __init__(self, content: bytes) -> None:
        super().__init__(content)
        self.start, self.calls, self.cut = time.thread_time(), 0, False

    def check(self, *, always: bool = False) -> None:
        """Raise `MediaError` if the file was cut short; with `always`, also if the work is spent without a read."""
        if self.cut or (always and time.thread_time() - self.start > WORK_SECONDS):
            raise MediaError(
                f"too slow: more than {WORK_SECONDS:g} s of work or {MAX_CALLS:,} tiny parts; save it again in an ordinary way"
            )

    def read(self, size: int | None = -1, /) -> bytes:
        return b"" if self._spent() else super().read(size)

    def readinto(self, buffer: Any, /) -> int:
        return 0 if self._spent() else super().readinto(buffer)

    def seek(self, offset: int, whence: int = 0, /) -> int:
        try:
            return super().seek(offset, whence)
        except (ValueError, OverflowError):
            return self.tell()

    def _spent(self) -> bool:
        self.calls += 1
        if self.calls % CALLS_A_CHECK == 0:
            self.cut |= self.calls > MAX_CALLS or time.thread_time() - self.start > WORK_SECONDS
        return self.cut
