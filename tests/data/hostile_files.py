"""A corpus of media files that nobody means well with: the same files for the same seed, a few hundred bytes or a bomb.

Families: cut (at every header boundary), flipped bits, noise behind a true first line, wrong names, nearly nothing,
declared sizes (pictures, sounds, tables of MP4, tracks), poisoned samples, extreme shapes, hours of silence, archives
and other kinds of file, bombs that inflate, and MIDI that would play for ever.
"""

from __future__ import annotations

import gzip
import io
import itertools
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator
from functools import cache

import numpy as np
import soundfile
from PIL import Image

from tests.data.media_files import (
    colour_steps,
    image_bytes,
    midi_bytes,
    midi_notes,
    midi_tempo,
    sound_bytes,
    tone,
    video_bytes,
)

HEADERS = re.compile(
    rb"IHDR|PLTE|tRNS|IDAT|IEND|\xff[\xc0-\xfe]|VP8[ LX]|ANIM|ANMF|GIF8[79]a|,\0\0\0\0|\x21\xf9"
    rb"|fmt |data|COMM|SSND|fLaC|OggS|OpusHead"
    rb"|ftyp|moov|mvhd|trak|mdia|stbl|stsd|mdat|\x15\x49\xa9\x66|\x16\x54\xae\x6b|\x1f\x43\xb6\x75|MThd|MTrk"
)
"""Where a header, a chunk, a marker, a page or a box begins, in one format or another."""
CUTS = 5
"""Of each good file at its headers, evenly chosen from the first to the last; one more is cut just before its end."""


def hostile_files(seed: int = 0, count: int = 500) -> Iterator[tuple[str, bytes]]:
    """Names and contents of `count` files; the hand-made ones first, then flipped bits until there are enough."""
    rng = np.random.default_rng(seed)
    families = (
        _cuts(), _noise(rng), _names(), _nothing(), _pictures(), _sounds(), _silences(), _boxes(), _archives(), _bombs(),
        _midis(), _flips(rng),
    )  # fmt: skip
    for place, (kind, content) in enumerate(itertools.islice(itertools.chain(*families), count)):
        yield f"{place:03d}-{kind}", content


@cache
def good_files() -> dict[str, bytes]:
    """One small file of every format, by its name."""
    pixels = np.random.default_rng(1).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    picture, turned = Image.fromarray(pixels), Image.Exif()
    turned[0x0112] = 6
    note, stereo = tone(440, 16_000, 0.5), np.stack([tone(440, 44_100, 0.5), tone(660, 44_100, 0.5)], axis=1)
    frames, track = colour_steps(), tone(440, 48_000, 1.0)
    others = [Image.fromarray(pixels[::-1]), Image.fromarray(pixels[:, ::-1])]
    return {
        "rgb.png": image_bytes(picture), "deep.png": image_bytes(pixels[..., 0].astype(np.uint16) * 256),
        "palette.png": image_bytes(picture.convert("P")), "alpha.png": image_bytes(picture.convert("RGBA")),
        "plain.jpg": image_bytes(picture, "JPEG", exif=turned), "cmyk.jpg": image_bytes(picture.convert("CMYK"), "JPEG"),
        "progressive.jpg": image_bytes(picture, "JPEG", progressive=True),
        "lossy.webp": image_bytes(picture, "WEBP"), "lossless.webp": image_bytes(picture, "WEBP", lossless=True),
        "moving.webp": image_bytes(picture, "WEBP", save_all=True, append_images=others),
        "still.gif": image_bytes(picture, "GIF"),
        "moving.gif": image_bytes(picture, "GIF", save_all=True, append_images=others, duration=100),
        "pcm.wav": sound_bytes(note, subtype="PCM_16"), "float.wav": sound_bytes(stereo, 44_100),
        "sound.flac": sound_bytes(stereo, 44_100, "FLAC", "PCM_16"),
        "sound.aiff": sound_bytes(note, 16_000, "AIFF", "PCM_16"),
        "vorbis.ogg": sound_bytes(stereo, 44_100, "OGG", "VORBIS"),
        "opus.ogg": sound_bytes(note, 16_000, "OGG", "OPUS"),
        "sound.mp3": sound_bytes(stereo, 44_100, "MP3", "MPEG_LAYER_III"),
        "sound.m4a": video_bytes(sound=track), "sound.aac": video_bytes(sound=track, kind="adts"),
        "clip.mp4": video_bytes(frames, sound=track),
        "clip.webm": video_bytes(frames, "webm", "libvpx-vp9", sound=track, sound_codec="libopus"),
        "clip.mkv": video_bytes(frames, "matroska", sound=track, sound_codec="flac"),
        "clip.mov": video_bytes(frames, "mov", "mpeg4", sound=track),
        "song.mid": midi_bytes([(0, midi_tempo(400_000))], midi_notes([60, 64, 67]), midi_notes([36, 38], channel=9)),
    }  # fmt: skip


