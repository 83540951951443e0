"""The linear stage: fit every part, weigh them on validation, join them into one table of the width that is served."""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from data.dataset import Dataset
from data.durable_file import write_durably
from data.features import FeatureStore
from data.history_batches import FEWEST_ITEMS
from data.item_traits import item_traits
from pipeline.metrics.examples import interactions
from pipeline.metrics.interactions import Interactions
from pipeline.retrieval.baselines import to_sparse
from pipeline.retrieval.linear_closed_form import COLUMNS, fit_closed_form, refit_closed_form
from pipeline.retrieval.linear_judge import LinearJudge
from pipeline.retrieval.linear_parts import Features, choose_weights, fit_spectral, refit_spectral
from pipeline.retrieval.new_items import judge_new_items
from pipeline.retrieval.train_history import train_history
from pipeline.settings.linear import LinearSection
from pipeline.training.epochs import Progress
from pipeline.training.record import training_record, write_records
from towers.linear import FILE, LinearTower, compress, join, score_scale

INFO, REFIT = "info.json", "refit"
TRAINED = "trained"
"""Folder of the trained parts' weights, from which a later run may go on."""
LEARNED = ("elsa", "softmax")
"""Parts that learn from what stands together in a history."""
SCALED_ON = 5000
"""Users whose scores tell how large a part's scores are."""


def content_of(store: FeatureStore, modalities: tuple[str, ...]) -> Features:
    """{modality: (table [N + 1, F_m], present [N + 1])}, a video's frames averaged."""
    content = {}
    for name in modalities:
        table = np.asarray(store.table(name), np.float32)
        if name in store.frames:
            table = table.reshape(len(table), store.frames[name], -1).mean(axis=1)
        content[name] = (table, store.present_of(name))
    return content


def closed_form_content(dataset: Dataset, features: Features, chosen: Mapping[str, Any] | None = None) -> Features:
    """What the closed form reads: the modalities, and where there is one the columns of the catalogue.

    Args:
        features: the modalities, see `content_of`.
        chosen: what `fit_closed_form` chose; where it is no column none is made. None = all of them, to choose from.
    """
    read = features and (chosen is None or chosen.get(COLUMNS))
    return {**features, **(item_traits(dataset) if read else {})}


def fit_linear(
    dataset: Dataset,
    store: FeatureStore,
    out: Path,
    checkpoints: Path,
    section: LinearSection,
    *,
    modalities: tuple[str, ...],
    progress: Progress,
    refit_splits: tuple[str, ...] = ("train",),
) -> dict[str, Any]:
    """Write `linear.npz` into `out`; a catalogue that is too large, or no part, leaves it out and says why. So are the parts
    left out that learn, where nobody has chosen two different items.

    Args:
        checkpoints: finished parts are kept there, so that an interrupted stage does not fit them again.
        modalities: content that the parts may see.
        refit_splits: with more than the training split, the parts chosen are fitted again on all of these and the result
            is written to `refit/linear.npz`; `linear.npz` is what the validation split judged.

    Returns: for the manifest: every part's settings and validation figure, the weights, and the figure of the whole.
    """
    items = dataset.schema.item_rows - 1
    if not section.parts or items > section.max_items:
        reason = f"{items} items, linear.max_items is {section.max_items}" if section.parts else "linear.parts is empty"
        return {"fitted": False, "reason": reason}
    left_out = parts_left_out(dataset, section.parts)
    able = [part for part in section.parts if part not in left_out]
    if not able:
        return {"fitted": False, "reason": next(iter(left_out.values()))}
    judge = LinearJudge(dataset, section.validation_users, section.seed, burst_bound=section.burst_bound)
    features = content_of(store, modalities)

    def fit(part: str) -> tuple[LinearTower, dict[str, Any]]:
        if part == "closed_form":
            content = closed_form_content(dataset, features)
            return fit_closed_form(judge, content, section, judge_new_items(judge, dataset, store, modalities))
        if part == "spectral":
            return fit_spectral(judge, features, section)
        return train_history(
            dataset, store, judge, checkpoints / f"{part}-epochs", section,
            loss=part, modalities=modalities, progress=progress, keep=checkpoints / f"{part}-{TRAINED}",
        )  # fmt: skip

    towers: dict[str, LinearTower] = {}
    parts: dict[str, dict[str, Any]] = {}
    for number, part in enumerate(able):
        progress(part, number, len(able))
        towers[part], parts[part] = kept(checkpoints / part, functools.partial(fit, part))
    scales = scales_of(towers, judge.train)
    weights, figure = choose_weights(
        judge, {part: judge.scores(tower) / scales[part] for part, tower in towers.items()}
    )
    used = {part: weight for part, weight in weights.items() if weight}
    tower = joined(towers, used, judge.train, section.width)
    tower.save(out)
    keep_trained(checkpoints, out, used)
    write_records(out, [record_of(dataset, judge.train, ("train",))])
    if set(refit_splits) - {"train"}:
        known = to_sparse(interactions(dataset, refit_splits), dataset.schema.item_rows)

        def fit_again(part: str) -> tuple[LinearTower, dict[str, Any]]:
            if part == "closed_form":
                return refit_closed_form(known, closed_form_content(dataset, features, parts[part]), parts[part]), {}
            if part == "spectral":
                return refit_spectral(known, features, parts[part], section.seed), {}
            return train_history(
                dataset, store, judge, checkpoints / f"{part}-epochs-again", section,
                loss=part, modalities=modalities, progress=progress,
                splits=refit_splits, epochs=parts[part]["best_epoch"] + 1,
            )  # fmt: skip

        again = {part: kept(checkpoints / f"{part}-again", functools.partial(fit_again, part))[0] for part in used}
        (out / REFIT).mkdir()
        joined(again, used, known, section.width).save(out / REFIT)
        write_records(out / REFIT, [record_of(dataset, known, refit_splits)])
    info = {
        "fitted": True,
        "parts": parts,
        **({"left_out": left_out} if left_out else {}),
        "weights": weights,
        "valid_ndcg@20_joined": figure,
        "valid_ndcg@20": judge.ndcg(judge.scores(tower)),
        "width": tower.width,
        "validation_users": len(judge.requests.users),
        "refitted_on": list(refit_splits),
    }
    (out / INFO).write_text(json.dumps(info, indent=2))
    return info


