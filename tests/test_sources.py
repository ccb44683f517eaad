"""Rows come out the same from every place they can lie in, and what is missing is said with what to
do.
"""

from __future__ import annotations

import base64
import gc
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from evalkit.clips import ClipIndex
from evalkit.digests import content_hash
from evalkit.errors import DataError
from evalkit.rows import (
    ask,
    identifier,
    image,
    images,
    numbered_images,
    packed_image,
    string,
    strings,
    tier,
    video,
)
from evalkit.sources import Embedded, Folder, Hub, Joined, JsonLines, hub, tables
from evalkit.sources.own import splits_of
from evalkit.types import Image, Text
from tests.pictures import png

COLUMNS = ("id", "image", "text")


def picture(shade: int) -> bytes:
    return png(4, 3, shade)


def rows_of(number: int) -> list[dict[str, Any]]:
    return [
        {
            "id": i,
            "image": {"bytes": picture(i), "path": f"{i}.png"},
            "text": f"row {i}",
            "surplus": "x" * 1000,
        }
        for i in range(number)
    ]


def as_dataset(number: int) -> datasets.Dataset:
    features = datasets.Features(
        id=datasets.Value("int64"),
        image=datasets.Image(),
        text=datasets.Value("string"),
        surplus=datasets.Value("string"),
    )
    return datasets.Dataset.from_list(rows_of(number), features=features)


def write_parquet(path: Path, number: int = 3) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows_of(number)), path)
    return path


def source(**changes: Any) -> Hub:
    return Hub(**{"repository": "lmms-lab/Thing", "split": "val", "columns": COLUMNS, **changes})


def expected(number: int = 3) -> list[dict[str, Any]]:
    return [{c: row[c] for c in COLUMNS} for row in rows_of(number)]


def test_a_file_a_hub_folder_and_a_saved_dataset_give_the_same_rows(tmp_path: Path) -> None:
    one = write_parquet(tmp_path / "one.parquet")
    write_parquet(tmp_path / "hub" / "data" / "val-00000-of-00001.parquet")
    write_parquet(tmp_path / "hub" / "data" / "test-00000-of-00001.parquet", 5)
    as_dataset(3).save_to_disk(str(tmp_path / "saved"))
    datasets.DatasetDict(val=as_dataset(3), test=as_dataset(5)).save_to_disk(str(tmp_path / "dict"))
    for place in (one, tmp_path / "hub", tmp_path / "saved", tmp_path / "dict"):
        assert list(source().rows(place)) == expected(), place


def test_the_configuration_chooses_among_folders(tmp_path: Path) -> None:
    write_parquet(tmp_path / "A" / "val-00000-of-00001.parquet", 1)
    write_parquet(tmp_path / "B" / "val-00000-of-00001.parquet", 2)
    assert len(list(source(config="B").rows(tmp_path))) == 2


def test_parts_of_a_split_are_read_in_order(tmp_path: Path) -> None:
    for part in (1, 0):
        pq.write_table(
            pa.Table.from_pylist([{"id": part}]), tmp_path / f"val-{part:05}-of-00002.parquet"
        )
    assert [row["id"] for row in source(columns=("id",)).rows(tmp_path)] == [0, 1]


def test_a_shard_that_is_replaced_while_another_is_read_is_said(tmp_path: Path) -> None:
    first, second = (tmp_path / f"val-{part:05}-of-00002.parquet" for part in (0, 1))
    for part, file in enumerate((first, second)):
        pq.write_table(pa.Table.from_pylist([{"id": part}]), file)
    rows = source(columns=("id",)).rows(tmp_path)
    assert next(rows) == {"id": 0}
    other = tmp_path / "other"
    pq.write_table(pa.Table.from_pylist([{"id": 7}]), other)
    other.replace(second)
    with pytest.raises(DataError, match=f"{second.name}: was changed after the first rows"):
        next(rows)


def test_images_stay_encoded(tmp_path: Path) -> None:
    as_dataset(1).save_to_disk(str(tmp_path / "saved"))
    (row,) = source().rows(tmp_path / "saved")
    assert image(row).read() == picture(0)


@pytest.mark.parametrize("value", [None, {"bytes": None, "path": None}, b"", 7])
def test_a_row_without_an_image_is_a_data_error(value: object) -> None:
    with pytest.raises(DataError, match="'image' holds no image, but "):
        image({"image": value})


def test_a_column_may_hold_several_images() -> None:
    row = {"images": [picture(1), {"bytes": picture(2), "path": None}]}
    assert [image.read() for image in images(row)] == [picture(1), picture(2)]
    for value in (None, [], picture(1), [picture(1), None], ["absent.png"]):
        with pytest.raises(DataError, match="'images' "):
            images({"images": value})


def test_a_lone_string_is_not_a_list_of_its_characters() -> None:
    assert strings({"answers": ["abc"]}, "answers") == ["abc"]
    assert strings({"answers": None}, "answers") == []
    for value in ("abc", 5, {"a": 1}, ["a", None]):
        with pytest.raises(DataError, match="'answers' is .*, not a list of strings"):
            strings({"answers": value}, "answers")


