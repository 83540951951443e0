"""The ranker: invariants of its answers, each unique item projected once, and the planted signal found."""

import dataclasses

import keras
import numpy as np
import pytest

from pipeline.metrics.metrics import mean_over_users, ndcg_at_k
from ranking.config import RankerSpec, RankingConfig
from ranking.content import principal_projection
from ranking.model import Ranker, batch_inputs
from tests.ranking.worlds import NOW, SMALL, planted_world


@pytest.fixture(scope="module")
def world():
    return planted_world()


@pytest.fixture(scope="module")
def ranker(world):
    ranker = world.ranker(SMALL)
    rng = np.random.default_rng(9)
    for weight in ranker.trainable_variables:  # away from the start, where many weights are zero
        weight.assign(np.asarray(weight) + 0.1 * rng.normal(size=weight.shape))
    return ranker


def inputs_of(world, lines=slice(None), columns=slice(None), unique_items=61):
    part = (array[lines][:, columns] for array in (world.candidates, world.scores, world.ranks))
    candidates, scores, ranks = part
    return batch_inputs(
        world.user[lines], world.history[lines], candidates, scores, ranks, world.timestamp[lines], unique_items
    )


def logits(ranker, inputs, head="click"):
    return np.asarray(ranker(inputs)[head])


def test_one_logit_per_head_and_candidate(world, ranker):
    answer = ranker(inputs_of(world))
    assert tuple(answer) == ("click", "like", "purchase", "skip", "value")
    for values in answer.values():
        assert values.shape == world.candidates.shape
        assert np.isfinite(values).all()


def test_permuting_candidates_permutes_logits(world, ranker):
    order = np.random.default_rng(0).permutation(world.candidates.shape[1])
    np.testing.assert_allclose(
        logits(ranker, inputs_of(world, columns=order)), logits(ranker, inputs_of(world))[:, order], atol=1e-5
    )


def test_batch_equals_single(world, ranker):
    whole = logits(ranker, inputs_of(world))
    for line in (0, 7, 31):
        single = logits(ranker, inputs_of(world, slice(line, line + 1), unique_items=30))
        np.testing.assert_allclose(single[0], whole[line], atol=1e-5)


def test_padded_equals_unpadded(world, ranker):
    inputs = inputs_of(world)
    pad = lambda array, value=0: np.pad(array, ((0, 0), (0, 4)), constant_values=value)  # noqa: E731
    padded = batch_inputs(
        world.user,
        pad(world.history),
        pad(world.candidates),
        pad(world.scores),
        pad(world.ranks, 1),
        world.timestamp,
        61,
    )
    padded["history"] = padded["history"][:, : SMALL.history_length]
    kept = world.candidates.shape[1]
    np.testing.assert_allclose(logits(ranker, padded)[:, :kept], logits(ranker, inputs), atol=1e-5)
    # Shorter histories are padded ones as well.
    short = inputs_of(world)
    short["history"] = short["history"][:, :3]
    filled = {**short, "history": np.pad(short["history"], ((0, 0), (0, 3)))}
    np.testing.assert_allclose(logits(ranker, filled), logits(ranker, short), atol=1e-5)


def test_an_absent_modality_has_no_say(world, ranker):
    before = logits(ranker, inputs_of(world))
    table = ranker.content.tables[1].table
    kept = keras.ops.convert_to_numpy(table)
    noisy = np.where(world.present[:, 1:2], kept, 7.0)
    table.assign(noisy)
    np.testing.assert_allclose(logits(ranker, inputs_of(world)), before, atol=1e-5)
    table.assign(-noisy)
    assert np.abs(logits(ranker, inputs_of(world)) - before).max() > 1e-3
    table.assign(kept)


def test_unknown_user_history_time_and_ids(world, ranker):
    size = world.candidates.shape
    inputs = batch_inputs(
        np.zeros(size[0]),
        np.zeros_like(world.history),
        world.candidates,
        world.scores,
        world.ranks,
        np.zeros(size[0]),
        61,
    )
    assert np.isfinite(logits(ranker, inputs)).all()
    # Ids without training events share the embedding of row 0.
    embedding = ranker.network.features.embeddings["user_id"]
    kept = keras.ops.convert_to_numpy(embedding)
    unknown = np.flatnonzero(~world.side.user_known)[1:]
    changed = kept.copy()
    changed[unknown] += 5
    before = logits(ranker, inputs_of(world))
    embedding.assign(changed)
    np.testing.assert_array_equal(logits(ranker, inputs_of(world)), before)
    embedding.assign(kept)


