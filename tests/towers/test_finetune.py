"""Fine-tuning in the towers: what learns, that an untrained adapter changes nothing, and that a step is the exact one."""

import keras
import numpy as np
import pytest

from data.schema import Schema
from towers.config import TowerConfig
from towers.finetune import TrainableEncoder, apply_changes, blocks_of, choose_trained
from towers.finetune_optimizer import TwoRateAdamW
from towers.finetune_task import FinetuneTask
from towers.finetuned_encoder import TunedDescription, TunedEncoder, save_tuned
from towers.losses import in_batch_softmax_loss
from towers.task import RetrievalTask
from towers.two_tower import TwoTower

ITEMS, TOKENS, WIDTH = 12, 6, 8
BATCH = {
    "user": np.array([1, 2, 3, 1], np.int32),
    "items": np.arange(ITEMS + 1, dtype=np.int32),
    "target": np.array([1, 4, 7, 9], np.int32),
    "history": np.array([[2, 3], [5, 0], [0, 0], [1, 2]], np.int32),
    "weight": np.ones(4, np.float32),
    "columns": np.array([0, 1, 4, 7, 9], np.int32),
    "copies": np.array([0, 1, 1, 1, 1], np.float32),
    "own": np.array([1, 2, 3, 4], np.int32),
}


value = keras.ops.convert_to_numpy


class TinyEncoder:
    """Three transformer layers over a vocabulary of twenty, mean-pooled: what the protocol asks of an encoder."""

    name, fingerprint, modality, width, size = "tiny", "0" * 16, "text", WIDTH, 100

    def __init__(self, seed=0):
        import keras_hub

        keras.utils.set_random_seed(seed)
        backbone = keras_hub.models.BertBackbone(20, 3, 2, WIDTH, 16, max_sequence_length=TOKENS, dropout=0.0)
        mask = backbone.input["padding_mask"]
        states = backbone.output["sequence_output"]
        weights = keras.ops.cast(mask, states.dtype)[..., None]
        pooled = keras.ops.sum(states * weights, axis=1) / keras.ops.maximum(keras.ops.sum(weights, axis=1), 1.0)
        self.model = keras.Model(backbone.input, pooled)
        self.model.backbone = backbone
        for variable in self.model.weights:  # BERT starts at 0.02: too near to zero to tell anything apart
            if "kernel" in variable.path or "embeddings" in variable.path:
                variable.assign(20 * variable.value)

    def tensors(self, batch):
        return batch

    def encode(self, batch):
        return keras.ops.convert_to_numpy(self.model(batch, training=False))


def tokens(seed=0):
    rng = np.random.default_rng(seed)
    ids = rng.integers(1, 20, (ITEMS + 1, TOKENS)).astype(np.int32)
    return {"token_ids": ids, "segment_ids": 0 * ids, "padding_mask": np.ones_like(ids)}


def batch_with(drawn):
    drawn = np.asarray(drawn, np.int32)
    rows = BATCH["items"][drawn]
    return {**BATCH, "drawn_text": drawn, **{f"input_text_{key}": value[rows] for key, value in tokens().items()}}


def make_task(encoder, kind=FinetuneTask, train="full", **settings):
    """Towers without dropout over the encoder's own vectors."""
    keras.utils.set_random_seed(1)
    schema = Schema(user_rows=4, item_rows=ITEMS + 1, modalities={"text": WIDTH})
    config = TowerConfig(
        width=4, history_length=2, id_dropout=0, modality_dropout=0, user_id_dropout=0, dropout=0, seed=3
    )
    features = encoder.encode(tokens())
    features[0] = 0
    present = np.arange(ITEMS + 1)[:, None] > 0
    tables = {
        "features": {"text": features},
        "present": present,
        "profile": np.zeros((4, 0), np.int32),
        "counts": np.arange(ITEMS + 1),
    }
    if kind is RetrievalTask:
        return RetrievalTask(TwoTower(schema, config), **tables)
    trainable = TrainableEncoder(encoder, train, **settings)
    return FinetuneTask(TwoTower(schema, config), {"text": trainable}, **tables), trainable


