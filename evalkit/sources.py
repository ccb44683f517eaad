"""Where the rows of a task come from: the data inside the package, the Hugging Face hub, a local
copy of either, or files of one's own.

All give rows with the columns of the data set, media still encoded, one at a time. A local copy
(``--data docvqa:val=FOLDER``) is a parquet file, a folder of parquet in the hub's layout, or a
folder written by ``Dataset.save_to_disk``. ``datasets`` and ``pyarrow`` are imported when rows are
first asked for.
"""

from __future__ import annotations

import hashlib
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

from evalkit.bounds import bounds, over
from evalkit.clips import SMALL, ClipIndex, refusal
from evalkit.digests import content_hash, file_digest
from evalkit.errors import DataError

Columns = Mapping[str, Any]
"""A row as it is stored: its columns by name."""
EMBEDDED = Path(__file__).parent / "data" / "mini"
ORGANISATIONS = {"lmms-lab": ("lmms-lab-encoder", "lmms-eval")}
"""Organisations whose datasets moved, and where to; tried in this order after the first."""


@dataclass(frozen=True, kw_only=True)
class TableSource(ABC):
    """A dataset with known columns. ``columns`` are those that the task reads, others are not
    loaded; ``config`` and ``split`` as on the hub.

    ``clips`` names the column that holds the name of a clip: such rows get one more key,
    ``"clip"``, the clip's file or the DataError that says why there is none.

    ``official`` is for a split that holds more on the hub than in the literature: rows there, and
    how many of them, from the first, are the official split. A table with another number of rows
    than those two is refused where it claims to be the official one (a local copy of one's own may
    have any).
    """

    split: str
    columns: tuple[str, ...]
    config: str | None = None
    clips: str | None = None
    official: tuple[int, int] | None = None

    @abstractmethod
    def rows(self, override: Path | None = None) -> Iterator[Columns]:
        """The rows in their stored order. Raises DataError when the data can't be found, or lack a
        column.
        """

    @abstractmethod
    def describe(self, override: Path | None = None) -> Mapping[str, Any]:
        """JSON: where the rows come from, and the commit or the hashes of the tables' bytes
        (``sha256``) and of media beside them (``media``). The place of a local copy is left out:
        equal bytes are equal data.
        """

    @abstractmethod
    def count(self, override: Path | None = None) -> int | None:
        """The number of rows; None where it can't be told without reading them."""

    def _taken(self, total: int) -> int:
        """How many of ``total`` rows are read."""
        return self.official[1] if self.official and total == self.official[0] else total

    def _local_rows(self, root: Path) -> Iterator[Columns]:
        folder = root.parent if root.is_file() else root
        table = _local_table(root, self.config, self.split)
        rows = islice(table.rows(self.columns), self._taken(table.count()))
        return self._with_clips(rows, folder.parent if folder.name == self.config else folder)

    def _local_description(self, root: Path) -> dict[str, Any]:
        table = _local_table(root, self.config, self.split)
        folder = root.parent if root.is_file() else root
        description: dict[str, Any] = {
            "config": self.config,
            "split": self.split,
            "files": [f.name for f in table.files],
            "sha256": content_hash(table.files),
        }
        if (taken := self._taken(total := table.count())) < total:
            description["rows"] = taken
        if self.clips:
            clips = ClipIndex([folder.parent if folder.name == self.config else folder])
            description["media"] = clips.digest
        elif pictures := table.media(self.columns):
            description["media"] = content_hash(pictures)
        return description

    def _described(self, kind: Mapping[str, Any], override: Path | None) -> Mapping[str, Any]:
        """The description of a local copy, or of the shipped files that ``kind`` names."""
        if override is None:
            return {**kind, **self._local_description(EMBEDDED / str(kind["name"]))}
        description = self._local_description(override)
        del description["files"]  # names, like places, are no part of what data are
        return {"kind": "local", **description}

    def _with_clips(self, rows: Iterator[Columns], *roots: Path) -> Iterator[Columns]:
        if not self.clips:
            yield from rows
            return
        index = ClipIndex(roots)
        for row in rows:
            yield {**row, "clip": _clip(index, row[self.clips])}


