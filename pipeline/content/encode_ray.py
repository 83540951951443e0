"""The Ray engine: the same batches, encoded by actors on one machine or on a cluster, by Ray Data.

The batches are written as Parquet manifests of at most 1,024 contents; Ray Data reads them and hands each to an actor,
which runs the local engine on it (`pipeline.content.encode_local`); vectors come back in the order of the batches, and the
caller, here as there, appends them to the content store. So the store has the same bytes whichever engine filled it,
provided the machines' processors are of one kind: another kind may round the last bit differently.

On a cluster every machine needs this repository and its environment, and the dataset and run folders, at the same paths
(a shared file system). The content store is written by the machine that calls, and may lie on its own disk. Ray finds
the cluster by RAY_ADDRESS; without it, it starts on this machine alone and ends with the stage.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import shutil
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.content.encode_local import Encoded, encode_batches
from pipeline.content.encode_plan import Batch, Content
from towers.encoder_card import EncoderCard

MANIFEST_CONTENTS = 1024
"""Contents of one manifest at most: what an actor takes at once, and what is encoded again when it dies."""
MANIFESTS_EACH = 2
"""Manifests an actor gets at least, where there is that much to do, so that a slow one does not keep all waiting."""
ROOT = Path(__file__).resolve().parents[2]


def encode_batches_on_ray(
    batches: Sequence[Batch], media: Path, manifests: Path, workers: int = 2, weights: Path | None = None
) -> Generator[Encoded, None, None]:
    """Decode and encode batches by Ray actors, and hand them on in order.

    Args:
        batches: of any modalities.
        media: the folder that paths are relative to; the same on every machine.
        manifests: folder to write the manifests into, seen by every machine; removed at the end.
        workers: actors, each with a decoding process of its own.
        weights: folder of the encoders' converted weights, on the machines that see it.

    Raises:
        ImportError: Ray is not installed.
    """
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise ImportError(
            "engine: 'ray' needs Ray; run `pip install -r requirements-scale.txt`, or choose engine 'local'"
        ) from error
    logging.getLogger("ray.data").setLevel(logging.ERROR)  # after its import, which sets it to chatter
    started = start_ray(ray)
    try:
        files = write_manifests(batches, manifests.resolve(), workers)
        share = min(1.0, 0.75 * ray.cluster_resources().get("CPU", 1.0) / workers)
        # The actors read the manifests themselves: Ray's own reader may cut or join files, and a batch must stay whole.
        names = ray.data.from_items([{"manifest": str(file)} for file in files], override_num_blocks=len(files))
        dataset = names.map_batches(
            EncodeActor,
            fn_constructor_kwargs={"media": str(media.resolve()), "weights": weights and str(weights.resolve())},
            batch_size=1,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(size=min(workers, len(files))),
            num_cpus=share,
        )
        dataset.context.execution_options.preserve_order = True
        dataset.context.enable_progress_bars = False
        for number, row in enumerate(dataset.iter_rows()):
            if row["number"] != number:
                raise RuntimeError(f"Ray Data: batch {number} was expected, received {row['number']}")
            yield unpack(row, batches[number])
    finally:
        shutil.rmtree(manifests, ignore_errors=True)
        if started:
            ray.shutdown()


def start_ray(ray: Any) -> bool:
    """Join the cluster of RAY_ADDRESS, or start Ray on this machine; True if there was none before."""
    if ray.is_initialized():
        return False
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    environment = {
        "PYTHONPATH": str(ROOT),
        "TF_USE_LEGACY_KERAS": "1",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        # Ray would allow one thread; as many as the local engine has, so that sums are taken in the same order.
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(os.cpu_count())),
    }
    ray.init(include_dashboard=False, log_to_driver=False, logging_level="error", runtime_env={"env_vars": environment})
    return True


class EncodeActor:
    """What runs on the machines: a manifest of batches in, one row of vectors a batch out.

    Args:
        media: the folder that paths are relative to.
        weights: folder of converted weights; on a machine that does not have the folder around it, its own is used.
    """

    def __init__(self, media: str, weights: str | None = None) -> None:
        self.media, self.weights = Path(media), Path(weights) if weights else None
        self._encoders: dict[tuple[str, str], Any] = {}

    def __call__(self, manifests: pa.Table) -> Iterator[pa.Table]:
        for manifest in manifests["manifest"].to_pylist():
            rows = pq.read_table(manifest).to_pylist()
            encoded = encode_batches(map(read_batch, rows), self.media, 1, self._make)
            for row, step in zip(rows, encoded, strict=True):
                yield pa.Table.from_pylist([pack(row["number"], step)], schema=ENCODED)

    def _make(self, modality: str, spec: str) -> Any:
        """The encoder, kept until another is asked for: manifests come modality by modality."""
        from towers.encoders import make_encoder

        if (modality, spec) not in self._encoders:
            self._encoders.clear()
            here = self.weights if self.weights and self.weights.parent.is_dir() else None
            self._encoders[modality, spec] = make_encoder(modality, spec, here)
        return self._encoders[modality, spec]


BATCH = pa.schema(
    {
        "number": pa.int64(),
        "spec": pa.string(),
        "card": pa.string(),
        "preprocessing": pa.string(),
        "keys": pa.list_(pa.binary(16)),
        "kinds": pa.list_(pa.string()),
        "values": pa.list_(pa.string()),
    }
)
"""One line of a manifest: a batch."""

ENCODED = pa.schema({"number": pa.int64(), "positions": pa.binary(), "vectors": pa.binary(), "refused": pa.string()})
"""What comes back of it: int64 [K], float32 [K, F_m] as bytes, and reasons by position."""


def write_manifests(batches: Sequence[Batch], folder: Path, workers: int) -> list[Path]:
    """Write batches as Parquet files, each of one modality and of at most `MANIFEST_CONTENTS` contents (or one batch)."""
    folder.mkdir(parents=True, exist_ok=True)
    contents: dict[str, int] = {}
    for batch in batches:
        contents[batch.card.modality] = contents.get(batch.card.modality, 0) + len(batch.keys)
    most = {name: min(MANIFEST_CONTENTS, -(-count // (MANIFESTS_EACH * workers))) for name, count in contents.items()}
    groups: list[list[dict[str, Any]]] = []
    modality, room = "", 0
    for number, batch in enumerate(batches):
        if batch.card.modality != modality or room < len(batch.keys):
            modality, room = batch.card.modality, most[batch.card.modality]
            groups.append([])
        room -= len(batch.keys)
        groups[-1].append(write_batch(number, batch))
    files = [folder / f"{number:08d}.parquet" for number in range(len(groups))]
    for file, group in zip(files, groups, strict=True):
        pq.write_table(pa.Table.from_pylist(group, schema=BATCH), file)
    return files


def write_batch(number: int, batch: Batch) -> dict[str, Any]:
    """A batch as a line of a manifest."""
    return {
        "number": number,
        "spec": batch.spec,
        "card": json.dumps(dataclasses.asdict(batch.card)),
        "preprocessing": json.dumps(dict(batch.preprocessing)),
        "keys": list(batch.keys),
        "kinds": [content.kind for content in batch.contents],
        "values": [content.value for content in batch.contents],
    }


def read_batch(row: dict[str, Any]) -> Batch:
    """The batch of a line of a manifest."""
    contents = tuple(Content(kind, value) for kind, value in zip(row["kinds"], row["values"], strict=True))
    card = EncoderCard(**json.loads(row["card"]))
    return Batch(row["spec"], card, tuple(row["keys"]), contents, json.loads(row["preprocessing"]))


def pack(number: int, encoded: Encoded) -> dict[str, Any]:
    """What an actor returns for a batch."""
    return {
        "number": number,
        "positions": encoded.positions.astype(np.int64).tobytes(),
        "vectors": encoded.vectors.astype(np.float32).tobytes(),
        "refused": json.dumps(encoded.refused),
    }


def unpack(row: dict[str, Any], batch: Batch) -> Encoded:
    """What `pack` packed."""
    vectors = np.frombuffer(row["vectors"], np.float32).reshape(-1, batch.card.width)
    refused = {int(position): reason for position, reason in json.loads(row["refused"]).items()}
    return Encoded(batch, np.frombuffer(row["positions"], np.int64), vectors, refused)