def loss_and_gradients(task, batch, variables):
    """By TensorFlow's tape: the plain loop that everything here is compared with."""
    import tensorflow as tf

    with tf.GradientTape() as tape:
        loss = task.compute_loss(x=batch, y_pred=task(batch, training=True))
    gradients = tape.gradient(loss, [variable.value for variable in variables])
    return float(loss), [None if gradient is None else np.asarray(tf.convert_to_tensor(gradient)) for gradient in gradients]


@pytest.mark.parametrize("train", ["lora", "last_k", "full"])
def test_only_what_was_asked_for_learns(train):
    encoder = TinyEncoder()
    total = len(encoder.model.weights)
    trained = choose_trained(encoder.model, train, lora_rank=2, last_k=1)
    paths = [variable.path for variable in trained]
    assert [id(variable) for variable in encoder.model.trainable_variables] == [id(variable) for variable in trained]
    if train == "lora":
        assert len(paths) == 3 * 2 * 2 and all("lora_kernel" in path for path in paths)
        assert len(encoder.model.weights) == total + len(paths)
    elif train == "last_k":
        assert paths and all("transformer_layer_2" in path or "pooled" in path for path in paths)
    else:
        assert len(paths) == total


def test_an_adapter_of_zero_changes_no_vector():
    encoder = TinyEncoder()
    before = encoder.encode(tokens())
    TrainableEncoder(encoder, "lora", lora_rank=4)
    np.testing.assert_array_equal(encoder.encode(tokens()), before)


@pytest.mark.parametrize("train", ["lora", "last_k", "full"])
def test_changes_turn_the_untouched_model_into_the_tuned_one(train):
    encoder, rng = TinyEncoder(), np.random.default_rng(0)
    trainable = TrainableEncoder(encoder, train, lora_rank=2, last_k=1)
    before = encoder.encode(tokens())
    for variable in trainable.trained:
        variable.assign(variable.value + rng.normal(0, 0.3, variable.shape).astype("float32"))
    tuned, untouched = encoder.encode(tokens()), TinyEncoder()
    assert np.abs(tuned - before).max() > 0.01
    apply_changes(untouched.model, trainable.changes())
    np.testing.assert_allclose(untouched.encode(tokens()), tuned, atol=1e-5)
    assert not any("lora" in variable.path for variable in untouched.model.weights)


def test_a_tuned_encoder_asks_as_its_base_does_with_its_own_weights(tmp_path):
    class Asking(TinyEncoder):
        def encode_queries(self, batch):
            return self.encode({**batch, "segment_ids": 1 - batch["segment_ids"]})

    encoder = Asking()
    trainable = TrainableEncoder(encoder, "full")
    for variable in trainable.trained:
        variable.assign(1.5 * variable.value)
    save_tuned(tmp_path, TunedDescription("text", "tiny", encoder.fingerprint, "full"), trainable.changes())
    tuned, plain = TunedEncoder(tmp_path, Asking()), TunedEncoder(tmp_path, TinyEncoder())
    asked = encoder.encode_queries(tokens())
    assert np.abs(asked - encoder.encode(tokens())).max() > 0.01
    np.testing.assert_allclose(tuned.encode_queries(tokens()), asked, atol=1e-5)
    np.testing.assert_array_equal(plain.encode_queries(tokens()), plain.encode(tokens()))


def test_changes_of_another_model_are_refused():
    with pytest.raises(ValueError, match="another encoder"):
        apply_changes(TinyEncoder().model, {"weight_0": np.zeros((3, 3))})


def test_blocks_of_plain_convolutions_go_by_their_names():
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 1, name="stem_conv")(inputs)
    for name in ("block1a", "block1b"):
        x = keras.layers.Conv2D(4, 1, name=f"{name}_expand")(x)
        x = keras.layers.BatchNormalization(name=f"{name}_bn")(x)
    model = keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(x))
    names = [[layer.name for layer in block] for block in blocks_of(model)]
    assert names == [["stem_conv"], ["block1a_expand", "block1a_bn"], ["block1b_expand", "block1b_bn"]]
    with pytest.raises(ValueError, match="3 blocks"):
        choose_trained(model, "last_k", last_k=4)
    assert len(choose_trained(model, "last_k", last_k=1)) == 4
    assert len(choose_trained(model, "lora")) == 6  # no attention: every convolution gets an adapter


def test_an_encoder_without_weights_is_refused():
    from towers.encoders import make_encoder

    with pytest.raises(ValueError, match="pretrained"):
        TrainableEncoder(make_encoder("text", "signal:"), "lora")


