"""Terms beside the main loss: each against a loop and by its effect, and the layer that weighs them."""

import numpy as np
import pytest
from keras import ops

from data.schema import Schema
from tests.towers.descent import descend
from towers.adversarial import adversarial_directions, adversarial_loss
from towers.alignment import info_nce_loss, inner_product_loss, masked_mean, reconstruction_loss
from towers.distillation import Teacher, distillation_loss, join_teachers
from towers.item_heads import category_loss, sentiment_loss
from towers.losses import in_batch_softmax_loss
from towers.ranker_distillation import RankedLists
from towers.side_losses import SideLosses
from towers.side_weights import TERMS, SideWeights

B, D = 6, 4


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def tensor(values):
    return ops.convert_to_tensor(values)


ROWS = np.array([3, 5, 3, 7, 8, 9], "int32")
BOTH = np.array([1, 1, 1, 0, 1, 1], bool)


def softmax_inputs(seed=0):
    weights = np.array([1, 2, 1, 0.5, 1, 0], "float32")
    return {
        "candidate_rows": tensor(ROWS),
        "log_q": tensor(np.log(np.linspace(0.05, 0.3, B)).astype("float32")),
        "scale": 4.0,
        "weights": tensor(weights),
    }


def test_info_nce_equals_the_loop():
    left, right = draw(B, D, seed=1), draw(B, D, seed=2)
    a, b, total = unit(left), unit(right), 0.0
    for i in np.flatnonzero(BOTH):
        others = [j for j in np.flatnonzero(BOTH) if j == i or ROWS[j] != ROWS[i]]
        for one, two in ((a, b), (b, a)):
            total += 0.5 * (np.log(sum(np.exp(one[i] @ two[j] / 0.2) for j in others)) - a[i] @ b[i] / 0.2)
    loss = info_nce_loss(tensor(left), tensor(right), rows=tensor(ROWS), both=tensor(BOTH), temperature=0.2)
    np.testing.assert_allclose(float(loss), total / BOTH.sum(), rtol=1e-5)
    none = tensor(np.zeros(B, bool))
    assert float(info_nce_loss(tensor(left), tensor(right), rows=tensor(ROWS), both=none, temperature=0.2)) == 0


def test_info_nce_makes_modalities_find_each_other():
    left, right = draw(30, D, seed=3), draw(30, D, seed=4)
    rows, both = tensor(np.arange(30)), tensor(np.ones(30, bool))

    def loss(matrix):
        return info_nce_loss(tensor(left), ops.matmul(tensor(right), matrix), rows=rows, both=both, temperature=0.1)

    def found(matrix):
        scores = unit(left) @ unit(right @ np.asarray(matrix)).T
        return (scores.argmax(axis=1) == np.arange(30)).mean()

    right[:] = left @ np.linalg.qr(draw(D, D, seed=5))[0]  # the same thing said in another basis
    learned = descend(loss, np.eye(D, dtype="float32"), steps=300, rate=0.3)
    assert found(np.eye(D)) < 0.4 and found(learned) > 0.9


def test_inner_product_equals_the_loop_and_pulls_together():
    left, right = draw(B, D, seed=6), draw(B, D, seed=7)
    expected = np.mean([1 - unit(left)[i] @ unit(right)[i] for i in np.flatnonzero(BOTH)])
    np.testing.assert_allclose(
        float(inner_product_loss(tensor(left), tensor(right), both=tensor(BOTH))), expected, rtol=1e-5
    )
    moved = descend(lambda x: inner_product_loss(x, tensor(right), both=tensor(BOTH)), left, steps=300, rate=0.5)
    cosines = (unit(moved) * unit(right)).sum(axis=1)
    assert cosines[BOTH].min() > 0.99
    np.testing.assert_array_equal(moved[~BOTH], left[~BOTH])  # what lacks a modality is left alone


def test_reconstruction_equals_the_loop_and_one_is_the_mean():
    predicted, features = draw(B, 5, seed=8), draw(B, 5, seed=9)
    expected = np.mean([((predicted[i] - features[i]) ** 2).sum() for i in np.flatnonzero(BOTH)])
    received = reconstruction_loss(tensor(predicted), tensor(features), present=tensor(BOTH))
    np.testing.assert_allclose(float(received), expected, rtol=1e-5)
    standard = draw(20000, 5, seed=10) / np.sqrt(5)
    mean = reconstruction_loss(tensor(0 * standard), tensor(standard), present=tensor(np.ones(20000, bool)))
    np.testing.assert_allclose(float(mean), 1.0, atol=0.02)


