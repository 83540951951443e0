"""Every test user's values of every metric, kept beside the figures, so that two runs can be compared in pairs."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from numpy.typing import NDArray

from data.dataset import Dataset
from pipeline.evaluation.order_quality import ndcg_by_cutoff
from pipeline.metrics.examples import Requests
from pipeline.metrics.interactions import Interactions
from pipeline.metrics.metrics import recall_at_k

VALUES, JUDGED_ON = "users.parquet", "users.json"
RECALL_CUTOFFS = (20, 100)


@dataclasses.dataclass(frozen=True)
class UserValues:
    """Values of one run.

    Attributes:
        table: one line a test user, indexed by `user_id`, one column a metric; NaN where it is not defined.
        judged_on: fingerprints of what decides the question: `users`, `items`, `events`, `splits`, and
            settings by name.
    """

    table: pd.DataFrame
    judged_on: dict[str, Any]


def write_user_values(
    out: Path,
    dataset: Dataset,
    requests: Requests,
    orders: Mapping[str, NDArray],
    targets: Mapping[str, Interactions],
    others: Mapping[str, NDArray],
    asked_how: Mapping[str, Any],
) -> None:
    """Writes `users.parquet` and `users.json` into `out`.

    Columns are named `<order>_<metric>`, with the task where it is not the click: NDCG of every order by task, and for
    the items that nobody chose in training; recall of every order.

    Args:
        orders: name -> item rows [Q, T], best first. targets: task -> what the Q users wanted.
        others: further columns [Q]; they come first.
        asked_how: settings that decide the questions, and so have to be those of a run that is compared.
    """
    columns: dict[str, NDArray] = dict(others)
    wanted = {task: relevant for task, relevant in targets.items() if task != "click"}
    wanted = {"": targets["click"], **wanted, "new_items": targets["click"].restrict(dataset.counts == 0)}
    for name, rows in orders.items():
        for task, relevant in wanted.items():
            prefix = f"{name}_{task}_" if task else f"{name}_"
            columns |= {prefix + metric: values for metric, values in ndcg_by_cutoff(rows, relevant).items()}
        for k in RECALL_CUTOFFS:
            if k <= rows.shape[1]:
                columns[f"{name}_recall@{k}"] = recall_at_k(rows, targets["click"], k)
    table = pd.DataFrame(columns)
    table.insert(0, "user_id", dataset.users["user_id"].to_numpy()[requests.users])
    table.to_parquet(out / VALUES, index=False)
    (out / JUDGED_ON).write_text(json.dumps({**fingerprints(dataset), **asked_how}, indent=2))


def read_user_values(folder: Path) -> UserValues:
    """What `write_user_values` left in a folder.

    Raises:
        FileNotFoundError: nothing was left there; says which command does.
    """
    if not ((folder / VALUES).is_file() and (folder / JUDGED_ON).is_file()):
        raise FileNotFoundError(
            f"{folder}: must hold {VALUES} and {JUDGED_ON}; run `python -m pipeline evaluate` on that run first"
        )
    table = pd.read_parquet(folder / VALUES).set_index("user_id")
    return UserValues(table, json.loads((folder / JUDGED_ON).read_text()))


def fingerprints(dataset: Dataset) -> dict[str, str]:
    """What two runs must share to have been asked the same questions; short SHA-256 of each part."""
    events = dataset.events
    parts = {
        "users": "\n".join(dataset.users["user_id"]).encode(),
        "items": "\n".join(dataset.items["item_id"]).encode(),
        "events": b"".join(events[name].to_numpy().tobytes() for name in ("user", "item", "timestamp", "event", "positive")),
        "splits": events["split"].to_numpy().tobytes(),
    }
    return {name: hashlib.sha256(content).hexdigest()[:16] for name, content in parts.items()}
