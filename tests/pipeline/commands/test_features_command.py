"""`features stats|verify|gc`: the figures are those of the store, damage is told and mended, and gc frees what is unused."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from data.content_folder import shard_names
from data.content_key import content_key, write_content_keys
from data.content_store import ContentStore, DamagedShardWarning
from data.durable_file import WRITING
from data.features import FeatureStore
from pipeline.commands.features import features_app
from pipeline.stage import StageError

ENCODERS = {"text": ("pack:minilm", "aaaa1111", 8), "image": ("signal:", "bbbb2222", 5)}


def keys_of(modality, numbers):
    return [content_key(b"%d" % n, ENCODERS[modality][1], "1") for n in numbers]


def open_store(store, modality):
    return ContentStore.open(store, modality, *ENCODERS[modality], shard_rows=10)


@pytest.fixture
def store(tmp_path):
    for modality, (_, _, width) in ENCODERS.items():
        with open_store(tmp_path / "feature-store", modality) as content:
            content.append(keys_of(modality, range(25)), np.random.default_rng(0).normal(size=(25, width)))
    return tmp_path / "feature-store"


def add_run(folder, **numbers):
    (folder / "encode").mkdir(parents=True)
    write_content_keys(folder / "encode", {modality: keys_of(modality, chosen) for modality, chosen in numbers.items()})
    return folder


def call(*arguments, code=0):
    result = CliRunner().invoke(features_app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result.output


def shards_of(store, modality):
    (folder,) = store.glob(f"{modality}-*")
    return sorted(folder / name for name in shard_names(folder))


def test_stats_count_what_is_there(store):
    shards_of(store, "text")[0].with_name(f"{WRITING}x-1-y").write_bytes(b"half")
    entries = {entry["encoder"]["modality"]: entry for entry in json.loads(call("stats", "--store", store, "--json"))}
    for modality, (name, fingerprint, width) in ENCODERS.items():
        entry = entries[modality]
        expected = {"modality": modality, "name": name, "fingerprint": fingerprint, "width": width}
        size = sum(path.stat().st_size for path in shards_of(store, modality))
        assert entry["encoder"] == expected and entry["bytes"] == size
        assert (entry["vectors"], entry["duplicates"], entry["shards"], entry["damaged"]) == (25, 0, 3, 0)
        assert 0 < entry["cosine_loss"] < 1e-6 and entry["unfinished"] == (modality == "text")
    table = call("stats", "--store", store)
    assert "pack:minilm" in table and "bbbb2222" in table and "50 vectors of 2 encoders" in table


def test_verify_names_the_damage_and_what_to_do(store):
    assert "6 shards" in call("verify", "--store", store)
    broken = shards_of(store, "image")[1]
    content = bytearray(broken.read_bytes())
    content[-50] ^= 1
    broken.write_bytes(content)
    output = call("verify", "--store", store, code=1)
    assert str(broken) in output and "1 damaged" in output and "pipeline encode` again" in output
    assert json.loads(call("stats", "--store", store, "--json"))[0]["damaged"] == 0  # stats do not read vectors
    with pytest.warns(DamagedShardWarning), open_store(store, "image") as content_store:
        found, _ = content_store.lookup(keys_of("image", range(25)))
        content_store.append(keys_of("image", np.flatnonzero(~found)), np.ones(((~found).sum(), 5)))
    assert 5 <= (~found).sum() <= 10
    assert "set aside earlier" in call("verify", "--store", store)
    (entry, _) = json.loads(call("gc", "--store", store, "--json"))
    assert (entry["files"], entry["vectors_kept"], entry["vectors_dropped"]) == (1, 25, 0)
    assert entry["freed"] == len(content)
    assert "set aside" not in call("verify", "--store", store)


def test_verify_looks_at_the_tables_of_a_run(store, tmp_path):
    FeatureStore.write(tmp_path / "run" / "encode", {"text": np.ones((50, 8))}, np.zeros((50, 4), bool))
    assert "encode: whole" in call("verify", "--store", store, "--run", tmp_path / "run")
    path = tmp_path / "run" / "encode" / "text.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert "text.npy: its checksum" in call("verify", "--store", store, "--run", tmp_path / "run", code=1)


def test_gc_without_a_run_keeps_every_vector(store):
    before = {path: path.read_bytes() for path in store.rglob("*.shard")}
    shards_of(store, "text")[0].with_name(f"{WRITING}x-1-y").write_bytes(b"half")
    assert "nothing was changed" in call("gc", "--store", store, "--dry-run") and list(store.rglob(f"{WRITING}*"))
    call("gc", "--store", store)
    assert not list(store.rglob(f"{WRITING}*")) and {path: path.read_bytes() for path in store.rglob("*.shard")} == before


def test_gc_keeps_what_the_named_runs_use(store, tmp_path):
    one = add_run(tmp_path / "one", text=range(10), image=[])
    two = add_run(tmp_path / "two", text=range(5, 15))
    call("gc", "--store", store, "--run", one, "--run", two, "--dry-run")
    assert len(shards_of(store, "image")) == 3
    output = call("gc", "--store", store, "--run", one, "--run", two)
    assert "MB freed" in output and not list(store.glob("image-*"))
    with open_store(store, "text") as content:
        assert content.contains(keys_of("text", range(25))).tolist() == [True] * 15 + [False] * 10
    assert len(shards_of(store, "text")) == 1
    with pytest.raises(FileNotFoundError, match="encode it first"):
        call("gc", "--store", store, "--run", store)


def test_gc_waits_for_the_end_of_a_run(store, tmp_path):
    run = add_run(tmp_path / "run", text=range(10))
    with open_store(store, "text"), pytest.raises(StageError, match="in use by a run"):
        call("gc", "--store", store, "--run", run)
    call("gc", "--store", store, "--run", run)


def test_the_command_line_has_it(tmp_path):
    root = Path(__file__).parents[3]
    command = [sys.executable, "-m", "pipeline", "features", "stats", "--store", str(tmp_path / "nowhere")]
    result = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=120)
    assert result.returncode == 2 and "error: store: must be a folder" in result.stderr
