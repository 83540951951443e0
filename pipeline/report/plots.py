"""The report's plots, one function a plot: stage figures in, a `Plot` out, or None where there is nothing to show."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from markupsafe import escape

from pipeline.report.figure import COLOURS, INK, Plot, colour_of, drawn_once, name_of, read_metric, render_plot
from pipeline.report.table import signed_number

if TYPE_CHECKING:
    from matplotlib.axes import Axes

HIDDEN = {"masked": "hidden from the two towers as they were trained", "retrained": "trained without it"}
TOWERS_ALONE = "The two towers alone, before the linear tower is added."


def plot_learning(histories: Mapping[str, Sequence[Mapping[str, Any]]], *, linear: bool = False) -> Plot | None:
    """Training loss and validation quality by epoch, one line a variant; a panel without a line is left out.

    `linear`: whether a linear tower was added to what these curves are of.
    """
    plot = _plot_curves(histories)
    return dataclasses.replace(plot, caption=f"{TOWERS_ALONE} {plot.caption}") if plot is not None and linear else plot


@drawn_once
def _plot_curves(histories: Mapping[str, Sequence[Mapping[str, Any]]]) -> Plot | None:
    wanted = (("loss", "Training loss"), ("valid_ndcg@20", "Validation NDCG@20"))
    panels = [(key, title) for key, title in wanted if any(len(_series(rows, key)[0]) > 1 for rows in histories.values())]
    if not panels:
        return None

    def draw(axes: Sequence[Axes]) -> None:
        from matplotlib import ticker

        for axis, (key, title) in zip(axes, panels, strict=True):
            for place, (variant, rows) in enumerate(histories.items()):
                width = 2.6 if variant == "full" else 1.3
                colour = colour_of(variant, place)
                axis.plot(*_series(rows, key), label=name_of(variant), color=colour, lw=width, marker=".")
            axis.set(title=title, xlabel="epoch")
            axis.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
        axes[-1].legend(fontsize=9)

    best = [f"{name_of(name)} {max(values):.3f}" for name, rows in histories.items() if (values := _quality(rows))]
    alt = f"Learning curves of {', '.join(name_of(name) for name in histories)} by epoch."
    alt += f" Best validation NDCG@20: {', '.join(best)}." if best else ""
    caption = "The best epoch's weights are kept, so what comes after a peak costs time but no quality."
    return dataclasses.replace(render_plot("learning", draw, panels=len(panels), height=3.3, caption=caption), alt=alt)


def plot_segments(retrieval: Mapping[str, Any]) -> Plot | None:
    """Recall@20 and recall@100 by segment: the model between what bounds it above and below."""
    systems: dict[str, Any] = {"oracle": retrieval["oracle"]} if retrieval.get("oracle") else {}
    systems |= {"model": retrieval, **(retrieval.get("baselines") or {})}
    segments = [name for name, value in retrieval.items() if read_metric(value, "recall@20") is not None]
    if not segments:
        return None
    shown = {
        segment: [name for name, entry in systems.items() if read_metric(entry.get(segment), "recall@20") is not None]
        for segment in segments
    }

    def draw(axes: Sequence[Axes]) -> None:
        for axis, segment in zip(axes, segments, strict=True):
            names = shown[segment][::-1]
            colours = [colour_of(name, place) for place, name in enumerate(names)]
            largest = 0.01
            for offset, key, alpha in ((0.2, "recall@20", 1.0), (-0.2, "recall@100", 0.5)):
                values = [read_metric(systems[name][segment], key) or 0.0 for name in names]
                bars = axis.barh([at + offset for at in range(len(names))], values, 0.38, color=colours, alpha=alpha)
                labels = [f"@{key.removeprefix('recall@')}  {value:.3f}" for value in values]
                axis.bar_label(bars, labels, padding=3, fontsize=8.5)
                largest = max(largest, *values)
            axis.set_yticks(range(len(names)), [name_of(name) for name in names])
            axis.set(title=name_of(segment), xlabel="recall", xlim=(0, 1.3 * largest))  # room for the labels
            axis.set_xticks([tick for tick in axis.get_xticks() if 0 <= tick <= min(1, 1.3 * largest)])
            axis.grid(axis="y", visible=False)

    alt = []
    for segment in segments:
        found = [f"{name_of(name)} {systems[name][segment]['recall@20']:.3f}" for name in shown[segment]]
        alt.append(f"{name_of(segment)}, recall@20: {', '.join(found)}.")
    caption = (
        "Solid bars: the share of what users went on to choose that is among the first 20 suggestions. "
        "Faded bars: among the first 100."
    )
    plot = render_plot("segments", draw, panels=len(segments), height=3.8, caption=caption)
    return dataclasses.replace(plot, alt=" ".join(alt))


def plot_ablation(retrieval: Mapping[str, Any]) -> Plot | None:
    """What each modality is worth: recall with it hidden from the two towers, which alone are what that compares with where a
    linear tower was added to them, and recall of the whole model when trained without it."""
    ablation: Mapping[str, Any] = retrieval.get("ablation") or {}
    wanted = (("test", "recall@20"), ("cold_items", "recall@100"))
    panels = [(segment, key) for segment, key in wanted if read_metric(retrieval.get(segment), key) is not None]
    bars = {
        (segment, key, kind): {
            name: value
            for name, entry in ablation.items()
            if (value := read_metric((entry.get(kind) or {}).get(segment), key)) is not None
        }
        for segment, key in panels
        for kind in HIDDEN
    }
    kinds = [kind for kind in HIDDEN if any(values for (_, _, of), values in bars.items() if of == kind)]
    if not kinds:
        return None
    names = list(ablation)
    towers = {
        panel: value
        for panel in panels
        if (value := read_metric(retrieval, "baselines", "two_towers", *panel)) is not None and "masked" in kinds
    }

    def draw(axes: Sequence[Axes]) -> None:
        step = 0.84 / len(kinds)
        for axis, (segment, key) in zip(axes, panels, strict=True):
            full = float(retrieval[segment][key])
            alone = towers.get((segment, key), full)
            largest = max(full, alone)
            for at, kind in enumerate(kinds):
                values = bars[segment, key, kind]
                places = [names.index(name) - 0.42 + step * (at + 0.5) for name in values]
                colours = [colour_of(name, place) for place, name in enumerate(values)]
                alpha = 0.5 if kind == "masked" else 1.0
                drawn = axis.bar(places, list(values.values()), 0.92 * step, color=colours, alpha=alpha)
                labels = [_against(value, alone if kind == "masked" else full) for value in values.values()]
                # Inside the bars, where the lines do not run through them.
                axis.bar_label(
                    drawn, labels, label_type="center", fontsize=8.5, color=INK if kind == "masked" else "white"
                )
                largest = max([largest, *values.values()])
            axis.axhline(full, color=INK, lw=1, ls="--")
            if (segment, key) in towers:
                axis.axhline(alone, color=INK, lw=1.4, ls=":")
            axis.set_xticks(range(len(names)), [f"without {name}" for name in names])
            axis.set(title=f"{name_of(segment)}, {key} (with all: {full:.3f})", ylim=(0, 1.1 * max(largest, 0.01)))
            axis.grid(axis="x", visible=False)

    alt = [
        f"{name_of(segment)}, {key} without {name} ({HIDDEN[kind]}): {value:.3f}."
        for (segment, key, kind), values in bars.items()
        for name, value in values.items()
    ]
    alt += [f"{name_of(segment)}, {key} of the two towers alone: {value:.3f}." for (segment, key), value in towers.items()]
    meaning = (
        f"Faded: {HIDDEN['masked']}; solid: {HIDDEN['retrained']}." if len(kinds) == 2 else f"Bars: {HIDDEN[kinds[0]]}."
    )
    caption = f"The dashed line is the model with everything. {meaning}"
    caption += " Dotted: the two towers alone, which the faded bars are to be compared with." if towers else ""
    plot = render_plot("ablation", draw, panels=len(panels), height=3.6, caption=caption)
    return dataclasses.replace(plot, alt=" ".join(alt))


def plot_index(index: Mapping[str, Any]) -> Plot | None:
    """Recall against latency, one bubble a setting, its area by the bytes of the index; of two settings a table tells all."""
    k = index.get("k") or 100  # latency is that of k neighbours
    key = f"recall@{k}_vs_exact"
    points = [
        point
        for point in index.get("trade_off") or []
        if read_metric(point, "p50_ms") and read_metric(point, key) is not None
    ]
    if len(points) < 3:
        return None
    kinds = list(dict.fromkeys(str(point.get("kind", "index")) for point in points))
    largest = max(float(point.get("bytes") or 1) for point in points)

    def draw(axes: Sequence[Axes]) -> None:
        from matplotlib import ticker
        from matplotlib.lines import Line2D

        (axis,) = axes
        for place, kind in enumerate(kinds):
            chosen = [point for point in points if str(point.get("kind", "index")) == kind]
            areas = [50 + 350 * float(point.get("bytes") or 1) / largest for point in chosen]
            speeds, recalls = [point["p50_ms"] for point in chosen], [point[key] for point in chosen]
            axis.plot(speeds, recalls, color=colour_of(kind, place), alpha=0.4, lw=1)
            axis.scatter(speeds, recalls, s=areas, color=colour_of(kind, place), alpha=0.6, lw=0)
        lowest = min(float(point[key]) for point in points)
        span = max(1 - lowest, 0.004)
        axis.set_xscale("log")
        axis.margins(x=0.15)
        axis.set(xlabel="milliseconds a query, median (log scale)", ylabel=f"recall@{k} against exact")
        bottom, top = lowest - 0.25 * span, 1 + 0.25 * span  # room for whole bubbles; no recall is above 1
        axis.set_ylim(bottom, top)
        axis.set_yticks([tick for tick in axis.get_yticks() if bottom <= tick <= 1])
        axis.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 3, 5, 7)))
        axis.xaxis.set_major_formatter(ticker.StrMethodFormatter("{x:g}"))
        axis.xaxis.set_minor_formatter(ticker.NullFormatter())
        axis.yaxis.set_major_formatter(ticker.StrMethodFormatter("{x:g}"))
        dots = [
            Line2D([], [], marker="o", ls="", color=colour_of(kind, at), alpha=0.6) for at, kind in enumerate(kinds)
        ]
        axis.legend(dots, [f"{name_of(kind)}{_size(points, kind)}" for kind in kinds], fontsize=9, loc="lower right")

    told = [
        f"{name_of(str(point.get('kind', 'index')))} {point.get('setting') or ''}".rstrip()
        + f": recall {point[key]:.3f} at {point['p50_ms']:.2f} ms"
        for point in points
    ]
    caption = "Up and to the left is better; a larger bubble takes more memory. The table has every setting."
    plot = render_plot("index", draw, panels=1, height=3.6, caption=caption, width=6.4)
    return dataclasses.replace(plot, alt=f"Index trade-off. {'; '.join(told)}.")


def plot_seconds(seconds: Mapping[str, float], *, beside: bool = False) -> Plot | None:
    """Seconds per stage, in the order they ran, as markup of its own: a nightly job has no other plot, and to import
    Matplotlib and draw this takes longer than most of its stages. `beside`: some ran side by side, as those of a job do."""
    if not seconds:
        return None
    longest, bars = max(*seconds.values(), 0.1), []
    for place, (name, value) in enumerate(seconds.items()):
        width, line = 380 * value / longest, 24 * place + 14
        bars.append(
            f'<text x="122" y="{line}" text-anchor="end">{escape(name)}</text>'
            f'<rect x="130" y="{line - 11}" width="{width:.1f}" height="15" fill="{COLOURS["model"]}"/>'
            f'<text x="{136 + width:.1f}" y="{line}">{value:.1f} s</text>'
        )
    shape = f'viewBox="0 0 570 {24 * len(seconds)}" font-size="12" fill="currentColor"'
    told = ", ".join(f"{name} {value:.1f}" for name, value in seconds.items())
    total = f"{sum(seconds.values()):,.0f} seconds"
    caption = f"The stages' times add up to {total}; some run side by side." if beside else f"{total} altogether."
    return Plot("seconds", f"<svg {shape}>{''.join(bars)}</svg>", f"Seconds per stage: {told}.", caption)


def _size(points: Sequence[Mapping[str, Any]], kind: str) -> str:
    """What a kind of index takes, in MB; nothing where that is not known."""
    most = max((float(point.get("bytes") or 0) for point in points if point.get("kind") == kind), default=0.0)
    return f", {most / 1e6:.1f} MB" if most else ""


def _against(value: float, full: float) -> str:
    return f"{value:.3f}\n{signed_number(100 * (value / full - 1), 0)} %" if full else f"{value:.3f}"


def _series(rows: Sequence[Mapping[str, Any]], key: str) -> tuple[list[float], list[float]]:
    """Epochs counted from 1, and values, of those rows that have the value."""
    pairs = [(place, value) for place, row in enumerate(rows, 1) if (value := read_metric(row, key)) is not None]
    return [float(place) for place, _ in pairs], [value for _, value in pairs]


def _quality(rows: Sequence[Mapping[str, Any]]) -> list[float]:
    return _series(rows, "valid_ndcg@20")[1]
