"""How fast the encode stage is beside its bare encoders. See `python benchmarks/encode.py --help`."""

from __future__ import annotations

import argparse
import io
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import pandas as pd
import soundfile
from PIL import Image

from data.audio_decoder import decode_audio
from data.image_decoder import decode_image
from pipeline.content.encode import encode
from pipeline.content.encode_plan import batch_length, item_text
from towers.encoders import describe_encoder, make_encoder, resolve_spec

HELP = """
Builds a catalogue of mixed items in a temporary folder (every item has a text, half of them a JPEG or PNG picture of
300 to 600 pixels a side, a quarter a 3-second WAV clip; no two alike) and measures, round after round,

  bare   the encoders alone, on arrays that were decoded beforehand,
  stage  the encode stage on the files: hashing, lookup, decoding in processes, encoding, storing, assembling,

with the same encoders and the same contents: half of bare before the stage and half after it, so that a busy machine
slows both. Building the encoders is outside both (building_seconds). Then, each in a fresh process, the stage again
with nothing changed, and with 10 items changed.

The last line is one JSON object: ratio_to_bare (stage contents a second over bare contents a second; 1 = free),
ratio_by_round, ratio_of_processor_time (the same of processor seconds: others on the machine disturb it less, and what
runs beside the encoder counts in full), cores_kept_busy, items_per_second of each modality bare and of the stage in
all, second_run_seconds (the whole process, imports included), changed_10_encoded, and what was measured with.

examples:
  python benchmarks/encode.py             2,000 items with the encoder pack, some minutes
  python benchmarks/encode.py --quick     fewer items, under 50 s
  python benchmarks/encode.py --signal    encoders without weights, which are so fast that decoding is what is measured
"""

AGAIN = """
import sys, pandas as pd
from types import SimpleNamespace
from pipeline.content.encode import encode
source, out, store, specs = sys.argv[1:]
items = pd.read_parquet(source + "/items.parquet")
info = encode(source, SimpleNamespace(items=items), out, dict(pair.split("=") for pair in specs.split(",")), store).info
print(info["encoded"], info["seconds"])
"""
WORDS = ("slow", "loud", "blue", "hour", "night", "piano", "drum", "road", "river", "light", "open", "glass", "paper")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.partition(" See")[0], epilog=HELP, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--items", type=int, default=2000, help="items of the catalogue (default 2000)")
    parser.add_argument("--rounds", type=int, default=1, help="parts that the catalogue is measured in (default 1)")
    parser.add_argument("--quick", action="store_true", help="256 items in 1 round")
    parser.add_argument("--signal", action="store_true", help="the encoders without weights")
    parser.add_argument("--workers", type=int, default=2, help="decoding processes (default 2)")
    parser.add_argument("--batch-size", type=int, default=64, help="pictures or clips of one encoder call (default 64)")
    parser.add_argument("--seed", type=int, default=7)
    options = parser.parse_args()
    if options.quick:
        options.items, options.rounds = min(options.items, 256), 1
    with tempfile.TemporaryDirectory(prefix="encode-") as folder:
        print(json.dumps(measure(Path(folder), options)))


