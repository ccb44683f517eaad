"""What a media file is, told by its first bytes, and the formats that are opened at all."""

from __future__ import annotations

import base64
import binascii
import re
from pathlib import Path, PurePath
from typing import Literal

HEAD = 400
"""Bytes from the start of a file that tell what it is."""

IMAGE_FORMATS = (
    "PNG", "JPEG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "PPM", "JPEG2000", "AVIF", "ICO",
)  # fmt: skip
VIDEO_FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,flv,asf,mpegts,mpeg,mpegvideo,m4v,h264,hevc,mjpeg,"
    "ogg,gif,apng"
)
"""Names of ffmpeg's demuxers: all that read a single file and open no other."""


def media_type(head: bytes) -> Literal["image", "video"] | None:
    """What a file is by its first ``HEAD`` bytes; None for neither. A GIF counts as an image here:
    whether it moves, only decoding tells.
    """
    images = (
        b"\x89PNG\r\n", b"\xff\xd8\xff", b"GIF8", b"BM", b"II*\0", b"MM\0*", b"\0\0\1\0",
        b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51", b"P5\n", b"P6\n",
    )  # fmt: skip
    videos = (
        b"\x1a\x45\xdf\xa3",  # Matroska, WebM
        b"FLV\1",
        b"\x30\x26\xb2\x75\x8e\x66\xcf\x11",  # ASF: wmv
        b"\0\0\1\xba",  # MPEG program stream
        b"\0\0\1\xb3",  # MPEG-1 and 2 video
        b"\0\0\1\xb0",  # MPEG-4 video
        b"\0\0\0\1\x67",  # H.264
        b"\0\0\0\1\x40\1",  # H.265
        b"OggS",
    )
    if head[:4] == b"RIFF":
        return {b"WEBP": "image", b"AVI ": "video"}.get(head[8:12])  # type: ignore[return-value]
    if head[4:8] == b"ftyp":
        return "image" if head[8:12] in (b"avif", b"avis", b"heic", b"mif1") else "video"
    if head[4:8] in (b"moov", b"mdat", b"wide") or head.startswith(videos):
        return "video"
    if len(head) > 376 and any(  # transport streams: packets of 188 bytes, or 192 with a time each
        head[first] == head[first + size] == 0x47 for first, size in ((0, 188), (4, 192))
    ):
        return "video"
    return "image" if head.startswith(images) else None


BASE64 = re.compile(r"[A-Za-z0-9+/_\-\s]+=*\s*")


def unpacked(text: str) -> bytes | None:
    """The picture or clip that a text is the base64 form of; None where it is none."""
    if not BASE64.fullmatch(text[: 4 * HEAD]):
        return None
    try:
        data = base64.b64decode(text, altchars=b"-_" if "-" in text or "_" in text else None)
    except (binascii.Error, ValueError):
        return None
    return data if media_type(data[:HEAD]) else None


FRAME_SUFFIXES = frozenset(".jpg .jpeg .png .webp .bmp".split())
"""Suffixes of the pictures that are frames of a clip which is kept as a folder."""


def frame_order(name: PurePath) -> tuple[int, str]:
    """Sorts the frames of a clip by the last number of their names: ``10.jpg`` after ``9.jpg``."""
    numbers = re.findall(r"[0-9]+", name.stem)
    return (int(numbers[-1]) if numbers else -1, name.name)


POINTER = "a pointer of Git LFS, not the file itself: fetch it with `git lfs pull` or `hf download`"


def is_pointer(file: Path) -> bool:
    """Whether a clone without Git LFS left its pointer in the place of a file."""
    mark = b"version https://git-lfs.github.com/spec/"
    try:
        with file.open("rb") as opened:
            return opened.read(len(mark)) == mark
    except OSError:
        return False


def is_frame(name: PurePath) -> bool:
    """Whether a file may be a frame of a clip that is kept as a folder, by its name."""
    return name.suffix.lower() in FRAME_SUFFIXES and not name.name.startswith(".")


def frame_files(folder: Path) -> list[Path]:
    """The pictures of a clip that is kept as a folder, in the order in which they are shown."""
    return sorted((f for f in folder.iterdir() if is_frame(f)), key=frame_order)
