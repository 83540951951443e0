"""Settings of how the towers are trained; the defaults add nothing to plain steps in float32."""

from __future__ import annotations

from typing import Literal

import pydantic

from pipeline.settings.section import Section


class TrainingSection(Section):
    """The part of `[retrieval]` that says how a step and the loop around it work."""

    warmup_steps: int = pydantic.Field(200, ge=0)
    """Steps in which the learning rate rises from zero; a tenth of all steps at most."""
    final_rate: float = pydantic.Field(0.02, ge=0, le=1)
    """The share of the learning rate that the cosine ends at."""
    accumulation: int = pydantic.Field(1, ge=1)
    """Batches whose gradients are averaged before the weights move; negatives still come from one batch."""
    average_decay: float = pydantic.Field(0.0, ge=0, lt=1)
    """Keep a moving average of the weights, `a <- decay a + (1 - decay) w` whenever they move, and judge and export it; 0 =
    none. It costs a pass over every weight, tables of embeddings included."""
    accelerator: Literal["auto", "cpu", "gpu", "tpu"] = "auto"
    """What the towers train on: all devices of the kind, with the negatives of the whole batch on each. "auto" = the
    fastest kind that is there."""
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "float32"
    """What the towers' layers compute in; weights, normalisation and loss stay in float32, and so does what is exported.
    Worth it on an accelerator, not on a CPU; "auto" = bfloat16 on a TPU or a GPU that multiplies it, else float32."""
    checkpoint_seconds: float = pydantic.Field(600.0, ge=0)
    """Save after so many seconds inside an epoch, beside its end; 0 = only there."""
    checkpoint_steps: int = pydantic.Field(0, ge=0)
    """Save after every so many steps inside an epoch; 0 = by the clock alone."""
