"""The days of a simulated month: a generated world as it was on each, and what can go wrong with one."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd

from data.splits import DAY
from data.world_config import END


def cut(world: Path, out: Path, days_left: int, coming: int = 0) -> Path:
    """The world's folder as it was some days before its end: events, items and users known by then; media as they are.

    Args:
        coming: days of events after that, of the same items and users.
    """
    if out.is_dir():
        return out
    out, final = out.with_name(f".{out.name}"), out
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    bound = END - days_left * DAY
    events, items, users = (pd.read_parquet(world / f"{name}.parquet") for name in ("interactions", "items", "users"))
    items, people = items[items["created_at"] < bound], events["user_id"][events["timestamp"] < bound]
    events = events[events["timestamp"] < bound + coming * DAY]
    events = events[events["item_id"].isin(items["item_id"]) & events["user_id"].isin(people)]
    users = users[users["user_id"].isin(people)]
    for name, table in (("interactions", events), ("items", items), ("users", users)):
        table.to_parquet(out / f"{name}.parquet", index=False)
    (out / "media").symlink_to((world / "media").resolve())
    out.rename(final)
    return final


def scrambled(day: Path, out: Path, share: float, seed: int) -> Path:
    """A copy of a day's folder in which a share of the last day's events have each other's items."""
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(day, out, symlinks=True)
    events = pd.read_parquet(out / "interactions.parquet")
    last = np.flatnonzero(events["timestamp"] >= int(events["timestamp"].max()) // DAY * DAY)
    rng = np.random.default_rng(seed)
    chosen = rng.choice(last, max(2, round(share * len(last))), replace=False)
    items = events["item_id"].to_numpy(object).copy()
    items[chosen] = items[rng.permutation(chosen)]
    events.assign(item_id=items).to_parquet(out / "interactions.parquet", index=False)
    return out


def without_media(day: Path, out: Path, share: float, seed: int) -> Path:
    """A copy of a day's folder whose media folder has lost a share of its files."""
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(day, out, symlinks=True)
    media, rng = (out / "media").resolve(), np.random.default_rng(seed)
    (out / "media").unlink()
    for file in sorted(path for path in media.rglob("*") if path.is_file()):
        if rng.random() >= share:
            place = out / "media" / file.relative_to(media)
            place.parent.mkdir(parents=True, exist_ok=True)
            os.link(file, place)
    return out
