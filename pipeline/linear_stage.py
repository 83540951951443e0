"""The linear stage: fit every part, weigh them on validation, join them into one table of the width that is served."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from data.dataset import Dataset
from data.durable_file import write_durably
from data.features import FeatureStore
from data.schema import MODALITIES
from pipeline.epochs import Progress
from pipeline.linear_config import LinearSection
from pipeline.linear_judge import LinearJudge
from pipeline.linear_parts import Features, choose_weights, fit_closed_form, fit_spectral
from pipeline.train_history import train_history
from towers.linear import FILE, LinearTower, compress, join, score_scale

INFO = "info.json"
SCALED_ON = 5000
"""Users whose scores tell how large a part's scores are."""


def content_of(store: FeatureStore, modalities: tuple[str, ...]) -> Features:
    """{modality: (table [N + 1, F_m], present [N + 1])}, a video's frames averaged."""
    content = {}
    for name in modalities:
        table = np.asarray(store.table(name), np.float32)
        if name in store.frames:
            table = table.reshape(len(table), store.frames[name], -1).mean(axis=1)
        content[name] = (table, np.asarray(store.present)[:, MODALITIES.index(name)])
    return content


def fit_linear(
    dataset: Dataset,
    store: FeatureStore,
    out: Path,
    checkpoints: Path,
    section: LinearSection,
    *,
    modalities: tuple[str, ...],
    progress: Progress,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Write `linear.npz` into `out`; a catalogue that is too large, or no part, leaves it out and says why.

    Args:
        checkpoints: finished parts are kept there, so that an interrupted stage does not fit them again.
        modalities: content that the parts may see.

    Returns: for the manifest: every part's settings and validation figure, the weights, and the figure of the whole.
    """
    items = dataset.schema.item_rows - 1
    if not section.parts or items > section.max_items:
        reason = f"{items} items, linear.max_items is {section.max_items}" if section.parts else "linear.parts is empty"
        return {"fitted": False, "reason": reason}
    judge = LinearJudge(dataset, section.validation_users, section.seed)
    features = content_of(store, modalities)

    def fit(part: str) -> tuple[LinearTower, dict[str, Any]]:
        if part == "closed_form":
            return fit_closed_form(judge, features, section, say)
        if part == "spectral":
            return fit_spectral(judge, features, section, say)
        folder = checkpoints / f"{part}-tower"
        folder.mkdir(parents=True, exist_ok=True)
        return train_history(
            dataset, store, judge, folder, checkpoints / f"{part}-epochs", section,
            loss=part, modalities=modalities, progress=progress,
        )  # fmt: skip

    towers, parts = {}, {}
    for number, part in enumerate(section.parts):
        progress(part, number, len(section.parts))
        towers[part], parts[part] = kept(checkpoints / part, lambda part=part: fit(part))
        say(f"{part}: {parts[part]}")
    some = judge.train[np.flatnonzero(np.diff(judge.train.indptr))[:SCALED_ON]]
    scales = {part: score_scale(tower, some) for part, tower in towers.items()}
    weights, figure = choose_weights(
        judge, {part: judge.scores(tower) / scales[part] for part, tower in towers.items()}
    )
    used = [part for part, weight in weights.items() if weight]
    joined = join([towers[part] for part in used], [weights[part] / scales[part] for part in used])
    tower = compress(joined, judge.train, section.width)
    tower.save(out)
    info = {
        "fitted": True,
        "parts": parts,
        "weights": weights,
        "valid_ndcg@20_joined": figure,
        "valid_ndcg@20": judge.ndcg(judge.scores(tower)),
        "width": tower.width,
        "validation_users": len(judge.requests.users),
    }
    (out / INFO).write_text(json.dumps(info, indent=2))
    return info


def kept(folder: Path, fit: Callable[[], tuple[LinearTower, dict[str, Any]]]) -> tuple[LinearTower, dict[str, Any]]:
    """A part that an interrupted stage had finished, or a newly fitted one, kept for next time."""
    if not (folder / INFO).is_file():
        tower, info = fit()
        folder.mkdir(parents=True, exist_ok=True)
        tower.save(folder)
        write_durably(folder / INFO, [json.dumps(info).encode()])
    assert (folder / FILE).is_file()
    return LinearTower.load(folder), json.loads((folder / INFO).read_text())