@pytest.mark.parametrize("value", [None, "", " ", b"x", 5, ["a"], True])
def test_a_text_is_a_text(value: object) -> None:
    with pytest.raises(DataError, match="'question' is"):
        string({"question": value}, "question")


@pytest.mark.parametrize("value", [None, "", " ", b"x", 5.0, ["a"], True, float("nan")])
def test_a_name_is_a_text_or_a_whole_number(value: object) -> None:
    assert (identifier({"id": 5}, "id"), identifier({"id": "x"}, "id")) == ("5", "x")
    with pytest.raises(DataError, match="'id' is"):
        identifier({"id": value}, "id")


def test_a_turn_of_the_user_is_written_in_one_line() -> None:
    (message,) = ask(Image(b"x"), "What?")
    assert (message.role, message.content) == ("user", (Image(b"x"), Text("What?")))


def test_missing_data_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_parquet(tmp_path / "data" / "train-00000-of-00001.parquet")
    with pytest.raises(DataError, match=r"val-\*.parquet.*train-00000"):
        list(source().rows(tmp_path))
    with pytest.raises(DataError, match="no such file or folder"):
        list(source().rows(tmp_path / "absent"))
    with pytest.raises(DataError, match="no column 'answers'; it has: id, image"):
        list(
            source(columns=("id", "answers")).rows(
                tmp_path / "data" / "train-00000-of-00001.parquet"
            )
        )
    datasets.DatasetDict(train=as_dataset(1)).save_to_disk(str(tmp_path / "dict"))
    with pytest.raises(DataError, match="no split 'val'; it has: train"):
        list(source().rows(tmp_path / "dict"))
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(
        DataError,
        match=r"lmms-lab/Thing(?s:.*)lmms-lab-encoder/Thing(?s:.*)--data TASK:SUBSET=FOLDER",
    ):
        list(source().rows())


def test_a_truncated_file_is_named(tmp_path: Path) -> None:
    whole = write_parquet(tmp_path / "val.parquet")
    whole.write_bytes(whole.read_bytes()[:-20])
    with pytest.raises(DataError, match=r"val\.parquet: unreadable parquet"):
        list(source().rows(whole))


def test_a_pointer_of_git_lfs_is_not_called_damaged(tmp_path: Path) -> None:
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
    for name in ("val.parquet", "clips.zip"):
        (tmp_path / name).write_bytes(pointer)
    with pytest.raises(DataError, match=r"val\.parquet: a pointer of Git LFS.*git lfs pull"):
        list(source().rows(tmp_path / "val.parquet"))
    with pytest.raises(DataError, match=r"clips\.zip \(a pointer of Git LFS"):
        ClipIndex([tmp_path], "clips").path("a")


def test_a_moved_repository_is_found_under_its_new_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    as_dataset(3).save_to_disk(str(tmp_path / commit))

    def load_dataset(
        repository: str, config: str | None, split: str, **told: str
    ) -> datasets.Dataset:
        if repository != "lmms-lab-encoder/Thing":
            raise FileNotFoundError(f"no {repository}")
        files = {} if config else {"data_files": "data.jsonl"}
        assert (config, split, told) == (config and "C", "val", files)
        return datasets.load_from_disk(str(tmp_path / commit))

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    hub._from_hub.cache_clear()
    assert list(source(config="C").rows()) == expected()
    description = {
        "kind": "hub",
        "repository": "lmms-lab-encoder/Thing",
        "config": "C",
        "split": "val",
        "revision": commit,
    }
    assert source(config="C").describe() == description
    assert list(source(files="data.jsonl").rows()) == expected()
    hub._from_hub.cache_clear()


def test_a_local_copy_is_described_by_its_bytes_not_its_place(tmp_path: Path) -> None:
    first, second = (
        write_parquet(tmp_path / "a" / "x" / "val.parquet"),
        write_parquet(tmp_path / "b" / "x" / "val.parquet"),
    )
    assert source().describe(first.parent) == source().describe(second.parent)
    write_parquet(second, 4)
    assert source().describe(first.parent)["sha256"] != source().describe(second.parent)["sha256"]


def test_the_content_hash_sees_a_change(tmp_path: Path) -> None:
    file = tmp_path / "f"
    file.write_bytes(b"one")
    before = content_hash([file])
    file.write_bytes(b"two")
    os.utime(file, ns=(1, 1))
    assert content_hash([file]) != before


def test_embedded_data_can_be_overridden(tmp_path: Path) -> None:
    embedded = Embedded(folder="thing", split="val", columns=COLUMNS)
    file = write_parquet(tmp_path / "val.parquet")
    assert list(embedded.rows(file)) == expected()
    assert embedded.describe(file)["kind"] == "local"