def _cuts():
    for name, content in good_files().items():
        ends = sorted({place for found in HEADERS.finditer(content) for place in found.span() if place})
        chosen = {ends[round(i * (len(ends) - 1) / (CUTS - 1))] for i in range(CUTS)}
        for cut in sorted(chosen | {len(content) - 1}):
            yield f"cut-{cut}-{name}", content[:cut]


def _noise(rng):
    for name, content in good_files().items():
        yield f"noise-{name}", content[:16] + rng.bytes(4_000)
        yield f"noise-behind-half-{name}", content[: len(content) // 2] + rng.bytes(4_000)


def _names():
    names = list(good_files())
    for name, content in good_files().items():
        other = names[(names.index(name) * 7 + 13) % len(names)]
        yield f"named-{name.replace('.', '-')}.{other.rpartition('.')[2]}", content


def _nothing():
    for ending in ("png", "wav", "mp4", "mid"):
        yield f"empty.{ending}", b""
    yield from [("nul.png", b"\0"), ("nuls.mp4", bytes(5_000)), ("line.wav", b"\n"), ("ones.mp3", b"\xff" * 5_000)]


def _chunk(name, body):
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png(width, height, *chunks, depth=8, colour=2, data=b"", interlaced=0):
    """A PNG that declares any size, with any chunks before its data."""
    header = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced))
    data = data or zlib.compress(bytes(99))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + _chunk(b"IDAT", data) + _chunk(b"IEND", b"")


