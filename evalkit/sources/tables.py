"""Tables in the layouts of the ``datasets`` library: parquet files of a split, and what
``Dataset.save_to_disk`` wrote; or JSON, a list of objects or one a line. Rows come one at a time,
media still encoded.
"""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from evalkit.bounds import bounds, over
from evalkit.clips import SMALL, hidden
from evalkit.errors import DataError
from evalkit.formats import POINTER, is_pointer
from evalkit.sources.media import below

BUFFER = 1 << 20
"""Bytes of a parquet column that are read at once."""
Columns = Mapping[str, Any]
"""A row as it is stored: its columns by name."""


class Table(ABC):
    """The files of one split, and how they are read."""

    files: Sequence[Path]

    @abstractmethod
    def count(self) -> int: ...

    @abstractmethod
    def rows(self, columns: Sequence[str] | None) -> Iterator[Columns]:
        """With these columns; with all of them for None."""

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
class _Parquet(Table):
    files: Sequence[Path]

    def count(self) -> int:
        return sum(self._open(file).metadata.num_rows for file in self.files)

    def rows(self, columns: Sequence[str] | None) -> Iterator[Columns]:
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
                    there = table.schema_arrow.names
                    wanted = there if columns is None else list(columns)
                    _need(wanted, there, str(file))
                    once([c for c in there if c in wanted], str(file))
                    _check_packed(table.metadata, wanted, file)
                    short = _short_floats(table.schema_arrow) if columns is None else {}
                    for batch in table.iter_batches(batch_size=16, columns=wanted):
                        for row in batch.to_pylist():
                            row |= {c: read(row[c]) for c, read in short.items()}
                            yield with_paths(row, file.parent)
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
            # by default it keeps every row group that it has read until the file is closed
            return pq.ParquetFile(file, pre_buffer=False, buffer_size=BUFFER)
        except (pa.ArrowException, OSError) as e:
            if is_pointer(file):
                raise DataError(f"{file}: {POINTER}") from e
            raise DataError(f"{file}: unreadable parquet ({e})") from e


@dataclass(frozen=True)
class _Saved(Table):
    """A split that ``Dataset.save_to_disk`` wrote."""

    folder: Path
    files: Sequence[Path] = field(default=(), init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "files", sorted(self.folder.glob("*.arrow")))

    def count(self) -> int:
        return len(self._load())

    def rows(self, columns: Sequence[str] | None) -> Iterator[Columns]:
        table = self._load()
        short = _short_floats(table.data.schema) if columns is None else {}
        for row in dataset_rows(table, columns, str(self.folder)):
            told = {c: read(row[c]) for c, read in short.items()}
            yield with_paths({**row, **told}, self.folder)

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


@dataclass(frozen=True)
class _Json(Table):
    """A split that is one JSON file, a list of objects, or one object a line."""

    file: Path

    @property
    def files(self) -> Sequence[Path]:  # type: ignore[override]
        return [self.file]

    def count(self) -> int:
        return len(self._load())

    def rows(self, columns: Sequence[str] | None) -> Iterator[Columns]:
        for number, row in enumerate(self._load()):
            wanted = list(row) if columns is None else columns
            _need(wanted, list(row), f"{self.file}, row {number}")
            yield {c: row[c] for c in wanted}

    def media(self, columns: Sequence[str]) -> list[Path]:
        return []

    def _load(self) -> list[dict[str, Any]]:
        try:
            if self.file.stat().st_size > bounds().json_bytes:
                raise DataError(f"{self.file}: {over('json_bytes')}")
            text = self.file.read_text(encoding="utf-8-sig")
            lined = self.file.suffix == ".jsonl"
            lines = [line for line in text.split("\n") if line.strip()] if lined else []
            rows = [*map(json.loads, lines)] if lined else json.loads(text)
        except (OSError, ValueError, RecursionError) as e:
            raise DataError(f"{self.file}: unreadable JSON ({e})") from e
        if not isinstance(rows, list) or not all(isinstance(r, dict) for r in rows):
            raise DataError(f"{self.file}: expected a list of objects, one a row")
        return rows


def parquet_rows(file: Path) -> Iterator[Columns]:
    """All columns of one parquet file. Raises DataError."""
    return _Parquet([file]).rows(None)


def table_files(root: Path, config: str | None, split: str) -> list[Path]:
    """The files that a local copy of a split is read from, in order. Raises DataError."""
    return list(local_table(root, config, split).files)


def local_table(root: Path, config: str | None, split: str) -> Table:
    """The table of a local copy, in whichever layout it lies. Raises DataError where
    there is none.
    """
    saved = _saved_folder(root, split) if root.is_dir() else None
    if (file := _json_file(root, config)) is not None:
        return _Json(file)
    return _Saved(saved) if saved else _Parquet(_parquet_files(root, config, split))


