"""Decoding: what is readable is read whole, what is not is an error of its own with a reason."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import zlib
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image as PILImage
from PIL import ImageOps, features

from evalkit import media, video_files
from evalkit.errors import DataError
from evalkit.formats import HEAD, media_type
from evalkit.media import decode_image, decode_video, preview
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


def levels(
    count: int = 40,
    container: str = "mp4",
    codec: str = "libx264",
    times: Sequence[float] = (),
    rate: int = 8,
) -> bytes:
    """Grey frames of levels 0, 6, 12, ..., shown at a steady rate or at these times (seconds)."""
    out = io.BytesIO()
    with av.open(out, "w", format=container) as file:
        stream = file.add_stream(codec, rate=rate, options={"g": "100"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        if times:
            stream.codec_context.time_base = Fraction(1, 1000)
        for i in range(count):
            frame = av.VideoFrame.from_ndarray(
                np.full((48, 64, 3), 6 * i, np.uint8), format="rgb24"
            )
            if times:
                frame.pts, frame.time_base = round(1000 * times[i]), Fraction(1, 1000)
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return out.getvalue()


def shown(frames: np.ndarray) -> list[int]:
    """Which frames of ``levels`` these are."""
    return [round(float(mean) / 6) for mean in frames.mean((1, 2, 3))]


def cut_without_encoding(data: bytes, first: int) -> bytes:
    """As `ffmpeg -ss ... -c copy`: all packets from the key frame on, those before the cut hidden
    by an edit list.
    """
    out = io.BytesIO()
    options = {"use_editlist": "1", "avoid_negative_ts": "disabled"}
    with (
        av.open(io.BytesIO(data)) as source,
        av.open(out, "w", format="mp4", options=options) as file,
    ):
        stream = source.streams.video[0]
        copy = file.add_stream_from_template(stream)
        for packet in source.demux(stream):
            if packet.size:
                shift = int(Fraction(first, 8) / packet.time_base)
                packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
                packet.stream = copy
                file.mux(packet)
    return out.getvalue()


def on_its_side(data: bytes) -> bytes:
    """The display matrix of the track says: turn by 90 degrees clockwise."""
    one, no, minus = b"\0\1\0\0", bytes(4), b"\xff\xff\0\0"
    steady, turned = (
        one + no * 3 + one + no * 3 + b"\x40\0\0\0",
        no + one + no + minus + no * 4 + b"\x40\0\0\0",
    )
    track = data.index(b"tkhd")
    return data[:track] + data[track:].replace(steady, turned, 1)


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


def encoded(picture: PILImage.Image, kind: str = "PNG", **options: Any) -> bytes:
    out = io.BytesIO()
    picture.save(out, kind, **options)
    return out.getvalue()


def transparent(mode: str) -> PILImage.Image:
    """Black ink on nothing: the left half is opaque, the right one is not."""
    ink = PILImage.new("L", (8, 8), 0)
    ink.paste(255, (0, 0, 4, 8))
    if mode == "P":
        picture = PILImage.new("P", (8, 8), 0)
        picture.putpalette([0, 0, 0, 0, 0, 0])
        picture.paste(1, (4, 0, 8, 8))
        return picture
    if mode in ("L", "RGB"):
        picture = PILImage.new(mode, (8, 8), 0)
        picture.paste(9 if mode == "L" else (9, 9, 9), (4, 0, 8, 8))
        return picture
    picture = PILImage.new(mode, (8, 8), 0)
    picture.putalpha(ink)
    return picture


@pytest.mark.parametrize(
    ("mode", "kind", "options"),
    [
        ("RGBA", "PNG", {}),
        ("RGBA", "WEBP", {"lossless": True, "exact": True}),
        ("LA", "PNG", {}),
        ("P", "PNG", {"transparency": 1}),
        ("P", "GIF", {"transparency": 1}),
        ("L", "PNG", {"transparency": 9}),
        ("RGB", "PNG", {"transparency": (9, 9, 9)}),
    ],
)
def test_transparent_pictures_lie_on_white(mode: str, kind: str, options: dict[str, Any]) -> None:
    picture = decode_image(Image(encoded(transparent(mode), kind, **options)))
    assert picture.mode == "RGB"
    assert picture.getpixel((1, 1)) == (0, 0, 0)
    assert picture.getpixel((6, 6)) == (255, 255, 255)


def png_file(bits: int, kind: int, pixels: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG of two pixels, by hand."""
    header = struct.pack(">IIBBBBB", 2, 1, bits, kind, 0, 0, 0)
    out = b"\x89PNG\r\n\x1a\n"
    data = (b"IDAT", zlib.compress(b"\0" + pixels))
    for name, content in ((b"IHDR", header), *chunks, data, (b"IEND", b"")):
        out += struct.pack(">I", len(content)) + name + content
        out += struct.pack(">I", zlib.crc32(name + content))
    return out


