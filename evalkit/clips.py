"""Finding the file of a clip by its name, in folders and in the archives that lie in them.

Releases name a clip without its suffix and pack clips in archives of their own making. Files count
as clips by what they hold, not by their suffix. A clip may also be a folder of pictures, its
frames, and subtitles lie beside clips under the same names. What is in an archive is unpacked when
it is first asked for, into ``$XDG_CACHE_HOME/evalkit/clips``.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import tempfile
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath, PurePosixPath
from typing import Literal

from evalkit.archives import DAMAGE, Archive, Blocks, Member, archives, is_archive
from evalkit.bounds import bounds, over
from evalkit.cache_dir import cache_dir
from evalkit.digests import media_digest
from evalkit.errors import DataError
from evalkit.formats import (
    HEAD,
    frame_files,
    frame_order,
    is_frame,
    media_type,
)

SUFFIXES = frozenset(
    ".mp4 .m4v .mov .3gp .webm .mkv .avi .flv .wmv .asf .mpg .mpeg .ts .m2ts .ogv .gif".split()
)
"""Suffixes that are left out when a clip is looked up by name."""
SUBTITLES = frozenset((".srt", ".json"))
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


Kind = Literal["clips", "clips and frames", "pictures", ".srt", ".json"]
"""What is looked for: files of clips; folders of frames, too; single pictures; or subtitles in
files of a suffix."""


@dataclass(frozen=True)
class Clip:
    """One place where a clip lies: a file or a folder of frames, or members of an archive.
    ``name`` is its path inside the folder or the archive.
    """

    file: Path
    name: PurePosixPath
    archive: Archive | None = None
    members: tuple[Member, ...] = ()
    frames: bool = False

    def __str__(self) -> str:
        return f"{self.archive}: {self.name}" if self.archive else str(self.file)

    @property
    def stem(self) -> str:
        suffix = self.name.suffix.lower()
        return self.name.stem if suffix in SUFFIXES | SUBTITLES else self.name.name

    @property
    def size(self) -> int:
        if self.archive:
            return sum(m.size for m in self.members)
        return sum(f.stat().st_size for f in self.files)

    @property
    def files(self) -> list[Path]:
        """The files that it is read from: itself, its frames, or the archive's."""
        if self.archive:
            return [*self.archive.files]
        return frame_files(self.file) if self.frames else [self.file]

    @property
    def checksum(self) -> int:
        """CRC-32 of its bytes (of the checksums of its frames): a zip file has it at hand, so two
        places are compared by it. Raises DataError for an archive that is damaged there.
        """
        if self.archive:
            try:
                with self.archive.reading() as blocks:
                    each = [_crc(blocks(m)) if m.crc is None else m.crc for m in self.members]
            except DAMAGE as e:
                raise DataError(f"{self} can't be read: {e}") from e
        else:
            each = [_crc(_blocks(f)) for f in self.files]
        return zlib.crc32(repr(each).encode()) if self.frames else each[0]

    @property
    def digest(self) -> str:
        """What tells its contents from others."""
        if not self.archive:
            return media_digest(self.file)
        if self.frames and self.members[0].crc is not None:
            return str(self.checksum)
        return " ".join(map(self.archive.digest, self.members))


def _crc(blocks: Iterable[bytes]) -> int:
    value = 0
    for block in blocks:
        value = zlib.crc32(block, value)
    return value


def _blocks(file: Path) -> Iterator[bytes]:
    with file.open("rb") as opened:
        while block := opened.read(2**20):
            yield block