def test_category_loss_equals_the_loop_and_ignores_items_without_any():
    logits, codes = draw(3, 4, seed=11), np.array([[2, 1, 0], [0, 0, 0], [4, 4, 0]], "int32")
    total = 0.0
    for i in (0, 2):
        for c in range(4):
            probability = 1 / (1 + np.exp(-logits[i, c]))
            total -= np.log(probability if c + 1 in codes[i] else 1 - probability)
    np.testing.assert_allclose(float(category_loss(tensor(logits), tensor(codes))), total / 2, rtol=1e-5)
    learned = descend(lambda x: category_loss(x, tensor(codes)), logits, steps=300, rate=1.0)
    assert (learned[0, [0, 1]] > 2).all() and (learned[0, [2, 3]] < -2).all() and learned[2, 3] > 2
    np.testing.assert_array_equal(learned[1], logits[1])


def test_sentiment_loss_equals_the_loop():
    predicted, told = draw(B, seed=12), draw(B, seed=13)
    expected = np.mean([(predicted[i] - told[i]) ** 2 for i in np.flatnonzero(BOTH)])
    np.testing.assert_allclose(
        float(sentiment_loss(tensor(predicted), tensor(told), known=tensor(BOTH))), expected, rtol=1e-5
    )


def test_adversarial_directions_are_the_gradients_directions():
    """Against numerical differences of the plain loss."""
    queries, candidates, inputs = unit(draw(B, D, seed=14)), unit(draw(B, D, seed=15)), softmax_inputs()
    of_queries, of_candidates = adversarial_directions(tensor(queries), tensor(candidates), **inputs)

    def loss(q, c):
        return float(in_batch_softmax_loss(tensor(q), tensor(c), **inputs))

    for place, received in ((0, of_queries), (1, of_candidates)):
        gradient = np.zeros((B, D))
        for i in range(B):
            for d in range(D):
                pair = [queries.copy(), candidates.copy()]
                pair[place][i, d] += 1e-2
                up = loss(*pair)
                pair[place][i, d] -= 2e-2
                gradient[i, d] = (up - loss(*pair)) / 2e-2
        lengths = np.linalg.norm(gradient, axis=1)
        received = ops.convert_to_numpy(received)
        for i in np.flatnonzero(lengths > 1e-3):
            np.testing.assert_allclose(received[i], gradient[i] / lengths[i], atol=0.03)
        lived = np.linalg.norm(received, axis=1)
        np.testing.assert_allclose(lived[lengths > 1e-3], 1.0, atol=1e-4)
    assert np.abs(ops.convert_to_numpy(of_queries)[5]).max() == 0  # a query of weight 0 has no direction


def test_adversarial_moves_hurt_more_than_any_random_move():
    queries, candidates, inputs = unit(draw(B, D, seed=16)), unit(draw(B, D, seed=17)), softmax_inputs()
    plain = float(in_batch_softmax_loss(tensor(queries), tensor(candidates), **inputs))
    worst = float(adversarial_loss(tensor(queries), tensor(candidates), epsilon=0.1, **inputs))
    none = float(adversarial_loss(tensor(queries), tensor(candidates), epsilon=0.0, **inputs))
    np.testing.assert_allclose(none, plain, rtol=1e-6)
    for seed in range(20):
        moves = [0.1 * unit(draw(B, D, seed=100 + 2 * seed + part)) for part in (0, 1)]
        moved = in_batch_softmax_loss(tensor(queries + moves[0]), tensor(candidates + moves[1]), **inputs)
        assert float(moved) < worst


def test_distillation_equals_the_loop_and_hands_the_order_over():
    logits, scores = draw(B, B, seed=18), draw(B, B, seed=19)
    weights = np.array([1, 2, 1, 0.5, 1, 0], "float32")
    total = 0.0
    for i in range(B):
        columns = [j for j in range(B) if j == i or (ROWS[j] != ROWS[i] and weights[j] > 0)]
        student = np.exp(logits[i, columns]) / np.exp(logits[i, columns]).sum()
        teacher = np.exp(scores[i, columns] / 0.5) / np.exp(scores[i, columns] / 0.5).sum()
        total += weights[i] * (teacher * np.log(teacher / student)).sum()
    inputs = {"rows": tensor(ROWS), "weights": tensor(weights), "temperature": 0.5}
    received = distillation_loss(tensor(logits), tensor(scores), **inputs)
    np.testing.assert_allclose(float(received), total / weights.sum(), rtol=1e-4)
    inputs = {"rows": tensor(np.arange(B)), "weights": tensor(np.ones(B, "float32")), "temperature": 1.0}
    learned = descend(lambda x: distillation_loss(x, tensor(scores), **inputs), logits, steps=500, rate=1.0)
    assert (learned.argsort(axis=1) == scores.argsort(axis=1)).mean() > 0.9