def _json_file(root: Path, config: str | None) -> Path | None:
    """``root`` itself, or the file that is named after the configuration, where that is JSON."""
    if root.suffix in (".json", ".jsonl") and root.is_file():
        return root
    for folder in (root, root / "json"):
        if config and (file := folder / f"{config}.json").is_file():
            return file
    return None


def _parquet_files(root: Path, config: str | None, split: str) -> list[Path]:
    """The split's parquet files: ``root`` itself, or those under it that the hub's layouts name
    after the split. Raises DataError when there are none, when parts of the split are absent, and
    when two folders hold a split of that name.
    """
    if root.is_file():
        return [root]
    if not root.is_dir():
        raise DataError(f"{root}: no such file or folder")
    every = sorted(f for f in root.rglob("*.parquet") if not hidden(f.relative_to(root)))
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
    others: list[str] = []
    for file in files:
        match = re.fullmatch(r"(.+)-(\d+)-of-(\d+)(?:-[0-9a-f]+)?\.parquet", file.name)
        numbers = parts.setdefault((match[1], match[3]), set()) if match else set()
        if match and int(match[2]) not in numbers:
            numbers.add(int(match[2]))
        else:
            others.append(file.name)
    if parts and others:  # a browser's second download, or a file of another revision
        raise DataError(
            f"{files[0].parent}: {', '.join(map(repr, others[:8]))} beside numbered files of the "
            "split: rows would be asked twice; remove what doesn't belong to it"
        )
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


def dataset_rows(table: Any, columns: Sequence[str] | None, where: str) -> Iterator[Columns]:
    """Rows of a ``datasets.Dataset``, its images undecoded."""
    import datasets

    if columns is not None:
        _need(columns, table.column_names, where)
        table = table.select_columns(list(columns))
    for name, feature in table.features.items():
        if isinstance(feature, datasets.Image):
            table = table.cast_column(name, datasets.Image(decode=False))
    yield from table


def _short_floats(schema: Any) -> dict[str, Callable[[Any], Any]]:
    """How columns with numbers of 16 or 32 bits are read, for data whose numbers become texts: 0.1
    is 0.1, and not the 0.10000000149011612 that is nearest to it in 64 bits.
    """
    return {field_.name: read for field_ in schema if (read := _short_float(field_.type))}


def _short_float(type_: Any) -> Callable[[Any], Any] | None:
    import pyarrow as pa

    if pa.types.is_floating(type_) and not pa.types.is_float64(type_):
        kind = type_.to_pandas_dtype()
        return lambda value: None if value is None else float(str(kind(value)))
    if pa.types.is_struct(type_):
        inner = {f.name: read for f in type_ if (read := _short_float(f.type))}
        if inner:
            return lambda value: value and value | {k: read(value[k]) for k, read in inner.items()}
    elif hasattr(type_, "value_type") and (each := _short_float(type_.value_type)):
        if pa.types.is_dictionary(type_):
            return each
        return lambda value: value and [each(item) for item in value]
    return None


def _holds_media(type_: Any) -> bool:
    """Whether an Arrow type is the ``{"bytes", "path"}`` of ``datasets``."""
    import pyarrow as pa

    return pa.types.is_struct(type_) and {f.name for f in type_} >= {"bytes", "path"}


def with_paths(row: Columns, folder: Path, *others: Path) -> Columns:
    """The row with the paths of its media, where they have no bytes, read against the table's own
    folder and kept below it or one of the ``others``.
    """
    return {column: _placed(value, folder, others) for column, value in row.items()}


def _placed(value: Any, folder: Path, others: tuple[Path, ...]) -> Any:
    if isinstance(value, list):
        return [_placed(item, folder, others) for item in value]
    media = isinstance(value, dict) and value.keys() >= {"bytes", "path"}
    if media and value["path"] and not value["bytes"]:
        return below(folder, value["path"], *others)
    return value


def _beside(folder: Path, names: Sequence[str | None]) -> list[Path]:
    paths = (below(folder, name) for name in names if name)
    return [p for p in paths if isinstance(p, Path) and p.is_file()]


@lru_cache(maxsize=1)
def _return_freed_memory() -> None:
    """pyarrow's default memory pool keeps what it freed, so a long run would keep growing; the
    system's gives it back. A setting of the whole process, made when parquet is first read.
    """
    import pyarrow as pa

    pa.set_memory_pool(pa.system_memory_pool())


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


def once(columns: Sequence[str], where: str) -> None:
    """Raises DataError where two columns have one name: either might be meant."""
    if twice := sorted({c for c in columns if c and columns.count(c) > 1}):
        raise DataError(f"{where}: two columns are called {', '.join(map(repr, twice))}")


def _need(columns: Sequence[str], present: Sequence[str], where: str) -> None:
    if missing := [c for c in columns if c not in present]:
        raise DataError(
            f"{where}: no column {', '.join(map(repr, missing))}; it has: {', '.join(present)}"
        )
