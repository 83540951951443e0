"""Losses by name: each trains, and what they carry from batch to batch does what it should."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from data.batches import RetrievalBatches
from data.histories import Histories
from data.loss_columns import LossColumns
from data.schema import Schema
from pipeline.training.feed import as_dataset
from towers.config import TowerConfig
from towers.loss_options import LossOptions
from towers.losses import MASKED_LOGIT
from towers.negatives import EmbeddingMemory, StreamingCounts, mixed_log_q
from towers.retrieval_loss import RetrievalLoss, column_bias, log_shares
from towers.task import RetrievalTask
from towers.two_tower import TwoTower

EVERY = {
    "default": LossOptions(),
    "excluding": LossOptions(exclude_positives=True),
    "streaming": LossOptions(log_q="streaming"),
    "hardest": LossOptions(hardest=5),
    "hardest of fewer": LossOptions(hardest=64),
    "mixed": LossOptions(negatives="mixed", uniform_negatives=16),
    "sampled": LossOptions(negatives="sampled", uniform_negatives=16),
    "catalogue": LossOptions(negatives="catalogue"),
    "memory": LossOptions(memory=64),
    "smoothed": LossOptions(label_smoothing=0.1),
    "fixed temperature": LossOptions(learn_temperature=False),
    "rounded": LossOptions(products="bfloat16"),
    "sigmoid": LossOptions(kind="sigmoid", exclude_positives=True),
    "elsa": LossOptions(kind="elsa"),
}


def checkerboard():
    """Even users like even items and odd users odd ones; one item of each user is withheld."""
    rng = np.random.default_rng(0)
    users = np.repeat(np.arange(1, 21), 7)
    items = np.concatenate([rng.permutation(np.arange(2 if user % 2 == 0 else 1, 17, 2))[:7] for user in range(1, 21)])
    return users, items


@pytest.mark.parametrize("name", EVERY)
def test_every_loss_learns_the_checkerboard(name):
    options, (users, items) = EVERY[name], checkerboard()
    histories = Histories.from_events(users, items, np.arange(len(users)), user_rows=21)
    batches = RetrievalBatches(
        histories, item_rows=17, batch_size=40, history_length=6, ordered=True, seed=0,
        columns=LossColumns(item_rows=17, **options.columns),
    )  # fmt: skip
    keras.utils.set_random_seed(0)
    settings = {"id_dropout": 0.0, "user_id_dropout": 0.0, "dropout": 0.0}
    task = RetrievalTask(
        TwoTower(Schema(user_rows=21, item_rows=17), TowerConfig(width=8, history_length=6, history="mean", **settings)),
        features={}, present=np.zeros((17, 0), bool), profile=np.zeros((21, 0), "int32"),
        counts=np.bincount(items, minlength=17), loss=options, batch_size=40,
    )  # fmt: skip
    task.compile(optimizer=keras.optimizers.Adam(0.02))
    start = float(task.two_tower.scale)
    epochs = itertools.chain.from_iterable(map(batches.epoch, range(25)))
    data = as_dataset(epochs, 25 * len(batches))
    losses = task.fit(data, steps_per_epoch=len(batches), epochs=25, verbose=0, shuffle=False).history["loss"]
    assert len(losses) == 25 and np.isfinite(losses).all() and losses[-1] < losses[0]
    assert (float(task.two_tower.scale) == pytest.approx(start)) == (name in ("fixed temperature", "elsa"))
    vectors = task.all_item_embeddings()
    queries, _ = task.two_tower.user_tower(
        np.arange(1, 21, dtype="int32"),
        np.zeros((20, 0), "int32"),
        vectors[histories.latest(np.arange(1, 21), 6)],
        histories.latest(np.arange(1, 21), 6) > 0,
    )
    scores = ops.convert_to_numpy(queries) @ vectors.T
    for number, user in enumerate(range(1, 21)):
        own = np.arange(2 if user % 2 == 0 else 1, 17, 2)
        other = np.arange(1 if user % 2 == 0 else 2, 17, 2)
        if name == "elsa":  # whose target says of the withheld item that it was not chosen
            own = np.intersect1d(own, items[users == user])
        assert scores[number, own].min() > scores[number, other].max(), (user, losses)


def test_streaming_estimate_finds_the_shares_and_follows_a_change():
    rng = np.random.default_rng(0)
    shares = np.array([0, 0.5, 0.25, 0.15, 0.07, 0.03])
    counts = StreamingCounts(np.full(6, 0.2), rate=0.02, batch_size=20)

    def meet(shares, steps):
        for _ in range(steps):
            copies = np.bincount(rng.choice(6, 20, p=shares), minlength=6).astype("float32")
            counts.update(ops.arange(6), ops.convert_to_tensor(copies))
        return ops.convert_to_numpy(counts.shares(ops.arange(6)))

    # The mean of 1 / n over batches lies above 1 / (mean of n) where n is small, so rare items come out a little low.
    np.testing.assert_allclose(meet(shares, 700)[1:], shares[1:], rtol=0.35)
    changed = shares[[0, 5, 4, 3, 2, 1]]
    np.testing.assert_allclose(meet(changed, 700)[1:], changed[1:], rtol=0.35)


def test_streaming_update_equals_the_loop_and_touches_only_what_was_met():
    counts = StreamingCounts(np.full(5, 0.1), rate=0.5, batch_size=4)
    gaps, last = np.full(5, 1 / 0.4), np.zeros(5)
    for step, (rows, copies) in enumerate([([0, 1, 2], [0, 3, 1]), ([0, 2, 4], [0, 2, 2]), ([0, 1, 4], [0, 1, 0])], 1):
        counts.update(ops.array(rows, "int32"), ops.array(copies, "float32"))
        for row, number in zip(rows, copies, strict=True):
            if number:
                gaps[row] = 0.5 * gaps[row] + 0.5 * (step - last[row]) / number
                last[row] = step
    np.testing.assert_allclose(ops.convert_to_numpy(counts.gaps.value), gaps, rtol=1e-6)
    assert ops.convert_to_numpy(counts.last.value).tolist() == last.tolist()


def test_mixed_log_q_moves_probability_between_the_popular_and_the_never_met():
    shares = ops.array([0.5, 0.01, 0.0])
    for uniform, batch in ((0, 100), (100, 100), (10**9, 1)):
        probability = ops.convert_to_numpy(ops.exp(mixed_log_q(shares, batch, uniform, 50)))
        expected = (batch * np.array([0.5, 0.01, 0.0]) + uniform / 50) / (batch + uniform)
        np.testing.assert_allclose(probability, expected, rtol=1e-5)


@pytest.mark.parametrize("log_q", ["counts", "streaming"])
def test_mixed_negatives_meet_an_item_without_events_by_uniform_draws_alone(log_q):
    counts, batch_size, uniform, items = np.array([0, 3, 1, 0, 0, 4]), 4, 6, 5
    options = LossOptions(negatives="mixed", uniform_negatives=uniform, log_q=log_q)
    layer = RetrievalLoss(options, item_rows=6, width=3, batch_size=batch_size, counts=counts)
    rows, batch = ops.arange(6, dtype="int32"), {"copies": ops.array([0.0, 3.0, 2.0, 1.0, 1.0, 3.0])}
    found = ops.convert_to_numpy(ops.exp(layer.log_q(rows, ops.take(log_shares(counts), rows), batch)))
    for item in range(1, 6):
        share = counts[item] / counts.sum() if log_q == "counts" else 1 / items  # of the estimate, where it begins
        in_batch = batch_size * share if counts[item] else 0
        assert found[item] == pytest.approx((in_batch + uniform / items) / (batch_size + uniform), rel=1e-5)


@pytest.mark.parametrize("kinds", ["some count for nothing", "fewer than a batch"])
def test_mixed_negatives_count_the_events_that_the_batch_holds(kinds):
    uniform, items, weights = 6, 5, np.array([1.0, 1.0, 0.0, 1.0, 0.0, 1.0, 1.0, 0.0])
    users, chosen, codes = np.repeat([1, 2, 3, 4], 2), np.array([1, 2, 1, 5, 2, 5, 1, 2]), (weights == 0).astype(np.int8)
    size = 8 if kinds == "some count for nothing" else 32
    histories = Histories.from_events(users, chosen, np.arange(8), user_rows=5, kinds=codes)
    batches = RetrievalBatches(
        histories, item_rows=items + 1, batch_size=size, history_length=2, ordered=True, seed=0,
        kind_weights=np.array([1.0, 0.0]), columns=LossColumns(item_rows=items + 1, negatives="mixed", uniform=uniform),
    )  # fmt: skip
    (batch,) = batches.epoch(0)
    layer = RetrievalLoss(
        LossOptions(negatives="mixed", uniform_negatives=uniform), item_rows=items + 1, width=3, batch_size=size,
        counts=batches.drawn,
    )  # fmt: skip
    rows = batch["items"][batch["columns"]]
    shares = log_shares(batches.drawn)[rows]
    found = np.exp(ops.convert_to_numpy(layer.log_q(rows, ops.convert_to_tensor(shares), batch)))
    for row, share in zip(rows.tolist(), found.tolist(), strict=True):
        if row:  # five events count, so many draws of an item a batch brings in
            expected = (np.sum((chosen == row) & (weights > 0)) + uniform / items) / (5 + uniform)
            assert share == pytest.approx(expected, rel=1e-5)


def test_memory_gives_back_the_last_items_but_none_that_the_batch_holds_itself():
    memory = EmbeddingMemory(4, 2)
    vectors = np.arange(20, dtype="float32").reshape(10, 2)
    assert (ops.convert_to_numpy(memory.recall(ops.array([1, 2], "int32"))[1]) == MASKED_LOGIT).all()
    for rows in ([0, 1, 2], [0, 3, 4]):
        bias = ops.array([MASKED_LOGIT, 0.5, 0.25])
        memory.keep(ops.array(rows, "int32"), ops.convert_to_tensor(vectors[rows]), bias)
    kept, bias = (ops.convert_to_numpy(value) for value in memory.recall(ops.array([7, 3, 0], "int32")))
    usable = {tuple(vector): value for vector, value in zip(kept.tolist(), bias.tolist(), strict=True) if value > -1e8}
    assert usable == {tuple(vectors[2]): 0.25, tuple(vectors[4]): 0.25}  # 1 was written over, 3 is in the batch


def loss_layer(options):
    return RetrievalLoss(options, item_rows=6, width=3, batch_size=4)


def test_memory_adds_negatives_without_a_gradient_and_remembers_only_in_training():
    rng = np.random.default_rng(0)
    queries, columns = (ops.convert_to_tensor(rng.normal(size=(4, 3)).astype("float32")) for _ in range(2))
    batch = {"own": ops.arange(4), "weight": ops.ones(4), "copies": ops.ones(4)}
    first, second = ops.array([1, 2, 3, 4], "int32"), ops.array([5, 6, 7, 8], "int32")
    layer, plain = loss_layer(LossOptions(memory=8)), loss_layer(LossOptions())
    zeros = ops.zeros(4)
    untouched = float(layer(queries, columns, first, zeros, batch, ops.array(2.0)))
    assert untouched == pytest.approx(float(plain(queries, columns, first, zeros, batch, ops.array(2.0))), rel=1e-5)
    assert float(layer(queries, columns, second, zeros, batch, ops.array(2.0))) == pytest.approx(untouched, rel=1e-5)
    layer(queries, columns, first, zeros, batch, ops.array(2.0), training=True)
    assert float(layer(queries, columns, first, zeros, batch, ops.array(2.0))) == pytest.approx(untouched, rel=1e-5)
    assert float(layer(queries, columns, second, zeros, batch, ops.array(2.0))) > untouched + 0.1


def test_log_q_is_applied_where_negatives_follow_popularity_and_only_there():
    rng = np.random.default_rng(1)
    queries, columns = (ops.convert_to_tensor(rng.normal(size=(4, 3)).astype("float32")) for _ in range(2))
    batch = {"own": ops.arange(4), "weight": ops.ones(4), "copies": ops.ones(4)}
    rows, shares = ops.array([1, 2, 3, 4], "int32"), np.log(np.array([0.6, 0.2, 0.1, 0.1], "float32"))
    logits = 2.0 * ops.convert_to_numpy(queries) @ ops.convert_to_numpy(columns).T
    for options, corrected in (
        (LossOptions(), logits - shares),
        (LossOptions(log_q="none"), logits),
        (LossOptions(negatives="sampled", uniform_negatives=4), logits),
        (LossOptions(negatives="catalogue"), logits),
    ):
        expected = (np.log(np.exp(corrected).sum(axis=1)) - np.diag(corrected)).mean()
        received = loss_layer(options)(queries, columns, rows, ops.convert_to_tensor(shares), batch, ops.array(2.0))
        assert float(received) == pytest.approx(expected, rel=1e-5)


def test_log_q_goes_by_the_events_that_are_drawn_and_what_is_known_by_all():
    counts, drawn = np.array([0, 4, 5, 0, 2]), np.array([0, 1, 3, 0, 0])
    tables = {"features": {}, "present": np.zeros((5, 0), bool), "profile": np.zeros((3, 0), "int32")}
    task = RetrievalTask(
        TwoTower(Schema(user_rows=3, item_rows=5), TowerConfig(width=4)), **tables, counts=counts, drawn=drawn
    )
    assert ops.convert_to_numpy(task.two_tower.item_tower.known).tolist() == [0, 1, 1, 0, 1]
    shares = ops.convert_to_numpy(ops.exp(task.tables["log_q"]))
    np.testing.assert_allclose(shares[[1, 2]], [1 / 4, 3 / 4], rtol=1e-6)


@pytest.mark.parametrize(
    ("options", "block"),
    [
        (LossOptions(negatives="catalogue", block_logits=2**22), 128),
        (LossOptions(negatives="catalogue", block_logits=2**22, kind="sigmoid"), 128),
        (LossOptions(memory=2**14 - 512, block_logits=2**22), 256),
        (LossOptions(block_logits=2**17), 256),
    ],
)
def test_a_graph_that_does_not_know_its_columns_computes_so_many_logits_at_a_time(options, block):
    """Of 32,768 items; of 512 events and the columns kept; of 512 events."""
    loss = RetrievalLoss(options, item_rows=2**15, width=4, batch_size=512)
    batch = {"copies": tf.TensorSpec([None]), "own": tf.TensorSpec([512], tf.int32), "weight": tf.TensorSpec([512])}
    columns = tf.TensorSpec([None, 4]), tf.TensorSpec([None], tf.int32), tf.TensorSpec([None])
    graph = tf.function(loss.call).get_concrete_function(tf.TensorSpec([512, 4]), *columns, batch, tf.TensorSpec([])).graph
    products = [operation.outputs[0].shape for operation in graph.get_operations() if "MatMul" in operation.type]
    assert {shape[0] for shape in products if shape[-1] is None and shape[0] != 4} == {block}  # the others are gradients


def test_a_memory_smaller_than_a_batch_is_refused():
    with pytest.raises(ValueError, match="memory"):
        loss_layer(LossOptions(memory=4))


def test_bias_of_a_column():
    bias = ops.convert_to_numpy(column_bias(ops.array([3.0, 1.0, 0.0]), ops.log(ops.array([0.5, 0.25, 0.25]))))
    np.testing.assert_allclose(bias, [np.log(3 / 0.5), np.log(1 / 0.25), MASKED_LOGIT], rtol=1e-6)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"kind": "hinge"}, "kind"),
        ({"negatives": "mixed"}, "uniform_negatives"),
        ({"uniform_negatives": 5}, "uniform_negatives"),
        ({"memory": 5, "negatives": "catalogue"}, "memory"),
        ({"memory": 5, "exclude_positives": True}, "exclude_positives"),
        ({"kind": "sigmoid", "hardest": 3}, "hardest"),
        ({"kind": "elsa", "negatives": "sampled", "uniform_negatives": 5}, "'batch', 'mixed' or 'catalogue'"),
        ({"label_smoothing": 1.0}, "label_smoothing"),
        ({"products": "float8"}, "products"),
    ],
)
def test_options_that_do_not_go_together_are_refused(settings, named):
    from pipeline.settings.loss import LossConfig

    with pytest.raises(ValueError, match=named):
        LossOptions(**settings)
    with pytest.raises(ValueError, match=named):
        LossConfig(**settings)


def test_the_config_has_every_option_and_its_default():
    from pipeline.settings.loss import LossConfig

    assert LossConfig().options() == LossOptions()
    assert LossConfig(kind="elsa").options().needs_others and LossConfig(negatives="catalogue").options().columns == {
        "negatives": "catalogue", "uniform": 0, "others": False,
    }  # fmt: skip