def test_clips_are_found_in_folders_and_in_zip_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    data = tmp_path / "data"
    (data / "NExTVideo" / "12").mkdir(parents=True)
    (data / "NExTVideo" / "12" / "abc.mp4").write_bytes(b"loose")
    with zipfile.ZipFile(data / "videos.zip", "w") as archive:
        archive.writestr("../../odd/def.mp4", b"packed")
    pq.write_table(pa.table({"video": ["abc", "def", "ghi"]}), data / "val.parquet")
    rows = list(source(columns=("video",), clips="video").rows(data))
    assert [video(row).read() for row in rows[:2]] == [b"loose", b"packed"]
    assert rows[1]["clip"].is_relative_to(tmp_path / "cache")
    with pytest.raises(DataError, match=f"no clip 'ghi'; it belongs under {data}"):
        video(rows[2])


def test_a_damaged_member_costs_its_own_clip_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    archive = tmp_path / "videos.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        packed.writestr("bad.mp4", b"0" * 100)
        packed.writestr("good.mp4", b"1" * 100)
    archive.write_bytes(archive.read_bytes().replace(b"0" * 100, b"2" * 100))
    index = ClipIndex([tmp_path])
    with pytest.raises(DataError, match=r"videos.zip: bad.mp4 can't be unpacked"):
        index.path("bad")
    assert index.path("good").read_bytes() == b"1" * 100


def test_no_clips_at_all_names_the_place_searched(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"anywhere under: {tmp_path}"):
        ClipIndex([tmp_path])


@pytest.mark.parametrize(
    ("name", "level"),
    [("easy-0012", "easy"), ("medium_0007.png", "medium"), ("hardly-1", None), ("x", None)],
)
def test_the_tier_stands_in_the_identifier(name: str, level: str | None) -> None:
    assert tier(name) == ({"tier": level} if level else {})


@pytest.mark.parametrize("present", [[1, 3], [0], [0, 1, 2]])
def test_absent_parts_of_a_split_are_named(tmp_path: Path, present: list[int]) -> None:
    for part in present:
        write_parquet(tmp_path / f"val-{part:05}-of-00004.parquet")
    absent = next(i for i in range(4) if i not in present)
    with pytest.raises(DataError, match=rf"{len(present)} of 4 files.*val-0000{absent}-of-00004"):
        list(source().rows(tmp_path))
    one = tmp_path / f"val-{present[0]:05}-of-00004.parquet"
    assert len(list(source().rows(one))) == 3  # a file by its name is used alone


@pytest.mark.parametrize(
    "name",
    ["val-00000-of-00001 (1).parquet", "val.parquet", "val-00000-of-00001-0a1b.parquet"],
)
def test_a_file_beside_the_numbered_ones_of_a_split_is_refused(tmp_path: Path, name: str) -> None:
    for file in ("val-00000-of-00001.parquet", name):
        write_parquet(tmp_path / file)
    with pytest.raises(DataError, match="beside numbered files of the split"):
        list(source().rows(tmp_path))


def test_hidden_files_are_no_parts_of_a_split(tmp_path: Path) -> None:
    file = write_parquet(tmp_path / "data" / "val-00000-of-00001.parquet")
    (tmp_path / "data" / "._val-00000-of-00001.parquet").write_bytes(b"of a Mac")
    for folder in (".cache/huggingface", "data/.ipynb_checkpoints", "__MACOSX"):
        write_parquet(tmp_path / folder / "val-00000-of-00001.parquet")
    assert tables.table_files(tmp_path, None, "val") == [file]
    assert splits_of(tmp_path) == ("val",)


