"""A run and its dataset folder as the gateway reads them, written without any pipeline."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd

ITEMS = 12
CLIP = bytes(range(256)) * 4


def write_folders(root: Path) -> tuple[Path, Path]:
    """A run whose item i+1 is more popular than item i+2, two users, and a media folder with a secret beside it."""
    run, source = root / "run", root / "source"
    ingest, media = run / "ingest", source / "media"
    ingest.mkdir(parents=True)
    (media / "covers").mkdir(parents=True)
    (media / "clips").mkdir()
    ids = [""] + [f"i{row}" for row in range(1, ITEMS + 1)]
    items = pd.DataFrame(
        {
            "item_id": ids,
            "title": ["", "<b>Bold</b> & co", *[f"Title {row}" for row in range(2, ITEMS + 1)]],
            "description": "",
            "categories": "folk|live",
            "price": [np.nan, 9.99] + [np.nan] * (ITEMS - 1),
            "created_at": [0, 1696464000] + [0] * (ITEMS - 1),
            "domain": "music",
            "image": ["", "covers/a b.png", "covers/page.html", "covers/link.png"] + [""] * (ITEMS - 3),
            "audio": ["", "clips/1.wav", "", "../secret.wav"] + [""] * (ITEMS - 3),
            "video": "",
        }
    )
    items.to_parquet(ingest / "items.parquet")
    pd.DataFrame({"user_id": ["", "ann", "bob"], "profile_tier": np.array([0, 1, 0], np.int32)}).to_parquet(
        ingest / "users.parquet"
    )
    (ingest / "profile_vocabulary.json").write_text(json.dumps({"tier": ["", "plus"]}))
    pd.DataFrame(
        {
            "user": np.array([1, 1, 1, 2], np.int32),
            "item": np.array([1, 2, 3, 4], np.int32),
            "timestamp": np.array([100, 200, 300, 50], np.int64),
            "event": np.array([2, 3, 4, 0], np.int8),
            "positive": [True, True, False, True],
        }
    ).to_parquet(ingest / "events.parquet")
    np.save(ingest / "counts.npy", np.array([0, *range(ITEMS, 0, -1)], np.int64))
    (media / "covers" / "a b.png").write_bytes(b"\x89PNG cover")
    (media / "covers" / "page.html").write_text("<script>alert(1)</script>")
    (media / "covers" / "unlisted.png").write_bytes(b"unlisted")
    (media / "clips" / "1.wav").write_bytes(CLIP)
    (source / "secret.wav").write_bytes(b"secret")
    (media / "covers" / "link.png").symlink_to(source / "secret.wav")
    return run, source