def measure(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    specs = {name: "signal:" if options.signal else resolve_spec(name, "auto") for name in ("text", "image", "audio")}
    specs["video"] = "none"
    source, store = folder / "source", folder / "store"
    items = build(source, options.items, np.random.default_rng(options.seed))
    print(f"{options.items} items in {source}, encoders {specs}", flush=True)

    begun = time.perf_counter()
    encoders = {name: make_encoder(name, spec) for name, spec in specs.items() if spec != "none"}
    building = time.perf_counter() - begun
    print(f"encoders built in {building:.1f} s", flush=True)
    cuts = np.array_split(np.arange(1, len(items)), options.rounds)
    whole = decode(source, items.iloc[cuts[0]], encoders)
    for warm in (whole, halves(whole)[0]):  # the first batch of every shape compiles a graph: neither side's work
        run_bare(encoders, warm, options.batch_size)

    bare_seconds, stage_seconds, counts = dict.fromkeys(encoders, 0.0), 0.0, dict.fromkeys(encoders, 0)
    ratios, stage_busy, bare_busy = [], 0.0, 0.0
    for number, cut in enumerate(cuts):
        part = items.iloc[[0, *cut]]
        arrays = decode(source, part.iloc[1:], encoders)

        before = processor_seconds()
        first, second = halves(arrays)
        alone, busy = run_bare(encoders, first, options.batch_size), processor_seconds()
        begun = time.perf_counter()
        made = encode(
            source, SimpleNamespace(items=part), folder / f"part-{number}", specs, store,
            batch_size=options.batch_size, workers=options.workers, tuned=encoders,
        )  # fmt: skip
        whole = time.perf_counter() - begun
        stage_busy += processor_seconds() - busy
        assert made.info["encoded"] == sum(map(len, arrays.values())), made.info
        bare_busy += busy - before
        before = processor_seconds()
        for name, seconds in run_bare(encoders, second, options.batch_size).items():
            alone[name] += seconds
        bare_busy += processor_seconds() - before
        ratios.append(sum(alone.values()) / whole)
        stage_seconds += whole
        for name in encoders:
            bare_seconds[name] += alone[name]
            counts[name] += len(arrays[name])
        print(f"round {number + 1}: bare {sum(alone.values()):.2f} s, stage {whole:.2f} s", flush=True)

    again, seconds, inside = run_again(source, folder / "again", store, specs)
    assert again == 0, again
    change(source, items, 10)
    changed, _, _ = run_again(source, folder / "changed", store, specs)
    total = sum(counts.values())
    return {
        "ratio_to_bare": round(sum(bare_seconds.values()) / stage_seconds, 3),
        "ratio_by_round": [round(ratio, 3) for ratio in ratios],
        "ratio_of_processor_time": round(bare_busy / stage_busy, 3),
        "cores_kept_busy": {
            "bare": round(bare_busy / sum(bare_seconds.values()), 2),
            "stage": round(stage_busy / stage_seconds, 2),
        },
        "items_per_second": {
            **{name: round(counts[name] / bare_seconds[name], 1) for name in encoders},
            "bare": round(total / sum(bare_seconds.values()), 1),
            "stage": round(total / stage_seconds, 1),
        },
        "second_run_seconds": round(seconds, 2),
        "second_run_seconds_without_imports": round(inside, 2),
        "changed_10_encoded": changed,
        "contents": counts,
        "encoders": {name: spec for name, spec in specs.items() if spec != "none"},
        "building_seconds": round(building, 1),
        "workers": options.workers,
        "batch_size": options.batch_size,
        "cores": os.cpu_count(),
    }


def processor_seconds() -> float:
    """Used by this process and the decoding processes that have ended."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def halves(arrays: dict[str, Any]) -> list[dict[str, Any]]:
    """Every other content, and the others."""
    return [{name: values[half::2] for name, values in arrays.items()} for half in (0, 1)]


def run_bare(encoders: dict[str, Any], arrays: dict[str, Any], batch_size: int) -> dict[str, float]:
    """Seconds of each encoder on its decoded contents, in the stage's batches."""
    seconds = {}
    for name, encoder in encoders.items():
        length = batch_length(describe(encoder), batch_size)
        begun = time.perf_counter()
        for start in range(0, len(arrays[name]), length):
            encoder.encode(arrays[name][start : start + length])
        seconds[name] = time.perf_counter() - begun
    return seconds


def describe(encoder: Any) -> Any:
    card = describe_encoder(encoder.modality, encoder.name)
    assert card is not None
    return card


def decode(source: Path, items: pd.DataFrame, encoders: dict[str, Any]) -> dict[str, Any]:
    """What the encoders get of some items."""
    columns = zip(items.title, items.description, items.categories, strict=True)
    texts = [item_text(*cells)[: encoders["text"].size] for cells in columns]
    images = [decode_image((source / "media" / name).read_bytes(), encoders["image"].size) for name in items.image if name]
    sounds = [decode_audio((source / "media" / name).read_bytes(), encoders["audio"].size) for name in items.audio if name]
    return {"text": texts, "image": np.stack(images), "audio": np.stack(sounds)}


def run_again(source: Path, out: Path, store: Path, specs: dict[str, str]) -> tuple[int, float, float]:
    """Contents encoded by the stage in a fresh process, its seconds in all, and those of the stage alone."""
    pairs = ",".join(f"{name}={spec}" for name, spec in specs.items())
    begun = time.perf_counter()
    command = [sys.executable, "-c", AGAIN, str(source), str(out), str(store), pairs]
    result = subprocess.run(
        command, cwd=Path(__file__).resolve().parent.parent, capture_output=True, text=True, check=True
    )
    seconds = time.perf_counter() - begun
    encoded, inside = result.stdout.split()[-2:]
    return int(encoded), seconds, float(inside)


def build(source: Path, count: int, rng: np.random.Generator) -> pd.DataFrame:
    """The catalogue, row 0 included, with its media files."""
    (source / "media").mkdir(parents=True)
    rows = [("", "", "", "", "", "")]
    for number in range(1, count + 1):
        words = rng.choice(WORDS, int(rng.integers(4, 40)))
        image = audio = ""
        if number % 2:
            image = f"{number}.png" if number % 3 == 0 else f"{number}.jpg"
            (source / "media" / image).write_bytes(picture(rng, image))
        if number % 4 == 2:
            audio = f"{number}.wav"
            (source / "media" / audio).write_bytes(clip(rng))
        rows.append((f"item {number}", f"Number {number}", " ".join(words), "", image, audio))
    items = pd.DataFrame(rows, columns=["item_id", "title", "description", "categories", "image", "audio"])
    items.to_parquet(source / "items.parquet", index=False)
    return items


def change(source: Path, items: pd.DataFrame, count: int) -> None:
    """Give some items another picture, clip or text: one content each."""
    rng = np.random.default_rng(0)
    for row in range(1, count + 1):
        if items.image[row]:
            (source / "media" / items.image[row]).write_bytes(picture(rng, items.image[row]))
        elif items.audio[row]:
            (source / "media" / items.audio[row]).write_bytes(clip(rng))
        else:
            items.loc[row, "description"] = "changed " + items.description[row]
    items.to_parquet(source / "items.parquet", index=False)


def picture(rng: np.random.Generator, name: str) -> bytes:
    """A scene like a photograph in what matters here: large soft shapes, some grain, 300 to 600 pixels a side."""
    width, height = (int(side) for side in rng.integers(300, 601, 2))
    shapes = Image.fromarray(rng.integers(0, 256, (12, 12, 3), dtype=np.uint8))
    soft = np.asarray(shapes.resize((width, height), Image.Resampling.BICUBIC), np.float32)
    grain = rng.normal(0, 4, (height, width, 1))
    pixels = np.clip(soft + grain, 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    image = Image.fromarray(pixels)
    if name.endswith(".png"):
        image.save(buffer, "PNG", compress_level=1)
    else:
        image.save(buffer, "JPEG", quality=88)
    return buffer.getvalue()


def clip(rng: np.random.Generator) -> bytes:
    """Three seconds of a few partials and noise, 44.1 kHz, 16 bits."""
    seconds = np.arange(3 * 44_100) / 44_100
    wave = sum(np.sin(2 * np.pi * frequency * seconds) for frequency in rng.uniform(80, 2000, 4)) * 0.1
    buffer = io.BytesIO()
    soundfile.write(buffer, wave + rng.normal(0, 0.02, len(seconds)), 44_100, format="WAV", subtype="PCM_16")
    return buffer.getvalue()


if __name__ == "__main__":
    main()
