"""The robustness stage: what deceptive content and fake users do to what a run serves, before and after the defences."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from data.dataset import Dataset
from data.features import FeatureStore
from pipeline.content.store_encoders import store_encoders
from pipeline.metrics.examples import Requests, make_requests
from pipeline.ranker.warm import LEARNED
from pipeline.retrieval.linear_stage import closed_form_content, content_of
from pipeline.retrieval.served import Served, load_served
from pipeline.robustness.content_attack import AttackedItems, attack_content
from pipeline.robustness.content_defences import adversarially_trained, denoised
from pipeline.robustness.full_path import FullPath
from pipeline.robustness.media_attack import attack_media, cost_of_encoders
from pipeline.robustness.nightly_update import ServedModels, updated_ranker
from pipeline.robustness.ranker_attack import RankedItems, attack_ranker
from pipeline.robustness.shilling_attack import ShillingJudge, attack_by_shilling
from pipeline.robustness.shilling_update import attack_by_update
from pipeline.robustness.target_exposure import TargetExposure
from pipeline.settings.config import Config
from pipeline.training.epochs import Progress
from towers.attack import Norm
from towers.noised_encoder import NoisedEncoder

FILE = "robustness.json"
SCORES_AT_MOST = 20_000_000
"""Users × items that are judged: a few such tables of floats stand in memory at once."""
SOUND_SHARE = 1 / 1000
"""What of a clip's peak goes with one step of 255 of a pixel."""


