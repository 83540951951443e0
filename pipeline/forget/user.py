"""Forgetting a user: out of the dataset, the gateway's feedback, every stage of a run and every release, and the proof.

What stays is said plainly: shared weights (towers, ranker, item vectors) have learned from the user's events, and their
influence is in them until the next training, which starts from a dataset without the user. Figures of the report are those
that were measured with them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

from pipeline.follow.journal import drop_followed
from pipeline.forget.files import forget_in_dataset, forget_in_feedback
from pipeline.forget.ids import ids_around
from pipeline.forget.leftovers import clear_leftovers
from pipeline.forget.proof import Searched, prove_forgotten
from pipeline.forget.release import replace_releases
from pipeline.forget.run import forget_in_run, run_folders
from pipeline.nightly.lock import held
from pipeline.nightly.record import JOBS
from pipeline.report.page import write_report
from pipeline.settings.config import Config
from pipeline.stage import StageError
from pipeline.stages.content import ContentStages

LOCK_SECONDS = 60.0


@dataclasses.dataclass(frozen=True)
class Forgotten:
    """What was done: rows that left the dataset folder, events that left the feedback, the number of the new release (None
    where no release knew the user), and what the proof rests on."""

    rows: int
    events: int
    release: int | None
    searched: Searched


def forget_user(
    user: str,
    out: Path,
    *,
    data: Path | None = None,
    state: Path | None = None,
    config: Config | None = None,
    servers: Sequence[str] = (),
    say: Callable[[str], None] = print,
) -> Forgotten:
    """Removes a user from everything that is kept on disk, and proves it.

    The sources go first (dataset, feedback), then the stages, then the releases, then the report. Every file is replaced
    whole, and each part is found by what is still there: started again after a kill it goes on, and started twice it
    finds nothing to do. Run no stage meanwhile; jobs are held off.

    Args:
        user: the id, as the dataset has it; with `data.pseudonym_salt_file` its pseudonym is forgotten, too.
        out: the run folder. data: its dataset folder; None = that one is not touched, and the next ingest brings the
            user back. state: the gateway's folder; None = `<out>/gateway`.
        config: settings of the run. servers: model servers to wait for, see `replace_releases`.

    Raises:
        StageError: nothing there to forget from, a gateway that is writing just now, settings of another run, or
            something that is left, with every file that has it.
    """
    config = config or Config()
    state = out / "gateway" if state is None else state
    for name, folder in (("--out", out), ("--data", data)):
        if folder is not None and not folder.is_dir():
            raise StageError(f"{name}: {folder} is not a folder. Name the one that holds the user's data.")
    if not user.strip():
        raise StageError(f"--user: must be an id, received {user!r}.")
    pseudonyms = ContentStages(data or out, out, config, say).pseudonyms()
    # Logs from before feedback was marked gave the pseudonym of the pseudonym to what clients had sent.
    ids = frozenset([user] if pseudonyms is None else [user, once := pseudonyms.of(user), pseudonyms.of(once)])
    folders = [out, state, *([data] if data else [])]
    with held(out / JOBS, "forget-user", LOCK_SECONDS, say):
        clear_leftovers(folders)
        others = ids_around(folders, ids)
        drop_followed(out, ids)
        events = forget_in_feedback(state / "feedback", ids)
        rows = 0 if data is None else forget_in_dataset(data, ids, others)
        vectors: list[bytes] = []
        for run in run_folders(out):
            vectors += forget_in_run(run, ids, others)
        release = replace_releases(out, data, config, ids, servers=servers, say=say)
        for run in run_folders(out):
            if (run / "report.json").is_file():
                write_report(run, data)
        searched = prove_forgotten(folders, ids, vectors, others)
    return Forgotten(rows, events, release, searched)
