"""The local model server: TF Serving's gRPC and REST protocol on a models.config, for development and tests.

    python -m serving.local --models-config releases/7/models.config --port 8500 --rest-port 8501

It answers as the real server does, and is no replacement for it: one Python process, no batching of requests.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from serving.releases.models_config import read_monitoring_config
from serving.server.local_grpc import start_grpc
from serving.server.local_rest import RestApi, RestServer
from serving.server.model_manager import ModelManager
from serving.server.prometheus import ServerMetrics

GRPC_PORT = 8500
REST_PORT = 8501


class LocalServer:
    """Serves the models of a models.config over gRPC and REST until stopped.

    Args:
        models_config: the models.config; base paths under /models are looked for beside it, as if its folder were
            mounted there.
        grpc_port: 0 = any free port.
        rest_port: 0 = any free port.
        host: address to bind.
        monitoring_config: a monitoring config; without one there is no metrics page.
        poll_seconds: how often base paths are scanned for new versions.
        watch_config: also put the models.config in force again when the file changes.

    Attributes:
        grpc_port: the gRPC port, known after `start`.
        rest_port: the REST port, known after `start`.
        manager: the loaded models; `manager.reload(path)` moves to another release.

    Raises (on start):
        ValueError: a configuration file cannot be read.
        ServingError: a model has no version that loads.
        OSError: a port is taken.
    """

    def __init__(
        self,
        models_config: Path,
        grpc_port: int = 0,
        rest_port: int = 0,
        host: str = "127.0.0.1",
        *,
        monitoring_config: Path | None = None,
        poll_seconds: float = 1.0,
        watch_config: bool = False,
    ) -> None:
        self.host = host
        self.grpc_port = grpc_port
        self.rest_port = rest_port
        self.manager = ModelManager(Path(models_config), poll_seconds=poll_seconds, watch_config=watch_config)
        self._monitoring_config = monitoring_config

    @property
    def target(self) -> str:
        """Address of the gRPC port, for clients."""
        return f"{self.host}:{self.grpc_port}"

    @property
    def url(self) -> str:
        """Address of the REST port."""
        return f"http://{self.host}:{self.rest_port}"

    def start(self) -> LocalServer:
        """Loads the models, then opens both ports."""
        metrics_path = read_monitoring_config(self._monitoring_config) if self._monitoring_config else None
        metrics = ServerMetrics() if metrics_path else None
        threads = 4 * (os.cpu_count() or 1)  # requests answered at the same time on each port
        try:
            self.manager.start()
            self._grpc, self.grpc_port = start_grpc(self.manager, self.host, self.grpc_port, metrics, threads)
            try:
                api = RestApi(self.manager, metrics, metrics_path)
                self._rest = RestServer(api, self.host, self.rest_port, threads)
                self._rest.start()
            except BaseException:
                self._grpc.stop(None)
                raise
        except BaseException:
            self.manager.stop()
            raise
        self.rest_port = self._rest.port
        return self

    def stop(self) -> None:
        """Finishes the requests under way, closes the ports and frees the models."""
        stopped = self._grpc.stop(grace=5)
        self._rest.stop()
        stopped.wait()
        self.manager.stop()

    def __enter__(self) -> LocalServer:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def main(arguments: Sequence[str] | None = None) -> None:
    """Parses the command line and serves until SIGINT or SIGTERM. Must be called in the main thread."""
    parser = argparse.ArgumentParser(
        prog="python -m serving.local", description="Serve a models.config over gRPC and REST."
    )
    parser.add_argument(
        "--models-config", type=Path, required=True, help="models.config, such as releases/7/models.config"
    )
    parser.add_argument("--port", type=int, default=GRPC_PORT, help="gRPC port")
    parser.add_argument("--rest-port", type=int, default=REST_PORT, help="REST port")
    parser.add_argument("--host", default="127.0.0.1", help="address to bind")
    parser.add_argument("--monitoring-config", type=Path, help="monitoring config; switches the metrics page on")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    with LocalServer(
        options.models_config,
        options.port,
        options.rest_port,
        options.host,
        monitoring_config=options.monitoring_config,
        watch_config=True,
    ) as server:
        names = ", ".join(server.manager.names)
        print(f"Serving {names}: gRPC {server.target}, REST {server.url}/v1/models", flush=True)
        stop.wait()


if __name__ == "__main__":
    main()
