"""Structured pruning of a ranker as it is served: whole hidden units leave, and every matrix around them is smaller."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, NamedTuple

import numpy as np
from keras import ops

from ranking.experts import SharedBottom
from ranking.explain import pair_features
from ranking.serving_form import RankingServingForm
from ranking.tables import typical_rows

USERS = 64
"""Users whose requests tell how large a unit's activations are."""


class Units(NamedTuple):
    """Hidden units that stand or fall each alone.

    Attributes:
        incoming: weights with a unit a column (the last axis).
        outgoing: (weight, first row): weights with a unit a row, from that row on.
        activations: [n, H] of typical candidates.
        scale: [n, E] what each unit's output is multiplied with before it is seen; of width 1 where with nothing.
    """

    incoming: list[Any]
    outgoing: list[tuple[Any, int]]
    activations: np.ndarray
    scale: np.ndarray


def prune_ranker(form: RankingServingForm, share: float, history: np.ndarray) -> RankingServingForm:
    """The same ranker without a share of the units of each hidden layer and of each low-rank cross, those that matter least.

        importance_h = rms(a_h) || rms(s) * w_h ||

    with a_h the unit's activation over typical candidates (`typical_inputs`), w_h all its outgoing weights, and s what its
    output meets: x_0 in a cross, 1 elsewhere. What is left answers as the whole would with those units at 0. Nothing is
    trained again. Low-rank crosses lose ranks, full ones, and other interactions than crosses, stay as they are.

    Paper: Li et al., "Pruning Filters for Efficient ConvNets", ICLR 2017, for units by the norm of their weights; by
    activations as well, Sun et al., "A Simple and Effective Pruning Approach for Large Language Models", ICLR 2024.

    Args:
        form: a ranker whose heads share one bottom. share: of the units, in [0, 1); at least one of each layer stays.
        history: int [U, L] item rows of users, row 0 that of the unknown one.

    Raises:
        ValueError: a share outside [0, 1), or experts of another kind.

    Example:
        prune_ranker(form, 0.25, tables.history).config.hidden    # (72, 36) of (96, 48)
    """
    if not 0.0 <= share < 1.0:
        raise ValueError(f"share must be in [0, 1), received {share}")
    if share == 0.0:
        return form
    if not isinstance(form.network.experts, SharedBottom):
        raise ValueError(
            f"form must have experts 'shared' to lose units, received {form.config.experts!r}; their gates weigh whole "
            "experts. Prune by a share of 0, or train with ranking.experts = 'shared'"
        )
    layers = hidden_units(form, history)
    kept = {name: kept_units(units, share) for name, units in layers.items()}
    hidden = tuple(len(kept[f"hidden_{place}"]) for place in range(len(form.config.hidden)))
    ranks = [len(rows) for name, rows in kept.items() if name.startswith("cross_")]
    config = dataclasses.replace(form.config, hidden=hidden, cross_rank=ranks[0] if ranks else form.config.cross_rank)
    trees = 0 if form.trees is None else form.trees.count
    pruned = RankingServingForm(form.spec, config, form.calibrations, form.score_weights, form.blend, trees)
    slices: dict[int, list[tuple[int, int, int, np.ndarray]]] = {}
    for name, units in layers.items():
        count = units.activations.shape[1]
        for weight in units.incoming:
            slices.setdefault(id(weight), []).append((-1, 0, count, kept[name]))
        for weight, first in units.outgoing:
            slices.setdefault(id(weight), []).append((0, first, count, kept[name]))
    for mine, whole in zip(pruned.weights, form.weights, strict=True):
        value = ops.convert_to_numpy(whole)
        for axis, first, count, rows in slices.get(id(whole), ()):
            gone = first + np.setdiff1d(np.arange(count), rows)
            value = np.delete(value, gone, axis=axis)
        mine.assign(value)
    return pruned


def kept_units(units: Units, share: float) -> np.ndarray:
    """Places of the units that stay, ascending: all but the `floor(share H)` of least importance, and at least one."""
    count = units.activations.shape[1]
    gone = min(math.floor(share * count + 1e-9), count - 1)
    return np.sort(np.argsort(importance(units), kind="stable")[gone:])


def importance(units: Units) -> np.ndarray:
    """rms(a_h) || rms(s) * w_h || of each unit. [H]"""
    size = np.sqrt(np.mean(np.square(units.activations, dtype=np.float64), axis=0))
    scale = np.sqrt(np.mean(np.square(units.scale, dtype=np.float64), axis=0))
    weights = [
        scale * ops.convert_to_numpy(weight)[first : first + len(size)].astype(np.float64)
        for weight, first in units.outgoing
    ]
    return size * np.sqrt(sum(np.square(rows).sum(axis=1) for rows in weights))


def hidden_units(form: RankingServingForm, history: np.ndarray) -> dict[str, Units]:
    """{"cross_0": ..., "hidden_0": ...}: the low-rank crosses' ranks and the bottom's units, in the order of the network."""
    network, inputs = form.network, typical_inputs(form, history)
    x0 = ops.reshape(pair_features(form, inputs), (-1, network.features.width))
    found, crossed, one = {}, x0, np.ones((1, 1))
    for place, cross in enumerate(getattr(network.interaction, "crosses", ())):
        if cross.down is not None:
            inner = ops.convert_to_numpy(ops.matmul(crossed, cross.down))
            found[f"cross_{place}"] = Units([cross.down], [(cross.up, 0)], inner, ops.convert_to_numpy(x0))
        crossed = cross(x0, crossed)
    shape = (len(inputs["user"]), -1, network.features.width)
    onward = network.interaction(ops.reshape(x0, shape))[1]
    x, dense = ops.reshape(onward, (-1, network.interaction.onward_width)), network.experts.bottom.layers
    heads = network.heads
    for place, layer in enumerate(dense):
        x = layer(x)
        outgoing = [(dense[place + 1].kernel, 0)] if place + 1 < len(dense) else [
            (weight, network.interaction.straight_width) for weight in (*heads.kernels.values(), *heads.shifts.values())
        ]  # fmt: skip
        found[f"hidden_{place}"] = Units([layer.kernel, layer.bias], outgoing, ops.convert_to_numpy(x), one)
    return found


def typical_inputs(form: RankingServingForm, history: np.ndarray) -> dict[str, Any]:
    """Requests like those that a release gets: users spread over all of them with their own histories, items spread over
    the catalogue, at the time the ranker ends with; retrieval scores and ranks as they lay in training, which the draws of
    a fixed seed stand for."""
    history = np.asarray(history, np.int32)
    users = np.unique(np.linspace(0, len(history) - 1, USERS).astype(np.int32))
    rows = typical_rows(form.spec.schema.item_rows)
    draws = np.random.default_rng(0).normal(size=(len(users), len(rows))).astype(np.float32)
    ranks = 1.0 + np.argsort(np.argsort(-draws, axis=1), axis=1) * (form.config.retrieved / len(rows))
    return form.request_inputs(
        users,
        history[users],
        np.tile(rows, (len(users), 1)),
        form.spec.score_center + form.spec.score_scale * draws,
        np.full(len(users), form.spec.popularity_start or form.spec.reference_time, np.int64),
        ranks.astype(np.float32),
    )
