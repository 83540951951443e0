"""Video files of the generated worlds: frames and sound as MP4 with H.264 and AAC, the same bytes every time."""

from __future__ import annotations

import io
from fractions import Fraction

import av
import numpy as np

from data.world_frames import RATE as FRAME_RATE
from data.world_instruments import RATE

_PICTURE = {"preset": "veryfast", "qp": "28", "threads": "1", "x264-params": "sync-lookahead=0:mbtree=0"}
"""A fixed quantiser: x264's rate control looks at memory it has not written, and then files differ from run to run."""
_SOUND_BLOCK = 1024
"""Samples of an AAC frame."""


def mp4_bytes(frames: np.ndarray, samples: np.ndarray | None) -> bytes:
    """Frames and sound as an MP4 file, without any time of writing in it.

    Args:
        frames: uint8 [T, H, W, 3], H and W even, at `data.world_frames.RATE`.
        samples: int16 [n] at 16 kHz, mono; None makes a silent video, without a sound track.

    Returns:
        The file's bytes; one thread encodes, so that they are the same on every run.
    """
    content = io.BytesIO()
    with av.open(content, "w", format="mp4", options={"fflags": "+bitexact"}) as container:
        picture = container.add_stream("libx264", rate=FRAME_RATE, options=_PICTURE)
        picture.height, picture.width = frames.shape[1:3]
        picture.pix_fmt = "yuv420p"
        picture.thread_count = 1
        picture.codec_context.flags |= av.codec.context.Flags.bitexact
        sound = None
        if samples is not None:
            sound = container.add_stream("aac", rate=RATE, options={"b": "48000", "aac_coder": "fast"})
            sound.layout = "mono"
            sound.codec_context.flags |= av.codec.context.Flags.bitexact
        for pixels in frames:
            container.mux(picture.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(picture.encode(None))
        if sound is not None and samples is not None:
            for start in range(0, len(samples), _SOUND_BLOCK):
                block = av.AudioFrame.from_ndarray(samples[None, start : start + _SOUND_BLOCK], format="s16", layout="mono")
                block.sample_rate, block.pts, block.time_base = RATE, start, Fraction(1, RATE)
                container.mux(sound.encode(block))
            container.mux(sound.encode(None))
    return content.getvalue()