@dataclass(frozen=True, kw_only=True)
class Embedded(TableSource):
    """A dataset that ships inside the package, under ``evalkit/data/mini/<folder>``."""

    folder: str

    def rows(self, override: Path | None = None) -> Iterator[Columns]:
        return self._local_rows(override or EMBEDDED / self.folder)

    def describe(self, override: Path | None = None) -> Mapping[str, Any]:
        return self._described({"kind": "embedded", "name": self.folder}, override)

    def count(self, override: Path | None = None) -> int | None:
        root = override or EMBEDDED / self.folder
        return self._taken(_local_table(root, self.config, self.split).count())


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
        name, table = self._table()
        rows = islice(_hub_rows(table, self.columns, name), self._taken(len(table)))
        return self._with_clips(rows, *([_archives(name, self.archives)] if self.clips else []))

    def describe(self, override: Path | None = None) -> Mapping[str, Any]:
        if override:
            return self._described({}, override)
        name, table = self._table()
        description = {
            "kind": "hub",
            "repository": name,
            "config": self.config,
            "split": self.split,
            "revision": _revision(table),
        }
        taken = self._taken(len(table))
        return description if taken == len(table) else {**description, "rows": taken}

    def count(self, override: Path | None = None) -> int | None:
        if override:
            return self._taken(_local_table(override, self.config, self.split).count())
        return self._taken(len(self._table()[1]))

    def _table(self) -> tuple[str, Any]:
        """The repository's name and its table. Raises DataError when the table is not the official
        split and does not hold it in a known way.
        """
        name, table = _from_hub(self.repositories, self.config, self.split)
        if self.official and len(table) not in self.official:
            raise DataError(
                f"{name}, split {self.split}: {len(table):,} rows, where {self.official[0]:,} are "
                f"expected, the first {self.official[1]:,} of them the official split; which of "
                "these are the official ones is not known: give a local copy that holds just them"
            )
        return name, table


@dataclass(frozen=True)
class JsonLines:
    """One JSON object a line: ``JsonLines("qa.jsonl")``. The columns named in ``media`` hold paths
    of pictures or clips (or lists of them), relative to the file or to ``folder``, and below it.
    """

    file: str | Path
    media: tuple[str, ...] = ("image",)
    folder: str | Path | None = None

    def rows(self, override: Path | None = None) -> Iterator[Columns]:
        """The objects in their order, paths of media made whole. Raises DataError, with the line,
        for one that is no JSON object, or names media outside the folder.
        """
        file = override or Path(self.file)
        root = Path(self.folder) if self.folder and not override else file.parent
        for number, line in enumerate(_lines(file), 1):
            try:
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise ValueError(f"{line:.60} is not an object")
            except (ValueError, RecursionError) as e:
                raise DataError(f"{file}, line {number}: {e}") from e
            yield {**row, **{c: _below(root, row[c]) for c in self.media if c in row}}

    def describe(self, override: Path | None = None) -> Mapping[str, Any]:
        """The hashes of the file and of all media that it names."""
        files = [
            path
            for row in (self.rows(override) if self.media else ())
            for column in self.media
            for path in _paths(row.get(column))
        ]
        return {
            "kind": "local" if override else "jsonl",
            "sha256": content_hash([override or Path(self.file)]),
            "media": _media_hash(files),
        }

    def count(self, override: Path | None = None) -> int | None:
        return sum(1 for _ in _lines(override or Path(self.file)))


