"""The demo world: a record shop with a known truth, written as a dataset folder.

Every user's taste is a mix of four latent factors. One can be read (themes of title and description), one seen (palette
and pattern of the cover), one heard (instrument, tempo and register of the clip), and one shows only in what others
choose. The generator knows the true preference, so that every metric has an oracle beside it.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import uuid
import wave
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from data import world_covers, world_sound
from data.world_config import FACTORS, WorldConfig
from data.world_covers import paint_cover
from data.world_events import OUTCOMES, simulate_events
from data.world_sound import play_clip
from data.world_tastes import AGES, COUNTRIES, DOMAINS, TIERS, Tastes, draw_tastes
from data.world_text import THEMES, write_text

__all__ = ["Oracle", "WorldConfig", "generate_world", "load_oracle"]

_GENRES = (("folk", "electronic", "jazz", "ambient", "pop"), ("memoir", "poetry", "lecture", "fiction", "interview"))
_FORMATS = ("single", "album", "live", "reissue")
Progress = Callable[[str, int, int], None]


@dataclasses.dataclass(frozen=True)
class Oracle:
    """The truth of a generated world; U users and I items in the order of `user_ids` and `item_ids`.

    Attributes:
        preference: true expected preference in the middle of the test days, float16 [U, I]; rank by it.
        user_ids, item_ids: ids of its rows and columns.
        factors: arrays of `factors.npz`: `style` [I, 4], `factors` [I, 4, S], `taste` [U, 4, S] and `weight` [U, 4] on
            the same day, `appeal` [I]; axis 4 follows `FACTORS`.
    """

    preference: np.ndarray
    user_ids: list[str]
    item_ids: list[str]
    factors: dict[str, np.ndarray]


def generate_world(out: str | Path, config: WorldConfig | None = None, progress: Progress | None = None) -> dict:
    """Generates the demo world into a new folder, whole or not at all.

    Writes `interactions.parquet`, `items.parquet`, `users.parquet`, `media/covers/*.png`, `media/clips/*.wav` (16 kHz,
    mono, 16 bit, 3 s), and `oracle/` (see `load_oracle`). Image and audio cells are paths under `media/`.
    The same config gives the same bytes.

    Args:
        out: folder to write; it must not exist yet, or be empty.
        config: sizes and strengths; `WorldConfig()` if None.
        progress: called with (step, done, total).

    Returns:
        Counts: users, items, events, each outcome, items without each modality, and items with Chinese text.

    Raises:
        FileExistsError: `out` holds something already.

    Example:
        >>> import tempfile
        >>> small = WorldConfig(items=60, users=40, events=900)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     generate_world(Path(folder) / "world", small)["events"]
        900
    """
    config = config or WorldConfig()
    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FileExistsError(f"out: must not exist or be an empty folder, received {out}; remove it or choose another")
    tell = progress or (lambda step, done, total: None)
    out.parent.mkdir(parents=True, exist_ok=True)
    beside = out.parent / f".{out.name}.{uuid.uuid4().hex}"
    try:
        counts = _write(beside, draw_tastes(config), tell)
        os.replace(beside, out)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return counts


def load_oracle(folder: str | Path) -> Oracle:
    """Reads the truth that `generate_world` left in `folder`/oracle.

    Args:
        folder: a generated dataset folder.

    Returns:
        `Oracle`.

    Raises:
        FileNotFoundError: the folder has no oracle, as any dataset that was not generated.
    """
    oracle = Path(folder) / "oracle"
    if not (oracle / "preference.npy").is_file():
        raise FileNotFoundError(f"folder: must hold oracle/preference.npy, received {folder}; generate a world")
    with np.load(oracle / "factors.npz") as stored:
        factors = {name: stored[name] for name in stored.files}
    return Oracle(
        preference=np.load(oracle / "preference.npy"),
        user_ids=pd.read_parquet(oracle / "users.parquet")["user_id"].tolist(),
        item_ids=pd.read_parquet(oracle / "items.parquet")["item_id"].tolist(),
        factors=factors,
    )


def _write(folder: Path, tastes: Tastes, tell: Progress) -> dict:
    config = tastes.config
    for name in ("media/covers", "media/clips", "oracle"):
        (folder / name).mkdir(parents=True)
    item_ids = [f"r{index:05d}" for index in range(1, config.items + 1)]
    user_ids = [f"u{index:05d}" for index in range(1, config.users + 1)]

    log = simulate_events(tastes, lambda done, total: tell("events", done, total))
    events = pd.DataFrame(
        {
            "user_id": np.array(user_ids, object)[log["user"]],
            "item_id": np.array(item_ids, object)[log["item"]],
            "timestamp": log["timestamp"].astype(np.int64),
            "event": np.array(OUTCOMES, object)[log["event"]],
            "hour": log["hour"].astype(np.int8),
        }
    )
    items = item_table(tastes, item_ids)
    users = pd.DataFrame(
        {
            "user_id": user_ids,
            "age_group": np.array(AGES, object)[tastes.age],
            "country": np.array(list(COUNTRIES), object)[tastes.country],
            "tier": np.array(TIERS, object)[tastes.tier],
            "favourite_domain": _stated_domain(tastes),
        }
    )
    events.to_parquet(folder / "interactions.parquet", index=False)
    items.to_parquet(folder / "items.parquet", index=False)
    users.to_parquet(folder / "users.parquet", index=False)
    _write_media(folder, tastes, items, tell)

    day = config.oracle_day
    np.save(folder / "oracle/preference.npy", tastes.preference(day).astype(np.float16))
    users[["user_id"]].to_parquet(folder / "oracle/users.parquet", index=False)
    items[["item_id"]].to_parquet(folder / "oracle/items.parquet", index=False)
    np.savez(
        folder / "oracle/factors.npz",
        style=tastes.style,
        factors=tastes.factors.astype(np.float32),
        taste=tastes.taste(day).astype(np.float32),
        weight=tastes.weight.astype(np.float32),
        appeal=tastes.appeal.astype(np.float32),
    )
    styles = dict(zip(FACTORS, (THEMES, world_covers.STYLES, world_sound.STYLES, ()), strict=True))
    about = {"config": dataclasses.asdict(config), "styles": styles}
    (folder / "oracle/world.json").write_text(json.dumps(about, indent=2) + "\n")
    counts = {"users": len(users), "items": len(items), "events": len(events)}
    counts |= {name: int((events["event"] == name).sum()) for name in OUTCOMES}
    missing = {"text": items["title"], "image": items["image"], "audio": items["audio"]}
    counts |= {f"items_without_{name}": int(column.isna().sum()) for name, column in missing.items()}
    return counts | {"items_in_chinese": int(items["title"].str.contains("[\u4e00-\u9fff]", na=False).sum())}


def item_table(tastes: Tastes, item_ids: list[str]) -> pd.DataFrame:
    """The catalogue; columns that are not latent are drawn here, independently of every factor."""
    config = tastes.config
    rng = np.random.default_rng([config.seed, 3])
    chinese = rng.random(config.items) < config.chinese_share
    edges = np.cumsum([config.missing_text, config.missing_cover, config.missing_sound])
    lacks = np.searchsorted(edges, rng.random(config.items), side="right")
    creators = max(2, config.items // 15)
    maker = np.floor(creators * rng.random(config.items) ** 1.7).astype(int)
    rows = []
    titles: set[str] = set()
    for index, item_id in enumerate(item_ids):
        words = np.random.default_rng([config.seed, 4, index])
        domain = int(tastes.domain[index])
        title, description = write_text(int(tastes.style[index, 0]), bool(chinese[index]), words)
        for _ in range(20):
            if title not in titles:
                break
            title, description = write_text(int(tastes.style[index, 0]), bool(chinese[index]), words)
        if title in titles:
            title = f"{title} {item_id[-3:]}"
        titles.add(title)
        genre, form = _GENRES[domain][int(words.integers(5))], _FORMATS[int(words.integers(4))]
        rows.append(
            {
                "item_id": item_id,
                "title": None if lacks[index] == 0 else title,
                "description": None if lacks[index] == 0 else description,
                "categories": f"{genre}|{form}",
                "price": float(tastes.price[index]),
                "created_at": int(tastes.created_at[index]),
                "domain": DOMAINS[domain],
                # A creator works in one domain, and is otherwise independent of everything.
                "creator": f"{'MS'[domain]}-{maker[index] + 1:03d}",
                "image": None if lacks[index] == 1 else f"covers/{item_id}.png",
                "audio": None if lacks[index] == 2 else f"clips/{item_id}.wav",
            }
        )
    return pd.DataFrame(rows)


def _stated_domain(tastes: Tastes) -> np.ndarray:
    """What users say they like: their lean with noise, and nothing at all from every seventh."""
    rng = np.random.default_rng([tastes.config.seed, 5])
    said = (tastes.lean + rng.normal(0, 0.5 * tastes.config.domain_strength + 1e-9, len(tastes.lean)) > 0).astype(int)
    stated = np.array(DOMAINS, object)[said]
    stated[rng.random(len(stated)) < 1 / 7] = None
    return stated


def _write_media(folder: Path, tastes: Tastes, items: pd.DataFrame, tell: Progress) -> None:
    """Draws and plays every item with a generator of its own, so that the order of the threads changes no byte."""
    seed = tastes.config.seed

    def one(index: int) -> None:
        image, audio = items["image"].iat[index], items["audio"].iat[index]
        if isinstance(image, str):
            pixels = paint_cover(int(tastes.style[index, 1]), np.random.default_rng([seed, 6, index]))
            Image.fromarray(pixels).save(folder / "media" / image, compress_level=6)
        if isinstance(audio, str):
            samples = play_clip(int(tastes.style[index, 2]), np.random.default_rng([seed, 7, index]))
            with wave.open(str(folder / "media" / audio), "wb") as file:
                file.setnchannels(1)
                file.setsampwidth(2)
                file.setframerate(world_sound.RATE)
                file.writeframes(samples.astype("<i2").tobytes())

    with ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:
        for done, _ in enumerate(pool.map(one, range(len(items))), 1):
            tell("media", done, len(items))
