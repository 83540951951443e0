"""Chromium for the tests of the pages: where it is, or how it comes here (`python -m tests.serving.browser`)."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome")
SECONDS = 300
HOW = (
    "NO BROWSER: the pages were not tested. Install Chromium (as root on Debian or Ubuntu: 'apt-get install -y chromium'; "
    "anywhere: '.venv/bin/python -m playwright install --with-deps chromium') and run the tests again."
)


def find_chromium() -> str | None:
    """The first Chromium that starts: of this machine, else the one that Playwright has downloaded."""
    candidates = [path for name in NAMES if (path := shutil.which(name))]
    downloads = Path(os.environ.get("PLAYWRIGHT_BROWSERS_PATH", Path.home() / ".cache" / "ms-playwright"))
    candidates += (
        sorted(map(str, downloads.glob("chromium*/chrome-linux*/*")), reverse=True) if downloads.is_dir() else []
    )
    for path in candidates:
        if Path(path).name in (*NAMES, "chrome", "headless_shell", "chrome-headless-shell") and _starts(path):
            return path
    return None


def _starts(path: str) -> bool:
    try:
        return subprocess.run([path, "--version"], capture_output=True, timeout=30, check=False).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def install_chromium() -> str | None:
    """Debian's, where this process may install packages, else Playwright's; None where neither can be had."""
    ways = [[sys.executable, "-m", "playwright", "install", "chromium"]]
    if os.geteuid() == 0 and shutil.which("apt-get"):
        ways.insert(0, ["apt-get", "update", "-q"])
        ways.insert(1, ["apt-get", "install", "-y", "-q", "--no-install-recommends", "chromium"])
    for way in ways:
        print(f"Chromium: trying '{' '.join(way)}' (at most {SECONDS} s)", flush=True)
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        try:
            subprocess.run(way, capture_output=True, timeout=SECONDS, check=False, env=environment)
        except (OSError, subprocess.TimeoutExpired) as error:
            print(f"Chromium: {type(error).__name__}", flush=True)
        found = find_chromium()
        if found:
            return found
    return None


if __name__ == "__main__":
    print(f"Chromium: {find_chromium() or install_chromium() or HOW}")
