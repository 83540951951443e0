"""The walk of a nightly job: the stages of a run, each of which may look at the run that the last release came from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from data.dataset import Dataset
from pipeline.nightly.export import INDEX, POLICY
from pipeline.nightly.grow_vocabulary import ingest_newest
from pipeline.nightly.record import released_folder
from pipeline.nightly.training import JobTraining
from pipeline.progress import progress_bar
from pipeline.settings.config import Config
from pipeline.stage import StageResult, code_fingerprint, folder_fingerprint, read_manifest
from pipeline.stages.content import ingest_counts

CHECKS = (
    "nightly/check",
    "nightly/new_data",
    "nightly/wanted",
    "nightly/data_checks",
    "nightly/data_checks_events",
    "nightly/data_checks_media",
    "nightly/drift",
)
GATE = ("nightly/gate", "nightly/gate_figures", "nightly/gate_judge", "nightly/gate_contestants")


def files(*names: str) -> tuple[str, ...]:
    """
    >>> files("stage")
    ('pipeline/stage.py',)
    """
    return tuple(f"pipeline/{name}.py" for name in names)


class JobRun(JobTraining):
    """New data in, a judged candidate out; every method is one stage, as in `pipeline.stages.walk.Run`."""

    def ingest(self) -> StageResult:
        """Dataset folder -> validated events in the parent's rows and codes, split by the newest days."""
        section, job, pseudonyms = self.config.data, self.config.job, self.pseudonyms()
        salt = {"pseudonyms": pseudonyms.fingerprint} if pseudonyms else {}

        def work(out: Path, checkpoints: Path) -> dict[str, Any]:
            previous = None if self.parent is None else Dataset.load(self.parent / "ingest")
            dataset = ingest_newest(
                self.source, out, section, previous, job.test_days, self.valid_days, self.valid_setting
            )
            dataset.save(out)
            grown = {f"new_{name}": count for name, count in dataset.report.get("grown", {}).items()}
            return {**ingest_counts(dataset, out), **grown}

        days = {"test_days": job.test_days, "valid_days": self.valid_days}
        inputs = {"source": folder_fingerprint(self.source), **self.parent_keys("ingest"), **salt}
        code = code_fingerprint("data", "pipeline/nightly/grow_vocabulary.py")
        return self.run("ingest", work, {**section.model_dump(), **days}, {**inputs, "code": code})

    def begin_encoding(self) -> None:
        """Let the process beside have ready what pictures need, which takes longer than to encode a night's few."""
        section = self.config.encoders
        if self.encoder is None or section.engine != "local" or read_manifest(self.folder / "encode") is not None:
            return
        from pipeline.content.store_encoders import content_store, weights_folder
        from towers.encoders import resolve_spec

        spec = resolve_spec("image", section.specs()["image"])
        ahead = None if spec == "none" else ("image", spec)
        self.encoder.order(self.source / "media", weights_folder(content_store(section, self.folder)), ahead)

    def encode(self) -> StageResult:
        """As in a run; afterwards nobody holds an encoder any more."""
        made = super().encode()
        if self.encoder is not None:
            self.encoder.end()
        return made

    def check_data(self) -> StageResult:
        """New events, items and vectors against the parent's -> go, go with a warning, or stop."""

        def work(out: Path, checkpoints: Path) -> dict[str, Any]:
            from pipeline.nightly.data_checks import check_data

            return check_data(self, out)

        inputs = {"encode": self.key(self.store_stage), **self.parent_keys("ingest", "served/full")}
        code = code_fingerprint(*files(*CHECKS))
        settings = {**self.config.checks.model_dump(), "full": self.full}
        return self.run("checks", work, settings, {**inputs, "code": code})

    def begin_judging(self) -> None:
        """Let the current release be asked while the candidate trains."""
        if self.current_judge is not None and read_manifest(self.folder / "judge") is None:
            self.current_judge.order(self.source, self.folder, self.config, self.warm)

    def told_of_current(self) -> dict[str, Any] | None:
        """What the process beside says of the current release; None where there is none, or it failed."""
        self.begin_judging()
        return None if self.current_judge is None else self.current_judge.answer()[0]

    def judge(self) -> StageResult:
        """Candidate and current release on the newest days, asked the same -> figures of both."""

        def work(out: Path, checkpoints: Path) -> dict[str, Any]:
            from pipeline.nightly.gate_figures import judge_job

            self.exporter.go_on(POLICY)  # neither knows of the other
            with progress_bar("judge", single=True) as progress:
                return judge_job(self.dataset(), self.folder, self.parent, out, self.config, progress, self.told_of_current)

        inputs = {"policy": self.key("policy"), **self.parent_keys("ranking", "index")}
        code = code_fingerprint(
            "ranking",
            *files(*GATE, "evaluation/order_quality", "evaluation/probability_quality", "evaluation/exposure_quality"),
        )
        return self.run("judge", work, {"masked": self.config.evaluation.mask_splits}, {**inputs, "code": code})

    def index(self) -> StageResult:
        """As in training, and the exporter goes on with it."""
        made = super().index()
        self.exporter.go_on(INDEX)
        return made

    def begin_export(self) -> None:
        """Let what the candidate needs beside index and ranker be read while these are made, and what is known be reported."""
        if read_manifest(self.folder / "export") is None:
            self.exporter.begin(*self._to_export())
        if self.reporter is not None:
            self.reporter.order(self.folder, self.source)

    def _to_export(self) -> tuple[Path, Path, Config, int, Path | None]:
        previous = None if self.warm is None else released_folder(self.warm)
        return self.source, self.folder, self.config, self.version, previous

    def export(self) -> StageResult:
        """The candidate as a whole release in the job's own folder, with the number it will have."""

        def work(out: Path, checkpoints: Path) -> dict[str, Any]:
            self.exporter.begin(*self._to_export())
            self.exporter.go_on(INDEX)
            self.exporter.go_on(POLICY)
            return self.exporter.finish()

        inputs = {
            "search": self.key("search"), "ranking": self.key("ranking"), "policy": self.key("policy"),
            "index": self.key("index"), "code": code_fingerprint("serving", "ranking"),
        }  # fmt: skip
        kept = {"precision": self.config.serving.precision, "prune": self.config.serving.prune}
        return self.run("export", work, {**kept, "version": self.version}, inputs)

    def decide(self) -> StageResult:
        """Figures of both, and the candidate itself -> whether it is published, and why."""

        def work(out: Path, checkpoints: Path) -> dict[str, Any]:
            from pipeline.nightly.gate import decide

            return decide(self, out)

        inputs = {"judge": self.key("judge"), "export": self.key("export"), **self.parent_keys("ingest")}
        settings = {**self.config.gate.model_dump(), "full": self.full}
        return self.run("gate", work, settings, {**inputs, "code": code_fingerprint(*files(*GATE))})
