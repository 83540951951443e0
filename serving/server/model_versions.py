"""The versions of one configured model, and which of them its policy asks for."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from tensorflow_serving.apis import get_model_status_pb2
from tensorflow_serving.config import model_server_config_pb2

from serving.server.servable import Servable
from serving.status import ServingError

State = get_model_status_pb2.ModelVersionStatus.State


@dataclasses.dataclass
class Version:
    """One version of a model: where it lies, how far it got, why it failed, and what answers for it."""

    folder: Path
    state: int = State.START
    error: ServingError | None = None
    servable: Servable | None = None


@dataclasses.dataclass
class Model:
    """One configured model and its versions, the ended ones included."""

    config: model_server_config_pb2.ModelConfig
    base_path: Path
    versions: dict[int, Version] = dataclasses.field(default_factory=dict)
    labels: dict[str, int] = dataclasses.field(default_factory=dict)

    def newest(self) -> Servable | None:
        """What answers requests that name no version."""
        available = [number for number, version in self.versions.items() if version.state == State.AVAILABLE]
        return self.versions[max(available)].servable if available else None


def aspired_versions(config: model_server_config_pb2.ModelConfig, base_path: Path) -> dict[int, Path]:
    """The versions a model's policy asks for, among the integer-named folders that exist.

    Policies: `latest` (the default, of one version), `all`, `specific`. Temporary folders are ignored by their names,
        which is
    why exporters write beside and rename.
    """
    found: dict[int, Path] = {}
    if base_path.is_dir():
        for folder in base_path.iterdir():
            if folder.name.isascii() and folder.name.isdigit() and int(folder.name) < 1 << 63 and folder.is_dir():
                found[int(folder.name)] = folder
    policy = config.model_version_policy
    kind = policy.WhichOneof("policy_choice")
    if kind == "all":
        return found
    if kind == "specific":
        return {number: found[number] for number in policy.specific.versions if number in found}
    count = policy.latest.num_versions if kind == "latest" and policy.latest.num_versions else 1
    return {number: found[number] for number in sorted(found)[-count:]}
