"""Is it worth letting a language model write about items? The same run with and without what it wrote, side by side.

    python benchmarks/enrich.py --data runs/world --config configs/demo.toml --preset gemma3_instruct_1b
    python benchmarks/enrich.py --data runs/world --config configs/demo.toml --tiny --quick

The language model writes once, into `<out>/with`; two run folders then differ in `enrich.use` and in nothing else:
items, events, encoders, seeds. Both train the towers and are judged on the validation split, three ways: over all
held-out items, over those with weak text (the ones the model wrote about), and over the weak ones that no training event
names, where text has to carry the item. The last line is one JSON object.

`--tiny` takes a tiny random language model, which writes gibberish: it proves that the parts are wired, and its figures
mean nothing, which the JSON says too (`means_something`).
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

from data.enrichment import read_generated
from pipeline.evaluation.evaluate import Judge, tower_scores
from pipeline.metrics.examples import make_requests
from pipeline.metrics.metrics import summarise_ranking
from pipeline.retrieval.train_retrieval import train_retrieval
from pipeline.settings.config import load_config
from pipeline.stages.walk import Run

FIGURES = ("ndcg@20", "recall@100", "weak_recall@20", "weak_recall@100", "weak_cold_recall@20", "weak_cold_recall@100")
TINY = ('enrich.fields=["caption"]', "enrich.prompts.caption=Write.", "enrich.prompt_tokens=900")
"""A letter is a token to the tiny model: its question has to be short."""


def content_run(arguments: argparse.Namespace, folder: Path, *, use: bool) -> Run:
    """Ingest, enrich and encode one of the two runs; answers and vectors are shared by both."""
    overrides = ["enrich.enabled=true", f"enrich.preset={arguments.preset}", f"enrich.use={json.dumps(use)}"]
    overrides += TINY if arguments.tiny else ()
    overrides += ["enrich.max_new_tokens=8"] if arguments.quick else []
    run = Run(arguments.data, folder, load_config(arguments.config, overrides + arguments.set))
    run.ingest()
    run.enrich()
    run.encode()
    return run


def judge(run: Run, weak: np.ndarray, out: Path, epochs: int | None, seed: int) -> dict[str, float]:
    """Train the towers of one run with one seed, and judge them on the validation split.

    Args:
        weak: bool [N + 1], the items that the language model wrote about.
    """
    retrieval = run.config.retrieval.model_copy(update={"seed": seed, **({"epochs": epochs} if epochs else {})})
    dataset, store = run.texts(), run.store()
    out.mkdir(parents=True)
    train_retrieval(
        dataset, store, out, out.with_name(f"{out.name}-checkpoints"), retrieval, modalities=store.modalities,
        progress=lambda *_: None,
    )  # fmt: skip
    requests = make_requests(dataset, "valid", known_splits=("train",), history_length=retrieval.history_length)
    ranked = Judge(requests, dataset.counts).rank(tower_scores(out, dataset, requests))
    figures = {}
    for name, kept in (("", None), ("weak_", weak), ("weak_cold_", weak & (dataset.counts == 0))):
        relevant = requests.relevant if kept is None else requests.relevant.restrict(kept)
        found = summarise_ranking(ranked, relevant, dataset.counts) if relevant.counts.any() else {}
        figures |= {f"{name}{key}": found.get(key, float("nan")) for key in ("ndcg@20", "recall@20", "recall@100")}
        figures[f"{name}users"] = int((relevant.counts > 0).sum())
    return figures


def summarise(results: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    """Mean and sample standard deviation over the seeds of each variant, and of the difference, seed by seed."""

    def spread(values: list[float]) -> dict[str, float | None]:
        if not np.isfinite(values).all():
            return {"mean": None, "std": None}  # nobody chose such an item
        deviation = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
        return {"mean": round(float(np.mean(values)), 5), "std": round(deviation, 5)}

    summary = {
        name: {figure: spread([one[figure] for one in runs]) for figure in FIGURES} for name, runs in results.items()
    }
    pairs = list(zip(results["with"], results["without"], strict=True))
    summary["difference"] = {figure: spread([a[figure] - b[figure] for a, b in pairs]) for figure in FIGURES}
    return summary


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="dataset folder")
    parser.add_argument("--config", type=Path, default=None, help="TOML file of the run")
    parser.add_argument("--preset", default="gemma3_instruct_1b", help="language model: a keras-hub preset or a folder")
    parser.add_argument("--tiny", action="store_true", help="a tiny random language model: proves the wiring only")
    parser.add_argument("--out", type=Path, default=None, help="folder of both runs; a temporary one by default")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=None, help="of the towers; the config's by default")
    parser.add_argument("--set", action="append", default=[], help="any other setting, section.key=value")
    parser.add_argument("--quick", action="store_true", help="one seed, one epoch, eight tokens: does it run?")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.seeds = arguments.epochs = 1
    with tempfile.TemporaryDirectory(prefix="enrich-") as temporary:
        out = arguments.out or Path(temporary)
        if arguments.tiny:
            from tests.towers.tiny_presets import gpt2

            arguments.preset = str(out / "gpt2")
            gpt2(arguments.preset)
        print(json.dumps(measure(arguments, out)))


def measure(arguments: argparse.Namespace, out: Path) -> dict[str, Any]:
    """Both runs, every seed."""
    begun = time.perf_counter()
    runs = {name: content_run(arguments, out / name, use=use) for name, use in (("with", True), ("without", False))}
    generated = read_generated(runs["with"].folder / "enrich")
    if generated != read_generated(runs["without"].folder / "enrich"):
        raise RuntimeError("enrich: both runs must hold the same answers; delete the run folders and start again")
    ids = runs["with"].dataset().items["item_id"].astype("str")
    weak = ids.isin(list(generated)).to_numpy()
    results: dict[str, list[dict[str, float]]] = {name: [] for name in runs}
    for seed in range(7, 7 + arguments.seeds):
        for name, run in runs.items():
            folder = Path(tempfile.mkdtemp(prefix=f"seed-{seed}-", dir=run.folder)) / "towers"
            results[name].append(judge(run, weak, folder, arguments.epochs, seed))
            print(json.dumps({"seed": seed, "run": name, **results[name][-1]}), flush=True)
    return {
        "benchmark": "enrich",
        "preset": "tiny random gpt2" if arguments.tiny else arguments.preset,
        "means_something": not (arguments.tiny or arguments.quick),
        "items": len(ids) - 1,
        "items_enriched": int(weak.sum()),
        "seeds": arguments.seeds,
        **summarise(results),
        "users": {key: value for key, value in results["with"][0].items() if key.endswith("users")},
        "seconds": round(time.perf_counter() - begun, 1),
    }


if __name__ == "__main__":
    main()
