"""A ranker that goes on from an earlier one: what is kept of rows, of domains and of days."""

import dataclasses
import json

import numpy as np
import pytest

from data.schema import VALID
from pipeline.ranker.visits import HELD_OUT, Visits
from pipeline.ranker.warm import WarmRanker, learned_until, save_learned, with_labels_of
from pipeline.stage import StageError
from ranking.serving_form import DESCRIPTION, RankingServingForm
from tests.pipeline.ranker.test_train_ranking import CONFIG, EMBEDDINGS, log_of, store, trained  # noqa: F401
from tests.ranking.test_lists import made
from tests.ranking.worlds import SMALL, planted_world

WORLD = planted_world(requests=20)
BEHAVIOUR = WORLD.tables["behaviour"]


def ranker_of(domains, *, shift=0.0, heads=WORLD.spec.heads, **settings):
    """A ranker of items of so many domains, every trained weight `shift` further than it starts."""
    schema = dataclasses.replace(WORLD.spec.schema, attributes={"domain": domains})
    side = dataclasses.replace(WORLD.side, attributes=WORLD.side.attributes % 3)
    spec = dataclasses.replace(WORLD.spec, schema=schema, heads=heads)
    ranker = dataclasses.replace(WORLD, spec=spec, side=side).ranker(dataclasses.replace(SMALL, **settings))
    for weight in ranker.trainable_variables if shift else []:
        weight.assign(np.asarray(weight) + shift)
    return ranker


def keep(ranker, folder):
    """What a ranking stage leaves of a ranker, for a night to go on from."""
    (folder / "serving_form").mkdir()
    description = {"config": json.loads(ranker.config.to_json()), "calibrations": {}}
    (folder / "serving_form" / DESCRIPTION).write_text(json.dumps(description))
    save_learned(ranker, folder)


def filled(ranker, folder):
    WarmRanker(folder, BEHAVIOUR, BEHAVIOUR).fill(ranker)
    return ranker


def test_a_new_domain_begins_as_all_others_and_the_old_ones_go_on(tmp_path):
    before = ranker_of(3, shift=0.25)
    keep(before, tmp_path)
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


@pytest.mark.parametrize(
    "settings",
    [{"experts": "mmoe"}, {"experts": "ple"}, {"interaction": "finalmlp", "stream_hidden": (8,)}, {"interaction": "dlrm"}],
)
def test_every_weight_goes_on_however_the_ranker_is_built(tmp_path, settings):
    """Experts and streams are layers of the same names, one beside the other."""
    before = ranker_of(3, **settings)
    rng = np.random.default_rng(0)
    for weight in before.trainable_variables:
        weight.assign(rng.normal(size=weight.shape))
    keep(before, tmp_path)
    after = filled(ranker_of(3, **settings), tmp_path)
    for one, other in zip(before.trainable_variables, after.trainable_variables, strict=True):
        if "behaviour" not in one.path:  # carried into another basis, which is the same here up to rounding
            np.testing.assert_array_equal(np.asarray(one), np.asarray(other), one.path)


@pytest.mark.parametrize(
    ("then", "now", "told"),
    [
        ({}, {"experts": "mmoe"}, r"ranking.experts was 'shared' and is 'mmoe'.*--full"),
        ({"experts": "ple"}, {}, r"ranking.experts was 'ple' and is 'shared'.*--full"),
        ({}, {"cross_layers": 1}, r"ranking.cross_layers was 2 and is 1; differing: \['cross_1/bias'.*--full"),
        ({}, {"hidden": (5, 4)}, r"ranking.hidden was .* and is \[5, 4\].*--full"),
        ({}, {"purchase_given_click": True}, r"ranking.purchase_given_click was False and is True.*--full"),
    ],
)
def test_a_ranker_that_is_built_otherwise_is_refused_by_the_setting(tmp_path, then, now, told):
    keep(ranker_of(3, **then), tmp_path)
    with pytest.raises(StageError, match=told):
        filled(ranker_of(3, **now), tmp_path)


