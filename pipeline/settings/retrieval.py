"""Settings of the two towers and of their training."""

from __future__ import annotations

from typing import Literal

import pydantic

from pipeline.settings.loss import LossConfig
from pipeline.settings.privacy import PrivacySection
from pipeline.settings.side_losses import SideLossesConfig
from pipeline.settings.towers import TowersSection
from pipeline.settings.training import TrainingSection


class RetrievalConfig(TowersSection, TrainingSection):
    width: int = pydantic.Field(64, ge=2)
    history_length: int = pydantic.Field(40, ge=1)
    content_rank: int = pydantic.Field(0, ge=0)
    """Leading whitened components of each modality's vectors that the item tower sees; 0 = one for every 40 items. A
    modality that has no more columns than that keeps them as they are."""
    id_dropout: float = pydantic.Field(0.3, ge=0, lt=1)
    modality_dropout: float = pydantic.Field(0.2, ge=0, lt=1)
    item_id: bool = True
    """Whether an item has a vector of its own beside its content; without one, new items and known ones are alike."""
    user_id: bool = True
    user_id_dropout: float = pydantic.Field(0.8, ge=0, lt=1)
    dropout: float = pydantic.Field(0.3, ge=0, lt=1)
    temperature: float = pydantic.Field(0.1, ge=0.01)
    """Of the softmax, at the start; learned from there where `loss.learn_temperature` is on, and never below .01."""
    batch_size: int = pydantic.Field(1024, ge=2)
    optimizer: Literal["adamw", "adagrad"] = "adamw"
    """Adagrad is what tables of ids alone are often trained by; its rates are larger, .05 to .2."""
    learning_rate: float = pydantic.Field(2e-3, gt=0)
    weight_decay: float = pydantic.Field(1e-4, ge=0)
    epochs: int = pydantic.Field(20, ge=1)
    patience: int = pydantic.Field(3, ge=1)
    """Stop after this many epochs without a better validation NDCG@20; the best epoch's weights are kept."""
    validation_users: int = pydantic.Field(2000, ge=1)
    ablations: bool = True
    """Also train once without each modality, for the ablation in the report."""
    sparse_updates: bool | Literal["auto"] = "auto"
    """Train the tables of user and item ids by the rows that a batch names, so that a step costs the same for any number
    of users: lazy Adam. "auto" = tables of 50,000 rows and more."""
    seed: int = pydantic.Field(7, ge=0)
    loss: LossConfig = LossConfig()
    """The main loss."""
    side: SideLossesConfig = SideLossesConfig()
    """Terms beside the main loss."""
    privacy: PrivacySection = PrivacySection()
    """Differential privacy for every user; off by default."""
    distill_ranker: str = ""
    """Folder of a finished run made earlier, whose ranker teaches the towers to order a user's candidates as it does, with
    the weight `side.ranker`. It is refused if it has seen the validation or test events."""

    @pydantic.model_validator(mode="after")
    def _ranker_and_weight(self) -> RetrievalConfig:
        if bool(self.distill_ranker) != bool(self.side.ranker):
            raise ValueError(
                "distill_ranker, side.ranker: a run and its weight go together, received "
                f"{self.distill_ranker!r} and {self.side.ranker}; set both or neither"
            )
        return self

    @pydantic.model_validator(mode="after")
    def _sizes_go_together(self) -> RetrievalConfig:
        transformer = self.history == "transformer" or self.fusion == "bottleneck"
        if transformer and self.width % self.attention_heads:
            raise ValueError(
                f"attention_heads: must divide the width {self.width} of a transformer, received {self.attention_heads}"
            )
        self.loss.options().check_memory(self.batch_size)
        self.sparse_updates_now  # noqa: B018 - raises
        return self

    @property
    def needs_kinds(self) -> bool:
        """Whether training asks for the kinds of events."""
        return self.history == "transformer" or bool(self.loss.event_weights)

    @property
    def sparse_updates_now(self) -> bool | Literal["auto"]:
        """`sparse_updates` beside the other settings: gradients and averages kept over batches are those of whole tables.

        Raises:
            ValueError: true, together with accumulation, an average of the weights or a ranker's lists, whose items are
                none of the batch's.
        """
        if self.accumulation == 1 and not self.average_decay and not self.distill_ranker:
            return self.sparse_updates
        if self.sparse_updates is True:
            raise ValueError(
                "retrieval.sparse_updates: true needs accumulation 1, average_decay 0 and no distill_ranker, received "
                f"{self.accumulation}, {self.average_decay} and {self.distill_ranker!r}; choose one or the other"
            )
        return False
