"""A release served for minutes: changes of release under load, memory, and a killed model server. See `--help`."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import httpx

from benchmarks.serve_load import at_most, open_loop
from serving.client.model_client import ModelClient
from serving.releases.labels import read_labels
from serving.releases.promotion import promote, roll_back
from serving.releases.release import list_releases
from serving.releases.view import release_models
from serving.status import ServingError

HELP = """
A local model server and a gateway, each a process of its own, on copies of a finished run's releases; where there are fewer
than three, the run is exported again in smaller precisions. Under load at half of what the gateway bears (no answer is kept
by it), stable moves from one release to the next, every fourth time back to the one before. Then the model server is killed:
popular items are answered until it is there again.

The last line is one JSON object: requests, failed ones (no answer, another status, or popular items while models serve), p50
and p99 in milliseconds from when a request was due; memory of the server in MB once two releases are loaded, and at the end;
of the kill, the slowest answer and the seconds until models answer again, once they are loaded.

example: python benchmarks/soak.py --run runs/demo --seconds 600 --changes 20
"""
ROOT = Path(__file__).resolve().parent.parent
PRECISIONS = ("float16", "int8")
WORKERS = 8
DEADLINE = 2.0
"""Of the gateway's calls, seconds."""


class Tally:
    """Asks a gateway for recommendations, and keeps count of what came back."""

    def __init__(self, client: httpx.Client, users: list[str]):
        self.client, self.users = client, users
        self.lock, self.outcomes = threading.Lock(), Counter[str]()
        self.slowest, self.versions = 0.0, Counter[int]()

    def ask(self, number: int) -> str:
        """ "answered" by models, "fallback", or how it failed."""
        start = time.perf_counter()
        try:
            reply = self.client.get("/v1/recommend", params={"user_id": self.users[number % len(self.users)], "k": 10})
            body = reply.json() if reply.status_code == 200 else {}
            outcome = str(reply.status_code)
            if body.get("items"):
                outcome = "fallback" if body["fallback"] else "answered"
        except httpx.HTTPError as error:
            body, outcome = {}, type(error).__name__
        with self.lock:
            self.outcomes[outcome] += 1
            self.slowest = max(self.slowest, time.perf_counter() - start)
            self.versions.update({body.get("versions", {}).get("ranking", 0)} - {0})
        return outcome


