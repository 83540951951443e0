"""Whether a changed cover, or a part of a clip, finds the item that it was made from.

    python benchmarks/media_search.py --run runs/demo --data runs/world
    python benchmarks/media_search.py --run runs/demo --data runs/world --items 40

Covers are cropped, turned, darkened and compressed, clips cut, compressed, made quiet and noisy, and each is sent to the
released models on the local server in three ways: `content_search`, by the picture's or the sound's own vector; the same
where the item was added after the release, which does not hold it; and `similar`, by the embedding that the item tower gives
an item of which nothing else is known. A figure is the share of items that are first, and among the first ten. The last line
is one JSON object.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import soundfile
from PIL import Image, ImageEnhance

from data.dataset import Dataset
from serving.catalogue.live_items_content import read_clip
from serving.client.added_items import AddedItems
from serving.client.recommender import NewItem, Recommender
from serving.local import LocalServer
from serving.releases.models_config import ModelEntry, write_models_config
from serving.releases.release import latest_release, verify_release

FIRST = 10
WAYS = ("content_search", "added_later", "embedding")
MODELS = ("item_encoder", "content_search", "retrieval")


def pictures(content: bytes) -> dict[str, bytes]:
    """A cover as people might send it."""
    image = Image.open(io.BytesIO(content)).convert("RGB")

    def middle(share: float) -> Image.Image:
        width, height = image.size
        left, top = width * (1 - share) / 2, height * (1 - share) / 2
        return image.crop((int(left), int(top), int(width - left), int(height - top)))

    def file(changed: Image.Image, kind: str = "PNG", **options: int) -> bytes:
        buffer = io.BytesIO()
        changed.save(buffer, kind, **options)
        return buffer.getvalue()

    photo = ImageEnhance.Brightness(middle(0.85).rotate(3, fillcolor="white")).enhance(0.8)
    return {
        "as it is": content,
        "middle 80 %": file(middle(0.8)),
        "middle 60 %": file(middle(0.6)),
        "JPEG of quality 30": file(image, "JPEG", quality=30),
        "darker by 40 %": file(ImageEnhance.Brightness(image).enhance(0.6)),
        "brighter by 40 %": file(ImageEnhance.Brightness(image).enhance(1.4)),
        "photographed": file(photo, "JPEG", quality=50),
    }


def clips(content: bytes) -> dict[str, bytes]:
    """A clip as people might send it."""
    wave, rate = soundfile.read(io.BytesIO(content), dtype="float32", always_2d=True)
    noise = np.random.default_rng(0).normal(0, 0.02, wave.shape).astype(np.float32)

    def file(changed: np.ndarray, kind: str = "WAV") -> bytes:
        buffer = io.BytesIO()
        soundfile.write(buffer, changed, rate, format=kind)
        return buffer.getvalue()

    half = len(wave) // 2
    return {
        "as it is": content,
        "first half": file(wave[:half]),
        "second half": file(wave[half:]),
        "MP3": file(wave, "MP3"),
        "first half as OGG": file(wave[:half], "OGG"),
        "at 30 % of its loudness": file(0.3 * wave),
        "under noise": file(wave + noise),
    }


def as_item(modality: str, content: bytes) -> NewItem:
    return NewItem(image=content) if modality == "image" else NewItem(audio=read_clip(content))


def as_added(recommender: Recommender, item: NewItem, wanted: str) -> AddedItems:
    """The item as a gateway keeps one that was added, under its id, its place in the release hidden."""
    encoded = recommender.encode_items([item])
    content = recommender.place_in_content(encoded)
    return AddedItems(
        encoded.version, (wanted,), encoded.embeddings, content_vectors=content, hidden=frozenset({wanted})
    )


def places(
    recommender: Recommender, item: NewItem, wanted: str, added: AddedItems, seconds: list[float]
) -> tuple[int, ...]:
    """The place of the wanted item in every one of `WAYS`; FIRST where it is not among the first."""
    started = time.perf_counter()
    by_content = [found.item_id for found in recommender.search_media(item, FIRST)]
    seconds.append(time.perf_counter() - started)
    beside = [found.item_id for found in recommender.search_media(item, FIRST, added=added)]
    by_embedding = recommender.similar(recommender.encode_items([item]).embeddings[0], FIRST).item_ids
    return tuple(ids.index(wanted) if wanted in ids else FIRST for ids in (by_content, beside, by_embedding))


def measure(recommender: Recommender, dataset: Dataset, media: Path, modality: str, count: int) -> dict:
    """Shares of items found, by kind of change and by way, and the seconds of a search."""
    ending, change = {"image": (".png", pictures), "audio": (".wav", clips)}[modality]
    items = dataset.items[dataset.items[modality].astype(str).str.endswith(ending)]
    items = items.sample(min(count, len(items)), random_state=0)
    found: dict[str, list[tuple[int, ...]]] = {}
    seconds: list[float] = []
    for _, item in items.iterrows():
        file, wanted = (media / item[modality]).read_bytes(), str(item["item_id"])
        added = as_added(recommender, as_item(modality, file), wanted)
        for kind, content in change(file).items():
            asked = as_item(modality, content)
            found.setdefault(kind, []).append(places(recommender, asked, wanted, added, seconds))
    print(f"{modality}, {len(items)} items{'':12} content_search             added later                embedding alone")
    result: dict = {"items": len(items), "p50_ms": round(1000 * float(np.median(seconds)), 1), "kinds": {}}
    for kind, both in found.items():
        ranks = np.array(both)
        shares = [[float((ranks[:, way] < most).mean()) for most in (1, FIRST)] for way in range(len(WAYS))]
        result["kinds"][kind] = dict(zip(WAYS, shares, strict=True))
        print(f"  {kind:28} " + "        ".join(f"{first:.2f} first {ten:.2f}" for first, ten in shares))
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--run", type=Path, required=True, help="a finished run")
    parser.add_argument("--data", type=Path, required=True, help="its dataset folder")
    parser.add_argument("--items", type=int, default=60, help="of each modality (default: %(default)s)")
    given = parser.parse_args()
    release = verify_release(latest_release(given.run.resolve() / "releases"))
    dataset = Dataset.load(given.run / "ingest")
    with tempfile.TemporaryDirectory() as folder:
        entries = [ModelEntry(name) for name in MODELS]
        config = write_models_config(Path(folder) / "models.config", entries, release.folder)
        with LocalServer(config) as server:
            recommender = Recommender(server.target, deadline=60)
            figures = {
                modality: measure(recommender, dataset, given.data / "media", modality, given.items)
                for modality in ("image", "audio")
            }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