def test_two_sets_of_files_of_one_split_are_refused(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a" / "val-00000-of-00001.parquet")
    write_parquet(tmp_path / "b" / "val-00000-of-00001.parquet")
    with pytest.raises(DataError, match="lies in .*a and in .*b; give one of these"):
        list(source().rows(tmp_path))
    write_parquet(tmp_path / "c" / "val-00000-of-00002.parquet")
    write_parquet(tmp_path / "c" / "val-00001-of-00002.parquet")
    write_parquet(tmp_path / "c" / "val-00000-of-00001.parquet")
    with pytest.raises(DataError, match="two sets of files"):
        list(source().rows(tmp_path / "c"))


def test_a_picture_by_path_lies_beside_its_table(tmp_path: Path) -> None:
    data = tmp_path / "data"
    (data / "img").mkdir(parents=True)
    (data / "img" / "1.png").write_bytes(picture(7))
    (tmp_path / "secret.png").write_bytes(picture(8))
    (data / "loop").symlink_to("loop")
    paths = ["img/1.png", "img/2.png", "../secret.png", str(tmp_path / "secret.png"), "img"]
    paths += ["x" * 300, "a\0b", "loop"]
    table = [
        {"id": i, "image": {"bytes": None, "path": p}, "text": "x"} for i, p in enumerate(paths)
    ]
    pq.write_table(pa.Table.from_pylist(table), data / "val.parquet")
    first, *others = source().rows(data)
    assert image(first).read() == picture(7)
    for row, complaint in zip(
        others,
        [
            "img/2.png: no such file",
            "lies outside",
            "lies outside",
            "not a regular file",
            "is no path: .*too long",
            "is no path: embedded null",
            "is no path|no such file",
        ],
    ):
        with pytest.raises(DataError, match=complaint):
            image(row)


def test_media_beside_a_table_are_part_of_what_data_are(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "1.png").write_bytes(picture(7))
    rows = [{"id": 1, "image": {"bytes": None, "path": "1.png"}, "text": "x"}]
    pq.write_table(pa.Table.from_pylist(rows), data / "val.parquet")
    before = source().describe(data)
    assert source().describe(shutil.copytree(data, tmp_path / "renamed")) == before
    replace_keeping_times(data / "1.png", picture(8))
    assert source().describe(data) != before


def replace_keeping_times(path: Path, data: bytes) -> None:
    """As `cp --preserve` or a careless script does it."""
    stat = path.stat()
    assert len(data) == stat.st_size
    path.write_bytes(data)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def test_replaced_clips_are_other_data(tmp_path: Path) -> None:
    pq.write_table(pa.table({"video": ["abc", "def"]}), tmp_path / "val.parquet")
    (tmp_path / "abc.mp4").write_bytes(b"one")
    with zipfile.ZipFile(tmp_path / "videos.zip", "w") as archive:
        archive.writestr("def.mp4", b"packed")
    clips = source(columns=("video",), clips="video")
    first = clips.describe(tmp_path)
    replace_keeping_times(tmp_path / "abc.mp4", b"two")
    second = clips.describe(tmp_path)
    with zipfile.ZipFile(tmp_path / "videos.zip", "w") as archive:
        archive.writestr("def.mp4", b"PACKED")
    assert len({d["media"] for d in (first, second, clips.describe(tmp_path))}) == 3


def test_rows_are_counted_before_they_are_read(tmp_path: Path) -> None:
    write_parquet(tmp_path / "val-00000-of-00002.parquet", 3)
    write_parquet(tmp_path / "val-00001-of-00002.parquet", 4)
    as_dataset(5).save_to_disk(str(tmp_path / "saved"))
    assert source().count(tmp_path) == 7
    assert source().count(tmp_path / "saved") == 5
    assert Embedded(folder="docvqa", split="validation", columns=()).count() == 214


def test_only_the_official_rows_of_a_split_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    official = source(official=(5, 3))
    monkeypatch.setattr(hub, "_from_hub", lambda *_: ("lmms-lab/Thing", as_dataset(5)))
    assert [row["id"] for row in official.rows()] == [0, 1, 2]
    assert (official.count(), official.describe()["rows"]) == (3, 3)
    copy = write_parquet(tmp_path / "val.parquet", 5)
    assert [row["id"] for row in official.rows(copy)] == [0, 1, 2]
    own = write_parquet(tmp_path / "own.parquet", 2)
    assert (official.count(own), "rows" in official.describe(own)) == (2, False)
    monkeypatch.setattr(hub, "_from_hub", lambda *_: ("lmms-lab/Thing", as_dataset(3)))
    assert official.count() == 3
    monkeypatch.setattr(hub, "_from_hub", lambda *_: ("lmms-lab/Thing", as_dataset(4)))
    with pytest.raises(DataError, match="4 rows, where 5 are expected, the first 3 of them"):
        list(official.rows())


def clips_of(folder: Path, *names: str, data: bytes = b"a clip") -> ClipIndex:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return ClipIndex([folder])


MP4 = b"\0\0\0\x18ftypisom" + bytes(200)


@pytest.mark.parametrize(
    "name", ["v.mp4", "v.m4v", "v.ts", "v.flv", "v.WMV", "v.mpg", "v.3gp", "v", "v.1080p", "v.bin"]
)
def test_clips_are_known_by_content_whatever_their_suffix(tmp_path: Path, name: str) -> None:
    index = clips_of(tmp_path, name, data=MP4)
    stem = "v.1080p" if name == "v.1080p" else "v.bin" if name == "v.bin" else "v"
    assert index.path(stem) == tmp_path / name


def test_files_that_are_no_clips_are_left_alone(tmp_path: Path) -> None:
    for name in ("a.txt", "b", "._v.mp4", "c.json"):
        (tmp_path / name).write_bytes(b"no clip")
    with pytest.raises(DataError, match="no clips found"):
        ClipIndex([tmp_path])


def test_copies_in_hidden_folders_are_no_clips(tmp_path: Path) -> None:
    clips_of(tmp_path, "v.mp4", data=b"one")
    clips_of(tmp_path, ".cache/v.mp4", "a/.ipynb_checkpoints/v.mp4", data=b"another")
    clips_of(tmp_path, "__MACOSX/v.mp4", ".cache/w.mp4", data=b"another")
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as archive:
        archive.writestr(".trash/v.mp4", b"another")
    index = ClipIndex([tmp_path])
    assert index.path("v") == tmp_path / "v.mp4" and "w" not in index


def test_two_clips_of_one_name_are_an_error_that_names_both(tmp_path: Path) -> None:
    clips_of(tmp_path, "train/v.mp4", "w.mp4", data=b"one")
    clips_of(tmp_path, "test/v.mp4", "w.webm", data=b"two")
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as archive:
        archive.writestr("x/u.mp4", b"one")
        archive.writestr("y/u.mp4", b"two")
    index = ClipIndex([tmp_path])
    for name, both in (
        ("v", "test/v.mp4 and .*train/v.mp4"),
        ("w", "w.mp4 and .*w.webm"),
        ("u", "z.zip: x/u.mp4 and .*z.zip: y/u.mp4"),
    ):
        with pytest.raises(DataError, match=f"two clips are called '{name}': .*{both}"):
            index.path(name)
    assert index.path("test/v").read_bytes() == b"two"  # named with its folder it is one
    assert index.path("w.mp4").read_bytes() == b"one"


def test_a_clip_that_lies_there_twice_is_one(tmp_path: Path) -> None:
    clips_of(tmp_path, "a/v.mp4", "b/v.mp4", data=b"one")
    with zipfile.ZipFile(tmp_path / "videos.zip", "w") as archive:
        archive.writestr("v.mp4", b"one")
    assert ClipIndex([tmp_path]).path("v") == tmp_path / "a" / "v.mp4"


def test_a_damaged_zip_is_named_and_whole_clips_are_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "videos.zip").write_bytes(b"PK\3\4 cut short")
    index = clips_of(tmp_path, "v.mp4")
    assert "videos.zip: not a readable zip file" in caplog.text
    assert index.path("v").read_bytes() == b"a clip"
    with pytest.raises(DataError, match=r"no clip 'w'.*damaged: videos\.zip"):
        index.path("w")


