"""The robustness part of the report: who sees attacked items, before and after the defences, as tables and one plot."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pipeline.report.figure import INK, OTHERS, Plot, name_of, render_plot
from pipeline.report.table import ReportTable, format_milliseconds, format_number, interval_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DEFENCES = {
    "none": "none", "denoised_content": "denoised content", "adversarial_training": "adversarial training",
    "both": "both", "quarantine": "quarantine of suspects", "burst_weights": "burst weights",
    "clean": "no attack", "noised": "noisy views", "updated": "none, ranker gone on",
}  # fmt: skip
KINDS = {"new": "never-seen items", "known": "less popular items"}
METHODS = {"none": "no attack", "fgsm": "FGSM", "pgd": "PGD", "noise": "random noise",
           "pgd_unaware": "PGD, not knowing the defence", "pgd_guessed": "PGD, not knowing its secret"}  # fmt: skip
AIMS = {"": "", "retrieval": "against retrieval", "ranker": "through the ranker"}
LISTS = {"retrieval": "retrieved", "final": "ranked"}
CAUGHT = {"recall": "fake users found", "precision": "precision", "honest": "honest users flagged"}
Line = Mapping[str, Any]


def robustness_tables(found: Mapping[str, Any]) -> list[ReportTable]:
    """Every table that has figures; none where the stage has not run.

    Args:
        found: the content of `robustness.json`.
    """
    if not found:
        return []
    shilling = found.get("shilling") or {}
    tables = [
        _content_table(found),
        _ranker_table(found),
        _media_table(found.get("media") or {}),
        _media_cost_table(found),
        _shilling_table(found, shilling.get("closed_form") or {}),
        _updated_table(found, shilling.get("updated") or {}),
    ]
    return [table for table in tables if table.rows]


def plot_robustness(found: Mapping[str, Any]) -> Plot | None:
    """Reach of attacked items by the size of the change, and of pushed items by the kind of shilling."""
    content = {name: (part.get("new") or part.get("known") or []) for name, part in (found.get("content") or {}).items()}
    content = {name: _main_lines(lines, ("none", "pgd")) for name, lines in content.items() if lines}
    attacks = ((found.get("shilling") or {}).get("closed_form") or {}).get("attacks") or {}
    panels = [name for name, part in (("content", content), ("shilling", attacks)) if part]
    if not panels:
        return None

    def draw(axes: Sequence[Axes]) -> None:
        for axis, panel in zip(axes, panels, strict=True):
            draw_content(axis, content) if panel == "content" else draw_shilling(axis, found)

    alt = []
    for name, lines in content.items():
        told = ", ".join(f"{line['epsilon']:g}: {line['reach'][0]:.3f}" for line in lines)
        alt.append(f"Reach under PGD, defence {DEFENCES.get(name, name)}, by epsilon: {told}.")
    for kind, lines in attacks.items():
        told = ", ".join(f"{DEFENCES.get(name, name)} {line['reach'][0]:.3f}" for name, line in lines.items())
        alt.append(f"Reach under {kind} shilling by defence: {told}.")
    caption = f"Reach: share of users who get an attacked item among their first {found['k']}. Bars: 95 % over items."
    plot = render_plot("robustness", draw, panels=len(panels), height=3.4, caption=caption)
    return dataclasses.replace(plot, alt=" ".join(alt))


def draw_content(axis: Axes, content: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """One line a defence, over the size of the change."""
    for place, (name, lines) in enumerate(content.items()):
        middle, low, high = zip(*(line["reach"] for line in lines), strict=True)
        bars = [[at - under for at, under in zip(middle, low, strict=True)],
                [over - at for at, over in zip(middle, high, strict=True)]]  # fmt: skip
        axis.errorbar(
            [line["epsilon"] for line in lines], middle, bars, marker="o", ms=4, lw=1.6, capsize=2,
            color=OTHERS[place % len(OTHERS)], label=f"defence: {DEFENCES.get(name, name)}",
        )  # fmt: skip
    axis.set(title="Content changed by PGD", xlabel="share of the vector's length", ylabel="reach")
    axis.legend(fontsize=8)


def draw_shilling(axis: Axes, found: Mapping[str, Any]) -> None:
    """One group of bars a kind of attack, one bar a defence."""
    closed = found["shilling"]["closed_form"]
    names = list(next(iter(closed["attacks"].values())))
    for place, name in enumerate(names):
        triples = [lines[name]["reach"] for lines in closed["attacks"].values()]
        at = [group + 0.8 * (place - (len(names) - 1) / 2) / len(names) for group in range(len(triples))]
        bars = [[mean - low for mean, low, _ in triples], [high - mean for mean, _, high in triples]]
        axis.bar(at, [mean for mean, _, _ in triples], 0.8 / len(names), yerr=bars, capsize=2, ecolor=INK,
                 color=OTHERS[place % len(OTHERS)], label=f"defence: {DEFENCES.get(name, name)}")  # fmt: skip
    axis.axhline(closed["clean"]["none"]["reach"][0], color=INK, lw=1, ls="--")
    axis.set_xticks(range(len(closed["attacks"])), list(closed["attacks"]))
    axis.set(title=f"{found['shilling']['users']} fake users (dashed: none)", ylabel="reach")
    axis.margins(y=0.45)
    axis.legend(fontsize=8, loc="upper left")


def _main_lines(lines: Sequence[Mapping[str, Any]], methods: Sequence[str]) -> list[Mapping[str, Any]]:
    """Of the attacks on all modalities at once, those of some methods, by epsilon."""
    first = lines[0]
    same = [line for line in lines if (line["content"], line["norm"]) == (first["content"], first["norm"])]
    return [line for line in same if line["method"] in methods]


def _content_table(found: Mapping[str, Any]) -> ReportTable:
    def cells(line: Line) -> list[str]:
        norm = line["norm"].replace("l2", "").replace("linf", "L∞")
        return [", ".join(line["content"]), f"{METHODS[line['method']]} {norm}".strip(), format_number(line["epsilon"])]

    rows = _attack_rows(found.get("content") or {}, cells)
    columns = ("items", "defence", "content", "attack", "epsilon", *_columns(found))
    caption = (
        "Each item is attacked alone, by someone who knows the model and every query. Epsilon: the change as a share of "
        "the vector's length. Intervals over items. Known items keep the place that events gave them in the linear tower."
    )
    return ReportTable("content-attacks", "Content made to deceive", columns, rows, caption, words=4, folded=True)


def _media_table(media: Mapping[str, Any]) -> ReportTable:
    rows = []
    for modality, lines in media.items():
        if isinstance(lines, Mapping):
            rows.append([modality, "", f"not attacked: {lines['skipped']}", "", "", "", ""])
            continue
        for line in lines:
            size = f"{line['epsilon']:g} {line['norm']}" if line["epsilon"] else ""
            cells = (interval_text(line["reach"]), format_number(line["rank"][0]), format_number(line["cosine"]))
            rows.append([modality, DEFENCES[line["defence"]], METHODS[line["method"]], size, *cells])
    columns = ("file", "defence", "attack", "change at most", "reach", "mean rank", "cosine of the vectors")
    caption = (
        "Pictures and clips of new items, changed within limits and encoded like any upload. Pooled over noisy views "
        "(`noised:` in `encoders`): the same files, and ones made for it, without its secret and (pictures) with it."
    )
    return ReportTable("media-attacks", "Files made to deceive", columns, rows, caption, words=4)


def _media_cost_table(found: Mapping[str, Any]) -> ReportTable:
    rows = [
        [modality, DEFENCES[defence], *map(format_number, (line["ndcg"], line["ndcg_new"])),
         format_milliseconds(1000 * line["seconds"])]
        for modality, lines in (found.get("media_cost") or {}).items()
        for defence, line in lines.items()
    ]  # fmt: skip
    columns = ("file", "defence", f"NDCG@{found.get('k')}", "of new items", "ms a file")
    caption = "The files of all new items pooled over noisy views, no attack, the models as they are."
    return ReportTable("media-cost", "What noisy views cost", columns, rows, caption, words=2)


def _shilling_table(found: Mapping[str, Any], closed: Mapping[str, Any]) -> ReportTable:
    rows = [
        [kind, DEFENCES.get(defence, defence), *_figures(line),
         *(format_number(line.get(name)) for name in CAUGHT)]
        for kind, lines in {"none": closed.get("clean") or {}, **(closed.get("attacks") or {})}.items()
        for defence, line in lines.items()
    ]  # fmt: skip
    shilling = found.get("shilling") or {}
    columns = ("attack", "defence", *_columns(found), *CAUGHT.values())
    caption = (
        f"{shilling.get('users')} fake users with {shilling.get('fillers')} fillers each push one item within "
        f"{shilling.get('days'):g} days; {shilling.get('targets')} items, one after the other. Fitted again on every log: "
        f"{closed.get('retrained')}."
        if rows
        else ""
    )
    return ReportTable("shilling", "Fake users (shilling)", columns, rows, caption, words=2)


def _ranker_table(found: Mapping[str, Any]) -> ReportTable:
    def cells(line: Line) -> list[str]:
        attack = f"{METHODS[line['method']]} {AIMS[line['aim']]}".strip()
        return [attack, format_number(line["epsilon"]), interval_text(line["retrieved"])]

    ranker = found.get("ranker") or {}
    rows = _attack_rows(ranker.get("lines") or {}, cells)
    columns = ("items", "defence", "attack", "epsilon", "retrieved", *_columns(found))
    caption = (
        f"Final lists of {ranker.get('users')} users: retrieved, ranked and cut. All modalities are changed, along the "
        "gradient of the ranking network (thresholds and ranks made smooth), or as they were against retrieval alone. Judged "
        "by the whole served answer. Adversarially trained towers have a ranker that went on with them."
        if rows
        else ""
    )
    return ReportTable(
        "ranker-attacks", "Content made to deceive, through the ranker", columns, rows, caption, words=3, folded=True
    )


def _updated_table(found: Mapping[str, Any], updated: Mapping[str, Any]) -> ReportTable:
    names = {"clean": "no attack", "none": "attacked", "quarantine": "attacked, suspects set aside"}
    rows = [
        [names[name], LISTS[part], *_figures(line[part]),
         *(format_number(line.get(figure)) for figure in CAUGHT)]
        for name, line in (updated.get("lines") or {}).items()
        for part in LISTS
    ]  # fmt: skip
    columns = ("log", "lists", *_columns(found), *CAUGHT.values())
    caption = (
        f"{found['shilling']['users']} fake users ({updated.get('kind')}) push each of {updated.get('targets')} items alone. "
        "Two towers, linear tower and ranker go on from the run's on the attacked days, as a night's update does."
        if rows
        else ""
    )
    return ReportTable("shilling-updated", "Fake users in a night's update", columns, rows, caption, words=2)


def _attack_rows(
    lines_of: Mapping[str, Mapping[str, Sequence[Line]]], cells: Callable[[Line], list[str]]
) -> list[list[str]]:
    """A row an attack on items of a kind under a defence: what was attacked, `cells` of its own, what came of it."""
    return [
        [KINDS.get(kind, kind), DEFENCES.get(defence, defence), *cells(line), *_figures(line)]
        for defence, kinds in lines_of.items()
        for kind, lines in kinds.items()
        for line in lines
    ]


def _columns(found: Mapping[str, Any]) -> tuple[str, ...]:
    return f"reach (first {found.get('k')})", "exposure", "mean rank", f"NDCG@{found.get('k')} of everybody"


def _figures(line: Mapping[str, Any]) -> list[str]:
    texts = [interval_text(line["reach"]), interval_text(line["exposure"])]
    return [*texts, format_number(round(line["rank"][0])), format_number(line["ndcg"][0])]


def robustness_words(found: Mapping[str, Any]) -> str:
    """One sentence for the top of the report; "" where there is nothing to say.

    Example:
        >>> robustness_words({})
        ''
    """
    attacks = ((found.get("shilling") or {}).get("closed_form") or {}).get("attacks") or {}
    if not attacks:
        return ""
    clean = found["shilling"]["closed_form"]["clean"]["none"]["reach"][0]
    worst = max(attacks, key=lambda kind: attacks[kind]["none"]["reach"][0])
    before, after = (attacks[worst][name]["reach"][0] for name in ("none", "quarantine"))
    return (
        f"{found['shilling']['users']} fake users ({name_of(worst)}) carry an item to {100 * before:.1f} % of users instead "
        f"of {100 * clean:.1f} %; with suspects set aside it is {100 * after:.1f} %."
    )
