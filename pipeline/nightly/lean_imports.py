"""Imports of TensorFlow and Keras without the packages that they look for and a job has no use for."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path


@contextlib.contextmanager
def left_out(*packages: str) -> Iterator[None]:
    """What is imported in here does not find these packages, and goes on without them; afterwards they can be imported.

    Of a package that was imported before nothing changes.

    Example:
        >>> with left_out("tabnanny"):
        ...     try:
        ...         import tabnanny
        ...     except ImportError:
        ...         print("goes on without it")
        goes on without it
        >>> import tabnanny
    """
    hidden = [name for name in packages if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]


def import_models_libraries(encoders: Iterable[str] = ()) -> None:
    """Import TensorFlow without JAX, which its converter for phones asks for, and without the Keras of before, Keras without
    what draws and wraps models, and without JAX where that is not what it computes with, and LightGBM without what wraps it:
    three seconds of a job.

    Args:
        encoders: what is to encode, as `towers.encoders` names it; a package that makes some is imported once for all processes
            that are forked.
    """
    with left_out("jax", "tf_keras"):
        importlib.import_module("tensorflow")
    with left_out("matplotlib", "sklearn", *([] if keras_backend() == "jax" else ["jax"])):
        importlib.import_module("keras")
    with left_out("dask", "matplotlib", "sklearn"), contextlib.suppress(OSError):  # it says what it lacks where it is asked
        importlib.import_module("lightgbm")
    if any(name != "none" and not name.startswith("signal:") for name in encoders):
        with contextlib.suppress(ImportError):
            importlib.import_module("keras_hub")


def keras_backend() -> str:
    """What Keras will compute with: as the environment says, else as its own file of settings does."""
    file = Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras") / "keras.json"
    told = {}
    with contextlib.suppress(OSError, ValueError):  # Keras goes on without a file that it cannot read
        told = json.loads(file.read_text())
    return os.environ.get("KERAS_BACKEND") or told.get("backend", "tensorflow")
