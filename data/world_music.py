"""The record shop, which is the demo world: tracks with lyrics, a cover, a clip and its notes."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd
from PIL import Image

from data import world_covers, world_score
from data.world_covers import paint_cover
from data.world_scene import draw_common, unique_texts
from data.world_score import compose, midi_bytes
from data.world_sound import play_score, wav_bytes
from data.world_tastes import Tastes
from data.world_text import write_text
from data.world_words import THEMES

_GENRES = (("folk", "electronic", "jazz", "ambient", "pop"), ("memoir", "poetry", "lecture", "fiction", "interview"))
_FORMATS = ("single", "album", "live", "reissue")


class MusicScene:
    """Tracks. What the words are about, what the cover depicts and who plays the clip are three latent factors.

    Beside every clip `clips/X.wav` lie its notes, `midi/X.mid`; a few tracks have only these as their `audio`. Genres,
    formats, creators and prices tell nothing of any factor.
    """

    factors: ClassVar[dict[str, tuple[str, ...]]] = {
        "text": THEMES,
        "cover": world_covers.STYLES,
        "sound": world_score.STYLES,
        "hidden": (),
    }
    domains = ("music", "spoken word")
    outcomes = ("view", "like", "purchase", "skip")
    folders: tuple[str, ...] = ("covers", "clips", "midi")

    def __init__(self, tastes: Tastes, item_ids: list[str]) -> None:
        self._tastes = tastes
        config, style, draws = tastes.config, tastes.style, draw_common(tastes)
        rng = np.random.default_rng([config.seed, 9])
        notes_only = rng.random(config.items) < config.midi_share / max(1e-9, 1 - config.missing_sound)
        genre, form = rng.integers(0, 5, config.items), rng.integers(0, 4, config.items)
        texts = unique_texts(
            config.items, config.seed, lambda index, rng: write_text(int(style[index, 0]), bool(draws.chinese[index]), rng)
        )
        rows = []
        for index, item_id in enumerate(item_ids):
            lacks, domain = draws.lacks[index], int(tastes.domain[index])
            title, lyrics = texts[index] if lacks != 0 else (None, None)
            sound = f"midi/{item_id}.mid" if notes_only[index] else f"clips/{item_id}.wav"
            rows.append(
                {
                    "item_id": item_id,
                    "title": title,
                    "description": lyrics,
                    "categories": f"{_GENRES[domain][genre[index]]}|{_FORMATS[form[index]]}",
                    "price": float(tastes.price[index]),
                    "created_at": int(tastes.created_at[index]),
                    "domain": self.domains[domain],
                    "creator": f"{'MS'[domain]}-{draws.maker[index]:03d}",
                    "image": f"covers/{item_id}.png" if lacks != 1 else None,
                    "audio": sound if lacks != 2 else None,
                }
            )
        self.items = pd.DataFrame(rows)

    def write_media(self, media: Path, index: int) -> None:
        """Cover, notes and clip of one track."""
        seed, style = self._tastes.config.seed, self._tastes.style[index]
        image, audio = self.items["image"].iat[index], self.items["audio"].iat[index]
        if isinstance(image, str):
            pixels = paint_cover(int(style[1]), np.random.default_rng([seed, 6, index]))
            Image.fromarray(pixels).save(media / image, compress_level=3)
        if isinstance(audio, str):
            notes = compose(int(style[2]), np.random.default_rng([seed, 7, index]))
            (media / "midi" / f"{Path(audio).stem}.mid").write_bytes(midi_bytes(notes))
            if audio.endswith(".wav"):
                samples = play_score(notes, np.random.default_rng([seed, 8, index]))
                (media / audio).write_bytes(wav_bytes(samples))

    def event_columns(self, log: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """None."""
        return {}
