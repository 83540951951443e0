"""Settings of the two towers and of their training."""

from __future__ import annotations

import pydantic

from pipeline.side_losses_config import SideLossesConfig
from pipeline.towers_config import TowersSection
from pipeline.training_config import TrainingSection


class RetrievalConfig(TowersSection, TrainingSection):
    width: int = pydantic.Field(64, ge=2)
    history_length: int = pydantic.Field(40, ge=1)
    content_rank: int = pydantic.Field(0, ge=0)
    """Leading whitened components of each modality's vectors that the item tower sees; 0 = one for every 40 items. A
    modality that has no more columns than that keeps them as they are."""
    id_dropout: float = pydantic.Field(0.3, ge=0, lt=1)
    modality_dropout: float = pydantic.Field(0.2, ge=0, lt=1)
    user_id: bool = True
    user_id_dropout: float = pydantic.Field(0.8, ge=0, lt=1)
    dropout: float = pydantic.Field(0.3, ge=0, lt=1)
    temperature: float = pydantic.Field(0.1, gt=0)
    batch_size: int = pydantic.Field(1024, ge=2)
    learning_rate: float = pydantic.Field(2e-3, gt=0)
    weight_decay: float = pydantic.Field(1e-4, ge=0)
    epochs: int = pydantic.Field(20, ge=1)
    patience: int = pydantic.Field(3, ge=1)
    """Stop after this many epochs without a better validation NDCG@20; the best epoch's weights are kept."""
    validation_users: int = pydantic.Field(2000, ge=1)
    ablations: bool = True
    """Also train once without each modality, for the ablation in the report."""
    seed: int = 7
    side: SideLossesConfig = SideLossesConfig()
    """Terms beside the main loss."""
