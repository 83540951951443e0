"""The user tower over kinds of history: loops, who may look at what, newcomers, strangers, and what each learns."""

import keras
import numpy as np
import pytest
from keras import ops

from data.schema import EVENT_KINDS, Schema
from towers.config import TowerConfig
from towers.history import HistoryTransformer, causal_attention, gap_buckets
from towers.transformer import TransformerBlock
from towers.two_tower import TwoTower, load_two_tower
from towers.user import HISTORIES, UserTower

SCHEMA = Schema(user_rows=5, item_rows=9, profile={"age": 4})
L, D = 6, 8


def fill(layer, seed=0):
    rng = np.random.default_rng(seed)
    for weight in layer.trainable_weights:
        weight.assign(rng.normal(0, 0.4, weight.shape).astype("float32"))
    return layer


def tower_of(history, **settings):
    return fill(UserTower(SCHEMA, TowerConfig(width=D, history_length=L, history=history, **settings)))


def requests(rows=4, seed=1):
    rng = np.random.default_rng(seed)
    lengths = np.array([6, 2, 0, 1])[:rows]
    return {
        "user": ops.convert_to_tensor(np.array([1, 2, 3, 0], "int32")[:rows]),
        "profile": ops.convert_to_tensor(np.array([[1], [2], [0], [3]], "int32")[:rows]),
        "history": rng.normal(size=(rows, L, D)).astype("float32"),
        "history_mask": ops.convert_to_tensor(np.arange(L) < lengths[:, None]),
    }


def events(rows=4, seed=2):
    rng = np.random.default_rng(seed)
    kind = rng.integers(1, len(EVENT_KINDS) + 1, (rows, L)).astype("int32")
    return {"kind": ops.convert_to_tensor(kind), "gap": ops.convert_to_tensor(rng.exponential(1e4, (rows, L)))}


def array(values):
    return ops.convert_to_numpy(values)


@pytest.mark.parametrize("kind", HISTORIES)
def test_every_kind_keeps_the_contract(kind, tmp_path):
    two_tower = TwoTower(SCHEMA, TowerConfig(width=D, history_length=L, history=kind))
    tower = fill(two_tower.user_tower)
    inputs = requests()
    queries, told = tower(**inputs)
    np.testing.assert_allclose(np.linalg.norm(array(queries), axis=1), 1.0, rtol=1e-4)  # the newcomer's too
    assert told["person"].shape == (4, D) and told["history"].shape == (4, D)
    padded = {**inputs, "history": inputs["history"] + 9.0 * ~array(inputs["history_mask"])[:, :, None]}
    np.testing.assert_allclose(array(tower(**padded)[0]), array(queries), atol=1e-5)
    for row in range(4):
        single, _ = tower(**{name: value[row : row + 1] for name, value in inputs.items()})
        np.testing.assert_allclose(array(single)[0], array(queries)[row], atol=1e-5)
    positional, _ = tower(inputs["user"], inputs["profile"], inputs["history"], inputs["history_mask"])
    np.testing.assert_array_equal(array(positional), array(queries))
    two_tower.save_to(tmp_path)
    np.testing.assert_array_equal(array(load_two_tower(tmp_path).user_tower(**inputs)[0]), array(queries))


def test_sum_is_the_plain_sum_and_the_person_speaks_for_newcomers():
    tower, inputs = tower_of("sum"), requests()
    queries = array(tower(**inputs)[0])
    for row in range(4):
        length = int(array(inputs["history_mask"])[row].sum())
        total = inputs["history"][row, :length].sum(axis=0)
        if not length:
            profile = np.asarray(tower.profile_embeddings[0].embeddings)
            total = np.asarray(tower.id_embedding.embeddings)[3] + profile[0]
        np.testing.assert_allclose(queries[row], total / np.linalg.norm(total), rtol=1e-4, atol=1e-5)
    # No dense layer: two tables of vectors are all it learns.
    assert [tuple(weight.shape) for weight in tower.trainable_weights] == [(5, D), (4, D)]
    with pytest.raises(ValueError, match="'median'"):
        tower_of("median")


@pytest.mark.parametrize("kind", HISTORIES)
def test_without_user_ids_there_is_no_table_of_users(kind):
    tower = tower_of(kind, user_id=False)
    assert tuple(tower.id_embedding.embeddings.shape) == (1, D)
    inputs = requests()
    strangers = {**inputs, "user": ops.zeros((4,), "int32")}
    np.testing.assert_array_equal(array(tower(**inputs)[0]), array(tower(**strangers)[0]))


