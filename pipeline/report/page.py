"""The report: everything the stages measured, as `report.json` for machines and `report.html` for people.

The report measures nothing itself. What a stage has not written is left out of both files; nothing is filled in.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pyarrow.parquet as parquet
from markupsafe import Markup

from data.durable_file import write_durably
from pipeline.report import plots as report_plots
from pipeline.report import ranking_plots as report_ranking_plots
from pipeline.report.examples import make_examples
from pipeline.report.figure import Plot
from pipeline.report.glossary import words_used
from pipeline.report.job import job_account, job_tables, job_words
from pipeline.report.privacy import privacy_account, privacy_words
from pipeline.report.ranking import ranking_figures, ranking_tables
from pipeline.report.retrieval_tables import index_table, metric_table
from pipeline.report.robustness import plot_robustness, robustness_tables, robustness_words
from pipeline.report.table import format_number
from pipeline.report.words import headline_figures, summarise
from pipeline.stage import read_json, read_manifest, stage_seconds
from serving.catalogue.catalogue import Catalogue, media_folder
from serving.releases.release import list_releases

TEMPLATE = "report.html.j2"
VARIANTS = ("full", "ids_only", "without_text", "without_image", "without_audio")


def write_report(run: Path, source: Path | None) -> dict[str, Any]:
    """Writes `<run>/report.json` and `<run>/report.html`.

    Args:
        run: the run folder.
        source: the dataset folder, for covers; None = a report without pictures.

    Returns:
        The content of `report.json`. Numbers that are not finite are null there.

    Raises:
        FileNotFoundError: no stage has finished in `run`.
        StageError: a stage output, or its manifest, that is not the JSON it should be. WriteError: the disk refused.
    """
    run = Path(run)
    report = assemble(run)
    examples = read_json(run / "evaluate" / "examples.json") or []
    catalogue = None
    if examples and (run / "ingest" / "items.parquet").is_file():
        catalogue = Catalogue(run / "ingest", media_folder(source))
    told = json.dumps(report, indent=2, allow_nan=False, ensure_ascii=False) + "\n"
    write_durably(run / "report.json", [told.encode()])
    linear = ((read_manifest(run / "linear" / "full") or {}).get("counts") or {}).get("fitted") is True
    page = render(report, histories(run), examples, catalogue, origin=origin(run, source), linear=linear)
    write_durably(run / "report.html", [page.encode()])
    return report


def origin(run: Path, source: Path | None) -> str:
    """When the report was written, of what data and in which run folder, by name: a path says nothing elsewhere."""
    folder = run.resolve()
    folder = folder.parent.parent if folder.parent.name == "jobs" else folder
    data = f"data {source.resolve().name}, " if source is not None else ""
    return f"{datetime.now(UTC):%Y-%m-%d}, {data}run {folder.name}"


def assemble(run: Path) -> dict[str, Any]:
    """The content of `report.json` out of the stages' manifests and figures."""
    seconds = stage_seconds(run)
    if not seconds:
        raise FileNotFoundError(f"run: no stage has finished in {str(run)!r}; start one with `python -m pipeline run`")
    retrieval = read_json(run / "evaluate" / "retrieval.json")
    index = read_json(run / "index" / "report.json")
    outcome = read_json(run / "outcome.json")
    # A job's own folder has candidates, which may never have been published; what became of one, its outcome says.
    release = latest_release_manifest(run) if outcome is None else outcome.get("release")
    parts: dict[str, Any] = {
        "data": data_counts(run),
        "retrieval": retrieval,
        "privacy": privacy_account(run),
        "index": index,
        "ranking": ranking_figures(run),
        "robustness": read_json(run / "robustness" / "robustness.json"),
        "job": outcome and job_account(outcome),
        "judged": (read_json(run / "judge" / "figures.json") or {}).get("metrics"),
        "checks": read_json(run / "checks" / "checks.json"),
        "gate": read_json(run / "gate" / "decision.json"),
        "seconds": seconds,
        "release": {"version": release["version"], "counts": release.get("counts")} if release else None,
        "fingerprint": release["fingerprint"] if release else None,
    }
    return finite({name: part for name, part in parts.items() if part})