@pytest.mark.parametrize(
    ("bits", "pixels", "key"),
    [
        (2, b"\x20", b"\0\0"),
        (2, b"\x60", b"\0\1"),
        (4, b"\x18", b"\0\1"),
        (8, b"\x01\x88", b"\0\1"),
        (16, b"\x12\x34\x88\x88", b"\x12\x34"),
        (16, b"\x00\x00\x88\x88", b"\0\0"),
    ],
)
def test_a_transparent_grey_is_white_at_any_depth(bits: int, pixels: bytes, key: bytes) -> None:
    picture = decode_image(Image(png_file(bits, 0, pixels, (b"tRNS", key))))
    assert picture.getpixel((0, 0)) == (255, 255, 255)
    assert picture.getpixel((1, 0))[0] == pytest.approx(0xAA if bits == 2 else 0x88)


def test_a_transparent_colour_of_16_bits_is_white() -> None:
    pixels = bytes.fromhex("111122223333" + "888888888888")
    picture = decode_image(Image(png_file(16, 2, pixels, (b"tRNS", pixels[:6]))))
    assert [picture.getpixel((x, 0)) for x in (0, 1)] == [(255,) * 3, (0x88,) * 3]


@pytest.mark.parametrize("exif", [b"XX", b"", b"MM\0*\0\0\0\x08\0\1\x01\x12\0\2\0\0\0\1A\0\0\0"])
def test_a_damaged_orientation_turns_nothing(exif: bytes) -> None:
    for kind in ("PNG", "WEBP", "JPEG"):
        if kind == "PNG":
            data = png_file(8, 0, b"\1\2", (b"eXIf", exif))
        else:
            data = encoded(PILImage.new("RGB", (2, 1)), kind, exif=b"Exif\0\0" + exif)
        picture = Image(data, upright=True)
        assert decode_image(picture).size == image_size(picture) == preview(picture, 9)[1] == (2, 1)


@pytest.mark.parametrize("other", ["011100020000000441414141", "011a00020000000441414141"])
def test_damage_in_other_tags_does_not_keep_a_picture_from_being_turned(other: str) -> None:
    exif = "4d4d002a00000008" + "0002" + "011200030000000100060000" + other + "00000000"
    data = encoded(PILImage.new("RGB", (2, 1)), "JPEG", exif=b"Exif\0\0" + bytes.fromhex(exif))
    picture = Image(data, upright=True)
    assert decode_image(picture).size == image_size(picture) == preview(picture, 9)[1] == (1, 2)


@pytest.mark.parametrize("tag", range(1, 9))
def test_pictures_are_turned_as_pillow_turns_them(tag: int) -> None:
    exif = PILImage.Exif()
    exif[274] = tag
    stored = PILImage.new("RGB", (2, 3))
    stored.putdata([(40 * i, 0, 0) for i in range(6)])
    data = encoded(stored, exif=exif)
    theirs = ImageOps.exif_transpose(PILImage.open(io.BytesIO(data)))
    ours = decode_image(Image(data, upright=True))
    assert (ours.size, ours.tobytes()) == (theirs.size, theirs.tobytes())


