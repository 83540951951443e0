"""What every section of the settings is: frozen, strict, without unknown keys."""

from __future__ import annotations

import pydantic


class Section(pydantic.BaseModel):
    """Base of every section; a field's docstring is its help."""

    model_config = pydantic.ConfigDict(frozen=True, strict=True, extra="forbid", use_attribute_docstrings=True)
