"""Generated worlds: a record shop (the demo), a shop of goods, a feed of videos, each with a known truth.

Every user's taste is a mix of four latent factors. One can be read, one seen, one heard (in a shop: found in reviews and
attributes), and one shows only in what others choose. The generator knows the true preference, so that every metric has
an oracle beside it. What carries a factor is meaning, not a statistic: a theme in ever other words, a subject in any colour
and place, an instrument in any key and room. So encoders that have learned to see, read and listen have something to do.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd

from data.world_config import KINDS, WorldConfig, world_config
from data.world_events import simulate_events
from data.world_music import MusicScene
from data.world_pages import draw_pages
from data.world_scene import Scene
from data.world_shop import ShopScene
from data.world_tastes import AGES, COUNTRIES, TIERS, Tastes, draw_tastes
from data.world_video import VideoScene

__all__ = ["KINDS", "Oracle", "WorldConfig", "generate_world", "load_oracle", "make_scene", "world_config"]

Progress = Callable[[str, int, int], None]


@dataclasses.dataclass(frozen=True)
class Oracle:
    """The truth of a generated world; U users and I items in the order of `user_ids` and `item_ids`.

    Attributes:
        preference: true expected preference in the middle of the test days, float16 [U, I]; rank by it.
        user_ids, item_ids: ids of its rows and columns.
        factors: arrays of `factors.npz`: `style` [I, 4], `factors` [I, 4, S], `taste` [U, 4, S] and `weight` [U, 4] on
            the same day, `appeal` [I]; axis 4 follows `FACTORS`;
            their names in this kind of world are in `world.json`.
    """

    preference: np.ndarray
    user_ids: list[str]
    item_ids: list[str]
    factors: dict[str, np.ndarray]


def generate_world(out: str | Path, config: WorldConfig | None = None, progress: Progress | None = None) -> dict:
    """Generates a world into a new folder, whole or not at all.

    Writes `interactions.parquet`, `items.parquet`, `users.parquet`, files under `media/`, and `oracle/` (see
    `load_oracle`): covers (PNG), clips (WAV, 16 kHz, 3 s) and notes (MIDI) of a record shop, photos (PNG) of a shop, videos
    (MP4) of a feed. The same config gives the same bytes.

    Args:
        out: folder to write; it must not exist yet, or be empty.
        config: kind, sizes and strengths; `WorldConfig()`, the demo's record shop, if None.
        progress: called with (step, done, total).

    Returns:
        Counts: users, items, events, each outcome, items without text and without each kind of file, and items with
        Chinese text.

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


def make_scene(tastes: Tastes, item_ids: list[str]) -> Scene:
    """The scene that the config of `tastes` asks for."""
    if tastes.config.kind == "shop":
        return ShopScene(tastes, item_ids)
    return VideoScene(tastes, item_ids) if tastes.config.kind == "video" else MusicScene(tastes, item_ids)


def _write(folder: Path, tastes: Tastes, tell: Progress) -> dict:
    config = tastes.config
    item_ids = [f"r{index:05d}" for index in range(1, config.items + 1)]
    user_ids = [f"u{index:05d}" for index in range(1, config.users + 1)]
    scene = make_scene(tastes, item_ids)
    for name in (*(f"media/{name}" for name in scene.folders), "oracle"):
        (folder / name).mkdir(parents=True)

    log = simulate_events(tastes, lambda done, total: tell("events", done, total))
    events = pd.DataFrame(
        {
            "user_id": np.array(user_ids, object)[log["user"]],
            "item_id": np.array(item_ids, object)[log["item"]],
            "timestamp": log["timestamp"].astype(np.int64),
            "event": np.array(scene.outcomes, object)[log["event"]],
            "hour": log["hour"].astype(np.int8),
            **draw_pages(config, log),
            "propensity": log["propensity"].astype(np.float32),
            **scene.event_columns(log),
        }
    )
    users = pd.DataFrame(
        {
            "user_id": user_ids,
            "age_group": np.array(AGES, object)[tastes.age],
            "country": np.array(list(COUNTRIES), object)[tastes.country],
            "tier": np.array(TIERS, object)[tastes.tier],
            "favourite_domain": _stated_domain(tastes, scene.domains),
        }
    )
    events.to_parquet(folder / "interactions.parquet", index=False)
    scene.items.to_parquet(folder / "items.parquet", index=False)
    users.to_parquet(folder / "users.parquet", index=False)
    _write_media(folder / "media", scene, tell)
    _write_oracle(folder / "oracle", tastes, scene, users)

    counts = {"users": len(users), "items": len(scene.items), "events": len(events)}
    counts |= {name: int((events["event"] == name).sum()) for name in scene.outcomes}
    columns = {"text": "title", "image": "image", "audio": "audio", "video": "video"}
    # In a feed of videos the sound is in the video file; the column `audio` is for what has no video.
    given = {name: column for name, column in columns.items() if column in scene.items}
    if "video" in given:
        del given["audio"]
    counts |= {f"items_without_{name}": int(scene.items[column].isna().sum()) for name, column in given.items()}
    return counts | {"items_in_chinese": int(scene.items["title"].str.contains("[\u4e00-\u9fff]", na=False).sum())}


def _write_oracle(folder: Path, tastes: Tastes, scene: Scene, users: pd.DataFrame) -> None:
    day = tastes.config.oracle_day
    np.save(folder / "preference.npy", tastes.preference(day).astype(np.float16))
    users[["user_id"]].to_parquet(folder / "users.parquet", index=False)
    scene.items[["item_id"]].to_parquet(folder / "items.parquet", index=False)
    np.savez(
        folder / "factors.npz",
        style=tastes.style,
        factors=tastes.factors.astype(np.float32),
        taste=tastes.taste(day).astype(np.float32),
        weight=tastes.weight.astype(np.float32),
        appeal=tastes.appeal.astype(np.float32),
    )
    about = {"config": dataclasses.asdict(tastes.config), "styles": scene.factors}
    (folder / "world.json").write_text(json.dumps(about, indent=2) + "\n")


def _stated_domain(tastes: Tastes, domains: tuple[str, str]) -> np.ndarray:
    """What users say they like: their lean with noise, and nothing at all from every seventh."""
    rng = np.random.default_rng([tastes.config.seed, 5])
    said = (tastes.lean + rng.normal(0, 0.5 * tastes.config.domain_strength + 1e-9, len(tastes.lean)) > 0).astype(int)
    stated = np.array(domains, object)[said]
    stated[rng.random(len(stated)) < 1 / 7] = None
    return stated


def _write_media(media: Path, scene: Scene, tell: Progress) -> None:
    """Every item has generators of its own, so that the order of the threads changes no byte."""
    count = len(scene.items)
    with ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:
        for done, _ in enumerate(pool.map(lambda index: scene.write_media(media, index), range(count)), 1):
            tell("media", done, count)
