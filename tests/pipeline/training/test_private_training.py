"""Private training: what one user can change is bounded, the noise is what the accountant counts on, nothing else leaks."""

import json
import math

import dp_accounting
import keras
import numpy as np
import pytest
from dp_accounting.pld import PLDAccountant

from data.histories import Histories
from data.private_batches import PrivateBatches
from pipeline.metrics.examples import positive_histories
from pipeline.retrieval.train_retrieval import new_towers, task_tables, tower_config, train_retrieval
from pipeline.settings.config import ConfigError, RetrievalConfig, load_config
from pipeline.stage import StageError
from pipeline.training.epochs import seed_everything
from pipeline.training.privacy_budget import epsilon_spent, noise_multiplier
from pipeline.training.private_training import ENTROPY, PrivateTraining
from tests.pipeline.training_world import make_world

PRIVATE = [
    "retrieval.privacy.epsilon=3.0",
    "retrieval.user_id=false",
    "retrieval.dropout=0.0",
    "retrieval.loss.negatives=catalogue",
    "linear.parts=[]",
]
SMALL = ["retrieval.width=6", "retrieval.history_length=4", "retrieval.batch_size=10", "retrieval.epochs=3"]
STILL = ["retrieval.id_dropout=0.0", "retrieval.modality_dropout=0.0", "retrieval.privacy.events_per_user=4"]
CLIP, USERS = 0.05, 30


def config_of(*overrides):
    return load_config(None, [*PRIVATE, *SMALL, *STILL, *overrides]).retrieval


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("private"))


@pytest.fixture(scope="module", params=["attention", "sum"])
def case(request, world):
    """A task, a batch of every user in two blocks of which the last is half empty, and each user's gradient [U, P]."""
    _, dataset, store = world
    task, batch = make_task(dataset, store, dataset.counts, request.param)
    return task, batch, single_gradients(task, batch), summing(task)


def make_task(dataset, store, counts, history="attention"):
    from pipeline.training.private_task import PrivateTask

    config = config_of(f"retrieval.history={history}")
    schema = dataset.schema.with_modalities({"text": store.widths["text"]}, store.frames)
    seed_everything(1)
    two_tower = new_towers(dataset, schema, tower_config(config, ("text",)))
    tables = {**task_tables(dataset, store, two_tower), "counts": counts}
    task = PrivateTask(two_tower, **tables, clip=CLIP, noise_multiplier=0.0, users_per_batch=USERS, block=20)
    batches = PrivateBatches(
        positive_histories(dataset, ("train",)), users=USERS, users_per_batch=USERS, events_per_user=4,
        history_length=4, ordered=True, entropy=(5,), block=20, noise_width=task.gradient_width,
    )  # fmt: skip
    batch = next(batches.epoch(0))
    return task, {**batch, "noise": np.zeros(task.gradient_width, np.float32)}


def single_gradients(task, batch):
    """[U, P]: one tape through both towers, one user after the other."""
    import tensorflow as tf

    profile = keras.ops.convert_to_numpy(task.tables["profile"])
    values = [variable.value for variable in (*task.item_variables, *task.other_variables)]

    @tf.function(autograph=False)
    def gradient_of(*user):
        with tf.GradientTape() as tape:
            items = task.embed_items(tf.range(task.two_tower.schema.item_rows), training=True)
            loss = task.user_loss(items, *user)
        gradient = tape.gradient(loss, values, unconnected_gradients="zero")
        return tf.concat([tf.reshape(tf.convert_to_tensor(part), [-1]) for part in gradient], axis=0)

    rows = []
    for user in np.flatnonzero(batch["weight"].sum(axis=1)):
        one = profile[batch["user"][user]], *(batch[name][user] for name in ("target", "history", "weight"))
        rows.append(gradient_of(*map(tf.constant, one)).numpy())
    return np.stack(rows)


