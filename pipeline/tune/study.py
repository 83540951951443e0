"""A search of settings: Optuna proposes, the usual training judges on the validation split, SQLite remembers."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import shutil
import textwrap
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import optuna
from optuna.trial import TrialState

from data.dataset import Dataset
from data.features import FeatureStore
from pipeline.retrieval.train_retrieval import train_retrieval
from pipeline.settings.config import Config, ConfigError
from pipeline.stage import StageError, digest
from pipeline.training.epoch_steps import NonFiniteLossError, Progress
from pipeline.tune.report import METRIC, TABLE, trials_table, write_report
from pipeline.tune.space import Setting, apply_values, value_of

STUDY, DATABASE = "retrieval", "study.db"
STARTUP_TRIALS, WARMUP_EPOCHS = 5, 2
"""No trial is given up before so many others ended, and none in its first epochs: a slow start is no bad end."""
LONGEST_REASON = 500
"""Characters of an error that are kept: TensorFlow writes pages."""


@dataclasses.dataclass(frozen=True)
class Search:
    """What every trial of one search shares.

    Attributes:
        dataset, store: ingested events and encoded content. config: the settings around those searched.
        space: the settings searched. folder: the search's own. inputs: keys of the stages read.
    """

    dataset: Dataset
    store: FeatureStore
    config: Config
    space: tuple[Setting, ...]
    folder: Path
    inputs: dict[str, str]

    @property
    def key(self) -> str:
        """Fingerprint of everything that makes two trials comparable."""
        tree = json.loads(self.config.model_dump_json(include={"data", "encoders", "retrieval"}))
        for setting in self.space:
            *sections, last = setting.name.split(".")
            place = tree
            for section in sections:
                place = place[section]
            place.pop(last)
        return digest([tree, [dataclasses.asdict(setting) for setting in self.space], self.inputs])


def tune(
    search: Search, trials: int, *, timeout: float | None, progress: Progress, say: Callable[[str], None]
) -> dict[str, Any]:
    """Try settings until the study holds `trials` of them, and write what was found into the search's folder.

    The first trial is the config as it stands, so the best is never worse than that on the validation split. A search
    that was killed goes on: the interrupted trial from its own checkpoint, the others stay as they are. A trial that fails,
    or whose settings do not go together, is kept with its reason and not tried again. The test split is taken out of the
    dataset before any trial sees it.

    Args:
        trials: tried to the end, given up or failed, over all runs of this search. timeout: seconds for this run; the
            trial then in progress is finished.

    Returns: what `write_report` returns: `trials`, `best_trial`, METRIC, and the files.

    Raises: StageError when the folder holds a search of other settings or data, or another process is at it; or when
        no trial came to an end.
    """
    search.folder.mkdir(parents=True, exist_ok=True)
    with alone(search.folder), quiet():
        study = open_study(search)
        resume_interrupted(study)
        dataset = without_test(search.dataset)

        def judged(trial: optuna.Trial) -> float:
            try:
                return run_trial(trial, search, dataset, len(ended(study)), trials, progress)
            except optuna.TrialPruned:
                raise
            except Exception as error:
                # Without a reason it would pass for interrupted, and every later run would begin with it.
                trial.set_user_attr("error", reason_of(error))
                raise

        def told(study: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
            say(describe(study, trial))

        left = trials - len(ended(study))
        if left > 0:
            study.optimize(judged, n_trials=left, timeout=timeout, catch=(Exception,), callbacks=[told])
        else:
            say(f"[tune] the study already holds {len(ended(study))} trials; more with --trials")
        if not study.get_trials(states=(TrialState.COMPLETE,)):
            table = trials_table(study, search.space)
            table.to_csv(search.folder / TABLE, index=False)
            failed = [f"the last to fail: {reason}; " for reason in table.get("error", []) if reason]
            raise StageError(
                f"tune: none of {len(table)} trials came to an end; {''.join(failed[-1:])}look at {search.folder / TABLE}, or "
                f"give more --trials and a longer --timeout."
            )
        return write_report(study, search.folder, search.config, search.space)


def open_study(search: Search) -> optuna.Study:
    """The study in the search's folder, new or as it was left; the config's own values are its first trial."""
    storage = f"sqlite:///{(search.folder / DATABASE).resolve()}"
    study = optuna.create_study(
        storage=storage,
        study_name=STUDY,
        direction="maximize",
        pruner=optuna.pruners.MedianPruner(STARTUP_TRIALS, WARMUP_EPOCHS),
        load_if_exists=True,
    )
    # A sampler starts from its seed in every process: a resumed study must not draw the first trials again.
    seed = search.config.retrieval.seed + len(study.trials)
    study.sampler = optuna.samplers.TPESampler(seed=seed, multivariate=True, n_startup_trials=2 * STARTUP_TRIALS)
    if (known := study.user_attrs.get("key")) not in (None, search.key):
        raise StageError(
            f"{search.folder}: this search ran with other settings, another space or other data, so its trials cannot be "
            f"compared with new ones. Choose another --name, or remove the folder to start over."
        )
    if known is None:
        study.set_user_attr("key", search.key)
        start = {
            setting.name: setting.known_as(value_of(search.config, setting.name)) for setting in search.space
        }
        # What the space leaves out is drawn.
        study.enqueue_trial({name: value for name, value in start.items() if value is not None})
    return study


def ended(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    """Trials that need not run again: finished, given up, or failed for a reason of their own."""
    return [
        trial
        for trial in study.trials
        if trial.state in (TrialState.COMPLETE, TrialState.PRUNED) or "error" in trial.user_attrs
    ]


def resume_interrupted(study: optuna.Study) -> None:
    """Queue again what a killed process left behind; equal settings find their checkpoint."""
    resumed = {trial.user_attrs.get("resumes") for trial in study.trials}
    done = {trial.number for trial in ended(study)}
    for trial in study.trials:
        if trial.state == TrialState.RUNNING:
            study.tell(trial.number, state=TrialState.FAIL)
        if trial.state == TrialState.WAITING or trial.number in done or trial.number in resumed or not trial.params:
            continue
        study.enqueue_trial(trial.params, user_attrs={"resumes": trial.number})


def run_trial(
    trial: optuna.Trial, search: Search, dataset: Dataset, done: int, trials: int, progress: Progress
) -> float:
    """Train the towers with the settings of one trial; its best validation NDCG@20."""
    values = {setting.name: setting.suggest(trial) for setting in search.space}
    section = apply_values(search.config, values).retrieval
    kept = search.folder / f".checkpoints-{digest(section.model_dump())}"
    out = search.folder / ".writing"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    reported: set[int] = set()

    def after_epoch(log: list[dict[str, float]]) -> None:
        best = 0.0
        for row in log:
            # The best so far, since the best epoch is what a training is judged by.
            best, epoch = max(best, row[METRIC]), int(row["epoch"])
            if epoch not in reported:
                trial.report(best, epoch)
                reported.add(epoch)
        if trial.should_prune():
            raise optuna.TrialPruned

    label, begun = f"trial {done + 1} of {trials}", time.perf_counter()
    try:
        counts = train_retrieval(
            dataset,
            search.store,
            out,
            kept,
            section,
            modalities=search.store.modalities,
            progress=lambda what, at, total: progress(label, at, total),
            after_epoch=after_epoch,
        )
        trial.set_user_attr("epochs", counts["epochs"])
        trial.set_user_attr("best_epoch", counts["best_epoch"])
    except Exception:  # not of an interruption, after which its checkpoint is what the search goes on from
        shutil.rmtree(kept, ignore_errors=True)
        raise
    finally:
        trial.set_user_attr("seconds", round(time.perf_counter() - begun, 1))
        shutil.rmtree(out, ignore_errors=True)
        keras.utils.clear_session(free_memory=True)
    # Only now: whoever interrupts a trial finds its checkpoint when the search goes on.
    shutil.rmtree(kept)
    return counts[METRIC]


def reason_of(error: Exception) -> str:
    """Why a trial failed, in one line; an error that is not ours with its kind, for its words may say little.

    Example:
        >>> reason_of(MemoryError("no  room")), reason_of(NonFiniteLossError("the loss is nan"))
        ('MemoryError: no room', 'the loss is nan')
    """
    own = isinstance(error, (ConfigError, NonFiniteLossError))
    return textwrap.shorten(str(error) if own else f"{type(error).__name__}: {error}", LONGEST_REASON)


def without_test(dataset: Dataset) -> Dataset:
    """The dataset as it was before the test split began."""
    return dataclasses.replace(dataset, events=dataset.events[dataset.events["split"] < 2].reset_index(drop=True))


def describe(study: optuna.Study, trial: optuna.trial.FrozenTrial) -> str:
    """One line about a trial that just ended."""
    value = f"{trial.value:.4f}" if trial.state == TrialState.COMPLETE else "-"
    how = {
        TrialState.COMPLETE: f"{trial.user_attrs.get('epochs')} epochs",
        TrialState.PRUNED: f"given up after {len(trial.intermediate_values)} epochs",
        TrialState.FAIL: f"failed: {trial.user_attrs.get('error', 'interrupted')}",
    }[trial.state]
    complete = study.get_trials(states=(TrialState.COMPLETE,))
    best = f"; best {study.best_value:.4f} in trial {study.best_trial.number}" if complete else ""
    return f"[tune] trial {trial.number}: {METRIC} {value}, {how}, {trial.user_attrs.get('seconds', 0)} s{best}"


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """One process at a time in a search's folder: what it finds half done is then nobody's."""
    with open(folder / ".lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StageError(f"{folder}: another process is searching here; choose another --name.") from None
        yield


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Optuna's own lines are said here in other words, and `multivariate` is long in use for an experiment."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(before)
