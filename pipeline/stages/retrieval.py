"""The stages that train retrieval: two towers, linear towers beside them, what is served of both, and search by words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.progress import progress_bar
from pipeline.settings.side_losses import SideLossesConfig
from pipeline.stage import StageError, StageResult, code_fingerprint, folder_fingerprint, read_manifest
from pipeline.stages.content import ContentStages

TRAINING = ("checkpoint", "epoch_steps", "epochs", "feed", "fused_optimizers", "optimizer", "record")
LOOP = (
    *(f"data/{name}.py" for name in ("batches", "histories", "loss_columns")),
    *(f"pipeline/metrics/{name}.py" for name in ("examples", "interactions", "metrics", "top_k")),
    *(f"pipeline/training/{name}.py" for name in TRAINING),
)
"""Code that every training of towers runs through."""
DEVICES = (
    "training/accelerator",
    "training/accelerator_choice",
    "training/accelerator_jax",
    "training/accelerator_tensorflow",
    "training/replicated_task",
    "training/workers",
)
TAUGHT = ("retrieval/queries", "retrieval/side_losses", "ranker/ranker_teacher")
PRIVATE = ("training/private_task", "training/private_training", "training/privacy_budget")
TOWERS = (
    "data/item_labels.py",
    "data/private_batches.py",
    *(f"pipeline/{name}.py" for name in ("retrieval/train_retrieval", "training/tensorboard", *TAUGHT, *PRIVATE, *DEVICES)),
)
"""Code that trains the two towers."""
LINEAR_PARTS = (
    "metrics/segments",
    "retrieval/baselines",
    "retrieval/linear_stage",
    "retrieval/linear_closed_form",
    "retrieval/linear_parts",
    "retrieval/linear_judge",
    "retrieval/new_items",
    "retrieval/train_history",
    "retrieval/train_retrieval",
    "retrieval/training_matrix",
)
LINEAR = (
    *(f"data/{name}.py" for name in ("burst_weights", "history_batches", "item_traits")),
    *(f"pipeline/{name}.py" for name in LINEAR_PARTS),
)
"""Code that fits the linear towers."""
SERVED = (
    "pipeline/retrieval/served_stage.py",
    "pipeline/retrieval/new_items.py",
    "pipeline/retrieval/served.py",
    "towers/ensemble.py",
    "towers/content_map.py",
)
"""Source files that the key of the `served` stage covers."""


def teacher_keys(side: SideLossesConfig) -> dict[str, str]:
    """What tells a teacher from the next in the same folder: the key of the stage that trained it, or else its files' times.

    Raises:
        StageError: a teacher that is no folder.
    """
    keys = {}
    for folder in map(Path, side.teachers if side.distillation else ()):
        if not folder.is_dir():
            raise StageError(f"retrieval.side.teachers: must be folders of trained towers, received {folder}; train them first")
        manifest = read_manifest(folder)
        keys[f"teacher {folder}"] = folder_fingerprint(folder) if manifest is None else manifest["key"]
    return keys


class RetrievalStages(ContentStages):
    """From vectors and events to candidates and queries."""

    def train_retrieval(self) -> list[StageResult]:
        """Both towers, once in full and once for every comparison the report makes."""
        return [self._train_variant(name, chosen) for name, chosen in self._variants().items()]

    def _variants(self) -> dict[str, tuple[str, ...]]:
        """What is compared, and the content that each may see."""
        modalities = self.store().modalities
        variants: dict[str, tuple[str, ...]] = {"full": modalities}
        if self.config.retrieval.item_id:
            variants["ids_only"] = ()  # else it would know nothing of an item
        if self.config.retrieval.ablations and len(modalities) > 1:
            variants |= {
                f"without_{name}": tuple(other for other in modalities if other != name) for name in modalities
            }
        return variants

    def _train_variant(self, name: str, modalities: tuple[str, ...]) -> StageResult:
        section = self.config.retrieval

        def work(out: Path, checkpoints: Path) -> dict[str, Any]:
            from pipeline.retrieval.train_retrieval import train_retrieval

            with progress_bar(f"retrieval/{name}") as progress:
                return train_retrieval(
                    self.dataset(), self.store(), out, checkpoints, section, modalities=modalities, progress=progress
                )

        # How often training is saved changes no weight.
        left_out = {"ablations", "checkpoint_seconds", "checkpoint_steps"}
        settings = {**section.model_dump(exclude=left_out), "modalities": modalities}
        return self.run(
            f"retrieval/{name}",
            work,
            settings,
            {
                self.store_stage: self.key(self.store_stage),
                "ingest": self.key("ingest"),
                **self.keys_of(section.distill_ranker, "served/full", "ranking"),
                **teacher_keys(section.side),
                "code": code_fingerprint("towers", *LOOP, *TOWERS),
            },
        )

    def train_linear(self) -> list[StageResult]:
        """The linear towers over whole histories, and what is served: their sum with the two towers, where it helps."""
        results = []
        for name, modalities in self._variants().items():
            results += [self._fit_linear(name, modalities), self._build_served(name, modalities)]
        return results

    def _fit_linear(self, name: str, modalities: tuple[str, ...]) -> StageResult:
        section = self.config.linear
        splits = tuple(sorted({"train", *self.config.evaluation.mask_splits})) if section.refit else ("train",)

        def work(out: Path, checkpoints: Path) -> dict[str, Any]:
            from pipeline.retrieval.linear_stage import fit_linear

            with progress_bar(f"linear/{name}") as progress:
                return fit_linear(
                    self.dataset(),
                    self.store(),
                    out,
                    checkpoints,
                    section,
                    modalities=modalities,
                    progress=progress,
                    refit_splits=splits,
                )

        return self.run(
            f"linear/{name}",
            work,
            {**section.model_dump(), "modalities": modalities, "refit_splits": splits},
            {
                self.store_stage: self.key(self.store_stage),
                "ingest": self.key("ingest"),
                "code": code_fingerprint("towers", *LOOP, *LINEAR),
            },
        )

    def _build_served(self, name: str, modalities: tuple[str, ...]) -> StageResult:
        section = self.config.linear

        def work(out: Path, checkpoints: Path) -> dict[str, Any]:
            from pipeline.retrieval.served_stage import build_served

            trained, linear = self.folder / "retrieval" / name, self.folder / "linear" / name
            return build_served(self.dataset(), self.store(), trained, linear, out, section, modalities=modalities)

        return self.run(
            f"served/{name}",
            work,
            {"validation_users": section.validation_users, "seed": section.seed},
            {
                "retrieval": self.key(f"retrieval/{name}"),
                "linear": self.key(f"linear/{name}"),
                "code": code_fingerprint(*SERVED),
            },
        )

    def train_search(self) -> StageResult:
        """The catalogue's own words -> a tower from typed questions to items; says why where there is none to train."""
        section = self.config.search

        def work(out: Path, checkpoints: Path) -> dict[str, Any]:
            from pipeline.retrieval.search_stage import search_stage

            with progress_bar("search") as progress:
                return search_stage(
                    self.texts(),
                    self.store(),
                    self.folder,
                    out,
                    self.config.encoders,
                    section,
                    content_store=self.beside(self.config.encoders.store, "feature-store"),
                    progress=progress,
                )

        code = (
            "pipeline/retrieval/search_stage.py",
            "pipeline/retrieval/train_search.py",
            "pipeline/retrieval/search_questions.py",
        )
        return self.run(
            "search",
            work,
            section.model_dump(),
            {
                "served": self.key("served/full"),
                self.store_stage: self.key(self.store_stage),
                "code": code_fingerprint("towers/search.py", *code),
            },
        )