def test_half_transparent_ink_is_half_as_dark() -> None:
    picture = PILImage.new("RGBA", (4, 4), (0, 0, 0, 128))
    assert decode_image(Image(encoded(picture))).getpixel((0, 0)) == (127, 127, 127)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_of_grey_are_scaled_to_eight(kind: str) -> None:
    grey = np.arange(256, dtype=np.uint16).reshape(16, 16)
    picture = decode_image(Image(encoded(PILImage.fromarray(grey * 257), kind)))
    assert (np.asarray(picture) == grey[..., None]).all()


def grey_tiff(bits: int, white_is_0: bool) -> bytes:
    """16 x 16 grey levels as a baseline TIFF: packed, without compression."""
    data = bytes(16 * 16 * bits // 8)
    tags = {256: 16, 257: 16, 258: bits, 259: 1, 262: not white_is_0, 273: 122, 277: 1, 278: 16}
    entries = b"".join(
        struct.pack("<HHII", k, 4, 1, v) for k, v in (tags | {279: len(data)}).items()
    )
    return b"II*\0" + struct.pack("<IH", 8, 9) + entries + bytes(4) + data


@pytest.mark.parametrize(("bits", "white_is_0"), [(12, False), (16, True)])
def test_levels_that_pillow_gives_as_they_are_stored_are_refused(
    bits: int, white_is_0: bool
) -> None:
    with pytest.raises(DataError, match=f"TIFF of {bits} bits a pixel"):
        decode_image(Image(grey_tiff(bits, white_is_0)))


@pytest.mark.parametrize("mode", ["I", "F"])
def test_a_mode_without_a_known_range_is_refused_by_its_name(mode: str) -> None:
    with pytest.raises(DataError, match=f"mode {mode} "):
        decode_image(Image(encoded(PILImage.new(mode, (4, 4), 100), "TIFF")))


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "CMYK", "YCbCr"])
def test_other_modes_become_colours(mode: str) -> None:
    kind = "JPEG" if mode in ("CMYK", "YCbCr") else "PNG"
    picture = decode_image(Image(encoded(PILImage.new("RGB", (8, 8), "white").convert(mode), kind)))
    assert (picture.mode, min(picture.getpixel((4, 4))) > 250) == ("RGB", True)


def test_pictures_are_seen_as_stored_unless_their_data_say_upright() -> None:
    exif = PILImage.Exif()
    exif[274] = 6  # to be turned by 90 degrees clockwise
    stored = PILImage.new("RGB", (16, 8), "white")
    stored.paste((0, 0, 0), (0, 0, 8, 8))  # black at the left: above, once turned
    data = encoded(stored, "JPEG", quality=95, exif=exif)
    assert decode_image(Image(data)).size == image_size(Image(data)) == (16, 8)
    turned = Image(data, upright=True)
    assert decode_image(turned).size == image_size(turned) == (8, 16)
    assert max(decode_image(turned).getpixel((4, 2))) < 20


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("tag", range(1, 9))
def test_the_size_in_the_header_is_that_of_the_picture_seen(kind: str, tag: int) -> None:
    exif = PILImage.Exif()
    exif[274] = tag
    data = encoded(PILImage.new("RGB", (16, 8)), kind, exif=exif)
    for upright in (False, True):
        picture = Image(data, upright=upright)
        assert image_size(picture) == decode_image(picture).size
    on_side = upright and tag >= 5
    assert decode_image(picture).size == ((8, 16) if on_side else (16, 8))


def boxes(data: bytes, start: int = 0) -> list[bytes]:
    """The boxes of an MP4, or of one that begins ``start`` bytes earlier."""
    out = []
    while start < len(data):
        (size,) = struct.unpack_from(">I", data, start)
        out.append(data[start : start + size])
        start += size
    return out


