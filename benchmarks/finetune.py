"""Is it worth tuning the text encoder? LoRA against the frozen encoder on the validation split, cold items apart.

    python benchmarks/finetune.py --data runs/world --config configs/demo.toml
    python benchmarks/finetune.py --data runs/world --config configs/demo.toml --quick

Both variants train the towers from scratch for the same number of epochs, on vectors that lie still: those of the
untouched encoder, and those of the encoder that the finetune stage tuned on the train split. The same code judges both:
NDCG@20 and recall@100 over the full catalogue, and recall@100 of items that no training event names. The last line is
one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

from data.dataset import Dataset
from data.features import FeatureStore
from data.ingest import IngestOptions, ingest
from pipeline.content.encode import encode
from pipeline.evaluation.evaluate import Judge, tower_scores
from pipeline.metrics.examples import make_requests
from pipeline.retrieval.finetune import finetune
from pipeline.retrieval.train_retrieval import train_retrieval
from pipeline.settings.config import Config, load_config
from towers.encoders import resolve_spec

FIGURES = ("ndcg@20", "recall@100", "cold_recall@100")


def settings(arguments: argparse.Namespace, seed: int) -> Config:
    """The run's config with this measurement's encoder, budget and seed; `--set` has the last word."""
    overrides = [
        f"encoders.text.spec='{arguments.text}'",
        f"encoders.text.train='{arguments.train}'",
        f"encoders.text.learning_rate={arguments.learning_rate}",
        f"encoders.finetune.epochs={arguments.finetune_epochs}",
        f"encoders.finetune.items_per_step={arguments.items_per_step}",
        "encoders.finetune.text_tokens=32",
        f"retrieval.epochs={arguments.epochs}",
        f"retrieval.seed={seed}",
    ]
    return load_config(arguments.config, overrides + arguments.set)


def encode_with(source: Path, dataset: Dataset, out: Path, work: Path, specs: dict[str, str]) -> FeatureStore:
    """The encode stage over the content store of this measurement, so that only the text is encoded anew."""
    return encode(source, dataset, out, specs, work / "feature-store", progress=None)


def judge(dataset: Dataset, store: FeatureStore, out: Path, config: Config) -> dict[str, float]:
    """Train the towers on vectors that lie still, and judge them on the validation split."""
    out.mkdir(parents=True)
    checkpoints = out.with_name(out.name + "-checkpoints")
    train_retrieval(
        dataset, store, out, checkpoints, config.retrieval, modalities=store.modalities, progress=lambda *_: None
    )
    requests = make_requests(
        dataset, "valid", known_splits=("train",), history_length=config.retrieval.history_length
    )
    judged = Judge(requests, dataset.counts).judge(tower_scores(out, dataset, requests))
    everything, cold = judged["test"], judged.get("cold_items", {})
    return {
        "ndcg@20": everything["ndcg@20"],
        "recall@100": everything["recall@100"],
        "cold_recall@100": cold.get("recall@100", float("nan")),
        "cold_users": cold.get("users", 0),
    }


def one_seed(
    dataset: Dataset, source: Path, work: Path, specs: dict[str, str], config: Config, frozen: FeatureStore
) -> dict[str, dict[str, Any]]:
    """Both variants with one seed, with the seconds of their parts."""
    folder = work / f"seed-{config.retrieval.seed}"
    begun = time.perf_counter()
    results: dict[str, dict[str, Any]] = {"frozen": judge(dataset, frozen, folder / "frozen", config)}
    results["frozen"]["seconds_towers"] = round(time.perf_counter() - begun, 1)

    begun = time.perf_counter()
    tuned = folder / "finetune"
    tuned.mkdir(parents=True)
    counts = finetune(
        dataset, frozen, source, tuned, folder / "finetune-checkpoints", config, progress=lambda *_: None
    )
    tuning = time.perf_counter() - begun
    begun = time.perf_counter()
    store = encode_with(source, dataset, folder / "encode", work, {**specs, "text": f"tuned:{tuned / 'text'}"})
    refilling = time.perf_counter() - begun
    begun = time.perf_counter()
    name = config.encoders.text.train
    results[name] = judge(dataset, store, folder / name, config)
    results[name] |= {
        "seconds_finetune": round(tuning, 1),
        "seconds_refill": round(refilling, 1),
        "seconds_towers": round(time.perf_counter() - begun, 1),
        "finetune": counts,
    }
    return results


def summarise(runs: list[dict[str, dict[str, Any]]]) -> dict[str, Any]:
    """Mean and sample standard deviation over the seeds of each variant, and of the difference, seed by seed."""

    def spread(values: list[float]) -> dict[str, float]:
        deviation = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
        return {"mean": round(float(np.mean(values)), 5), "std": round(deviation, 5)}

    variants = list(runs[0])
    summary: dict[str, Any] = {
        variant: {figure: spread([run[variant][figure] for run in runs]) for figure in FIGURES} for variant in variants
    }
    summary["difference"] = {
        figure: spread([run[variants[1]][figure] - run[variants[0]][figure] for run in runs]) for figure in FIGURES
    }
    return summary


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="dataset folder")
    parser.add_argument("--config", type=Path, default=None, help="TOML file of the run")
    parser.add_argument("--text", default="pack:minilm", help="spec of the text encoder")
    parser.add_argument("--modalities", default="text", help="what the item tower sees, such as text,image,audio")
    parser.add_argument("--train", default="lora", choices=("lora", "last_k", "full"))
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=10, help="of the towers, in both variants")
    parser.add_argument("--finetune-epochs", type=int, default=2)
    parser.add_argument("--items-per-step", type=int, default=64)
    parser.add_argument("--set", action="append", default=[], help="any other setting, section.key=value")
    parser.add_argument("--quick", action="store_true", help="one seed, one epoch of each: does it run?")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.seeds = arguments.epochs = arguments.finetune_epochs = 1
        arguments.items_per_step = 16
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        work, first = Path(folder), settings(arguments, 0)
        dataset = ingest(arguments.data, work / "ingest", IngestOptions(**first.data.model_dump()))
        chosen = arguments.modalities.split(",")
        specs = {
            name: resolve_spec(name, spec) if name in chosen else "none" for name, spec in first.encoders.specs().items()
        }
        frozen = encode_with(arguments.data, dataset, work / "encode", work, specs)
        encoding = time.perf_counter() - begun
        print(f"items {len(dataset.items) - 1}, encoders {specs}, first encoding {encoding:.1f} s", flush=True)
        runs = []
        for number in range(arguments.seeds):
            run = one_seed(dataset, arguments.data, work, specs, settings(arguments, 7 + number), frozen)
            runs.append(run)
            print(json.dumps({"seed": 7 + number, **run}), flush=True)
    report = {
        "benchmark": "finetune",
        "settings": {
            **{key: value for key, value in vars(arguments).items() if key not in ("data", "config", "quick")},
            "specs": specs,
        },
        "items": len(dataset.items) - 1,
        "cold_items": int((dataset.counts[1:] == 0).sum()),
        **summarise(runs),
        "seconds_finetune": round(float(np.mean([run[arguments.train]["seconds_finetune"] for run in runs])), 1),
        "seconds": round(time.perf_counter() - begun, 1),
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
