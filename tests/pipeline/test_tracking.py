"""What a finished run tells MLflow and Weights & Biases: everything it should, once, and nothing without the packages."""

from __future__ import annotations

import contextlib
import json
import sys
import types
from pathlib import Path

import pytest

from pipeline.settings.config import load_config
from pipeline.stage import StageError, run_stage
from pipeline.stages.walk import Run
from pipeline.tracking import track, tracked

REPORT = {
    "data": {"users": 3, "quarantined_by_file": {"x": 1}},
    "retrieval": {"test": {"ndcg@20": 0.25, "recall@20": 0.5}, "oracle": {"test": {"ndcg@20": 0.9}}},
    "index": {"kind": "exact", "recall@100_vs_exact": 1.0},
    "ranking": {"auc": 0.7, "better": True},
    "fingerprint": "f" * 64,
}
NEEDED = "pip install -r requirements-tracking.txt; too large (155 MB) to be part of requirements-dev.txt"


@pytest.fixture
def run(tmp_path) -> Path:
    """Two models of towers, of which one stopped early, and a ranker."""
    folder = tmp_path / "shop"
    curves = {"full": [0.1, 0.2, 0.15], "ids_only": [0.05, 0.04]}
    for name, values in curves.items():
        rows = [{"epoch": at, "loss": 5.0 - at, "valid_ndcg@20": value} for at, value in enumerate(values, start=1)]
        run_stage(
            folder,
            f"retrieval/{name}",
            lambda out, _, rows=rows: {"size": (out / "history.json").write_text(json.dumps(rows))},
            config={},
            inputs={},
            say=lambda _: None,
        )
    (folder / "ranking").mkdir()
    (folder / "ranking" / "history.json").write_text(json.dumps([{"epoch": 1, "loss": 0.5, "kind": "listwise"}]))
    return folder


def settings(*tracking: str):
    return load_config(overrides=["retrieval.epochs=3", *(f"tracking.{line}" for line in tracking)])


def test_settings_epochs_figures_and_fingerprint(run):
    content = tracked(run, settings(), REPORT)
    assert content.name == "shop" and content.fingerprint == "f" * 64
    assert content.settings["retrieval.epochs"] == 3 and content.settings["retrieval.loss.kind"] == "softmax"
    assert not [name for name in content.settings if name.startswith("tracking")]
    assert list(content.epochs) == [1, 2, 3]
    assert content.epochs[1] == {
        "retrieval/full/loss": 4.0,
        "retrieval/full/valid_ndcg@20": 0.1,
        "retrieval/ids_only/loss": 4.0,
        "retrieval/ids_only/valid_ndcg@20": 0.05,
        "ranking/loss": 0.5,
    }
    assert content.epochs[3] == {"retrieval/full/loss": 2.0, "retrieval/full/valid_ndcg@20": 0.15}
    assert content.figures == {
        "data/users": 3.0,
        "retrieval/test/ndcg@20": 0.25,
        "retrieval/test/recall@20": 0.5,
        "index/recall@100_vs_exact": 1.0,
        "ranking/auc": 0.7,
    }


@pytest.mark.parametrize("package", ["mlflow", "wandb"])
def test_a_missing_package_stops_a_run_before_it_begins(package, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    (tmp_path / "world").mkdir()
    config = settings(f"{package}=offline")
    with pytest.raises(StageError, match=rf"tracking\.{package} = 'offline'.*requirements-tracking\.txt"):
        Run(tmp_path / "world", tmp_path / "run", config, say=lambda _: None).all()
    assert not (tmp_path / "run").exists()


def test_nothing_is_told_unless_asked(run, monkeypatch):
    for package in ("mlflow", "wandb"):
        monkeypatch.setitem(sys.modules, package, None)
    track(run, settings(), REPORT)
    assert not (run / "tracked.json").exists()


def test_a_run_is_told_once_and_again_when_it_changed(run, monkeypatch):
    steps: list[int | None] = []
    recorder = types.SimpleNamespace(
        set_tracking_uri=lambda uri: None,
        set_experiment=lambda name: None,
        start_run=lambda run_name: contextlib.nullcontext(),
        log_params=lambda values: None,
        log_metrics=lambda values, step=None: steps.append(step),
        set_tag=lambda name, value: None,
    )
    monkeypatch.setitem(sys.modules, "mlflow", recorder)
    lines: list[str] = []
    for _ in range(2):
        track(run, settings("mlflow=http://one:5000"), REPORT, lines.append)
    assert steps == [1, 2, 3, None] and lines[-1] == "[tracking] mlflow: told already, unchanged"
    track(run, settings("mlflow=http://two:5000"), REPORT, lines.append)
    run_stage(run, "export", lambda out, _: {}, config={}, inputs={}, say=lambda _: None)
    track(run, settings("mlflow=http://one:5000"), REPORT, lines.append)
    assert len(steps) == 12


def test_mlflow_keeps_what_it_was_told(run, tmp_path):
    mlflow = pytest.importorskip("mlflow", reason=NEEDED)
    store = f"file:{tmp_path / 'mlflow'}"
    track(run, settings(f"mlflow={store}", "experiment=shops"), REPORT, lambda _: None)
    client = mlflow.MlflowClient(store)
    (found,) = client.search_runs([client.get_experiment_by_name("shops").experiment_id])
    assert found.info.run_name == "shop" and found.data.tags["release"] == "f" * 64
    assert found.data.params["retrieval.epochs"] == "3" and len(found.data.params) > 200
    history = client.get_metric_history(found.info.run_id, "retrieval/full/valid_ndcg_at_20")
    assert [(point.step, point.value) for point in history] == [(1, 0.1), (2, 0.2), (3, 0.15)]
    assert found.data.metrics["retrieval/test/ndcg_at_20"] == 0.25


def test_wandb_keeps_what_it_was_told_offline(run, monkeypatch):
    pytest.importorskip("wandb", reason=NEEDED)
    monkeypatch.setenv("WANDB_SILENT", "true")
    track(run, settings("wandb=offline", "experiment=shops"), REPORT, lambda _: None)
    (log,) = run.glob("wandb/offline-run-*/*.wandb")
    content = log.read_bytes()
    for words in (b"retrieval.loss.kind", b"retrieval/full/valid_ndcg@20", b"retrieval/test/ndcg@20", b"f" * 64, b"shops"):
        assert words in content, words
