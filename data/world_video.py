"""A feed of short videos: a title, moving frames and a sound track, of which some lack one."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd

from data import world_frames, world_score
from data.world_events import OUTCOMES
from data.world_film import mp4_bytes
from data.world_frames import film
from data.world_scene import draw_common, unique_texts
from data.world_sound import play_clip, wav_bytes
from data.world_tastes import Tastes
from data.world_text import write_caption
from data.world_words import THEMES

_CATEGORIES = (("comedy", "music", "daily life", "pets", "challenge"), ("how-to", "review", "news", "science", "travel tips"))


class VideoScene:
    """Videos. What the title is about, what moves in the frames, and who plays in the sound track are latent factors.

    Sound comes in the video file; videos without it have no sound track. An item without pictures (its video was taken
    down) keeps its sound as a clip. Categories and channels tell nothing of any factor.
    """

    factors: ClassVar[dict[str, tuple[str, ...]]] = {
        "title": THEMES,
        "frames": world_frames.STYLES,
        "sound": world_score.STYLES,
        "hidden": (),
    }
    domains = ("entertainment", "know-how")
    outcomes = ("watch", "like", "share", "skip")
    folders: tuple[str, ...] = ("videos", "clips")

    def __init__(self, tastes: Tastes, item_ids: list[str]) -> None:
        self._tastes = tastes
        config, style = tastes.config, tastes.style
        self._draws = draws = draw_common(tastes)
        category = np.random.default_rng([config.seed, 9]).integers(0, 5, config.items)
        texts = unique_texts(
            config.items,
            config.seed,
            lambda index, rng: (write_caption(int(style[index, 0]), bool(draws.chinese[index]), rng), ""),
        )
        rows = []
        for index, item_id in enumerate(item_ids):
            lacks, domain = draws.lacks[index], int(tastes.domain[index])
            rows.append(
                {
                    "item_id": item_id,
                    "title": texts[index][0] if lacks != 0 else None,
                    "categories": _CATEGORIES[domain][category[index]],
                    "created_at": int(tastes.created_at[index]),
                    "domain": self.domains[domain],
                    "channel": f"{'EK'[domain]}-{draws.maker[index]:03d}",
                    "video": f"videos/{item_id}.mp4" if lacks != 1 else None,
                    "audio": f"clips/{item_id}.wav" if lacks == 1 else None,
                }
            )
        self.items = pd.DataFrame(rows)

    def write_media(self, media: Path, index: int) -> None:
        """The video of one item, or the sound that is left of it."""
        seed, style = self._tastes.config.seed, self._tastes.style[index]
        video, audio = self.items["video"].iat[index], self.items["audio"].iat[index]
        silent = self._draws.lacks[index] == 2
        samples = None if silent else play_clip(int(style[2]), np.random.default_rng([seed, 8, index]))
        if isinstance(video, str):
            frames = film(int(style[1]), np.random.default_rng([seed, 6, index]))
            (media / video).write_bytes(mp4_bytes(frames, samples))
        elif isinstance(audio, str) and samples is not None:
            (media / audio).write_bytes(wav_bytes(samples))

    def event_columns(self, log: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """`value`: seconds watched, of the three that a video has; who skips leaves in the first."""
        rng = np.random.default_rng([self._tastes.config.seed, 10])
        share = 1 / (1 + np.exp(-(0.5 + log["match"] + rng.normal(0, 0.8, len(log["user"])))))
        skipped = log["event"] == OUTCOMES.index("skip")
        return {"value": np.round(np.where(skipped, 0.9 * share, 0.9 + 2.1 * share), 2).astype(np.float32)}
