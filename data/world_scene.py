"""What a kind of world has to offer: a catalogue, its media files, and columns of its own for the log."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar, Protocol

import numpy as np
import pandas as pd

from data.world_tastes import Tastes


class Scene(Protocol):
    """One kind of world.

    Attributes:
        factors: what the latent factors are called here, with the names of their styles, in the order of `FACTORS`.
        domains: names of the two domains.
        outcomes: event kinds in the order of `data.world_events.OUTCOMES`.
        folders: under `media/`.
        items: the catalogue, columns as in `items.parquet`.
    """

    factors: ClassVar[dict[str, tuple[str, ...]]]
    domains: tuple[str, str]
    outcomes: tuple[str, str, str, str]
    folders: tuple[str, ...]
    items: pd.DataFrame

    def write_media(self, media: Path, index: int) -> None:
        """Writes the files of one item; the order in which items come changes no byte."""
        ...

    def event_columns(self, log: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Further columns of the log, [E] each; `log` is that of `simulate_events`."""
        ...


@dataclasses.dataclass(frozen=True)
class Draws:
    """What is drawn for every item independently of every factor, [I] each.

    Attributes:
        chinese: whether its texts are Chinese.
        lacks: 0 no text, 1 no picture, 2 no sound (or no reviews), 3 nothing is missing.
        maker: number of who made it, from 1; makers work in one domain.
    """

    chinese: np.ndarray
    lacks: np.ndarray
    maker: np.ndarray


def draw_common(tastes: Tastes) -> Draws:
    """Language, gaps and makers of all items."""
    config = tastes.config
    rng = np.random.default_rng([config.seed, 3])
    chinese = rng.random(config.items) < config.chinese_share
    edges = np.cumsum([config.missing_text, config.missing_picture, config.missing_sound])
    lacks = np.searchsorted(edges, rng.random(config.items), side="right")
    makers = max(2, config.items // 15)
    return Draws(chinese, lacks, 1 + np.floor(makers * rng.random(config.items) ** 1.7).astype(int))


def unique_texts(count: int, seed: int, write: Callable[[int, np.random.Generator], tuple[str, str]]) -> list[tuple[str, str]]:
    """Title and description of every item; a title that is taken is written anew, and numbered if that does not help.

    Args:
        count: items. seed: of the world.
        write: (index, rng) to (title, description).
    """
    texts: list[tuple[str, str]] = []
    taken: set[str] = set()
    for index in range(count):
        rng = np.random.default_rng([seed, 4, index])
        title, description = write(index, rng)
        for _ in range(20):
            if title not in taken:
                break
            title, description = write(index, rng)
        if title in taken:
            title = f"{title} ({index + 1})"
        taken.add(title)
        texts.append((title, description))
    return texts
