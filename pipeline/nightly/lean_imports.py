"""Imports of TensorFlow and Keras without the packages that they look for and a job has no use for."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import sys
from collections.abc import Iterator
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


def import_models_libraries() -> None:
    """Import TensorFlow without JAX, which its converter for phones asks for, and Keras without what draws and wraps models,
    and without JAX where that is not what it computes with: two seconds of a job's start."""
    with left_out("jax"):
        importlib.import_module("tensorflow")
    with left_out("matplotlib", "sklearn", *([] if keras_backend() == "jax" else ["jax"])):
        importlib.import_module("keras")


def keras_backend() -> str:
    """What Keras will compute with: as the environment says, else as its own file of settings does."""
    file = Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras") / "keras.json"
    told = {}
    with contextlib.suppress(OSError, ValueError):  # Keras goes on without a file that it cannot read
        told = json.loads(file.read_text())
    return os.environ.get("KERAS_BACKEND") or told.get("backend", "tensorflow")