def test_every_item_drawn_is_exact_end_to_end_training():
    """Loss and gradients, encoder's included, against the towers written out over the encoder's output."""
    import tensorflow as tf

    encoder = TinyEncoder()
    task, trainable = make_task(encoder)
    task.replace_features("text", np.full((ITEMS + 1, WIDTH), 9.0))  # stale vectors: none of them may be read
    names = task.two_tower.trainable_variables + trainable.trained
    received, gradients = loss_and_gradients(task, batch_with(range(1, ITEMS + 1)), names)
    with tf.GradientTape() as tape:
        vectors = encoder.model(tokens(), training=False)
        present = tf.range(ITEMS + 1)[:, None] > 0
        items, _ = task.two_tower.item_tower(BATCH["items"], {"text": vectors}, present)
        history = tf.gather(items, BATCH["history"])
        profile = np.zeros((4, 0), np.int32)
        queries, _ = task.two_tower.user_tower(BATCH["user"], profile, history, BATCH["history"] > 0)
        expected = in_batch_softmax_loss(
            queries,
            tf.gather(items, BATCH["target"]),
            candidate_rows=BATCH["target"],
            log_q=np.log(np.maximum(np.arange(ITEMS + 1), 1) / 78.0).astype("float32")[BATCH["target"]],
            scale=task.two_tower.scale,
            weights=BATCH["weight"],
        )
    assert received == pytest.approx(float(expected), abs=1e-5)
    for variable, gradient, wanted in zip(
        names, gradients, tape.gradient(expected, [variable.value for variable in names]), strict=True
    ):
        if wanted is None:
            assert gradient is None, variable.path
        else:
            np.testing.assert_allclose(gradient, tf.convert_to_tensor(wanted), rtol=1e-5, atol=1e-5, err_msg=variable.path)
    assert max(np.abs(gradient).max() for gradient in gradients[-40:] if gradient is not None) > 1e-4


def test_nothing_drawn_is_plain_retrieval_training():
    encoder = TinyEncoder()
    plain = make_task(encoder, RetrievalTask)
    task, _ = make_task(encoder)
    loss, gradients = loss_and_gradients(task, batch_with([0]), task.two_tower.trainable_variables)
    expected, wanted = loss_and_gradients(plain, BATCH, plain.two_tower.trainable_variables)
    assert loss == pytest.approx(expected, abs=1e-6)
    for gradient, other in zip(gradients, wanted, strict=True):
        np.testing.assert_allclose(gradient, other, atol=1e-6)


def test_drawn_items_share_the_gradient():
    """While the vectors in the table are fresh, gradients over parts of the items add up to that over all of them."""
    encoder = TinyEncoder()
    task, trainable = make_task(encoder)
    # The pooler is not used by the mean; its gradient does not exist.
    names = [variable for variable in trainable.trained if "pooled" not in variable.path]
    task.tables["features_text"].assign(encoder.encode(tokens()))
    parts = [loss_and_gradients(task, batch_with(drawn), names)[1] for drawn in ([1, 2, 3, 4, 5], [6, 7, 8, 9, 10, 11, 12])]
    whole = loss_and_gradients(task, batch_with(range(1, ITEMS + 1)), names)[1]
    for one, other, both, variable in zip(*parts, whole, names, strict=True):
        # The table is fp16: vectors that are not drawn differ in the fourth digit.
        np.testing.assert_allclose(one + other, both, atol=5e-4 + 0.02 * np.abs(both).max(), err_msg=variable.path)


def test_a_step_writes_back_what_it_computed():
    encoder = TinyEncoder()
    task, _ = make_task(encoder)
    task.replace_features("text", np.zeros((ITEMS + 1, WIDTH)))
    task(batch_with([3, 7, 0]), training=True)
    table, exact = task.features("text"), encoder.encode(tokens())
    np.testing.assert_allclose(table[[3, 7]], exact[[3, 7]], rtol=1e-3, atol=1e-3)
    assert not table[[0, 1, 2, 4, 5, 6, 8]].any()
    task(batch_with([5]), training=False)
    assert not task.features("text")[5].any()


