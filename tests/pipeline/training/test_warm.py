"""What warm starts learn from, night after night."""

from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest

from data.histories import Histories
from data.schema import Schema
from pipeline.settings.job import JobSection
from pipeline.stage import StageError
from pipeline.training.warm import WarmTowers, content_guess, copy_variables
from tests.towers.test_content_map import Table
from towers.config import TowerConfig
from towers.domain_adapters import DomainAdapters
from towers.two_tower import TwoTower

FIRST, A_DAY, NIGHTS = 3000, 40, 28


def test_four_weeks_of_nights_come_back_to_every_event_whatever_its_age():
    section, learned = JobSection(), np.zeros(FIRST + NIGHTS * A_DAY, int)
    again = np.zeros(NIGHTS)  # an older event's chance to be learned from once more, by night
    for night in range(NIGHTS):
        known = FIRST + night * A_DAY
        times = np.arange(known + A_DAY)
        histories = Histories.from_events(np.ones_like(times), times, times, user_rows=2)
        learned[WarmTowers(Path(), known - 1, section).positions(histories)] += 1
        again[night] = section.replay * A_DAY / known
    assert (learned[:FIRST] == 0).mean() < 0.01
    # What was there before is drawn in every night, what came in one is learned from once and drawn in those after it.
    days = learned[FIRST:].reshape(NIGHTS, A_DAY)
    groups = [(learned[:FIRST], 0, again), *((days[day], 1, again[day + 1 :]) for day in range(7))]
    for times, once, chances in groups:
        spread = np.sqrt((chances * (1 - chances)).sum() / len(times))
        assert times.min() >= once and abs(times.mean() - once - chances.sum()) < 4 * spread


def test_several_days_of_new_events_are_learned_with_as_many_older_ones_as_a_day_is():
    day = 86_400
    times = np.arange(40 * day, step=day // 24)
    histories = Histories.from_events(np.ones_like(times), np.ones_like(times), times, user_rows=2)
    section = JobSection(replay=9.0)
    for days in (1, 5):
        positions = WarmTowers(Path(), int(times[-1]) - days * day, section).positions(histories)
        assert len(positions) == 24 * days + 9 * 24 and np.isin(np.arange(len(times) - 24 * days, len(times)), positions).all()


def test_a_busy_day_is_learned_with_as_many_older_events_as_a_usual_one_and_a_part_of_one_with_fewer():
    day = 86_400
    usual, busy = np.arange(40 * day, step=day // 24), np.arange(40 * day, 41 * day, step=day // 96)
    for new, learned in ((busy, 96 + 9 * 24), (busy[:10], 10 + 9 * 10)):
        times = np.r_[usual, new]
        histories = Histories.from_events(np.ones_like(times), np.ones_like(times), times, user_rows=2)
        assert len(WarmTowers(Path(), 40 * day - 1, JobSection(replay=9.0)).positions(histories)) == learned


def test_days_without_events_are_no_reason_to_replay_less():
    """A week of silence between the last training and a day of new events."""
    day = 86_400
    times = np.r_[np.arange(40 * day, step=day // 24), np.arange(47 * day, 48 * day, step=day // 24)]
    histories = Histories.from_events(np.ones_like(times), np.ones_like(times), times, user_rows=2)
    positions = WarmTowers(Path(), 40 * day - day // 24, JobSection(replay=9.0)).positions(histories)
    assert len(positions) == 24 + 9 * 24


def test_a_guess_by_content_reads_the_known_rows_and_those_asked_for():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(500, 3)).astype(np.float16)
    vectors = (values.astype(np.float64) @ rng.normal(size=(3, 2))).astype(np.float32)
    table = Table(values)
    store = SimpleNamespace(present_of=lambda names: np.ones((500, 1), bool), table={"text": table}.get, frames={})
    wanted = np.array([7, 450, 8])
    guess = content_guess(vectors, np.arange(100, 400), wanted, store, ("text",))
    assert table.read == 300 + 3
    np.testing.assert_allclose(guess, vectors[wanted], atol=0.05)


def test_a_new_domain_begins_without_an_adapter_and_the_others_keep_theirs():
    vectors = np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)

    def adapters(domains, seed):
        layer = DomainAdapters(domains, 2, seed=seed, name="adapters")
        layer(vectors, np.zeros(4, np.int32))
        return layer

    old, new = adapters(3, 1), adapters(4, 2)
    old.up.assign(np.random.default_rng(1).normal(size=old.up.shape))
    copy_variables(old.variables, new.variables)
    domain = np.array([0, 1, 2, 3], np.int32)
    told = keras.ops.convert_to_numpy(new(vectors, domain))
    np.testing.assert_allclose(told[:3], keras.ops.convert_to_numpy(old(vectors[:3], domain[:3])), rtol=1e-6)
    np.testing.assert_array_equal(told[3], vectors[3])
    with pytest.raises(StageError, match=r"adapters/down was \(6, 4, 2\) in the last release and is \(6, 3, 2\)"):
        copy_variables(new.variables, adapters(3, 3).variables)


def test_weights_stay_with_their_column_whatever_the_order_of_columns():
    def towers(seed, *columns):
        return TwoTower(Schema(4, 5, dict.fromkeys(columns, 3)), TowerConfig(width=4, history_length=2, seed=seed))

    old, new = towers(1, "age", "sex", "town"), towers(2, "town", "age", "sex")
    copy_variables(old.variables, new.variables)
    for name, embedding in zip(("town", "age", "sex"), new.user_tower.profile_embeddings, strict=True):
        before = old.user_tower.profile_embeddings[("age", "sex", "town").index(name)]
        np.testing.assert_array_equal(embedding.get_weights(), before.get_weights())
    for one, other in ((old.item_tower, new.item_tower), (old.user_tower, new.user_tower)):
        np.testing.assert_array_equal(one.id_embedding.get_weights(), other.id_embedding.get_weights())
    with pytest.raises(StageError, match=r"differing: \['profile_sex/embeddings', 'profile_size/embeddings'\]"):
        copy_variables(old.variables, towers(2, "age", "size", "town").variables)