def test_transformer_block_equals_the_loop():
    block = TransformerBlock(D, 2)
    block.build((None, None, D))
    fill(block, 3)
    rng = np.random.default_rng(4)
    tokens, context = rng.normal(size=(2, 3, D)).astype("float32"), rng.normal(size=(2, 5, D)).astype("float32")
    allowed = rng.random((2, 3, 5)) < 0.6
    allowed[:, :, 0] = True
    out = array(block(tokens, allowed=ops.convert_to_tensor(allowed), context=ops.convert_to_tensor(context)))

    def norm(x, layer):
        scaled = (x - x.mean()) / np.sqrt(x.var() + 1e-6)
        return scaled * np.asarray(layer.gamma) + np.asarray(layer.beta)

    def dense(x, layer):
        return x @ np.asarray(layer.kernel) + np.asarray(layer.bias)

    for b in range(2):
        for t in range(3):
            near = norm(tokens[b, t], block.norm)
            query = dense(near, block.query)
            taken = np.zeros(D)
            for part in (slice(0, 4), slice(4, 8)):
                scores, values = [], []
                for s in np.flatnonzero(allowed[b, t]):
                    seen = norm(context[b, s], block.norm)
                    scores.append(query[part] @ dense(seen, block.key)[part] / 2.0)
                    values.append(dense(seen, block.value)[part])
                weights = np.exp(scores) / np.exp(scores).sum()
                taken[part] = weights @ np.array(values)
            middle = tokens[b, t] + dense(taken, block.mixed)
            hidden = array(ops.gelu(ops.convert_to_tensor(dense(norm(middle, block.middle_norm), block.hidden))))
            np.testing.assert_allclose(out[b, t], middle + dense(hidden, block.output_dense), rtol=1e-3, atol=1e-3)
    with pytest.raises(ValueError, match="divide the width 8, received 3"):
        TransformerBlock(8, 3)


