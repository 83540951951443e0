"""A ranker that reads more of a history than the user tower is served all that it was trained on."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from pipeline.release.export_stage import serving_tables
from serving.export.ranking import RankingModule
from serving.export.retrieval_parts import RetrievalParts
from serving.index.index import ExactIndex
from tests.pipeline.policy.test_policy import dataset as small_log
from tests.serving.random_world import LENGTH, random_world

USERS, ITEMS, MORE = 12, 40, 4


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return random_world(tmp_path_factory.mktemp("world"), USERS, ITEMS)


def longer(tables):
    """The same tables with more of every history behind what the tower reads."""
    further = np.random.default_rng(5).integers(1, ITEMS + 1, (USERS + 1, MORE)).astype(np.int32)
    further[0] = 0
    return dataclasses.replace(tables, history=np.concatenate([tables.history, further], axis=1), tower_steps=LENGTH)


@pytest.mark.parametrize("recent", [0, 3, LENGTH + MORE])
def test_the_tower_reads_its_own_part_and_the_rest_is_there(world, recent):
    ensemble, tables = world.ensemble, longer(world.tables)
    short, long = (
        RetrievalParts(each, ensemble.user_tower, ExactIndex(ensemble.items), ensemble.linear.history)
        for each in (dataclasses.replace(world.tables, tower_steps=0), tables)
    )
    users = tf.range(1, USERS + 1)
    given = np.random.default_rng(6).integers(1, ITEMS + 1, (USERS, recent)).astype(np.int32)
    queries = [each.queries(users, tf.constant(given), None).numpy() for each in (short, long)]
    np.testing.assert_array_equal(*queries)
    expected = np.pad(given, ((0, 0), (0, LENGTH + MORE - recent))) if recent else tables.history[1:]
    np.testing.assert_array_equal(long.chosen_history(users, tf.constant(given)), expected)
    assert "tower_steps" not in short.graph_basis() and long.graph_basis()["tower_steps"] == LENGTH
    module = RankingModule(tables, world.form)
    assert module.history.shape[1] == LENGTH + MORE


@pytest.mark.parametrize(("tower", "ranker", "kept"), [(2, 3, 3), (4, 3, 4), (5, 0, 5)])
def test_tables_keep_what_either_reads(tower, ranker, kept, tmp_path):
    log = small_log()
    log = dataclasses.replace(log, events=log.events.assign(timestamp=np.arange(len(log.events))))
    tables = serving_tables(log, tmp_path, tower, ranker_history=ranker)
    assert tables.history.shape[1] == kept and tables.tower_steps == tower
    assert tables.history[1].tolist() == [2, 1, 1, 1, 1][:kept] and not tables.history[0].any()
