"""The stages from files to vectors: ingest, enrich, encode, and encoders that learn."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.dataset import Dataset
from data.ingest import IngestOptions, ingest
from data.pseudonyms import Pseudonyms
from data.validation import DatasetError
from pipeline.progress import progress_bar
from pipeline.settings.config import ConfigError
from pipeline.stage import StageResult, code_fingerprint, folder_fingerprint
from pipeline.stages.run_folder import RunFolder

if TYPE_CHECKING:
    from pipeline.content.encode_beside import Helper

ENCODE_CODE = (
    "data/features.py",
    "data/half_precision.py",
    "data/ready_vectors.py",
    "data/enrichment.py",
    "pipeline/content/encode.py",
    "pipeline/content/encode_part.py",
    "pipeline/content/encode_plan.py",
    *(f"data/{name}_decoder.py" for name in ("image", "audio", "midi", "video")),
)


class ContentStages(RunFolder):
    """What becomes of events, texts and media before any tower sees them."""

    def ingest(self) -> StageResult:
        """Dataset folder -> validated, numbered, split events; bad rows in quarantine."""
        section = self.config.data
        salt = {"pseudonyms": pseudonyms.fingerprint} if (pseudonyms := self.pseudonyms()) else {}

        def work(out: Path, checkpoints: Path) -> dict[str, Any]:
            options = IngestOptions(**section.model_dump())
            dataset = ingest(self.source, out, options)
            if dataset.folder is None:
                dataset = Dataset.load(out)
            return ingest_counts(dataset, out)

        return self.run(
            "ingest",
            work,
            section.model_dump(),
            {"source": folder_fingerprint(self.source), "code": code_fingerprint("data"), **salt},
        )

    def check_policy(self) -> None:
        """Refuses a policy that names what the ingested data does not have.

        Raises:
            ConfigError: says which setting, and what there is.
        """
        section = self.config.policy
        if section.protected in ("rare", "new") and not section.user_groups:
            return  # these are of any data
        from pipeline.policy.facts import check_policy

        try:
            check_policy(self.dataset(), section)
        except ValueError as error:
            raise ConfigError(str(error)) from error

    def pseudonyms(self) -> Pseudonyms | None:
        """What this run calls users, if not by their ids.

        Raises:
            DatasetError: the salt cannot be read, or lies where it would be handed on with the data.
        """
        if not (file := self.config.data.pseudonym_salt_file):
            return None
        for folder in (self.source, self.folder):
            if Path(file).resolve().is_relative_to(folder.resolve()):
                raise DatasetError(f"data.pseudonym_salt_file: must lie outside dataset and run, received {file}. Move it.")
        return Pseudonyms.from_file(file)

    def enrich(self) -> StageResult:
        """Items with little text of their own -> captions, summaries and attributes by a language model, kept apart."""
        from pipeline.content.enrich_writer import ItemWriter

        section = self.config.enrich

        def work(out: Path, checkpoints: Path) -> dict[str, Any]:
            from pipeline.content.enrich import enrich

            with progress_bar("enrich") as progress:
                cache = self.beside(section.cache, "enrich-cache")
                return enrich(self.source, self.dataset(), out, section, cache, progress)

        code = (
            "pipeline/content/enrich.py",
            "pipeline/content/enrich_prompt.py",
            "pipeline/content/enrich_writer.py",
            "data/enrichment.py",
        )
        return self.run(
            "enrich",
            work,
            {**section.deciding(), "writer": ItemWriter(section).fingerprint},
            {
                "ingest": self.key("ingest"),
                "code": code_fingerprint(*code, "data/cleaning.py", "data/image_decoder.py"),
            },
        )

    def texts(self) -> Dataset:
        """The ingested data, with what a language model wrote beside the items' own text where that is wanted."""
        dataset, section = self.dataset(), self.config.enrich
        if not (section.enabled and section.use):
            return dataset
        from data.enrichment import read_generated, with_generated

        self.key("enrich")
        return dataclasses.replace(dataset, items=with_generated(dataset.items, read_generated(self.folder / "enrich")))

    def encode(self) -> StageResult:
        """Media and texts -> one vector an item and modality; what the content store knows is not encoded again."""
        return self._encode("encode", self.config.encoders.specs(), {"ingest": self.key("ingest")})

    def _encode(self, name: str, wanted: dict[str, str], inputs: dict[str, str]) -> StageResult:
        from towers.encoders import describe_encoder, resolve_spec

        section, enriched = self.config.encoders, self.config.enrich
        # What `auto` means depends on what is installed, so the answer, not the question, belongs to the stage's key;
        # the fingerprint stands for weights and preprocessing, the engine and its workers change no byte.
        specs = {modality: resolve_spec(modality, spec) for modality, spec in wanted.items()}
        cards = {modality: describe_encoder(modality, spec) for modality, spec in specs.items()}
        encoders = {name: f"{card.name} {card.fingerprint}" if card else "none" for name, card in cards.items()}
        if enriched.enabled and enriched.use:
            inputs = {**inputs, "enrich": self.key("enrich")}

        def work(out: Path, checkpoints: Path) -> dict[str, Any]:
            from pipeline.content.encode import encode
            from pipeline.content.store_encoders import content_store

            with progress_bar(name, single=True) as progress:
                store = encode(
                    self.source,
                    self.texts(),
                    out,
                    specs,
                    content_store(section, self.folder),
                    batch_size=section.batch_size,
                    workers=section.workers,
                    engine=section.engine,
                    progress=progress,
                    helper=self.encode_helper(),
                )
            return {"widths": store.widths, **store.info}

        settings = {"encoders": encoders, "batch_size": section.batch_size}
        return self.run(name, work, settings, {**inputs, "code": code_fingerprint(*ENCODE_CODE)})

    def encode_helper(self) -> Helper | None:
        """A process that encodes beside this one; a nightly job has one."""
        return None

    def finetune(self) -> list[StageResult]:
        """Encoders learn inside the item tower, and the features are filled again by the tuned ones."""
        section = self.config.encoders
        if not section.trained():
            return []

        def tune(out: Path, checkpoints: Path) -> dict[str, Any]:
            from data.features import FeatureStore
            from pipeline.content.store_encoders import content_store, weights_folder
            from pipeline.retrieval.finetune import finetune

            store = FeatureStore.open(self.folder / "encode")
            with progress_bar("finetune") as progress:
                return finetune(
                    self.texts(),
                    store,
                    self.source,
                    out,
                    checkpoints,
                    self.config,
                    progress=progress,
                    tower_epochs=section.finetune.tower_epochs,
                    weights=weights_folder(content_store(section, self.folder)),
                )

        code = (
            "data/batches.py",
            "data/histories.py",
            "pipeline/content/encode_plan.py",
            "pipeline/retrieval/finetune.py",
            "pipeline/retrieval/finetune_batches.py",
            "pipeline/retrieval/finetune_loop.py",
            "pipeline/retrieval/train_retrieval.py",
        )
        settings = {
            "encoders": section.model_dump(include={"finetune", *section.trained()}),
            "retrieval": self.config.retrieval.model_dump(exclude={"ablations"}),
        }
        tuned = self.run(
            "finetune", tune, settings, {"encode": self.key("encode"), "code": code_fingerprint("towers", *code)}
        )
        specs = {name: f"tuned:{self.folder / 'finetune' / name}" for name in section.trained()}
        return [tuned, self._encode("encode_tuned", {**section.specs(), **specs}, {"finetune": self.key("finetune")})]


def ingest_counts(dataset: Dataset, ingested: Path) -> dict[str, int]:
    """What the manifest of an ingestion says: users, items, events, and rows and cells that were set aside."""
    import pyarrow.parquet as pq

    return {
        "users": dataset.schema.user_rows - 1,
        "items": dataset.schema.item_rows - 1,
        "events": len(dataset.events),
        "quarantined": pq.read_metadata(ingested / "quarantine.parquet").num_rows,
    }