class ClipIndex:
    """The clips below some folders, or what else ``kind`` says.

    An archive that can't be read is named in a warning and passed over; a clip that is then
    missing is an error of its own. Raises DataError when the folders hold none at all.
    """

    def __init__(self, folders: Sequence[Path], kind: Kind = "clips") -> None:
        self.folders, self.kind = tuple(folders), kind
        self.clips: dict[str, list[Clip]] = {}
        self.damaged: list[str] = []
        for folder in self.folders:
            every = (p for p in folder.rglob("*") if p.is_file())
            files = sorted(p for p in every if not hidden(p.relative_to(folder)))
            for archive in archives(files):
                self._add(self._members(archive))
            for path in files:
                if not is_archive(path) and self._wanted(path):
                    self._add([Clip(path, PurePosixPath(path.relative_to(folder).as_posix()))])
            if kind == "clips and frames":
                for parent in dict.fromkeys(f.parent for f in files if is_frame(f)):
                    name = PurePosixPath(parent.relative_to(folder).as_posix())
                    self._add([Clip(parent, name, frames=True)])
        if not self.clips:
            suffix = kind if kind in SUBTITLES else ".png" if kind == "pictures" else ".mp4"
            searched = ", ".join(map(str, self.folders))
            why = f" (damaged: {'; '.join(self.damaged)})" if self.damaged else ""
            raise DataError(
                f"no {self.what} found{why}; put <name>{suffix} files, or archives of them, "
                f"anywhere under: {searched}"
            )

    @property
    def what(self) -> str:
        return "subtitles" if self.kind in SUBTITLES else self.kind

    @property
    def digest(self) -> str:
        """SHA-256, in hex, over the names and contents of all clips: bytes of files, sizes and
        checksums of packed ones.
        """
        lines = sorted(
            f"{clip.stem} {clip.size} {clip.digest}"
            for clips in self.clips.values()
            for clip in clips
        )
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    def path(self, name: str) -> Path:
        """The file of a clip (or the folder of its frames), named with or without folders and
        suffix. Raises DataError when it is nowhere, when it lies in two places with different
        contents, and when it can't be unpacked.
        """
        wanted = PurePosixPath(name)
        clips = self.clips.get(self._stem(wanted), [])
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
            what = "picture" if self.kind == "pictures" else "clip"
            what = self.what if self.kind in SUBTITLES else what
            raise DataError(f"no {what} {name!r}; it belongs under {places}{damaged}")
        first = next((c for c in clips if not c.archive), clips[0])
        for other in clips:
            if other is not first and (
                other.size != first.size or other.checksum != first.checksum
            ):
                raise DataError(
                    f"two {self.what} are called {first.stem!r}: {first} and {other}; rename or "
                    "remove one"
                )
        for file in first.files:
            if why := refusal(file, *self.folders):
                raise DataError(why)
        return _unpacked(first, first.archive) if first.archive else first.file

    def __contains__(self, name: str) -> bool:
        return self._stem(PurePosixPath(name)) in self.clips

    def _stem(self, name: PurePosixPath) -> str:
        return name.stem if name.suffix.lower() in SUFFIXES | {self.kind} else name.name

    def _wanted(self, path: Path) -> bool:
        if self.kind in SUBTITLES:
            return path.suffix.lower() == self.kind
        return is_frame(path) if self.kind == "pictures" else _is_clip_file(path)

    def _add(self, clips: Iterable[Clip]) -> None:
        for clip in clips:
            self.clips.setdefault(clip.stem, []).append(clip)

    def _members(self, archive: Archive) -> Iterator[Clip]:
        frames: dict[PurePosixPath, list[Member]] = {}
        first = archive.files[0]
        try:
            members = archive.members()
        except DataError as e:
            what = "zip" if archive.is_zip else "tar"
            self.damaged.append(f"{archive.name} ({e})")
            logger.warning("%s: not a readable %s file: %s", archive, what, e)
            return
        with archive.reading() as blocks:
            for member in members:
                name = member.name
                if self.kind in SUBTITLES:
                    wanted = name.suffix.lower() == self.kind and not hidden(name)
                elif self.kind == "pictures":
                    wanted = is_frame(name) and not hidden(name)
                else:
                    wanted = _is_clip_member(member, blocks)
                if wanted:
                    yield Clip(first, name, archive, (member,))
                elif self.kind == "clips and frames" and is_frame(name) and not hidden(name):
                    frames.setdefault(name.parent, []).append(member)
        for parent, several in frames.items():
            several.sort(key=lambda m: frame_order(m.name))
            yield Clip(first, parent, archive, tuple(several), frames=True)


def hidden(name: PurePath) -> bool:
    """Whether a file, named from the root of its data, or a folder that it lies in is a system's or
    a notebook's own: ``.ipynb_checkpoints``, ``__MACOSX``.
    """
    return any((p.startswith(".") and p != "..") or p == "__MACOSX" for p in name.parts)


def _is_clip_file(path: Path) -> bool:
    suffix = path.suffix.lower()
    if suffix in SUFFIXES or suffix in OTHERS:
        return suffix in SUFFIXES
    with path.open("rb") as file:
        return media_type(file.read(HEAD)) == "video"


def _is_clip_member(member: Member, blocks: Blocks) -> bool:
    suffix = member.name.suffix.lower()
    if hidden(member.name) or suffix in SUFFIXES or suffix in OTHERS:
        return suffix in SUFFIXES and not hidden(member.name)
    try:
        return media_type(next(blocks(member), b"")[:HEAD]) == "video"
    except DAMAGE:
        return False


def _unpacked(clip: Clip, archive: Archive) -> Path:
    """The file, or the folder of the frames, of a packed clip."""
    packed = sum(m.packed for m in clip.members)
    for bound, most in (
        ("clip_bytes", bounds().clip_bytes),
        ("unpack_ratio", max(SMALL, bounds().unpack_ratio * packed)),
    ):
        if clip.size > most:
            raise DataError(f"{clip} unpacks to {clip.size:,} bytes from {packed:,}: {over(bound)}")
    key = archive.stamp + " "
    key += f"{clip.name} {clip.digest}" if clip.frames else clip.members[0].key
    folder = cache_dir() / "clips" / hashlib.sha256(key.encode()).hexdigest()[:12]
    targets = {folder / m.name.name: m for m in clip.members}
    _handed_out.update(targets)
    absent = {target: m for target, m in targets.items() if not target.is_file()}
    if absent:
        _make_room(folder.parent, clip)
        _unpack(clip, archive, absent)
    return folder if clip.frames else next(iter(targets))


def _unpack(clip: Clip, archive: Archive, members: Mapping[Path, Member]) -> None:
    """Writes members of the clip's archive to the files that they are named with."""
    folder = next(iter(members)).parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        aside = tempfile.TemporaryDirectory(dir=folder.parent, prefix=".")
    except OSError as e:
        raise DataError(
            f"{clip}: can't be unpacked into {folder}: {e.strerror or e}; set XDG_CACHE_HOME to "
            "a folder that can be written"
        ) from e
    try:
        with aside, archive.reading() as blocks:
            part = Path(aside.name) / "part"
            for target, member in members.items():
                with part.open("wb") as out:
                    out.writelines(blocks(member))
                part.replace(target)
                _cached[folder.parent] += member.size
    except DAMAGE as e:
        raise DataError(f"{clip} can't be unpacked: {e}") from e


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
