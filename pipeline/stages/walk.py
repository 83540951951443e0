"""The walk: every stage in order, what it reads, what it writes, and why it may be skipped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.progress import progress_bar
from pipeline.reproduce_record import made_from, read_made_from, write_made_from
from pipeline.stage import StageResult, code_fingerprint, read_manifest
from pipeline.stages.retrieval import RetrievalStages
from pipeline.tracking import check_tracking, track

RANKING_FILES = (
    "ranker/train",
    "ranker/training_sources",
    "ranker/catch_up",
    "ranker/setup",
    "ranker/lists",
    "ranker/earlier_fold",
    "ranker/event_labels",
    "ranker/calibrate",
    "ranker/choose_score",
    "ranker/rank_requests",
    "ranker/request_quality",
    "ranker/visits",
    "ranker/tree_examples",
    "ranker/click_trees",
    "ranker/boosted_trees",
    "ranker/leak_checks",
    "ranker/list_checks",
    "ranker/retrieval_side",
    "metrics/bootstrap",
    "metrics/probability_metrics",
)
"""What of this room the trained ranker depends on."""


class Run(RetrievalStages):
    """The stages in order.

    Every method is one stage: it returns at once when its config, its code and its inputs are what they were. A stage
    that needs an earlier one says so rather than running it, except in `all`, which walks them in order.

    Attributes:
        source: dataset folder. folder: where the stages write. config: settings. say: where lines of progress go.
    """

    def index(self) -> StageResult:
        """Item embeddings -> the index that answers, and what each kind costs and finds, measured."""
        section = self.config.index

        def work(out: Path, checkpoints: Path) -> dict[str, Any]:
            from pipeline.retrieval.index_stage import build_index_stage

            return build_index_stage(self.dataset(), self.folder, out, section, self.say)

        return self.run(
            "index",
            work,
            section.model_dump(),
            {"served": self.key("served/full"), "code": code_fingerprint("serving", "pipeline/retrieval/index_stage.py")},
        )

    def train_ranking(self) -> StageResult:
        """Impressions and candidates of the built index -> calibrated probabilities of click and purchase."""
        section = self.config.ranking

        def work(out: Path, checkpoints: Path) -> dict[str, Any]:
            from pipeline.stages.ranking import train_ranking_stage

            with progress_bar("ranking") as progress:
                return train_ranking_stage(
                    self.dataset(), self.store(), self.folder, out, checkpoints, self.config, progress
                )

        return self.run(
            "ranking",
            work,
            section.model_dump(),
            {
                "index": self.key("index"),
                **self.keys_of(section.previous_run, "served/full", "index"),
                "code": code_fingerprint(
                    "ranking",
                    *(f"pipeline/{name}.py" for name in RANKING_FILES),
                ),
            },
        )

    def choose_policy(self) -> StageResult:
        """Held-out visits -> the weights of re-ranking that a release starts from."""

        def work(out: Path, checkpoints: Path) -> dict[str, Any]:
            from pipeline.policy.stage import choose_policy_stage

            return choose_policy_stage(self.dataset(), self.folder, out, self.config)

        parts = (f"policy/{name}" for name in ("facts", "judge", "pages", "stage"))
        files = ("settings/policy", "metrics/list_metrics", *parts)
        return self.run(
            "policy",
            work,
            self.config.policy.model_dump(),
            {
                "ranking": self.key("ranking"),
                "code": code_fingerprint("ranking", *(f"pipeline/{name}.py" for name in files)),
            },
        )

    def evaluate(self) -> StageResult:
        """Test split, once: retrieval beside its oracle, baselines and ablation; ranking beside the retrieval order."""
        section = self.config.evaluation

        def work(out: Path, checkpoints: Path) -> dict[str, Any]:
            from pipeline.evaluation.evaluate import evaluate_retrieval
            from pipeline.stages.ranking import evaluate_ranking_stage

            dataset, store = self.dataset(), self.store()
            variants = [
                path.name
                for path in sorted((self.folder / "served").iterdir())
                if read_manifest(path) and self._wanted(path.name)
            ]
            with progress_bar("evaluate") as progress:
                retrieval = evaluate_retrieval(
                    dataset, store, self.source, self.folder, variants, out, section, progress=progress
                )
                ranking = evaluate_ranking_stage(dataset, store, self.folder, out, self.config, progress)
            return {
                "retrieval": retrieval["test"],
                "ranking": {key: value for key, value in ranking.items() if isinstance(value, int | float)},
            }

        inputs = {
            "ranking": self.key("ranking"),
            "served": self.key("served/full"),
            "policy": self.key("policy"),
            "code": code_fingerprint("pipeline"),
        }
        return self.run(
            "evaluate", work, {**section.model_dump(), "ablations": self.config.retrieval.ablations}, inputs
        )

    def export(self) -> StageResult:
        """Everything that serves -> one release under one fingerprint in `releases/<version>`."""

        def work(out: Path, checkpoints: Path) -> dict[str, Any]:
            from pipeline.release.export_stage import export_stage

            return export_stage(self.dataset(), self.folder, self.config, store=self.store(), search=True)

        inputs = {
            "search": self.key("search"),
            "ranking": self.key("ranking"),
            "policy": self.key("policy"),
            "index": self.key("index"),
            "code": code_fingerprint("serving", "ranking"),
        }
        kept = {"precision": self.config.serving.precision, "prune": self.config.serving.prune}
        return self.run("export", work, kept, inputs)

    def report(self) -> dict[str, Any]:
        """`report.json` and `report.html` out of what the stages left; cheap, so never skipped."""
        from pipeline.report.page import write_report

        content = write_report(self.folder, self.source)
        self.say(f"[report] {self.folder / 'report.json'} and {self.folder / 'report.html'}")
        return content

    def all(self) -> dict[str, Any]:
        """The whole walk; what it was made from stays in the folder, for `python -m pipeline reproduce`."""
        check_tracking(self.config.tracking)
        record = made_from(self.source, read_made_from(self.folder))
        self.ingest()
        self.check_policy()
        if self.config.enrich.enabled:
            self.enrich()
        self.encode()
        self.finetune()
        self.train_retrieval()
        self.train_linear()
        self.train_search()
        self.index()
        self.train_ranking()
        self.choose_policy()
        self.evaluate()
        self.export()
        write_made_from(self.folder, self.config, record)
        content = self.report()
        track(self.folder, self.config, content, self.say)
        return content

    def _wanted(self, variant: str) -> bool:
        return not variant.startswith("without_") or self.config.retrieval.ablations
