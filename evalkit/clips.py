"""Finding the file of a clip by its name, in folders and in the zip files that lie in them.

Releases name a clip without its suffix and pack clips in archives of their own making. Files count
as clips by what they hold, not by their suffix. A clip in a zip file is unpacked when it is first
asked for, into ``$XDG_CACHE_HOME/evalkit/clips``.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import shutil
import tempfile
import time
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from evalkit.bounds import bounds, over
from evalkit.cache_dir import cache_dir
from evalkit.digests import file_digest
from evalkit.errors import DataError
from evalkit.formats import HEAD, media_type

SUFFIXES = frozenset(
    ".mp4 .m4v .mov .3gp .webm .mkv .avi .flv .wmv .asf .mpg .mpeg .ts .m2ts .ogv .gif".split()
)
"""Suffixes that are left out when a clip is looked up by name."""
OTHERS = frozenset(
    ".parquet .arrow .json .jsonl .csv .tsv .txt .md .yaml .yml .py .srt .vtt .lock .gz .tar "
    ".jpg .jpeg .png .webp .bmp .pdf .wav .mp3 .html".split()
)
"""Suffixes of files that are not opened to see whether they are clips."""
SMALL = 64 * 2**20
"""Encoded media do not shrink when they are packed: what unpacks to more bytes than these, and to
more than ``unpack_ratio`` times its packed size, is not unpacked."""
FOLDERS = "EVALKIT_MEDIA_FOLDERS"
"""The environment variable with further folders that data may name media in."""
IN_USE = 3600
"""Seconds since its last use before an unpacked clip may make room for another."""

logger = logging.getLogger("evalkit")
_cached: dict[Path, int] = {}  # bytes in a cache folder, as this process knows it
_handed_out: set[Path] = set()


def refusal(path: Path, *folders: Path) -> str | None:
    """Why a file that data name, or a link in their folder, is not read: it lies in none of the
    data's ``folders``. None where it may be. Raises OSError for what is no path.
    """
    allowed = [Path(f).expanduser() for f in os.environ.get(FOLDERS, "").split(os.pathsep) if f]
    for folder in (*folders, *allowed):
        # in the hub's cache, files of a snapshot are links to what lies beside all snapshots
        root = folder.parent.parent if folder.parent.name == "snapshots" else folder
        if path.resolve().is_relative_to(root.resolve()):
            return None
    return (
        f"{str(path)[:200]!r} lies outside {' and '.join(map(str, folders))}: media are read from "
        f"below it only ({FOLDERS} allows further folders)"
    )


@dataclass(frozen=True)
class Clip:
    """One place where a clip lies: a file, or a member of a zip file. ``name`` is its path inside
    the folder or the archive.
    """

    file: Path
    name: PurePosixPath
    member: zipfile.ZipInfo | None = None

    def __str__(self) -> str:
        return f"{self.file}: {self.name}" if self.member else str(self.file)

    @property
    def stem(self) -> str:
        return self.name.stem if self.name.suffix.lower() in SUFFIXES else self.name.name

    @property
    def size(self) -> int:
        return self.member.file_size if self.member else self.file.stat().st_size

    @property
    def checksum(self) -> int:
        """CRC-32 of its bytes: a zip file has it at hand, so two places are compared by it."""
        if self.member:
            return self.member.CRC
        value = 0
        with self.file.open("rb") as file:
            while block := file.read(2**20):
                value = zlib.crc32(block, value)
        return value


class ClipIndex:
    """The clips below some folders.

    A zip file that can't be read is named in a warning and passed over; a clip that is then
    missing is an error of its own. Raises DataError when the folders hold no clip at all.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        self.folders = tuple(folders)
        self.clips: dict[str, list[Clip]] = {}
        self.damaged: list[str] = []
        for folder in self.folders:
            for path in sorted(p for p in folder.rglob("*") if p.is_file()):
                if path.suffix.lower() == ".zip":
                    self._add(self._members(path))
                elif _is_clip_file(path):
                    self._add([Clip(path, PurePosixPath(path.relative_to(folder).as_posix()))])
        if not self.clips:
            searched = ", ".join(map(str, self.folders))
            why = f" (damaged: {'; '.join(self.damaged)})" if self.damaged else ""
            raise DataError(
                f"no clips found{why}; put <name>.mp4 files, or zip files of them, anywhere "
                f"under: {searched}"
            )

    @property
    def digest(self) -> str:
        """SHA-256, in hex, over the names and contents of all clips: bytes of files, sizes and
        checksums of packed ones.
        """
        lines = sorted(
            f"{clip.stem} {clip.size} {clip.member.CRC if clip.member else file_digest(clip.file)}"
            for clips in self.clips.values()
            for clip in clips
        )
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    def path(self, name: str) -> Path:
        """The file of a clip, named with or without folders and suffix. Raises DataError when it
        is nowhere, when it lies in two places with different contents, and when it can't be
        unpacked.
        """
        wanted = PurePosixPath(name)
        stem = wanted.stem if wanted.suffix.lower() in SUFFIXES else wanted.name
        clips = self.clips.get(stem, [])
        for close in (  # the more of the name fits, the better: its suffix, then its folders
            [c for c in clips if c.name.parts[-len(wanted.parts) :] == wanted.parts],
            [c for c in clips if c.name.parent.parts[-len(wanted.parts) + 1 :] == wanted.parts[:-1]]
            if len(wanted.parts) > 1
            else [],
        ):
            if close:
                clips = close
                break
        if not clips:
            damaged = f" (damaged: {'; '.join(self.damaged)})" if self.damaged else ""
            places = ", ".join(map(str, self.folders))
            raise DataError(f"no clip {name!r}; it belongs under {places}{damaged}")
        first = next((c for c in clips if not c.member), clips[0])
        for other in clips:
            if other is not first and (
                other.size != first.size or other.checksum != first.checksum
            ):
                raise DataError(
                    f"two clips are called {stem!r}: {first} and {other}; rename or remove one"
                )
        if why := refusal(first.file, *self.folders):
            raise DataError(why)
        return _unpacked(first) if first.member else first.file

    def _add(self, clips: Iterable[Clip]) -> None:
        for clip in clips:
            self.clips.setdefault(clip.stem, []).append(clip)

    def _members(self, archive: Path) -> Iterator[Clip]:
        try:
            with zipfile.ZipFile(archive) as packed:
                yield from (
                    Clip(archive, PurePosixPath(m.filename), m)
                    for m in packed.infolist()
                    if _is_clip_member(packed, m)
                )
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as e:
            self.damaged.append(f"{archive.name} ({e})")
            logger.warning("%s: not a readable zip file (%s); fetch it again", archive, e)


