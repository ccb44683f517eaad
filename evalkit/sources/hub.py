"""Datasets with known columns: those of the Hugging Face hub, and those inside the package. A local
copy of either is read in its place.
"""

from __future__ import annotations

import hashlib
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

from evalkit.clips import ClipIndex, Kind
from evalkit.digests import content_hash
from evalkit.errors import DataError
from evalkit.sources.tables import Columns, Table, dataset_rows, local_table, with_paths

EMBEDDED = Path(__file__).parents[1] / "data" / "mini"
DRAWER = "evalkit.nano.large"
"""What draws the larger sets; named here, since it builds on what is above this layer."""
ORGANISATIONS = {"lmms-lab": ("lmms-lab-encoder", "lmms-eval")}
"""Organisations whose datasets moved, and where to; tried in this order after the first."""


@dataclass(frozen=True, kw_only=True)
class TableSource(ABC):
    """A dataset with known columns. ``columns`` are those that the task reads, others are not
    loaded; ``config`` and ``split`` as on the hub. ``files`` are those of the split in the release,
    a name or a pattern, where they are not named after it; without a configuration, what
    ``datasets`` is told to read.

    ``clips`` names the column that holds the name of a clip: such rows get one more key,
    ``"clip"``, the clip's file or the DataError that says why there is none. ``clip_folder`` is
    where the clips lie in the release, which tells clips of one name apart. With ``frames``, a
    folder of pictures is a clip, too; with ``pictures``, the names are those of single pictures.
    ``subtitles`` names the column with the name of a clip's
    subtitles, files of the suffix ``spoken``: such rows get ``"subtitles"``, the file, None where
    there is none, or a DataError.

    ``official`` is for a split that holds more on the hub than in the literature: rows there, and
    how many of them, from the first, are the official split. A table with another number of rows
    than those two is refused where it claims to be the official one (a local copy of one's own may
    have any).
    """

    split: str
    columns: tuple[str, ...]
    config: str | None = None
    files: str = ""
    clips: str | None = None
    clip_folder: str = ""
    frames: bool = False
    pictures: bool = False
    subtitles: str = ""
    spoken: Kind = ".srt"
    official: tuple[int, int] | None = None

    def rows(self, override: Path | None = None) -> Iterator[Columns]:
        """The rows in their stored order. Raises DataError when the data can't be found, or lack a
        column.
        """
        rows = self.table_rows(override)
        return self.with_clips(rows, self.clip_index(override)) if self.clips else rows

    def describe(self, override: Path | None = None) -> Mapping[str, Any]:
        """JSON: where the rows come from, and the commit or the hashes of the tables' bytes
        (``sha256``) and of media beside them (``media``). The place of a local copy is left out:
        equal bytes are equal data.
        """
        index = self.clip_index(override) if self.clips and self._is_local(override) else None
        return {**self.describe_table(override), **(index.describe() if index else {})}

    @abstractmethod
    def count(self, override: Path | None = None) -> int | None:
        """The number of rows; None where it can't be told without reading them."""

    @abstractmethod
    def table_rows(self, override: Path | None) -> Iterator[Columns]:
        """The rows as the table has them, without clips."""

    @abstractmethod
    def describe_table(self, override: Path | None) -> Mapping[str, Any]:
        """The description without clips."""

    @abstractmethod
    def clip_folder_of(self, override: Path | None) -> Path:
        """The folder below which the clips lie, fetched if need be."""

    def _is_local(self, override: Path | None) -> bool:
        return True

    def clip_index(self, override: Path | None) -> Clips:
        folder = self.clip_folder_of(override)
        kind: Kind = "clips and frames" if self.frames else "clips"
        kind = "pictures" if self.pictures else kind
        return Clips.below(folder, kind, self.spoken if self.subtitles else None)

    def with_clips(self, rows: Iterator[Columns], clips: Clips) -> Iterator[Columns]:
        """The rows with the files of their clips, and of their subtitles."""
        for row in rows:
            spoken = row[self.subtitles] if self.subtitles else None
            yield {**row, **clips.of(row[str(self.clips)], self.clip_folder, spoken)}

    def _taken(self, total: int) -> int:
        """How many of ``total`` rows are read."""
        return self.official[1] if self.official and total == self.official[0] else total

    def local_table(self, root: Path) -> Table:
        """The table of a local copy. Raises DataError."""
        named = root / self.files
        return local_table(named if named.is_file() else root, self.config, self.split)

    def _local_rows(self, root: Path) -> Iterator[Columns]:
        table = self.local_table(root)
        return islice(table.rows(self.columns), self._taken(table.count()))

    def _local_clip_folder(self, root: Path) -> Path:
        folder = root.parent if root.is_file() else root
        return folder.parent if folder.name in (self.config, "json") else folder

    def _local_description(self, root: Path) -> dict[str, Any]:
        table = self.local_table(root)
        description: dict[str, Any] = {
            "config": self.config,
            "split": self.split,
            "files": [f.name for f in table.files],
            "sha256": content_hash(table.files),
        }
        if (taken := self._taken(total := table.count())) < total:
            description["rows"] = taken
        if not self.clips and (pictures := table.media(self.columns)):
            description["media"] = content_hash(pictures)
        return description

    def _described(self, override: Path) -> Mapping[str, Any]:
        """The description of a local copy."""
        description = self._local_description(override)
        del description["files"]  # names, like places, are no part of what data are
        return {"kind": "local", **description}