def test_teachers_joined_score_their_mean():
    teachers = [Teacher(draw(5, 3, seed=seed), draw(4, 3, seed=10 + seed)) for seed in range(3)]
    joined = join_teachers(teachers)
    mean = np.mean([teacher.users @ teacher.items.T for teacher in teachers], axis=0)
    np.testing.assert_allclose(joined.users @ joined.items.T, mean, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="of one catalogue"):
        join_teachers([teachers[0], Teacher(draw(6, 3), draw(4, 3))])
    with pytest.raises(ValueError, match="of one width"):
        Teacher(draw(5, 3), draw(4, 2))


SCHEMA = Schema(user_rows=4, item_rows=10, modalities={"text": 6, "image": 5})
CODES = np.array([[0, 0], [1, 2], [1, 0], [2, 0], [0, 0], [1, 0], [2, 0], [1, 2], [0, 0], [2, 0]], "int32")


RANKED = RankedLists(
    np.array([[0, 0, 0], [1, 2, 3], [4, 5, 0], [6, 7, 8]], "int32"),
    np.random.default_rng(23).normal(size=(4, 3)).astype("float32"),
)


def layer_of(**weights):
    return SideLosses(
        SideWeights(**weights),
        SCHEMA,
        D,
        {"text": 6, "image": 5},
        categories=CODES,
        sentiment=draw(10, seed=20),
        known=np.arange(10) % 2 == 1,
        teacher=Teacher(draw(10, 3, seed=21), draw(4, 3, seed=22)),
        ranked=RANKED,
    )


def step(seed=30):
    item = {
        "fused": tensor(draw(B, D, seed=seed)),
        "tokens": tensor(draw(B, 3, D, seed=seed + 1)),
        "shown": tensor(np.array([[1, 1, 1], [1, 1, 0], [0, 1, 1], [1, 0, 0], [1, 1, 1], [0, 0, 0]], bool)),
        "present": tensor(np.array([[1, 1], [1, 1], [1, 1], [0, 1], [1, 1], [0, 0]], bool)),
        "features": {"text": tensor(draw(B, 6, seed=seed + 2)), "image": tensor(draw(B, 5, seed=seed + 3))},
    }
    batch = {
        "queries": tensor(unit(draw(B, D, seed=seed + 4))),
        "candidates": tensor(unit(draw(B, D, seed=seed + 5))),
        "rows": tensor(np.array([3, 5, 3, 7, 8, 0], "int32")),
        "user": tensor(np.array([1, 2, 3, 1, 2, 0], "int32")),
        "log_q": tensor(np.linspace(-3, -1, B).astype("float32")),
        "weights": tensor(np.array([1, 1, 1, 1, 1, 0], "float32")),
        "scale": ops.convert_to_tensor(5.0),
        "ranked": tensor(unit(draw(2, 3, D, seed=seed + 6))),
    }
    return item, batch


def test_off_costs_nothing_and_on_makes_only_its_own_weights():
    assert layer_of().weights == [] and layer_of()({}, step()[1]) == {}
    names = {
        "alignment": 0,
        "inner_product": 0,
        "per_modality": 0,
        "adversarial": 0,
        "l2": 0,
        "reconstruction": 4,
        "category": 2,
        "sentiment": 2,
        "distillation": 0,
        "ranker": 0,
    }
    assert set(names) == set(TERMS)
    for name, count in names.items():
        layer = layer_of(**{name: 0.5})
        assert layer.terms == {name: 0.5} and len(layer.trainable_weights) == count
        assert set(layer(*step())) == {name} and layer.trackers[name].name == f"side/{name}"


def test_per_modality_equals_the_loop():
    layer, (item, batch) = layer_of(per_modality=1.0), step()
    queries, rows = np.asarray(batch["queries"]), np.asarray(batch["rows"])
    weights, log_q = np.asarray(batch["weights"]), np.asarray(batch["log_q"])
    losses = []
    for m in (1, 2):
        shown = np.asarray(item["shown"])[:, m] & (weights > 0)
        tokens, total = unit(np.asarray(item["tokens"])[:, m]), 0.0
        for i in np.flatnonzero(shown):
            logits = {j: 5.0 * queries[i] @ tokens[j] - log_q[j] for j in np.flatnonzero(shown)}
            kept = [value for j, value in logits.items() if j == i or rows[j] != rows[i]]
            total += np.log(np.exp(kept).sum()) - logits[i]
        losses.append(total / shown.sum())
    np.testing.assert_allclose(float(layer(item, batch)["per_modality"]), np.mean(losses), rtol=1e-4)


