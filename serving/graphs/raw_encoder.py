"""What a graph needs of an encoder: raw content in, the encoder's own vectors out, in TensorFlow operations alone."""

from __future__ import annotations

from typing import Any, Protocol

import tensorflow as tf

from serving.graphs.raw_audio import SignalAudio, SpectrogramAudio
from serving.graphs.raw_image import ScaledImage
from serving.graphs.raw_picture import decode_pictures
from serving.graphs.raw_signal_image import SignalImage
from serving.graphs.raw_signal_text import SignalText
from serving.graphs.raw_text import SentencePieceText, WordPieceText, XlmRobertaText


class RawEncoder(Protocol):
    """An encoder of `towers` written once more as operations that a server runs.

    A raw encoder is a `tf.Module` whose weights and tables are plain variables and constants. It gives the vectors of
    the encoder that it stands for, to rounding: `tests/serving/export/test_item_encoder.py` holds both to a cosine of 0.999.

    Attributes:
        width: F_m.
        size: what it takes of one item: characters at most, pixels a side, or samples at 16 kHz.

    Shapes: text string [B], pictures uint8 [B, size, size, 3] or clips float32 [B, size] -> float32 [B, F_m].
    """

    width: int
    size: int

    def __call__(self, content: Any) -> Any:
        """Vectors of a batch."""


class UnsupportedEncoderError(ValueError):
    """No graph of this encoder: its content cannot be taken raw. The message says what else to do."""


class JoinedRaw(tf.Module):
    """See `towers.joined_encoder.JoinedEncoder`: several vectors side by side, each of unit mean square."""

    def __init__(self, encoder: Any):
        super().__init__(name="joined")
        self.width, self.size, self.modality = encoder.width, encoder.size, encoder.modality
        self.parts = [make_raw_encoder(part) for part in encoder.parts]

    def __call__(self, content: Any) -> tf.Tensor:
        """Vectors of a batch."""
        return tf.concat([unit_mean_square(part(self._fit(content, part.size))) for part in self.parts], axis=1)

    def _fit(self, content: Any, size: int) -> Any:
        if size == self.size or self.modality == "text":  # every text encoder cuts its own text
            return content
        return content[:, :size] if self.modality == "audio" else shrink(content, self.size, size)


class VideoFrames(tf.Module):
    """See `towers.video_encoder.VideoEncoder`: pictures of a video's frames, since no operation decodes a video.

    Shapes: uint8 [B, frames, size, size, 3] -> float32 [B, frames * F].
    """

    def __init__(self, encoder: Any):
        super().__init__(name="video")
        self.width, self.size, self.frames = encoder.width, encoder.size, encoder.frames
        self.image = make_raw_encoder(encoder.image_encoder)

    def decode(self, contents: Any) -> tuple[tf.Tensor, tf.Tensor]:
        """Encoded pictures string [B, T] to the frames that are read, evenly spaced among the T, and present bool [B]:
        whether all of these could be decoded."""
        given = tf.shape(contents)[1]
        places = (2 * tf.range(self.frames) + 1) * given // (2 * self.frames)
        chosen = tf.gather(tf.pad(contents, [[0, 0], [0, 1]]), places, axis=1)
        pictures, present = decode_pictures(tf.reshape(chosen, (-1,)), self.size)
        pictures = tf.reshape(pictures, (-1, self.frames, self.size, self.size, 3))
        return pictures, tf.reduce_all(tf.reshape(present, (-1, self.frames)), axis=1)

    def __call__(self, videos: Any) -> tf.Tensor:
        """Vectors of videos."""
        frames = tf.reshape(videos, (-1, self.size, self.size, 3))
        return tf.reshape(self.image(frames), (-1, self.width))


def make_raw_encoder(encoder: Any) -> RawEncoder:
    """The operations of an encoder.

    Raises:
        UnsupportedEncoderError: `hub:` and `keras_hub:` encoders whose preprocessing has no operations here, and
            ready-made vectors.
    """
    encoder = getattr(encoder, "base", encoder)  # a tuned encoder is its base with other weights
    if hasattr(encoder, "parts"):
        return JoinedRaw(encoder)
    if encoder.modality == "video":
        return VideoFrames(encoder)
    if encoder.name == "signal:":
        signal: dict[str, Any] = {"text": SignalText, "image": SignalImage, "audio": SignalAudio}
        return signal[encoder.modality](encoder)
    made = _pretrained(encoder)
    if made is None:
        raise UnsupportedEncoderError(
            f"encoder: {encoder.name} has no form in TensorFlow operations for {encoder.modality}; give its vectors "
            f"with the request (`{encoder.modality}_vector`), or choose a pack: or signal: encoder"
        )
    return made


def _pretrained(encoder: Any) -> RawEncoder | None:
    tokenizer = getattr(getattr(encoder, "preprocessor", None), "tokenizer", None)
    if encoder.modality == "text" and type(tokenizer).__name__ == "BertTokenizer":
        return WordPieceText(encoder)
    if encoder.modality == "text" and type(tokenizer).__name__ == "XLMRobertaTokenizer":
        return XlmRobertaText(encoder)
    if encoder.modality == "text" and isinstance(getattr(getattr(encoder, "tokenizer", None), "model", None), bytes):
        return SentencePieceText(encoder)
    if encoder.modality == "image" and hasattr(encoder, "model"):
        try:
            return ScaledImage(encoder)
        except ValueError:  # its preprocessing is more than a scale
            return None
    if encoder.modality == "audio" and hasattr(encoder, "spectrogram"):
        return SpectrogramAudio(encoder)
    return None


def unit_mean_square(vectors: tf.Tensor) -> tf.Tensor:
    """Rows divided by their root mean square; zeros stay zeros."""
    square = tf.reduce_mean(tf.square(vectors), axis=1, keepdims=True)
    return vectors / tf.sqrt(tf.where(square > 0, square, 1.0))


def shrink(images: tf.Tensor, before: int, after: int) -> tf.Tensor:
    """Pictures made smaller by area averages, as `towers.joined_encoder.shrink`: uint8 in, uint8 out."""
    edges = tf.linspace(0.0, float(before), after + 1)
    start = tf.range(before, dtype=tf.float32)[None, :]
    covered = tf.minimum(start + 1, edges[1:, None]) - tf.maximum(start, edges[:-1, None])
    share = tf.maximum(covered, 0.0) * (after / before)
    squeezed = tf.einsum("yh,xw,bhwc->byxc", share, share, tf.cast(images, tf.float32))
    return tf.cast(tf.round(squeezed), tf.uint8)
