"""The house rules a reader relies on and a tired author forgets: walls, sizes, names, and a README that is true."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import LONGEST

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("data", "towers", "ranking", "serving", "pipeline")
LONGEST_FILE = 300
"""Lines. 250 is the habit; a file that needs the last fifty has a reason, and none needs more."""

PLANTED = {
    "data/schema.py": ("import keras", "data knows no model"),
    "data/histories.py": ("import towers.config", "rooms point one way"),
    "towers/fusion.py": ("import tensorflow", "towers run on every Keras backend"),
    "towers/config.py": ("import data.features", "towers see of data only its schema"),
    "ranking/losses.py": ("import tensorflow_text", "ranking runs on every Keras backend"),
    "ranking/lists.py": ("import towers.config", "ranking sees of towers and data only"),
    "pipeline/metrics/top_k.py": ("import pipeline.ranker.train", "the rooms of pipeline point one way too"),
    "serving/client/hedging.py": ("import serving.gateway.app", "the rooms of serving point one way too"),
    "serving/status.py": ("import pipeline.metrics.metrics", "rooms point one way"),
}

IMPORT_WITHOUT_TENSORFLOW = """
import importlib, importlib.abc, importlib.machinery, pkgutil, sys, types
from unittest.mock import MagicMock

class Stub(types.ModuleType):
    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return MagicMock(name=name)

