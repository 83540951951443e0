"""Containers of video and sound (MP4, MOV, WebM, MKV, GIF, AAC) opened with every door shut that FFmpeg leaves ajar.

The demuxer is named by the first bytes, so that no playlist can make FFmpeg fetch another file or address; codecs come
from a list; one thread; frames, packets, declared samples and seconds of work are bounded. Packets are read once into
memory (a file is at most `MAX_BYTES`), and decoders pick from that list: no seeking, the same answer every time.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager

import av
from av.container import InputContainer
from av.packet import Packet
from av.stream import Stream

from data.bounded_file import WORK_SECONDS, BoundedFile
from data.media import MAX_FRAME_PIXELS, MediaError, broken

DEMUXERS = {"mp4": "mov", "matroska": "matroska", "gif": "gif", "aac": "aac"}
VIDEO_CODECS = frozenset({"h264", "hevc", "vp8", "vp9", "av1", "mpeg4", "mjpeg", "gif", "h263", "prores"})
AUDIO_CODECS = frozenset({"aac", "mp3", "opus", "vorbis", "flac", "alac", "ac3", "eac3", "amr_nb"})
MAX_PACKETS = 250_000
"""Of one stream: over an hour at 60 frames a second."""
MAX_DECLARED_SAMPLES = 8_000_000
"""Entries that the tables of an MP4 may ask FFmpeg to lay out; each takes up to 40 bytes."""
MAX_TABLES = 100_000
MAX_HEADER_BYTES = 8 * 2**20
"""Of an MP4, all boxes but the media data: FFmpeg walks over every box in them, however small and deep it lies."""
SKIPPED_BOXES = frozenset({b"mdat", b"free", b"skip"})
MP4_BOXES = frozenset({b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"styp"})
PER_SAMPLE_FLAGS = 0xF00
"""Of a fragment's `trun` box: duration, size, flags and offset, four bytes a sample each."""


def container_format(content: bytes) -> str:
    """Which container the first bytes announce: "mp4", "matroska", "gif", "aac", or "" for none of them.

    Example:
        >>> container_format(b"GIF89a"), container_format(b"#EXTM3U")
        ('gif', '')
    """
    if content[4:8] in MP4_BOXES:
        return "mp4"
    if content.startswith(b"\x1a\x45\xdf\xa3"):
        return "matroska"
    if content.startswith((b"GIF87a", b"GIF89a")):
        return "gif"
    if len(content) > 1 and content[0] == 0xFF and content[1] & 0xF6 == 0xF0:
        return "aac"  # ADTS: twelve set bits and layer 0, which MP3 never has
    return ""


@contextmanager
def open_container(content: bytes) -> Iterator[tuple[InputContainer, BoundedFile]]:
    """Open one file for reading; whatever fails inside the block becomes a `MediaError`.

    Yields:
        The container, and the file under it, whose `check` bounds the work.

    Raises:
        MediaError: an unknown container, tables that declare more than they hold, or broken data.
    """
    if not content:
        raise MediaError("empty: the file has zero bytes; upload it again")
    kind = container_format(content)
    if not kind:
        raise MediaError("not a video: none of MP4, MOV, WebM, MKV, animated GIF; convert it to one of them")
    if kind == "mp4":
        _check_boxes(content)
        _check_tables(content)
    file, demuxer = BoundedFile(content), DEMUXERS[kind]
    try:
        options = {"max_pixels": str(MAX_FRAME_PIXELS), "threads": "1"}
        with av.open(file, "r", demuxer, options=options, metadata_errors="ignore", timeout=WORK_SECONDS) as container:
            yield container, file
        file.check()
    except MediaError:
        raise
    except Exception as error:  # a hostile file may raise anything inside the decoder; the reason keeps its name
        file.check()
        raise broken("video" if kind != "aac" else "audio", error, "export it again from the original") from error


def prepare(stream: Stream, codecs: frozenset[str]) -> None:
    """Allow a listed codec only, and set its bounds before it opens."""
    codec = stream.codec_context
    name = codec.codec.canonical_name if codec is not None else "none"
    if name not in codecs and not (name.startswith("pcm_") and "aac" in codecs):
        raise MediaError(f"not supported: codec {name}; convert it to one of {', '.join(sorted(codecs))}")
    codec.thread_count = 1
    codec.thread_type = "NONE"
    codec.options = {"max_pixels": str(MAX_FRAME_PIXELS)}


def read_packets(container: InputContainer, stream: Stream, file: BoundedFile) -> list[Packet]:
    """Every packet of one stream that has data and a time, in the order they are decoded.

    Raises:
        MediaError: more than `MAX_PACKETS`, or too much work.
    """
    packets: list[Packet] = []
    for count, packet in enumerate(container.demux(stream)):
        if count >= MAX_PACKETS:
            raise MediaError(f"too large: at most {MAX_PACKETS:,} packets in a stream; cut an excerpt")
        if count % 64 == 0:
            file.check(always=True)
        if packet.size and packet_time(packet) is not None:
            packets.append(packet)
    return packets


def packet_time(packet: Packet) -> int | None:
    """When it is shown, in units of the stream's time base; its decoding time where no other is given."""
    return packet.dts if packet.pts is None else packet.pts


def _check_boxes(content: bytes) -> None:
    """The boxes on the first level of an MP4: few enough, and headers of a believable size."""
    position = count = header = 0
    while position + 8 <= len(content):
        size = int.from_bytes(content[position : position + 4], "big")
        if size == 1:
            size = int.from_bytes(content[position + 8 : position + 16], "big")
        size = min(size or len(content), len(content) - position)
        count += 1
        if content[position + 4 : position + 8] not in SKIPPED_BOXES:
            header += size
        if count > MAX_TABLES or header > MAX_HEADER_BYTES:
            raise MediaError(f"too large: an MP4 may have {MAX_HEADER_BYTES:,} bytes of headers; cut an excerpt")
        position += max(8, size)


def _check_tables(content: bytes) -> None:
    """Tables of an MP4 that name a number of equal samples are laid out in full on opening: a bomb of twenty bytes.

    They are found by name wherever they stand, because FFmpeg reads them wherever they stand.
    """
    if b"cmov" in content[:MAX_TABLES] or b"cmov" in content[-MAX_TABLES:]:
        raise MediaError("not supported: a compressed movie header; export it again as MP4")
    declared = 0
    for name in (b"stsz", b"trun"):
        position, tables = content.find(name), 0
        while position >= 0:
            tables += 1
            declared += _declared(content, position)
            if declared > MAX_DECLARED_SAMPLES or tables > MAX_TABLES:
                raise MediaError("broken video: its tables declare more samples than it can hold; export it again")
            position = content.find(name, position + 4)


def _declared(content: bytes, position: int) -> int:
    """Samples that the table named at `position` asks for without listing them; 0 where no table stands there."""
    size = int.from_bytes(content[max(0, position - 4) : position], "big")
    body = position + (12 if size == 1 else 4)
    if 1 < size < 16 or size > len(content):
        return 0
    first, second, third = struct.unpack(">III", content[body : body + 12].ljust(12, b"\0"))
    if content[position : position + 4] == b"stsz":
        return third if second else 0
    return second if not first & PER_SAMPLE_FLAGS else 0
