"""Every model on one dataset: same split, same evaluator, same number of trials on validation; the test split once.

    python benchmarks/quality.py --data tiktok-data --mask train --trials 20 --seeds 3
    python benchmarks/quality.py --data tiktok-data --mask train --models popularity,ease,content_knn --cold
    python benchmarks/quality.py --data tiktok-data --mask train --run triptych=runs/a,runs/b --run ids=runs/a:ids_only

`--data` is a dataset folder (`python -m pipeline convert` makes one of a published set). A model is tuned by `--trials`
trials, its default first and the others drawn from its declared space (`pipeline/peers/peers.py`), each fitted on the train
split and judged on the validation split by `--metric`. The chosen setting is fitted again with every seed and answers the
test split once. Intervals (95 %) are over users, of the mean over seeds; the spread over seeds stands beside them.
`--run NAME=FOLDER[:VARIANT],...` adds what finished runs serve, one run a seed, with the settings they were made with;
not with `--cold`, since their towers have seen every item: there the towers enter as `two_tower`, trained anew.

`--cold` withholds a tenth of the items from training and ranks only those: what new items get. There popularity has no
counts to go by, and the true ones lie in the test split; `content_popularity` takes the mean count of the most similar
items instead, and `random` shows what no knowledge reaches. The last line is one JSON object.
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

from data.dataset import Dataset
from data.features import FeatureStore
from data.schema import MODALITIES
from pipeline.metrics.metrics import mean_over_users
from pipeline.peers.contest import METRICS, Entry, cold_contest, compare, compete, enter_runs, summarise, warm_contest
from pipeline.peers.peers import CLASSIC, COLD, Peer
from pipeline.peers.towers import TOWERS
from pipeline.settings.config import load_config
from pipeline.stages.walk import Run

PEERS: dict[str, Peer] = {peer.name: peer for peer in (*CLASSIC, *TOWERS, *COLD)}
BLIND = ("popularity", "item_knn", "ease", "ials", "bpr", "ids_two_tower", "sasrec", "tfrs_two_tower")
"""Models that know an item by its events alone: they cannot order items without events."""


def open_data(arguments: argparse.Namespace, work: Path) -> tuple[Dataset, FeatureStore]:
    """The dataset as `python -m pipeline` ingests it, with its content vectors; of a finished run where one is given."""
    if arguments.data is None:
        folder = parse_run(arguments.run[0])[1][0][0]
        return Dataset.load(folder / "ingest"), FeatureStore.open(folder / "encode")
    overrides = list(arguments.set)
    if not arguments.encode:
        ready = {path.stem for path in (arguments.data / "features").glob("*.npy")}
        overrides = [f"encoders.{name}=none" for name in MODALITIES if name not in ready] + overrides
    run = Run(arguments.data, work, load_config(arguments.config, overrides), say=lambda line: print(line, file=sys.stderr))
    run.ingest()
    run.encode()
    return run.dataset(), run.store()


def parse_run(text: str) -> tuple[str, list[tuple[Path, str]]]:
    """`name=folder[:variant],...` as (name, [(folder, variant)])."""
    name, equals, folders = text.partition("=")
    if not equals or not folders:
        raise SystemExit(f"--run: must be NAME=FOLDER[:VARIANT],..., received {text!r}")
    pairs = [folder.partition(":") for folder in folders.split(",")]
    return name, [(Path(folder), variant or "full") for folder, _, variant in pairs]


def chosen_peers(arguments: argparse.Namespace, content: bool) -> list[Peer]:
    """The peers asked for, or all that the dataset and the kind of contest allow."""
    if arguments.models:
        unknown = set(names := arguments.models.split(",")) - set(PEERS)
        if unknown:
            raise SystemExit(f"--models: must be among {', '.join(PEERS)}, received {', '.join(sorted(unknown))}")
        return [PEERS[name] for name in names]
    cold = {peer.name for peer in COLD}
    wanted = [peer for peer in PEERS.values() if (peer.name not in BLIND if arguments.cold else peer.name not in cold)]
    return [peer for peer in wanted if content or not peer.needs_content]


def table(results: dict[str, dict[str, Any]]) -> str:
    """The figures as a Markdown table: mean, interval over users, spread over seeds."""
    lines = ["| model | " + " | ".join(METRICS) + " | valid | trials | fit |", "|---|" + "---|" * (len(METRICS) + 3)]
    for name, result in results.items():
        cells = []
        for metric in METRICS:
            cell = result[metric]
            spread = "" if cell["std_over_seeds"] is None else f" ±{cell['std_over_seeds']:.4f}"
            cells.append(f"{cell['mean']:.4f} [{cell['low']:.4f}, {cell['high']:.4f}]{spread}")
        fit = "own" if result["seconds_fit"] is None else f"{result['seconds_fit']:.1f} s"
        cells += [f"{result['valid']:.4f}", str(result["trials"] or "own"), fit]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=None, help="dataset folder; without one, that of the first --run")
    parser.add_argument("--models", default="", help=f"comma-separated, among {', '.join(PEERS)}; all by default")
    parser.add_argument("--run", action="append", default=[], help="NAME=FOLDER[:VARIANT],... finished runs, one a seed")
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--metric", default="ndcg@20", choices=METRICS, help="what settings are chosen by")
    parser.add_argument("--mask", default="train,valid", help="splits known and masked at test, such as train")
    parser.add_argument("--against", default="", help="model that the others are compared with; the best by default")
    parser.add_argument("--cold", action="store_true", help="items withheld from training, ranked among themselves")
    parser.add_argument("--encode", action="store_true", help="encode media and texts too, not only ready-made vectors")
    parser.add_argument("--config", type=Path, default=None, help="TOML file of the run, for ingest and encode")
    parser.add_argument("--set", action="append", default=[], help="any setting, section.key=value")
    parser.add_argument("--work", type=Path, default=None, help="folder where ingest and encode keep their results")
    parser.add_argument("--json", type=Path, default=None, help="also write the JSON object here")
    parser.add_argument("--markdown", type=Path, default=None, help="also write the table here")
    arguments = parser.parse_args()
    if arguments.data is None and not arguments.run:
        parser.error("--data or --run is needed")
    if arguments.cold and arguments.run:
        parser.error("--run: not with --cold, finished runs have seen the withheld items; `two_tower` is trained anew")
    begun, known = time.perf_counter(), tuple(arguments.mask.split(","))
    seeds = tuple(range(7, 7 + arguments.seeds))
    with tempfile.TemporaryDirectory() as folder:
        dataset, store = open_data(arguments, arguments.work or Path(folder) / "run")
        make = cold_contest if arguments.cold else warm_contest
        contest = make(dataset, store, known, seeds[0])
        requests = contest.testing[1].requests
        print(f"{dataset.schema.user_rows - 1} users, {dataset.schema.item_rows - 1} items, {store.modalities} content")
        print(f"test: {len(requests.users)} users, {len(requests.relevant.rows)} targets, {known} masked", flush=True)
        entries: list[Entry] = []
        for peer in chosen_peers(arguments, bool(store.modalities)):
            entries.append(
                compete(
                    peer,
                    contest,
                    trials=arguments.trials,
                    seeds=seeds,
                    metric=arguments.metric,
                    say=lambda line: print(line, file=sys.stderr, flush=True),
                )
            )
            figures = {name: round(float(mean_over_users(entries[-1].values(name))), 4) for name in METRICS}
            print(f"{peer.name}: {figures}", flush=True)
        for text in arguments.run:
            name, runs = parse_run(text)
            entries.append(enter_runs(name, runs, dataset, known, arguments.metric, seeds[0]))
    results = {entry.name: summarise(entry, seeds[0]) for entry in entries}
    best = arguments.against or max(results, key=lambda name: results[name][arguments.metric]["mean"])
    rendered = table(results)
    print("\n" + rendered + "\n")
    report = {
        "benchmark": "quality",
        "data": arguments.data.name if arguments.data else None,
        "cold": arguments.cold,
        "mask": known,
        "trials": arguments.trials,
        "metric": arguments.metric,
        "models": results,
        "against": best,
        "differences": compare(entries, best, arguments.metric, seeds[0]),
        "seconds": round(time.perf_counter() - begun, 1),
    }
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")
    if arguments.markdown:
        arguments.markdown.write_text(rendered + "\n")
    print(json.dumps(report))


if __name__ == "__main__":
    main()