@pytest.mark.parametrize(("length", "block"), [(6, 64), (6, 2), (7, 3), (9, 4), (5, 1), (8, 8)])
def test_blocked_attention_equals_a_full_mask(length, block):
    """A block of queries at a time gives what one mask over all pairs gives: itself and block - 1 older ones."""
    layer = TransformerBlock(D, 2)
    layer.build((None, None, D))
    fill(layer, 5)
    rng = np.random.default_rng(6)
    tokens = rng.normal(size=(3, length, D)).astype("float32")
    mask = np.arange(length) < np.array([length, length // 2, 1])[:, None]
    age = np.arange(length)[None, :] - np.arange(length)[:, None]
    allowed = ((age >= 0) & (age < block))[None] & mask[:, None, :]
    full = array(layer(ops.convert_to_tensor(tokens), allowed=ops.convert_to_tensor(allowed)))
    parts = array(causal_attention(layer, ops.convert_to_tensor(tokens), ops.convert_to_tensor(mask), block))
    np.testing.assert_allclose(parts[mask], full[mask], rtol=1e-3, atol=1e-4)


def test_transformer_is_causal_and_ordered():
    tower, inputs = tower_of("transformer", history_block=3), requests()
    transformer = tower.transformer
    mask = inputs["history_mask"]
    swapped = inputs["history"][:, [1, 0, 2, 3, 4, 5]]
    before, after = (array(transformer(value, mask)) for value in (inputs["history"], swapped))
    assert np.abs(before - after)[:2].max() > 1e-3 and np.abs(before[2]).max() == 0  # nothing is pooled from nothing
    # What came later must not reach an older token: cut the newest step off and the older token is what it was.
    layer = transformer.blocks[0]
    full = array(causal_attention(layer, ops.convert_to_tensor(inputs["history"]), mask, 3))
    older = array(causal_attention(layer, ops.convert_to_tensor(inputs["history"][:, 1:]), mask[:, 1:], 3))
    np.testing.assert_allclose(full[0, 1:], older[0], rtol=1e-4, atol=1e-5)


def test_events_matter_to_the_transformer_unknown_ones_do_not_and_dropout_hides_them():
    tower, inputs, known = tower_of("transformer", event_dropout=0.9), requests(), events()
    plain, told = (array(tower(**inputs, events=value)[0]) for value in (None, known))
    assert np.abs(plain - told)[[0, 1]].max() > 1e-3
    unknown = {"kind": ops.zeros((4, L), "int32"), "gap": ops.full((4, L), -1.0)}
    np.testing.assert_allclose(array(tower(**inputs, events=unknown)[0]), plain, atol=1e-5)
    one = {name: ops.repeat(value[:1], 400, axis=0) for name, value in inputs.items()}
    many = {name: ops.repeat(value[:1], 400, axis=0) for name, value in known.items()}
    quiet = tower_of("transformer", event_dropout=0.9, dropout=0.0, user_id_dropout=0.0)
    drawn = array(quiet(**one, events=many, training=True)[0])
    hidden = (np.abs(drawn - array(quiet(**one)[0])) < 1e-5).all(axis=1).mean()
    shown = (np.abs(drawn - array(quiet(**one, events=many)[0])) < 1e-5).all(axis=1).mean()
    assert 0.8 < hidden < 0.97 and abs(hidden + shown - 1) < 1e-6
    for kind in ("mean", "attention", "sum"):
        other = tower_of(kind)
        np.testing.assert_array_equal(array(other(**inputs, events=known)[0]), array(other(**inputs)[0]))


def test_gap_buckets_equal_the_loop():
    gaps = np.array([-1.0, -0.5, 0.0, 0.99, 1.0, 3.0, 59.0, 3600.0, 86400.0, 1e9, 1e20, np.nan], "float32")
    expected = [
        0 if not gap >= 0 else 1 + min(int(np.floor(np.log2(1 + np.float64(gap)) + 1e-6)), 31) for gap in gaps
    ]
    assert array(gap_buckets(ops.convert_to_tensor(gaps))).tolist() == expected


def test_a_long_history_takes_memory_in_proportion():
    """No score matrix of L x L: with 20,000 events one layer's would be 1.6 GB for a single user and head."""
    length = 20_000
    transformer = HistoryTransformer(length, D, layers=2, heads=1, block=32)
    history = np.random.default_rng(0).normal(size=(1, length, D)).astype("float32")
    pooled = array(transformer(ops.convert_to_tensor(history), ops.ones((1, length), "bool")))
    assert pooled.shape == (1, D) and np.isfinite(pooled).all()
    with pytest.raises(ValueError, match="received 0 and 64"):
        HistoryTransformer(4, D, layers=0)


def task_of_the_last(kind, answer):
    """Train a tower so that the query tells a class from the history; returns the accuracy on histories not seen."""
    rng = np.random.default_rng(0)
    count, classes = 2000, 4
    items = rng.normal(size=(classes, D)).astype("float32")
    steps = rng.integers(0, classes, (count, L))
    lengths = rng.integers(2, L + 1, count)
    mask = np.arange(L) < lengths[:, None]
    kinds = rng.integers(1, 3, (count, L)).astype("int32")
    kinds[np.arange(count), rng.integers(0, lengths)] = 4  # the one purchase
    labels = steps[:, 0] if answer == "latest" else steps[kinds == 4]
    keras.utils.set_random_seed(1)
    settings = {"user_id": False, "dropout": 0.0, "event_dropout": 0.0, "history_layers": 1}
    tower = UserTower(Schema(2, 5), TowerConfig(width=D, history_length=L, history=kind, **settings))
    history, shown = keras.Input((L, D), name="history"), keras.Input((L,), name="mask", dtype="bool")
    kind_input, gap = keras.Input((L,), name="kind", dtype="int32"), keras.Input((L,), name="gap")
    user, profile = keras.Input((), name="user", dtype="int32"), keras.Input((0,), name="profile", dtype="int32")
    queries, _ = tower(user, profile, history, shown, events={"kind": kind_input, "gap": gap})
    inputs = {"history": history, "mask": shown, "kind": kind_input, "gap": gap, "user": user, "profile": profile}
    model = keras.Model(inputs, keras.layers.Dense(classes)(8.0 * queries))
    model.compile(keras.optimizers.Adam(0.01), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    data = {
        "history": items[steps],
        "mask": mask,
        "kind": kinds,
        "gap": np.full((count, L), -1.0, "float32"),
        "user": np.zeros(count, "int32"),
        "profile": np.zeros((count, 0), "int32"),
    }
    train, test = slice(0, 1600), slice(1600, count)
    model.fit({key: value[train] for key, value in data.items()}, labels[train], batch_size=100, epochs=10, verbose=0)
    predicted = model.predict({key: value[test] for key, value in data.items()}, verbose=0).argmax(axis=1)
    return (predicted == labels[test]).mean()


def test_the_transformer_learns_what_only_order_or_only_kinds_tell():
    assert task_of_the_last("mean", "latest") < 0.8 < 0.95 < task_of_the_last("transformer", "latest")
    assert task_of_the_last("transformer", "purchase") > 0.9
