"""A run folder without a person: their row keeps its number and holds nothing, in every stage's folder."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd

from data.dataset import CONTEXT, PROFILE, Dataset, train_counts
from data.durable_file import sync, write_durably
from data.schema import UNKNOWN_ROW
from data.vocabulary import Vocabulary
from pipeline.forget.files import TOMBSTONE, forget_in_json, forget_in_table, write_arrays
from pipeline.forget.leftovers import being_written
from pipeline.nightly.record import RECORD, outcome_of
from pipeline.ranker.visits import HELD_OUT, Visits
from ranking.stored_rows import Precision, store_rows

USER_IDS, LEARNED = "user_ids.txt", "learned.npz"
UNFINISHED = (".checkpoints-*", ".writing-*", ".old-*")
"""What a killed or running stage keeps of its work."""


def run_folders(out: Path) -> list[Path]:
    """The run folder and those of its jobs, as far as they have ingested anything."""
    return [run for run in [out, *sorted((out / "jobs").glob("*"))] if (run / "ingest" / USER_IDS).is_file()]


def knows(release: Path, ids: frozenset[str]) -> bool:
    """Whether a release, or what is left of an unfinished or removed one, has a person in a vocabulary."""
    files = release.glob("*/*/assets/users.txt")
    return any(not ids.isdisjoint(file.read_text(encoding="utf-8").split("\n")) for file in files)


def stage_files(run: Path, name: str) -> Iterator[Path]:
    """The files of a name pattern in a run's stages, neither in its releases nor in its jobs."""
    for stage in sorted(run.iterdir()):
        if stage.is_dir() and stage.name not in ("releases", "jobs", "gateway"):
            yield from sorted(stage.rglob(name))
    yield from sorted(path for path in run.glob(name) if path.is_file())


def forget_in_run(run: Path, ids: frozenset[str], others: frozenset[str] = frozenset()) -> list[bytes]:
    """Empties a person's rows in a run folder, and puts a tombstone in the place of their id.

    Vectors become those of the unknown user, who is row 0; profile codes become unknown; events, lists, held-out requests
    and values per user are dropped, and items are counted without them. Values of a profile column or a context that
    nobody else has become tombstones too. A release of a job's that was not published goes. The vocabulary comes last: a
    start after a kill finds the row by it and does all of it again.

    Args:
        others: see `ids_around`.

    Returns:
        The bytes of the vectors that were there, in every form in which a release may store them; for `forget_proof`.
    """
    vocabulary = Vocabulary.load(run / "ingest" / USER_IDS)
    rows = sorted({int(row) for row in vocabulary.rows(sorted(ids))} - {UNKNOWN_ROW})
    if (run / RECORD).is_file():
        _drop_candidate(run, ids, bool(rows))
    for name in UNFINISHED:
        for path in run.glob(name):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            elif not being_written(path):
                path.unlink(missing_ok=True)
    for path in stage_files(run, "*.parquet"):
        if path.parent.name != "ingest":
            forget_in_table(path, ids, others)
    for path in stage_files(run, "*.json"):
        forget_in_json(path, ids)
    vectors: list[bytes] = []
    for row in rows:
        for file in stage_files(run, "weights.weights.h5"):
            vectors += _empty_towers(file.parent, row)
        for file in stage_files(run, "ranking.weights.h5"):
            vectors += _empty_ranker(file.parent, row)
        for file in stage_files(run, LEARNED):
            vectors += _empty_learned(file, row, len(vocabulary))
        for file in stage_files(run, HELD_OUT):
            _drop_visits(file, row)
        _empty_ingested(run / "ingest", row)
    forget_in_table(run / "ingest" / "quarantine.parquet", ids, others)
    return vectors


def _drop_candidate(job: Path, ids: frozenset[str], known: bool) -> None:
    """Removes a release that a job has made and not published, or not yet: who goes on with the job exports it again."""
    candidates = [path for path in (job / "releases").glob("*") if path.is_dir()]
    if not candidates or not (known or any(knows(path, ids) for path in candidates)):
        return
    # The release last, by which a start after a kill finds all of it again.
    for name in ("releases",) if outcome_of(job) else ("gate", "export", "releases"):
        if (job / name).is_dir():
            shutil.rmtree(job / f".old-{name}", ignore_errors=True)
            (job / name).rename(job / f".old-{name}")  # one of `UNFINISHED`


def _empty_row(table: np.ndarray, row: int) -> list[bytes]:
    """Gives a row the values of the unknown one, in place; the bytes of what was there, unless it was the same."""
    before = table[row].copy()
    table[row] = table[UNKNOWN_ROW]
    if np.array_equal(before, table[row]) or not before.any():
        return []
    return [store_rows(before[None].astype(np.float32), precision)[0].tobytes() for precision in get_args(Precision)]


