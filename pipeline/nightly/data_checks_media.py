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
from pipeline.nightly.wanted import Wanted
from pipeline.settings.data_checks import ChecksSection
from pipeline.stage import read_manifest

UNLIKELY = 0.01
"""p-value of the binomial test below which missing content is reported."""


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
