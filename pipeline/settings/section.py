"""What every section of the settings is: frozen, strict, without unknown keys."""

from __future__ import annotations

import pydantic


class Section(pydantic.BaseModel):
    """Base of every section; a docstring below a field is for readers of the source."""

    model_config = pydantic.ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)