def summing(task):
    """Batch -> sum of the clipped gradients [P]."""
    import tensorflow as tf

    total = tf.function(task.summed_gradients, autograph=False)
    return lambda batch: total({name: tf.constant(part) for name, part in batch.items()})[0].numpy()


def without(batch, users):
    """The batch of a data set in which nothing of these users is left."""
    gone = np.isin(batch["user"], users)
    emptied = {name: np.where(gone.reshape(-1, *[1] * (batch[name].ndim - 1)), 0, batch[name])
               for name in ("user", "target", "history", "weight")}  # fmt: skip
    return {**batch, **{name: part.astype(batch[name].dtype) for name, part in emptied.items()}}


def test_clipped_sum_equals_a_loop_over_users_and_a_user_more_moves_it_by_at_most_the_clip(case):
    _, batch, gradients, summed = case
    lengths = np.linalg.norm(gradients, axis=1)
    assert len(gradients) == USERS and (lengths > CLIP).any()
    clipped = gradients * np.minimum(1.0, CLIP / lengths)[:, None]
    total = summed(batch)
    np.testing.assert_allclose(total, clipped.sum(axis=0), atol=1e-5)
    for user in (1, 17, 30):
        moved = total - summed(without(batch, [user]))
        np.testing.assert_allclose(moved, clipped[np.flatnonzero(batch["user"] == user)[0]], atol=1e-5)
        assert np.linalg.norm(moved) <= CLIP * (1 + 1e-4)
    assert np.linalg.norm(summed(without(batch, range(2, 31)))) <= CLIP * (1 + 1e-6)


def test_without_noise_and_clipping_a_step_is_plain_sgd(case):
    task, batch, gradients, _ = case
    before = [np.array(variable) for variable in (*task.item_variables, *task.other_variables)]
    clip, rate = task.clip, 0.5
    expected = rate * gradients.mean(axis=0)
    task.clip = 1e6
    task.compile(optimizer=keras.optimizers.SGD(rate))
    task.train_step((batch,))
    after = [np.array(variable) for variable in (*task.item_variables, *task.other_variables)]
    moved = np.concatenate([np.ravel(old - new) for old, new in zip(before, after, strict=True)])
    np.testing.assert_allclose(moved, expected, atol=1e-5)
    assert np.abs(moved).max() > 1e-3
    # Every weight gets noise of deviation sigma C / U, those of items that nobody chose too.
    task.clip, task.noise_multiplier = clip, 3.0
    noise = np.random.default_rng(0).standard_normal(task.gradient_width, np.float32)
    task.train_step(({**without(batch, range(1, 31)), "noise": noise},))
    noisy = np.concatenate([np.ravel(np.array(variable)) for variable in (*task.item_variables, *task.other_variables)])
    steps = (np.concatenate([np.ravel(part) for part in after]) - noisy) / rate
    np.testing.assert_allclose(steps, 3.0 * CLIP / USERS * noise, atol=1e-5)
    task.noise_multiplier = 0.0
    for variable, value in zip((*task.item_variables, *task.other_variables), before, strict=True):
        variable.assign(value)


def test_who_chose_what_is_not_in_the_task_beside_the_gradients(world):
    _, dataset, store = world
    nothing = np.zeros_like(dataset.counts)
    (one, _), (other, _) = (make_task(dataset, store, counts) for counts in (dataset.counts, nothing))
    assert (dataset.counts[1:] > 0).any() and len(one.variables) == len(other.variables) > 10
    for value, same in zip(one.variables, other.variables, strict=True):
        np.testing.assert_array_equal(np.array(value), np.array(same), err_msg=value.path)
    np.testing.assert_array_equal(one.all_item_embeddings(), other.all_item_embeddings())


def draws(users_per_batch, histories, users, **options):
    settings = {"events_per_user": 3, "history_length": 2, "ordered": True, "entropy": (1, 2), "block": 1, "noise_width": 0}
    return PrivateBatches(histories, users=users, users_per_batch=users_per_batch, **{**settings, **options})