def data_counts(run: Path) -> dict[str, Any]:
    """Users, items and events as ingested; `quarantined` counts what ingestion and encoding set aside."""
    counts = (read_json(run / "ingest" / "manifest.json") or {}).get("counts") or {}
    data: dict[str, Any] = {name: counts[name] for name in ("users", "items", "events") if name in counts}
    by_file: dict[str, int] = {}
    found = False
    for file in (run / "ingest" / "quarantine.parquet", run / "encode" / "quarantine.parquet"):
        if file.is_file():
            found = True
            for name in parquet.read_table(file, columns=["file"])["file"].to_pylist():
                # Media are many files with one bad row each; what matters is their folder.
                kind = str(name).rsplit("/", 1)[0] if "/" in str(name) else str(name)
                by_file[kind] = by_file.get(kind, 0) + 1
    if found:
        data |= {"quarantined": sum(by_file.values()), "quarantined_by_file": dict(sorted(by_file.items()))}
    elif "quarantined" in counts:
        data["quarantined"] = counts["quarantined"]
    return data


def latest_release_manifest(run: Path) -> dict[str, Any] | None:
    """The manifest of the release with the highest version; None when nothing was released."""
    numbers = list_releases(run / "releases")
    return read_manifest(run / "releases" / str(numbers[-1])) if numbers else None


def histories(run: Path) -> dict[str, list[dict[str, Any]]]:
    """The learning curve of each trained variant, the full model first."""
    found = {
        file.parent.name: finite(read_json(file))
        for file in run.glob("retrieval/*/history.json")
        if not file.parent.name.startswith(".")
    }
    return {
        name: found[name]
        for name in sorted(found, key=lambda n: (VARIANTS.index(n) if n in VARIANTS else len(VARIANTS), n))
    }


def render(
    report: Mapping[str, Any],
    curves: Mapping[str, Any],
    examples: list[Any],
    catalogue: Catalogue | None,
    *,
    origin: str = "",
    linear: bool = False,
) -> str:
    """`report.html`: one file that needs nothing beside it.

    Args:
        report: see `assemble`. curves: see `histories`. examples: users to look at, with covers out of the catalogue.
        origin: see the function; "" = not told. linear: whether a linear tower was added to what the curves are of.
    """
    retrieval, index, ranking, robustness = (
        report.get(name) or {} for name in ("retrieval", "index", "ranking", "robustness")
    )
    job = report.get("checks"), report.get("gate")
    plots: dict[str, Plot | None] = {
        "learning": report_plots.plot_learning(curves, linear=linear),
        "segments": report_plots.plot_segments(retrieval),
        "ablation": report_plots.plot_ablation(retrieval),
        "index": report_plots.plot_index(index),
        "gains": report_ranking_plots.plot_gains(ranking),
        "calibration": report_ranking_plots.plot_calibration(ranking),
        "robustness": plot_robustness(robustness),
        "seconds": report_plots.plot_seconds(report["seconds"], beside="job" in report),
    }
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = format_number
    show = functools.partial(
        environment.get_template(TEMPLATE).render,
        report=report,
        origin=origin,
        summary=[
            *filter(None, [job_words(*job)]),
            *summarise(report),
            *filter(None, [privacy_words(report.get("privacy")), robustness_words(robustness)]),
        ],
        figures=headline_figures(report),
        plots={
            name: {"svg": Markup(plot.svg), "alt": plot.alt, "caption": plot.caption}
            for name, plot in plots.items()
            if plot is not None
        },
        table=metric_table(retrieval),
        ranking_tables=ranking_tables(ranking),
        robustness_tables=robustness_tables(robustness),
        job_tables=job_tables(*job),
        index_table=index_table(index),
        examples=make_examples(examples, catalogue) if catalogue is not None else [],
    )
    # Which words it uses, the page itself says best.
    return show(glossary=words_used(show(glossary=[])))


def finite(value: Any) -> Any:
    """The value as strict JSON allows it: NumPy numbers as Python's, NaN and infinities as None.

    Example:
        >>> finite({"a": float("nan"), "b": [1, np.float32(0.5)]})
        {'a': None, 'b': [1, 0.5]}
    """
    if isinstance(value, Mapping):
        return {str(key): finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [finite(part) for part in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