@dataclass(frozen=True)
class Folder:
    """One row a file: ``Folder("colours", "*.png")`` gives ``{"name": "red", "folder": "",
    "image": ...}`` for ``colours/red.png``, in the order of the paths. ``folder`` is where the file
    lies below the root, which is its label in many data sets.
    """

    root: str | Path
    pattern: str = "**/*"
    column: str = "image"

    def rows(self, override: Path | None = None) -> Iterator[Columns]:
        root = override or Path(self.root)
        for path in self._files(root):
            place = path.relative_to(root).parent.as_posix()
            why = refusal(path, root)  # a link may lead anywhere
            media = DataError(why) if why else path
            yield {"name": path.stem, "folder": "" if place == "." else place, self.column: media}

    def describe(self, override: Path | None = None) -> Mapping[str, Any]:
        """The hash of all files, their names among them: names are what answers are made of."""
        root = override or Path(self.root)
        files = self._files(root)
        names = "\n".join(f.relative_to(root).as_posix() for f in files)
        return {
            "kind": "local" if override else "folder",
            "sha256": hashlib.sha256(f"{names}\n{_media_hash(files)}".encode()).hexdigest(),
        }

    def count(self, override: Path | None = None) -> int | None:
        return len(self._files(override or Path(self.root)))

    def _files(self, root: Path) -> list[Path]:
        if not root.is_dir():
            raise DataError(f"{root}: no such folder")
        return sorted(
            f for f in root.glob(self.pattern) if f.is_file() and not f.name.startswith(".")
        )


def _lines(file: Path) -> Iterator[str]:
    try:
        with file.open(encoding="utf-8-sig") as lines:
            most, number = bounds().json_bytes, 0
            while line := lines.readline(most + 1):
                number += 1
                if len(line) > most:
                    raise DataError(f"{file}, line {number}: {over('json_bytes')}")
                if line.strip():
                    yield line
    except (OSError, UnicodeDecodeError) as e:
        raise DataError(f"{file}: can't be read ({e})") from e


def _below(root: Path, value: object, *others: Path) -> object:
    """Paths below a folder (or one of the ``others``) for the names in a column; other values as
    they are, for the reader of the column to refuse.
    """
    if isinstance(value, list):
        return [_below(root, item, *others) for item in value]
    if not isinstance(value, str) or not value:
        return value
    path = root / value
    try:
        why = refusal(path, root, *others)
        path.is_file()
    except (OSError, ValueError, RuntimeError) as e:  # too long, a NUL, a circle of links
        return DataError(f"{value!r:.80} is no path: {e}")
    return DataError(why) if why else path


def _paths(value: object) -> list[Path]:
    if isinstance(value, list):
        return [path for item in value for path in _paths(item)]
    return [value] if isinstance(value, Path) else []


def _media_hash(files: Sequence[Path]) -> str:
    """A hash over media in their order; one that can't be read counts as absent: its row will say
    so.
    """
    digests = [file_digest(f) if f.is_file() else "absent" for f in files]
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()


def _clip(index: ClipIndex, name: object) -> Path | DataError:
    if not isinstance(name, str | int) or isinstance(name, bool) or not str(name):
        return DataError(f"the name of its clip is {name!r:.80}")
    try:
        return index.path(str(name))
    except DataError as e:
        return e


class _Table(ABC):
    """The files of one split, and how they are read."""

    files: Sequence[Path]

    @abstractmethod
    def count(self) -> int: ...

    @abstractmethod
    def rows(self, columns: Sequence[str]) -> Iterator[Columns]: ...

    @abstractmethod
    def media(self, columns: Sequence[str]) -> list[Path]:
        """Files beside the table that its rows name as their pictures."""


def _written(file: Path) -> tuple[int, int, int]:
    """Tells a file from one that was put in its place. Raises DataError where there is none."""
    try:
        stat = file.stat()
    except OSError as e:
        raise DataError(f"{file}: can't be read ({e.strerror})") from e
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


