"""The words every room shares: modalities, event kinds, split codes, and the sizes a model is built from.

`id` is the outside name (a string), `row` is the inside number. Row 0 is reserved for unknown and absent in every
vocabulary, so a table for N things has N + 1 rows and an unknown id is never an error.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

MODALITIES = ("text", "image", "audio", "video")
"""The content modalities in their one order; axis M of every `present` mask follows it."""

UNKNOWN_ROW = 0

TRAIN, VALID, TEST = 0, 1, 2
SPLIT_CODES = {"train": TRAIN, "valid": VALID, "test": TEST}

EVENT_KINDS = (
    "view",
    "click",
    "like",
    "purchase",
    "skip",
    "rating",
    "interaction",
    "watch",
    "listen",
    "share",
    "dislike",
)
EVENT_CODES = {kind: code for code, kind in enumerate(EVENT_KINDS)}
DEFAULT_EVENT = "interaction"
"""What an event without an `event` column is called."""

NEGATIVE_EVENTS = frozenset({"skip", "dislike"})
PURCHASE_EVENTS = frozenset({"purchase"})


@dataclasses.dataclass(frozen=True)
class Schema:
    """Sizes of an ingested dataset: everything needed to build the models before any data is read.

    Attributes:
        user_rows: number of user rows, row 0 included.
        item_rows: number of item rows (N + 1), row 0 included.
        profile: cardinality of each user profile column (code 0 = unknown), in the column order of axis P.
        attributes: cardinality of each item attribute column (code 0 = unknown), in the column order of axis A.
        context: cardinality of each context column of the events (code 0 = unknown), in the column order of axis C.
        modalities: width F_m of each modality in the feature store; empty until the encode stage ran.
        frames: of the modalities whose vectors are T frames side by side (video), T; F_m is a multiple of it.
        has_timestamps: whether histories have an order.

    Example:
        >>> schema = Schema(user_rows=3, item_rows=5, profile={"age": 4}, attributes={}, modalities={"text": 384})
        >>> Schema.from_json(schema.to_json()) == schema
        True
    """

    user_rows: int
    item_rows: int
    profile: dict[str, int] = dataclasses.field(default_factory=dict)
    attributes: dict[str, int] = dataclasses.field(default_factory=dict)
    modalities: dict[str, int] = dataclasses.field(default_factory=dict)
    frames: dict[str, int] = dataclasses.field(default_factory=dict)
    has_timestamps: bool = True
    context: dict[str, int] = dataclasses.field(default_factory=dict)

    def with_modalities(self, widths: dict[str, int], frames: dict[str, int] | None = None) -> Schema:
        """The same schema with the feature store's widths, in the order of `MODALITIES`, and its frames."""
        unknown = set(widths) - set(MODALITIES)
        if unknown:
            raise ValueError(f"widths: modalities must be among {MODALITIES}, received {sorted(unknown)}")
        modalities = {name: int(widths[name]) for name in MODALITIES if name in widths}
        parts = {name: int(count) for name, count in (frames or {}).items() if name in modalities}
        for name, count in parts.items():
            if count < 1 or modalities[name] % count:
                raise ValueError(f"frames: must divide the width {modalities[name]} of {name}, received {count}")
        return dataclasses.replace(self, modalities=modalities, frames=parts)

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=2)

    @classmethod
    def from_json(cls, text: str) -> Schema:
        return cls(**json.loads(text))

    @classmethod
    def load(cls, path: str | Path) -> Schema:
        return cls.from_json(Path(path).read_text())
