"""`python -m pipeline run` with a language model that writes and a text encoder that learns, both tiny and random."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from data.enrichment import read_generated
from data.features import FeatureStore
from data.world import WorldConfig, generate_world
from pipeline.__main__ import app
from pipeline.settings.config import load_config
from pipeline.stages.walk import Run
from serving.releases.release import latest_release, verify_release
from tests.towers.tiny_presets import bert, gpt2
from towers.encoders import describe_encoder

pytestmark = pytest.mark.timeout(900)  # a walk through every stage; a minute where nobody else is at work
SETTINGS = [
    "encoders.image=signal:",
    "encoders.audio=signal:",
    "encoders.text.train=lora",
    "encoders.text.lora_rank=2",
    "encoders.finetune.tower_epochs=1",
    "encoders.finetune.epochs=1",
    "encoders.finetune.text_tokens=16",
    "enrich.enabled=true",
    'enrich.fields=["caption"]',
    "enrich.prompts.caption=Say a word.",
    "enrich.prompt_tokens=400",
    "enrich.max_new_tokens=8",
    "retrieval.epochs=1",
    "retrieval.width=16",
    "retrieval.history_length=10",
    "retrieval.batch_size=256",
    "retrieval.ablations=false",
    "linear.parts=[]",
    "ranking.epochs=1",
    "ranking.catch_up_epochs=0",
    "ranking.trees=16",
    "search.epochs=3",
    "index.recall_floor=0.9",
]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Dataset, run folder, settings, and what the command said."""
    folder = tmp_path_factory.mktemp("content_run")
    source, out = folder / "world", folder / "run"
    generate_world(source, WorldConfig(seed=5, items=100, users=80, events=2400))
    bert(folder / "bert")
    gpt2(folder / "gpt2")
    overrides = [*SETTINGS, f"encoders.text.spec=keras_hub:{folder / 'bert'}", f"enrich.preset={folder / 'gpt2'}"]
    words = ["run", "--data", str(source), "--out", str(out)]
    result = CliRunner().invoke(app, words + [part for setting in overrides for part in ("--set", setting)])
    assert result.exit_code == 0, result.output[-3000:]
    return source, out, overrides, result.output


def rows_of(run, ids):
    items = run.dataset().items["item_id"].astype("str").tolist()
    return np.array([items.index(item_id) for item_id in ids], int)


def test_what_was_written_reaches_the_encoder(finished, tmp_path):
    source, out, overrides, _ = finished
    run = Run(source, out, load_config(overrides=overrides))
    generated = read_generated(out / "enrich")
    assert len(generated) and all(generated.values())
    # The same run with what was written left out: it differs in the enriched items' text and in nothing else.
    aside = [*overrides, "enrich.use=false", f"enrich.cache={out.parent / 'enrich-cache'}"]
    plain = Run(source, tmp_path / "plain", load_config(overrides=[*aside, f"encoders.store={tmp_path / 'store'}"]))
    plain.ingest(), plain.enrich(), plain.encode()
    assert read_generated(plain.folder / "enrich") == generated
    with_, without = FeatureStore.open(out / "encode"), FeatureStore.open(plain.folder / "encode")
    enriched = rows_of(run, generated)
    others = np.setdiff1d(np.arange(len(with_.present)), enriched)
    texts = np.asarray(with_.table("text")), np.asarray(without.table("text"))
    assert (np.abs(texts[0][enriched].astype(float) - texts[1][enriched]).max(axis=1) > 1e-3).all()
    np.testing.assert_array_equal(texts[0][others], texts[1][others])
    np.testing.assert_array_equal(with_.table("image"), without.table("image"))


def test_the_tuned_encoder_fills_the_features_that_the_towers_read(finished):
    source, out, overrides, _ = finished
    run = Run(source, out, load_config(overrides=overrides))
    assert run.store_stage == "encode_tuned"
    tuned, frozen = run.store(), FeatureStore.open(out / "encode")
    spec = f"tuned:{out / 'finetune' / 'text'}"
    card = describe_encoder("text", spec)
    said = tuned.info["modalities"]["text"]
    assert said["fingerprint"] == card.fingerprint != frozen.info["modalities"]["text"]["fingerprint"]
    moved = np.abs(np.asarray(tuned.table("text"), float) - np.asarray(frozen.table("text"), float)).max(axis=1)
    present = np.asarray(tuned.present)[:, tuned.modalities.index("text")].astype(bool)
    assert (moved[present] > 0).mean() > 0.9 and not moved[~present].any()
    np.testing.assert_array_equal(tuned.table("image"), frozen.table("image"))
    assert tuned.info["modalities"]["image"]["encoded"] == 0  # the content store knew them
    learned = json.loads((out / "finetune" / "manifest.json").read_text())["counts"]["encoders"]["text"]
    assert 0 < learned["trained_weights"] < learned["weights"] and 0.5 < learned["mean_cosine_to_before"] < 1 + 1e-6


def test_it_ends_in_a_release_and_does_nothing_twice(finished):
    source, out, overrides, said = finished
    assert verify_release(latest_release(out / "releases")).folder.is_dir()
    assert json.loads((out / "report.json").read_text())["retrieval"]["test"]["recall@100"] > 0
    for stage in ("enrich", "encode", "finetune", "encode_tuned"):
        assert f"[{stage}]" in said
    lines = []
    again = Run(source, out, load_config(overrides=overrides), say=lines.append)
    again.enrich(), again.encode(), again.finetune()
    assert len(lines) == 4 and all("unchanged" in line or "skip" in line for line in lines), lines
