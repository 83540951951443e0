"""What privacy costs: the two towers trained under differential privacy for several epsilons, and without.

    python benchmarks/privacy.py --run runs/demo
    python benchmarks/privacy.py --run runs/demo --quick

All have the towers and the loss of `--config`. `untrained` is them before the first step, content alone; `not private` is
trained by the ordinary steps, batches of events with early stopping, and knows which items were chosen. The unit of privacy
is a user: see `pipeline/settings/privacy_limits.py`. Judged on the validation split, or with `--split test` on the test
split, by which nothing was chosen; recall over the full catalogue, seen items left out, means over seeds with their range. With
`--out`, what has been trained is kept and not trained again. The last line is one JSON object.
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
from pipeline.evaluation.evaluate import Judge, tower_scores
from pipeline.metrics.examples import make_requests
from pipeline.retrieval.train_retrieval import build_task, new_towers, tower_config, train_retrieval
from pipeline.settings.config import load_config
from pipeline.training.epochs import seed_everything

UNTRAINED, OPEN = "untrained", "not private"
ORDINARY = (
    "privacy.epsilon=0.0", "batch_size=1024", "epochs=20", "learning_rate=0.002", "warmup_steps=200", "average_decay=0.0",
)  # fmt: skip
KNOWN = {"valid": ("train",), "test": ("train", "valid")}
FIGURES = {"recall@20": "test", "recall@100": "test", "ndcg@20": "test", "cold recall@100": "cold_items"}


def train(dataset: Dataset, store: FeatureStore, name: str, overrides: list[str], config: Path, out: Path) -> dict[str, Any]:
    """Train one variant into `out`, unless it lies there. Returns the account of its privacy, and seconds."""
    if (out / "told.json").is_file():
        return json.loads((out / "told.json").read_text())
    settings, begun = load_config(config, overrides).retrieval, time.perf_counter()
    out.mkdir(parents=True, exist_ok=True)
    if name == UNTRAINED:
        seed_everything(settings.seed)
        schema = dataset.schema.with_modalities(store.widths, store.frames)
        two_tower = new_towers(dataset, schema, tower_config(settings, store.modalities))
        np.save(out / "item_embeddings.npy", build_task(dataset, store, two_tower).all_item_embeddings())
        two_tower.save_to(out)
        told: dict[str, Any] = {}
    else:
        with tempfile.TemporaryDirectory() as kept:
            told = train_retrieval(
                dataset, store, out, Path(kept), settings, modalities=store.modalities, progress=lambda *_: None
            )
    told = {"privacy": told.get("privacy"), "epochs": told.get("epochs", 0), "seconds": time.perf_counter() - begun}
    (out / "told.json").write_text(json.dumps(told))
    return told


def figures_of(judge: Judge, dataset: Dataset, folder: Path) -> dict[str, float]:
    """The figures of trained towers."""
    judged = judge.judge(tower_scores(folder, dataset, judge.requests))
    return {
        name: judged.get(segment, {}).get(name.removeprefix("cold "), float("nan")) for name, segment in FIGURES.items()
    }


def table(results: dict[str, dict[str, Any]]) -> str:
    """Variants against figures, as Markdown."""
    lines = [f"| | noise | {' | '.join(FIGURES)} |", "|---" * (2 + len(FIGURES)) + "|"]
    for name, result in results.items():
        noise = (result["privacy"] or {}).get("noise_multiplier")
        shown = [result[figure] for figure in FIGURES]
        cells = [f"{value['mean']:.3f} [{value['least']:.3f}, {value['most']:.3f}]" for value in shown]
        lines.append(f"| {name} | {'–' if noise is None else f'{noise:.2f}'} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=Path("runs/demo"), help="run in which `ingest` and `encode` are done")
    parser.add_argument("--config", type=Path, default=Path("configs/private.toml"))
    parser.add_argument("--epsilon", default="8,3,1", help="which to train for, besides no privacy")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--split", choices=tuple(KNOWN), default="valid")
    parser.add_argument("--set", action="append", default=[], help="a setting of all variants, section.key=value")
    parser.add_argument("--out", type=Path, default=None, help="folder that keeps what is trained")
    parser.add_argument("--quick", action="store_true", help="one seed, one epsilon, one epoch: does it run?")
    arguments = parser.parse_args()
    quick = ["retrieval.epochs=1"] if arguments.quick else []
    if arguments.quick:
        arguments.seeds, arguments.epsilon = 1, "3"
    begun = time.perf_counter()
    dataset, store = Dataset.load(arguments.run / "ingest"), FeatureStore.open(arguments.run / "encode")
    length = load_config(arguments.config, arguments.set).retrieval.history_length
    requests = make_requests(dataset, arguments.split, known_splits=KNOWN[arguments.split], history_length=length)
    judge = Judge(requests, dataset.counts)
    variants = {UNTRAINED: [], OPEN: [f"retrieval.{setting}" for setting in ORDINARY]}
    variants |= {f"epsilon {number}": [f"retrieval.privacy.epsilon={float(number)}"] for number in arguments.epsilon.split(",")}
    results: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        for name, overrides in variants.items():
            runs = []
            for seed in range(7, 7 + arguments.seeds):
                folder = (arguments.out or Path(temporary)) / name.replace(" ", "_") / str(seed)
                chosen = [*arguments.set, *overrides, *quick, f"retrieval.seed={seed}"]
                told = train(dataset, store, name, chosen, arguments.config, folder)
                runs.append({**told, **figures_of(judge, dataset, folder)})
            results[name] = {key: runs[0][key] for key in ("privacy", "epochs")}
            results[name]["seconds"] = round(float(np.mean([run["seconds"] for run in runs])), 1)
            for figure in FIGURES:
                values = [run[figure] for run in runs]
                results[name][figure] = {"mean": float(np.mean(values)), "least": min(values), "most": max(values)}
            print(json.dumps({name: results[name]}), flush=True)
    print(table(results))
    report = {
        "benchmark": "privacy",
        "split": arguments.split,
        "seeds": arguments.seeds,
        "settings": arguments.set,
        "users": dataset.schema.user_rows - 1,
        "requests": len(requests.users),
        "variants": results,
        "seconds": round(time.perf_counter() - begun, 1),
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