def test_a_member_that_cannot_be_unpacked_costs_its_own_clip(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("evalkit.clips.SMALL", 1000)
    with zipfile.ZipFile(tmp_path / "z.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb.mp4", bytes(10**6))
        archive.writestr("locked.mp4", b"1" * 100)
        archive.writestr("good.mp4", b"2" * 100)
    data = bytearray((tmp_path / "z.zip").read_bytes())
    start = data.rindex(b"locked.mp4") - 46  # its entry in the directory at the end
    data[start + 8] |= 1  # encrypted
    (tmp_path / "z.zip").write_bytes(data)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    index = ClipIndex([tmp_path])
    with pytest.raises(DataError, match="bomb.mp4 unpacks to 1,000,000 bytes"):
        index.path("bomb")
    with pytest.raises(DataError, match="locked.mp4 can't be unpacked: .*encrypted"):
        index.path("locked")
    assert index.path("good").read_bytes() == b"2" * 100


def test_a_cache_that_cannot_be_written_says_which_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as archive:
        archive.writestr("v.mp4", b"one")
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(DataError, match="set XDG_CACHE_HOME to a folder that can be written"):
        ClipIndex([tmp_path]).path("v")


def test_json_lines_are_rows(tmp_path: Path) -> None:
    (tmp_path / "img").mkdir()
    (tmp_path / "img" / "a.png").write_bytes(picture(1))
    file = tmp_path / "qa.jsonl"
    file.write_text('{"image": "img/a.png", "q": "x"}\n\n{"image": "../a.png", "q": "y"}\n')
    lines = JsonLines(file)
    first, second = lines.rows()
    assert (image(first).read(), first["q"], lines.count()) == (picture(1), "x", 2)
    with pytest.raises(DataError, match="lies outside"):
        image(second)
    before = lines.describe()
    (tmp_path / "img" / "a.png").write_bytes(picture(2))
    assert lines.describe() != before
    assert next(JsonLines("absent.jsonl").rows(file)) == first
    file.write_text('{"q": 1}\n[1]\n')
    with pytest.raises(DataError, match=r"qa\.jsonl, line 2: \[1\]"):
        list(lines.rows())
    with pytest.raises(DataError, match=r"absent\.jsonl: can't be read"):
        list(JsonLines("absent.jsonl").rows())


def test_a_folder_of_pictures_is_a_source(tmp_path: Path) -> None:
    (tmp_path / "warm").mkdir()
    (tmp_path / "warm" / "red.png").write_bytes(picture(1))
    (tmp_path / "blue.png").write_bytes(picture(2))
    (tmp_path / "notes.txt").write_text("none")
    folder = Folder(tmp_path, "**/*.png")
    rows = list(folder.rows())
    assert [(r["name"], r["folder"], image(r).read()) for r in rows] == [
        ("blue", "", picture(2)),
        ("red", "warm", picture(1)),
    ]
    states = [folder.describe()]
    (tmp_path / "blue.png").write_bytes(picture(3))
    states.append(folder.describe())
    (tmp_path / "blue.png").rename(tmp_path / "green.png")
    states.append(folder.describe())
    (tmp_path / "black.png").write_bytes(picture(4))
    states.append(folder.describe())
    assert len({s["sha256"] for s in states}) == 4
    with pytest.raises(DataError, match="absent: no such folder"):
        list(Folder("absent").rows())


def test_a_text_of_the_data_is_no_path(tmp_path: Path) -> None:
    (tmp_path / "private.png").write_bytes(picture(1))
    (tmp_path / "data").mkdir()
    lines = tmp_path / "data" / "rows.jsonl"
    lines.write_text(json.dumps({"photo": str(tmp_path / "private.png")}))
    (row,) = JsonLines(lines).rows()
    with pytest.raises(DataError, match=r"'photo' is a text.*JsonLines\(..., media=\('photo',\)\)"):
        image(row, "photo")
    (row,) = JsonLines(lines, media=("photo",)).rows()
    with pytest.raises(DataError, match="lies outside .*EVALKIT_MEDIA_FOLDERS allows"):
        image(row, "photo")


def test_further_folders_of_media_may_be_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "a.png").write_bytes(picture(1))
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "linked.png").symlink_to(tmp_path / "store" / "a.png")
    lines = tmp_path / "data" / "rows.jsonl"
    lines.write_text('{"image": "../store/a.png"}\n{"image": "linked.png"}\n')
    everywhere = [*JsonLines(lines).rows(), *Folder(tmp_path / "data", "*.png").rows()]
    for row in everywhere:
        with pytest.raises(DataError, match="lies outside"):
            image(row)
    monkeypatch.setenv("EVALKIT_MEDIA_FOLDERS", f"{tmp_path / 'x'}:{tmp_path / 'store'}")
    for row in (*JsonLines(lines).rows(), *Folder(tmp_path / "data", "*.png").rows()):
        assert image(row).read() == picture(1)


