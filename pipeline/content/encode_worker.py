"""The process that decodes media for the encode stage: `python -m pipeline.content.encode_worker <file descriptor>`.

A process of its own, because a decoder written in C may crash or hang on a hostile file, and must not take the run with
it. It imports `data` only, so it starts in a fraction of a second. Requests are JSON lists; the answer to each file is
one message: `b"A"` and the raw bytes of the array, or `b"E"` and the reason. Nothing is unpickled.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from data.content_key import content_key
from data.media import MediaError, read_media

READY = b"ready"
"""The first message: the process has started."""
NICENESS = 10
"""Decoders fill the time that the encoder leaves; where both want the same core, the encoder goes first. On two cores
the stage ran at .90 of the bare encoders' speed with 5 and at .94 with 10; with 19 anybody's work would starve it."""


def decoder_of(kind: str) -> Callable[..., np.ndarray]:
    """The decoder of a kind of content, imported when the first such file comes."""
    if kind == "image":
        from data.image_decoder import decode_image

        return decode_image
    if kind == "audio":
        from data.audio_decoder import decode_audio

        return decode_audio
    from data.video_decoder import decode_sound_track, decode_video

    if kind == "sound":
        return decode_sound_track
    return lambda content, frames, side: decode_video(content, frames=frames, size=side)


def decode_file(request: dict[str, Any]) -> np.ndarray:
    """Read one file, check that it is still what was hashed, and decode it.

    Args:
        request: media and name (where the file lies), kind, arguments (what the decoder is asked for), key, fingerprint and
            preprocessing (what the file was filed under).

    Raises:
        MediaError: it cannot be read or decoded, or was changed meanwhile.
    """
    try:
        content = read_media(request["media"], request["name"])
    except MediaError as error:  # it could be read when it was hashed
        raise MediaError(f"changed: {error}") from error
    if content_key(content, request["fingerprint"], request["preprocessing"]).hex() != request["key"]:
        raise MediaError("changed: the file was replaced while it was being encoded; run `encode` again")
    return decoder_of(request["kind"])(content, *request["arguments"])


def answer(request: dict[str, Any]) -> bytes:
    """The message for one file; whatever a decoder raises is a reason, not the end of the process."""
    try:
        return b"A" + np.ascontiguousarray(decode_file(request)).tobytes()
    except MediaError as error:
        return b"E" + str(error).encode()
    except Exception as error:
        return b"E" + f"decoder failed: {type(error).__name__}: {error}".encode()


def serve(connection: Connection) -> None:
    """Answer requests until the other side goes away."""
    connection.send_bytes(READY)
    while True:
        try:
            requests = json.loads(connection.recv_bytes())
        except EOFError:
            return
        for request in requests:
            connection.send_bytes(answer(request))


def main(descriptor: int) -> None:
    """Serve the process that holds the other end of a file descriptor, and leave without noise when it is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle: it closes the connection
    os.nice(NICENESS)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # codecs chat on standard error about every odd file
    with suppress(BrokenPipeError, ConnectionResetError):
        serve(Connection(descriptor))


if __name__ == "__main__":
    main(int(sys.argv[1]))
