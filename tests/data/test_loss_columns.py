"""Columns of a batch: the items compared with, their numbers, and which of them a user chose too."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.batches import RetrievalBatches
from data.histories import Histories
from data.loss_columns import LossColumns, rounded_up

SETTINGS = {"batch_size": 32, "history_length": 3, "ordered": True, "seed": 4}


def make_histories(seed=1, users=20, items=30, events=150):
    rng = np.random.default_rng(seed)
    chosen = rng.integers(1, users, events), rng.integers(1, items, events)
    return Histories.from_events(*chosen, rng.integers(0, 50, events), user_rows=users)


def batches_of(histories, item_rows, static=False, kind_weights=None, **columns):
    columns = LossColumns(item_rows=item_rows, **columns)
    return RetrievalBatches(
        histories, item_rows=item_rows, columns=columns, static=static, kind_weights=kind_weights, **SETTINGS
    )


@pytest.mark.parametrize("static", [True, False])
@pytest.mark.parametrize("item_rows", [30, 5000])
def test_columns_count_the_real_events_and_every_event_finds_its_own(item_rows, static):
    histories = make_histories()
    for batch in batches_of(histories, item_rows, static).epoch(0):
        real, items = batch["weight"] > 0, batch["items"]
        rows, targets = items[batch["columns"]], items[batch["target"]]
        np.testing.assert_array_equal(rows[batch["own"]], targets)
        counted = {row: copies for row, copies in zip(rows.tolist(), batch["copies"].tolist(), strict=True) if copies}
        assert counted == {row: (targets[real] == row).sum() for row in np.unique(targets[real])}
        assert (np.diff(items) >= 0).all() and items[0] == 0 and len(items) <= len(batch["items"])


def test_static_and_trimmed_batches_mean_the_same():
    histories = make_histories()
    for one, other in zip(
        batches_of(histories, 5000, True).epoch(3), batches_of(histories, 5000, False).epoch(3), strict=True
    ):
        assert len(other["items"]) < len(one["items"])
        for name in ("target", "history"):
            np.testing.assert_array_equal(one["items"][one[name]], other["items"][other[name]])


def test_uniform_negatives_are_uniform_repeatable_and_beside_or_instead_of_the_batch():
    histories = make_histories()
    for kind in ("mixed", "sampled"):
        batches = batches_of(histories, 30, negatives=kind, uniform=290)
        drawn = np.zeros(30)
        for batch, again in zip(batches.epoch(0), batches.epoch(0), strict=True):
            np.testing.assert_array_equal(batch["copies"], again["copies"])
            real = batch["weight"] > 0
            expected = 290 + (real.sum() if kind == "mixed" else 0)
            assert batch["copies"].sum() == expected
            np.add.at(drawn, batch["items"][batch["columns"]], batch["copies"])
            if kind == "mixed":
                np.subtract.at(drawn, batch["items"][batch["target"]][real], 1)
        assert drawn[0] == 0 and drawn[1:].min() > 25 and drawn[1:].max() < 85  # 50 each are expected
        first, second = (next(iter(batches.epoch(number)))["copies"] for number in (0, 1))
        assert not np.array_equal(first, second)


def test_the_whole_catalogue_is_every_item_once():
    batch = next(batches_of(make_histories(), 30, negatives="catalogue").epoch(0))
    assert sorted(batch["items"][batch["columns"]][batch["copies"] > 0]) == list(range(1, 30))
    np.testing.assert_array_equal(batch["items"][batch["columns"]][batch["own"]], batch["items"][batch["target"]])


@pytest.mark.parametrize("kind", ["batch", "catalogue"])
def test_others_are_the_users_other_positives_among_the_columns(kind):
    histories = make_histories()
    for batch in batches_of(histories, 40, negatives=kind, others=True).epoch(0):
        rows = batch["items"][batch["columns"]]
        compared = set(rows[batch["copies"] > 0].tolist())
        for number in np.flatnonzero(batch["weight"] > 0):
            user, own = batch["user"][number], batch["own"][number]
            positives = set(histories.items[histories.offsets[user] : histories.offsets[user + 1]].tolist())
            received = [column for column in batch["others"][number] if column != own]
            assert len(set(received)) == len(received)
            assert {int(rows[column]) for column in received} == (positives & compared) - {int(rows[own])}
        assert (batch["others"].shape[1] & (batch["others"].shape[1] - 1)) == 0


@pytest.mark.parametrize("ordered", [True, False])
def test_event_weights_follow_the_kinds_of_events(ordered):
    """Item 5 is always bought, all others are viewed: weight and item must come from the same event."""
    rng = np.random.default_rng(0)
    items = rng.integers(1, 9, 90)
    kinds = np.where(items == 5, 2, 1)
    histories = Histories.from_events(rng.integers(1, 6, 90), items, np.arange(90), user_rows=6, kinds=kinds)
    settings = {**SETTINGS, "ordered": ordered}
    weights = np.array([9.0, 1.0, 4.0])
    for batch in RetrievalBatches(histories, item_rows=9, kind_weights=weights, **settings).epoch(0):
        real = batch["weight"] > 0
        chosen = batch["items"][batch["target"]][real]
        assert batch["weight"][real].tolist() == np.where(chosen == 5, 4.0, 1.0).tolist()
    with pytest.raises(ValueError, match="kind_weights"):
        RetrievalBatches(make_histories(), item_rows=30, kind_weights=weights, **settings)


@given(st.integers(1, 10**7), st.integers(1, 10**7))
def test_rounding_wastes_at_most_an_eighth(number, most):
    rounded = rounded_up(min(number, most), most)
    assert min(number, most) <= rounded <= min(most, min(number, most) * 1.125 + 1)


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="negatives"):
        LossColumns(item_rows=5, negatives="all")


def test_events_of_a_kind_without_weight_are_not_drawn():
    rng = np.random.default_rng(3)
    events = [rng.integers(1, 20, 90), rng.integers(1, 9, 90), np.arange(90)]
    histories = Histories.from_events(*events, user_rows=20, kinds=rng.integers(1, 4, 90))
    met = np.zeros(9)
    batches = batches_of(histories, 9, kind_weights=np.array([1.0, 1.0, 0.0, 0.5]))
    for batch in batches.epoch(0):
        np.add.at(met, batch["items"][batch["columns"]], batch["copies"])
    np.testing.assert_array_equal(batches.drawn, met)
    assert 0 < met.sum() < 90
    assert batches_of(histories, 9, kind_weights=np.array([1.0, 1.0, 0.1, 0.5])).drawn is None
    assert batches_of(histories, 9).drawn is None
