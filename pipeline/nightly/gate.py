"""The release gate: bounds on what a candidate may lose against the current release; whatever is not shown to hold fails."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.nightly.gate_figures import CANDIDATE, CURRENT, FIGURES
from pipeline.report.table import signed_number
from pipeline.settings.gate import GateSection
from pipeline.settings.ranking import RankingSection
from pipeline.stage import read_manifest

if TYPE_CHECKING:
    from pipeline.nightly.folder import JobFolder

DECISION = "decision.json"
SMALL_SHARE = 0.05
"""Of the exposure; what a smaller group gains or loses on one day is chance."""
ITEM_GROUPS = ("items", "domain")
"""Dimensions of segments that are groups of items."""
MODEL_FILES = ("user_ids.txt", "item_ids.txt")


@dataclasses.dataclass(frozen=True)
class Rule:
    """One bound: what was found, what is allowed, and whether it holds.

    Attributes:
        name: of the figure. passed: whether it holds. found, allowed: in words, with numbers.
    """

    name: str
    passed: bool
    found: str
    allowed: str

    def __str__(self) -> str:
        return f"{'passed' if self.passed else 'FAILED'}  {self.name}: {self.found} (allowed: {self.allowed})"


def decide(run: JobFolder, out: Path) -> dict[str, Any]:
    """Apply every bound to a job's candidate and write `decision.json` into `out`.

    Returns: `publish`, the number of rules, and the names of those that failed.
    """
    from serving.releases.release import ReleaseError, verify_release

    figures = json.loads((run.folder / "judge" / FIGURES).read_text())
    section, folder = run.config.gate, run.folder / "releases" / str(run.version)
    try:
        release, damage = verify_release(folder), ""
    except (ReleaseError, FileNotFoundError) as error:
        release, damage = None, str(error)
    rules = [Rule("the candidate is whole", release is not None, damage or "every file as listed", "a verified release")]
    current = current_bytes(run)
    rules += metric_rules(figures, section) + segment_rules(figures, section)
    rules += calibration_rules(figures, section, run.config.ranking, full=run.full) + fairness_rules(figures, section)
    rules.append(index_rule(run.folder, section))
    rules.append(size_rule(None if release is None else release.bytes, current, run.parent is not None, section))
    exported = (read_manifest(run.folder / "export") or {}).get("counts") or {}
    rules.append(latency_rule(None if release is None else exported.get("latency_ms"), section))
    rules.append(rows_rule(run.folder, run.parent))
    publish = all(rule.passed for rule in rules)
    decision = {"publish": publish, "rules": [dataclasses.asdict(rule) for rule in rules], "version": run.version}
    decision["first"] = run.parent is None
    (out / DECISION).write_text(json.dumps(decision, indent=2))
    return {"publish": publish, "rules": len(rules), "failed": [rule.name for rule in rules if not rule.passed]}


def metric_rules(figures: Mapping[str, Any], section: GateSection) -> list[Rule]:
    """Enough users; and of every metric: no worse than the tolerance, and its interval does not reach below the margin."""
    users, metrics = figures.get("users", 0), figures.get("metrics") or {}
    rules = [Rule("users on the newest slice", users >= section.users, f"{users}", f"at least {section.users}")]
    if CURRENT not in (figures.get("calibration") or {}):
        return [*rules, Rule("metrics", bool(metrics), f"{len(metrics)} figures, no release to compare with", "any figures")]
    if not metrics:
        return [*rules, Rule("metrics", False, "no figures", "every metric of both")]
    for name, line in metrics.items():
        if not finite(line, CANDIDATE, CURRENT, "difference", "low"):
            rules.append(Rule(name, False, f"a figure is missing: {line}", "figures of both"))
            continue
        current, difference = line[CURRENT], line["difference"]
        least, lowest = -section.tolerance * current, -section.margin * current
        # Few users choose a task's rarer kind; of that the whole interval may lie anywhere but below the tolerance.
        wide = is_rare(name)
        low = line["high"] if wide else line["low"]
        passed = (difference >= least or wide) and low >= (least if wide else min(lowest, least))
        bound = f"at least {signed(least)}, interval from {signed(lowest)}"
        bound = f"interval not wholly below {signed(least)}" if wide else bound
        rules.append(Rule(name, passed, told(line), bound))
    return rules


def is_rare(name: str) -> bool:
    """Whether a metric is about one kind of event, which few users have.

    >>> is_rare("ranked purchase NDCG@10"), is_rare("ranked NDCG@10")
    (True, False)
    """
    return any(f" {task} " in name for task in ("like", "purchase"))


def segment_rules(figures: Mapping[str, Any], section: GateSection) -> list[Rule]:
    """No segment of users loses more than `segment_loss` for certain, none of items more than `item_loss`: a small one proves
    little, so its whole interval must say so."""
    rules = []
    for name, line in (figures.get("segments") or {}).items():
        if CURRENT not in line:
            continue
        if not finite(line, CANDIDATE, CURRENT, "difference", "high"):
            rules.append(Rule(f"segment {name}", False, f"a figure is missing: {line}", "figures of both"))
            continue
        loss = section.item_loss if name.split(": ")[0] in ITEM_GROUPS else section.segment_loss
        least = -loss * line[CURRENT]
        passed = not (line["difference"] < least and line["high"] < 0)
        rules.append(Rule(f"segment {name}", passed, told(line), f"not below {signed(least)} for certain"))
    return rules


def calibration_rules(
    figures: Mapping[str, Any], section: GateSection, ranking: RankingSection | None = None, *, full: bool = False
) -> list[Rule]:
    """No probability is lost but on purpose, by its weight or by a job that trains from nothing, and each can be trusted: its
    error is below the bound, or below the current one's."""
    found = figures.get("calibration") or {}
    mine, theirs = found.get(CANDIDATE) or {}, found.get(CURRENT) or {}
    heads = figures.get("heads") or {}
    gone = sorted(set(heads.get(CURRENT) or ()) - set(heads.get(CANDIDATE) or ()))
    dropped = [] if ranking is None else [head for head, weight in ranking.head_weights.items() if head in gone and not weight]
    lost = [head for head in gone if head not in dropped]
    told = [f"dropped by ranking.head_weights: {', '.join(dropped)}"] if dropped else []
    if lost:
        told.append(f"{'not learned in full' if full else 'lost'}: {', '.join(lost)}")
    allowed = "those of before, but for weights of 0 and --full"
    rules = [Rule("heads of the ranker", full or not lost, "; ".join(told) or "none lost", allowed)]
    for head in sorted({"click", *mine}):
        if head not in mine:
            rules.append(Rule(f"calibration of {head}", False, "not measured", "a measured error"))
            continue
        bound = max(section.calibration, theirs.get(head, 0.0))
        rules.append(Rule(f"calibration of {head}", mine[head] <= bound, f"{mine[head]:.4f}", f"at most {bound:.4f}"))
    return rules


