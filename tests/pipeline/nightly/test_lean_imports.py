"""A job's process starts without the packages that it has no use for, and Keras finds the backend that is wanted."""

import subprocess
import sys

import pytest

from pipeline.nightly.lean_imports import keras_backend

PROGRAM = """
import sys
import pipeline.__main__
from pipeline.nightly.lean_imports import import_models_libraries
import_models_libraries()
import pipeline.nightly.job, pipeline.nightly.beside, pipeline.report.page
print(*sorted({"jax", "matplotlib", "sklearn", "scipy.stats", "keras_hub"} & set(sys.modules)))
import_models_libraries(["none", "signal:"])
assert "keras_hub" not in sys.modules
import_models_libraries(["none", "pack:e5"])
assert "keras_hub" in sys.modules
import jax, sklearn
"""


def test_what_a_job_has_no_use_for_is_not_imported_and_can_be():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "\n"), done.stderr


@pytest.mark.parametrize(
    ("environment", "file", "expected"),
    [
        (None, None, "tensorflow"),
        ("jax", None, "jax"),
        (None, '{"backend": "jax"}', "jax"),
        ("tensorflow", '{"backend": "jax"}', "tensorflow"),
        (None, '{"backend": ', "tensorflow"),
    ],
)
def test_the_backend_is_that_of_the_environment_or_of_kerass_own_file(environment, file, expected, tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.delenv("KERAS_BACKEND", raising=False)
    if environment:
        monkeypatch.setenv("KERAS_BACKEND", environment)
    if file:
        (tmp_path / "keras.json").write_text(file)
    assert keras_backend() == expected