def parts_left_out(dataset: Dataset, parts: Iterable[str]) -> dict[str, str]:
    """The parts that have nothing to learn from, with the reason: whole histories teach by items that stand together."""
    most = int(interactions(dataset, ("train",)).counts.max(initial=0))
    reason = f"no user has {FEWEST_ITEMS} different training items, {most} at most"
    return {part: reason for part in parts if part in LEARNED and most < FEWEST_ITEMS}


def keep_trained(checkpoints: Path, out: Path, parts: Iterable[str]) -> None:
    """Put the weights of the parts that were trained beside their sum."""
    for part in parts:
        if (weights := checkpoints / f"{part}-{TRAINED}").is_dir():
            shutil.copytree(weights, out / TRAINED / part)


def record_of(dataset: Dataset, taken: Any, splits: tuple[str, ...]) -> dict[str, Any]:
    """The training record of the pairs of a sparse matrix [user rows, N + 1]."""
    users, items = taken.nonzero()
    return training_record(dataset, Interactions.from_pairs(users, items, dataset.schema.user_rows), splits)


def scales_of(towers: Mapping[str, LinearTower], taken: Any) -> dict[str, float]:
    """How large each tower's scores are, by some of the users."""
    some = taken[np.flatnonzero(np.diff(taken.indptr))[:SCALED_ON]]
    return {part: score_scale(tower, some) for part, tower in towers.items()}


def joined(towers: Mapping[str, LinearTower], weights: Mapping[str, float], taken: Any, width: int) -> LinearTower:
    """One tower of `width` for the weighted sum of towers whose scores are made equally large first."""
    chosen = {part: towers[part] for part in weights}
    scales = scales_of(chosen, taken)
    whole = join(list(chosen.values()), [weight / scales[part] for part, weight in weights.items()])
    return compress(whole, taken, width)


def kept(folder: Path, fit: Callable[[], tuple[LinearTower, dict[str, Any]]]) -> tuple[LinearTower, dict[str, Any]]:
    """A part that an interrupted stage had finished, or a newly fitted one, kept for next time."""
    if not (folder / INFO).is_file():
        tower, info = fit()
        folder.mkdir(parents=True, exist_ok=True)
        tower.save(folder)
        write_durably(folder / INFO, [json.dumps(info).encode()])
    assert (folder / FILE).is_file()
    return LinearTower.load(folder), json.loads((folder / INFO).read_text())