@dataclass(frozen=True)
class Clips:
    """The clips of a data set, and its subtitles where they are asked for."""

    clips: ClipIndex
    subtitles: ClipIndex | None = None

    @classmethod
    def below(cls, folder: Path, kind: Kind, spoken: Kind | None) -> Clips:
        return cls(ClipIndex([folder], kind), ClipIndex([folder], spoken) if spoken else None)

    def describe(self) -> dict[str, str]:
        spoken = {"subtitles": self.subtitles.digest} if self.subtitles else {}
        return {"media": self.clips.digest, **spoken}

    def of(self, name: object, folder: str, spoken: object) -> dict[str, Any]:
        """What a row gets for the name of its clip, which lies in ``folder`` of the release, and
        for that of its subtitles.
        """
        found: dict[str, Any] = {"clip": _clip(self.clips, name, folder)}
        if self.subtitles:
            whole = not self.subtitles.damaged
            absent = str(spoken) not in self.subtitles and whole
            found["subtitles"] = None if absent else _clip(self.subtitles, spoken)
        return found


@dataclass(frozen=True, kw_only=True)
class Embedded(TableSource):
    """A dataset that ships inside the package, under ``evalkit/data/mini/<folder>``."""

    folder: str

    @property
    def root(self) -> Path:
        return EMBEDDED / self.folder

    def table_rows(self, override: Path | None) -> Iterator[Columns]:
        return self._local_rows(override or self.root)

    def describe_table(self, override: Path | None) -> Mapping[str, Any]:
        if override:
            return self._described(override)
        return {"kind": "embedded", "name": self.folder, **self._local_description(self.root)}

    def clip_folder_of(self, override: Path | None) -> Path:
        return self._local_clip_folder(override or self.root)

    def count(self, override: Path | None = None) -> int | None:
        root = override or self.root
        return self._taken(self.local_table(root).count())


@dataclass(frozen=True, kw_only=True)
class Drawn(Embedded):
    """An embedded dataset that is drawn when it is first asked for, by ``evalkit.nano.large``."""

    place: ClassVar[str] = "drawn when first used"

    @property
    def root(self) -> Path:
        return self._drawn()[0]

    def describe(self, override: Path | None = None) -> Mapping[str, Any]:
        if override:
            return super().describe(override)
        name = f"{self.folder}/mini_large"
        return {"kind": "embedded", "name": name, "sha256": self._drawn()[1]}

    def _drawn(self) -> tuple[Path, str]:
        """The folder where it lies, and what identifies its rows and all their pixels."""
        found: tuple[Path, str] = import_module(DRAWER).drawn(self.folder)
        return found


