"""The `item_encoder` model of a release: a new item's raw text, picture and sound in, its embedding out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tensorflow as tf

from data.schema import UNKNOWN_ROW
from serving.graphs.keras_weights import KerasWeights
from serving.graphs.partial_weights import PartialWeights
from serving.graphs.raw_audio import fit_clips
from serving.graphs.raw_encoder import RawEncoder, UnsupportedEncoderError, make_raw_encoder
from serving.graphs.raw_picture import decode_pictures
from serving.graphs.raw_text import item_text
from serving.index.index import Compiled
from serving.saved_model import write_saved_model

SIGNATURE = "serving_default"

RAW_INPUTS = (
    tf.TensorSpec((None,), tf.string, "title"),
    tf.TensorSpec((None,), tf.string, "description"),
    tf.TensorSpec((None,), tf.string, "categories"),
    tf.TensorSpec((None,), tf.string, "image_bytes"),
    tf.TensorSpec((None, None), tf.float32, "audio"),
    tf.TensorSpec((None,), tf.int32, "audio_length"),
    tf.TensorSpec((None, None), tf.string, "video_frames_bytes"),
)
"""What every request brings, whichever of it the towers of this release read."""


class ItemEncoderModule(tf.Module):
    """Encoders and item tower as one function from raw content to an embedding beside those of the index.

    A new item has no row: it is exactly what its content says. A modality whose encoder has no form in operations takes
    its vector with the request instead (`<modality>_vector`).

    Args:
        item_tower: built; `item_tower(rows [B], {modality: [B, F_m]}, present [B, M])` returns (embeddings [B, D],
            anything). Of its tables by item, `id_embedding.embeddings`, `known` and `domain`, nothing is exported.
        widths: F_m of the modalities that the tower reads, in its order.
        encoders: the encoder of each modality that has one; the others take vectors.
        content_map: of an ensemble (`towers.ensemble`): its second half of outputs follows the item tower's embedding.

    Raises:
        ValueError: an encoder of another width than the tower reads.
    """

    def __init__(
        self, item_tower: Any, widths: Mapping[str, int], encoders: Mapping[str, Any], content_map: Any = None
    ):
        super().__init__(name="item_encoder")
        self.widths = dict(widths)
        self.encoders = raw_encoders(widths, encoders)
        tables = [item_tower.id_embedding.embeddings, item_tower.known]
        # An item without a row is of the unknown domain, which no adapter changes.
        tables += [item_tower.domain] if getattr(item_tower, "adapters", None) is not None else []
        self.id_width, self.domain_tables = int(tables[0].shape[1]), len(tables) - 2
        self.item_tower = PartialWeights(item_tower, "item_tower", tables)
        self.content_map = None if content_map is None else KerasWeights(content_map, "content_map")
        self.linear_width = 0 if content_map is None else content_map.outputs // 2
        self.vector_inputs = tuple(name for name in self.widths if name not in self.encoders)
        vectors = [tf.TensorSpec((None, None), tf.float32, f"{name}_vector") for name in self.vector_inputs]
        signature = [*RAW_INPUTS, *vectors]
        self._names = tuple(spec.name for spec in signature)
        self.encode = Compiled(self._encode, signature)

    def _encode(self, *values):
        """`serving_default`.

        Shapes: title, description, categories ("a|b") string [B], image_bytes string [B] (JPEG, PNG, WebP or GIF, "" =
        none), audio f32 [B, S] at 16 kHz with audio_length int32 [B] (0 = none), video_frames_bytes string [B, T]
        (pictures of frames, T = 0: none) and, for each of `vector_inputs`, <modality>_vector f32 [B, F_m] (zeros, or
        width 0: none) -> {"embedding": f32 [B, D], "present": bool [B, M], "<modality>_vector": f32 [B, F_m], zeros
        where absent}. What cannot be decoded is absent; an item of which nothing is present has the embedding 0.
        """
        given = dict(zip(self._names, values, strict=True))
        vectors, present = {}, []
        for name, width in self.widths.items():
            content, there = self._content(name, given)
            raw = self.encoders.get(name)
            vectors[name] = content if raw is None else _encode_present(raw, content, there, width)
            present.append(there)
        mask = tf.stack(present, axis=1)
        rows = tf.fill(tf.shape(mask)[:1], UNKNOWN_ROW)
        stand_ins = [tf.zeros((1, self.id_width)), tf.zeros((1,)), *[tf.zeros((1,), tf.int32)] * self.domain_tables]
        embeddings = self.item_tower(stand_ins, rows, vectors, mask)[0]
        if self.content_map is not None:
            linear = self.content_map(vectors, mask)[:, self.linear_width :]
            embeddings = tf.concat([embeddings, linear], axis=1)
        outputs = {f"{name}_vector": vector for name, vector in vectors.items()}
        return {"embedding": embeddings, "present": mask, **outputs}

    def _content(self, name: str, given: Mapping[str, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
        """Decoded content of a modality and which rows have it."""
        raw, width = self.encoders.get(name), self.widths[name]
        if raw is None:
            vector = given[f"{name}_vector"]
            # Width 0 says that no item has one.
            vector = tf.pad(vector, [[0, 0], [0, tf.where(tf.shape(vector)[1] == 0, width, 0)]])
            return tf.ensure_shape(vector, (None, width)), tf.reduce_any(vector != 0.0, axis=1)
        if name == "text":
            text = item_text(given["title"], given["description"], given["categories"])
            return text, text != ""
        if name == "audio":
            return fit_clips(given["audio"], given["audio_length"], raw.size)
        if name == "image":
            return decode_pictures(given["image_bytes"], raw.size)
        return raw.decode(given["video_frames_bytes"])  # type: ignore[attr-defined]

    def save(self, folder: str | Path) -> None:
        """Writes the SavedModel into a new folder, normally `item_encoder/<version>`."""
        write_saved_model(self, folder, {SIGNATURE: self.encode.function})


def raw_encoders(widths: Mapping[str, int], encoders: Mapping[str, Any]) -> dict[str, RawEncoder]:
    """The operations of the encoders that have them, by modality.

    Raises:
        ValueError: an encoder of another width than the tower reads.
    """
    raw = {}
    for name, width in widths.items():
        if name not in encoders:
            continue
        if encoders[name].width != width:
            raise ValueError(
                f"encoders[{name!r}]: the tower reads width {width}, {encoders[name].name} has {encoders[name].width}; "
                f"take both from one run"
            )
        try:
            raw[name] = make_raw_encoder(encoders[name])
        except UnsupportedEncoderError:
            continue
    return raw


def _encode_present(raw: RawEncoder, content: tf.Tensor, present: tf.Tensor, width: int) -> tf.Tensor:
    """Vectors [B, F_m] of the rows that are present, computed for those alone; zeros elsewhere."""
    places = tf.where(present)
    some = tf.cond(
        tf.shape(places)[0] > 0,
        lambda: tf.ensure_shape(raw(tf.gather(content, places[:, 0])), (None, width)),
        lambda: tf.zeros((0, width)),
    )
    return tf.scatter_nd(places, some, tf.stack([tf.shape(present, tf.int64)[0], width]))