def test_every_user_is_drawn_alone_and_brings_a_bounded_number_of_earlier_known_events():
    users, events = 400, 7
    who = np.repeat(np.arange(1, users + 1), events)
    what, when = np.tile(np.arange(1, events + 1), users), np.tile(np.arange(events), users)
    histories = Histories.from_events(who, what, when, user_rows=users + 1)
    batches = draws(80, histories, users)
    met = np.zeros((200, users))
    for number in range(200 // len(batches)):
        for step, batch in enumerate(batches.epoch(number)):
            met[number * len(batches) + step, batch["user"][batch["user"] > 0] - 1] += 1
    assert met.max() == 1
    # Sizes are binomial: mean 80, variance 64; two users come independently of each other.
    assert met.sum(axis=1).mean() == pytest.approx(80, abs=5 * 8 / math.sqrt(200))
    assert 40 < met.sum(axis=1).var() < 100
    assert abs(np.corrcoef(met[:, 0], met[:, 1])[0, 1]) < 0.3
    real = batch["user"] > 0
    assert (batch["weight"][real].sum(axis=1) == 3).all()
    assert all(len(set(line)) == 3 for line in batch["target"][real])
    # Item n was chosen at time n - 1, so the two before it are n - 1 and n - 2.
    before = np.maximum(batch["target"][real][:, :, None] - np.array([1, 2]), 0)
    np.testing.assert_array_equal(batch["history"][real], before)
    # A user who has done nothing changes nobody else's draw.
    kept = who != 5
    fewer = draws(80, Histories.from_events(who[kept], what[kept], when[kept], user_rows=users + 1), users)
    for one, other in zip(batches.epoch(3), fewer.epoch(3), strict=True):
        assert set(one["user"]) - {5} == set(other["user"]) - {5}


def test_noise_is_standard_normal_and_new_at_every_step():
    histories = Histories.from_events(np.array([1, 2]), np.array([1, 1]), np.zeros(2, int), user_rows=3)
    batches = draws(1, histories, 2, noise_width=50_000)
    noise = np.stack([batch["noise"] for number in range(2) for batch in batches.epoch(number)])
    assert noise.mean() == pytest.approx(0, abs=5 / math.sqrt(noise.size))
    assert noise.std() == pytest.approx(1, abs=5 / math.sqrt(2 * noise.size))
    assert np.abs(np.corrcoef(noise) - np.eye(len(noise))).max() < 0.03
    again = next(draws(1, histories, 2, noise_width=50_000).epoch(1, 1))
    np.testing.assert_array_equal(noise[3], again["noise"])
    other = next(draws(1, histories, 2, noise_width=50_000, entropy=(1, 3)).epoch(0))
    assert np.abs(other["noise"] - noise[0]).max() > 1


@pytest.mark.parametrize(("noise", "rate", "steps"), [(1.5, 0.1, 40), (4.0, 0.5, 25)])
def test_epsilon_is_the_accountants(noise, rate, steps):
    accountant = PLDAccountant()
    accountant.compose(dp_accounting.PoissonSampledDpEvent(rate, dp_accounting.GaussianDpEvent(noise)), steps)
    assert epsilon_spent(noise, 1e-4, rate, steps) == pytest.approx(accountant.get_epsilon(1e-4), rel=5e-3)
    # Rounding is on the safe side, and the multiplier is the least that will do.
    assert epsilon_spent(noise, 1e-4, rate, steps) >= accountant.get_epsilon(1e-4)
    found = noise_multiplier(2.0, 1e-4, rate, steps)
    assert epsilon_spent(found, 1e-4, rate, steps) <= 2.0 < epsilon_spent(0.99 * found, 1e-4, rate, steps)


def test_an_epsilon_that_protects_nobody_is_refused():
    with pytest.raises(StageError, match=r"epsilon: 100000 asks for less noise than 0\.1 of the clip"):
        noise_multiplier(1e5, 1e-4, 0.1, 3)


@pytest.mark.parametrize(
    "wrong",
    [
        "retrieval.user_id=true", "retrieval.dropout=0.1", "retrieval.history=transformer", "retrieval.accumulation=2",
        "retrieval.loss.negatives=batch", "retrieval.loss.exclude_positives=true", "retrieval.side.alignment=0.1",
        "retrieval.sparse_updates=true", "retrieval.precision=bfloat16", "retrieval.loss.kind=sigmoid",
        "retrieval.loss.event_weights={purchase = 2.0}", 'linear.parts=["spectral"]', "data.k_core=5",
        "data.anomaly_share=0.1", "encoders.text.train=lora", "encoders.image=tuned:runs/old/finetune/image",
    ],
)  # fmt: skip
def test_what_would_let_events_through_is_refused_by_name(wrong):
    name = wrong.partition("=")[0]
    with pytest.raises(ConfigError, match=r"retrieval\.privacy\.epsilon: with privacy ") as refusal:
        load_config(None, [*PRIVATE, *SMALL, wrong])
    assert f"{'retrieval.side' if '.side.' in name else name} must be " in str(refusal.value)
    load_config(None, [*PRIVATE, *SMALL])


def test_other_backends_devices_and_warm_starts_are_refused(world, tmp_path, monkeypatch):
    dataset = world[1]
    with pytest.raises(ValueError, match=r"retrieval\.privacy\.epsilon: .*warm start"):
        PrivateTraining(config_of(), dataset, tmp_path, warm=True)
    with pytest.raises(ValueError, match="2 devices"):
        PrivateTraining(config_of(), dataset, tmp_path, replicas=2)
    with pytest.raises(ValueError, match=r"retrieval\.user_id"):
        PrivateTraining(RetrievalConfig(), dataset, tmp_path)
    with pytest.raises(ValueError, match="at most the number of users, 30, received 31"):
        training = PrivateTraining(config_of("retrieval.batch_size=31"), dataset, tmp_path)
        task_of(training, world)
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(ValueError, match="received jax"):
        PrivateTraining(config_of(), dataset, tmp_path)


def task_of(training, world):
    _, dataset, store = world
    schema = dataset.schema.with_modalities({}, {})
    two_tower = new_towers(dataset, schema, tower_config(training.config, ()))
    return training.make_task(two_tower, task_tables(dataset, store, two_tower), positive_histories(dataset, ("train",)))


def test_a_private_training_tells_what_it_spent_runs_to_its_end_and_hides_its_secret(world, tmp_path, monkeypatch):
    import pipeline.retrieval.train_retrieval as module

    _, dataset, store = world
    # Validation that falls from epoch to epoch would stop other trainings and choose the first.
    figures = iter((0.9, 0.5, 0.1))
    monkeypatch.setattr(module, "validation_ndcg", lambda *_: next(figures))
    out, checkpoints = tmp_path / "out", tmp_path / "checkpoints"
    out.mkdir()
    config = config_of("retrieval.patience=1", "retrieval.history=sum")
    counts = train_retrieval(
        dataset, store, out, checkpoints, config, modalities=("text",), progress=lambda *_: None
    )  # fmt: skip
    log = json.loads((out / "history.json").read_text())
    spent = [row["epsilon"] for row in log]
    assert len(log) == 3 and spent == sorted(spent) and counts["best_epoch"] == 2
    account = counts["privacy"]
    assert 2.9 < account["epsilon"] <= 3.0 and account["epsilon"] == spent[-1]
    assert (account["unit"], account["delta"], account["steps"], account["sampling_rate"]) == ("user", 0.03, 9, 1 / 3)
    assert account["epsilon"] == epsilon_spent(account["noise_multiplier"], 0.03, 1 / 3, 9)
    # The secret stays with the checkpoints and is in nothing that is kept.
    secret = (checkpoints / ENTROPY).read_text()
    assert all(number not in path.read_text() for number in map(str, json.loads(secret)) for path in out.glob("*.json"))
    assert (checkpoints / ENTROPY).stat().st_mode & 0o077 == 0