def _deflated(size, level=1):
    """`size` zeros, compressed a thousandfold without ever standing in memory."""
    press, block = zlib.compressobj(level), bytes(2**20)
    parts = [press.compress(block) for _ in range(size // len(block))]
    return b"".join([*parts, press.compress(bytes(size % len(block))), press.flush()])


def scan_bomb(pixels, scans):
    """A progressive JPEG of one colour whose last scan is repeated: each pass walks over the whole picture."""
    content = image_bytes(Image.new("L", (pixels, pixels), 90), "JPEG", progressive=True)
    last = content.rindex(b"\xff\xda")
    return content[:last] + content[last:-2] * scans + content[-2:]


def _pictures():
    for size in (8_000, 100_000, 2**31 - 1):
        yield f"declares-{size}.png", png(size, size)
    yield "declares-0.png", png(0, 0)
    yield "declares-strip.png", png(2**31 - 1, 1)
    still = good_files()["still.gif"]
    for size in (0, 9_000, 65_535):
        yield f"declares-{size}.gif", still[:6] + struct.pack("<HH", size, size) + still[10:]
    place = still.index(b",", 13 + 768)
    yield "frame-65535.gif", still[: place + 5] + b"\xff\xff\xff\xff" + still[place + 9 :]
    canvas = (16_383).to_bytes(3, "little")
    yield "declares-16384.webp", b"RIFF" + struct.pack("<I", 22) + b"WEBPVP8X" + struct.pack("<II", 10, 0) + canvas * 2
    moving = good_files()["moving.webp"]
    yield "canvas-16384.webp", moving[:24] + canvas * 2 + moving[30:]
    lossless = good_files()["lossless.webp"]
    yield "declares-lossless.webp", lossless[:21] + b"\xff\xff\xff\x0f" + lossless[25:]
    for name in ("plain.jpg", "progressive.jpg", "cmyk.jpg"):
        content = good_files()[name]
        place = max(content.find(b"\xff\xc0"), content.find(b"\xff\xc2"))
        for height, width in ((65_535, 65_535), (6_000, 6_500), (0, 32)):
            yield f"declares-{height}-{name}", content[: place + 5] + struct.pack(">HH", height, width) + content[place + 9 :]
    for kind, ending in (("PNG", "png"), ("JPEG", "jpg"), ("WEBP", "webp"), ("GIF", "gif")):
        yield f"one-pixel.{ending}", image_bytes(np.full((1, 1, 3), 200, np.uint8), kind)
        yield f"strip.{ending}", image_bytes(np.full((1, 16_000, 3), 200, np.uint8), kind)
    yield "large.png", png(6_300, 6_300, data=_deflated(6_300 * (6_300 * 3 + 1)))
    yield "large-alpha.png", png(6_300, 6_300, colour=6, data=_deflated(6_300 * (6_300 * 4 + 1)))
    yield "large-deep.png", png(6_300, 6_300, depth=16, colour=0, data=_deflated(6_300 * (6_300 * 2 + 1)))
    yield "large.jpg", image_bytes(Image.new("RGB", (6_300, 6_300), (90, 60, 30)), "JPEG", progressive=True)
    blank = Image.new("CMYK", (6_300, 6_300), (90, 60, 30, 0))
    yield "large-cmyk.jpg", image_bytes(blank, "JPEG", progressive=True)
    clear = Image.new("RGBA", (6_300, 6_300), (90, 60, 30, 9))
    yield "large-clear.webp", image_bytes(clear, "WEBP", lossless=True, method=0)
    yield "large.gif", image_bytes(Image.new("P", (6_300, 6_300)), "GIF")
    yield "large.webp", image_bytes(Image.new("RGB", (6_300, 6_300), (90, 60, 30)), "WEBP", lossless=True, method=0)
    yield "scans.jpg", scan_bomb(6_000, 2_000)
    yield "some-scans.jpg", scan_bomb(6_000, 6)


def wav(data, *, kind=1, channels=1, rate=16_000, bits=16, declared=None, magic=b"RIFF"):
    """A WAV with any header."""
    align = channels * bits // 8 & 0xFFFF
    head = struct.pack("<HHIIHH", kind, channels & 0xFFFF, rate, rate * align & 0xFFFFFFFF, align, bits)
    size = len(data) if declared is None else declared
    return magic + struct.pack("<I", size + 36 & 0xFFFFFFFF) + b"WAVEfmt " + struct.pack("<I", 16) + head + (
        b"data" + struct.pack("<I", size) + data
    )


def _sounds():
    data = (tone(440, 16_000, 0.5) * 30_000).astype("<i2").tobytes()
    yield "declares-4-gb.wav", wav(data, declared=2**32 - 1)
    yield "declares-ten-hours.wav", wav(data, declared=36_000 * 32_000)
    yield "declares-none.wav", wav(data, declared=0)
    yield "wide.wav", wav(data, channels=65_535)
    yield "no-channels.wav", wav(data, channels=0)
    yield "many-channels.wav", wav(data * 20, channels=16, rate=384_000)
    for rate in (0, 1, 999, 383_999, 2**32 - 1):
        yield f"rate-{rate}.wav", wav(data, rate=rate)
    for bits in (0, 1, 7, 64, 65_535):
        yield f"bits-{bits}.wav", wav(data, bits=bits)
    for code in (0, 2, 17, 49, 85, 0xFFFE, 0xFFFF):
        yield f"code-{code}.wav", wav(data, kind=code)
    yield "magic-rf64.wav", wav(data, magic=b"RF64")
    yield "magic-rifx.wav", wav(data, magic=b"RIFX")
    for name, value in (("nan", np.nan), ("infinite", np.inf), ("minus-infinite", -np.inf), ("huge", 3e38), ("tiny", 1e-42)):
        for some in (False, True):
            wave = tone(440, 44_100, 0.5)
            wave[slice(900, 905) if some else slice(None)] = value
            yield f"{name}-{'some' if some else 'all'}.wav", sound_bytes(np.stack([wave, -wave], axis=1), 44_100)
    yield "nan-double.aiff", sound_bytes(np.full(4_000, np.nan), 16_000, "AIFF", "DOUBLE")
    yield "one-sample.wav", wav(data[:2])
    yield "no-sample.wav", wav(b"")
    flac = good_files()["sound.flac"]
    for name, low in (("ten-hours", 36_000 * 44_100), ("unknown", 0), ("endless", 2**36 - 1)):
        packed = int.from_bytes(flac[18:26], "big") >> 36 << 36 | low  # rate, channels and bits stay
        yield f"declares-{name}.flac", flac[:18] + packed.to_bytes(8, "big") + flac[26:]
    for name in ("vorbis.ogg", "opus.ogg"):
        content = good_files()[name]
        last = content.rindex(b"OggS")
        for granule in (2**62, 2**63 - 1, 2**64 - 1, 36_000 * 48_000):
            yield f"granule-{granule}-{name}", content[: last + 6] + struct.pack("<Q", granule) + content[last + 14 :]
    aiff = good_files()["sound.aiff"]
    place = aiff.index(b"COMM") + 8
    yield "declares-frames.aiff", aiff[: place + 2] + b"\xff\xff\xff\xff" + aiff[place + 6 :]
    yield "rate-infinite.aiff", aiff[: place + 8] + b"\x7f\xff" + bytes(8) + aiff[place + 18 :]
    for layout, channels in (("7.1", 8), ("hexadecagonal", 16), ("22.2", 24)):
        sound = np.repeat(tone(440, 48_000, 0.5)[:, None], channels, axis=1)
        yield f"surround-{channels}.mkv", video_bytes(
            sound=sound, kind="matroska", sound_codec="pcm_s16le", layout=layout
        )
    yield "surround.m4a", video_bytes(sound=np.repeat(tone(440, 48_000, 0.5)[:, None], 8, axis=1), layout="7.1")
    yield "tag-without-end.mp3", b"ID3\x04\x00\x00\x7f\x7f\x7f\x7f" + good_files()["sound.mp3"]


def silence(hours, kind, subtype, rate=8_000):
    """Hours of silence, encoded a minute at a time."""
    buffer, minute = io.BytesIO(), np.zeros(rate * 60, np.int16)
    with soundfile.SoundFile(buffer, "w", rate, 1, subtype, format=kind) as file:
        for _ in range(int(hours * 60)):
            file.write(minute)
    return buffer.getvalue()


def _silences():
    yield "hour.flac", silence(1, "FLAC", "PCM_16")
    yield "two-hours.flac", silence(2, "FLAC", "PCM_16", 1_000)
    yield "hour.ogg", silence(1, "OGG", "VORBIS", 1_000)
    yield "hour.wav", silence(1, "WAV", "PCM_U8")
    still = np.zeros((2, 16, 16, 3), np.uint8)
    yield "quiet.mp4", video_bytes(still, sound=np.zeros(480_000, np.float32))


def box(name, *parts):
    """A box of an MP4."""
    body = b"".join(parts)
    return struct.pack(">I", 8 + len(body)) + name + body


def _boxes():
    clip = good_files()["clip.mp4"]

    def patched(name, offset, *numbers):
        place = clip.index(name) + offset
        return clip[:place] + struct.pack(f">{len(numbers)}I", *numbers) + clip[place + 4 * len(numbers) :]

    for count in (1_000, 50_000_000, 2**32 - 1):
        for name in (b"stsz", b"stts", b"stsc", b"stco", b"stss", b"ctts"):
            if name in clip:
                equal = (1, count) if name == b"stsz" else (count,)
                yield f"declares-{count}-{name.decode()}.mp4", patched(name, 8, *equal)
        run = box(b"moof", box(b"mfhd", bytes(8)), box(b"traf", box(b"tfhd", struct.pack(">II", 0, 1)),
                  box(b"trun", struct.pack(">II", 0, count))))  # fmt: skip
        yield f"declares-{count}-trun.mp4", clip + run
    yield "seconds-ten-hours.mp4", patched(b"mvhd", 16, 1, 36_000)
    yield "no-clock.mp4", patched(b"mdhd", 16, 0)
    yield "wide.mp4", patched(b"tkhd", 80, 2**32 - 1, 2**32 - 1)
    place = clip.index(b"avc1") + 28
    yield "wide-frames.mp4", clip[:place] + b"\xff\xff\xff\xff" + clip[place + 4 :]
    nested = b""
    for _ in range(5_000):
        nested = box(b"moov", nested)
    yield "nested.mp4", clip[:32] + nested
    yield "crowd.mp4", clip[:32] + box(b"free") * 500_000
    yield "boxes.mp4", clip[:32] + box(b"moov", box(b"free") * 2_000_000)
    yield "tracks.mp4", clip[:32] + box(b"moov", box(b"trak") * 500_000)
    yield "packed.mp4", box(b"ftyp", b"isom" + bytes(8)) + box(b"moov", box(b"cmov", _deflated(2**20)))
    for name, old, new in (("wide", b"\xb0\x81\x40", b"\xb0\x81\xff"), ("tall", b"\xba\x81\x30", b"\xba\x81\xff")):
        yield f"{name}.webm", good_files()["clip.webm"].replace(old, new)
    gif, frame = good_files()["moving.gif"], b"\x21\xf9\x04\x04\x01\x00\x00\x00,\0\0\0\0\x01\0\x01\0\0\x02\x02D\x01\0"
    yield "crowd.gif", gif[:-1] + frame * 300_000 + b";"
    yield "one-frame.mp4", video_bytes(np.full((1, 2, 2, 3), 90, np.uint8))
    yield "no-sound.webm", video_bytes(colour_steps(), "webm", "libvpx-vp9")
    yield "large.mp4", video_bytes(np.full((3, 2_160, 3_840, 3), 90, np.uint8), preset="ultrafast")
    yield "beyond.mp4", video_bytes(np.full((1, 4_320, 7_680, 3), 90, np.uint8), preset="ultrafast")


def _archives():
    def zipped(name, content):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
            file.writestr(name, content)
        return buffer.getvalue()

    inner = zipped("a.png", good_files()["rgb.png"])
    for depth in range(4):
        for ending in ("png", "wav", "mp4"):
            yield f"zip-{depth}.{ending}", inner
        inner = zipped("inner.zip", inner)
    yield "zip-bomb.png", zipped("zeros", bytes(50_000_000))
    yield "gzip.wav", gzip.compress(good_files()["pcm.wav"])
    yield "tar.mp3", b"song.mp3".ljust(257, b"\0") + b"ustar".ljust(1_791, b"\0")
    yield "page.gif", b"<!doctype html><img src=x onerror=alert(1)>" * 50
    yield "laughs.png", b'<?xml version="1.0"?><!DOCTYPE s [<!ENTITY a "aaaaaaaaaa">]><svg>' + b"&a;" * 1_000 + b"</svg>"
    yield "playlist.mp4", b"#EXTM3U\n#EXTINF:9,\nfile:///etc/passwd\n"
    yield "concat.mp4", b"ffconcat version 1.0\nfile '/etc/passwd'\n"
    yield "program.wav", b"\x7fELF" + bytes(2_000)
    yield "pickle.mp3", b"\x80\x04\x95\x1e\0\0\0\0\0\0\0\x8c\x05posix\x8c\x06system\x93\x8c\x04true\x85R."
    yield "tiff.png", image_bytes(Image.new("RGB", (8, 8)), "TIFF")
    yield "bitmap.jpg", image_bytes(Image.new("RGB", (8, 8)), "BMP")
    yield "polyglot.gif", good_files()["still.gif"] + inner
    yield "tail.jpg", good_files()["plain.jpg"] + bytes(100_000)


def _bombs():
    big = _deflated(300 * 2**20)
    yield "data.png", png(8, 8, data=big)
    yield "profile.png", png(8, 8, _chunk(b"iCCP", b"icc\0\0" + big))
    yield "text.png", png(8, 8, _chunk(b"zTXt", b"Comment\0\0" + big))
    yield "unicode.png", png(8, 8, _chunk(b"iTXt", b"Comment\0\x01\0\0\0" + big))
    yield "chunks.png", png(8, 8, _chunk(b"tEXt", b"a\0b") * 200_000)
    yield "markers.jpg", good_files()["plain.jpg"][:2] + b"\xff\xe1\x00\x02" * 1_000_000
    yield "interlaced.png", png(20_000, 2_000, data=_deflated(2_000 * 60_001), interlaced=1)
    yield "moving.png", png(8, 8, _chunk(b"acTL", struct.pack(">II", 2**31 - 1, 0)))
    yield "tags.wav", good_files()["pcm.wav"] + b"LIST\xff\xff\xff\x7fINFO" + bytes(1_000)
    yield "chunks.wav", good_files()["pcm.wav"][:12] + b"junk\0\0\0\0" * 300_000


def _midis():
    yield "million-notes.mid", midi_bytes([(0, b"\x90\x3c\x40" + b"\x01\x3c\x40" * 1_000_000)])
    yield "many-notes.mid", midi_bytes([(0, b"\x90\x3c\x40" + b"\x01\x3c\x40\x01\x3c\x00" * 29_000)])
    yield "one-chord.mid", midi_bytes([(0, b"\x90\x3c\x40" + b"\x00\x3c\x40" * 28_000), (48_000, b"\x80\x3c\x00")])
    yield "meta-events.mid", midi_bytes([(0, b"\xff\x01\x00")] * 100_000)
    yield "ten-hours.mid", midi_bytes([(0, midi_tempo(0xFFFFFF)), (0, b"\x90\x3c\x40"), (480 * 2_200, b"\x80\x3c\x00")])
    yield "zero-tempo.mid", midi_bytes([(0, midi_tempo(0))], midi_notes([69]))
    yield "slowest.mid", midi_bytes([(0, midi_tempo(0xFFFFFF))], midi_notes([69], ticks=0x0FFFFFFF))
    yield "no-notes.mid", midi_bytes([])
    yield "hanging.mid", midi_bytes([(0, b"\x90\x45\x40"), (100, b"\x90\x46\x40")])
    yield "too-high.mid", midi_bytes([(0, b"\x90\xff\xff"), (100, b"\x80\xff\x00")])
    for division in (0, 1, 0x7FFF, -25 * 256 + 40, -1):
        yield f"division-{division}.mid", midi_bytes(midi_notes([69]), division=division)
    song = good_files()["song.mid"]
    yield "tracks.mid", song[:10] + b"\xff\xff" + song[12:]
    yield "no-tracks.mid", song[:10] + b"\0\0" + song[12:]
    yield "track-length.mid", song[:18] + b"\xff\xff\xff\xff" + song[22:]
    yield "no-status.mid", midi_bytes([(0, b"\x3c\x40\x3c\x40")])
    yield "endless-delta.mid", midi_bytes([(0, b"\x90\x3c\x40" + b"\xff" * 3_000)])
    yield "open-message.mid", midi_bytes([(0, b"\xf0\x8f\xff\xff\x7f" + bytes(100))])


def _flips(rng):
    """Good files with a few bits turned over, for ever."""
    while True:
        for name, content in good_files().items():
            damaged = np.frombuffer(content, np.uint8).copy()
            places = rng.integers(0, min(len(damaged), int(rng.choice([64, 512, 1_000_000]))), int(rng.choice([1, 4, 32])))
            damaged[places] ^= np.uint8(1) << rng.integers(0, 8, len(places), dtype=np.uint8)
            yield f"flipped-{name}", damaged.tobytes()
