"""Models and servers that the serving tests share: built and started once a run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest

from serving.client.recommender import ModelClient
from serving.local import LocalServer
from serving.releases.models_config import ModelEntry, write_models_config, write_monitoring_config
from serving.server.warmup import write_warmup
from tests.serving.models import copy_version, write_half_plus_two, write_lookup

WORDS = ["ambient", "bossa nova", "古琴", "drone"]


@pytest.fixture(scope="session")
def model_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three versions of half_plus_two (biases 2, 3 and 4, so that an answer tells its version) and a string lookup."""
    store = tmp_path_factory.mktemp("store")
    for version in (1, 2, 3):
        write_half_plus_two(store / "half_plus_two", version, bias=1.0 + version)
    lookup = write_lookup(store / "lookup", 1, WORDS)
    write_warmup(lookup, "lookup", [{"ids": np.array([["drone"]]), "k": np.array(1, np.int32)}])
    return store


@pytest.fixture(scope="session")
def server(model_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServer]:
    """A server of half_plus_two 1 (stable) and 2 (canary), and lookup, with monitoring on; tests must not change it."""
    folder = tmp_path_factory.mktemp("served")
    for version in (1, 2):
        (folder / "half_plus_two").mkdir(exist_ok=True)
        copy_version(model_store / "half_plus_two" / str(version), folder / "half_plus_two" / str(version))
    (folder / "lookup").mkdir()
    copy_version(model_store / "lookup" / "1", folder / "lookup" / "1")
    entries = [
        ModelEntry("half_plus_two", versions=(1, 2), labels={"stable": 1, "canary": 2}),
        ModelEntry("lookup", versions=(1,)),
    ]
    config = write_models_config(folder / "models.config", entries)
    with LocalServer(config, monitoring_config=write_monitoring_config(folder / "monitoring.config")) as running:
        yield running


@pytest.fixture(scope="session")
def rest(server: LocalServer) -> Iterator[httpx.Client]:
    """An HTTP client of the shared server."""
    with httpx.Client(base_url=server.url, timeout=30) as client:
        yield client


@pytest.fixture(scope="session")
def client(server: LocalServer) -> Iterator[ModelClient]:
    """A gRPC client of the shared server."""
    with ModelClient(server.target, deadline=30) as open_client:
        yield open_client
