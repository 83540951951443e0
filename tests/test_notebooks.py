"""The notebooks run from the first cell to the last on a CPU, and lie in the repository without outputs."""

from __future__ import annotations

import ast
import json
import re
import shutil
from pathlib import Path
from typing import get_args

import nbformat
import pytest
from nbclient import NotebookClient

from pipeline.settings.config import RetrievalConfig
from serving.releases.release import latest_release, verify_release
from tests.record_shop import SETTINGS

FOLDER = Path(__file__).resolve().parent.parent / "notebooks"
NOTEBOOKS = ("colab_tpu.ipynb", "fusion.ipynb")


def executed(name: str, parameters: dict[str, object], world: str = "") -> nbformat.NotebookNode:
    """The notebook after a run of all its cells, started in `notebooks/` as Jupyter does, its parameters overwritten by a
    cell put behind theirs; `world` is put behind the cell that makes one."""
    notebook = nbformat.read(FOLDER / name, as_version=4)
    places = [at for at, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", [])]
    assert len(places) == 1, f"{name}: one cell is tagged `parameters`, found {len(places)}"
    known = {line.partition(" = ")[0] for line in notebook.cells[places[0]].source.splitlines()}
    assert set(parameters) <= known, f"{name}: {set(parameters) - known} are not among its parameters"
    if world:
        makes = [at for at, cell in enumerate(notebook.cells) if 'triptych("world"' in cell.source]
        assert len(makes) == 1, f"{name}: one cell makes a world, found {len(makes)}"
        notebook.cells.insert(makes[0] + 1, nbformat.v4.new_code_cell(world))
    source = "\n".join(f"{key} = {value!r}" for key, value in parameters.items())
    notebook.cells.insert(places[0] + 1, nbformat.v4.new_code_cell(source))
    NotebookClient(notebook, timeout=240, kernel_name="python3", resources={"metadata": {"path": FOLDER}}).execute()
    return notebook


def outputs(notebook: nbformat.NotebookNode, kind: str) -> list[str]:
    """What the cells left behind of one media type; "stdout" is what they printed."""
    found = []
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            text = output.get("text") if output.output_type == "stream" else output.get("data", {}).get(kind)
            if text is not None and (kind == "stdout") == (output.output_type == "stream"):
                found.append(text)
    return found


@pytest.fixture(scope="module")
def walked(record_shop, tmp_path_factory) -> tuple[Path, nbformat.NotebookNode]:
    """The long notebook: it makes a small world, is then given that of a run which has lost a stage's folder and its report,
    and goes on from there."""
    run = record_shop.copy(tmp_path_factory.mktemp("notebooks") / "run").folder
    shutil.rmtree(run / "policy")
    for report in run.glob("report.*"):
        report.unlink()
    tiny = ["--items", "40", "--users", "40", "--events", "600"]
    parameters = {"OUT": str(run), "SETTINGS": SETTINGS, "WORLD": tiny}
    other = f"SOURCE = Path({str(record_shop.source)!r})\nitems = pd.read_parquet(SOURCE / 'items.parquet')"
    return run, executed("colab_tpu.ipynb", parameters, other)


def test_the_long_notebook_ends_with_a_release_that_holds(walked):
    run, notebook = walked
    release = verify_release(latest_release(run / "releases"))
    printed = "".join(outputs(notebook, "stdout"))
    assert "with 40 items" in printed and (run.parent / "run-world" / "interactions.parquet").is_file()
    assert "[index] unchanged" in printed and "[policy] done" in printed and "[export] unchanged" in printed
    assert release.fingerprint[:12] in printed
    assert Path(f"{run}-release.zip").stat().st_size > 100_000
    assert "somebody-new (never seen before)" in printed, "the servers answered nobody"


def test_the_long_notebook_shows_plots_covers_and_sound(walked):
    run, notebook = walked
    pages = outputs(notebook, "text/html")
    assert sum("<svg" in page for page in pages) >= 2, "learning curve and test figures"
    assert sum("data:image/jpeg;base64," in page for page in pages) == 2, "two customers' lists with covers"
    assert len(outputs(notebook, "image/png")) >= 2 and sum("<audio" in page for page in pages) >= 2
    examples = json.loads((run / "evaluate" / "examples.json").read_text())
    assert any(examples[0]["user_id"] in page for page in pages)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_notebooks_are_valid_and_without_outputs(name):
    notebook = nbformat.read(FOLDER / name, as_version=nbformat.NO_CONVERT)
    nbformat.validate(notebook)
    assert notebook.nbformat == 4 and sorted(path.name for path in FOLDER.glob("*.ipynb")) == sorted(NOTEBOOKS)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.outputs == [] and cell.execution_count is None, f"{name}: clear the outputs before a commit"


def test_the_fusion_notebook_names_every_kind():
    cells = nbformat.read(FOLDER / "fusion.ipynb", as_version=4).cells
    (line,) = (line for cell in cells for line in cell.source.splitlines() if line.startswith("KINDS = "))
    kinds = ast.literal_eval(line.removeprefix("KINDS = "))
    assert sorted(kinds) == sorted(get_args(RetrievalConfig.model_fields["fusion"].annotation))


def test_the_fusion_notebook_compares_five_kinds(record_shop, tmp_path):
    run = record_shop.copy(tmp_path / "run").folder
    small = [setting for setting in SETTINGS if setting.startswith("retrieval.") and "epochs" not in setting]
    parameters = {"RUN": str(run), "DATA": str(record_shop.source), "SETTINGS": [*small, "retrieval.epochs=2"]}
    notebook = executed("fusion.ipynb", parameters)
    printed = "".join(outputs(notebook, "stdout"))
    for kind in ("gated", "concat", "weighted", "attention", "bottleneck"):
        assert re.search(rf"^{kind} +[0-9.]+ s an epoch", printed, flags=re.MULTILINE), printed
        name = "plain" if kind == "gated" else kind
        config = json.loads((run / "notebook-fusion" / name / "7" / "model.json").read_text())["config"]
        assert config["fusion"] == kind, f"the towers in {name} fuse otherwise"
    assert len(outputs(notebook, "image/png")) == 1 and any("<svg" in page for page in outputs(notebook, "text/html"))