def fairness_rules(figures: Mapping[str, Any], section: GateSection) -> list[Rule]:
    """No group of users falls further behind than the bound for certain, and no group of items loses most of its exposure."""
    rules = []
    gap = figures.get("gap") or {}
    mine, theirs = gap.get(CANDIDATE), gap.get(CURRENT)
    if mine is not None and theirs is not None:
        bound = theirs + section.fairness_gap
        passed = mine <= bound or (finite(gap, "low") and gap["low"] <= 0)
        found = f"{mine:.3f} against {theirs:.3f}"
        found += f", grown by {signed_number(gap['low'], 3)} at least" if finite(gap, "low") else ""
        rules.append(Rule("gap between groups of users", passed, found, f"not above {bound:.3f} for certain"))
    exposure = figures.get("exposure") or {}
    for name, before in (exposure.get(CURRENT) or {}).items():
        if before < SMALL_SHARE:
            continue
        after, bound = (exposure.get(CANDIDATE) or {}).get(name), (1 - section.exposure_loss) * before
        passed = after is not None and after >= bound
        found = "not measured" if after is None else f"{after:.4f}"
        rules.append(Rule(f"exposure of {name}", passed, found, f"at least {bound:.4f}"))
    return rules


def index_rule(run: Path, section: GateSection) -> Rule:
    """The index that answers finds what exact search finds."""
    counts = (read_manifest(run / "index") or {}).get("counts") or {}
    recalls = [value for name, value in counts.items() if name.startswith("recall@") and isinstance(value, float)]
    found = min(recalls) if recalls else math.nan
    return Rule("recall of the index", found >= section.recall_floor, f"{found:.4f}", f"at least {section.recall_floor}")


def size_rule(size: int | None, current: int | None, expected: bool, section: GateSection) -> Rule:
    """Bytes of the release against those of the current one; `expected`: whether there is one."""
    name = "size of the release"
    if size is None or (expected and current is None):
        return Rule(name, False, f"{size} bytes, current {current}", "both known")
    bound = math.inf if current is None else section.size_growth * current
    return Rule(name, size <= bound, f"{size / 1e6:.1f} MB", f"at most {bound / 1e6:.1f} MB")


def latency_rule(milliseconds: float | None, section: GateSection) -> Rule:
    """Median time of a whole recommendation."""
    passed = milliseconds is not None and milliseconds <= section.latency_ms
    found = "not measured" if milliseconds is None else f"{milliseconds:.1f} ms"
    return Rule("latency of a recommendation", passed, found, f"at most {section.latency_ms:g} ms")


def rows_rule(run: Path, parent: Path | None) -> Rule:
    """Every id of the current release has the same row in the candidate."""
    name, allowed = "rows of known ids", "every id keeps its row"
    if parent is None:
        return Rule(name, True, "the first release", allowed)
    for file in MODEL_FILES:
        before = (parent / "ingest" / file).read_bytes()
        if not (run / "ingest" / file).read_bytes().startswith(before):
            return Rule(name, False, f"{file} does not begin with that of the current release", allowed)
    return Rule(name, True, "as they were", allowed)


def current_bytes(run: JobFolder) -> int | None:
    """Size of the release that the parent became; None without a parent, or where that release is gone."""
    from pipeline.nightly.record import released_folder
    from serving.releases.manifest import ReleaseError, read_release

    folder = None if run.parent is None else released_folder(run.parent)
    try:
        return None if folder is None else read_release(folder).bytes
    except (ReleaseError, FileNotFoundError):
        return None


def finite(line: Mapping[str, Any], *names: str) -> bool:
    """Whether all of them are numbers."""
    return all(isinstance(line.get(name), int | float) and math.isfinite(line[name]) for name in names)


def signed(value: float) -> str:
    return signed_number(value, 4)


def told(line: Mapping[str, Any]) -> str:
    interval = f"{signed(line['difference'])} [{signed(line['low'])}, {signed(line['high'])}]"
    return f"{line[CANDIDATE]:.4f} against {line[CURRENT]:.4f}, {interval}, {line['users']:,} users"


def explain(decision: Mapping[str, Any]) -> Iterable[str]:
    """The decision line by line, failures first."""
    rules = sorted((Rule(**rule) for rule in decision["rules"]), key=lambda rule: rule.passed)
    kept = "kept back; " + ("there is no release yet" if decision.get("first") else "the current release stays")
    yield f"release {decision['version']}: {'published' if decision['publish'] else kept}"
    yield from map(str, rules)