def _replace_weights(model: Any, file: Path) -> None:
    beside = file.with_name(f".writing-{file.name}")  # Keras wants the ending .weights.h5
    model.save_weights(beside)
    sync(beside)
    os.replace(beside, file)
    sync(file.parent)


def _empty_towers(folder: Path, row: int) -> list[bytes]:
    described = json.loads((folder / "model.json").read_text())
    if not described.get("config", {}).get("user_id") or row >= described["schema"]["user_rows"]:
        return []  # towers that know users by what they chose alone
    from keras import ops

    from towers.two_tower import load_two_tower

    model = load_two_tower(folder)
    [variable] = model.user_tower.id_embedding.weights
    table = np.array(ops.convert_to_numpy(variable))
    was = _empty_row(table, row)
    variable.assign(table)
    _replace_weights(model, folder / "weights.weights.h5")
    return was


def _empty_ranker(folder: Path, row: int) -> list[bytes]:
    from keras import ops

    from ranking.serving_form import WEIGHTS, RankingServingForm

    form = RankingServingForm.load(folder)
    features = form.network.features
    embedding, sides = features.embeddings["user_id"], features.side.tables
    if row >= embedding.shape[0]:
        return []
    table = np.array(ops.convert_to_numpy(embedding))
    was = _empty_row(table, row)
    embedding.assign(table)
    for name in ("profile", "user_known"):
        facts = np.array(ops.convert_to_numpy(sides[name]))
        facts[row] = 0
        sides[name].assign(facts)
    _replace_weights(form, folder / WEIGHTS)
    return was


def _empty_learned(file: Path, row: int, user_rows: int) -> list[bytes]:
    with np.load(file) as stored:
        arrays = {name: stored[name] for name in stored.files}
    was: list[bytes] = []
    known = False
    for name, table in arrays.items():
        if name.split("/")[-1] == "user_id" and row < len(table) <= user_rows:
            was += _empty_row(table, row)
        elif name.split("/")[-1] == "user_known" and row < len(table):
            known, table[row] = bool(table[row]), 0
    if was or known:
        buffer = io.BytesIO()
        np.savez(buffer, allow_pickle=False, **arrays)
        write_durably(file, [buffer.getvalue()])
    return was


def _drop_visits(file: Path, row: int) -> None:
    visits = Visits.load(file)
    others = np.flatnonzero(visits.users != row)
    if len(others) < len(visits):
        kept = visits.take(others)
        arrays = {field.name: getattr(kept, field.name) for field in dataclasses.fields(kept)}
        wanted = arrays.pop("relevant")
        write_arrays(file, {"offsets": wanted.offsets, "wanted": wanted.rows, **arrays})


def _empty_ingested(folder: Path, row: int) -> None:
    dataset = Dataset.load(folder)
    events, users = dataset.events, dataset.users.copy()
    mine = events["user"].to_numpy() == row
    others = np.arange(len(users)) != row
    profile = _without_rare(dataset.profile_vocabulary, users, PROFILE, others)
    context = _without_rare(dataset.context_vocabulary, events, CONTEXT, ~mine)
    for name in dataset.schema.profile:
        users.loc[row, PROFILE + name] = 0
    users.loc[row, "user_id"] = _tombstone(row, dataset.user_ids)
    kept = events[~mine].reset_index(drop=True)
    report = {**dataset.report, "events": len(kept), "forgotten": dataset.report.get("forgotten", 0) + 1}
    without = dataclasses.replace(
        dataset,
        users=users,
        events=kept,
        counts=train_counts(kept, dataset.schema.item_rows),
        profile_vocabulary=profile,
        context_vocabulary=context,
        report=report,
    )
    without.check()
    written = folder.with_name(".writing-ingest")
    shutil.rmtree(written, ignore_errors=True)
    without.save(written)
    # The vocabulary last: by it the row is found again after a kill.
    for path in sorted(written.iterdir(), key=lambda path: (path.name == USER_IDS, path.name == "users.parquet")):
        sync(path)
        os.replace(path, folder / path.name)
    sync(folder)
    written.rmdir()


def _without_rare(
    vocabulary: dict[str, list[str]], frame: pd.DataFrame, prefix: str, others: np.ndarray
) -> dict[str, list[str]]:
    """The vocabulary with a tombstone for what only the person has: a rare value may tell who it was."""
    renamed = {}
    for name, values in vocabulary.items():
        codes = frame[prefix + name].to_numpy()
        alone = set(codes[~others].tolist()) - set(codes[others].tolist()) - {0}
        renamed[name] = [f"{TOMBSTONE}{code}" if code in alone else value for code, value in enumerate(values)]
    return renamed


def _tombstone(row: int, vocabulary: Vocabulary) -> str:
    name = f"{TOMBSTONE}{row}"
    while name in vocabulary:
        name += "~"
    return name
