"""Rows come out the same from every place they can lie in, and what is missing is said with what to
do.
"""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image as PILImage

from evalkit import sources
from evalkit.errors import DataError
from evalkit.sources import ClipIndex, Embedded, Hub, content_hash, image, strings, tier

COLUMNS = ("id", "image", "text")


def png(shade: int) -> bytes:
    stream = io.BytesIO()
    PILImage.new("L", (4, 3), shade).save(stream, "PNG")
    return stream.getvalue()


def rows_of(number: int) -> list[dict[str, Any]]:
    return [
        {
            "id": i,
            "image": {"bytes": png(i), "path": f"{i}.png"},
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


def test_images_stay_encoded(tmp_path: Path) -> None:
    as_dataset(1).save_to_disk(str(tmp_path / "saved"))
    (row,) = source().rows(tmp_path / "saved")
    assert image(row, "row 0").read() == png(0)


@pytest.mark.parametrize("value", [None, {"bytes": None, "path": None}, b"", 7])
def test_a_row_without_an_image_is_a_data_error(value: object) -> None:
    with pytest.raises(DataError, match="row 0: 'image' holds no image"):
        image({"image": value}, "row 0")


def test_a_lone_string_is_not_a_list_of_its_characters() -> None:
    assert strings({"answers": ["abc"]}, "row 0", "answers") == ["abc"]
    assert strings({"answers": None}, "row 0", "answers") == []
    with pytest.raises(DataError, match="row 0: 'answers' is 'abc', not a list"):
        strings({"answers": "abc"}, "row 0", "answers")


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


def test_a_moved_repository_is_found_under_its_new_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    as_dataset(3).save_to_disk(str(tmp_path / commit))

    def load_dataset(repository: str, config: str | None, split: str) -> datasets.Dataset:
        if repository != "lmms-lab-encoder/Thing":
            raise FileNotFoundError(f"no {repository}")
        assert (config, split) == ("C", "val")
        return datasets.load_from_disk(str(tmp_path / commit))

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    sources._from_hub.cache_clear()
    assert list(source(config="C").rows()) == expected()
    description = {
        "kind": "hub",
        "repository": "lmms-lab-encoder/Thing",
        "config": "C",
        "split": "val",
        "revision": commit,
    }
    assert source(config="C").describe() == description
    sources._from_hub.cache_clear()


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
    clips = [row["clip"] for row in source(columns=("video",), clips="video").rows(data)]
    assert [c.read_bytes() for c in clips[:2]] == [b"loose", b"packed"]
    assert clips[1].is_relative_to(tmp_path / "cache")
    assert clips[2] == data / "ghi.mp4"
    assert not clips[2].exists()


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
    with pytest.warns(UserWarning, match="bad.mp4 is damaged"):
        assert not index.path("bad").exists()
    assert index.path("good").read_bytes() == b"1" * 100


def test_no_clips_at_all_names_the_place_searched(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"anywhere under: {tmp_path}"):
        ClipIndex([tmp_path])


@pytest.mark.parametrize(
    ("name", "found"),
    [("easy-0012", "easy"), ("medium_0007.png", "medium"), ("hardly-1", None), ("x", None)],
)
def test_the_tier_stands_in_the_identifier(name: str, found: str | None) -> None:
    assert tier(name) == found
