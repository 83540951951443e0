"""The stages of a nightly job that train: each goes on from the parent's models, or from nothing where the job is full."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from data.dataset import Dataset
from pipeline.nightly.folder import JobFolder
from pipeline.policy.stage import REPORT
from pipeline.progress import progress_bar
from pipeline.settings.config import Config
from pipeline.stage import StageError, StageResult, code_fingerprint, read_manifest
from pipeline.stages.retrieval import LINEAR, LOOP, SERVED, TOWERS, teacher_keys
from pipeline.stages.walk import RANKING_FILES
from towers.search import WEIGHTS

WARM = ("pipeline/nightly/linear.py", "pipeline/nightly/search.py", "pipeline/ranker/warm.py", "pipeline/training/warm.py")


class JobTraining(JobFolder):
    """From vectors and events to models: those of the parent, taught what came since."""

    def _variants(self) -> dict[str, tuple[str, ...]]:
        """What is released, and nothing for comparison beside it."""
        return {"full": self.store().modalities}

    def _train_variant(self, name: str, modalities: tuple[str, ...]) -> StageResult:
        if self.warm is None:
            return super()._train_variant(name, modalities)
        section, job, parent = self.config.retrieval, self.config.job, self.warm

        def work(out: Path, checkpoints: Path) -> dict[str, Any]:
            from pipeline.retrieval.train_retrieval import train_retrieval
            from pipeline.training.record import read_records
            from pipeline.training.warm import WarmTowers

            dataset = self.dataset()
            until = max(record["last_timestamp"] for record in read_records(parent / "retrieval" / name))
            check_unseen(dataset, until, parent)
            with progress_bar(f"retrieval/{name}") as progress:
                return train_retrieval(
                    dataset, self.store(), out, checkpoints, section, modalities=modalities, progress=progress,
                    warm=WarmTowers(parent / "retrieval" / name, until, job, section.seed),
                )  # fmt: skip

        left_out = {"ablations", "checkpoint_seconds", "checkpoint_steps"}
        settings = {**section.model_dump(exclude=left_out), "modalities": modalities, "job": self.pace()}
        inputs = {
            self.store_stage: self.key(self.store_stage),
            "ingest": self.key("ingest"),
            **self.keys_of(section.distill_ranker, "served/full", "ranking"),
            **teacher_keys(section.side),
            **self.warm_keys(f"retrieval/{name}"),
            "code": code_fingerprint("towers", *LOOP, *TOWERS, *WARM),
        }
        return self.run(f"retrieval/{name}", work, settings, inputs)

    def begin_linear(self) -> None:
        """Let the linear tower be fitted while the two towers train."""
        if self.linear is not None:
            self.linear.order(self.source, self.folder, self.config, self.warm)

    def train_linear(self) -> list[StageResult]:
        """As in a run; what a process beside this one has fitted is there already."""
        if self.linear is not None:
            self.linear.wait()
        return super().train_linear()

    def _fit_linear(self, name: str, modalities: tuple[str, ...]) -> StageResult:
        if self.warm is None:
            return super()._fit_linear(name, modalities)
        section, parent = self.config.linear, self.warm
        splits = tuple(sorted({"train", *self.config.evaluation.mask_splits})) if section.refit else ("train",)

        def work(out: Path, checkpoints: Path) -> dict[str, Any]:
            from pipeline.nightly.linear import refit_linear

            with progress_bar(f"linear/{name}") as progress:
                return refit_linear(
                    self.dataset(), self.store(), parent / "linear" / name, out, checkpoints, section, self.config.job,
                    modalities=modalities, progress=progress, refit_splits=splits,
                )  # fmt: skip

        inputs = {
            self.store_stage: self.key(self.store_stage),
            "ingest": self.key("ingest"),
            **self.warm_keys(f"linear/{name}"),
            "code": code_fingerprint("towers", *LOOP, *LINEAR, *WARM),
        }
        settings = {**section.model_dump(), "modalities": modalities, "refit_splits": splits, "job": self.pace()}
        return self.run(f"linear/{name}", work, settings, inputs)

    def _build_served(self, name: str, modalities: tuple[str, ...]) -> StageResult:
        if self.warm is None:
            return super()._build_served(name, modalities)
        section, parent = self.config.linear, self.warm

        def work(out: Path, checkpoints: Path) -> dict[str, Any]:
            from pipeline.retrieval.served_stage import build_served

            before = (read_manifest(parent / "served" / name) or {})["counts"]
            if before["kind"] == "two_tower":
                return {"kind": "two_tower"}
            trained, linear = self.folder / "retrieval" / name, self.folder / "linear" / name
            return build_served(
                self.dataset(), self.store(), trained, linear, out, section, modalities=modalities,
                fixed=(before["share"], before["boost"]),
            )  # fmt: skip

        inputs = {
            "retrieval": self.key(f"retrieval/{name}"), "linear": self.key(f"linear/{name}"),
            **self.warm_keys(f"served/{name}"),
            "code": code_fingerprint(*SERVED),
        }  # fmt: skip
        settings = {"validation_users": section.validation_users, "seed": section.seed}
        return self.run(f"served/{name}", work, settings, inputs)

    def train_search(self) -> StageResult:
        """The last search tower, turned to the new embeddings; a full job, or one without any, trains as a run does."""
        parent = self.warm
        if parent is None or not self.config.search.enabled or not (parent / "search" / WEIGHTS).is_file():
            return super().train_search()

        def work(out: Path, checkpoints: Path) -> dict[str, Any]:
            from pipeline.nightly.search import turn_search
            from pipeline.retrieval.served import served_items

            return turn_search(parent / "search", served_items(parent), served_items(self.folder), out)

        inputs = {"served": self.key("served/full"), **self.warm_keys("served/full", "search")}
        return self.run("search", work, {}, {**inputs, "code": code_fingerprint("towers/search.py", *WARM)})

    def index(self) -> StageResult:
        """The index again; where exact search answers now, whether another kind would is for a full job to measure."""
        section, parent = self.config.index, self.warm
        made = {} if parent is None else (read_manifest(parent / "index") or {})["counts"]
        if section.kind != "auto" or made.get("stock_kind") != "exact":
            return super().index()
        section = section.model_copy(update={"kind": "exact", "points_beyond": 0})
        config = self.config.model_copy(update={"index": section})
        return dataclasses.replace(self, config=config).index()

    def train_ranking(self) -> StageResult:
        """The ranker on the validation days: from nothing, or from the last one."""
        section, job, config = self.config.ranking, self.config.job, self.config
        if self.warm is not None:
            # What is held out are the days that the last ranker has not learned from: the newest of the window.
            changed = {
                "catch_up_epochs": job.ranking_epochs,
                "catch_up_rate": job.learning_rate,
                "calibration_share": min(max(job.test_days / job.warm_days, 0.05), 0.5),
            }
            section = section.model_copy(update=changed)
            config = config.model_copy(update={"ranking": section})

        def work(out: Path, checkpoints: Path) -> dict[str, Any]:
            from pipeline.stages.ranking import train_ranking_stage

            with progress_bar("ranking") as progress:
                return train_ranking_stage(
                    self.dataset(), self.store(), self.folder, out, checkpoints, config, progress,
                    previous=self.warm, baseline=False,
                )  # fmt: skip

        inputs = {
            "index": self.key("index"),
            **self.warm_keys("ranking", "served/full"),
            "code": code_fingerprint("ranking", *(f"pipeline/{name}.py" for name in RANKING_FILES), *WARM),
        }
        return self.run("ranking", work, section.model_dump(), inputs)

    def choose_policy(self) -> StageResult:
        """The policy of the settings, with what a full job last measured of diversity: a night has little to measure by."""
        parent, section = self.warm, self.config.policy
        if parent is None or not (parent / "policy" / REPORT).is_file():
            return super().choose_policy()

        def work(out: Path, checkpoints: Path) -> dict[str, Any]:
            from pipeline.policy.stage import keep_policy

            return {**keep_policy(parent / "policy", out, section), "kept_from": parent.name}

        inputs = {
            "ranking": self.key("ranking"), **self.warm_keys("policy"),
            "code": code_fingerprint("ranking/policy.py", "pipeline/policy/stage.py", "pipeline/settings/policy.py"),
        }  # fmt: skip
        return self.run("policy", work, section.model_dump(), inputs)


def check_unseen(dataset: Dataset, learned_until: int, parent: Path) -> None:
    """Refuses to go on from towers that have learned from the days that validate now.

    Raises:
        StageError: the parent's training events reach into them.
    """
    later = dataset.events["timestamp"].to_numpy()[dataset.events["split"].to_numpy() > 0]
    if learned_until >= later.min():
        raise StageError(
            f"job: {parent} was trained on events until {learned_until}, and validation begins at {int(later.min())}; going on "
            "from it would judge the candidate by what it knows. Lower job.warm_days, or retrain in full with --full."
        )


def fit_linear_tower(source: Path, folder: Path, config: Config, parent: Path, *, ready: Callable[[], Any]) -> bool:
    """The linear stage of a job that goes on from `parent`, in a process beside the job's while the two towers train: neither
    asks the other. The job then finds the stage made, and makes it itself where this failed."""
    run = JobTraining(source, folder, config, lambda line: None, parent=parent)
    for name, modalities in run._variants().items():
        run._fit_linear(name, modalities)
    return True
