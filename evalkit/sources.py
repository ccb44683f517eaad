"""Where the rows of a task come from: the data inside the package, the Hugging Face hub, or a local
copy of either.

All three give rows with the columns of the official dataset, media still encoded, one at a time. A
local copy (``--data docvqa:val=FOLDER``) is a parquet file, a folder of parquet in the hub's
layout, or a folder written by ``Dataset.save_to_disk``. ``datasets`` and ``pyarrow`` are imported
when rows are first asked for.
"""

from __future__ import annotations

import hashlib
import io
import re
import tempfile
import warnings
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from evalkit.cache_dir import cache_dir
from evalkit.errors import DataError
from evalkit.task import Row
from evalkit.types import Image

Columns = Mapping[str, Any]
"""A row as it is stored: its columns by name."""
EMBEDDED = Path(__file__).parent / "data" / "mini"
VIDEO_SUFFIXES = (".mp4", ".webm", ".mkv", ".avi", ".mov")
ORGANISATIONS = {"lmms-lab": ("lmms-lab-encoder", "lmms-eval")}
"""Organisations whose datasets moved, and where to; tried in this order after the first."""


@dataclass(frozen=True, kw_only=True)
class TableSource(ABC):
    """A dataset with known columns. ``columns`` are those that the task reads, others are not
    loaded; ``config`` and ``split`` as on the hub. ``clips`` names the column that holds the file
    name of a clip: such rows get one more key, ``"clip"``, the file's path."""

    split: str
    columns: tuple[str, ...]
    config: str | None = None
    clips: str | None = None

    @abstractmethod
    def rows(self, override: Path | None = None) -> Iterator[Columns]:
        """The rows in their stored order. Raises DataError when the data can't be found, or lacks a
        column.
        """

    @abstractmethod
    def describe(self, override: Path | None = None) -> Mapping[str, Any]:
        """JSON: where the rows come from, and the commit or the hash of the tables' bytes (clips
        are known by their own digests).
        """

    def _local_rows(self, root: Path) -> Iterator[Columns]:
        folder = root.parent if root.is_file() else root
        clips = folder.parent if folder.name == self.config else folder
        table = _saved_dataset(root, self.split)
        if table is not None:
            return self._with_clips(self._table_rows(table, str(root)), clips)
        return self._with_clips(
            _parquet_rows(_parquet_files(root, self.config, self.split), self.columns), clips
        )

    def _local_description(self, root: Path) -> dict[str, Any]:
        saved = root.is_dir() and _saved_folder(root, self.split)
        files = (
            sorted(saved.glob("*.arrow"))
            if saved
            else _parquet_files(root, self.config, self.split)
        )
        return {
            "config": self.config,
            "split": self.split,
            "files": [f.name for f in files],
            "sha256": content_hash(files),
        }

    def _table_rows(self, table: Any, where: str) -> Iterator[Columns]:
        """Rows of a ``datasets.Dataset``, its images undecoded."""
        import datasets

        _need(self.columns, table.column_names, where)
        table = table.select_columns(list(self.columns))
        for name, feature in table.features.items():
            if isinstance(feature, datasets.Image):
                table = table.cast_column(name, datasets.Image(decode=False))
        yield from table

    def _with_clips(self, rows: Iterator[Columns], *roots: Path) -> Iterator[Columns]:
        if not self.clips:
            yield from rows
            return
        index = ClipIndex(roots)
        for row in rows:
            yield {**row, "clip": index.path(str(row[self.clips]))}


@dataclass(frozen=True, kw_only=True)
class Embedded(TableSource):
    """A dataset that ships inside the package, under ``evalkit/data/mini/<folder>``."""

    folder: str

    def rows(self, override: Path | None = None) -> Iterator[Columns]:
        return self._local_rows(override or EMBEDDED / self.folder)

    def describe(self, override: Path | None = None) -> Mapping[str, Any]:
        if override:
            return {"kind": "local", "name": override.name, **self._local_description(override)}
        return {
            "kind": "embedded",
            "name": self.folder,
            **self._local_description(EMBEDDED / self.folder),
        }


@dataclass(frozen=True, kw_only=True)
class Hub(TableSource):
    """A dataset of the Hugging Face hub, read by the ``datasets`` library, which fetches all splits
    of the configuration, keeps them in its cache, and uses the cache alone when HF_HUB_OFFLINE is
    set. ``archives`` are patterns of the zip files in the repository that hold the clips."""

    repository: str
    archives: tuple[str, ...] = ()

    @property
    def repositories(self) -> tuple[str, ...]:
        """The names under which the dataset is or was published."""
        organisation, name = self.repository.split("/")
        return self.repository, *(
            f"{other}/{name}" for other in ORGANISATIONS.get(organisation, ())
        )

    def rows(self, override: Path | None = None) -> Iterator[Columns]:
        if override:
            return self._local_rows(override)
        name, table = _from_hub(self.repositories, self.config, self.split)
        return self._with_clips(
            self._table_rows(table, name), *([_archives(name, self.archives)] if self.clips else [])
        )

    def describe(self, override: Path | None = None) -> Mapping[str, Any]:
        if override:
            return {"kind": "local", "name": override.name, **self._local_description(override)}
        name, table = _from_hub(self.repositories, self.config, self.split)
        return {
            "kind": "hub",
            "repository": name,
            "config": self.config,
            "split": self.split,
            "revision": _revision(table),
        }


