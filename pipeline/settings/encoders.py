"""Settings of the content encoders: which one reads each modality, whether it learns, and where its vectors are kept."""

from __future__ import annotations

from typing import Any, Literal

import pydantic

from pipeline.settings.section import Section

RATES = {"lora": 2e-3, "last_k": 2e-4, "full": 5e-5}
"""Learning rates of encoders: adapters start from nothing and may move fast, pretrained weights may not."""


class EncoderSection(Section):
    """One modality's encoder. A bare string is short for its `spec`: `text = "signal:"`."""

    spec: str = "auto"
    """`auto`, `none`, `signal:`, `pack:<name>`, `keras_hub:<preset or folder>` or `hub:<handle or folder>`; `a+b` joins two,
    `noised:<sigma>x<views>:<file of a secret>:<spec>` pools one over noisy views, against pixels changed to deceive."""
    train: Literal["frozen", "lora", "last_k", "full"] = "frozen"
    """What learns with the towers: nothing, low-rank adapters, the last k blocks, or all of it."""
    lora_rank: int = pydantic.Field(8, ge=1)
    last_k: int = pydantic.Field(2, ge=1)
    learning_rate: float | None = pydantic.Field(None, gt=0)
    """Of the encoder; the towers keep `retrieval.learning_rate`. None = what suits `train`, see `RATES`."""

    @property
    def rate(self) -> float:
        """The encoder's learning rate."""
        return RATES.get(self.train, 0.0) if self.learning_rate is None else self.learning_rate

    @pydantic.model_validator(mode="before")
    @classmethod
    def _from_string(cls, value: Any) -> Any:
        return {"spec": value} if isinstance(value, str) else value


class FinetuneSection(Section):
    """How encoders learn inside the item tower, where `train` of one of them is not `frozen`."""

    tower_epochs: int = pydantic.Field(3, ge=1)
    """Epochs of the towers alone before the encoders join: untrained towers would lead them astray."""
    epochs: int = pydantic.Field(2, ge=1)
    items_per_step: int = pydantic.Field(32, ge=1)
    """Items of a batch that go through the encoder with a gradient; the others keep the vector they had."""
    accumulation: int = pydantic.Field(1, ge=1)
    """Steps whose gradients are added up before the weights move."""
    warmup_steps: int = pydantic.Field(50, ge=0)
    mixed_precision: bool = False
    """Compute in bfloat16; a gain on accelerators, not on most CPUs."""
    text_tokens: int = pydantic.Field(64, ge=8)


class EncodersConfig(Section):
    """`[encoders]`: one section a modality, and how the encode stage works."""

    text: EncoderSection = EncoderSection()
    image: EncoderSection = EncoderSection()
    audio: EncoderSection = EncoderSection()
    video: EncoderSection = EncoderSection()
    batch_size: int = pydantic.Field(64, ge=1)
    workers: int = pydantic.Field(2, ge=1)
    """Processes that decode media while the encoder runs (local), or actors that decode and encode (ray)."""
    engine: Literal["local", "ray"] = "local"
    """`ray` spreads encoding over a cluster; see requirements-scale.txt."""
    store: str = ""
    """Folder of the content-addressed feature store, shared by runs; empty = `feature-store` beside the run folder."""
    finetune: FinetuneSection = FinetuneSection()

    def specs(self) -> dict[str, str]:
        """Spec of each modality, in their order."""
        return {name: getattr(self, name).spec for name in ("text", "image", "audio", "video")}

    def trained(self) -> dict[str, EncoderSection]:
        """The modalities whose encoder learns."""
        sections = {name: getattr(self, name) for name in ("text", "image", "audio", "video")}
        return {name: section for name, section in sections.items() if section.train != "frozen"}