class Process:
    """A server of this project in a process of its own."""

    def __init__(self, *command: str):
        self.command = [sys.executable, "-m", *command]
        self.start()

    def start(self) -> None:
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self.process = subprocess.Popen(self.command, cwd=ROOT, **quiet)

    def memory(self) -> float:
        """Resident MB."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return round(pages * os.sysconf("SC_PAGE_SIZE") / 1e6, 1)

    def stop(self, number: int = signal.SIGTERM) -> None:
        self.process.send_signal(number)
        self.process.wait(60)


class ModelServer(Process):
    """The local server of a folder of releases."""

    def __init__(self, releases: Path):
        self.port, self.target = free_port(), ""
        self.target, self.releases = f"127.0.0.1:{self.port}", releases
        config = ["--models-config", str(releases / "models.config")]
        super().__init__("serving.local", *config, "--port", str(self.port), "--rest-port", str(free_port()))

    def wait(self, version: int, seconds: float = 120.0) -> None:
        """Returns when every model of a release is loaded.

        Raises:
            ServingError: it is not within the time.
        """
        until = time.monotonic() + seconds
        with ModelClient(self.target, deadline=5) as client:
            for model in release_models(self.releases, version):
                while True:
                    try:
                        if client.status(model).get(version) == "AVAILABLE":
                            break
                    except ServingError:
                        if time.monotonic() > until or self.process.poll() is not None:
                            raise
                    time.sleep(0.05)


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def change_releases(tally: Tally, server: ModelServer, rate: float, seconds: float, changes: int) -> dict[str, Any]:
    """Load, and meanwhile that many changes of the stable release."""
    releases, numbers = server.releases, list_releases(server.releases)
    waiting: dict[str, Any] = {"servers": [server.target], "timeout": 120.0}
    if len(numbers) < 2:
        raise ValueError(f"releases: need two or more to change between, received {numbers} in {releases}")
    memory: list[float] = []
    errors: list[Exception] = []

    def move(number: int, at: int) -> int:
        if number % 4 == 3:
            return numbers.index(roll_back(releases, **waiting).version)
        chosen = numbers[(at + 1) % len(numbers)]
        promote(releases, chosen, "canary", **waiting)
        promote(releases, **waiting)
        return numbers.index(chosen)

    def change() -> None:
        at, begun = 0, time.monotonic()
        try:
            for number in range(changes):
                time.sleep(max(0.0, begun + seconds * (number + 0.5) / (changes + 1) - time.monotonic()))
                at = move(number, at)
                if number == 0:
                    time.sleep(min(1.0, seconds / (changes + 1) / 2))
                    memory.append(server.memory())
        except Exception as error:  # told by the caller, in its own thread
            errors.append(error)

    changing = threading.Thread(target=change)
    changing.start()
    latency = open_loop(tally.ask, rate, seconds, WORKERS)
    changing.join()
    if errors:
        raise errors[0]
    time.sleep(min(2.0, seconds / 10))
    memory.append(server.memory())
    failed = {outcome: count for outcome, count in tally.outcomes.items() if outcome != "answered"}
    return {
        "requests": tally.outcomes.total(),
        "failed": sum(failed.values()),
        **({"failures": failed} if failed else {}),
        **latency,
        "changes": changes,
        "answered_by_release": dict(sorted(tally.versions.items())),
        "memory_mb": {"start": memory[0], "end": memory[1], "ratio": round(memory[1] / memory[0], 3)},
    }


def kill_server(tally: Tally, server: ModelServer, rate: float, seconds: float) -> dict[str, Any]:
    """The server is killed, load goes on for a while without it, then it is started again."""
    stable = read_labels(server.releases).stable
    assert stable is not None
    server.stop(signal.SIGKILL)
    open_loop(tally.ask, rate, seconds, WORKERS)
    killed = {
        "requests": tally.outcomes.total(),
        "fallbacks": tally.outcomes["fallback"],
        "failed": tally.outcomes.total() - tally.outcomes["fallback"],
        "slowest_seconds": round(tally.slowest, 3),
    }
    server.start()
    server.wait(stable)
    begun, number = time.perf_counter(), 0
    while tally.ask(number) != "answered":
        number += 1
        if time.perf_counter() - begun > 60:
            raise TimeoutError("models answer again, but a minute later the gateway still answers popular items")
        time.sleep(0.05)
    return {**killed, "recovered_after_seconds": round(time.perf_counter() - begun, 3)}


def copy_releases(run: Path, root: Path) -> Path:
    """A run's releases beside links to its stages, at least three: exported again in smaller precisions."""
    from data.dataset import Dataset
    from pipeline.release.export_stage import export_stage
    from pipeline.settings.config import load_config

    for stage in run.iterdir():
        if stage.name not in ("releases", "gateway"):
            (root / stage.name).symlink_to(stage.resolve())
    for version in list_releases(run / "releases"):
        shutil.copytree(run / "releases" / str(version), root / "releases" / str(version))
    for precision in PRECISIONS:
        if len(list_releases(root / "releases")) < 3:
            config = load_config(None, [f'serving.precision="{precision}"'])
            export_stage(Dataset.load(root / "ingest"), root, config)
    return root / "releases"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.partition(" See")[0], epilog=HELP, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", type=Path, required=True, help="a finished run")
    parser.add_argument("--seconds", type=float, default=600.0, help="under load")
    parser.add_argument("--changes", type=int, default=20, help="of the stable release meanwhile")
    parser.add_argument("--rate", type=float, help="requests a second; default: half of what it bears")
    parser.add_argument("--down", type=float, default=5.0, help="seconds that the killed server stays away")
    options = parser.parse_args()
    root, running = Path(tempfile.mkdtemp(prefix="triptych_soak_")), []
    try:
        releases = copy_releases(options.run, root)
        first = list_releases(releases)[0]
        promote(releases, first)
        server = ModelServer(releases)
        running.append(server)
        server.wait(first)
        port, config = free_port(), root / "gateway.toml"
        config.write_text(
            f'run = "{root}"\ntarget = "{server.target}"\nlabel = "stable"\ncache_seconds = 0\nclock = "log"\n'
            f"deadline_seconds = {DEADLINE}\nrequests_per_second = 1e6\nburst = 1000000\n"
        )
        gateway = Process("serving.gateway_server", "--config", str(config), "--port", str(port))
        running.append(gateway)
        users = (root / "ingest" / "user_ids.txt").read_text().split("\n")[1:1001]
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
            warm = Tally(client, users)
            until = time.monotonic() + 60
            while warm.ask(0) != "answered" and time.monotonic() < until:
                time.sleep(0.1)
            most = at_most(warm.ask, min(10.0, options.seconds / 5), WORKERS)
            rate = options.rate or most / 2
            result = change_releases(Tally(client, users), server, rate, options.seconds, options.changes)
            killed = kill_server(Tally(client, users), server, rate, options.down)
        settings = {"seconds": options.seconds, "requests_per_second": most, "deadline_seconds": DEADLINE}
        print(json.dumps({"benchmark": "soak", **settings, **result, "killed": killed}))
    finally:
        for process in reversed(running):
            process.stop()
        shutil.rmtree(root)


if __name__ == "__main__":
    main()