def test_the_picture_of_a_cover_is_no_clip() -> None:
    buffer, pixels = io.BytesIO(), np.zeros((32, 32, 3), np.uint8)
    with av.open(buffer, "w", format="mp4") as file:
        streams = [file.add_stream(codec, rate=4) for codec in ("mpeg4", "mjpeg")]
        for stream, form in zip(streams, ("yuv420p", "yuvj420p")):
            stream.width, stream.height, stream.pix_fmt = 32, 32, form
        streams[1].disposition = av.stream.Disposition.attached_pic
        for stream, shown in zip(streams, (5, 1)):
            for _ in range(shown):
                file.mux(stream.encode(av.VideoFrame.from_ndarray(pixels)))
            file.mux(stream.encode())
    parts = boxes(buffer.getvalue())
    (place,) = (i for i, part in enumerate(parts) if part[4:8] == b"moov")
    inner = boxes(parts[place], 8)  # before the tracks, a cover becomes the first stream
    inner.sort(key=lambda box: {b"mvhd": 0, b"udta": 1}.get(box[4:8], 2))
    parts[place] = parts[place][:8] + b"".join(inner)
    data = b"".join(parts)
    with av.open(io.BytesIO(data)) as file:
        assert [s.codec_context.name for s in file.streams.video] == ["mjpeg", "mpeg4"]
    assert decode_video(Video(data), every).shape == (5, 32, 32, 3)


def test_clips_are_seen_as_stored_unless_their_data_say_upright() -> None:
    data = on_its_side(clip("mp4"))
    assert decode_video(Video(data), every).shape[1:3] == (48, 64)
    assert decode_video(Video(data, upright=True), every).shape[1:3] == (64, 48)
    assert decode_video(Video(clip("mp4"), upright=True), every).shape[1:3] == (48, 64)


def test_a_clip_turned_clockwise_has_its_left_side_above() -> None:
    out = io.BytesIO()
    with av.open(out, "w", format="mp4") as file:
        stream = file.add_stream("mpeg4", rate=8)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        frame = np.zeros((48, 64, 3), np.uint8)
        frame[:, 32:] = 255  # black at the left
        for _ in range(4):
            file.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        file.mux(stream.encode())
    turned = decode_video(Video(on_its_side(out.getvalue()), upright=True), every)[0]
    assert turned[:24].mean() < 20
    assert turned[40:].mean() > 235


def test_frames_that_an_edit_list_hides_are_not_counted() -> None:
    totals: list[int] = []

    def choose(total: int, fps: float) -> range:
        totals.append(total)
        return range(total)

    data = cut_without_encoding(levels(40), 20)
    with av.open(io.BytesIO(data)) as file:
        assert file.streams.video[0].frames == 40
    assert shown(decode_video(Video(data), choose)) == list(range(20, 40))
    assert totals == [20]


UNEVEN = [i / 12 for i in range(12)] + [1.0 + i for i in range(12)]
"""Twelve frames in the first second, then one a second."""


@pytest.mark.parametrize(
    ("start", "end", "frames", "rate"),
    [
        (5.0, 9.0, [16, 17, 18, 19, 20], 1.0),
        (0.0, 0.5, [0, 1, 2, 3, 4, 5, 6], 12.0),
        (11.0, None, [22, 23], 1.0),
        (11.6, 40.0, [23], None),
        (None, 0.04, [0], None),
    ],
)
def test_a_cut_goes_by_the_time_at_which_frames_are_shown(
    start: float | None, end: float | None, frames: list[int], rate: float | None
) -> None:
    rates: list[float] = []

    def choose(total: int, fps: float) -> range:
        rates.append(fps)
        return range(total)

    uneven = Video(levels(24, times=UNEVEN), start=start, end=end)
    assert shown(decode_video(uneven, choose)) == frames
    assert rate is None or rates == [pytest.approx(rate, rel=0.02)]


@pytest.mark.parametrize(
    ("container", "codec", "rate"),
    [
        ("mp4", "libx264", 8),
        ("mov", "libx264", 8),
        ("3gp", "mpeg4", 8),
        ("matroska", "libx264", 8),
        ("webm", "libvpx", 8),
        ("avi", "mpeg4", 8),
        ("mpegts", "libx264", 8),
        ("flv", "flv", 8),
        ("asf", "wmv2", 8),
        ("mpeg", "mpeg2video", 25),
        ("m4v", "mpeg4", 25),
        ("h264", "libx264", 25),
    ],
)
def test_every_container_is_told_by_content_and_read_whole(
    container: str, codec: str, rate: int
) -> None:
    data = levels(20, container, codec, rate=rate)
    assert media_type(data[:HEAD]) == "video"
    assert decode_video(Video(data), every).shape == (20, 48, 64, 3)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF"])
