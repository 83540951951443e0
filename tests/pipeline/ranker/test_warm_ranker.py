"""A ranker that goes on from an earlier one: what is kept of rows, of domains and of days."""

import dataclasses

import numpy as np
import pytest

from pipeline.ranker.warm import WarmRanker, save_learned
from pipeline.stage import StageError
from tests.ranking.worlds import SMALL, planted_world

WORLD = planted_world(requests=20)
BEHAVIOUR = WORLD.tables["behaviour"]


def ranker_of(domains, *, shift=0.0):
    """A ranker of items of so many domains, every trained weight `shift` further than it starts."""
    schema = dataclasses.replace(WORLD.spec.schema, attributes={"domain": domains})
    side = dataclasses.replace(WORLD.side, attributes=WORLD.side.attributes % 3)
    ranker = dataclasses.replace(WORLD, spec=dataclasses.replace(WORLD.spec, schema=schema), side=side).ranker(SMALL)
    for weight in ranker.trainable_variables if shift else []:
        weight.assign(np.asarray(weight) + shift)
    return ranker


def filled(ranker, folder):
    WarmRanker(folder, BEHAVIOUR, BEHAVIOUR).fill(ranker)
    return ranker


def test_a_new_domain_begins_as_all_others_and_the_old_ones_go_on(tmp_path):
    before = ranker_of(3, shift=0.25)
    save_learned(before, tmp_path)
    after = filled(ranker_of(5), tmp_path)
    for name in ("shifts", "offsets"):
        for head, table in getattr(after.network.heads, name).items():
            table, was = np.asarray(table), np.asarray(getattr(before.network.heads, name)[head])
            np.testing.assert_array_equal(table[..., :3], was)
            assert was[..., 1] == pytest.approx(0.25) and not table[..., 3:].any()
    words = np.asarray(after.network.features.embeddings["attribute_domain"])
    np.testing.assert_array_equal(words[:3], np.asarray(before.network.features.embeddings["attribute_domain"]))
    with pytest.raises(StageError, match=r"in the last release and is .*--full"):
        filled(ranker_of(2), tmp_path)
