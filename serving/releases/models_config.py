"""The text files a model server reads: models.config, batching parameters and monitoring."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from google.protobuf import text_format
from tensorflow_serving.config import model_server_config_pb2

from data.durable_file import write_durably

CONTAINER_ROOT = PurePosixPath("/models")
"""Where a release folder is mounted in TF Serving's image. Files of a release name this place and not the folder it
happens to lie in, so that a release keeps its fingerprint wherever it is copied."""

PROMETHEUS_PATH = "/monitoring/prometheus/metrics"
MODEL_NAME = re.compile(r"[^/:\s]+")


@dataclasses.dataclass(frozen=True)
class ModelEntry:
    """One model of a models.config.

    Attributes:
        name: what clients call it; no "/", ":" or space, which REST paths could not carry.
        folder: its folder inside the release; "" = the name.
        versions: versions to keep loaded; empty = the highest one found.
        labels: version of each label ("stable", "canary").
    """

    name: str
    folder: str = ""
    versions: tuple[int, ...] = ()
    labels: Mapping[str, int] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if not MODEL_NAME.fullmatch(self.name):
            raise ValueError(f"name: must be free of '/', ':' and spaces, got {self.name!r}; rename the model")
        for label, version in self.labels.items():
            if self.versions and version not in self.versions:
                raise ValueError(
                    f"labels: {label!r} names version {version}, which is not in versions {self.versions}; add it"
                )


def model_server_config(
    entries: Sequence[ModelEntry], root: PurePosixPath | Path = CONTAINER_ROOT
) -> model_server_config_pb2.ModelServerConfig:
    """The ModelServerConfig message of some models whose folders lie under `root`."""
    config = model_server_config_pb2.ModelServerConfig()
    for entry in entries:
        model = config.model_config_list.config.add()
        model.name = entry.name
        model.base_path = str(root / (entry.folder or entry.name))
        model.model_platform = "tensorflow"
        if entry.versions:
            model.model_version_policy.specific.versions.extend(sorted(entry.versions))
        for label in sorted(entry.labels):
            model.version_labels[label] = entry.labels[label]
    return config


def write_models_config(path: Path, entries: Sequence[ModelEntry], root: PurePosixPath | Path = CONTAINER_ROOT) -> Path:
    """Writes a models.config.

    Args:
        path: the file.
        entries: the models.
        root: folder that holds the models' folders as the server sees it; the default suits a release mounted into the
            stock image.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "models.config"
        >>> config = read_models_config(write_models_config(file, [ModelEntry("ranking", versions=(3,))]))
        >>> config.model_config_list.config[0].base_path
        '/models/ranking'
    """
    return _replace(path, text_format.MessageToString(model_server_config(entries, root)))


def write_batching_parameters(
    path: Path, *, threads: int, max_batch_size: int = 32, timeout_milliseconds: float = 1.0
) -> Path:
    """Writes batching parameters for a CPU server: one batch thread a core, and a short wait for company."""
    if threads < 1 or max_batch_size < 1 or not 0 <= timeout_milliseconds <= 10:
        raise ValueError(
            f"threads and max_batch_size must be positive and timeout_milliseconds 0 to 10 on CPUs, got {threads}, "
            f"{max_batch_size}, {timeout_milliseconds}"
        )
    lines = {
        "max_batch_size": max_batch_size,
        "batch_timeout_micros": round(timeout_milliseconds * 1000),
        "num_batch_threads": threads,
        "max_enqueued_batches": threads * 16,
    }
    return _replace(path, "".join(f"{name} {{ value: {value} }}\n" for name, value in lines.items()))


def write_monitoring_config(path: Path) -> Path:
    """Writes a monitoring config that switches the Prometheus page on."""
    return _replace(path, f'prometheus_config {{\n  enable: true\n  path: "{PROMETHEUS_PATH}"\n}}\n')


def read_monitoring_config(path: Path) -> str | None:
    """The path of the Prometheus page, or None when it is off. (The pip package has no proto for this file.)

    Raises:
        ValueError: the file is not a monitoring config.
    """
    text = re.sub(r"#.*", "", path.read_text())
    match = re.fullmatch(
        r'\s*prometheus_config\s*:?\s*\{((?:\s*(?:enable\s*:\s*(?:true|false)|path\s*:\s*"[^"]*")[,;]?)*)\s*\}\s*', text
    )
    if match is None:
        raise ValueError(
            f'{path}: expected prometheus_config {{ enable: true path: "..." }}, got {text.strip()[:80]!r}'
        )
    if not re.search(r"enable\s*:\s*true", match[1]):
        return None
    found = re.search(r'path\s*:\s*"([^"]*)"', match[1])
    return found[1] if found else PROMETHEUS_PATH


def read_models_config(path: Path) -> model_server_config_pb2.ModelServerConfig:
    """Reads a models.config.

    Raises:
        ValueError: it is not a ModelServerConfig in text form, or holds no model list.
    """
    config = model_server_config_pb2.ModelServerConfig()
    try:
        text_format.Parse(path.read_text(), config)
    except (text_format.ParseError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a ModelServerConfig in text form: {error}") from error
    if config.WhichOneof("config") != "model_config_list":
        raise ValueError(
            f"{path}: expected model_config_list {{ config {{ ... }} }}, got none; list the models to serve"
        )
    return config


def resolve_base_path(base_path: str, config_folder: Path) -> Path:
    """The folder a base path means on this machine.

    A relative path is taken from the config's folder. A path under CONTAINER_ROOT is looked for beside the config
    first, which is what mounting the release there would show; anything else is taken as it is.

    Example:
        >>> resolve_base_path("ranking", Path("/srv/7"))
        PosixPath('/srv/7/ranking')
    """
    path = Path(base_path)
    if path.is_absolute() and path.is_relative_to(CONTAINER_ROOT):
        beside = config_folder / path.relative_to(CONTAINER_ROOT)
        return beside if beside.is_dir() else path
    return config_folder / path


def _replace(path: Path, text: str) -> Path:
    """Servers poll these files: a reader sees the old text or the new one, never half, after a power cut too."""
    write_durably(path, [text.encode()])
    return path
