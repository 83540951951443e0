"""How much of each factor of a generated world the encoders read. See `python benchmarks/world_factors.py --help`."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

from data.ingest import IngestOptions, ingest
from data.schema import MODALITIES
from data.world import KINDS, generate_world, load_oracle, world_config
from pipeline.content.encode import encode
from towers.encoders import resolve_spec

HELP = """
Generates a world, encodes it with the encoders that need no weights and with those that `auto` stands for, and fits a
ridge regression from each modality's vectors to the factor that it carries: on four fifths of the items, drawn at
random, its penalty chosen on a fifth of these. R2 on the other fifth says how much of the factor can be read.

The last line is one JSON object: kind, items, and r2 by modality and encoder.

examples:
  python benchmarks/world_factors.py                  the demo's record shop, 1,500 tracks
  python benchmarks/world_factors.py --kind video     short videos
  python benchmarks/world_factors.py --items 400      fewer items, sooner
"""
FACTOR_OF = {"text": 0, "image": 1, "video": 1, "audio": 2}
PENALTIES = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)


def held_out_r2(features: np.ndarray, factor: np.ndarray, rng: np.random.Generator) -> float:
    """R2 = 1 - |y - p|^2 / |y - mean(y)|^2 on the last fifth of a random order; features [n, F], factor [n, S]."""
    order = rng.permutation(len(features))
    features, factor = features[order], factor[order]
    train = len(features) * 4 // 5
    inner = train * 4 // 5
    tried = [_ridge(features[:inner], factor[:inner], features[inner:train], penalty) for penalty in PENALTIES]
    penalty = PENALTIES[int(np.argmax([_r2(predicted, factor[inner:train]) for predicted in tried]))]
    return _r2(_ridge(features[:train], factor[:train], features[train:], penalty), factor[train:])


def _ridge(seen: np.ndarray, known: np.ndarray, unseen: np.ndarray, penalty: float) -> np.ndarray:
    """Predictions of the dual form on standardised features; outliers are cut, and columns that hardly vary stay small."""
    mean, spread = seen.mean(0), seen.std(0)
    spread = np.maximum(spread, 0.05 * np.median(spread)) + 1e-9
    left, right = (np.clip((part - mean) / spread, -8, 8) for part in (seen, unseen))
    middle = known.mean(0)
    weights = np.linalg.solve(left @ left.T + penalty * left.shape[1] * np.eye(len(left)), known - middle)
    return right @ (left.T @ weights) + middle


def _r2(predicted: np.ndarray, factor: np.ndarray) -> float:
    return float(1 - ((predicted - factor) ** 2).sum() / ((factor - factor.mean(0)) ** 2).sum())


def main() -> None:
    parser = argparse.ArgumentParser(description=HELP, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", choices=KINDS, default="music")
    parser.add_argument("--items", type=int)
    parser.add_argument("--seed", type=int, default=7)
    given = parser.parse_args()
    config = world_config(given.kind, items=given.items, users=100, events=1000, seed=given.seed)
    result: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        generate_world(folder / "world", config)
        factors = load_oracle(folder / "world").factors["factors"].astype(np.float64)
        dataset = ingest(folder / "world", folder / "ingest", IngestOptions(split="global_time"))
        for choice in ("signal:", "auto"):
            specs = {modality: resolve_spec(modality, choice) for modality in MODALITIES}
            (folder / choice).mkdir()
            store = encode(folder / "world", dataset, folder / choice, specs, folder / "store")
            for modality in store.modalities:
                rows = np.flatnonzero(store.present[:, MODALITIES.index(modality)])
                vectors = np.asarray(store.pooled(modality)[rows], np.float64)
                score = held_out_r2(vectors, factors[rows - 1, FACTOR_OF[modality]], np.random.default_rng(0))
                result.setdefault(modality, {})[specs[modality]] = round(score, 3)
                print(f"{modality:6} {specs[modality]:20} R2 {score:.3f} ({len(rows)} items, {vectors.shape[1]} numbers each)")
    print(json.dumps({"kind": given.kind, "items": config.items, "r2": result}))


if __name__ == "__main__":
    main()
