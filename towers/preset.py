"""A keras-hub preset on this machine: the folder behind its name, what its config says, and a spec's options."""

from __future__ import annotations

import ast
import difflib
import functools
import importlib.util
import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

NOT_WEIGHTS = frozenset({"README.md", "metadata.json", "LICENSE", "LICENSE.txt", ".gitattributes"})
"""Files of a preset that change no vector."""
OTHER_FORMATS = ("*.bin", "*.onnx", "*.pt", "*.msgpack", "*.ot", "tf_model.h5", "onnx/*", "openvino/*")
"""Copies of the same weights in a Hugging Face repository, left where they are."""


def split_options(spec: str, allowed: Iterable[str]) -> tuple[str, dict[str, str]]:
    """`preset?key=value&key=value` -> the preset and its options.

    Raises:
        ValueError: an option that the encoder does not have, or one without a value.

    Example:
        >>> split_options("multilingual_e5_small?tokens=128&prefix=query: ", ("tokens", "prefix"))
        ('multilingual_e5_small', {'tokens': '128', 'prefix': 'query: '})
    """
    name, mark, rest = spec.partition("?")
    options: dict[str, str] = {}
    for part in rest.split("&") if mark else ():
        key, equals, value = part.partition("=")
        if not equals or key not in allowed:
            raise ValueError(f"spec: options must be key=value with a key among {sorted(allowed)}, received {part!r}")
        options[key] = value
    return name, options


def whole_number(options: dict[str, str], key: str, default: int, least: int = 1, most: int = 10**6) -> int:
    """An option that must be a whole number between two bounds.

    Example:
        >>> whole_number({"tokens": "128"}, "tokens", 64)
        128
    """
    text = options.get(key, str(default))
    if not text.isdecimal() or not least <= int(text) <= most:
        raise ValueError(f"spec: {key} must be a whole number from {least} to {most:,}, received {text!r}")
    return int(text)


def one_of(options: dict[str, str], key: str, choices: tuple[str, ...]) -> str:
    """An option that must be one of some words; the first is the default."""
    if (value := options.get(key, choices[0])) not in choices:
        raise ValueError(f"spec: {key} must be among {choices}, received {value!r}")
    return value


def preset_folder(preset: str) -> Path:
    """The local folder of a preset, downloaded once by the hub's own client and cached there.

    Args:
        preset: a name of keras-hub's tables, `kaggle://...`, `hf://...`, or a folder in keras-hub's, Hugging Face's or
            timm's format.

    Raises:
        FileNotFoundError: a folder without `config.json`.
        ValueError: a name that keras-hub does not know.
        ConnectionError: a preset that is not here yet and cannot be downloaded.
    """
    folder = Path(preset).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            held = sorted(path.name for path in folder.iterdir())[:8]
            raise FileNotFoundError(
                f"preset: the folder must hold a config.json, {folder} holds {held}; write one with "
                "`model.save_to_preset(folder)` or take a Hugging Face folder with its safetensors"
            )
        return folder.resolve()
    handle = preset if "://" in preset else builtin_handles().get(preset)
    if handle is None:
        near = difflib.get_close_matches(preset, builtin_handles(), 4, 0.5)
        raise ValueError(f"preset: no such folder, and keras-hub knows no such name, received {preset!r}; near: {near}")
    try:
        return _download(handle)
    except (ValueError, ImportError):
        raise
    except Exception as error:  # whatever the hub's client raises without a network, an account or a licence
        raise ConnectionError(
            f"preset: {preset!r} is not on this machine and cannot be downloaded ({why(error)}). "
            f"Where there is a network, fetch {handle!r} once and copy the folder, then name the folder; gated models "
            "need their licence accepted and an account; 'pack:' and 'signal:' need neither"
        ) from error


def _download(handle: str) -> Path:
    kind, _, rest = handle.partition("://")
    if kind == "kaggle":
        import kagglehub

        return Path(kagglehub.model_download(rest)).resolve()
    if kind == "hf":
        import huggingface_hub

        return Path(huggingface_hub.snapshot_download(rest, ignore_patterns=list(OTHER_FORMATS))).resolve()
    raise ValueError(f"preset: must be a name, a folder, 'kaggle://...' or 'hf://...', received {handle!r}")


@functools.lru_cache(maxsize=1)
def builtin_handles() -> dict[str, str]:
    """keras-hub's preset names and where their files lie, read from its tables without importing it (0.1 s, not 8)."""
    spec = importlib.util.find_spec("keras_hub")
    handles: dict[str, str] = {}
    for location in (spec.submodule_search_locations or []) if spec else []:
        for table in sorted(Path(location).glob("src/models/*/*_presets.py")):
            for node in ast.walk(ast.parse(table.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Dict):
                    handles.update(_handles(node))
    return handles


def _handles(table: ast.Dict) -> dict[str, str]:
    """{name: handle} of a literal `{name: {..., "kaggle_handle": handle}}`."""
    found = {}
    for key, value in zip(table.keys, table.values, strict=True):
        if isinstance(key, ast.Constant) and isinstance(value, ast.Dict):
            for inner, handle in zip(value.keys, value.values, strict=True):
                if isinstance(inner, ast.Constant) and inner.value == "kaggle_handle":
                    found[str(key.value)] = str(ast.literal_eval(handle))
    return found


def why(error: Exception) -> str:
    """An error of a library on one line of bounded length; some of theirs print whole tensors.

    Example:
        >>> why(KeyError("tokens"))
        "KeyError: 'tokens'"
    """
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]


def preset_kind(folder: Path) -> tuple[str, dict[str, Any]]:
    """What a preset folder holds: its class (`"BertBackbone"`), model type or architecture, and that one's settings.

    Raises:
        ValueError: a `config.json` of none of the three formats.
    """
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if "registered_name" in config:
        return str(config["class_name"]), dict(config["config"])
    for key in ("model_type", "architecture"):
        if key in config:
            return str(config[key]), config
    raise ValueError(f"preset: config.json must be keras-hub's, Hugging Face's or timm's, received {folder}")


def preset_files(folder: Path) -> list[Path]:
    """The files of a preset that decide about its vectors, in a fixed order."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name not in NOT_WEIGHTS)
    return sorted(path for path in files if not any(part.startswith(".") for part in path.relative_to(folder).parts))


def measured(digest: str, measure: Callable[[], tuple[int, int]]) -> tuple[int, int]:
    """Width and size that no config tells: taken from the model once and kept under its fingerprint.

    They lie in `~/.cache/triptych/cards`; a file there that cannot be read or written costs only time.
    """
    file = Path.home() / ".cache" / "triptych" / "cards" / f"{digest}.json"
    try:
        width, size = json.loads(file.read_text())
        return int(width), int(size)
    except (OSError, ValueError, TypeError):
        width, size = measure()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        beside = file.with_suffix(f".{os.getpid()}.tmp")
        beside.write_text(json.dumps([width, size]))
        beside.replace(file)
    except OSError:
        return width, size  # a home that is read-only
    return width, size
