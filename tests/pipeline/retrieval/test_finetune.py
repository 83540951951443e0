"""The finetune stage on a world whose taste is in the words: what it writes, that it resumes, and what comes after it."""

import dataclasses
import json
import re
import types

import keras
import numpy as np
import pandas as pd
import pytest

from data.batches import RetrievalBatches
from data.features import FeatureWriter
from data.ingest import IngestOptions, ingest
from pipeline.content.encode_plan import find_content
from pipeline.metrics.examples import positive_histories
from pipeline.retrieval.finetune import finetune, make_optimizer, trainable_encoders
from pipeline.retrieval.finetune_batches import EncoderInputs, FinetuneBatches, draw_items, shorten
from pipeline.settings.config import ConfigError, load_config
from pipeline.training.epoch_steps import NonFiniteLossError
from towers.encoders import describe_encoder, make_encoder

WORDS = ["slow", "blue", "loud", "drum", "piano", "night", "rain", "folk"]
SETTINGS = (
    "retrieval.width=8",
    "retrieval.history_length=4",
    "retrieval.batch_size=64",
    "retrieval.learning_rate=0.01",
    "encoders.text.train=lora",
    "encoders.text.lora_rank=2",
    "encoders.text.learning_rate=0.01",
    "encoders.finetune.epochs=3",
    "encoders.finetune.items_per_step=8",
    "encoders.finetune.warmup_steps=2",
    "encoders.finetune.text_tokens=16",
)


def silent(what, done, total):
    return None


@pytest.fixture(scope="module")
def preset(tmp_path_factory):
    """A randomly initialised BERT with a vocabulary of its own, in keras-hub's format."""
    import keras_hub

    keras.utils.set_random_seed(0)
    folder = tmp_path_factory.mktemp("tiny_bert")
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", *WORDS]
    tokenizer = keras_hub.models.BertTokenizer(vocabulary=vocabulary, lowercase=True)
    backbone = keras_hub.models.BertBackbone(len(vocabulary), 2, 2, 16, 32, max_sequence_length=64, dropout=0.0)
    for variable in backbone.weights:
        if "kernel" in variable.path or "embeddings" in variable.path:
            variable.assign(10 * variable.value)
    backbone.save_to_preset(str(folder))
    tokenizer.save_to_preset(str(folder))
    return folder


@pytest.fixture(scope="module")
def spec(preset):
    return f"keras_hub:{preset}"


@pytest.fixture(scope="module")
def world(tmp_path_factory, spec):
    """Forty users who like one of the words, twenty-four items with three words each; four without text."""
    folder = tmp_path_factory.mktemp("world")
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(WORDS, 3, replace=False)) for _ in range(24)]
    rows = []
    for user in range(40):
        liked = [item for item, text in enumerate(texts) if WORDS[user % len(WORDS)] in text]
        others = rng.permutation([item for item in range(24) if item not in liked])[:3].tolist()
        for step, item in enumerate(rng.permutation(liked + others)):
            rows.append((f"u{user}", f"i{item}", 1_600_000_000 + step * 86_400 + user))
    source, ingested, store = folder / "source", folder / "ingest", folder / "encode"
    for path in (source, ingested, store):
        path.mkdir()
    pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp"]).to_parquet(source / "interactions.parquet")
    items = pd.DataFrame({"item_id": [f"i{item}" for item in range(24)], "title": [*texts[:20], "", "", "", ""]})
    items.to_parquet(source / "items.parquet")
    dataset = ingest(source, ingested, IngestOptions())
    encoder = make_encoder("text", spec)
    contents = find_content(dataset.items, "text")
    writer = FeatureWriter(store, dataset.schema.item_rows)
    writer.add("text", encoder.width)
    writer.put("text", list(contents), encoder.encode([content.value for content in contents.values()]))
    return source, dataset, writer.close()


def config_of(spec, *more):
    return load_config(overrides=[f"encoders.text.spec='{spec}'", *SETTINGS, *more])


def run(world, config, folder, checkpoints=None):
    source, dataset, store = world
    out = folder / "out"
    out.mkdir(parents=True)
    counts = finetune(
        dataset, store, source, out, checkpoints or folder / "checkpoints", config, progress=silent, tower_epochs=2
    )
    return out, counts


