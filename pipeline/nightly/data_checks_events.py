"""Checks of the new events and columns: schema, refused and repeated rows, volume, drift, labels, and surprise."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from data.dataset import Dataset, gone_rows
from data.schema import EVENT_KINDS
from data.splits import DAY, newest_time
from pipeline.metrics.examples import positive_histories
from pipeline.nightly.check import Check, bounded, skipped, worst
from pipeline.nightly.drift import chance_stability, counts_of, population_stability, sampled
from pipeline.nightly.new_data import NewData
from pipeline.nightly.wanted import DERIVED, Wanted
from pipeline.retrieval.served import FULL, UNSEEN, served_folder, shared_served
from pipeline.settings.data_checks import ChecksSection

FILES = {"profile": "users", "attributes": "items", "context": "interactions"}
"""Which file has the columns of each kind, as the ingest's report names it."""
MOST_EVENTS = 4000
"""New and old events each whose surprise is looked at, drawn from all of them."""
MOST_SCORES = 2**25
"""Scores of people for all items that are in memory at a time."""


def event_checks(
    data: NewData, section: ChecksSection, parent: Path, wanted: Wanted, *, asked: bool = False
) -> list[Check]:
    """Every check that needs no content. `parent`: run folder of the last release. `asked`: see `volume_check`."""
    checks = [schema_check(data.dataset, data.previous, wanted), *new_columns(data.dataset, data.previous, wanted)]
    checks += [*refused_checks(data, section), gone_check(data, section), volume_check(data, section, asked)]
    number = int(data.new.sum())
    if number < section.fewest:
        return [*checks, skipped("drift of columns, labels, surprise", f"{number:,} new events, {section.fewest:,} are needed")]
    checks += [drift_check(name, one, other, section) for name, one, other in columns_of(data)]
    return [*checks, *label_checks(data, section), surprise_check(data, section, parent)]


def ahead_check(dataset: Dataset) -> Check:
    """Whether a wrong clock has put events ahead of the log; the job's days end before them."""
    time = dataset.events["timestamp"].to_numpy()
    newest = newest_time(time)
    ahead = int((time > newest).sum())
    found = f"{ahead:,} events up to {(int(time.max()) - newest) / 3600:,.1f} hours ahead of all others"
    return Check("times", "warn" if ahead else "go", found if ahead else "no event is ahead of all others", "none")


def silence_check(dataset: Dataset) -> Check:
    """Whether the days that validate are those before a silence; see `split_newest`."""
    silent = dataset.report.get("silent_days", 0)
    found = f"{silent:,} days without a positive event lie between them and the newest" if silent else "those before the newest"
    return Check("days that validate", "warn" if silent else "go", found, "those before the newest")


def schema_check(dataset: Dataset, previous: Dataset, wanted: Wanted | None = None) -> Check:
    """Columns that the models read must still be there, unless a full job does without; new ones are told, and those whose
    coding no longer takes all of their values."""
    wanted, report = wanted or Wanted(), dataset.report
    before, now = (
        {(kind, name) for kind in FILES for name in getattr(part.schema, kind)} for part in (previous, dataset)
    )
    gone, new = sorted(before - now), sorted(now - before)
    if gone:
        told = [(" ".join(column), wanted.column_setting(*column), _of(report, "ignored_columns", *column)) for column in gone]
        return wanted.loss("schema", told, "every column of the last release, or --full")
    found = [f"new: {', '.join(map(' '.join, new))}"] if new else []
    found += [f"{' '.join(column)}: {note}" for column in sorted(now) if (note := _of(report, "kept_codings", *column))]
    return Check("schema", "warn" if found else "go", "; ".join(found) or f"{len(now)} columns as before")


def new_columns(dataset: Dataset, previous: Dataset, wanted: Wanted) -> list[Check]:
    """Columns that the last release did not have: each is an embedding more, and widens what the ranker reads."""
    told = []
    for kind in FILES:
        setting = "data.context" if kind == "context" else "data.columns"
        for name in sorted(set(getattr(dataset.schema, kind)) - set(getattr(previous.schema, kind))):
            told.append((f"{kind} {name}", "" if kind == "attributes" and name in DERIVED else setting))
    return wanted.gain("new columns", told)


def _of(report: Mapping[str, Any], part: str, kind: str, name: str) -> str:
    """What a part of the ingest's report says of a column, "" = nothing."""
    return report.get(part, {}).get(FILES[kind], {}).get(name, "")


