"""What 500 hostile media files do to the decoders: each is decoded right or refused with a reason, soon, in little memory.

    python benchmarks/hostile_media.py

The corpus (`tests/data/hostile_files.py`) is written to a temporary folder; a fresh process then gives every file to every
decoder, as if each column of the catalogue named it. The last line is one JSON object: files, decoded (by at least one
decoder), quarantined (a reason from each), slowest_seconds of one file through all decoders with its name, peak_mb of that
process, and faults: whatever else came out. There must be none; the exit status says so too.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from data.audio_decoder import decode_audio  # noqa: E402
from data.image_decoder import decode_image  # noqa: E402
from data.media import MediaError, read_media  # noqa: E402
from data.video_decoder import decode_sound_track, decode_video  # noqa: E402
from data.waveform import fit_clip  # noqa: E402
from tests.data.hostile_files import hostile_files  # noqa: E402

SHAPES = {"image": (64, 64, 3), "audio": (80_000,), "video": (8, 64, 64, 3), "sound_track": (80_000,)}
"""What each decoder must return."""


def measure(files: Iterable[tuple[str, bytes]]) -> dict:
    """Write a corpus of (name, content), decode it in a process of its own, and return what came out."""
    with tempfile.TemporaryDirectory() as folder:
        for name, content in files:
            Path(folder, name).write_bytes(content)
        command = [sys.executable, __file__, "--decode", folder]
        done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False, timeout=600)
        if not done.stdout.strip():
            return {"faults": [f"the decoding process died with status {done.returncode}"]}
        return json.loads(done.stdout.splitlines()[-1])


def decode_folder(folder: Path) -> dict:
    """Give every file of a folder to every decoder, in this process."""
    seconds: dict[str, float] = {}
    faults: list[str] = []
    decoded = quarantined = 0
    fit_clip(np.ones(9, np.float32), 8_000, 9)  # what is imported only once is no file's time
    for path in sorted(folder.iterdir()):
        start = time.perf_counter()
        outcomes = [_outcome(folder, path.name, kind, shape) for kind, shape in SHAPES.items()]
        seconds[path.name] = time.perf_counter() - start
        faults += [f"{path.name}: {outcome}" for outcome in outcomes if outcome not in ("decoded", "refused")]
        decoded += "decoded" in outcomes
        quarantined += all(outcome == "refused" for outcome in outcomes)
    slowest = max(seconds, key=seconds.__getitem__)
    return {
        "files": len(seconds), "decoded": decoded, "quarantined": quarantined,
        "slowest_seconds": round(seconds[slowest], 2), "slowest": slowest, "seconds": round(sum(seconds.values()), 1),
        "peak_mb": round(_peak_mb()), "faults": faults,
    }  # fmt: skip


def _outcome(folder: Path, name: str, kind: str, shape: tuple[int, ...]) -> str:
    try:
        content = read_media(folder, name)
        if kind == "image":
            result = decode_image(content, shape[0])
        elif kind == "video":
            result = decode_video(content, shape[0], shape[1])
        else:
            result = (decode_audio if kind == "audio" else decode_sound_track)(content, shape[0])
    except MediaError as error:
        return "refused" if len(str(error)) > 10 else f"{kind}: the reason says nothing: {error}"
    except Exception as error:
        return f"{kind}: {type(error).__name__}: {error}"
    if result.shape != shape or not np.isfinite(result).all():
        return f"{kind}: returned {result.shape} with {int((~np.isfinite(result)).sum())} values not finite"
    return "decoded"


def _peak_mb() -> float:
    """Highest resident memory of this process; on Linux without what it inherits from the one that started it."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> int:
    parser = argparse.ArgumentParser(description="Hostile media files through every decoder.")
    parser.add_argument("--count", type=int, default=500, help="files")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--decode", type=Path, help="decode this folder in this process, instead of a corpus")
    options = parser.parse_args()
    result = decode_folder(options.decode) if options.decode else measure(hostile_files(options.seed, options.count))
    print(json.dumps(result))
    return 1 if result["faults"] else 0


if __name__ == "__main__":
    sys.exit(main())