class StubJax(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "jax":
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
    def create_module(self, spec):
        return Stub(spec.name)
    def exec_module(self, module):
        pass

# Keras's NumPy backend is the one that needs no TensorFlow; a few of its ops, none of them run here, borrow from jax.
sys.meta_path.insert(0, StubJax())
for room in ("towers", "ranking"):
    for module in pkgutil.walk_packages(importlib.import_module(room).__path__, room + "."):
        importlib.import_module(module.name)
        loaded = sorted(name for name in sys.modules if name.partition(".")[0] in ("tensorflow", "tf_keras"))
        assert not loaded, f"importing {module.name} imported {loaded[0]}"
"""


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).parent / "lint-imports"), "--no-logo", "--no-cache"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def source_files() -> list[Path]:
    folders = [ROOT / name for name in (*ROOMS, "tests", "benchmarks", "deploy", "notebooks")]
    return sorted(path for folder in folders for path in folder.rglob("*.py"))


def test_imports_point_one_way():
    result = lint_imports(ROOT)
    assert result.returncode == 0, result.stdout + result.stderr


def test_every_contract_catches_a_planted_import(tmp_path):
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for room in ROOMS:
        shutil.copytree(ROOT / room, tmp_path / room, ignore=shutil.ignore_patterns("__pycache__"))
    for path, (line, _) in PLANTED.items():
        with (tmp_path / path).open("a") as file:
            file.write(f"\n{line}\n")
    result = lint_imports(tmp_path)
    assert result.returncode != 0
    broken = set(re.findall(r"^(.*) BROKEN", result.stdout, flags=re.MULTILINE))
    for path, (line, contract) in PLANTED.items():
        assert any(name.startswith(contract) for name in broken), f"{line!r} in {path} went unnoticed:\n{result.stdout}"
        importer, imported = path.removesuffix(".py").replace("/", "."), line.removeprefix("import ")
        assert f"{importer} -> {imported}" in result.stdout, f"{line!r} in {path} is not named:\n{result.stdout}"


def test_towers_and_ranking_import_without_tensorflow():
    result = subprocess.run(
        [sys.executable, "-c", IMPORT_WITHOUT_TENSORFLOW],
        cwd=ROOT,
        env={"KERAS_BACKEND": "numpy", "PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr


def test_files_are_short_enough_to_read():
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in source_files()}
    assert lengths, f"no source file under {ROOT}"
    # A test file mirrors one room's contract, case by case; it is read by looking a case up and not from end to end.
    bound = {path: 2 * LONGEST_FILE if path.startswith("tests/") else LONGEST_FILE for path in lengths}
    too_long = {path: lines for path, lines in lengths.items() if lines > bound[path]}
    assert not too_long, f"split these by noun, at most {LONGEST_FILE} lines each (tests twice that): {too_long}"


def test_the_test_files_that_start_first_are_there():
    lost = [name for name in LONGEST if not (ROOT / name).is_file()]
    assert not lost, f"tests/conftest.py names files that are not there: {lost}"


def test_no_file_is_a_drawer_for_anything():
    drawers = {"utils.py", "util.py", "helpers.py", "helper.py", "common.py", "misc.py"}
    found = [str(path.relative_to(ROOT)) for path in source_files() if path.name in drawers]
    assert not found, f"name each file by what it holds: {found}"


def tree_paths(readme: str) -> list[str]:
    """Paths named in the README's fenced tree blocks, in any mix of box-drawing characters and indentation.

    A tree block is a fence with a line that starts (behind drawing characters) with one of the rooms and a slash. A
    line's first words, separated by commas, are its names; its column tells its parent.
    """
    paths = []
    for block in re.findall(r"^```[^\n]*\n(.*?)^```", readme, flags=re.MULTILINE | re.DOTALL):
        if not re.search(rf"^[\s│├└─|`+-]*(?:{'|'.join(ROOMS)})/(?:\s|$)", block, flags=re.MULTILINE):
            continue
        parents: list[tuple[int, str]] = []
        for line in block.splitlines():
            match = re.match(r"[\s│├└─|`+-]*", line)
            column = match.end() if match else 0
            # "a.py, b.py   clause": names until two spaces or a word that is not a path.
            names = re.match(r"(?:[\w.*-]+(?:/[\w.*-]+)*/?(?:, )?)+", line[column:])
            parents = [(depth, name) for depth, name in parents if depth < column]
            for name in names[0].split(", ") if names else []:
                if not re.search(r"[./]", name) and name not in ("Makefile", "LICENSE"):
                    continue
                paths.append("".join(parent for _, parent in parents) + name)
            if names and names[0].endswith("/") and ", " not in names[0]:
                parents.append((column, names[0]))
    # A tree may be drawn under the repository's own name.
    root = paths[0] if paths and paths[0].endswith("/") and not (ROOT / paths[0]).exists() else ""
    return [path.removeprefix(root) for path in paths if path != root]


BOXES = """triptych/
├── data/                     columns
│   ├── schema.py             words
│   └── media.py, features.py bytes
└── Makefile                  targets
"""
INDENTED = """data/                    columns
  schema.py              words
  media.py, features.py  bytes
Makefile                 targets
"""


@pytest.mark.parametrize("tree", [BOXES, INDENTED], ids=["boxes", "indented"])
def test_the_tree_is_read_in_either_drawing(tree):
    expected = ["data/", "data/schema.py", "data/media.py", "data/features.py", "Makefile"]
    assert tree_paths(f"# Title\n\n```\nevents → data → towers\n```\n\n```text\n{tree}```\n") == expected


def test_paths_in_the_readme_exist():
    readme = (ROOT / "README.md").read_text()
    paths = tree_paths(readme)
    assert len(paths) > len(ROOMS), "README.md has no fenced tree block that names the rooms (`data/`, `towers/`, ...)"
    missing = [path for path in paths if not list(ROOT.glob(path.rstrip("/")))]
    links = re.findall(r"\]\((?!https?:|#|mailto:)([^)#]+)", readme)
    missing += [link for link in links if not (ROOT / link).exists()]
    assert not missing, f"README.md names paths that do not exist: {missing}"


def test_every_source_file_of_a_room_is_in_the_readme_tree():
    named = set(tree_paths((ROOT / "README.md").read_text()))
    files = [path for room in ROOMS for path in (ROOT / room).rglob("*.py") if path.name != "__init__.py"]
    unnamed = [str(path.relative_to(ROOT)) for path in files if str(path.relative_to(ROOT)) not in named]
    assert not unnamed, f"README.md's tree has one clause per file; these have none: {sorted(unnamed)}"