def test_a_missing_clock_and_an_unreleased_item_have_age_zero(world, ranker):
    features = ranker.network.features
    tokens, present = ranker.content(np.arange(61))
    column = features.groups["recency"][0][0] + 1

    def ages(timestamp):
        inputs = {**inputs_of(world), "history": world.history, "candidates": world.candidates, "timestamp": timestamp}
        return np.asarray(features(tokens, present, None, inputs))[..., column]

    days = 60 - world.side.released[world.candidates]
    known = world.side.numbers[world.candidates][..., 4]
    np.testing.assert_allclose(ages(world.timestamp), np.log1p(np.maximum(days, 0) * known) / 2, atol=1e-4)
    assert (ages(np.zeros(64, np.int64)) == 0).all()
    assert (ages(np.full(64, NOW - 50 * 86_400)) == 0).all()


def features_of(world, ranker, **options):
    tokens, present = ranker.content(np.arange(61))
    inputs = {**inputs_of(world), "history": world.history, "candidates": world.candidates, **options.pop("inputs", {})}
    return np.asarray(ranker.network.features(tokens, present, None, inputs, **options))


def test_groups_cover_every_column_once(world, ranker):
    features = ranker.network.features
    assert list(features.groups)[:3] == ["text", "image", "behaviour"]
    columns = [column for ranges in features.groups.values() for start, end in ranges for column in range(start, end)]
    assert sorted(columns) == list(range(features.width))
    assert features_of(world, ranker).shape[-1] == features.width


def test_a_masked_group_is_what_nothing_known_has(world, ranker):
    features = ranker.network.features
    plain, names = features_of(world, ranker), list(features.groups)
    nobody = {"user": np.zeros(64, int), "history": world.history * 0, "candidates": world.candidates * 0,
              "timestamp": np.zeros(64, int), "retrieval_scores": world.scores * 0 + world.spec.score_center}  # fmt: skip
    unknown = features_of(world, ranker, inputs=nobody)
    np.testing.assert_array_equal(features_of(world, ranker, group_mask=np.ones(len(names))), plain)
    for place, name in enumerate(names):
        mask = np.ones((64, len(names)), np.float32)
        mask[1, place] = 0  # of the second request alone
        masked, (start, end) = features_of(world, ranker, group_mask=mask), features.groups[name][0]
        inside = np.zeros(plain.shape, bool)
        inside[1, :, start:end] = True
        np.testing.assert_array_equal(masked[~inside], plain[~inside])
        if name == "retrieval":  # the rank of nothing known is the middle one
            np.testing.assert_allclose(masked[1, :, start:end], [[0, np.log(100.5) / 4 - 1]] * 12, atol=1e-6)
        else:
            np.testing.assert_allclose(masked[1, :, start:end], unknown[1, :, start:end], atol=1e-6)


def test_context_codes_have_an_embedding_each(world):
    schema = dataclasses.replace(world.spec.schema, context={"device": 3, "place": 5})
    ranker = dataclasses.replace(world, spec=dataclasses.replace(world.spec, schema=schema)).ranker(SMALL)
    codes = np.stack([np.arange(64) % 3, np.arange(64) % 5], axis=1)
    start, end = ranker.network.features.groups["context"][0]
    found = features_of(world, ranker, inputs={"context": codes})[:, :, start:end]
    tables = [np.asarray(ranker.network.features.embeddings[f"context_{name}"]) for name in ("device", "place")]
    for line in range(64):
        expected = np.concatenate([table[code] for table, code in zip(tables, codes[line], strict=True)])
        np.testing.assert_allclose(found[line, :, 5:], [expected] * 12, atol=1e-6)


def test_a_profile_that_is_said_stands_for_the_users_own(world, ranker):
    start, end = ranker.network.features.groups["profile"][0]
    table = np.asarray(ranker.network.features.embeddings["profile_age"])
    plain = features_of(world, ranker)
    said = np.where(np.arange(64) % 2, 3, 0)[:, None]
    found = features_of(world, ranker, inputs={"profile": said})
    np.testing.assert_allclose(found[1::2, :, start:end], np.broadcast_to(table[3], (32, 12, end - start)), atol=1e-6)
    np.testing.assert_array_equal(found[::2], plain[::2])
    others = np.delete(np.arange(plain.shape[2]), np.arange(start, end))
    np.testing.assert_array_equal(found[..., others], plain[..., others])
    assert np.abs(found - plain).max() > 0


