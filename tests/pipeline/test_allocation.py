"""Memory that was freed and is asked for again comes without the system's filling it anew."""

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
import numpy as np
from pipeline.allocation import keep_freed_memory
if sys.argv[1] == "kept":
    assert keep_freed_memory()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(30):
    np.full(6_000_000, 1.0)  # 48 MB, written to
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have no mallopt")
def test_what_was_freed_is_not_filled_by_the_system_again():
    def pages_filled(how):
        # Pages of 4 kB: numpy would ask for large ones, where the system has any.
        command = [sys.executable, "-c", PROGRAM, how]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env={"NUMPY_MADVISE_HUGEPAGE": "0"})
        return int(done.stdout)

    assert pages_filled("kept") < pages_filled("returned") / 10
