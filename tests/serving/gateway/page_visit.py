"""A visit to the pages in a browser: what the tests of them do and look at."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import uvicorn
from axe_playwright_python.sync_playwright import Axe
from fastapi import FastAPI
from playwright.sync_api import Browser, Page, expect

PICTURES = Path(__file__).resolve().parents[3] / "runs" / "test-pages"
"""Where screenshots go."""
SIZES = {"phone": {"width": 390, "height": 844}, "desktop": {"width": 1280, "height": 900}}
FOCUSED = "element => element === document.activeElement"


@contextmanager
def at_work(app: FastAPI) -> Iterator[str]:
    """The address of a gateway that runs in a thread of this process."""
    gateway = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning"))
    thread = threading.Thread(target=gateway.run, daemon=True)
    thread.start()
    while not gateway.started:
        assert thread.is_alive()
        time.sleep(0.05)
    try:
        yield f"http://127.0.0.1:{gateway.servers[0].sockets[0].getsockname()[1]}/"
    finally:
        gateway.should_exit = True
        thread.join(timeout=10)


@contextmanager
def visit(browser: Browser, address: str, size: str = "desktop", refused: str = "4xx") -> Iterator[Page]:
    """A page of a visitor who has never been here. Afterwards: no request has gone elsewhere, and there was no
    error but statuses that were looked for."""
    context = browser.new_context(viewport=SIZES[size])  # type: ignore[arg-type]
    context.set_default_timeout(15_000)
    page = context.new_page()
    hosts: set[str] = set()
    faults: list[str] = []
    page.on("request", lambda request: hosts.add(httpx.URL(request.url).host))
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda line: faults.append(line.text) if line.type == "error" else None)
    page.goto(address)
    yield page
    context.close()
    assert hosts <= {"127.0.0.1", ""}, hosts  # "" is a data: or blob: address of the page's own
    assert all(any(status in fault for status in refused.split()) for fault in faults), faults


def settled(page: Page, words: str = "items for") -> None:
    expect(page.locator("#status")).to_contain_text(words, timeout=15_000)


def titles(page: Page) -> list[str]:
    return page.locator("#items h3").all_inner_texts()


def check(page: Page, name: str) -> None:
    """A picture for people to look at; nothing wider than the screen, and nothing serious to axe, nor two landmarks of
    one name, by day and by night."""
    PICTURES.mkdir(parents=True, exist_ok=True)
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme, reduced_motion="reduce")  # type: ignore[arg-type]
        page.screenshot(path=PICTURES / f"{name}-{scheme}.png")
        found = Axe().run(page).response["violations"]
        serious = [
            (one["id"], one["nodes"][0]["html"])
            for one in found
            if one["impact"] in ("serious", "critical") or one["id"] == "landmark-unique"
        ]
        assert not serious, serious
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
