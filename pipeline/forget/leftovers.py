"""Files that a killed process was writing: copies of what they were to replace, under names that nobody looks for."""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Iterable
from pathlib import Path

from data.durable_file import WRITING
from pipeline.nightly.lock import process_start

NAME = re.compile(rf"{re.escape(WRITING)}(.+)-(\d+)-[0-9a-f]{{12}}")
"""What `write_durably` calls a file that is not finished: by host and process."""
FOREIGN_SECONDS = 3600.0
"""A file of another machine's process that has not changed for so long is written by nobody: whether that process lives cannot
be seen from here."""
CLOCK_SECONDS = 2.0
"""How far the times of files and of processes may differ."""


def clear_leftovers(folders: Iterable[Path]) -> int:
    """Removes what kills of `write_durably` have left in some folders; returns how many files that were."""
    count = 0
    for folder in folders:
        for path in sorted(folder.rglob(f"{WRITING}*")):
            if NAME.fullmatch(path.name) and path.is_file() and not path.is_symlink() and not being_written(path):
                path.unlink(missing_ok=True)
                count += 1
    return count


def being_written(path: Path) -> bool:
    """Whether a process may still be writing an unfinished file: one of this machine that is there and not younger than the
    file, or one of another machine that wrote to it within the hour."""
    named = NAME.fullmatch(path.name)
    try:
        changed = path.stat().st_mtime
    except FileNotFoundError:  # finished or given up a moment ago
        return False
    if named is None:
        return False
    host, process = named[1], int(named[2])
    if host != socket.gethostname():
        return time.time() - changed < FOREIGN_SECONDS
    began = _began(process)
    # Numbers are used again, in a container that starts anew even at once.
    return began is not None and began <= changed + CLOCK_SECONDS


def _began(process: int) -> float | None:
    """When a process of this machine began, in UTC seconds; None where there is none."""
    ticks = process_start(process)
    if not ticks:
        return None
    boot = next(line.split()[1] for line in Path("/proc/stat").read_text().splitlines() if line.startswith("btime"))
    return int(boot) + int(ticks) / os.sysconf("SC_CLK_TCK")
