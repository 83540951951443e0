"""The encoders that filled a run's feature store, made again for what comes in raw later, and where their weights lie."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from data.features import FeatureStore
from pipeline.settings.encoders import EncodersConfig
from towers.encoders import Encoder, make_encoder

READY_MADE = "ready-made"
"""What the store calls the encoder of vectors that came with the data."""


def weights_folder(store: str | Path) -> Path:
    """Where the encoders of a content store keep their converted weights: beside it, shared by the same runs.

    Not inside it: what the store holds can be deleted by `features gc`, and is counted by `features stats`.

    Example:
        >>> weights_folder("runs/feature-store").as_posix()
        'runs/feature-store-weights'
    """
    store = Path(store)
    return store.with_name(f"{store.name}-weights")


def content_store(config: EncodersConfig, run: Path) -> Path:
    """The content store of a run: where the settings say, else `feature-store` beside its folder."""
    return Path(config.store) if config.store else run.parent / "feature-store"


def store_encoders(
    store: FeatureStore, config: EncodersConfig, run: Path, modalities: Iterable[str] | None = None
) -> dict[str, Encoder]:
    """Encoder of each stored modality but the ready-made ones.

    Args:
        store: of the run. config: the run's `[encoders]`. run: its folder, where tuned encoders lie.
        modalities: only these.

    Raises:
        ValueError: an encoder that would give other vectors than those stored.
    """
    specs = {**config.specs(), **{name: f"tuned:{run / 'finetune' / name}" for name in config.trained()}}
    encoders, weights = {}, weights_folder(content_store(config, run))
    for name in store.modalities if modalities is None else modalities:
        stored = store.info["modalities"][name]
        if stored["encoder"] == READY_MADE:
            continue
        encoder = make_encoder(name, specs[name], weights)
        if encoder is None or encoder.fingerprint != stored["fingerprint"]:
            received = "none" if encoder is None else f"{encoder.name} {encoder.fingerprint}"
            raise ValueError(
                f"encoders.{name}: the store was filled by {stored['encoder']} {stored['fingerprint']}, received "
                f"{received}; run `python -m pipeline encode` with the present settings first"
            )
        encoders[name] = encoder
    return encoders
