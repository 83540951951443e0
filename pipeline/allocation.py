"""A command's memory: what it has freed stays with it, since it is about to ask for as much again; garbage is seldom sought."""

from __future__ import annotations

import atexit
import ctypes
import gc

TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD = -1, -2, -3
"""Parameters of glibc's `mallopt`."""
KEPT, AT_ONCE, LARGE = 2**31 - 1, 2**24, 2**30
"""Bytes that stay at the end of the heap when they are freed, that are asked for at once, and from which a block is a mapping
of its own."""


def keep_freed_memory() -> bool:
    """Let glibc give what was freed to the process's own next request, and not back to the system.

    Training, judging and export free blocks of many megabytes and ask for as many again. Left alone, glibc returns them, and
    the system fills every page with zeros anew: a third of a nightly job's time in the kernel was that, a sixth of all its
    time. Blocks of `LARGE` bytes or more still go back at once. Processes that are forked keep the setting.

    Returns: whether it was taken; other C libraries have nothing to set.

    Example:
        >>> keep_freed_memory() in (True, False)
        True
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return all([mallopt(TRIM_THRESHOLD, KEPT), mallopt(TOP_PAD, AT_ONCE), mallopt(MMAP_THRESHOLD, LARGE)])


def collect_garbage_seldom() -> None:
    """Let Python look for circles of garbage once in 50,000 new objects in the place of 700, and not at all at the end.

    Importing TensorFlow and tracing graphs make objects by the hundred thousand and hardly any garbage: a second of every
    command's start was spent on looking for it, and one and a half at its end, when the system takes everything anyway.

    Example:
        >>> before = gc.get_threshold()
        >>> collect_garbage_seldom()
        >>> gc.get_threshold()[0]
        50000
        >>> gc.set_threshold(*before)
    """
    gc.set_threshold(50_000, 10, 10)
    atexit.register(gc.freeze)