@pytest.fixture(scope="module")
def tuned(world, spec, tmp_path_factory):
    return run(world, config_of(spec), tmp_path_factory.mktemp("tuned"))


def test_tuning_finds_what_the_words_say(tuned):
    out, counts = tuned
    log = json.loads((out / "history.json").read_text())
    assert len(log) == 3 and log[-1]["loss"] < log[0]["loss"]
    assert counts["valid_ndcg@20"] == max(row["valid_ndcg@20"] for row in log)
    text = counts["encoders"]["text"]
    # Two layers, query and value, A [16, 2, 2] and B [2, 8].
    assert text["trained_weights"] == 2 * 2 * (16 * 2 * 2 + 2 * 8) and text["weights"] > 4000
    assert text["mean_cosine_to_before"] < 0.9999


def test_the_tuned_encoder_is_an_encoder_of_its_own(tuned, spec, world, tmp_path):
    out, _ = tuned
    base, name = make_encoder("text", spec), f"tuned:{out / 'text'}"
    encoder, card = make_encoder("text", name), describe_encoder("text", name)
    assert {field.name: getattr(encoder, field.name, 0) for field in dataclasses.fields(card)} == dataclasses.asdict(card)
    assert card.fingerprint != base.fingerprint and card.name == f"tuned:{base.name}"
    texts = ["slow blue piano", "loud drum", "rain"]
    vectors = encoder.encode(texts)
    assert vectors.shape == (3, base.width) and np.abs(vectors - base.encode(texts)).max() > 1e-3
    np.testing.assert_array_equal(make_encoder("text", name).encode(texts), vectors)
    # Other weights under the same base have another fingerprint: the store never mixes them.
    other = tmp_path / "text"
    other.mkdir()
    (other / "encoder.json").write_text((out / "text" / "encoder.json").read_text())
    with np.load(out / "text" / "weights.npz") as arrays:
        np.savez(other / "weights.npz", **{key: 2 * arrays[key] for key in arrays.files})
    assert describe_encoder("text", f"tuned:{other}").fingerprint != card.fingerprint


@pytest.mark.parametrize("final", [0.02, 0.5])
def test_the_rate_ends_where_the_settings_say(final):
    task = types.SimpleNamespace(trainable_variables=[keras.Variable([1.0])])
    optimizer = make_optimizer(task, {}, config_of("signal:", f"retrieval.final_rate={final}"), steps=100)
    assert float(optimizer._learning_rate(102)) == pytest.approx(final * 0.01, rel=1e-5)


def test_an_optimizer_that_encoders_do_not_learn_by_is_refused():
    with pytest.raises(ConfigError, match=r'retrieval\.optimizer: must be "adamw" where encoders learn.*\(\'text\',\)'):
        config_of("signal:", "retrieval.optimizer=adagrad")
    assert config_of("signal:", "retrieval.optimizer=adagrad", "encoders.text.train=frozen").retrieval.optimizer == "adagrad"


def test_a_tuned_folder_of_another_base_is_refused(tuned, tmp_path):
    out, _ = tuned
    description = json.loads((out / "text" / "encoder.json").read_text())
    (tmp_path / "encoder.json").write_text(json.dumps({**description, "base_fingerprint": "f" * 16}))
    with pytest.raises(FileNotFoundError, match=re.escape("weights.npz")):
        make_encoder("text", f"tuned:{tmp_path}")
    (tmp_path / "weights.npz").write_bytes((out / "text" / "weights.npz").read_bytes())
    for ask in (make_encoder, describe_encoder):
        with pytest.raises(ValueError, match="run the finetune stage again"):
            ask("text", f"tuned:{tmp_path}")


