"""A shop of everyday goods: photos, descriptions, attributes, and reviews with a mood."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd
from PIL import Image

from data import world_photos
from data.world_descriptions import OCCASIONS, describe_good
from data.world_events import OUTCOMES
from data.world_photos import COLOURS, GOODS, take_photo
from data.world_reviews import MATERIALS, VIRTUES, write_review
from data.world_scene import draw_common, unique_texts
from data.world_tastes import Tastes

_SIZES = ("small", "medium", "large")
_MATERIAL_TELLS = 0.6
"""Share of goods whose material goes with what reviews speak of; the others are of any."""


class ShopScene:
    """Goods. What a good is meant for, which motif is on it, and what reviewers speak of are three latent factors.

    The occasion stands in the description, the motif is seen in the photo, and the virtue shows in the material and in
    what testers said before the release, which the description quotes. The mood of a review follows the appeal of the
    good (testers) or how well it suits its buyer: every purchase has stars as its `value`, half of them with a `review`
    in words. The kind of good, its colour (true to the photo), size, brand and price tell nothing of any factor.
    """

    factors: ClassVar[dict[str, tuple[str, ...]]] = {
        "occasion": OCCASIONS,
        "motif": world_photos.STYLES,
        "virtue": VIRTUES,
        "hidden": (),
    }
    domains = ("home", "outdoors")
    outcomes = ("view", "like", "purchase", "skip")
    folders: tuple[str, ...] = ("photos",)

    def __init__(self, tastes: Tastes, item_ids: list[str]) -> None:
        self._tastes = tastes
        config, style, draws = tastes.config, tastes.style, draw_common(tastes)
        self._chinese = draws.chinese
        rng = np.random.default_rng([config.seed, 9])
        self._good, self._colour = rng.integers(0, len(GOODS), config.items), rng.integers(0, len(COLOURS), config.items)
        size, other = rng.integers(0, 3, config.items), rng.integers(0, len(MATERIALS), config.items)
        material = np.where(rng.random(config.items) < _MATERIAL_TELLS, style[:, 2], other)
        quality = tastes.appeal / max(config.appeal, 1e-9)
        texts = unique_texts(
            config.items,
            config.seed,
            lambda index, rng: describe_good(
                int(style[index, 0]), int(self._good[index]), GOODS, bool(draws.chinese[index]), rng
            ),
        )
        rows = []
        for index, item_id in enumerate(item_ids):
            lacks, words = draws.lacks[index], np.random.default_rng([config.seed, 5, index])
            title, description = texts[index] if lacks != 0 else (None, None)
            if description and lacks != 2:
                description += self._quotes(index, float(quality[index]), words)
            rows.append(
                {
                    "item_id": item_id,
                    "title": title,
                    "description": description,
                    "categories": GOODS[self._good[index]],
                    "price": float(tastes.price[index]),
                    "created_at": int(tastes.created_at[index]),
                    "domain": self.domains[int(tastes.domain[index])],
                    "brand": f"{'HO'[int(tastes.domain[index])]}-{draws.maker[index]:03d}",
                    "colour": COLOURS[self._colour[index]],
                    "material": MATERIALS[material[index]] if lacks != 2 else None,
                    "size": _SIZES[size[index]],
                    "image": f"photos/{item_id}.png" if lacks != 1 else None,
                }
            )
        self.items = pd.DataFrame(rows)

    def _quotes(self, index: int, quality: float, rng: np.random.Generator) -> str:
        """What two testers said; `quality` is the good's standardised appeal."""
        chinese, virtue = bool(self._chinese[index]), int(self._tastes.style[index, 2])
        said = [write_review(virtue, draw_stars(quality, rng), chinese, rng) for _ in range(2)]
        return f" 试用者说：“{said[0]}”“{said[1]}”" if chinese else f' Testers said: "{said[0]}" "{said[1]}"'

    def write_media(self, media: Path, index: int) -> None:
        """The photo of one good."""
        image = self.items["image"].iat[index]
        if isinstance(image, str):
            rng = np.random.default_rng([self._tastes.config.seed, 6, index])
            pixels = take_photo(int(self._tastes.style[index, 1]), int(self._good[index]), int(self._colour[index]), rng)
            Image.fromarray(pixels).save(media / image, compress_level=3)

    def event_columns(self, log: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """`value` (stars of every purchase) and `review` (words of every other one, in the buyer's own language)."""
        config = self._tastes.config
        rng = np.random.default_rng([config.seed, 10])
        value, review = np.full(len(log["user"]), np.nan, np.float32), np.full(len(log["user"]), None, object)
        speaks_chinese = rng.random(config.users) < config.chinese_share
        for row in np.flatnonzero(log["event"] == OUTCOMES.index("purchase")):
            item = log["item"][row]
            value[row] = draw_stars(float(log["match"][row]), rng)
            if rng.random() < 0.5:
                chinese = bool(speaks_chinese[log["user"][row]])
                review[row] = write_review(int(self._tastes.style[item, 2]), int(value[row]), chinese, rng)
        return {"value": value, "review": review}


def draw_stars(liking: float, rng: np.random.Generator) -> int:
    """1 to 5 stars around 3.5 for a standardised liking of 0.

    Example:
        >>> draw_stars(3.0, np.random.default_rng(0)), draw_stars(-3.0, np.random.default_rng(0))
        (5, 1)
    """
    return int(np.clip(round(3.5 + 1.1 * liking + rng.normal(0, 0.6)), 1, 5))