def image(row: Row, where: str, column: str = "image") -> Image:
    """The encoded image of a row: ``{"bytes", "path"}`` as ``datasets`` stores it, or plain bytes.
    Raises DataError, beginning with ``where``, when there is none."""
    value = row[column]
    if isinstance(value, bytes) and value:
        return Image(value)
    if isinstance(value, Mapping):
        if value.get("bytes"):
            return Image(value["bytes"])
        if value.get("path"):
            return Image(Path(value["path"]))
    raise DataError(f"{where}: {column!r} holds no image")


def image_size(image: Image) -> tuple[int, int]:
    """Width and height in pixels, from the header of the file. Raises DataError when it can't be
    read.
    """
    from PIL import Image as PILImage

    try:
        with PILImage.open(io.BytesIO(image.read())) as opened:
            return opened.size
    except Exception as e:  # damaged files make Pillow's decoders raise anything
        raise DataError(f"unreadable image: {e}") from e


def sides(image: Image) -> dict[str, int]:
    """``{"width", "height"}`` for a sample's metadata; empty when the file can't be read (the
    answer will say so).
    """
    try:
        width, height = image_size(image)
    except DataError:
        return {}
    return {"width": width, "height": height}


def strings(row: Row, where: str, column: str) -> list[str]:
    """A column that holds a list of strings; an absent value is an empty list. Raises DataError,
    beginning with ``where``, for a value of another kind: a lone string is not taken for the list
    of its characters."""
    value = row[column]
    if value is None:
        return []
    if isinstance(value, str) or not all(isinstance(item, str) for item in value):
        raise DataError(f"{where}: {column!r} is {value!r}, not a list of strings")
    return list(value)


def tier(identifier: str) -> str | None:
    """The difficulty that an embedded row's identifier begins with (``easy-0012``,
    ``hard_0003.png``); None for other rows.
    """
    found = re.match(r"(easy|medium|hard)[-_]", identifier)
    return found[1] if found else None


