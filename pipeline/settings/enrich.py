"""Settings of enrichment: which language model writes about which items, what it is asked, and how much it may say."""

from __future__ import annotations

from typing import Any, Literal

import pydantic

from data.enrichment import FIELDS
from pipeline.settings.section import Section

LIKE_RESULT = ("use", "cache", "batch_size", "enabled")
"""Settings that change nothing of what is written."""


class EnrichPrompts(Section):
    """What the model is asked, field by field; empty = the wording that fits the model's family.

    `{keys}` in the wording for attributes stands for `attribute_keys`. The item itself is put behind by the stage.
    """

    caption: str = pydantic.Field("", max_length=2000)
    summary: str = pydantic.Field("", max_length=2000)
    attributes: str = pydantic.Field("", max_length=2000)


class EnrichSection(Section):
    """`[enrich]`: an optional stage before `encode` that writes about items whose own text is weak."""

    enabled: bool = False
    """Run the stage."""
    use: bool = True
    """Let `encode` append what was written to the items' text; off = write it and leave it out, for comparison."""
    preset: str = "gemma3_instruct_1b"
    """A causal language model of keras-hub, a vision-language one (`gemma3_instruct_4b`, `pali_gemma2_mix_3b_224`) to
    read pictures too, or a folder with either."""
    fields: tuple[Literal["caption", "summary", "attributes"], ...] = ("caption", "summary", "attributes")
    prompts: EnrichPrompts = EnrichPrompts()
    style: Literal["auto", "plain", "gemma", "chatml", "llama3", "phi3", "pali_gemma"] = "auto"
    """How the model's family wants to be spoken to; `auto` = by what the preset holds."""
    attribute_keys: tuple[str, ...] = ("genre", "mood", "colour", "material", "style", "use", "audience")
    """Attributes that may be written; any other name is dropped."""
    min_characters: int = pydantic.Field(80, ge=0)
    """Items whose own text is shorter are written about."""
    item_characters: int = pydantic.Field(600, ge=50)
    """Characters of each of an item's own texts that the model reads."""
    prompt_tokens: int = pydantic.Field(512, ge=32)
    max_new_tokens: int = pydantic.Field(64, ge=1)
    max_characters: int = pydantic.Field(300, ge=10)
    """Of one field; what is longer is cut."""
    images: bool = True
    """Show the item's picture to a model that takes pictures."""
    sampler: Literal["greedy", "top_k", "top_p"] = "greedy"
    """Greedy is reproducible whatever shares the batch."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Of the model's weights; halves need half the memory."""
    batch_size: int = pydantic.Field(8, ge=1)
    seed: int = pydantic.Field(7, ge=0)
    cache: str = ""
    """Folder of what was written before, shared by runs; empty = `enrich-cache` beside the run folder."""

    @pydantic.model_validator(mode="after")
    def _usable(self) -> EnrichSection:
        if not self.fields or len(set(self.fields)) != len(self.fields):
            raise ValueError(f"fields must be at least one of {FIELDS}, each once")
        for key in self.attribute_keys:
            if not key.strip() or len(key) > 40 or set(key) & set(":=;\n<>{}"):
                raise ValueError(f"attribute_keys must be plain names of at most 40 characters, received {key!r}")
        return self

    def deciding(self) -> dict[str, Any]:
        """The settings that decide what is written: what belongs into the stage's key."""
        return self.model_dump(exclude=set(LIKE_RESULT))