def test_training_starts_from_the_retrieval_order(world):
    start = logits(world.ranker(SMALL), inputs_of(world))
    # Nearly: the crosses start small, not at zero.
    correlations = [np.corrcoef(mine, scores)[0, 1] for mine, scores in zip(start, world.scores, strict=True)]
    assert min(correlations) > 0.99


def test_dropout_follows_seed_and_epoch(world):
    ranker = world.ranker(SMALL)
    inputs = inputs_of(world)

    def noisy(epoch):
        ranker.reseed(epoch)
        kernel = ranker.network.heads.kernels["click"]
        kernel.assign(np.ones(kernel.shape))
        return np.asarray(ranker(inputs, training=True)["click"])

    np.testing.assert_array_equal(noisy(1), noisy(1))
    assert (noisy(1) != noisy(2)).any()


def test_batch_inputs_refuses_too_many_items(world):
    with pytest.raises(ValueError, match="received 3"):
        inputs_of(world, unique_items=3)


def test_finds_the_planted_signal():
    """Clicks come from image similarity and freshness; the retrieval score is mostly noise. The order has to gain by it."""
    world = planted_world(requests=480, seed=1)
    rng = np.random.default_rng(2)
    chance = 1 / (1 + np.exp(-(world.appeal - np.quantile(world.appeal, 0.8)) * 2))
    click = (rng.random(chance.shape) < chance).astype(np.float32)
    labels = {"click": click, "purchase": click * (rng.random(click.shape) < 0.2), "mask": np.ones(click.shape, bool)}
    ranker = world.ranker(SMALL)
    ranker.compile(optimizer=keras.optimizers.Adam(5e-3))
    train, test = np.arange(384), np.arange(384, 480)
    for epoch in range(8):
        ranker.reseed(epoch)
        order = rng.permutation(train)
        for start in range(0, len(train), 64):
            lines = order[start : start + 64]
            batch = {name: values[lines] for name, values in labels.items()}
            assert np.isfinite(ranker.train_on_batch(inputs_of(world, lines), batch))
    relevant = [world.candidates[line][click[line] > 0].tolist() for line in test]

    def quality(values):
        order = np.argsort(-values, axis=1, kind="stable")
        return mean_over_users(ndcg_at_k(np.take_along_axis(world.candidates[test], order, 1), relevant, 5))

    ranked, retrieved, best = (
        quality(values) for values in (logits(ranker, inputs_of(world, test)), world.scores[test], world.appeal[test])
    )
    assert ranked > retrieved + 0.5 * (best - retrieved)


def test_principal_projection_keeps_neighbours():
    rng = np.random.default_rng(0)
    style = rng.normal(size=(3, 12))[rng.integers(0, 3, 200)]
    table = np.vstack([np.zeros(12), 20 + style + 0.1 * rng.normal(size=(200, 12))])  # a large common direction
    mean, projection = principal_projection(table, np.arange(201) > 0, 4, seed=0)
    tokens = (table[1:] - mean) @ projection
    tokens /= np.linalg.norm(tokens, axis=1, keepdims=True)
    same = (style[:, None] == style[None]).all(-1)
    cosine = tokens @ tokens.T
    assert cosine[same].mean() > 0.9
    assert cosine[~same].mean() < 0.2
    wide = principal_projection(table, np.arange(201) > 0, 20, seed=0)[1]
    assert (wide[:, 12:] == 0).all()
    empty = principal_projection(table, np.zeros(201, bool), 4, seed=0)[1]
    assert (empty == 0).all()


def test_projections_that_are_given_are_not_fitted(world):
    whole, other = (Ranker(world.spec, SMALL) for _ in range(2))
    whole.assign(world.side, world.tables, world.present)
    other.assign(world.side, world.tables, world.present, learned=("image",))
    for mine, theirs in zip(other.weights, whole.weights, strict=True):
        given = mine.path == "content/image_kernel"
        np.testing.assert_array_equal(mine, np.zeros(mine.shape) if given else theirs)
        assert not given or np.abs(theirs).max() > 0


@pytest.mark.parametrize(
    "change", [{"epochs": 0}, {"calibration": "beta"}, {"dropout": 1.0}, {"score_weights": {"watch": 1}}]
)
def test_config_refuses(change):
    with pytest.raises(ValueError, match=str(next(iter(change)))):
        RankingConfig(**change)


def test_spec_is_json(world):
    assert RankerSpec.from_json(world.spec.to_json()) == world.spec
    with pytest.raises(ValueError, match="click"):
        RankerSpec(world.spec.schema, heads=("purchase",))