def test_training_moves_towers_and_adapters_and_lowers_the_loss():
    encoder = TinyEncoder()
    task, trainable = make_task(encoder, train="lora", lora_rank=2)
    frozen = [value(variable) for variable in encoder.model.non_trainable_variables]
    optimizer = TwoRateAdamW(0.01, ratios=[(trainable.trained, 2.0)], weight_decay=0.0)
    task.compile(optimizer=optimizer, jit_compile=True)
    batch = batch_with([1, 4, 7, 9, 2, 3])
    losses = task.fit(((batch,) for _ in range(40)), steps_per_epoch=20, epochs=2, verbose=0).history["loss"]
    assert losses[1] < losses[0] and np.isfinite(losses).all()
    moved = [float(np.abs(value(variable)).max()) for variable in trainable.trained if "kernel_b" in variable.path]
    assert min(moved) > 0.01
    for variable, before in zip(encoder.model.non_trainable_variables, frozen, strict=True):
        np.testing.assert_array_equal(value(variable), before)


def test_two_rates_and_weight_decay_for_the_towers_alone():
    tower, encoder = keras.Variable([1.0, 1.0]), keras.Variable([1.0, 1.0])
    schedule = keras.optimizers.schedules.CosineDecay(0.0, 10, warmup_target=0.1, warmup_steps=2)
    optimizer = TwoRateAdamW(schedule, ratios=[([encoder], 0.1)], weight_decay=0.5)
    gradient = keras.ops.convert_to_tensor([1.0, -1.0])
    steps = []
    for _ in range(3):
        before = np.stack([value(tower), value(encoder)])
        optimizer.apply([gradient, gradient], [tower, encoder])
        steps.append(np.stack([value(tower), value(encoder)]) - before)
    np.testing.assert_allclose(steps[0], 0, atol=1e-7)  # warm-up starts at nothing
    for step, rate in zip(steps[1:], (0.05, 0.1), strict=True):  # Adam's step on a constant gradient is the rate
        np.testing.assert_allclose(step[1], [-0.1 * rate, 0.1 * rate], rtol=1e-3)
        assert (step[0] < [-rate, rate]).all()  # decay pulls both towards zero


def test_accumulation_equals_one_step_on_the_mean_gradient():
    other = {"target": np.array([2, 3, 8, 10], np.int32), "columns": np.array([0, 2, 3, 8, 10], np.int32)}
    batches = [batch_with([1, 2, 3]), {**batch_with([4, 5, 6]), **other}]
    results = []
    for accumulation in (2, 1):
        encoder = TinyEncoder()
        task, trainable = make_task(encoder, train="lora", lora_rank=2)
        for variable in trainable.trained:
            variable.assign(np.random.default_rng(0).normal(0, 0.1, variable.shape))
        task.replace_features("text", encoder.encode(tokens()))
        variables = task.trainable_variables
        optimizer = TwoRateAdamW(
            0.01, ratios=[(trainable.trained, 0.1)], weight_decay=0.01, global_clipnorm=1.0, accumulation=accumulation
        )
        optimizer.build(variables)
        gradients = [loss_and_gradients(task, batch, variables)[1] for batch in batches]
        if accumulation == 2:
            task.replace_features("text", encoder.encode(tokens()))
            task.compile(optimizer=optimizer, jit_compile=False)
            task.fit(((batch,) for batch in batches), steps_per_epoch=2, epochs=1, verbose=0)
        else:
            optimizer.apply([keras.ops.convert_to_tensor((a + b) / 2) for a, b in zip(*gradients, strict=True)], variables)
        results.append([value(variable) for variable in variables])
    for one, other in zip(*results, strict=True):
        np.testing.assert_allclose(one, other, atol=2e-6)


def test_mixed_precision_computes_in_bfloat16_and_keeps_float32_weights():
    encoder = TinyEncoder()
    exact = encoder.encode(tokens())
    trainable = TrainableEncoder(encoder, "lora", lora_rank=2, mixed_precision=True)
    rounded = encoder.model(tokens(), training=False)
    assert "bfloat16" in str(encoder.model.backbone(tokens())["sequence_output"].dtype)
    assert all(variable.dtype == "float32" for variable in trainable.trained)
    difference = np.abs(np.asarray(keras.ops.cast(rounded, "float32")) - exact)
    assert 0 < difference.max() < 0.1 * np.abs(exact).max()