def measure_robustness(
    dataset: Dataset,
    store: FeatureStore,
    source: Path,
    run: Path,
    out: Path,
    scratch: Path,
    config: Config,
    progress: Progress,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Write `robustness.json` into `out` and return it.

    Content: targets are new items, which content alone places, and the less popular half of the known ones; everything
    that the attacker could want to know is known to them (white box). Shilling: what is fitted again says so itself.

    Args:
        source: the dataset folder, for media. run: with the stages up to `train-linear`. scratch: for trainings.
    """
    section, served = config.robustness, load_served(run)
    requests = some_requests(dataset, config, served.history_length)
    rows = choose_targets(dataset, store, served, section.targets, section.seed)
    found: dict[str, Any] = {"k": section.k, "users": len(requests.users), "content": {}, "targets": {}}
    found["targets"] = {name: len(part) for name, part in rows.items()}
    defences: dict[str, Served] = {"none": served, "denoised_content": denoised(served, dataset, store, section.content_rank)}
    if section.adversarial:
        progress("adversarial training", 0, 4)
        trained, told = adversarially_trained(
            served, dataset, store, scratch / "adversarial", config.retrieval, section.adversarial, progress
        )
        defences["adversarial_training"], found["adversarial_training"] = trained, told
    for name, part in defences.items():
        progress(f"content: {name}", 1, 4)
        found["content"][name] = content_lines(dataset, store, part, requests, rows, config, thorough=name == "none")
        say(f"content, {name}: done")
    ranked = (run / "ranking" / LEARNED).is_file()
    if ranked and section.ranked_users:
        found["ranker"] = {
            "users": min(section.ranked_users, len(requests.users)),
            "lines": ranker_lines(dataset, store, run, scratch, defences, requests, rows, config, progress, say),
        }
    if section.pictures and len(rows.get("new", ())):
        progress("files", 2, 4)
        found |= media_lines(dataset, store, source, run, served, requests, rows["new"], config, say)
    progress("shilling", 3, 4)
    targets = shilling_targets(dataset, config)
    found["shilling"] = shilling_figures(dataset, store, run, targets, config, say)
    if ranked and section.updates and dataset.schema.has_timestamps:
        found["shilling"]["updated"] = attack_by_update(
            dataset, store, run, scratch, config, requests, targets[: section.updates], progress
        )
        say("shilling, updated models: done")
    (out / FILE).write_text(json.dumps(found, indent=2))
    return found


def some_requests(dataset: Dataset, config: Config, history_length: int) -> Requests:
    """Test users, as many as their scores may fill memory, by a seeded draw."""
    known = config.evaluation.mask_splits
    requests = make_requests(dataset, "test", known_splits=known, history_length=history_length)
    most = max(SCORES_AT_MOST // dataset.schema.item_rows, 2)
    if len(requests.users) > most:
        rng = np.random.default_rng(config.robustness.seed)
        requests = requests.take(np.sort(rng.choice(len(requests.users), most, replace=False)))
    return requests


def choose_targets(
    dataset: Dataset, store: FeatureStore, served: Served, most: int, seed: int
) -> dict[str, np.ndarray]:
    """Items with content by kind: `new` never chosen in training, `known` of the less popular half of the others."""
    names = served.two_tower.schema.modalities
    if not names:
        return {}
    content = store.present_of(names).min(axis=1, initial=True)
    content = content & (np.arange(len(content)) > 0)
    counts, rng = dataset.counts, np.random.default_rng(seed)
    half = np.median(counts[counts > 0])
    kinds = {"new": content & (counts == 0), "known": content & (counts > 0) & (counts <= half)}
    found = {name: np.flatnonzero(mask) for name, mask in kinds.items()}
    return {
        name: np.sort(rng.choice(rows, min(most, len(rows)), replace=False)) for name, rows in found.items() if len(rows)
    }


def content_lines(
    dataset: Dataset, store: FeatureStore, served: Served, requests: Requests, rows: dict[str, np.ndarray],
    config: Config, *, thorough: bool,
) -> dict[str, list[dict[str, Any]]]:  # fmt: skip
    """Attacks on the vectors of every kind of target; `thorough` adds each modality alone and the other norm."""
    section, queries = config.robustness, served.queries(dataset.profile, requests.users, requests.history)
    lines: dict[str, list[dict[str, Any]]] = {}
    for kind, targets in rows.items():
        judge = TargetExposure(queries @ served.items.T, requests.seen, requests.relevant, section.k)
        items = AttackedItems.of(dataset, store, served, targets)
        every = tuple(items.features)
        common: dict[str, Any] = {"steps": section.steps, "seed": section.seed}
        lines[kind] = attack_content(items, judge, queries, epsilons=section.epsilons, contents=every, **common)
        if thorough:
            rest: list[tuple[Norm, tuple[str, ...]]] = [("l2", (name,)) for name in every if len(every) > 1]
            for norm, contents in [*rest, ("linf", every)]:
                lines[kind] += attack_content(
                    items, judge, queries, epsilons=section.epsilons[-2:], contents=contents, norm=norm,
                    methods=("pgd",), **common,
                )[1:]  # fmt: skip
    return lines


def media_lines(
    dataset: Dataset, store: FeatureStore, source: Path, run: Path, served: Served, requests: Requests,
    rows: np.ndarray, config: Config, say: Callable[[str], None],
) -> dict[str, dict[str, Any]]:  # fmt: skip
    """Attacks on the picture and sound files of a few new items, and what pooling over noisy views costs all new ones.

    Returns: `media` by modality, a line saying why where that cannot be, and `media_cost`.
    """
    section, lines, cost = config.robustness, dict[str, Any](), dict[str, Any]()
    queries = served.queries(dataset.profile, requests.users, requests.history)
    judge = TargetExposure(queries @ served.items.T, requests.seen, requests.relevant, section.k)
    items = AttackedItems.of(dataset, store, served, rows[: section.pictures])
    sizes = {"image": section.picture_epsilons, "audio": tuple(SOUND_SHARE * size for size in section.picture_epsilons)}
    noise = {"image": section.picture_noise, "audio": section.sound_noise}
    for modality in [name for name in ("image", "audio") if name in items.features]:
        try:
            encoder = store_encoders(store, config.encoders, run, (modality,)).get(modality)
            if encoder is None or not hasattr(encoder, "model"):
                raise ValueError(f"{modality}: its vectors come from no single differentiable model")
            defended = None
            if noise[modality]:
                defended = NoisedEncoder(encoder, noise[modality], section.views, f"{section.seed}".encode())
            lines[modality] = attack_media(
                items, dataset, source, encoder, judge, queries, sizes[modality], defended=defended, steps=section.steps,
                seed=section.seed,
            )  # fmt: skip
            if defended is not None:
                present = store.present_of(modality)
                new = AttackedItems.of(dataset, store, served, np.flatnonzero(present & (dataset.counts == 0)))
                readers = {"none": encoder, "noised": defended}
                cost[modality] = cost_of_encoders(new, dataset, source, readers, judge, queries)
        except (ValueError, FileNotFoundError, KeyError) as error:
            lines[modality] = {"skipped": str(error)}
        say(f"files, {modality}: {'skipped' if isinstance(lines[modality], dict) else 'done'}")
    return {"media": lines, "media_cost": cost}


def ranker_lines(
    dataset: Dataset, store: FeatureStore, run: Path, scratch: Path, defences: dict[str, Served], requests: Requests,
    rows: dict[str, np.ndarray], config: Config, progress: Progress, say: Callable[[str], None],
) -> dict[str, dict[str, list[dict[str, Any]]]]:  # fmt: skip
    """Attacks on the final lists, by defence and kind of target.

    Other towers need a ranker that has gone on with them; `updated` is the run's own gone on as far, for comparison.
    """
    section, before = config.robustness, ServedModels.of(run)
    most = min(section.ranked_users, len(requests.users))
    asked = requests.take(np.sort(np.random.default_rng(section.seed).choice(len(requests.users), most, replace=False)))
    released, lines = dataset.items["created_at"].to_numpy(np.int64), dict[str, dict[str, list[dict[str, Any]]]]()
    cases = dict(defences)
    if "adversarial_training" in cases:
        cases["updated"] = cases["none"]
    for name, served in cases.items():
        progress(f"ranker: {name}", 1, 4)
        models = dataclasses.replace(before, served=served)
        if name in ("updated", "adversarial_training"):
            models = updated_ranker(dataset, store, served, before, scratch / f"ranker-{name}", config, progress)
        path, lines[name] = FullPath(models, dataset.profile, asked, released, config.ranking.retrieved, section.k), {}
        for kind, targets in rows.items():
            shown = targets[path.open[:, targets].any(axis=0)]
            if len(shown):
                items = RankedItems(AttackedItems.of(dataset, store, models.served, shown), path, section.seed)
                lines[name][kind] = attack_ranker(
                    items, epsilons=section.epsilons[-2:], steps=section.steps, seed=section.seed
                )
        say(f"ranker, {name}: done")
    return lines


def shilling_targets(dataset: Dataset, config: Config) -> np.ndarray:
    """Known items of the less popular half, by a seeded draw. [T] rows"""
    section, counts = config.robustness, dataset.counts
    half = np.flatnonzero((counts > 0) & (counts <= np.median(counts[counts > 0])))
    rng = np.random.default_rng(section.seed)
    return rng.choice(half, min(section.shilling_targets, len(half)), replace=False)


def shilling_figures(
    dataset: Dataset, store: FeatureStore, run: Path, targets: np.ndarray, config: Config, say: Callable[[str], None]
) -> dict[str, Any]:
    """The closed form, fitted again on every attack."""
    section = config.robustness
    found: dict[str, Any] = {"users": section.users, "fillers": section.fillers, "days": section.days, "targets": len(targets)}
    linear = json.loads((run / "linear" / "full" / "manifest.json").read_text())["counts"]
    if "closed_form" in linear.get("parts", {}):
        chosen = linear["parts"]["closed_form"]
        features = closed_form_content(dataset, content_of(store, tuple(store.modalities)), chosen)
        judge = ShillingJudge(dataset, features, chosen, config.evaluation.mask_splits, section.k)
        found["closed_form"] = attack_by_shilling(judge, targets, section)
        say("shilling, closed form: done")
    return found
