"""`noised:<sigma>x<views>:<secret>:<spec>`: what such a name says, and the facts of the encoder that it names."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from towers.encoder_card import EncoderCard, fingerprint

VERSION = 1


def noised_card(card: Any, sigma: float, views: int, secret: bytes = b"") -> EncoderCard:
    """The card of the noised encoder, from that of the encoder or from the encoder itself.

    Example:
        >>> noised_card(EncoderCard("pack:efficientnet", "0" * 16, "image", 1280, 225), 16.0, 4).name
        'noised:16x4::pack:efficientnet'
    """
    if card.modality not in ("image", "audio") or not sigma > 0 or views < 1:
        raise ValueError(
            f"noised: must be of pictures, frames or sound, by a sigma above 0 and at least 1 view, received {card.modality}, "
            f"{sigma:g} and {views}"
        )
    digest = fingerprint("noised", VERSION, sigma, views, hashlib.blake2b(secret).hexdigest(), card.fingerprint)
    name = f"noised:{sigma:g}x{views}:{'' if not secret else '*'}:{card.name}"
    return EncoderCard(name, digest, card.modality, card.width, card.size)


def read_noised(part: str) -> tuple[float, int, bytes, str]:
    """Sigma, views, the secret's bytes and the encoder's spec of `noised:<sigma>x<views>:<file of the secret or none>:<spec>`.

    Raises:
        ValueError: another form. FileNotFoundError: no such file.

    Example:
        >>> read_noised("noised:16x4::pack:efficientnet")
        (16.0, 4, b'', 'pack:efficientnet')
    """
    pieces = part.split(":", 3)
    sigma, cross, views = pieces[1].partition("x") if len(pieces) == 4 else ("", "", "")
    try:
        numbers = float(sigma), int(views)
    except ValueError:
        numbers = None
    if numbers is None or not cross or pieces[3] in ("", "none"):
        raise ValueError(
            f"spec: must be 'noised:<sigma>x<views>:<file of the secret, or nothing>:<spec>', such as 'noised:16x4::auto', "
            f"received {part!r}"
        )
    return *numbers, Path(pieces[2]).read_bytes() if pieces[2] else b"", pieces[3]
