"""What every plot of the report shares: names, colours, one style, and the step from a figure to inline SVG."""

from __future__ import annotations

import dataclasses
import functools
import io
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK = "#010203"
"""Stands for the page's text colour: replaced by `currentColor`, so that plots follow the light and the dark theme."""
COLOURS = {
    "model": "#3a8f8a", "oracle": "#b9862f", "popularity": "#8b8f98", "item_knn": "#8a6fc4", "ids_only": "#c8635c",
    "two_towers": "#5fb0ab",
    "text": "#4a86c5", "image": "#b9862f", "audio": "#8a6fc4", "exact": "#8b8f98", "scann": "#3a8f8a", "partitioned": "#b9862f",
    "full": "#3a8f8a", "without_text": "#4a86c5", "without_image": "#b9862f", "without_audio": "#8a6fc4",
    "click": "#3a8f8a", "purchase": "#b9862f",
}  # fmt: skip
OTHERS = ("#4a86c5", "#c8635c", "#6f9a3d", "#a05fa0")
NAMES = {
    "model": "Triptych", "oracle": "oracle (true taste)", "popularity": "popularity", "item_knn": "item-kNN",
    "two_towers": "two towers alone", "ids_only": "ids only", "test": "All test events",
    "cold_items": "Never-seen items", "full": "full model", "scann": "ScaNN",
}  # fmt: skip
STYLE: dict[Any, Any] = {
    "font.family": "sans-serif", "font.size": 10, "svg.fonttype": "none", "svg.hashsalt": "triptych",
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.18, "axes.axisbelow": True,
    "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": INK, "xtick.color": INK, "ytick.color": INK,
    "grid.color": INK,
    "axes.titlesize": 11, "axes.titleweight": "bold", "axes.titlelocation": "left", "legend.frameon": False,
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Plot:
    """A finished plot: its name (also the prefix of every id in it), markup, text alternative and caption."""

    name: str
    svg: str
    alt: str
    caption: str

    @property
    def document(self) -> str:
        """A plot of one panel as a file of its own, which has no page whose text colour it could take."""
        svg = self.svg.replace("<svg", '<svg xmlns="http://www.w3.org/2000/svg"', 1)
        return svg.replace("currentColor", "#1f2328")


def name_of(key: str) -> str:
    """A key as people read it.

    Example:
        >>> name_of("item_knn"), name_of("without_text")
        ('item-kNN', 'without text')
    """
    return NAMES.get(key, key.replace("_", " "))


def colour_of(key: str, place: int = 0) -> str:
    return COLOURS.get(key, OTHERS[place % len(OTHERS)])


def read_metric(figures: Any, *path: str) -> float | None:
    """The number at a path of keys; None where there is none.

    Example:
        >>> read_metric({"test": {"mrr": 0.5}}, "test", "mrr"), read_metric({}, "test", "mrr")
        (0.5, None)
    """
    for key in path:
        figures = figures.get(key) if isinstance(figures, Mapping) else None
    return float(figures) if isinstance(figures, int | float) and not isinstance(figures, bool) else None


def render_plot(
    name: str,
    draw: Callable[[Sequence[Axes]], None],
    *,
    panels: int,
    height: float,
    caption: str,
    width: float = 4.8,
) -> Plot:
    """Draws on one axes a panel; each panel is an SVG of its own, so that a narrow page can put them under each other.

    The text alternative is empty until the caller gives one.

    Args:
        draw: receives the axes.
        height, width: inches of a panel.
    """
    import matplotlib  # here, and wherever one is drawn: a report without plots does not wait seconds for it
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        figures = [Figure(figsize=(width, height), layout="constrained") for _ in range(panels)]
        draw([figure.subplots() for figure in figures])
        svgs = []
        for place, figure in enumerate(figures):
            buffer = io.StringIO()
            nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
            figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
            svgs.append(inline_svg(buffer.getvalue(), f"{name}-{place}"))
    return Plot(name, "\n".join(svgs), "", caption)


def drawn_once(plot: Callable[[Any], Plot | None]) -> Callable[[Any], Plot | None]:
    """A function of JSON-able figures that remembers what it drew last, for a report that is written again as a job goes on.

    Example:
        >>> asked = []
        >>> drawn = drawn_once(lambda figures: asked.append(figures))
        >>> drawn({"a": [1]}), drawn({"a": [1]}), drawn({"a": [2]}), asked
        (None, None, None, [{'a': [1]}, {'a': [2]}])
    """
    last: dict[str, Plot | None] = {}

    @functools.wraps(plot)
    def drawn(figures: Any) -> Plot | None:
        key = json.dumps(figures, default=str)
        if key not in last:
            made = plot(figures)
            last.clear()
            last[key] = made
        return last[key]

    return drawn


def inline_svg(document: str, prefix: str) -> str:
    """A stand-alone SVG document as markup for HTML: no prolog, no metadata, no namespace address, ids of its own.

    Example:
        >>> inline_svg('<?xml version="1.0"?><svg xmlns="http://a.b" id="x"><use xlink:href="#x"/></svg>', "p")
        '<svg id="p-x"><use href="#p-x"/></svg>'
    """
    svg = document[document.index("<svg") :].strip()
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\s+xmlns(:\w+)?="[^"]*"', "", svg)
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{prefix}-\1"', svg)
    svg = re.sub(r'(?:xlink:)?href="#([^"]+)"', rf'href="#{prefix}-\1"', svg)
    svg = re.sub(r"url\(#([^)]+)\)", rf"url(#{prefix}-\1)", svg)
    return svg.replace(INK, "currentColor")
