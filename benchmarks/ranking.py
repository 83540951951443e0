"""What helps the ranker: kinds of interactions, experts and losses, each against the ranker as configured, over seeds.

    python benchmarks/ranking.py --run runs/demo --config configs/demo.toml
    python benchmarks/ranking.py --run runs/demo --groups none --variant "half the heads:ranking.head_weights={skip=0,like=0}"
    python benchmarks/ranking.py --run runs/demo --groups none --seeds 3 --test

Every variant differs in the settings shown and is trained from scratch with the same seeds on the run's own index. It is
judged where its score is chosen, on the last days of the validation split: NDCG@10 visit by visit, beside the retrieval
order of the same visits. A difference is the mean over seeds of the differences seed by seed, and counts as one (better,
worse) beyond two standard errors. With --test, the figures are those of the test split, with boosted trees on the same
features beside them: for a last look, not for choosing. The last line is one JSON object.
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
from pipeline.ranker.lists import RankingFold, retrieve_fold
from pipeline.ranker.rank_requests import answer_fold
from pipeline.ranker.request_quality import judged_requests, request_values, summarise_requests
from pipeline.ranker.retrieval_side import RetrievalSide
from pipeline.settings.config import Config, load_config
from pipeline.stages.ranking import ranking_config, train_ranking_stage
from ranking.serving_form import RankingServingForm

PLAIN = "plain"
GROUPS: dict[str, dict[str, tuple[str, ...]]] = {
    "interaction": {"dlrm": ("interaction=dlrm",), "finalmlp": ("interaction=finalmlp",)},
    "experts": {"mmoe": ("experts=mmoe",), "ple": ("experts=ple",)},
    "loss": {
        "no list loss": ("list_loss=none",),
        "lambdarank": ("list_loss=lambdarank",),
        "uncertainty": ("task_weighting=uncertainty",),
        "click alone": ("head_weights={like=0,purchase=0,skip=0,value=0}",),
    },
    "features": {"no popularity": ("popularity_half_lives=[]",), "no behaviour": ("item_embeddings=false",)},
}


def judge_variant(
    dataset: Dataset, store: FeatureStore, run: Path, config: Config, test: RankingFold | None
) -> dict[str, float]:
    """Train one variant, and its NDCG@10 with that of the retrieval order (and of the trees, on the test split)."""
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory() as temporary:
        out, checkpoints = Path(temporary) / "ranking", Path(temporary) / "checkpoints"
        out.mkdir(), checkpoints.mkdir()
        report = train_ranking_stage(dataset, store, run, out, checkpoints, config, lambda what, done, total: None)
        seconds = time.perf_counter() - begun
        if test is None:
            found = report["valid_ndcg@10"]
            return {"ndcg@10": found["score"], "retrieval": found["retrieval_order"], "seconds": seconds}
        form = RankingServingForm.load(out / "serving_form")
        values = request_values(test, answer_fold(form, test)["score"], form, out)
    means = summarise_requests(values, test.requests.user, config.ranking.seed)
    named = {"ndcg@10": "ranked", "retrieval": "retrieval", "lightgbm": "lightgbm"}
    return {name: means[of][0] for name, of in named.items() if of in means} | {"seconds": seconds}


def test_fold(dataset: Dataset, run: Path, config: Config) -> RankingFold:
    """The visits of the test split with what the index answers."""
    side, splits = RetrievalSide(dataset, run, config.index.kind), config.evaluation.mask_splits
    settings, length = ranking_config(config), side.history_length
    fold = retrieve_fold(dataset, "test", side.query, side.search, settings, known_splits=splits, query_history=length)
    return judged_requests(fold)


def compare(runs: list[dict[str, float]], plain: list[dict[str, float]]) -> dict[str, Any]:
    """Means over seeds, and the paired difference of NDCG@10 with its standard error."""
    result: dict[str, Any] = {name: round(float(np.mean([run[name] for run in runs])), 5) for name in runs[0]}
    differences = np.array([run["ndcg@10"] - base["ndcg@10"] for run, base in zip(runs, plain, strict=True)])
    mean, error, verdict = float(differences.mean()), 0.0, "one seed"
    if len(differences) > 1:
        result["std"] = round(float(np.std([run["ndcg@10"] for run in runs], ddof=1)), 5)
        error = float(differences.std(ddof=1) / len(differences) ** 0.5)
        verdict = "better" if mean > 2 * error else "worse" if mean < -2 * error else "no difference seen"
    return {**result, "difference": {"mean": round(mean, 5), "error": round(error, 5), "verdict": verdict}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="run folder with everything up to the index")
    parser.add_argument("--config", type=Path, default=None, help="TOML file of the run")
    parser.add_argument("--groups", default=",".join(GROUPS), help="of variants, or none")
    parser.add_argument("--variant", action="append", default=[], help="name:section.key=value;... of one more")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--set", action="append", default=[], help="a setting of all variants, section.key=value")
    parser.add_argument("--test", action="store_true", help="judge on the test split: for a last look")
    parser.add_argument("--quick", action="store_true", help="one seed and one epoch: does it run?")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.seeds, arguments.set = 1, [*arguments.set, "ranking.epochs=1"]
    groups = [name for name in arguments.groups.split(",") if name != "none"]
    variants = {PLAIN: []} | {
        name: [f"ranking.{setting}" for setting in settings]
        for group in groups
        for name, settings in GROUPS[group].items()
    }
    variants |= {text.partition(":")[0]: text.partition(":")[2].split(";") for text in arguments.variant}
    begun, seeds = time.perf_counter(), range(7, 7 + arguments.seeds)
    dataset, store = Dataset.load(arguments.run / "ingest"), FeatureStore.open(arguments.run / "encode")
    whole = load_config(arguments.config, arguments.set)
    test = test_fold(dataset, arguments.run, whole) if arguments.test else None
    runs: dict[str, list[dict[str, float]]] = {}
    for name, overrides in variants.items():
        runs[name] = []
        for seed in seeds:
            config = load_config(arguments.config, [*arguments.set, *overrides, f"ranking.seed={seed}"])
            runs[name].append(judge_variant(dataset, store, arguments.run, config, test))
        print(json.dumps({name: compare(runs[name], runs[PLAIN])}), flush=True)
    report = {
        "benchmark": "ranking",
        "split": "test" if arguments.test else "valid",
        "seeds": list(seeds),
        "settings": arguments.set,
        "variants": {name: compare(found, runs[PLAIN]) for name, found in runs.items()},
        "seconds": round(time.perf_counter() - begun, 1),
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