def test_clips_that_are_links_out_of_the_data_are_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "private.mp4").write_bytes(MP4)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "v.mp4").symlink_to(tmp_path / "private.mp4")
    with pytest.raises(DataError, match="v.mp4' lies outside .*EVALKIT_MEDIA_FOLDERS"):
        ClipIndex([tmp_path / "data"]).path("v")
    # a snapshot of the hub's cache holds links to its blobs
    snapshot = tmp_path / "datasets--a--b" / "snapshots" / "123"
    snapshot.mkdir(parents=True)
    blob = tmp_path / "datasets--a--b" / "blob"
    blob.write_bytes(MP4)
    (snapshot / "v.mp4").symlink_to(blob)
    assert ClipIndex([snapshot]).path("v").read_bytes() == MP4


@pytest.mark.parametrize("path", ["/etc/passwd", "../../x.png", "/dev/zero", "x" * 300, "a\0b"])
def test_rows_of_the_hub_name_files_of_its_cache_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    unpacked = tmp_path / "unpacked"
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", unpacked)
    unpacked.mkdir()
    (unpacked / "b.png").write_bytes(picture(2))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub" / "in.png").write_bytes(picture(1))
    named = [{"bytes": None, "path": p} for p in (path, "in.png", str(unpacked / "b.png"))]
    table = datasets.Dataset.from_dict({"image": named[:1], "images": [named]})
    monkeypatch.setattr(hub, "_from_hub", lambda *_: ("a/b", table))
    (row,) = source(columns=("image", "images")).rows()
    with pytest.raises(DataError, match="lies outside|is no path|no such file"):
        image(row)
    assert row["images"][1:] == [tmp_path / "hub" / "in.png", unpacked / "b.png"]


def test_the_cache_of_clips_has_a_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from evalkit import clips

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("EVALKIT_MAX_CACHE_BYTES", "250")
    monkeypatch.setattr(clips, "_cached", {})
    monkeypatch.setattr(clips, "_handed_out", set())
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as archive:
        for name in "abcd":
            archive.writestr(f"{name}.mp4", name.encode() * 100)
    index = ClipIndex([tmp_path])
    a, b = index.path("a"), index.path("b")
    with pytest.raises(DataError, match="200 that are in use: over .*EVALKIT_MAX_CACHE_BYTES"):
        index.path("c")
    for age, file in ((9000, b), (8000, a)):
        os.utime(file, (file.stat().st_mtime - age,) * 2)
    with pytest.raises(DataError, match="in use"):  # this process may still open them
        index.path("c")
    monkeypatch.setattr(clips, "_handed_out", {a})
    assert index.path("c").read_bytes() == b"c" * 100
    assert (a.exists(), b.exists()) == (True, False)  # b was used longer ago
    assert index.path("a") == a


def test_a_clip_over_the_bound_is_not_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVALKIT_MAX_CLIP_BYTES", "99")
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as archive:
        archive.writestr("v.mp4", b"1" * 100)
    with pytest.raises(DataError, match="v.mp4 unpacks to 100 bytes.*EVALKIT_MAX_CLIP_BYTES"):
        ClipIndex([tmp_path]).path("v")


def test_a_line_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVALKIT_MAX_JSON_BYTES", "50")
    (tmp_path / "a.jsonl").write_text('{"a": 1}\n\n{"a": "' + "x" * 50 + '"}\n')
    rows = JsonLines(tmp_path / "a.jsonl").rows()
    assert next(rows) == {"a": 1}
    with pytest.raises(DataError, match="line 3: over the limit of 50 bytes"):
        next(rows)


def test_a_column_that_unpacks_to_far_more_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "SMALL", 10**6)
    table = pa.table({"id": [1, 2], "text": ["x" * 2 * 10**6, "y"]})
    pq.write_table(table, tmp_path / "val.parquet", compression="zstd", use_dictionary=False)
    with pytest.raises(DataError, match="'text' unpacks to 2,0.*EVALKIT_MAX_UNPACK_RATIO"):
        next(source(columns=("id", "text")).rows(tmp_path / "val.parquet"))
    assert len(list(source(columns=("id",)).rows(tmp_path / "val.parquet"))) == 2


