"""The walk of a nightly job: the stages of a run, each of which may look at the run that the last release came from."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from data.dataset import Dataset
from data.ingest import IngestOptions, ingest
from pipeline.content_stages import quarantined
from pipeline.grow_vocabulary import grow_dataset, split_newest
from pipeline.progress import progress_bar
from pipeline.retrieval_stages import LINEAR, LOOP, SERVED, TOWERS
from pipeline.stage import StageError, StageResult, code_fingerprint, folder_fingerprint, read_manifest
from pipeline.stages import RANKING_FILES, Run
from towers.search import WEIGHTS

WARM = tuple(f"pipeline/job_{name}.py" for name in ("linear", "ranker", "search", "warm"))
CHECKS = ("check", "new_data", "data_checks", "data_checks_events", "data_checks_media", "drift")
GATE = ("gate", "gate_figures", "gate_contestants")


def files(*names: str) -> tuple[str, ...]:
    """
    >>> files("stage")
    ('pipeline/stage.py',)
    """
    return tuple(f"pipeline/{name}.py" for name in names)


@dataclasses.dataclass(frozen=True)
class JobRun(Run):
    """A job's folder.

    Attributes:
        parent: the run folder whose models are released now; None = there is none yet.
        full: train everything from nothing, as for the first release; rows keep their numbers all the same.
        version: number that the candidate gets.
    """

    parent: Path | None = None
    full: bool = False
    version: int = 1

    @property
    def warm(self) -> Path | None:
        """The run that training goes on from."""
        return None if self.full else self.parent

    @property
    def valid_days(self) -> int:
        """Days that validate retrieval and teach the ranker."""
        return self.config.job.valid_days if self.warm is None else self.config.job.warm_days

    def parent_keys(self, *stages: str) -> dict[str, str]:
        """Keys of the parent's stages, for what is made from them."""
        return {} if self.parent is None else {f"{name} of the parent": key for name, key in
                zip(stages, self.keys_of(str(self.parent), *stages).values(), strict=True)}  # fmt: skip

    def warm_keys(self, *stages: str) -> dict[str, str]:
        return {} if self.warm is None else self.parent_keys(*stages)

    def ingest(self) -> StageResult:
        """Dataset folder -> validated events in the parent's rows and codes, split by the newest days."""
        section, job, pseudonyms = self.config.data, self.config.job, self.pseudonyms()
        salt = {"pseudonyms": pseudonyms.fingerprint} if pseudonyms else {}

        def work(out: Path, checkpoints: Path) -> dict[str, Any]:
            options = {**section.model_dump(), "split": "global_time"}
            dataset = ingest(self.source, out, IngestOptions(**options))
            if self.parent is not None:
                dataset = grow_dataset(dataset, Dataset.load(self.parent / "ingest"))
            dataset = split_newest(dataset, job.test_days, self.valid_days)
            dataset.save(out)
            return {
                "users": dataset.schema.user_rows - 1,
                "items": dataset.schema.item_rows - 1,
                "events": len(dataset.events),
                "quarantined": quarantined(out),
                **{f"new_{name}": count for name, count in dataset.report.get("grown", {}).items()},
            }

        days = {"test_days": job.test_days, "valid_days": self.valid_days}
        inputs = {"source": folder_fingerprint(self.source), **self.parent_keys("ingest"), **salt}
        code = code_fingerprint("data", "pipeline/grow_vocabulary.py")
        return self.run("ingest", work, {**section.model_dump(), **days}, {**inputs, "code": code})

    def check_data(self) -> StageResult:
        """New events, items and vectors against the parent's -> go, go with a warning, or stop."""

        def work(out: Path, checkpoints: Path) -> dict[str, Any]:
            from pipeline.data_checks import check_data

            return check_data(self, out)

        inputs = {"encode": self.key(self.store_stage), **self.parent_keys("ingest", "served/full")}
        code = code_fingerprint(*files(*CHECKS))
        return self.run("checks", work, self.config.checks.model_dump(), {**inputs, "code": code})

    def _variants(self) -> dict[str, tuple[str, ...]]:
        """What is released, and nothing for comparison beside it."""
        return {"full": self.store().modalities}

    def _train_variant(self, name: str, modalities: tuple[str, ...]) -> StageResult:
        if self.warm is None:
            return super()._train_variant(name, modalities)
        section, job, parent = self.config.retrieval, self.config.job, self.warm

        def work(out: Path, checkpoints: Path) -> dict[str, Any]:
            from pipeline.job_warm import WarmTowers
            from pipeline.train_retrieval import train_retrieval
            from pipeline.training_record import read_records

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
            **self.warm_keys(f"retrieval/{name}"),
            "code": code_fingerprint("towers", *LOOP, *TOWERS, *WARM),
        }
        return self.run(f"retrieval/{name}", work, settings, inputs)

    def _fit_linear(self, name: str, modalities: tuple[str, ...]) -> StageResult:
        if self.warm is None:
            return super()._fit_linear(name, modalities)
        section, parent = self.config.linear, self.warm
        splits = tuple(sorted({"train", *self.config.evaluation.mask_splits})) if section.refit else ("train",)

        def work(out: Path, checkpoints: Path) -> dict[str, Any]:
            from pipeline.job_linear import refit_linear

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
            from pipeline.served_stage import build_served

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
            from pipeline.job_search import turn_search
            from pipeline.served import load_served

            return turn_search(parent / "search", load_served(parent).items, load_served(self.folder).items, out)

        inputs = {"served": self.key("served/full"), **self.warm_keys("served/full", "search")}
        return self.run("search", work, {}, {**inputs, "code": code_fingerprint("towers/search.py", *WARM)})

    def train_ranking(self) -> StageResult:
        """The ranker on the validation days: from nothing, or from the last one."""
        section, job, config = self.config.ranking, self.config.job, self.config
        if self.warm is not None:
            # What is held out are the days that the last ranker has not learned from: the newest of the window.
            changed = {
                "epochs": job.ranking_epochs,
                "learning_rate": section.learning_rate * job.learning_rate,
                "calibration_share": min(max(job.test_days / job.warm_days, 0.05), 0.5),
            }
            section = section.model_copy(update=changed)
            config = config.model_copy(update={"ranking": section})

        def work(out: Path, checkpoints: Path) -> dict[str, Any]:
            from pipeline.ranking_stage import train_ranking_stage

            with progress_bar("ranking") as progress:
                return train_ranking_stage(
                    self.dataset(), self.store(), self.folder, out, checkpoints, config, progress,
                    previous=self.warm, baseline=False,
                )  # fmt: skip

        inputs = {
            "index": self.key("index"),
            **self.warm_keys("ranking", "served/full"),
            "code": code_fingerprint("ranking", *files(*RANKING_FILES), *WARM),
        }
        return self.run("ranking", work, section.model_dump(), inputs)

    def judge(self) -> StageResult:
        """Candidate and current release on the newest days, asked the same -> figures of both."""

        def work(out: Path, checkpoints: Path) -> dict[str, Any]:
            from pipeline.gate_figures import judge_job

            with progress_bar("judge", single=True) as progress:
                return judge_job(self.dataset(), self.store(), self.folder, self.parent, out, self.config, progress)

        inputs = {"policy": self.key("policy"), **self.parent_keys("ranking", "index")}
        code = code_fingerprint("ranking", *files(*GATE, "order_quality", "probability_quality", "exposure_quality"))
        return self.run("judge", work, {"masked": self.config.evaluation.mask_splits}, {**inputs, "code": code})

    def export(self) -> StageResult:
        """The candidate as a whole release in the job's own folder, with the number it will have."""

        def work(out: Path, checkpoints: Path) -> dict[str, Any]:
            from pipeline.job_export import export_apart

            return export_apart(self.source, self.folder, self.config, self.version)

        inputs = {
            "search": self.key("search"), "ranking": self.key("ranking"), "policy": self.key("policy"),
            "index": self.key("index"), "code": code_fingerprint("serving", "ranking"),
        }  # fmt: skip
        kept = {"precision": self.config.serving.precision, "prune": self.config.serving.prune}
        return self.run("export", work, {**kept, "version": self.version}, inputs)

    def decide(self) -> StageResult:
        """Figures of both, and the candidate itself -> whether it is published, and why."""

        def work(out: Path, checkpoints: Path) -> dict[str, Any]:
            from pipeline.gate import decide

            return decide(self, out)

        inputs = {"judge": self.key("judge"), "export": self.key("export"), **self.parent_keys("ingest")}
        return self.run(
            "gate", work, self.config.gate.model_dump(), {**inputs, "code": code_fingerprint(*files(*GATE))}
        )

    def pace(self) -> dict[str, Any]:
        """The settings that decide how a warm start trains."""
        return self.config.job.model_dump(include={"replay", "epochs", "learning_rate", "linear_epochs"})


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