def test_every_picture_format_is_told_by_content(kind: str) -> None:
    if kind == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    data = encoded(PILImage.new("RGB", (16, 16)), kind)
    assert media_type(data[:HEAD]) == "image"
    assert decode_image(Image(data)).size == (16, 16)


@pytest.mark.parametrize("head", [b"", b"G" * 3, b"ffconcat version 1.0", b"#EXTM3U", b"PK\3\4"])
def test_other_files_are_no_media(head: bytes) -> None:
    assert media_type(head) is None


def test_files_that_name_other_files_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "real.mp4").write_bytes(clip("mp4"))
    playlist = tmp_path / "list.mp4"
    for text in ("ffconcat version 1.0\nfile real.mp4\n", "#EXTM3U\n#EXTINF:1,\nreal.mp4\n"):
        playlist.write_text(text)
        with pytest.raises(DataError, match="unreadable video"):
            decode_video(Video(playlist), every)
    page = encoded(PILImage.new("RGB", (16, 16)), "EPS")
    with pytest.raises(DataError, match="not an image in a known format"):
        decode_image(Image(page))


@pytest.mark.parametrize("container", ["matroska", "avi", "mpegts"])
def test_a_clip_that_was_cut_short_says_how_much_is_missing(container: str) -> None:
    whole = levels(40, container, "mpeg4")
    part = Video(whole[: int(len(whole) * 0.6)])
    if container == "mpegts":  # states no length: what is there is the clip
        assert len(decode_video(part, every)) < 40
    else:
        with pytest.raises(DataError, match=r"truncated video .* of \d+ can't be decoded"):
            decode_video(part, every)


def test_one_missing_frame_does_not_lose_a_clip(caplog: pytest.LogCaptureFixture) -> None:
    with av.open(io.BytesIO(data := levels(40, "matroska", "mpeg4"))) as file:
        packets = [bytes(p) for p in file.demux(video=0) if p.size]
    odd = next(i for i in range(1, 40) if data.count(packets[i]) == 1)
    spoilt = data.replace(packets[odd], bytes(len(packets[odd])))
    frames = shown(decode_video(Video(spoilt), every))
    assert len(frames) == 40
    assert frames[:odd] == list(range(odd))
    assert frames[odd] == odd - 1
    assert "1 of 40 frames can't be decoded" in caplog.text