def test_a_parquet_file_is_not_held_while_it_is_read(tmp_path: Path) -> None:
    """By default pyarrow keeps all row groups that it has read until the file is closed."""
    path = tmp_path / "rows.parquet"
    code = f"""
import os, pyarrow as pa, pyarrow.parquet as pq
from pathlib import Path
from evalkit.sources.tables import parquet_rows
with pq.ParquetWriter({str(path)!r}, pa.schema([("x", pa.binary())]), compression="none") as out:
    for group in range(10):
        out.write_table(pa.table({{"x": [os.urandom(8192) for _ in range(1000)]}}))
held = lambda: [int(l.split()[1]) for l in Path("/proc/self/status").open() if "RssAnon" in l][0]
at = [held() for i, _ in enumerate(parquet_rows(Path({str(path)!r}))) if i % 1000 == 999]
print((at[-1] - at[1]) / 1024)
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert float(done.stdout) < 24  # MiB, of 62 that lie between


def test_rows_leave_no_garbage_for_the_collector(tmp_path: Path) -> None:
    write_parquet(tmp_path / "rows.parquet", 50)
    made = list(tables.parquet_rows(tmp_path / "rows.parquet"))
    assert len(made) == 50
    gc.collect()
    gc.disable()
    try:
        assert all(map(dict, map(tables.with_paths, made, [tmp_path] * 50)))
        assert gc.collect() < 10
    finally:
        gc.enable()


def split_tar(folder: Path, names: Mapping[str, bytes], parts: int, name: str = "videos") -> None:
    """A tar file cut into parts, as a release of many gigabytes is."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for member, data in names.items():
            entry = tarfile.TarInfo(member)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
        link = tarfile.TarInfo("videos/link.mp4")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    whole, size = out.getvalue(), len(out.getvalue()) // parts + 1
    for i in range(parts):
        part = folder / f"{name}.tar.part.a{'abcdefghij'[i]}"
        part.write_bytes(whole[i * size : (i + 1) * size])


@pytest.mark.parametrize("parts", [1, 2, 7])
def test_clips_are_read_out_of_a_tar_in_parts(
    parts: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    data = tmp_path / "data"
    data.mkdir()
    names = {f"videos/{c}.mp4": MP4 + c.encode() * 700 for c in "abc"} | {"videos/x": MP4}
    split_tar(data, names, parts)
    index = ClipIndex([data])
    for name, content in names.items():
        assert index.path(Path(name).name).read_bytes() == content
    with pytest.raises(DataError, match="no clip 'link'"):
        index.path("link")
    before = index.digest
    split_tar(data, names | {"videos/b.mp4": MP4 + b"z" * 700}, parts)
    assert ClipIndex([data]).digest != before


@pytest.mark.parametrize("number", range(3))
def test_a_part_of_a_tar_that_is_replaced_by_an_older_one_is_read_anew(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    data = tmp_path / "data"
    data.mkdir()
    for mark, written in ((b"a", 2_000), (b"b", 1_000)):
        whole = {"v.mp4": MP4 + mark * 90_000}
        before = [f.read_bytes() for f in sorted(data.iterdir())]
        split_tar(data, whole, 3)
        for i, part in enumerate(sorted(data.iterdir())):
            if before and i != number:
                part.write_bytes(before[i])
            os.utime(part, (written, written) if i == number else (3_000, 3_000))
        found = ClipIndex([data]).path("v").read_bytes()
    packed = b"".join(f.read_bytes() for f in sorted(data.iterdir()))
    assert b"b" * 1_000 in found and found in packed


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda d: (d / "videos.tar.part.ab").unlink(), "videos.tar.part.ab is absent"),
        (lambda d: (d / "videos.tar.part.aa").unlink(), "videos.tar.part.aa is absent"),
        (lambda d: (d / "videos.tar.part.ac").unlink(), "unexpected end of data"),
        (
            lambda d: (d / "videos.tar.part.ab").write_bytes(
                b"?" * (d / "videos.tar.part.ab").stat().st_size
            ),
            "can't be read beyond",
        ),
    ],
)
def test_a_tar_with_a_part_absent_or_spoilt_is_damaged_as_a_whole(
    change: Callable[[Path], object], complaint: str, tmp_path: Path
) -> None:
    split_tar(tmp_path, {f"{c}.mp4": MP4 * 300 for c in "abc"}, 3)
    change(tmp_path)
    (tmp_path / "w.mp4").write_bytes(MP4)
    with pytest.raises(DataError, match=f"no clip 'a'.*damaged: .*{complaint}"):
        ClipIndex([tmp_path]).path("a")