@dataclass(frozen=True)
class _Parquet(_Table):
    files: Sequence[Path]

    def count(self) -> int:
        return sum(self._open(file).metadata.num_rows for file in self.files)

    def rows(self, columns: Sequence[str]) -> Iterator[Columns]:
        import pyarrow as pa

        begun = [_written(file) for file in self.files]
        for file, written in zip(self.files, begun):
            if _written(file) != written:
                raise DataError(
                    f"{file}: was changed after the first rows were read: repeat the run"
                )
            table = self._open(file)
            try:
                with table:
                    _need(columns, table.schema_arrow.names, str(file))
                    _check_packed(table.metadata, columns, file)
                    for batch in table.iter_batches(batch_size=16, columns=list(columns)):
                        for row in batch.to_pylist():
                            yield _with_paths(row, file.parent)
            except (pa.ArrowException, OSError) as e:
                raise DataError(f"{file}: unreadable parquet ({e})") from e

    def media(self, columns: Sequence[str]) -> list[Path]:
        import pyarrow as pa

        files = []
        for file in self.files:
            table = self._open(file)
            try:
                for field_ in table.schema_arrow:
                    if field_.name in columns and _holds_media(field_.type):
                        # of the struct, only the paths are read: the bytes may be gigabytes
                        paths = table.read(columns=[f"{field_.name}.path"])[0].combine_chunks()
                        files += _beside(file.parent, paths.field("path").to_pylist())
            except (pa.ArrowException, OSError) as e:
                raise DataError(f"{file}: unreadable parquet ({e})") from e
        return files

    def _open(self, file: Path) -> Any:
        import pyarrow as pa
        import pyarrow.parquet as pq

        _return_freed_memory()
        try:
            return pq.ParquetFile(file)
        except (pa.ArrowException, OSError) as e:
            raise DataError(f"{file}: unreadable parquet ({e})") from e


@dataclass(frozen=True)
class _Saved(_Table):
    """A split that ``Dataset.save_to_disk`` wrote."""

    folder: Path
    files: Sequence[Path] = field(default=(), init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "files", sorted(self.folder.glob("*.arrow")))

    def count(self) -> int:
        return len(self._load())

    def rows(self, columns: Sequence[str]) -> Iterator[Columns]:
        for row in _dataset_rows(self._load(), columns, str(self.folder)):
            yield _with_paths(row, self.folder)

    def media(self, columns: Sequence[str]) -> list[Path]:
        files = []
        for field_ in (table := self._load().data).schema:
            if field_.name in columns and _holds_media(field_.type):
                for chunk in table.column(field_.name).chunks:
                    files += _beside(self.folder, chunk.field("path").to_pylist())
        return files

    def _load(self) -> Any:
        import datasets

        try:
            return datasets.load_from_disk(str(self.folder))
        except Exception as e:  # a missing or damaged part may raise anything
            raise DataError(f"{self.folder}: can't be loaded: {type(e).__name__}: {e}") from e


def table_files(root: Path, config: str | None, split: str) -> list[Path]:
    """The files that a local copy of a split is read from, in order. Raises DataError."""
    return list(_local_table(root, config, split).files)


def _local_table(root: Path, config: str | None, split: str) -> _Table:
    saved = _saved_folder(root, split) if root.is_dir() else None
    return _Saved(saved) if saved else _Parquet(_parquet_files(root, config, split))


def _parquet_files(root: Path, config: str | None, split: str) -> list[Path]:
    """The split's parquet files: ``root`` itself, or those under it that the hub's layouts name
    after the split. Raises DataError when there are none, when parts of the split are absent, and
    when two folders hold a split of that name.
    """
    if root.is_file():
        return [root]
    if not root.is_dir():
        raise DataError(f"{root}: no such file or folder")
    every = sorted(root.rglob("*.parquet"))
    in_config = [f for f in every if config in f.relative_to(root).parts[:-1]] if config else []
    files = [
        f
        for f in in_config or every
        if re.split(r"[-.]", f.name)[0] == split or f.parent.name == split
    ]
    if not files:
        names = ", ".join(str(f.relative_to(root)) for f in every[:8]) or "none"
        raise DataError(
            f"{root}: no file {split}-*.parquet of split {split!r}; parquet files there: "
            f"{names}. Or give the file itself"
        )
    if len(folders := sorted({f.parent for f in files})) > 1:
        raise DataError(
            f"{root}: split {split!r} lies in {' and in '.join(map(str, folders))}; give one of "
            "these folders"
        )
    _need_all_parts(files)
    return files


