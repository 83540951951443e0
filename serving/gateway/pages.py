"""The gateway's two pages, each put together from its parts into one self-contained file: the shop, and the engineers'."""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path

from fastapi import FastAPI
from fastapi.responses import HTMLResponse

PARTS = Path(__file__).with_name("page")
PAGES: dict[str, tuple[str, tuple[str, ...]]] = {
    "/": ("shop.html", ("ask.js", "cards.js", "shop.js")),
    "/engineers": ("engineers.html", ("ask.js", "engineers.js")),
}
"""Address -> markup and scripts, which run as one."""


def add_pages(app: FastAPI) -> None:
    """`/` and `/engineers`, with a policy under which nothing but a page's own script and style runs."""
    for address, (markup, scripts) in PAGES.items():
        _add(app, address, assemble(markup, scripts))


def assemble(markup: str, scripts: tuple[str, ...]) -> str:
    """The markup with the style and the scripts in its empty elements."""
    page = (PARTS / markup).read_text(encoding="utf-8")
    script = "\n".join((PARTS / name).read_text(encoding="utf-8") for name in scripts)
    style = (PARTS / "style.css").read_text(encoding="utf-8")
    for tag, content in (("style", style), ("script", script)):
        page = page.replace(f"<{tag}></{tag}>", f"<{tag}>\n{content}</{tag}>")
    return page


def _add(app: FastAPI, address: str, page: str) -> None:
    policy = (
        "default-src 'none'; img-src 'self' data: blob:; media-src 'self' blob:; connect-src 'self'; "
        f"script-src {inline_hash(page, 'script')}; style-src {inline_hash(page, 'style')}; "
        "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    )

    @app.get(address, include_in_schema=False)
    def index() -> HTMLResponse:
        return HTMLResponse(page, headers={"Content-Security-Policy": policy, "Cache-Control": "no-cache"})


def inline_hash(page: str, tag: str) -> str:
    """The Content-Security-Policy source of the page's one inline element: only that very text may run.

    Example:
        >>> inline_hash("<style></style>", "style")
        "'sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU='"
    """
    parts = re.findall(rf"<{tag}>(.*?)</{tag}>", page, flags=re.DOTALL)
    if len(parts) != 1:
        raise ValueError(f"page: must have one <{tag}> element without attributes, received {len(parts)}")
    return f"'sha256-{base64.b64encode(hashlib.sha256(parts[0].encode()).digest()).decode()}'"