@pytest.mark.parametrize(
    "name", ["v.tar.gz", "v.tar", "v.tgz", "v.tar.bz2", "v.tar.xz", "v.tar.aa"]
)
@pytest.mark.parametrize("way", ["gz", "bz2", "xz"])
def test_a_compressed_tar_is_to_be_unpacked_by_the_user(
    name: str, way: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "a.mp4").write_bytes(MP4)
    with tarfile.open(tmp_path / name, f"w:{way}") as archive:
        archive.add(tmp_path / "a.mp4", "b.mp4")
    with pytest.raises(DataError, match="no clip 'b'.*it is compressed: unpack it"):
        ClipIndex([tmp_path]).path("b")
    assert f"{name}: not a readable tar file: it is compressed" in caplog.text


def joined(*names: str) -> Joined:
    return Joined({n: Hub(repository="o/n", config=n, split="val", columns=COLUMNS) for n in names})


def test_tables_of_one_data_set_are_read_one_after_the_other(tmp_path: Path) -> None:
    for name, number in (("a", 2), ("b", 3)):
        write_parquet(tmp_path / name / "val-00000-of-00001.parquet", number)
    source = joined("a", "b")
    rows = [(r["part"], r["part_row"], r["id"]) for r in source.rows(tmp_path)]
    assert rows == [("a", 0, 0), ("a", 1, 1), ("b", 0, 0), ("b", 1, 1), ("b", 2, 2)]
    assert source.count(tmp_path) == 5
    before = source.describe(tmp_path)
    write_parquet(tmp_path / "b" / "val-00000-of-00001.parquet", 4)
    assert source.describe(tmp_path) != before


def test_one_file_is_not_read_as_several_tables(tmp_path: Path) -> None:
    file = write_parquet(tmp_path / "val-00000-of-00001.parquet", 2)
    for place in (file, tmp_path):
        with pytest.raises(DataError, match="would be read as a and as b: give the folder"):
            list(joined("a", "b").rows(place))
    assert len(list(joined("a").rows(file))) == 2


def test_a_table_is_found_by_its_name_in_the_release(tmp_path: Path) -> None:
    write_parquet(tmp_path / "other_4k.parquet", 1)
    write_parquet(tmp_path / "table_4k.parquet", 3)
    source = Hub(repository="o/n", split="four", files="table_4k.parquet", columns=COLUMNS)
    assert (len(list(source.rows(tmp_path))), source.count(tmp_path)) == (3, 3)
    alone = tmp_path / "table_4k.parquet"
    assert len(list(source.rows(alone))) == 3 and source.describe(alone) == source.describe(
        tmp_path
    )


def test_pictures_of_numbered_columns_end_at_the_first_that_is_null() -> None:
    one, two = {"bytes": picture(1), "path": None}, {"bytes": picture(2), "path": None}
    read = numbered_images({"a": one, "b": two, "c": None}, "abc")
    assert [i.source for i in read] == [picture(1), picture(2)]
    assert len(numbered_images({"a": one, "b": two}, "ab")) == 2
    for row, complaint in (
        ({"a": None, "b": None}, "'a' is null$"),
        ({"a": one, "b": None, "c": two}, "'b' is null, and a later one is not"),
        ({"a": one, "b": 5}, "'b' holds no image"),
    ):
        with pytest.raises(DataError, match=complaint):
            numbered_images(row, list(row))


def test_a_picture_may_be_a_text_in_base64() -> None:
    text = base64.b64encode(picture(3)).decode()
    assert packed_image({"image": text}).source == picture(3)
    for bad in ("aGVsbG8gd29ybGQh", "not base64!", "", None, text[:7]):
        with pytest.raises(DataError, match="'image' (holds no image in base64|is )"):
            packed_image({"image": bad})


def test_pictures_of_lines_of_json_are_read_out_of_their_archive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    data = tmp_path / "data"
    data.mkdir()
    named = [{"id": i, "image_path": f"./images/{i}.png"} for i in range(3)]
    (data / "data.jsonl").write_text("\n".join(map(json.dumps, named)) + "\n\n")
    with zipfile.ZipFile(data / "images.zip", "w") as archive:
        for i in range(2):
            archive.writestr(f"images/{i}.png", picture(i))
        archive.writestr("__MACOSX/images/2.png", b"resource fork")
    thing = Hub(
        repository="o/n",
        split="train",
        files="data.jsonl",
        columns=("id", "image_path"),
        clips="image_path",
        pictures=True,
    )
    for place in (data, data / "data.jsonl"):
        first, second, third = thing.rows(place)
        assert [image(r, "clip").read() for r in (first, second)] == [picture(0), picture(1)]
        with pytest.raises(DataError, match=r"no picture './images/2.png'; it belongs under"):
            image(third, "clip")
    before = thing.describe(data)
    with zipfile.ZipFile(data / "images.zip", "w") as archive:
        archive.writestr("images/0.png", picture(5))
    assert thing.describe(data) != before
    (data / "images.zip").unlink()
    with pytest.raises(DataError, match="no pictures found; put <name>.png files"):
        list(thing.rows(data))
    (data / "data.jsonl").write_text('{"id": 1}\n[1]\n')
    (data / "0.png").write_bytes(picture(0))
    with pytest.raises(DataError, match="expected a list of objects, one a row"):
        list(thing.rows(data))
