"""What helps the towers: terms beside the main loss, kinds of fusion, kinds of history, each against the plain towers.

    python benchmarks/side_losses.py --run runs/music --config configs/music.toml
    python benchmarks/side_losses.py --data runs/music-world --config configs/music.toml --groups fusion,history --seeds 1
    python benchmarks/side_losses.py --run runs/music --groups none --variant "ten times the noise:retrieval.feature_noise=3"

Every variant differs from the plain towers in the settings shown and is trained from scratch with the same seeds; all are
judged on the validation split: NDCG@20 over the full catalogue, and recall@100 of items that no training event names.
A difference is the mean over seeds of the differences seed by seed; it counts as one (better, worse) beyond two standard
errors. `distillation` learns from the plain towers of all seeds, whose mean score stands in the table as `ensemble`.
With --out, towers that have been trained are kept and not trained again. The last line is one JSON object.
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
from pipeline.metrics.top_k import dot_product_scores
from pipeline.retrieval.side_losses import load_teachers
from pipeline.retrieval.train_retrieval import train_retrieval
from pipeline.settings.config import load_config
from pipeline.stages.walk import Run

FIGURES = ("ndcg@20", "recall@100", "cold_recall@100")
PLAIN, ENSEMBLE, DISTILLATION = "plain", "ensemble", "distillation"
GROUPS: dict[str, dict[str, tuple[str, ...]]] = {
    "terms": {
        "alignment": ("side.alignment=0.1",),
        "inner_product": ("side.inner_product=0.1",),
        "reconstruction": ("side.reconstruction=0.1",),
        "per_modality": ("side.per_modality=0.1",),
        "category": ("side.category=0.01",),
        "sentiment": ("side.sentiment=0.1",),
        "adversarial": ("side.adversarial=0.5",),
        "l2": ("side.l2=0.001",),
        "feature_noise": ("feature_noise=0.3",),
        "feature_dropout": ("feature_dropout=0.1",),
        DISTILLATION: ("side.distillation=1.0",),
    },
    "fusion": {
        "concat": ("fusion=concat",),
        "weighted": ("fusion=weighted",),
        "attention": ("fusion=attention",),
        "bottleneck": ("fusion=bottleneck",),
        "linear items": ("fusion=weighted", "fusion_weights=[1.0]", "item_hidden=false"),
        "domain adapters": ("domain_adapters=8",),
    },
    "history": {
        "mean": ("history=mean",),
        "transformer": ("history=transformer",),
        "sum": ("history=sum",),
    },
}


def train(
    dataset: Dataset, store: FeatureStore, arguments: argparse.Namespace, out: Path, overrides: list[str]
) -> None:
    """Train one variant into `out`, unless it lies there."""
    if (out / "seconds.json").is_file():
        return
    config = load_config(arguments.config, overrides).retrieval
    begun = time.perf_counter()
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as checkpoints:
        train_retrieval(
            dataset, store, out, Path(checkpoints), config, modalities=store.modalities, progress=lambda *_: None
        )
    (out / "seconds.json").write_text(json.dumps(time.perf_counter() - begun))


def figures(judge: Judge, scores: Any) -> dict[str, float]:
    """The validation figures of a way to score."""
    judged = judge.judge(scores)
    everything, cold = judged["test"], judged.get("cold_items", {})
    cold_recall = cold.get("recall@100", float("nan"))
    return {"ndcg@20": everything["ndcg@20"], "recall@100": everything["recall@100"], "cold_recall@100": cold_recall}


def judge_variant(dataset: Dataset, judge: Judge, folder: Path) -> dict[str, float]:
    """Figures of trained towers, and the median seconds of an epoch after the first, which compiles."""
    log = json.loads((folder / "history.json").read_text())
    epoch = float(np.median([row["seconds"] for row in log[1:] or log]))
    return {**figures(judge, tower_scores(folder, dataset, judge.requests)), "seconds_per_epoch": epoch}


def compare(runs: list[dict[str, float]], plain: list[dict[str, float]]) -> dict[str, Any]:
    """Mean of each figure, and of its difference from the plain towers seed by seed, with the standard error."""
    result: dict[str, Any] = {
        name: round(float(np.mean([run[name] for run in runs])), 5) for name in runs[0]
    }
    for name in FIGURES:
        differences = np.array([run[name] - base[name] for run, base in zip(runs, plain, strict=True)])
        mean, error, verdict = float(differences.mean()), 0.0, "one seed"
        if len(differences) > 1:
            error = float(differences.std(ddof=1) / len(differences) ** 0.5)
            verdict = "better" if mean > 2 * error else "worse" if mean < -2 * error else "no difference seen"
        result[f"difference_{name}"] = {"mean": round(mean, 5), "error": round(error, 5), "verdict": verdict}
    return result


def table(results: dict[str, dict[str, Any]]) -> str:
    """Variants against figures, in text."""
    head = f"{'variant':<18}{'NDCG@20':>9}{'difference':>22}{'cold R@100':>12}{'difference':>22}  NDCG@20, cold"
    lines = [head, "-" * len(head)]
    for name, result in results.items():
        parts = [f"{name:<18}"]
        for figure, width in (("ndcg@20", 9), ("cold_recall@100", 12)):
            change = result[f"difference_{figure}"]
            parts.append(f"{result[figure]:>{width}.4f}{change['mean']:>+13.4f} ± {change['error']:.4f}")
        verdicts = [result[f"difference_{figure}"]["verdict"] for figure in ("ndcg@20", "cold_recall@100")]
        lines.append("".join(parts) + ("" if name == PLAIN else f"  {verdicts[0]}, {verdicts[1]}"))
    return "\n".join(lines)


def chosen_variants(arguments: argparse.Namespace) -> dict[str, list[str]]:
    """Overrides by variant: the groups asked for, and those named on the command line."""
    groups = [name for name in arguments.groups.split(",") if name != "none"]
    variants = {
        name: [f"retrieval.{setting}" for setting in settings]
        for group in groups
        for name, settings in GROUPS[group].items()
    }
    for text in arguments.variant:
        name, _, settings = text.partition(":")
        variants[name] = settings.split(";")
    return variants


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="dataset folder, to be ingested and encoded")
    parser.add_argument("--run", type=Path, help="run folder in which `ingest` and `encode` have been done")
    parser.add_argument("--config", type=Path, default=None, help="TOML file of the run")
    parser.add_argument("--groups", default="terms,fusion,history", help="of variants, or none")
    parser.add_argument("--variant", action="append", default=[], help="name:section.key=value;... of one more")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--set", action="append", default=[], help="a setting of all variants, section.key=value")
    parser.add_argument("--out", type=Path, default=None, help="folder that keeps the trained towers")
    parser.add_argument("--quick", action="store_true", help="one seed and one epoch: does it run?")
    arguments = parser.parse_args()
    if (arguments.data is None) == (arguments.run is None):
        parser.error("exactly one of --data and --run is needed")
    if arguments.quick:
        arguments.seeds, arguments.set = 1, [*arguments.set, "retrieval.epochs=1"]
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory() as temporary:
        out = arguments.out or Path(temporary) / "towers"
        if arguments.run is None:
            run = Run(arguments.data, Path(temporary) / "run", load_config(arguments.config, arguments.set))
            run.ingest()
            run.encode()
            arguments.run = run.folder
        dataset, store = Dataset.load(arguments.run / "ingest"), FeatureStore.open(arguments.run / "encode")
        length = load_config(arguments.config, arguments.set).retrieval.history_length
        requests = make_requests(dataset, "valid", known_splits=("train",), history_length=length)
        judge, seeds = Judge(requests, dataset.counts), range(7, 7 + arguments.seeds)
        runs: dict[str, list[dict[str, float]]] = {}
        for name, overrides in {PLAIN: [], **chosen_variants(arguments)}.items():
            folders = [out / name.replace(" ", "_") / str(seed) for seed in seeds]
            teachers = tuple(str(out / PLAIN / str(seed)) for seed in seeds)
            if name == DISTILLATION:
                overrides = [*overrides, f"retrieval.side.teachers={json.dumps(teachers)}"]
                teacher = load_teachers(dataset, teachers)
                ensemble = figures(judge, dot_product_scores(teacher.users[requests.users], teacher.items))
                runs[ENSEMBLE] = [{**ensemble, "seconds_per_epoch": 0.0} for _ in seeds]
            for seed, folder in zip(seeds, folders, strict=True):
                train(dataset, store, arguments, folder, [*arguments.set, *overrides, f"retrieval.seed={seed}"])
            runs[name] = [judge_variant(dataset, judge, folder) for folder in folders]
            print(json.dumps({name: compare(runs[name], runs[PLAIN])}), flush=True)
        results = {name: compare(runs[name], runs[PLAIN]) for name in runs}
    print(table(results))
    report = {
        "benchmark": "side_losses",
        "seeds": list(seeds),
        "settings": arguments.set,
        "items": len(dataset.items) - 1,
        "cold_items": int((dataset.counts[1:] == 0).sum()),
        "users": len(requests.users),
        "variants": results,
        "seconds": round(time.perf_counter() - begun, 1),
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