def refused_checks(data: NewData, section: ChecksSection) -> list[Check]:
    """What the ingest refused of the rows that came since.

    Events are counted by their times: of an item that was taken out of the catalogue all are refused, old ones too, and those
    are no fault of the day, nor are its last ones: that the catalogue shrinks is a check of its own. Events whose times cannot
    be read, items and users have none to go by: of these it is the count of this ingest less that of the last one.
    """
    since = data.dataset.report["rows_since"]
    read, refused, repeated = since["read"] - since["gone"], since["quarantined"] - since["gone"], since["repeated"]
    more = [_more(data, "rows", table, name) for table in ("items", "users") for name in ("read", "quarantined")]
    undated = _more(data, "undated_rows")
    read, refused = read + undated + more[0] + more[2], refused + undated + more[1] + more[3]
    rows, checks = max(read, 1), []
    for name, count, bounds in (("quarantined rows", refused - repeated, section.quarantined),
                                ("repeated rows", repeated, section.duplicates)):  # fmt: skip
        if read < section.fewest:
            checks.append(skipped(name, f"{read:,} new rows, {count:,} of them refused"))
        else:
            checks.append(bounded(name, count / rows, bounds, f"{count:,} of {read:,} new rows"))
    return checks


def gone_check(data: NewData, section: ChecksSection) -> Check:
    """Items that the last release could recommend and that are out of the catalogue now: some every night, and a third where
    the file was cut off."""
    was, now = (set(gone_rows(part.items).tolist()) for part in (data.previous, data.dataset))
    listed, gone = data.previous.schema.item_rows - 1 - len(was), len(now - was)
    return bounded("gone items", gone / max(listed, 1), section.gone_items, f"{gone:,} of {listed:,} items of before")


def _more(data: NewData, *path: str) -> int:
    """By how much a count of the ingest's report has grown; 0 where it has not, or there is none of the last ingest."""

    def count(report: Mapping[str, Any]) -> int | None:
        found: Any = report
        for name in path:
            found = found.get(name) if isinstance(found, Mapping) else None
        return found

    now, before = count(data.dataset.report), count(data.previous.report)
    return 0 if now is None or before is None else max(now - before, 0)


