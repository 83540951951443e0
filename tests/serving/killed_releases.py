"""Kills itself before every single change of the file system in promotion, rollback and gc, and looks at what is left.

Run in a process of its own (`python tests/serving/killed_releases.py FOLDER`), because it forks: a child makes the
change and sends itself SIGKILL before its n-th change of the file system, for n = 1, 2, ... until it gets through.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from serving.releases.gc import remove
from serving.releases.labels import read_labels
from serving.releases.models_config import read_models_config, resolve_base_path
from serving.releases.promotion import promote, roll_back
from serving.releases.release import list_releases, verify_release
from tests.serving.release_files import publish_all

CHANGES = ("open", "os.rename", "os.symlink", "os.remove", "os.rmdir", "os.mkdir")


def killed_at(number: int, change: Callable[[], object]) -> bool:
    """Makes a change in a child that dies before its `number`-th change of the file system; whether it died."""
    child = os.fork()
    if child == 0:
        left = number

        def count(event: str, arguments: tuple) -> None:
            nonlocal left
            writes = event != "open" or (isinstance(arguments[1], str) and arguments[1][:1] in ("w", "a", "x"))
            if event in CHANGES and writes:
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(count)
        change()
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return True
    assert os.WEXITSTATUS(status) == 0, f"the change failed with {status}"
    return False


def check(releases: Path, config: str) -> dict[str, int]:
    """Labels of a config, equal for all its models, each version with its graph; {} where there is none."""
    if not (releases / config).is_file():
        return {}
    labels = []
    for model in read_models_config(releases / config).model_config_list.config:
        base = resolve_base_path(model.base_path, releases)
        for version in model.model_version_policy.specific.versions:
            assert (base / str(version) / "saved_model.pb").is_file(), f"{model.name} {version}"
        labels.append(dict(model.version_labels))
    assert all(other == labels[0] for other in labels), labels
    return labels[0]


def kills(start: Path, work: Path, change: Callable[[Path], object]) -> int:
    """Kills a change at every step, starting from a copy of `start` each time; how many kills there were."""
    finished = work / "finished"
    shutil.copytree(start, finished, symlinks=True)
    change(finished)
    outcomes = [check(start, "models.config"), check(finished, "models.config")]
    number = 0
    while True:
        number += 1
        folder = work / str(number)
        shutil.copytree(start, folder, symlinks=True)
        died = killed_at(number, lambda folder=folder: change(folder))
        for config in ("models.config", "models_scann.config"):
            assert check(folder, config) in outcomes, f"step {number}: {check(folder, config)}"
        for version in list_releases(folder):
            verify_release(folder / str(version))
        if read_labels(folder).as_dict() == outcomes[0] != outcomes[1]:
            change(folder)  # it is simply made again
        remove(folder, 1)
        assert check(folder, "models.config") == check(folder, "models_scann.config") == outcomes[1]
        expected = {*read_labels(folder).versions, max(list_releases(folder))}
        assert set(list_releases(folder)) == expected
        assert not [path for path in folder.iterdir() if path.name.endswith((".removed", ".partial"))]
        assert {link.name for link in folder.glob("serving/*/*")} <= {str(version) for version in expected}
        if not died:
            return number - 1


def main() -> None:
    work = Path(sys.argv[1])
    start = publish_all(work / "start" / "releases", 1, 2, 3, 4)
    promote(start, 1)
    canary = shutil.copytree(start, work / "canary", symlinks=True)
    promote(canary, 2, "canary")
    promoted = shutil.copytree(canary, work / "promoted", symlinks=True)
    promote(promoted)
    counts = {
        "promote": kills(start, work / "a", lambda releases: promote(releases, 2, "canary")),
        "promote again": kills(canary, work / "b", promote),
        "roll_back": kills(promoted, work / "c", roll_back),
        "remove": kills(canary, work / "d", lambda releases: remove(releases, 1)),
    }
    print(json.dumps(counts))


if __name__ == "__main__":
    main()