def _need_all_parts(files: Sequence[Path]) -> None:
    """``validation-00001-of-00004.parquet`` says that there are four files."""
    parts: dict[tuple[str, str], set[int]] = {}
    for file in files:
        if match := re.fullmatch(r"(.+)-(\d+)-of-(\d+)(?:-[0-9a-f]+)?\.parquet", file.name):
            parts.setdefault((match[1], match[3]), set()).add(int(match[2]))
    for (name, total), numbers in parts.items():
        if absent := sorted(set(range(int(total))) - numbers):
            width = len(total)
            names = ", ".join(f"{name}-{i:0{width}}-of-{total}.parquet" for i in absent[:8])
            raise DataError(
                f"{files[0].parent}: {len(numbers)} of {int(total)} files of {name!r}; absent: "
                f"{names}. Fetch them, or give one file by its name to use it alone"
            )
    if len(parts) > 1:
        sets = " and ".join(f"{name}-*-of-{total}" for name, total in parts)
        raise DataError(f"{files[0].parent}: two sets of files: {sets}; remove one")


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


def _dataset_rows(table: Any, columns: Sequence[str], where: str) -> Iterator[Columns]:
    """Rows of a ``datasets.Dataset``, its images undecoded."""
    import datasets

    _need(columns, table.column_names, where)
    table = table.select_columns(list(columns))
    for name, feature in table.features.items():
        if isinstance(feature, datasets.Image):
            table = table.cast_column(name, datasets.Image(decode=False))
    yield from table


def _hub_rows(table: Any, columns: Sequence[str], name: str) -> Iterator[Columns]:
    """Rows of a table of the hub: media that are named by a path lie in the hub's cache, or where
    ``datasets`` has unpacked its archives.
    """
    import datasets
    from huggingface_hub.constants import HF_HUB_CACHE

    unpacked = Path(datasets.config.HF_DATASETS_CACHE)
    for row in _dataset_rows(table, columns, name):
        yield _with_paths(row, Path(HF_HUB_CACHE), unpacked)


def _holds_media(type_: Any) -> bool:
    """Whether an Arrow type is the ``{"bytes", "path"}`` of ``datasets``."""
    import pyarrow as pa

    return pa.types.is_struct(type_) and {f.name for f in type_} >= {"bytes", "path"}


def _with_paths(row: Columns, folder: Path, *others: Path) -> Columns:
    """The row with the paths of its media, where they have no bytes, read against the table's own
    folder and kept below it or one of the ``others``.
    """

    def placed(value: Any) -> Any:
        if isinstance(value, list):
            return [placed(item) for item in value]
        media = isinstance(value, dict) and value.keys() >= {"bytes", "path"}
        if media and value["path"] and not value["bytes"]:
            return _below(folder, value["path"], *others)
        return value

    return {column: placed(value) for column, value in row.items()}


def _beside(folder: Path, names: Sequence[str | None]) -> list[Path]:
    paths = (_below(folder, name) for name in names if name)
    return [p for p in paths if isinstance(p, Path) and p.is_file()]


@lru_cache(maxsize=1)
def _return_freed_memory() -> None:
    """pyarrow's default memory pool keeps what it freed, so a long run would keep growing; the
    system's gives it back. A setting of the whole process, made when parquet is first read.
    """
    import pyarrow as pa

    pa.set_memory_pool(pa.system_memory_pool())


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
        if match := re.search(r"[0-9a-f]{40}", Path(file["filename"]).parent.name):
            return match[0]
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


def _check_packed(metadata: Any, columns: Sequence[str], file: Path) -> None:
    """Raises DataError for a column that unpacks to far more than media or texts do."""
    for group in range(metadata.num_row_groups):
        for number in range(metadata.num_columns):
            column = metadata.row_group(group).column(number)
            packed, size = column.total_compressed_size, column.total_uncompressed_size
            if column.path_in_schema.split(".")[0] in columns and size > max(
                SMALL, bounds().unpack_ratio * packed
            ):
                raise DataError(
                    f"{file}: {column.path_in_schema!r} unpacks to {size:,} bytes from "
                    f"{packed:,}: {over('unpack_ratio')}"
                )


def _need(columns: Sequence[str], present: Sequence[str], where: str) -> None:
    if missing := [c for c in columns if c not in present]:
        raise DataError(
            f"{where}: no column {', '.join(map(repr, missing))}; it has: {', '.join(present)}"
        )
