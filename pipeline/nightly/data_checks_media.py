"""Checks of the content: which new items lack it, which old ones have lost it, and whether vectors look as they did."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import scipy.special

from data.dataset import gone_rows
from data.features import FeatureStore
from data.schema import MODALITIES
from pipeline.nightly.check import Check, bounded, skipped
from pipeline.nightly.drift import mean_discrepancy, sampled
from pipeline.nightly.new_data import NewData
from pipeline.nightly.wanted import FULL, Wanted
from pipeline.settings.data_checks import ChecksSection
from pipeline.stage import read_manifest

UNLIKELY = 0.01
"""p-value of the binomial test below which missing content is reported."""
READY = "ready-made"
"""What stands in the place of an encoder where vectors came with the dataset."""
SAME = 0.01
"""Length of the difference, relative to that of the vectors, up to which two are the same: ten times what fp16 rounds off."""


def media_checks(
    data: NewData, section: ChecksSection, store: FeatureStore, parent: Path, wanted: Wanted | None = None
) -> list[Check]:
    """Every check of content, modality by modality. `parent`: run folder of the last release."""
    before = FeatureStore.open(parent / ("encode_tuned" if read_manifest(parent / "encode_tuned") else "encode"))
    wanted = wanted or Wanted()
    checks, gone = [], sorted(set(before.modalities) - set(store.modalities))
    if gone:
        told = [(name, wanted.modality_setting(name), "") for name in gone]
        checks.append(wanted.loss("modalities", told, "those of the last release, or --full"))
    new = [name for name in store.modalities if name not in before.modalities]
    checks += wanted.gain("new modalities", [(name, f"encoders.{name}") for name in new])
    old = np.arange(1, data.previous.schema.item_rows)
    old = np.setdiff1d(old, gone_rows(data.dataset.items))  # whose media may go with them
    for name in store.modalities:
        column = MODALITIES.index(name)
        there = np.asarray(store.present)[:, column].astype(bool)
        if name in before.modalities:
            had = np.asarray(before.present)[old, column].astype(bool)
            lost = int((had & ~there[old]).sum())
            share = lost / max(int(had.sum()), 1)
            found = f"{lost} of {int(had.sum())} items that had it"
            checks.append(bounded(f"lost {name}", share, section.lost_media, found))
            checks.append(missing_check(name, 1 - had.mean(), ~there[data.new_items], section))
            checks.append(encoder_check(name, before, store, old[had & there[old]], section, full=wanted.full))
        checks.append(vectors_check(name, store, old[there[old]], data.new_items[there[data.new_items]], section))
    return checks


def missing_check(name: str, usual: float, missing: np.ndarray, section: ChecksSection) -> Check:
    """Share of the new items without a modality above the usual share, where it is no chance (binomial tail).

    Args:
        usual: share of the items before. missing: bool [new items].

    Example:
        >>> missing_check("image", 0.1, np.array([True] * 5 + [False] * 5), ChecksSection()).verdict
        'stop'
        >>> missing_check("image", 0.1, np.array([True, False]), ChecksSection()).verdict
        'go'
    """
    if not len(missing):
        return skipped(f"missing {name}", "no new items")
    count, share = int(missing.sum()), float(missing.mean())
    # That chance alone brings as many: of a binomial, the probability of `count` or more.
    chance = float(scipy.special.bdtrc(count - 1, len(missing), max(usual, 1e-3)))
    excess = share - usual if chance < UNLIKELY else 0.0
    found = f"{count} of {len(missing)} new items, {usual:.1%} of the items before"
    return bounded(f"missing {name}", max(excess, 0.0), section.missing_media, found)


def encoder_check(
    name: str, before: FeatureStore, store: FeatureStore, shared: np.ndarray, section: ChecksSection, *, full: bool
) -> Check:
    """Whether vectors still come from the encoder that the models have learned to read; another one of the same width would
    fit, and mean nothing to them. A job in full learns to read any.

    Of ready-made vectors nobody says where they come from: those of the items that have them in both are compared.

    Args:
        before: the last release's. shared: rows of the items that have the modality in both. full: the job trains from nothing.
    """
    check, allowed = f"encoder of {name}", "that of the last release, or --full"
    told = [part.info.get("modalities", {}).get(name, {}) for part in (before, store)]
    then, now = (f"{one.get('encoder', 'unknown')} {one.get('fingerprint', '')}".strip() for one in told)
    found = f"{then} as before" if then == now else f"was {then} and is {now}"
    if before.widths[name] != store.widths[name]:
        found = f"{found}, of width {before.widths[name]} and {store.widths[name]}"
    elif READY in (then, now):
        share = changed_share(before.table(name), store.table(name), sampled(shared, section.sample, section.seed))
        found = f"{found}; {share:.1%} of the vectors of known items are others"
        compared = bounded(check, share, section.changed_vectors, found)
        if compared.verdict != "stop":
            return compared
        allowed = f"{compared.allowed}, or --full"
    elif then == now or not all("encoder" in one for one in told):
        return Check(check, "go", found, allowed)
    if full:
        return Check(check, "warn", f"{found}; all is trained on the new vectors", allowed)
    return Check(check, "stop", f"{found}; bring that one back, or train on the new vectors by {FULL}", allowed)


def changed_share(before: np.ndarray, now: np.ndarray, rows: np.ndarray) -> float:
    """Share of some rows whose vectors are others. Shapes: before [N + 1, F], now [N' + 1, F], rows [R].

    Example:
        >>> table = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 2.0]])
        >>> changed_share(table, table[:, ::-1], np.array([1, 2])), changed_share(table, table + 1e-4, np.array([1, 2]))
        (1.0, 0.0)
    """
    if not len(rows):
        return 0.0
    one, other = (np.asarray(table[rows], np.float32) for table in (before, now))
    length = np.maximum(np.linalg.norm(one, axis=1), np.linalg.norm(other, axis=1))
    return float((np.linalg.norm(one - other, axis=1) > SAME * length).mean())


def vectors_check(
    name: str, store: FeatureStore, old: np.ndarray, new: np.ndarray, section: ChecksSection
) -> Check:
    """Maximum mean discrepancy between the vectors of new and of old items, by seeded samples of each."""
    if len(new) < section.fewest or len(old) < section.fewest:
        few = min(len(new), len(old))
        return skipped(f"drift of {name} vectors", f"{few} vectors on one side, {section.fewest} are needed")
    table = store.pooled(name)
    parts = [np.asarray(table[sampled(rows, section.sample, section.seed)], np.float64) for rows in (old, new)]
    squared, deviation = mean_discrepancy(*parts)
    beyond = math.sqrt(max(squared - section.significance * deviation, 0.0))
    found = f"MMD {math.sqrt(max(squared, 0.0)):.3f}, {math.sqrt(section.significance * deviation):.3f} by chance"
    return bounded(f"drift of {name} vectors", beyond, section.mmd, found)
