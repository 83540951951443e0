"""The decoding process with decoders that do what hostile files once did to real ones. Run by test_encode_workers.py."""

import os
import signal
import sys
import time
from pathlib import Path

from pipeline.content import encode_worker

real = encode_worker.decoder_of


def decoder_of(kind):
    def decode(content, *arguments):
        if content.startswith(b"CRASH"):
            os.kill(os.getpid(), signal.SIGSEGV)
        if content.startswith(b"HANG"):
            time.sleep(60)
        if content.startswith(b"BUG"):
            raise KeyError("table")
        if content.startswith(b"ONCE"):  # dies the first time, for a reason that is not the file's
            marker, _, content = content[4:].partition(b"\n")
            if not Path(marker.decode()).exists():
                Path(marker.decode()).touch()
                os.kill(os.getpid(), signal.SIGKILL)
        return real(kind)(content, *arguments)

    return decode


if __name__ == "__main__":
    encode_worker.decoder_of = decoder_of
    encode_worker.main(int(sys.argv[1]))
