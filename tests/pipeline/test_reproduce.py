"""A run made again: equal but for times, and whatever differs is named."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from pipeline.__main__ import app
from pipeline.reproduce import Reproduction, compare_runs, reproduce
from pipeline.reproduce_record import RECORD, SETTINGS, made_from, read_made_from, write_made_from
from pipeline.settings.config import load_config
from pipeline.stage import StageError, folder_fingerprint, run_stage
from serving.releases.manifest import write_manifest

CONFIGS = sorted((Path(__file__).resolve().parents[2] / "configs").glob("*.toml"))


@pytest.fixture
def source(tmp_path) -> Path:
    folder = tmp_path / "world"
    (folder / "media").mkdir(parents=True)
    for name, text in {"interactions.parquet": "events", "items.parquet": "items", "media/a.png": "picture"}.items():
        (folder / name).write_text(text)
    return folder


@dataclasses.dataclass
class Walk:
    """Stages as a run leaves them: weights that the settings and the data decide, times that nobody does, a release."""

    seconds: float = 1.0
    release: int = 1
    extra: float = 0.0

    def __call__(self, source: Path, out: Path, config) -> None:
        record = made_from(source, read_made_from(out))

        def train(folder: Path, checkpoints: Path) -> dict:
            taste = sum((source / "items.parquet").read_bytes()) + config.retrieval.seed + self.extra
            np.save(folder / "weights.npy", np.full(3, taste))
            (folder / "tensorboard").mkdir()
            (folder / "tensorboard" / "events").write_text(str(self.seconds))
            (folder / "history.json").write_text(json.dumps([{"loss": taste, "seconds": self.seconds}]))
            return {"loss": taste}

        def export(folder: Path, checkpoints: Path) -> dict:
            release = out / "releases" / str(self.release)
            model = release / "retrieval" / str(self.release)
            model.mkdir(parents=True)
            (model / "saved_model.pb").write_bytes((out / "retrieval" / "full" / "weights.npy").read_bytes())
            (release / "models.config").write_text(f"version {self.release}")
            return {"version": self.release, "fingerprint": write_manifest(release, version=self.release).fingerprint}

        inputs = {"source": folder_fingerprint(source)}
        run_stage(out, "retrieval/full", train, config=config.retrieval.model_dump(), inputs=inputs, say=lambda _: None)
        run_stage(out, "export", export, config={}, inputs=inputs, say=lambda _: None)
        write_made_from(out, config, record)


@pytest.fixture
def run(source, tmp_path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    Walk()(source, folder, load_config(overrides=["retrieval.seed=11", "retrieval.epochs=3"]))
    return folder


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_all_settings_come_back_from_the_run_folder(path, source, tmp_path):
    # Weights of kinds let events round the promise of privacy.
    weights = [] if path.stem == "private" else ["retrieval.loss.event_weights.like=2.0"]
    config = load_config(path, ["encoders.text=signal:", "data.min_value=3.5", *weights])
    write_made_from(tmp_path, config, made_from(source))
    assert load_config(tmp_path / SETTINGS) == config


def test_made_again_it_is_equal_whatever_the_times(run, tmp_path):
    found = reproduce(run, tmp_path / "again", Walk(seconds=9.0))
    assert found.equal and found.fingerprints[0] == found.fingerprints[1]
    assert found.stages == {"export": [], "retrieval/full": []} and not found.left_out
    assert load_config(tmp_path / "again" / SETTINGS).retrieval == load_config(run / SETTINGS).retrieval
    assert load_config(tmp_path / "again" / SETTINGS).encoders.store == str(tmp_path / "again" / "feature-store")


def test_another_number_of_the_release_is_no_difference(run, tmp_path):
    found = reproduce(run, tmp_path / "again", Walk(release=4))
    assert found.equal and found.fingerprints[0] != found.fingerprints[1]


def test_a_release_that_is_gone_is_told_beforehand_and_the_stages_are_compared(run, tmp_path):
    said, fingerprint = [], json.loads((run / "releases" / "1" / "manifest.json").read_text())["fingerprint"]
    shutil.rmtree(run / "releases" / "1")

    def walk(source: Path, out: Path, config) -> None:
        assert len(said) == 1 and "releases/1: no manifest.json" in said[0], "not after the hours that a run takes"
        Walk(extra=0.25)(source, out, config)

    found = reproduce(run, tmp_path / "again", walk, say=said.append)
    assert found.stages["retrieval/full"] == ["history.json", "weights.npy"] and not found.equal
    assert found.gone and not found.release and found.fingerprints[0] == fingerprint
    assert reproduce(run, tmp_path / "third", Walk(), say=said.append).equal


def test_a_release_that_is_removed_while_it_is_made_again_is_compared(run, tmp_path):
    def walk(source: Path, out: Path, config) -> None:
        Walk(extra=0.25)(source, out, config)
        shutil.rmtree(run / "releases" / "1")

    found = reproduce(run, tmp_path / "again", walk)
    assert found.release == ["retrieval/N/saved_model.pb"] and not found.gone


def test_what_comes_out_otherwise_is_named(run, tmp_path):
    found = reproduce(run, tmp_path / "again", Walk(extra=0.25))
    assert not found.equal
    assert found.stages == {"export": [], "retrieval/full": ["history.json", "weights.npy"]}
    assert found.release == ["retrieval/N/saved_model.pb"]


def test_changed_data_is_named_and_refused(run, source, tmp_path):
    (source / "items.parquet").write_text("other items")
    (source / "media" / "a.png").unlink()
    (source / "media" / "b.png").write_text("new")
    with pytest.raises(StageError) as error:
        reproduce(run, tmp_path / "again", Walk())
    for line in ("data: items.parquet has changed", "data: media/a.png is missing", "data: media/b.png is new"):
        assert line in str(error.value)
    assert not (tmp_path / "again").exists()
    found = reproduce(run, tmp_path / "again", Walk(), anyway=True)
    assert not found.equal and "data: items.parquet has changed" in found.notes


def test_a_copy_of_the_data_is_the_same_data(run, source, tmp_path):
    moved = source.rename(tmp_path / "moved")
    (moved / "items.parquet").touch()
    assert reproduce(run, tmp_path / "again", Walk(), source=moved).equal


def test_changed_code_and_versions_are_named(run, tmp_path):
    record = json.loads((run / RECORD).read_text())
    record["code"]["towers/fusion.py"] = "0" * 64
    record["packages"]["numpy"] = "1.0"
    (run / RECORD).write_text(json.dumps(record))
    with pytest.raises(StageError, match=r"code: towers/fusion\.py has changed"):
        reproduce(run, tmp_path / "again", Walk())
    found = reproduce(run, tmp_path / "again", Walk(), anyway=True)
    assert f"numpy: 1.0 then, {np.__version__} now" in found.notes and found.equal


def test_a_run_that_went_on_after_its_record_is_refused(run, source, tmp_path):
    run_stage(run, "retrieval/full", lambda out, _: {}, config={"other": 1}, inputs={}, say=lambda _: None)
    with pytest.raises(StageError, match="retrieval/full changed after the run had ended"):
        reproduce(run, tmp_path / "again", Walk())
    with pytest.raises(StageError, match="which is the old one"):
        reproduce(run, run, Walk())


def test_a_stage_of_another_command_is_left_out(run, tmp_path):
    run_stage(run, "robustness", lambda out, _: {}, config={}, inputs={}, say=lambda _: None)
    reproduce_into = tmp_path / "again"
    reproduce_into.mkdir()
    record = read_made_from(run)
    Walk()(Path(record.source), reproduce_into, load_config(run / SETTINGS))
    assert compare_runs(run, reproduce_into, []).left_out == ["robustness"]


def test_digests_are_taken_over_while_the_folder_is_untouched(source):
    record = made_from(source)
    marked = dataclasses.replace(record, data={"interactions.parquet": "marked"})
    assert made_from(source, marked).data == {"interactions.parquet": "marked"}
    (source / "items.parquet").write_text("longer than it was")
    assert made_from(source, marked).data["items.parquet"] != record.data["items.parquet"]
    assert len(made_from(source, marked).data) == 3


def test_the_command_says_what_is_missing(tmp_path):
    result = CliRunner().invoke(app, ["reproduce", str(tmp_path)])
    assert isinstance(result.exception, StageError) and "made_from.json" in str(result.exception)


def test_the_command_does_not_call_a_release_equal_that_is_gone(monkeypatch):
    told = Reproduction([], {"export": []}, [], [], ("a" * 64, "b" * 64), "run/releases/1: no manifest.json")
    monkeypatch.setattr("pipeline.reproduce.reproduce", lambda *given, **named: told)
    result = CliRunner().invoke(app, ["reproduce", "run"])
    assert result.exit_code == 0 and "release: not compared (run/releases/1: no manifest.json)" in result.output
    assert "equals run in every stage" in result.output and "release: equal" not in result.output
