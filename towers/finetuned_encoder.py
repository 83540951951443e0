"""`tuned:<folder>`: an encoder as fine-tuning left it, with a name and a fingerprint of its own."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np

from towers.encoder_card import EncoderCard, fingerprint

DESCRIPTION, WEIGHTS = "encoder.json", "weights.npz"


@dataclasses.dataclass(frozen=True)
class TunedDescription:
    """What `encoder.json` says of tuned weights.

    Attributes:
        modality, base: of which modality, and the spec of the encoder that was tuned.
        base_fingerprint: of that encoder when it was tuned.
        train: `lora`, `last_k` or `full`; for the reader only, the weights say what changed.
    """

    modality: str
    base: str
    base_fingerprint: str
    train: str


def save_tuned(folder: str | Path, description: TunedDescription, changes: dict[str, np.ndarray]) -> None:
    """Write what fine-tuning changed (`TrainableEncoder.changes`) into a folder that `tuned:<folder>` then names."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / WEIGHTS, allow_pickle=False, **changes)
    (folder / DESCRIPTION).write_text(json.dumps(dataclasses.asdict(description), indent=2))


def read_tuned(folder: str | Path) -> TunedDescription:
    """The description in a folder that `save_tuned` filled.

    Raises:
        FileNotFoundError: no such folder, or one that is not whole.
    """
    folder = Path(folder)
    for name in (DESCRIPTION, WEIGHTS):
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"tuned:{folder}: {name} is missing; run `python -m pipeline finetune`, or name the folder of one "
                f"modality, such as runs/demo/finetune/text"
            )
    return TunedDescription(**json.loads((folder / DESCRIPTION).read_text()))


def tuned_card(folder: str | Path, base: EncoderCard) -> EncoderCard:
    """The card of the tuned encoder out of that of its base; no model is built.

    Raises:
        ValueError: the base is not the encoder that was tuned: another modality, weights or preprocessing.
    """
    description = read_tuned(folder)
    if (base.modality, base.fingerprint) != (description.modality, description.base_fingerprint):
        raise ValueError(
            f"tuned:{folder}: was tuned from {description.base!r} for {description.modality} with fingerprint "
            f"{description.base_fingerprint}, received {base.name!r} for {base.modality} with {base.fingerprint}; run "
            f"the finetune stage again"
        )
    digest = fingerprint("tuned", base.fingerprint, files=[Path(folder) / WEIGHTS])
    return dataclasses.replace(base, name=f"tuned:{base.name}", fingerprint=digest)


class TunedEncoder:
    """A pretrained encoder with the weights that fine-tuning changed.

    Everything but the weights is the base encoder's: `tensors`, `encode`, `encode_queries`, and the graph of `model`, since
    adapters are added into the kernels they adapt.

    Args:
        folder: see `save_tuned`.
        base: the encoder that was tuned, freshly made; its model is changed in place.

    Raises:
        FileNotFoundError, ValueError: as `tuned_card`; ValueError too where a weight does not fit.
    """

    def __init__(self, folder: str | Path, base: Any) -> None:
        card = EncoderCard(base.name, base.fingerprint, base.modality, base.width, base.size)
        tuned = tuned_card(folder, card)
        self.name, self.fingerprint, self.modality = tuned.name, tuned.fingerprint, tuned.modality
        self.width, self.size = tuned.width, tuned.size
        self.base, self.model = base, base.model
        from towers.finetune import apply_changes

        with np.load(Path(folder) / WEIGHTS) as arrays:
            apply_changes(self.model, {key: arrays[key] for key in arrays.files})

    def tensors(self, batch: Any) -> Any:
        """The model's inputs, as the base encoder makes them."""
        return self.base.tensors(batch)

    def encode(self, batch: Any) -> np.ndarray:
        """As the base encoder's `encode`, with the tuned weights."""
        return self.base.encode(batch)

    def encode_queries(self, batch: Any) -> np.ndarray:
        """Questions, with the tuned weights: as the base encoder reads them, or like any text where it knows no difference."""
        return getattr(self.base, "encode_queries", self.base.encode)(batch)
