"""Servers around a finished run: answer a few requests and stop, or stay up for people to try."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import pandas as pd
import uvicorn
from rich.console import Console
from rich.table import Table

from pipeline.settings.config import ServingConfig
from pipeline.stages.walk import Run
from serving.gateway.app import GatewaySettings, create_app
from serving.local import LocalServer
from serving.releases.release import latest_release, verify_release

STRANGER = "somebody-new"
GATEWAY_START_SECONDS = 30.0


@contextmanager
def serving(data: Path, run: Path, ports: ServingConfig) -> Iterator[tuple[LocalServer, str]]:
    """The newest release on a local server, and the gateway before it; yields the server and the gateway's address.

    Port 0 takes any free port. Errors: ReleaseError when the release is missing or damaged.
    """
    release = verify_release(latest_release(run / "releases"))
    # The local server links ScaNN's ops, so it can also show the model that the stock image cannot load.
    with_scann = release.folder / "models_scann.config"
    config = with_scann if with_scann.is_file() else release.models_config
    with LocalServer(config, ports.grpc_port, ports.rest_port) as server:
        # The demo's log ended long ago: "now" would make every item look old.
        settings = GatewaySettings(run=run, source=data, target=server.target, clock="log")
        gateway = uvicorn.Server(
            uvicorn.Config(create_app(settings), host="127.0.0.1", port=ports.gateway_port, log_level="warning")
        )
        thread = threading.Thread(target=gateway.run, name="gateway", daemon=True)
        thread.start()
        try:
            yield server, f"http://127.0.0.1:{_port(gateway, thread)}"
        finally:
            gateway.should_exit = True
            thread.join(timeout=10)


def _port(gateway: uvicorn.Server, thread: threading.Thread) -> int:
    """The port the gateway listens on, once it does."""
    waited = threading.Event()
    for _ in range(int(GATEWAY_START_SECONDS / 0.05)):
        if gateway.started:
            return gateway.servers[0].sockets[0].getsockname()[1]
        if not thread.is_alive():
            break
        waited.wait(0.05)
    raise RuntimeError(
        "gateway: it did not start; the port may be taken, choose another with --set serving.gateway_port=0"
    )


def answer_requests(
    data: Path,
    run: Path,
    requests: Sequence[tuple[str, tuple[str, ...]]],
    *,
    k: int = 10,
    ports: ServingConfig | None = None,
) -> list[dict]:
    """Start both servers, ask the gateway for each (user id, recent item ids), print the answers as tables, and
    stop."""
    answers = []
    with (
        serving(data, run, ports or ServingConfig(grpc_port=0, rest_port=0, gateway_port=0)) as (_, url),
        httpx.Client(base_url=url, timeout=30) as client,
    ):
        for user_id, recent in requests:
            reply = client.post("/v1/recommend", json={"user_id": user_id, "recent_item_ids": list(recent), "k": k})
            reply.raise_for_status()
            answers.append(reply.json())
            Console().print(as_table(answers[-1]))
    return answers


def as_table(answer: dict) -> Table:
    """One reply of the gateway as a table for people."""
    who = "known user" if answer["known_user"] else "never seen before"
    table = Table(
        title=f"{answer['user_id']} ({who})" + (", fallback: popular items" if answer.get("fallback") else "")
    )
    table.add_column("#", justify="right")
    table.add_column("item")
    table.add_column("title")
    for name in ("click", "purchase", "retrieved as"):
        table.add_column(name, justify="right")
    for item in answer["items"]:
        numbers = [f"{item[name]:.3f}" if item.get(name) is not None else "" for name in ("click", "purchase")]
        place = item.get("retrieval_rank")
        table.add_row(
            str(item["rank"]),
            item["item"]["item_id"],
            item["item"]["title"],
            *numbers,
            "" if place is None else str(place),
        )
    return table


def run_demo(run: Run) -> dict:
    """Every stage, then one request for the most active user and one for a user never seen."""
    report = run.all()
    events = pd.read_parquet(run.folder / "ingest" / "events.parquet", columns=["user"])
    busiest = run.dataset().users["user_id"].iloc[int(np.bincount(events["user"]).argmax())]
    run.say("[serve] starting the local server and the gateway")
    answer_requests(run.source, run.folder, [(busiest, ()), (STRANGER, ())])
    run.say(f"\nReport: {run.folder / 'report.html'} (figures: {run.folder / 'report.json'})")
    run.say(
        f"Page:   `make serve` keeps the servers up and shows it at http://127.0.0.1:{run.config.serving.gateway_port}/"
    )
    return report


def serve_release(data: Path, run: Path, ports: ServingConfig) -> None:
    """Serve until Ctrl-C."""
    Console().print("starting the model server ...")  # a large release takes minutes
    with serving(data, run, ports) as (server, url):
        Console().print(
            f"Page and API  {url}/  (OpenAPI: {url}/openapi.json)\nTF Serving    gRPC {server.target}, REST "
            f"{server.url}/v1/models/retrieval\nCtrl-C stops."
        )
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            Console().print("stopping")