def test_heads_may_come_and_go_and_what_only_teaches_may_too(tmp_path):
    keep(ranker_of(3, shift=0.25, experts="mmoe", heads=("click", "like"), position_bias=False), tmp_path)
    after = filled(ranker_of(3, experts="mmoe", heads=("click", "purchase")), tmp_path)
    kernels, fresh = after.network.heads.kernels, ranker_of(3, experts="mmoe", heads=("click", "purchase"))
    np.testing.assert_array_equal(kernels["purchase"], fresh.network.heads.kernels["purchase"])
    np.testing.assert_allclose(kernels["click"], np.asarray(fresh.network.heads.kernels["click"]) + 0.25, rtol=1e-6)


def known_of(ranker):
    return {name: np.asarray(ranker.network.features.side.tables[name]) > 0 for name in ("user_known", "item_known")}


def test_ids_that_were_known_stay_known_and_an_old_file_tells_nothing_of_them(tmp_path):
    before, after = ranker_of(3), ranker_of(3)
    nights = [known_of(before), {"user_known": np.arange(21) == 20, "item_known": np.arange(61) == 60}]
    for name, flags in nights[1].items():
        after.network.features.side.tables[name].assign(flags.astype(int))
    keep(before, tmp_path)
    for name, flags in known_of(filled(after, tmp_path)).items():
        np.testing.assert_array_equal(flags, nights[0][name] | nights[1][name])
    with np.load(tmp_path / "learned.npz") as arrays:
        older = {name: arrays[name] for name in arrays.files if not name.endswith("_known")}
    np.savez(tmp_path / "learned.npz", **older)
    fresh = ranker_of(3)
    fresh.network.features.side.tables["user_known"].assign(nights[1]["user_known"].astype(int))
    np.testing.assert_array_equal(known_of(filled(fresh, tmp_path))["user_known"], nights[1]["user_known"])


def test_only_days_that_it_has_not_learned_calibrate_and_weigh_it(store, tmp_path):  # noqa: F811
    dataset, config = log_of(), dataclasses.replace(CONFIG, epochs=1, trees=0)
    times = np.sort(dataset.events["timestamp"][dataset.events["split"] == VALID].to_numpy())
    trained(dataset, store, tmp_path / "first", config)
    first = tmp_path / "first" / "out"
    assert learned_until(first) == times[-1] and learned_until(tmp_path) == 0

    def visits_after(until):
        start = WarmRanker(first, EMBEDDINGS, EMBEDDINGS, until)
        trained(dataset, store, tmp_path / str(until), config, start=start)
        return Visits.load(tmp_path / str(until) / "out" / HELD_OUT).timestamps

    late = int(times[int(0.8 * len(times))])  # the hold-out's own share, .4, begins before
    assert 0 < visits_after(0).min() <= late < visits_after(late).min()
    heads = [set(RankingServingForm.load(tmp_path / name / "out" / "serving_form").spec.heads) for name in ("0", str(late))]
    assert heads[0] == heads[1]
    # A second job of the same days has none that are later, and takes what there is.
    np.testing.assert_array_equal(visits_after(int(times[-1])), visits_after(0))


def test_a_head_of_few_later_labels_is_calibrated_on_all_that_are_held_out():
    lists = made(11)[-1]
    labels = {"click": np.where(lists.mask, 1.0, 0.0), "purchase": np.zeros(lists.mask.shape)}
    lists = dataclasses.replace(lists, labels=labels, known={head: lists.mask for head in labels})
    later = np.arange(len(lists)) >= len(lists) // 2
    assert lists.mask[later].sum() >= 20
    told = with_labels_of(lists, later).known
    assert not told["click"][~later].any() and (told["click"][later] == lists.mask[later]).all()
    assert (told["purchase"] == lists.mask).all()


def test_a_head_that_has_no_labels_tonight_goes_on_with_its_calibration(store, tmp_path):  # noqa: F811
    config = dataclasses.replace(CONFIG, epochs=1, trees=0)
    trained(log_of(), store, tmp_path / "first", config)
    first = tmp_path / "first" / "out"
    quiet = log_of(purchases=False)
    trained(quiet, store, tmp_path / "anew", config)
    trained(quiet, store, tmp_path / "on", config, start=WarmRanker(first, EMBEDDINGS, EMBEDDINGS))
    before, anew, on = (
        json.loads((tmp_path / name / "out" / "serving_form" / "ranking.json").read_text())["calibrations"]
        for name in ("first", "anew", "on")
    )
    assert "purchase" in before and "purchase" not in anew and list(on) == list(before)
    assert on["purchase"] == before["purchase"] and on["click"] != before["click"]