class ClipIndex:
    """Finds the file of a clip by its name without suffix, in folders and in the zip files that lie
    in them.

    A clip in a zip file is unpacked when it is first asked for, into
    ``$XDG_CACHE_HOME/evalkit/clips``. Raises DataError when the folders hold no clip at all, or a
    zip file there can't be read.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        self.folders = tuple(folders)
        self.files: dict[str, Path] = {}
        self.packed: dict[str, tuple[Path, str]] = {}
        for folder in self.folders:
            for path in sorted(folder.rglob("*")):
                if path.suffix.lower() in VIDEO_SUFFIXES:
                    self.files[path.stem] = path
                elif path.suffix.lower() == ".zip":
                    self._read_archive(path)
        if not self.files and not self.packed:
            searched = ", ".join(map(str, self.folders))
            raise DataError(
                "no clips found; put <name>.mp4 files, or zip files of them, anywhere "
                f"under: {searched}"
            )

    def path(self, name: str) -> Path:
        """The clip's file. For a clip that is nowhere, the place where it was expected, which does
        not exist.
        """
        stem = Path(name).stem if Path(name).suffix.lower() in VIDEO_SUFFIXES else name
        if stem in self.files:
            return self.files[stem]
        if stem in self.packed:
            return _unpacked(*self.packed[stem])
        return self.folders[0] / f"{Path(stem).name}.mp4"

    def _read_archive(self, path: Path) -> None:
        try:
            with zipfile.ZipFile(path) as archive:
                names = archive.namelist()
        except (zipfile.BadZipFile, OSError) as e:
            raise DataError(f"{path}: not a readable zip file ({e}); fetch it again") from e
        self.packed |= {
            Path(n).stem: (path, n) for n in names if Path(n).suffix.lower() in VIDEO_SUFFIXES
        }


def content_hash(files: Sequence[Path]) -> str:
    """SHA-256, in hex, over the names' order and the bytes of the files; a file that has not
    changed is read once per process.
    """
    parts = [_file_hash(str(f), f.stat().st_size, f.stat().st_mtime_ns) for f in files]
    return parts[0] if len(parts) == 1 else hashlib.sha256("".join(parts).encode()).hexdigest()


@lru_cache(maxsize=1024)
def _file_hash(path: str, size: int, mtime_ns: int) -> str:
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _parquet_files(root: Path, config: str | None, split: str) -> list[Path]:
    """The split's parquet files: ``root`` itself, or those under it that the hub's layouts name
    after the split.
    """
    if root.is_file():
        return [root]
    if not root.is_dir():
        raise DataError(f"{root}: no such file or folder")
    every = sorted(root.rglob("*.parquet"))
    in_config = [f for f in every if config in f.relative_to(root).parts[:-1]] if config else []
    found = [
        f
        for f in in_config or every
        if re.split(r"[-.]", f.name)[0] == split or f.parent.name == split
    ]
    if not found:
        names = ", ".join(str(f.relative_to(root)) for f in every[:8]) or "none"
        raise DataError(
            f"{root}: no file {split}-*.parquet of split {split!r}; parquet files there: "
            f"{names}. Or give the file itself"
        )
    return found


def _parquet_rows(files: Sequence[Path], columns: Sequence[str]) -> Iterator[Columns]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pa.set_memory_pool(pa.system_memory_pool())  # its own keeps for itself what it freed
    for file in files:
        try:
            with pq.ParquetFile(file) as table:
                _need(columns, table.schema_arrow.names, str(file))
                for batch in table.iter_batches(batch_size=16, columns=list(columns)):
                    yield from batch.to_pylist()
        except (pa.ArrowException, OSError) as e:
            raise DataError(f"{file}: unreadable parquet ({e})") from e


def _saved_folder(root: Path, split: str) -> Path | None:
    """The folder of one split that ``save_to_disk`` wrote at ``root``, if it did."""
    if (root / "state.json").is_file():
        return root
    if not (root / "dataset_dict.json").is_file():
        return None
    if not (root / split / "state.json").is_file():
        splits = ", ".join(sorted(f.parent.name for f in root.glob("*/state.json")))
        raise DataError(f"{root}: no split {split!r}; it has: {splits}")
    return root / split


def _saved_dataset(root: Path, split: str) -> Any:
    folder = _saved_folder(root, split) if root.is_dir() else None
    if folder is None:
        return None
    import datasets

    return datasets.load_from_disk(str(folder))


@lru_cache(maxsize=16)
def _from_hub(repositories: tuple[str, ...], config: str | None, split: str) -> tuple[str, Any]:
    """The first of the repositories that loads, and its table."""
    import datasets

    failures = []
    for repository in repositories:
        try:
            return repository, datasets.load_dataset(repository, config, split=split)
        except (
            Exception
        ) as e:  # whatever the library and its transport raise, a person needs the same answer
            failures.append(
                f"  {repository}: {type(e).__name__}: {str(e).splitlines()[0] if str(e) else ''}"
            )
            if isinstance(e, ConnectionError) and not datasets.config.HF_HUB_OFFLINE:
                break
    name = f"{repositories[0]}{f' ({config})' if config else ''}, split {split}"
    raise DataError(
        f"dataset {name} can't be loaded:\n" + "\n".join(failures) + "\n"
        "Connect to the Hugging Face hub (and unset HF_HUB_OFFLINE), or give a local copy: "
        "--data TASK:SUBSET=FOLDER"
    )


def _revision(table: Any) -> str | None:
    """The commit that ``datasets`` downloaded, which names the folder of its cache; None when it
    doesn't.
    """
    for file in table.cache_files:
        if found := re.search(r"[0-9a-f]{40}", Path(file["filename"]).parent.name):
            return found[0]
    return None


def _archives(repository: str, patterns: Sequence[str]) -> Path:
    """The folder with the clip archives of a hub repository, fetched if they are not in the hub's
    cache.
    """
    from huggingface_hub import snapshot_download

    try:
        return Path(
            snapshot_download(repository, repo_type="dataset", allow_patterns=list(patterns))
        )
    except Exception as e:  # as above
        raise DataError(
            f"{repository}: its clips ({', '.join(patterns)}) can't be fetched: {e}\n"
            "Connect to the Hugging Face hub, or give a local copy: --data TASK:SUBSET=FOLDER"
        ) from e


def _unpacked(archive: Path, member: str) -> Path:
    stat = archive.stat()
    key = hashlib.sha256(
        f"{archive.resolve()} {stat.st_size} {stat.st_mtime_ns}".encode()
    ).hexdigest()[:12]
    target = cache_dir() / "clips" / key / Path(member).name
    if not target.is_file():
        target.parent.mkdir(parents=True, exist_ok=True)
        with (
            tempfile.TemporaryDirectory(dir=target.parent) as folder,
            zipfile.ZipFile(archive) as packed,
        ):
            try:
                Path(packed.extract(member, folder)).replace(target)
            except (zipfile.BadZipFile, zlib.error, EOFError) as e:
                warnings.warn(
                    f"{archive}: {member} is damaged ({e}); its questions are left unanswered",
                    stacklevel=2,
                )
    return target


def _need(columns: Sequence[str], found: Sequence[str], where: str) -> None:
    if missing := [c for c in columns if c not in found]:
        raise DataError(
            f"{where}: no column {', '.join(map(repr, missing))}; it has: {', '.join(found)}"
        )