def volume_check(data: NewData, section: ChecksSection, asked: bool = False) -> Check:
    """Events a day of the new days against the median day of the reference; days without any count.

    A day is 24 hours, counted back from the end of the log, so that none is a part of one, whenever a job starts. New are as
    many as have passed since the last release, to the nearest, and one at least. Of a log that has been silent for days and
    goes on, those without any event are told, and the others are to be as usual: what is lost no later job brings back. What
    is usual is that of days that had any, or the nights after a silence of weeks would have it for their measure.

    Args:
        asked: the job is for something else than new events, which may be missing then.
    """
    if not data.new.any():
        return Check("volume", "warn" if asked else "stop", "no event since the last release", "some")
    time = data.dataset.events["timestamp"].to_numpy()
    days = np.bincount((data.newest - time[time <= data.newest]) // DAY)
    passed = max(round((data.newest - data.until) / DAY), 1)
    # The oldest day may be a part of one.
    new, before = days[:passed], days[passed : max(len(days) - 1, passed + 1)][: section.reference_days]
    usual = float(np.median(before[before > 0])) if before.any() else 1.0
    busy = new[new > 0]
    ratio = float(busy.mean() / max(usual, 1))
    found = f"{busy.mean():,.0f} events a day, {usual:,.0f} before"
    check = bounded("volume", max(ratio, 1 / max(ratio, 1e-9)), section.volume, found)
    if len(busy) == len(new):
        return check
    told = f"{found}; {len(new) - len(busy)} of {len(new)} days without any"
    return dataclasses.replace(check, verdict=worst([check, Check("", "warn", "")]), found=told)


def columns_of(data: NewData) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """(name, counts by bin of the reference, of the new events) of every column that events have or point to.

    One event a visit counts, the first: those of one visit share its hour, its user and mostly its device, and thirty of
    them are no more evidence than one.
    """
    events, dataset = data.dataset.events, data.dataset
    one, other = data.visits(data.reference), data.visits(data.new)

    def coded(name: str, codes: np.ndarray) -> tuple[str, np.ndarray, np.ndarray]:
        size = int(codes.max(initial=0)) + 1
        return name, np.bincount(codes[one], minlength=size), np.bincount(codes[other], minlength=size)

    def measured(name: str, values: np.ndarray) -> tuple[str, np.ndarray, np.ndarray]:
        return name, *counts_of(values[one], values[other])

    time, item, user = (events[name].to_numpy() for name in ("timestamp", "item", "user"))
    yield coded("event", events["event"].to_numpy().astype(np.int64))
    yield coded("hour", time % DAY // 3600)
    yield measured("value", events["value"].to_numpy(np.float64))
    yield measured("price of the item", dataset.items["price"].to_numpy(np.float64)[item])
    created = dataset.items["created_at"].to_numpy(np.float64)[item]
    # A log that begins before its items are dated would drift by itself.
    yield measured("age of the item, weeks", np.where(created > 0, np.floor((time - created) / (7 * DAY)).clip(0, 4), np.nan))
    for axis, name in enumerate(dataset.schema.context):
        yield coded(f"context {name}", dataset.context[:, axis])
    for axis, name in enumerate(dataset.schema.profile):
        yield coded(f"profile {name}", dataset.profile[user, axis])
    for axis, name in enumerate(dataset.schema.attributes):
        if dataset.schema.attributes[name] <= 50:  # a creator of few items each is an id, and ids are new every day
            yield coded(f"attribute {name}", dataset.attributes[item, axis])


def drift_check(name: str, expected: np.ndarray, actual: np.ndarray, section: ChecksSection) -> Check:
    """The population stability index of one column, less what chance gives."""
    index = population_stability(expected, actual)
    chance = chance_stability(expected, actual, section.significance)
    return bounded(f"drift of {name}", max(index - chance, 0.0), section.psi, f"PSI {index:.3f}, {chance:.3f} by chance")


def label_checks(data: NewData, section: ChecksSection) -> list[Check]:
    """The share of positive events and of each kind, against the reference days."""
    kinds = data.dataset.events["event"].to_numpy()
    labels = {"positive events": data.dataset.positive}
    labels |= {f"events of kind {EVENT_KINDS[code]}": kinds == code for code in np.unique(kinds[data.reference])}
    m, n = len(data.visits(data.reference)), len(data.visits(data.new))
    checks = []
    for name, label in labels.items():
        before, now = float(label[data.reference].mean()) if m else 0.0, float(label[data.new].mean())
        found, pooled = f"{now:.3f}, {before:.3f} before", (before * m + now * n) / (m + n)
        error = math.sqrt(max(pooled * (1 - pooled), 1e-12) * (1 / max(m, 1) + 1 / max(n, 1)))
        certain = abs(now - before) > section.significance * error
        shift = abs(now - before) / max(before, 1e-9) if certain else 0.0
        checks.append(bounded(f"share of {name}", shift, section.label_shift, found))
    return checks


def surprise_check(data: NewData, section: ChecksSection, parent: Path) -> Check:
    """Whether people choose what the current model expects of them, as they did on days that it had not seen either.

    For every positive event, the share of the other people who are asked about whose score for its item, standardised over
    the items, is lower: 1/2 where people and items have nothing to do with each other, however popular the items are.
    Events that were exchanged between users fall to that, whatever else about them looks right.
    """
    name = "surprise"
    variant = f"{FULL}/{UNSEEN}" if (served_folder(parent) / UNSEEN).is_dir() else FULL
    served, then = shared_served(parent, variant), data.previous
    time, split = then.events["timestamp"].to_numpy(), then.events["split"].to_numpy()
    bound = int(time[split > 0].min()) if (split > 0).any() else int(time.max())
    events, users, items = data.dataset.events, then.schema.user_rows, then.schema.item_rows
    time, user, item = (events[column].to_numpy() for column in ("timestamp", "user", "item"))
    known = data.dataset.positive & (user < users) & (item < items) & (then.counts > 0)[np.minimum(item, items - 1)]
    shares, numbers = [], []
    for chosen in (known & (time >= bound) & ~data.new, known & data.new):
        rows = sampled(np.flatnonzero(chosen), MOST_EVENTS, section.seed)  # events lie by user: the last are a few people's
        if len(rows) < section.fewest:
            return skipped(name, f"{len(rows)} events of known users and items, {section.fewest} are needed")
        history = positive_histories(then, ("train",))
        asked, place = np.unique(user[rows], return_inverse=True)
        queries = served.queries(then.profile, asked, history.latest(asked, served.history_length))
        wanted, column = np.unique(item[rows], return_inverse=True)
        scores = standard_scores(queries, served.items, wanted)
        own = scores[place, column]
        below = np.array([(scores[:, one] < mine).mean() for one, mine in zip(column, own, strict=True)])
        shares.append(float(below.mean()))
        numbers.append(len(data.visits(np.isin(np.arange(len(chosen)), rows))))
    before, now = shares
    error = math.sqrt(sum(1 / (12 * count) for count in numbers))  # a share that is anywhere from 0 to 1 has variance 1/12
    fall = (before - now) / max(before - 0.5, 1e-9) if before - now > section.significance * error else 0.0
    found = f"{now:.3f} in {numbers[1]:,} visits, {before:.3f} in {numbers[0]:,} before (.5 = chosen by anybody)"
    return bounded(name, fall, section.surprise, found)


def standard_scores(queries: np.ndarray, items: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Scores of some items, standardised over all items of a query; computed for a block of queries at a time.

    Shapes: queries [Q, D], items [N + 1, D] with row 0 unknown, wanted [W] rows of at least 1 -> [Q, W].

    Example:
        >>> standard_scores(np.array([[1.0], [2.0]]), np.array([[9.0], [1.0], [4.0]]), np.array([2, 1])).tolist()
        [[1.0, -1.0], [1.0, -1.0]]
    """
    found = np.empty((len(queries), len(wanted)), np.result_type(queries, items))
    size = max(MOST_SCORES // len(items), 1)
    for block in (slice(start, start + size) for start in range(0, len(queries), size)):
        scores = (queries[block] @ items.T)[:, 1:]
        spread = np.maximum(scores.std(axis=1, keepdims=True), 1e-9)
        found[block] = (scores[:, wanted - 1] - scores.mean(axis=1, keepdims=True)) / spread
    return found
