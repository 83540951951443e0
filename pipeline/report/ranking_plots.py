"""The report's plots of ranking: calibration by head, and where ranking gains over the retrieval order."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pipeline.report.figure import COLOURS, INK, Plot, colour_of, name_of, read_metric, render_plot
from pipeline.report.orders import CUTOFF

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def plot_calibration(ranking: Mapping[str, Any]) -> Plot | None:
    """Reliability: predicted probability against observed frequency, one panel a head.

    `reliability` is a list of [mean predicted, observed, count], or one such list by head.
    """
    curves = ranking.get("reliability") or {}
    by_head: Mapping[str, Sequence[Any]] = curves if isinstance(curves, Mapping) else {"click": curves}
    heads = {head: [row for row in rows if None not in row[:2]] for head, rows in by_head.items()}
    heads = {head: rows for head, rows in heads.items() if rows}
    if not heads:
        return None

    def draw(axes: Sequence[Axes]) -> None:
        for place, (axis, (head, rows)) in enumerate(zip(axes, heads.items(), strict=True)):
            limit = max(0.01, 1.08 * max(max(row[0], row[1]) for row in rows))
            axis.plot([0, limit], [0, limit], color=INK, lw=1, ls="--")
            predicted, observed = [row[0] for row in rows], [row[1] for row in rows]
            axis.plot(predicted, observed, marker="o", ms=5, lw=1.8, color=colour_of(head, place))
            axis.set(title=head, xlim=(0, limit), ylim=(0, limit), aspect="equal")
            axis.set(xlabel="predicted probability", ylabel="observed frequency")

    errors = {**(ranking.get("ece_by_head") or {}), "click": ranking.get("ece")}
    alt = [f"Reliability curve of {' and '.join(heads)}."]
    for head, rows in heads.items():
        gap = max(abs(row[0] - row[1]) for row in rows)
        error = read_metric(errors, head)
        told = "" if error is None else f"; expected calibration error {error:.4f}"
        alt.append(f"{head}: the largest gap between predicted and observed is {gap:.3f}{told}.")
    caption = "On the dashed line, what is predicted at 10 % comes true one time in ten. Every head has its own scale."
    plot = render_plot("calibration", draw, panels=len(heads), height=3.9, caption=caption, width=4.6)
    return dataclasses.replace(plot, alt=" ".join(alt))


def plot_gains(ranking: Mapping[str, Any]) -> Plot | None:
    """What ranking gains over the retrieval order of clicks in every segment, with intervals."""
    dimensions = (ranking.get("order") or {}).get("click") or {}
    lines = [
        (f"{name_of(dimension)}: {group}" if dimension != "all" else "everyone", values[CUTOFF]["difference"])
        for dimension, groups in dimensions.items()
        for group, values in groups.items()
        if None not in (values.get(CUTOFF) or {}).get("difference", [None])
    ]
    if len(lines) < 2:
        return None

    def draw(axes: Sequence[Axes]) -> None:
        (axis,) = axes
        for place, (_, (mean, low, high)) in enumerate(reversed(lines)):
            sure = low > 0 or high < 0
            colour = COLOURS["ids_only"] if high < 0 else COLOURS["model"] if sure else COLOURS["popularity"]
            axis.plot([low, high], [place, place], color=colour, lw=1.6)
            axis.plot([mean], [place], marker="o", ms=6, color=colour)
        axis.axvline(0, color=INK, lw=1, ls="--")
        axis.set_yticks(range(len(lines)), [name for name, _ in reversed(lines)])
        axis.set(xlabel=f"{CUTOFF.upper()} of the ranked order less that of the retrieval order")
        axis.grid(axis="y", visible=False)

    told = "; ".join(f"{name} {mean:+.3f} [{low:+.3f}, {high:+.3f}]" for name, (mean, low, high) in lines)
    caption = "Means user by user. Right of the dashed line, ranking helps. Grey: the 95 % interval holds 0."
    plot = render_plot("gains", draw, panels=1, height=0.9 + 0.24 * len(lines), caption=caption, width=7.2)
    return dataclasses.replace(plot, alt=f"Gain of ranking by segment: {told}.")
