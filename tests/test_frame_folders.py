"""A clip may be a folder of pictures: it is cut, counted and found as one that is a file."""

from __future__ import annotations

import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from evalkit.clips import ClipIndex
from evalkit.errors import DataError
from evalkit.media import decode_video, frame_times
from evalkit.rows import video
from evalkit.sources import JsonLines
from evalkit.task import Row
from evalkit.types import Video
from tests.pictures import png


def write_frames(folder: Path, shades: range = range(0, 120, 10)) -> Path:
    """Twelve frames, numbered from 1 without zeros; each is 10 brighter than the one before."""
    folder.mkdir(parents=True)
    for i, shade in enumerate(shades, 1):
        (folder / f"{i}.png").write_bytes(png(6, 4, shade))
    (folder / "notes.txt").write_text("not a frame")
    return folder


def shades(clip: Video, *wanted: int) -> list[int]:
    frames = decode_video(clip, lambda total, fps: wanted or range(total))
    assert frames.shape[1:] == (4, 6, 3)
    return [int(f[0, 0, 0]) for f in frames]


def test_frames_are_shown_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    clip = Video(write_frames(tmp_path / "v"), fps=3.0)
    assert shades(clip) == list(range(0, 120, 10))
    assert shades(clip, 0, 9, 11) == [0, 90, 110]


def test_a_cut_counts_seconds_at_the_stated_rate(tmp_path: Path) -> None:
    clip = Video(write_frames(tmp_path / "v"), fps=3.0, start=1.0, end=2.0)
    assert shades(clip) == [30, 40, 50, 60]
    assert frame_times(clip, lambda total, fps: [0, total - 1]) == [1.0, 2.0]
    seen: list[tuple[int, float]] = []
    decode_video(clip, lambda total, fps: (seen.append((total, fps)), [0])[1])
    assert seen == [(4, 3.0)]
    with pytest.raises(DataError, match=r"the cut 9.0..10.0 s holds no frame of a clip of 4.00 s"):
        shades(replace(clip, start=9.0, end=10.0))


def test_a_rate_is_needed_and_pictures_too(tmp_path: Path) -> None:
    folder = write_frames(tmp_path / "v")
    for fps in (None, 0.0, float("nan")):
        with pytest.raises(DataError, match=r"give their rate, Video\(folder, fps=3\)"):
            shades(Video(folder, fps=fps))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no pictures in the folder"):
        shades(Video(tmp_path / "empty", fps=3.0))


def test_a_damaged_frame_is_replaced_and_many_are_an_error(tmp_path: Path) -> None:
    folder = write_frames(tmp_path / "v")
    (folder / "5.png").write_bytes(b"damaged")
    assert shades(Video(folder, fps=3.0), 3, 4, 5) == [30, 30, 50]
    (folder / "6.png").write_bytes(b"damaged")
    with pytest.raises(DataError, match="truncated video.*frame 4 of 12"):
        shades(Video(folder, fps=3.0))


def test_frames_are_bounded_as_clips_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_frames(tmp_path / "v")
    monkeypatch.setenv("EVALKIT_MAX_FRAME_PIXELS", "20")
    with pytest.raises(DataError, match="6x4 pixels.*EVALKIT_MAX_FRAME_PIXELS"):
        shades(Video(folder, fps=3.0))
    monkeypatch.setenv("EVALKIT_MAX_CLIP_FRAMES", "11")
    with pytest.raises(DataError, match="EVALKIT_MAX_CLIP_FRAMES"):
        shades(Video(folder, fps=3.0))
    (folder / "1.png").write_bytes(png(8, 4))
    monkeypatch.undo()
    with pytest.raises(DataError, match="the frames change size.*6x4, 8x4"):
        shades(Video(folder, fps=3.0))


def test_a_folder_is_known_by_its_frames(tmp_path: Path) -> None:
    one, same = write_frames(tmp_path / "a" / "v"), write_frames(tmp_path / "b" / "w")
    assert Video(one).digest == Video(same).digest
    assert (
        ClipIndex([tmp_path / "a"], "clips and frames").digest
        != ClipIndex([tmp_path / "b"], "clips and frames").digest
    )  # names are what rows find clips by
    (same / "2.png").write_bytes(png(6, 4, 99))
    assert Video(one).digest != Video(same).digest


@pytest.mark.parametrize("packed", [False, True])
def test_a_row_finds_its_folder_of_frames_loose_or_packed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packed: bool
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = write_frames(tmp_path / "made" / "tvqa" / "frames" / "clip_01")
    data = tmp_path / "data"
    data.mkdir()
    if packed:
        with zipfile.ZipFile(data / "tvqa.zip", "w") as archive:
            for file in folder.iterdir():
                archive.write(file, f"tvqa/frames/clip_01/{file.name}")
    else:
        folder.parent.parent.rename(data / "tvqa")
    index = ClipIndex([data], "clips and frames")
    found = index.path("tvqa/frames/clip_01")
    assert found == index.path("clip_01")
    row = Row({"clip": found})
    assert shades(video(row, fps=3.0, start=1.0)) == list(range(30, 120, 10))
    with pytest.raises(DataError, match="no clips found"):
        ClipIndex([data])


def test_a_link_among_the_frames_must_stay_in_the_data(tmp_path: Path) -> None:
    folder = write_frames(tmp_path / "data" / "v")
    (tmp_path / "secret.png").write_bytes(png(6, 4))
    (folder / "13.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(DataError, match="lies outside"):
        ClipIndex([tmp_path / "data"], "clips and frames").path("v")


def test_a_changed_frame_of_own_data_is_other_data(tmp_path: Path) -> None:
    folder = write_frames(tmp_path / "v")
    (tmp_path / "qa.jsonl").write_text('{"clip": "v", "question": "What?"}\n')
    source = JsonLines(tmp_path / "qa.jsonl", media=("clip",))
    (row,) = source.rows()
    assert np.shape(shades(video(Row(row), fps=2.0))) == (12,)
    before = source.describe()
    (folder / "12.png").write_bytes(png(6, 4, 1))
    assert source.describe() != before
