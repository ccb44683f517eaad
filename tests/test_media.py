"""Decoding: what is readable is read whole, what is not is an error of its own with a reason."""

from __future__ import annotations

import io
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image as PILImage

from evalkit.errors import DataError
from evalkit.media import decode_image, decode_video
from evalkit.rows import image_size
from evalkit.types import Image, Video


def clip(
    container: str,
    codec: str = "mpeg4",
    title: str | None = None,
    size: tuple[int, int] = (64, 48),
    pixels: str = "yuv420p",
) -> bytes:
    """Eight frames, each brighter than the one before."""
    out = io.BytesIO()
    with av.open(out, "w", format=container) as file:
        if title:
            file.metadata["title"] = title
        stream = file.add_stream(codec, rate=8)
        stream.width, stream.height = size
        stream.pix_fmt = pixels
        for i in range(8):
            frame = np.full((size[1], size[0], 3), 30 * i, dtype=np.uint8)
            file.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        file.mux(stream.encode())
    return out.getvalue()


def of_two_sizes() -> bytes:
    out = io.BytesIO()
    with av.open(out, "w", format="matroska") as file:
        stream = file.add_stream("mjpeg", rate=8)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p"
        number = 0
        for size in ((64, 48), (96, 64)):
            with av.open(
                io.BytesIO(clip("mjpeg", "mjpeg", size=size, pixels="yuvj420p")), format="mjpeg"
            ) as single:
                for packet in single.demux(video=0):
                    if packet.size:
                        packet.stream, packet.time_base = stream, Fraction(1, 1000)
                        packet.pts = packet.dts = 125 * number
                        packet.duration = 125
                        number += 1
                        file.mux(packet)
    return out.getvalue()


def every(total: int, fps: float) -> range:
    return range(total)


def test_frames_come_in_order_and_only_the_chosen_ones() -> None:
    frames = decode_video(Video(clip("mp4")), lambda total, fps: [1, 4, total - 1])
    assert frames.shape == (3, 48, 64, 3) and frames.dtype == np.uint8
    assert np.abs(frames.mean((1, 2, 3)) - [30, 120, 210]).max() < 6


def test_a_title_in_another_encoding_does_no_harm() -> None:
    named = clip("mp4", title="Cafe XXXX").replace(b"Cafe XXXX", b"Caf\xe9 XXXX")
    assert (decode_video(Video(named), every) == decode_video(Video(clip("mp4")), every)).all()


@pytest.mark.parametrize(
    ("video", "reason"),
    [
        (Video(clip("avi").replace(b"FMP4", b"QQQQ")), "no decoder"),
        (Video(of_two_sizes()), "the frames change size .*64x48, 96x64"),
        (Video(clip("mp4"), start=float("nan")), "unreadable video"),
        (Video(clip("mp4"), end=float("inf")), "unreadable video"),
        (Video(clip("mp4"), start=100.0), "holds no frame"),
        (Video(clip("mp4")[:400]), "unreadable video"),
        (Video(b"rubbish"), "unreadable video"),
    ],
)
def test_a_clip_that_cant_be_shown_says_why(video: Video, reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        decode_video(video, every)


def damaged(kind: str) -> bytes:
    """A file that makes Pillow's own decoder stumble."""
    out = io.BytesIO()
    PILImage.effect_noise((64, 64), 90).convert("RGB").save(out, kind)
    data = bytearray(out.getvalue())
    if kind == "DDS":
        data[80:84] = (2048).to_bytes(4, "little")
    else:
        data[len(data) // 2 :] = bytes(len(data) - len(data) // 2)
    return bytes(data)


@pytest.mark.parametrize("kind", ["DDS", "PNG", "JPEG", "TIFF", "WEBP", "GIF"])
def test_a_damaged_picture_is_a_data_error_or_a_picture(kind: str) -> None:
    try:
        assert decode_image(Image(damaged(kind))).size == (64, 64)
    except DataError as e:
        assert "unreadable image" in str(e)


def test_a_header_that_cant_be_read_is_a_data_error() -> None:
    with pytest.raises(DataError, match="unreadable image"):
        image_size(Image(damaged("DDS")))