def test_resumed_tuning_equals_undisturbed(world, spec, tuned, tmp_path, monkeypatch):
    import pipeline.retrieval.finetune_loop as module

    real, calls = module.validation_ndcg, []

    def interrupted(*arguments):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(module, "validation_ndcg", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(world, config_of(spec), tmp_path / "first", tmp_path / "kept")
    monkeypatch.setattr(module, "validation_ndcg", real)
    resumed, counts = run(world, config_of(spec), tmp_path / "second", tmp_path / "kept")
    whole, expected = tuned
    assert counts["valid_ndcg@20"] == pytest.approx(expected["valid_ndcg@20"], abs=1e-6)
    with np.load(whole / "text" / "weights.npz") as one, np.load(resumed / "text" / "weights.npz") as other:
        assert one.files == other.files
        for key in one.files:
            np.testing.assert_allclose(other[key], one[key], atol=1e-6)


@pytest.mark.parametrize("train", ["last_k", "full"])
def test_last_blocks_and_all_weights(world, spec, train, tmp_path):
    config = config_of(
        spec, f"encoders.text.train={train}", "encoders.text.last_k=1", "encoders.finetune.epochs=1",
        "encoders.finetune.accumulation=2", "encoders.finetune.mixed_precision=true",
    )  # fmt: skip
    out, counts = run(world, config, tmp_path)
    with np.load(out / "text" / "weights.npz") as arrays:
        changed = sum(array.size for array in arrays.values())
    assert changed == counts["encoders"]["text"]["trained_weights"]
    assert (changed == counts["encoders"]["text"]["weights"]) == (train == "full")
    assert np.isfinite(make_encoder("text", f"tuned:{out / 'text'}").encode(["slow rain"])).all()


def test_encoders_learn_by_the_loss_of_the_settings(world, spec, tmp_path, monkeypatch):
    import pipeline.retrieval.finetune as module

    real, seen = module.run_epochs, []

    def watched(task, batches, *arguments):
        seen.extend([task.retrieval_loss.options, next(batches.epoch(0))])
        return real(task, batches, *arguments)

    monkeypatch.setattr(module, "run_epochs", watched)
    config = config_of(
        spec, "encoders.finetune.epochs=1", "retrieval.loss.negatives=mixed", "retrieval.loss.uniform_negatives=16",
        "retrieval.loss.exclude_positives=true", "retrieval.loss.log_q=streaming",
        "retrieval.loss.event_weights={interaction = 3.0}",
    )  # fmt: skip
    out, _ = run(world, config, tmp_path)
    options, batch = seen
    assert options == config.retrieval.loss.options()
    real_events = batch["weight"] > 0
    assert (batch["weight"][real_events] == 3).all() and batch["copies"].sum() == real_events.sum() + 16
    assert (batch["others"] != batch["own"][:, None]).any()
    assert np.isfinite([row["loss"] for row in json.loads((out / "history.json").read_text())]).all()


def test_non_finite_loss_stops_with_a_clear_error(world, spec, tmp_path):
    config = config_of(spec, "encoders.text.train=full", "encoders.text.learning_rate=1e30")
    with pytest.raises(NonFiniteLossError, match=r"encoders\.<modality>\.learning_rate"):
        run(world, config, tmp_path)


def test_what_cannot_be_tuned_says_why(world, spec):
    store = world[2]
    for overrides, words in (
        (["encoders.text.train=frozen"], "nothing to tune"),
        (["encoders.image.train=full"], "run `encode` with image first"),
        (["encoders.text.spec=signal:"], "must be what the store was encoded with"),
    ):
        with pytest.raises(ValueError, match=words):
            trainable_encoders(config_of(spec, *overrides), store)


def test_batches_draw_the_same_in_every_process_and_only_what_has_content(world, spec):
    source, dataset, store = world
    present = store.present[:, 0]
    settings = {"batch_size": 32, "history_length": 4, "ordered": True, "seed": 0}
    plain = RetrievalBatches(positive_histories(dataset, ("train",)), item_rows=store.item_rows, **settings)
    inputs = {"text": EncoderInputs(make_encoder("text", spec), dataset.items, present, source / "media", 16)}
    batches = [
        list(FinetuneBatches(plain, inputs, items_per_step=6, seed=1).epoch(epoch)) for epoch in (0, 0, 1)
    ]
    drawn = [np.stack([batch["drawn_text"] for batch in epoch]) for epoch in batches]
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert (drawn[0] != drawn[2]).any()
    counts = np.zeros(store.item_rows)
    for batch in batches[0] + batches[2]:
        rows = batch["items"][batch["drawn_text"]]
        assert present[rows[rows > 0]].all() and len(np.unique(rows)) == len(rows) == 6
        assert np.isin(batch["drawn_text"], np.concatenate([batch["target"], batch["history"].ravel()])).all()
        counts[rows] += 1
        expected = inputs["text"].encoder.tensors([dataset.items["title"][rows[0]]])["token_ids"][0, :16]
        np.testing.assert_array_equal(batch["input_text_token_ids"][0], expected)
    assert (counts[present] > 0).mean() > 0.9


def test_drawing_fewer_than_asked_pads_with_row_zero():
    batch = {"items": np.array([0, 3, 4, 9]), "target": np.array([1, 2]), "history": np.array([[3, 0], [0, 0]])}
    has = np.array([True] * 9 + [False])
    assert draw_items(batch, has, 4, np.random.default_rng(0)).tolist() == [1, 2, 0, 0]


def test_a_shortened_text_is_what_a_shorter_preprocessor_makes(preset):
    import keras_hub

    long, short = (
        keras_hub.models.BertTextEmbedderPreprocessor.from_preset(str(preset), sequence_length=length)
        for length in (64, 16)
    )
    texts = ["slow", "blue piano " * 20, "rain folk night"]
    tokens = shorten({key: np.asarray(value) for key, value in long(texts).items()}, 16)
    for key, value in short(texts).items():
        np.testing.assert_array_equal(tokens[key], np.asarray(value))


def test_pictures_are_decoded_when_drawn_and_their_encoder_learns(tmp_path):
    """Users like red or green covers; a vision transformer of two layers is tuned on the files themselves."""
    import keras_hub
    from PIL import Image

    keras.utils.set_random_seed(0)
    preset, source, ingested, kept = (tmp_path / name for name in ("preset", "source", "ingest", "encode"))
    keras_hub.models.ViTBackbone((32, 32, 3), 16, 2, 2, 16, 32, dropout_rate=0.0).save_to_preset(str(preset))
    keras_hub.layers.ViTImageConverter(image_size=(32, 32)).save_to_preset(str(preset))
    (source / "media").mkdir(parents=True)
    ingested.mkdir()
    rng = np.random.default_rng(0)
    for item in range(16):
        pixels = rng.integers(0, 90, (40, 40, 3), dtype=np.uint8)
        pixels[..., item % 2] += 160
        Image.fromarray(pixels).save(source / "media" / f"{item}.png")
    rows = [
        (f"u{user}", f"i{item}", 1_600_000_000 + step * 86_400 + user)
        for user in range(24)
        for step, item in enumerate(rng.permutation([item for item in range(16) if item % 2 == user % 2]))
    ]
    pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp"]).to_parquet(source / "interactions.parquet")
    items = pd.DataFrame({"item_id": [f"i{item}" for item in range(16)], "image": [f"{item}.png" for item in range(16)]})
    items.to_parquet(source / "items.parquet")
    dataset = ingest(source, ingested, IngestOptions())
    overrides = [name.replace("text", "image") for name in SETTINGS if "text_tokens" not in name]
    config = load_config(overrides=[f"encoders.image.spec='keras_hub:{preset}'", *overrides, "encoders.finetune.epochs=1"])
    encoder, writer = make_encoder("image", f"keras_hub:{preset}"), FeatureWriter(kept, dataset.schema.item_rows)
    writer.add("image", encoder.width)
    inputs = EncoderInputs(encoder, dataset.items, np.arange(17) > 0, source / "media", 16)
    for rows_, vectors in inputs.encode_all():
        writer.put("image", rows_, vectors)
    store = writer.close()
    out, counts = run((source, dataset, store), config, tmp_path / "run")
    assert counts["encoders"]["image"]["mean_cosine_to_before"] < 0.99999
    tuned = make_encoder("image", f"tuned:{out / 'image'}")
    pictures = np.stack([inputs._decode(row) for row in (1, 2)])
    assert np.abs(tuned.encode(pictures) - encoder.encode(pictures)).max() > 1e-3