def _hidden(name: PurePosixPath) -> bool:
    return name.name.startswith(".") or "__MACOSX" in name.parts


def _is_clip_file(path: Path) -> bool:
    suffix = path.suffix.lower()
    if suffix in SUFFIXES or suffix in OTHERS or _hidden(PurePosixPath(path.name)):
        return suffix in SUFFIXES and not path.name.startswith(".")
    with path.open("rb") as file:
        return media_type(file.read(HEAD)) == "video"


def _is_clip_member(packed: zipfile.ZipFile, member: zipfile.ZipInfo) -> bool:
    name = PurePosixPath(member.filename)
    suffix = name.suffix.lower()
    if member.is_dir() or _hidden(name) or suffix in SUFFIXES or suffix in OTHERS:
        return suffix in SUFFIXES and not member.is_dir() and not _hidden(name)
    try:
        with packed.open(member) as file:
            return media_type(file.read(HEAD)) == "video"
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError, OSError):
        return False


def _unpacked(clip: Clip) -> Path:
    member = clip.member
    assert member is not None
    for bound, most in (
        ("clip_bytes", bounds().clip_bytes),
        ("unpack_ratio", max(SMALL, bounds().unpack_ratio * member.compress_size)),
    ):
        if member.file_size > most:
            raise DataError(
                f"{clip} unpacks to {member.file_size:,} bytes from {member.compress_size:,}: "
                f"{over(bound)}"
            )
    stat = clip.file.stat()
    key = f"{clip.file.resolve()} {stat.st_size} {stat.st_mtime_ns} {member.filename} {member.CRC}"
    folder = cache_dir() / "clips" / hashlib.sha256(key.encode()).hexdigest()[:12]
    target = folder / clip.name.name
    _handed_out.add(target)
    if target.is_file():
        return target
    _make_room(folder.parent, clip)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        part = tempfile.NamedTemporaryFile(dir=folder, delete=False)  # noqa: SIM115
    except OSError as e:
        raise DataError(
            f"{clip}: can't be unpacked into {folder}: {e.strerror or e}; set XDG_CACHE_HOME to "
            "a folder that can be written"
        ) from e
    try:
        with part, zipfile.ZipFile(clip.file) as packed, packed.open(member) as source:
            shutil.copyfileobj(source, part)
        Path(part.name).replace(target)
        _cached[folder.parent] += member.file_size
    except (
        zipfile.BadZipFile,
        zlib.error,
        EOFError,
        RuntimeError,  # an encrypted member
        NotImplementedError,
        OSError,
    ) as e:
        raise DataError(f"{clip} can't be unpacked: {e}") from e
    finally:
        Path(part.name).unlink(missing_ok=True)
    return target


def _make_room(cache: Path, clip: Clip) -> None:
    """Removes the clips of the cache that were last used longest ago, until another one has room.
    Raises DataError when those that are in use leave none.
    """
    room = bounds().cache_bytes - clip.size
    if _cached.get(cache, room + 1) <= room:
        return
    files = [(f, f.stat()) for f in cache.glob("*/*") if f.is_file()]
    total = sum(stat.st_size for _, stat in files)
    for file, stat in sorted(files, key=lambda f: max(f[1].st_atime, f[1].st_mtime)):
        used = max(stat.st_atime, stat.st_mtime)
        if total <= room or time.time() - used < IN_USE:
            break
        if file not in _handed_out:
            with contextlib.suppress(OSError):
                file.unlink()
                total -= stat.st_size
    _cached[cache] = total
    if total > room:
        raise DataError(
            f"{clip} has {clip.size:,} bytes, and {cache} {total:,} that are in use: "
            f"{over('cache_bytes')}"
        )