def test_a_frame_that_the_decoder_made_up_is_a_missing_one(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Half of its packet is zeros: decoders conceal that with what was there before."""
    out, random = io.BytesIO(), np.random.default_rng(0)
    with av.open(out, "w", format="matroska") as file:
        stream = file.add_stream("mpeg4", rate=8, options={"g": "1"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for _ in range(40):
            noise = random.integers(0, 256, (48, 64, 3), dtype=np.uint8)
            file.mux(stream.encode(av.VideoFrame.from_ndarray(noise, format="rgb24")))
        file.mux(stream.encode())
    with av.open(io.BytesIO(data := out.getvalue())) as file:
        packet = next(bytes(p) for i, p in enumerate(file.demux(video=0)) if i == 7)
    half = len(packet) // 2
    spoilt = data.replace(packet, packet[:half] + bytes(len(packet) - half))
    frames = decode_video(Video(spoilt), every)
    assert (frames[7] == frames[6]).all()
    assert "1 of 40 frames can't be decoded" in caplog.text


def test_a_clip_that_was_cut_after_its_first_frame_is_no_clip_of_one_frame() -> None:
    whole = levels(40, "matroska", "mpeg4")
    with av.open(io.BytesIO(whole)) as file:
        end = next(p.pos for i, p in enumerate(file.demux(video=0)) if i == 1)
    with pytest.raises(DataError, match="truncated video .*39 frames at its end of 40"):
        decode_video(Video(whole[: end + 8]), every)
    assert len(decode_video(Video(levels(1, "matroska", "mpeg4")), every)) == 1


def test_missing_frames_are_counted_in_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    decoded = video_files._decoded
    lost = {7}

    def without_some(container: Any, stream: Any) -> Any:
        return (f for i, f in enumerate(decoded(container, stream)) if i not in lost)

    monkeypatch.setattr(video_files, "_decoded", without_some)
    with media.noted_frames() as noted:
        assert shown(decode_video(Video(levels(20)), every)) == [*range(7), 6, *range(8, 20)]
    assert noted[0][6] == noted[0][7] < noted[0][8]  # the times are those of what was shown
    assert "1 of 20 frames can't be decoded; the nearest are shown instead" in caplog.text
    lost |= {8, 9}
    with pytest.raises(DataError, match="truncated video .*frame 7 of 20"):
        decode_video(Video(levels(20)), every)


def test_frames_are_resized_as_they_are_decoded() -> None:
    seen: list[tuple[tuple[int, ...], int]] = []

    def small(frame: np.ndarray, total: int) -> np.ndarray:
        seen.append((frame.shape, total))
        return frame[::4, ::4]

    data = levels(20)
    frames = decode_video(Video(data), lambda total, fps: range(0, total, 2), small)
    assert seen == [((48, 64, 3), 10)] * 10
    assert (frames == decode_video(Video(data), every)[::2, ::4, ::4]).all()


def test_frames_too_large_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVALKIT_MAX_FRAME_PIXELS", str(64 * 48 - 1))
    with pytest.raises(DataError, match="frames of 64x48 pixels .*over the limit"):
        decode_video(Video(clip("mp4")), every)


def test_frames_that_grow_in_the_middle_of_a_clip_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("EVALKIT_MAX_FRAME_PIXELS", str(64 * 48))
    out = io.BytesIO()
    for size in ((64, 48), (256, 192)):
        out.write(clip("h264", "libx264", size=size))
    with pytest.raises(DataError, match="truncated video"):
        decode_video(Video(out.getvalue()), every, lambda frame, total: frame[:8, :8])


def test_a_clip_of_too_many_frames_is_refused_before_it_is_decoded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("EVALKIT_MAX_CLIP_FRAMES", "19")
    monkeypatch.setattr(video_files, "_decoded", lambda *_: pytest.fail("decoded"))
    with pytest.raises(DataError, match="over the limit of 19 frames .EVALKIT_MAX_CLIP_FRAMES"):
        decode_video(Video(levels(20)), every)


@pytest.mark.parametrize("name", ["a:b.mp4", "concat:x.mp4", "%03d.mp4", "http:x"])
def test_odd_names_are_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    Path(name).write_bytes(clip("mp4"))
    assert decode_video(Video(Path(name)), every).shape == (8, 48, 64, 3)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "RGB", "I;16"])
def test_large_pictures_are_converted_strip_by_strip_to_the_same_colours(
    monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    if mode == "I;16":
        picture = PILImage.fromarray(np.arange(64 * 48, dtype=np.uint16).reshape(48, 64) * 21)
        data = encoded(picture)
    else:
        noise = np.random.default_rng(0).integers(0, 256, (48, 64, 4), dtype=np.uint8)
        picture = PILImage.fromarray(noise).convert(mode)
        data = encoded(picture, **({"transparency": 3} if mode == "P" else {}))
    whole = decode_image(Image(data))
    monkeypatch.setattr(media, "STRIP", 64 * 7)
    assert (np.asarray(decode_image(Image(data))) == np.asarray(whole)).all()


def test_a_preview_knows_the_size_of_the_whole_picture() -> None:
    noise = PILImage.fromarray(np.random.default_rng(0).integers(0, 255, (900, 700, 3), np.uint8))
    for kind in ("PNG", "JPEG", "TIFF"):
        small, size = media.preview(Image(encoded(noise, kind)), 64)
        assert (small.size, size, small.mode) == ((50, 64), (700, 900), "RGB")
    exif = PILImage.Exif()
    exif[274] = 6
    turned = Image(encoded(noise, "JPEG", exif=exif), upright=True)
    assert media.preview(turned, 64)[1] == image_size(turned) == (900, 700)
    wide = Image(encoded(PILImage.new("L", (20_000, 1))))
    small, size = media.preview(wide, 640)
    assert (small.size, size) == ((640, 1), (20_000, 1))


PEAK = """
import resource, sys
from evalkit.media import {call}
from evalkit.types import Image, Video
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
import PIL.Image, av, numpy
before = peak()
{call}({media}(sys.argv[1]), {arguments})
print(peak() - before)
"""


def megabytes(path: Path, call: str, media: str, arguments: str) -> int:
    """What a call adds to the largest memory of a process of its own."""
    code = PEAK.format(call=call, media=media, arguments=arguments)
    run = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return int(run.stdout)


def test_a_huge_picture_of_a_small_file_costs_the_report_little(tmp_path: Path) -> None:
    PILImage.new("P", (9000, 9000)).save(path := tmp_path / "a.png", transparency=0)
    assert path.stat().st_size < 200_000
    assert megabytes(path, "preview", "Image", "640") < 180  # 81 are the picture's own bytes


@pytest.mark.slow
def test_160_frames_of_720p_take_little_more_than_what_is_kept(tmp_path: Path) -> None:
    with av.open(path := tmp_path / "a.mp4", "w") as file:
        stream = file.add_stream("libx264", rate=8, options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = 1280, 720, "yuv420p"
        for i in range(160):
            frame = np.full((720, 1280, 3), i, np.uint8)
            file.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        file.mux(stream.encode())
    # 442 MB as they are decoded, 111 as they are kept
    arguments = "lambda total, fps: range(total), lambda frame, total: frame[::2, ::2]"
    assert megabytes(path, "decode_video", "Video", arguments) < 250


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    os.mkfifo(pipe := tmp_path / "pipe.mp4")
    with pytest.raises(DataError, match="not a regular file"):
        decode_video(Video(pipe), every)
    with pytest.raises(DataError, match="not a regular file"):
        decode_image(Image(pipe))
    with pytest.raises(DataError, match="no such file"):
        decode_video(Video(tmp_path / "absent.mp4"), every)


def test_media_are_encoded_bytes_or_a_path(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(data := encoded(PILImage.new("RGB", (4, 4))))
    by_name = Image(str(tmp_path / "a.png"))
    assert (by_name.source, by_name.read()) == (tmp_path / "a.png", data)
    assert by_name.digest == Image(data).digest == Image(bytearray(data)).digest
    for wrong in (PILImage.new("RGB", (4, 4)), None, 5):
        with pytest.raises(
            TypeError, match="Image takes the bytes of an encoded file, or its path"
        ):
            Image(wrong)  # type: ignore[arg-type]


def test_the_digest_sees_bytes_that_were_replaced_in_place(tmp_path: Path) -> None:
    path = tmp_path / "v.mp4"
    path.write_bytes(b"one")
    stat, before = path.stat(), Video(path).digest
    path.write_bytes(b"two")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert Video(path).digest != before


def test_gaps_that_avi_fills_with_empty_packets_are_no_missing_frames() -> None:
    out = io.BytesIO()
    with av.open(out, "w", format="avi") as file:
        stream = file.add_stream("mpeg4", rate=8)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for i in range(20):
            frame = av.VideoFrame.from_ndarray(
                np.full((48, 64, 3), 6 * i, np.uint8), format="rgb24"
            )
            frame.pts, frame.time_base = i + 10 * (i >= 10), Fraction(1, 8)
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    with av.open(io.BytesIO(out.getvalue())) as file:
        assert file.streams.video[0].frames == 30
    assert len(decode_video(Video(out.getvalue()), every)) == 20