def test_l2_and_reconstruction_equal_the_loop():
    layer, (item, batch) = layer_of(l2=1.0, reconstruction=1.0), step()
    users = draw(B, D, seed=40)
    terms = layer(item, batch, tensor(users))
    fused = np.asarray(item["fused"])
    expected = np.mean([(fused[i] ** 2).sum() + (users[i] ** 2).sum() for i in range(5)])
    np.testing.assert_allclose(float(terms["l2"]), expected, rtol=1e-5)
    losses = []
    for m, name in enumerate(("text", "image")):
        head, features = layer.decoders[name], np.asarray(item["features"][name])
        told = fused @ np.asarray(head.kernel) + np.asarray(head.bias)
        there = np.flatnonzero(np.asarray(item["present"])[:, m])  # present, though dropout may hide it
        losses.append(np.mean([((told[i] - features[i]) ** 2).sum() for i in there]))
    np.testing.assert_allclose(float(terms["reconstruction"]), np.mean(losses), rtol=1e-4)


def test_heads_and_teacher_read_the_tables_of_the_items_in_the_batch():
    layer, (item, batch) = layer_of(category=1.0, sentiment=1.0, distillation=1.0), step()
    terms, rows = layer(item, batch), np.asarray(batch["rows"])
    fused = np.asarray(item["fused"])
    logits = fused @ np.asarray(layer.category_head.kernel) + np.asarray(layer.category_head.bias)
    np.testing.assert_allclose(
        float(terms["category"]), float(category_loss(tensor(logits), tensor(CODES[rows]))), rtol=1e-4
    )
    told = (fused @ np.asarray(layer.sentiment_head.kernel) + np.asarray(layer.sentiment_head.bias))[:, 0]
    known = rows % 2 == 1
    expected = np.mean((told - draw(10, seed=20)[rows])[known] ** 2)
    np.testing.assert_allclose(float(terms["sentiment"]), expected, rtol=1e-4)
    scores = draw(4, 3, seed=22)[np.asarray(batch["user"])] @ draw(10, 3, seed=21)[rows].T
    student = 5.0 * np.asarray(batch["queries"]) @ np.asarray(batch["candidates"]).T
    inputs = {"rows": batch["rows"], "weights": batch["weights"], "temperature": 0.1}
    received = distillation_loss(tensor(student), tensor(scores), **inputs)
    np.testing.assert_allclose(float(terms["distillation"]), float(received), rtol=1e-4)
    # The head starts from how common each category is.
    np.testing.assert_allclose(np.asarray(layer.category_head.bias), np.log([4 / 5, 5 / 4]), rtol=1e-4)


def test_the_rankers_term_reads_the_lists_of_the_first_users():
    layer, (item, batch) = layer_of(ranker=1.0), step()
    assert np.asarray(layer.ranked_rows(batch["user"])).tolist() == [[1, 2, 3], [4, 5, 0]]  # 6 events, lists of 3
    vectors, queries = np.asarray(batch["ranked"]), np.asarray(batch["queries"])
    expected = 0.0
    for line, user in enumerate((1, 2)):
        there = np.flatnonzero(RANKED.rows[user])
        student = np.array([5.0 * queries[line] @ vectors[line, place] for place in there])
        teacher = RANKED.scores[user, there]
        told, said = (np.exp(scores) / np.exp(scores).sum() for scores in (teacher, student))
        expected += (told * np.log(told / said)).sum() / 2
    np.testing.assert_allclose(float(layer(item, batch)["ranker"]), expected, rtol=1e-4)


def test_terms_without_data_are_left_out_and_a_teacher_of_another_catalogue_is_refused():
    everything = SideWeights(**{name: 0.1 for name in TERMS if name not in ("distillation", "ranker")})
    bare = SideLosses(everything, Schema(user_rows=4, item_rows=10), D, {}, categories=0 * CODES)
    assert set(bare.terms) == {"adversarial", "l2"}
    single = SideLosses(everything, Schema(4, 10, modalities={"text": 6}), D, {"text": 6})
    assert set(single.terms) == {"reconstruction", "per_modality", "adversarial", "l2"}
    for teacher in (None, Teacher(draw(9, 3), draw(4, 3))):
        with pytest.raises(ValueError, match=r"retrieval\.side\.teachers"):
            SideLosses(SideWeights(distillation=1.0), SCHEMA, D, {}, teacher=teacher)
    for ranked in (None, RankedLists(RANKED.rows[:3], RANKED.scores[:3])):
        with pytest.raises(ValueError, match=r"retrieval\.distill_ranker"):
            SideLosses(SideWeights(ranker=1.0), SCHEMA, D, {}, ranked=ranked)


def test_masked_mean_of_nothing_is_zero():
    assert float(masked_mean(ops.ones(3), ops.zeros(3))) == 0
