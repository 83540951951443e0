"""The encoders that filled a run's feature store, made again for what comes in raw later."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from data.features import FeatureStore
from pipeline.encoders_config import EncodersConfig
from towers.encoders import Encoder, make_encoder


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
    encoders = {}
    for name in store.modalities if modalities is None else modalities:
        stored = store.info["modalities"][name]
        if stored["encoder"] == "ready-made":
            continue
        encoder = make_encoder(name, specs[name])
        if encoder is None or encoder.fingerprint != stored["fingerprint"]:
            received = "none" if encoder is None else f"{encoder.name} {encoder.fingerprint}"
            raise ValueError(
                f"encoders.{name}: the store was filled by {stored['encoder']} {stored['fingerprint']}, received "
                f"{received}; run `python -m pipeline encode` with the present settings first"
            )
        encoders[name] = encoder
    return encoders
