"""The walk: every stage in order, what it reads, what it writes, and why it may be skipped."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from data.dataset import Dataset
from data.features import FeatureStore
from data.ingest import IngestOptions, ingest
from data.schema import MODALITIES
from pipeline.config import Config
from pipeline.progress import progress_bar
from pipeline.stage import StageError, StageResult, code_fingerprint, folder_fingerprint, read_manifest, run_stage


@dataclasses.dataclass(frozen=True)
class Run:
    """One run folder, the dataset folder it is made from, and the settings.

    Every method is one stage: it returns at once when its config, its code and its inputs are what they were. A stage
    that
    needs an earlier one says so rather than running it, except in `all`, which walks them in order.

    Attributes:
        source: dataset folder. folder: where the stages write. config: settings. say: where lines of progress go.
    """

    source: Path
    folder: Path
    config: Config
    say: Callable[[str], None] = print

    def ingest(self) -> StageResult:
        """Dataset folder -> validated, numbered, split events; bad rows in quarantine."""
        section = self.config.data

        def work(out: Path, checkpoints: Path) -> dict[str, Any]:
            options = IngestOptions(**section.model_dump())
            dataset = ingest(self.source, out, options)
            if dataset.folder is None:
                dataset = Dataset.load(out)
            return {
                "users": dataset.schema.user_rows - 1,
                "items": dataset.schema.item_rows - 1,
                "events": len(dataset.events),
                "quarantined": quarantined(out),
            }

        return self._run(
            "ingest",
            work,
            section.model_dump(),
            {"source": folder_fingerprint(self.source), "code": code_fingerprint("data")},
        )

    def encode(self) -> StageResult:
        """Media and texts -> one vector an item and modality."""
        from towers.encoders import resolve_spec

        section = self.config.encoders
        # What `auto` means depends on what is installed, so the answer, not the question, belongs to the stage's key.
        specs = {name: resolve_spec(name, getattr(section, name)) for name in MODALITIES}

        def work(out: Path, checkpoints: Path) -> dict[str, Any]:
            from pipeline.encode import encode

            with progress_bar("encode") as progress:
                store = encode(
                    self.source, self.dataset(), out, specs, batch_size=section.batch_size, progress=progress
                )
            return {"widths": store.widths, **store.info}

        return self._run(
            "encode",
            work,
            {**section.model_dump(), **specs},
            {"ingest": self._key("ingest"), "code": code_fingerprint("data", "towers", "pipeline/encode.py")},
        )

    def train_retrieval(self) -> list[StageResult]:
        """Both towers, once in full and once for every comparison the report makes."""
        modalities = self.store().modalities
        variants = {"full": modalities, "ids_only": ()}
        if self.config.retrieval.ablations and len(modalities) > 1:
            variants |= {
                f"without_{name}": tuple(other for other in modalities if other != name) for name in modalities
            }
        return [self._train_variant(name, chosen) for name, chosen in variants.items()]

    def _train_variant(self, name: str, modalities: tuple[str, ...]) -> StageResult:
        section = self.config.retrieval

        def work(out: Path, checkpoints: Path) -> dict[str, Any]:
            from pipeline.train_retrieval import train_retrieval

            with progress_bar(f"retrieval/{name}") as progress:
                return train_retrieval(
                    self.dataset(), self.store(), out, checkpoints, section, modalities=modalities, progress=progress
                )

        settings = {**section.model_dump(exclude={"ablations"}), "modalities": modalities}
        return self._run(
            f"retrieval/{name}",
            work,
            settings,
            {
                "encode": self._key("encode"),
                "ingest": self._key("ingest"),
                "code": code_fingerprint(
                    "towers", "data/batches.py", "data/histories.py", "pipeline/train_retrieval.py"
                ),
            },
        )

    def index(self) -> StageResult:
        """Item embeddings -> the exact and the approximate index, with what approximation costs measured."""
        section = self.config.index

        def work(out: Path, checkpoints: Path) -> dict[str, Any]:
            from pipeline.examples import make_requests
            from pipeline.queries import embed_queries
            from serving.index_build import build_indexes
            from towers.two_tower import load_two_tower

            dataset, folder = self.dataset(), self.folder / "retrieval" / "full"
            two_tower, items = load_two_tower(folder), np.load(folder / "item_embeddings.npy")
            requests = make_requests(
                dataset, "valid", known_splits=("train",), history_length=two_tower.config.history_length
            )
            requests = requests.take(np.arange(min(section.queries, len(requests.users))))
            queries = embed_queries(two_tower, items, dataset.profile, requests.users, requests.history)
            kinds = ("exact",) if section.kind == "exact" else ("exact", "scann")
            report = build_indexes(items, queries, out, kinds, recall_floor=section.recall_floor)
            return {key: value for key, value in report.items() if key != "trade_off"}

        return self._run(
            "index",
            work,
            section.model_dump(),
            {"retrieval": self._key("retrieval/full"), "code": code_fingerprint("serving")},
        )

    def train_ranking(self) -> StageResult:
        """Impressions and candidates of the built index -> calibrated probabilities of click and purchase."""
        section = self.config.ranking

        def work(out: Path, checkpoints: Path) -> dict[str, Any]:
            from pipeline.ranking_stage import train_ranking_stage

            with progress_bar("ranking") as progress:
                return train_ranking_stage(
                    self.dataset(), self.store(), self.folder, out, checkpoints, self.config, progress
                )

        return self._run(
            "ranking",
            work,
            section.model_dump(),
            {
                "index": self._key("index"),
                "code": code_fingerprint(
                    "ranking", "pipeline/train_ranking.py", "pipeline/ranker_setup.py", "pipeline/ranking_lists.py"
                ),
            },
        )

    def evaluate(self) -> StageResult:
        """Test split, once: retrieval beside its oracle, baselines and ablation; ranking beside the retrieval order."""
        section = self.config.evaluation

        def work(out: Path, checkpoints: Path) -> dict[str, Any]:
            from pipeline.evaluate import evaluate_retrieval
            from pipeline.ranking_stage import evaluate_ranking_stage

            dataset, store = self.dataset(), self.store()
            variants = {
                path.name: path
                for path in sorted((self.folder / "retrieval").iterdir())
                if read_manifest(path) and self._wanted(path.name)
            }
            with progress_bar("evaluate") as progress:
                retrieval = evaluate_retrieval(dataset, store, self.source, variants, out, section, progress=progress)
                ranking = evaluate_ranking_stage(dataset, self.folder, out, self.config, progress)
            return {
                "retrieval": retrieval["test"],
                "ranking": {key: value for key, value in ranking.items() if isinstance(value, int | float)},
            }

        inputs = {
            "ranking": self._key("ranking"),
            "retrieval": self._key("retrieval/full"),
            "code": code_fingerprint("pipeline"),
        }
        return self._run(
            "evaluate", work, {**section.model_dump(), "ablations": self.config.retrieval.ablations}, inputs
        )

    def export(self) -> StageResult:
        """Everything that serves -> one release under one fingerprint in `releases/<version>`."""

        def work(out: Path, checkpoints: Path) -> dict[str, Any]:
            from pipeline.export_stage import export_stage

            return export_stage(self.dataset(), self.folder, self.config)

        inputs = {
            "ranking": self._key("ranking"),
            "index": self._key("index"),
            "code": code_fingerprint("serving", "ranking"),
        }
        return self._run("export", work, self.config.evaluation.model_dump(), inputs)

    def report(self) -> dict[str, Any]:
        """`report.json` and `report.html` out of what the stages left; cheap, so never skipped."""
        from pipeline.report import write_report

        content = write_report(self.folder, self.source)
        self.say(f"[report] {self.folder / 'report.json'} and {self.folder / 'report.html'}")
        return content

    def all(self) -> dict[str, Any]:
        """The whole walk."""
        self.ingest()
        self.encode()
        self.train_retrieval()
        self.index()
        self.train_ranking()
        self.evaluate()
        self.export()
        return self.report()

    def dataset(self) -> Dataset:
        self._key("ingest")
        return Dataset.load(self.folder / "ingest")

    def store(self) -> FeatureStore:
        self._key("encode")
        return FeatureStore.open(self.folder / "encode")

    def _wanted(self, variant: str) -> bool:
        return not variant.startswith("without_") or self.config.retrieval.ablations

    def _key(self, stage: str) -> str:
        manifest = read_manifest(self.folder / stage)
        if manifest is None:
            command = {"retrieval/full": "train-retrieval", "ranking": "train-ranking"}.get(stage, stage)
            raise StageError(
                f"{self.folder / stage} is not there yet: run `python -m pipeline {command}` first, or `python -m "
                f"pipeline run` for every stage."
            )
        return manifest["key"]

    def _run(
        self, name: str, work: Callable[[Path, Path], dict[str, Any]], config: dict[str, Any], inputs: dict[str, str]
    ) -> StageResult:
        return run_stage(self.folder, name, work, config=config, inputs=inputs, say=self.say)


def quarantined(ingested: Path) -> int:
    """Rows and cells that ingestion set aside."""
    import pyarrow.parquet as pq

    return pq.read_metadata(ingested / "quarantine.parquet").num_rows