@dataclass(frozen=True, kw_only=True)
class Hub(TableSource):
    """A dataset of the Hugging Face hub, read by the ``datasets`` library, which fetches all splits
    of the configuration, keeps them in its cache, and uses the cache alone when HF_HUB_OFFLINE is
    set. ``archives`` are patterns of the files in the repository that hold the clips: zip files,
    tar files and their parts."""

    repository: str
    archives: tuple[str, ...] = ()

    @property
    def repositories(self) -> tuple[str, ...]:
        """The names under which the dataset is or was published."""
        organisation, name = self.repository.split("/")
        return self.repository, *(
            f"{other}/{name}" for other in ORGANISATIONS.get(organisation, ())
        )

    def table_rows(self, override: Path | None) -> Iterator[Columns]:
        if override:
            return self._local_rows(override)
        name, table = self._table()
        return islice(_hub_rows(table, self.columns, name), self._taken(len(table)))

    def describe_table(self, override: Path | None) -> Mapping[str, Any]:
        if override:
            return self._described(override)
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

    def clip_folder_of(self, override: Path | None) -> Path:
        if override:
            return self._local_clip_folder(override)
        return _archives(self._table()[0], self.archives)

    def _is_local(self, override: Path | None) -> bool:
        return override is not None

    def count(self, override: Path | None = None) -> int | None:
        if override:
            return self._taken(self.local_table(override).count())
        return self._taken(len(self._table()[1]))

    def _table(self) -> tuple[str, Any]:
        """The repository's name and its table. Raises DataError when the table is not the official
        split and does not hold it in a known way.
        """
        files = self.files if self.config is None else ""
        name, table = _from_hub(self.repositories, self.config, self.split, files)
        if self.official and len(table) not in self.official:
            raise DataError(
                f"{name}, split {self.split}: {len(table):,} rows, where {self.official[0]:,} are "
                f"expected, the first {self.official[1]:,} of them the official split; which of "
                "these are the official ones is not known: give a local copy that holds just them"
            )
        return name, table


@dataclass(frozen=True)
class Joined:
    """Several tables of one data set as one: their rows one after the other, each with its table's
    name in the column ``"part"`` and its number within that, from 0, in ``"part_row"``. Clips, if
    they have any, lie below one folder.
    """

    parts: Mapping[str, TableSource]

    @property
    def first(self) -> TableSource:
        return next(iter(self.parts.values()))

    def rows(self, override: Path | None = None) -> Iterator[Columns]:
        self._check_apart(override)
        clips = self.first.clip_index(override) if self.first.clips else None
        for name, part in self.parts.items():
            rows = part.table_rows(override)
            if clips:
                rows = part.with_clips(rows, clips)
            for number, row in enumerate(rows):
                yield {**row, "part": name, "part_row": number}

    def describe(self, override: Path | None = None) -> Mapping[str, Any]:
        """As that of the first table, with one hash over the descriptions of all."""
        self._check_apart(override)
        tables = {name: dict(p.describe_table(override)) for name, p in self.parts.items()}
        told = dict(self.first.describe(override))
        for name in ("config", "split", "rows"):  # each table has its own
            told.pop(name, None)
        text = json.dumps(tables, sort_keys=True)
        told |= {"tables": list(tables), "sha256": hashlib.sha256(text.encode()).hexdigest()}
        return told

    def _check_apart(self, override: Path | None) -> None:
        """Raises DataError for a local copy that has the same file for several tables."""
        if override is None:
            return
        owners: dict[Path, str] = {}
        for name, part in self.parts.items():
            for file in part.local_table(override).files:
                if (other := owners.setdefault(file, name)) != name:
                    raise DataError(
                        f"{file} would be read as {other} and as {name}: give the folder that "
                        "holds all tables, each in a folder of its name as in the release"
                    )

    def count(self, override: Path | None = None) -> int | None:
        counts = [part.count(override) for part in self.parts.values()]
        return None if None in counts else sum(c for c in counts if c is not None)


def _clip(index: ClipIndex, name: object, folder: str = "") -> Path | DataError:
    if not isinstance(name, str | int) or isinstance(name, bool) or not str(name):
        return DataError(f"the name of its clip is {name!r:.80}")
    try:
        return index.path(f"{folder}/{name}" if folder else str(name))
    except DataError as e:
        return e


def _hub_rows(table: Any, columns: Sequence[str], name: str) -> Iterator[Columns]:
    """Rows of a table of the hub: media that are named by a path lie in the hub's cache, or where
    ``datasets`` has unpacked its archives.
    """
    import datasets
    from huggingface_hub.constants import HF_HUB_CACHE

    unpacked = Path(datasets.config.HF_DATASETS_CACHE)
    for row in dataset_rows(table, columns, name):
        yield with_paths(row, Path(HF_HUB_CACHE), unpacked)


@lru_cache(maxsize=16)
def _from_hub(
    repositories: tuple[str, ...], config: str | None, split: str, files: str = ""
) -> tuple[str, Any]:
    """The first of the repositories that loads, and its table."""
    import datasets

    failures = []
    told = {"data_files": files} if files else {}
    for repository in repositories:
        try:
            return repository, datasets.load_dataset(repository, config, split=split, **told)
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
