"""Keys of the stages that train: all that a stage runs through and reads decides whether it is skipped."""

import ast
import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline.settings.config import Config
from pipeline.stage import StageError
from pipeline.stages import retrieval, walk
from pipeline.stages.run_folder import RunFolder
from pipeline.stages.walk import Run

ROOT = Path(__file__).resolve().parents[3]
ROOMS = ("data/", "pipeline/")
EXCUSED = {
    "pipeline/settings/": "its values are in the key",
    "pipeline/stage.py": "errors and keys",
    "pipeline/training/warm.py": "in the keys of nightly jobs, which alone start warm",
    "pipeline/ranker/warm.py": "in the keys of nightly jobs, which alone start warm",
    "pipeline/report/": "pictures beside the figures",
    **{f"data/{name}.py": "reads what a stage before has written" for name in ("dataset", "features", "schema", "vocabulary")},
    "data/catalogue.py": "names of columns",
    "data/durable_file.py": "writes what it is given",
    "data/validation.py": "errors, and what ingest refuses",
}
UNFOLLOWED = {
    "pipeline/ranker/ranker_teacher.py": "asks a finished run, whose keys are inputs",
    "linear: pipeline/retrieval/train_retrieval.py": "gives the linear towers their tables",
}


def imported_by(path: str) -> set[str]:
    """Files of `ROOMS` that a file imports, inside its functions too; not those that only annotations name."""
    tree = ast.parse((ROOT / path).read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING":
            node.body = []
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            names |= {str(node.module), *(f"{node.module}.{part.name}" for part in node.names)}
        elif isinstance(node, ast.Import):
            names |= {part.name for part in node.names}
    files = {name.replace(".", "/") + ".py" for name in names}
    return {file for file in files if file.startswith(ROOMS) and (ROOT / file).is_file()}


@pytest.fixture
def keys(monkeypatch):
    """Runs no stage: {stage: the files in its key, and those in the keys of the stages that it reads}."""
    found = {}

    def files(*places):
        paths = ([ROOT / place] if place.endswith(".py") else (ROOT / place).rglob("*.py") for place in places)
        return {path.relative_to(ROOT).as_posix() for part in paths for path in part}

    monkeypatch.setattr(RunFolder, "key", lambda self, stage: found.get(stage, set()))
    monkeypatch.setattr(RunFolder, "store", lambda self: SimpleNamespace(modalities=("text",)))
    monkeypatch.setattr(
        RunFolder, "run", lambda self, name, work, config, inputs: found.update({name: set().union(*inputs.values())})
    )
    for module in (retrieval, walk):
        monkeypatch.setattr(module, "code_fingerprint", files)
    run = Run(Path("source"), Path("run"), Config())
    for stage in (run.train_retrieval, run.train_linear, run.index, run.train_ranking, run.choose_policy):
        stage()
    return found


@pytest.mark.parametrize("stage", ["retrieval/full", "linear/full", "served/full", "index", "ranking", "policy"])
def test_all_code_that_a_stage_runs_through_is_in_its_key(keys, stage):
    missing = {}
    for path in sorted(file for file in keys[stage] if file.startswith("pipeline/")):
        if path in UNFOLLOWED or f"{stage.split('/')[0]}: {path}" in UNFOLLOWED:
            continue
        for file in imported_by(path) - keys[stage]:
            if not file.startswith(tuple(EXCUSED)):
                missing.setdefault(file, []).append(path)
    assert not missing, f"add these to the files of the stage {stage}, or to EXCUSED with a reason: {missing}"


def test_another_teacher_in_the_same_folder_is_another_key(tmp_path, monkeypatch):
    teacher, told = tmp_path / "earlier" / "retrieval" / "full", []
    side = {"distillation": 1.0, "teachers": (str(teacher),)}
    monkeypatch.setattr(RunFolder, "key", lambda self, stage: "k")
    monkeypatch.setattr(RunFolder, "run", lambda self, name, work, config, inputs: told.append(inputs))

    def inputs(**changes):
        config = Config(retrieval={"side": {**side, **changes}})
        Run(Path("source"), tmp_path / "run", config)._train_variant("full", ("text",))
        return told[-1]

    with pytest.raises(StageError, match=r"retrieval\.side\.teachers: must be folders of trained towers, received .*full"):
        inputs()
    teacher.mkdir(parents=True)
    (teacher / "weights.weights.h5").write_bytes(b"1")
    first = inputs()
    (teacher / "weights.weights.h5").write_bytes(b"22")  # towers that no stage trained have no key
    second = inputs()
    (teacher / "manifest.json").write_text(json.dumps({"key": "one"}))
    third = inputs()
    assert len({first[f"teacher {teacher}"], second[f"teacher {teacher}"], "one"}) == 3
    assert third[f"teacher {teacher}"] == "one" and inputs() == third
    assert f"teacher {teacher}" not in inputs(distillation=0.0)  # nobody reads it
