"""What archives of clips hold: zip files, and plain tar files, also those that were cut into parts
(``videos.tar.part.aa``, ``videos.tar.part.ab``, ...), which are read as one without being joined.

Only regular files are members; links, devices and sparse files are passed over, and a member's name
is never a place on this machine. A compressed tar has no beginning of a member to go to: it is not
read.
"""

from __future__ import annotations

import io
import re
import tarfile
import zipfile
import zlib
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path, PurePosixPath

from evalkit.digests import content_hash
from evalkit.errors import DataError
from evalkit.formats import HEAD, POINTER, is_pointer

BLOCK = 2**20
_WHOLE = (".zip", ".tar", ".tgz", ".tar.bz2", ".tar.zst")
"""How names of archives end that are no parts; ``.tar.gz`` may be one, the 183rd."""
_PACKED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")
"""How gzip, bzip2, xz and Zstandard begin."""
_PART = re.compile(r"(.+\.tar)((?:\.part)?[._-]?)([a-z]{2}|\d{2,4})", re.IGNORECASE)


@dataclass(frozen=True)
class Member:
    """A file in an archive: its size in bytes, and as packed. ``key`` tells its contents from those
    of others in the same archive. ``crc`` is known of a zip's members alone.
    """

    name: PurePosixPath
    size: int
    packed: int
    key: str
    crc: int | None
    place: zipfile.ZipInfo | int
    """A zip's entry, or where a tar's bytes begin."""


Blocks = Callable[[Member], Iterator[bytes]]


@dataclass(frozen=True)
class Archive:
    """A zip file, or a tar file's parts in order."""

    files: tuple[Path, ...]

    def __str__(self) -> str:
        more = f" to {self.files[-1].name}" if self.files[1:] else ""
        return f"{self.files[0]}{more}"

    @property
    def name(self) -> str:
        return self.files[0].name

    @property
    def is_zip(self) -> bool:
        return self.files[0].suffix.lower() == ".zip"

    @property
    def stamp(self) -> str:
        """Tells it from one that was put in its place: where it lies; bytes and last write of each
        part, which may be replaced by an older one.
        """
        stats = [f.stat() for f in self.files]
        told = [f"{s.st_size} {s.st_mtime_ns}" for s in stats]
        return " ".join([str(self.files[0].resolve()), *told])

    def digest(self, member: Member) -> str:
        """What tells a member's contents from others: its checksum, or, where the archive keeps
        none, the archive's bytes and its place in them.
        """
        if member.crc is not None:
            return str(member.crc)
        return f"{content_hash(self.files)} {member.place}"

    def members(self) -> list[Member]:
        """Raises DataError when they can't be listed to their end."""
        try:
            return self._of_zip() if self.is_zip else self._of_tar()
        except (*DAMAGE, ValueError) as e:
            pointer = next((f for f in self.files if is_pointer(f)), None)
            raise DataError(POINTER if pointer else f"{e}; fetch it again") from e

    @contextmanager
    def reading(self) -> Iterator[Blocks]:
        """What gives the bytes of its members, ``BLOCK`` at a time. It raises what is in
        ``DAMAGE``.
        """
        if self.is_zip:
            with zipfile.ZipFile(self.files[0]) as packed:
                yield lambda member: _unzipped(packed, member)
        else:
            with _joined(self.files) as file:
                yield lambda member: _cut(file, member)

    def _of_zip(self) -> list[Member]:
        with zipfile.ZipFile(self.files[0]) as packed:
            return [
                Member(
                    PurePosixPath(m.filename),
                    m.file_size,
                    m.compress_size,
                    f"{m.filename} {m.CRC}",
                    m.CRC,
                    m,
                )
                for m in packed.infolist()
                if not m.is_dir()
            ]

    def _of_tar(self) -> list[Member]:
        with self.files[0].open("rb") as first:
            if first.read(HEAD).startswith(_PACKED):
                raise DataError("it is compressed: unpack it")
        if absent := _absent(self.files):
            raise DataError(f"{absent} is absent")
        with _joined(self.files) as file, tarfile.open(fileobj=file, mode="r:") as packed:
            found = [
                Member(
                    PurePosixPath(m.name),
                    m.size,
                    m.size,
                    f"{m.name} {m.offset_data}",
                    None,
                    m.offset_data,
                )
                for m in packed
                if m.isreg() and not m.issparse()
            ]
            file.seek(packed.offset)  # tarfile takes a header that it can't read for the end
            if file.read(tarfile.BLOCKSIZE).strip(b"\0"):
                raise DataError(f"it can't be read beyond {packed.offset:,} bytes; fetch it again")
        return found


def _unzipped(packed: zipfile.ZipFile, member: Member) -> Iterator[bytes]:
    with packed.open(member.place) as file:  # type: ignore[arg-type]  # a zip's members have entries
        while block := file.read(BLOCK):
            yield block


def _cut(file: io.BufferedReader, member: Member) -> Iterator[bytes]:
    file.seek(member.place)  # type: ignore[arg-type]  # a tar's members have places
    left = member.size
    while block := file.read(min(BLOCK, left)):
        left -= len(block)
        yield block
    if left:
        raise OSError(f"it ends {left:,} bytes early")


DAMAGE = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    EOFError,
    RuntimeError,  # an encrypted member
    NotImplementedError,
    OSError,
)
"""What a damaged archive makes its readers raise."""


def archives(files: Sequence[Path]) -> Iterator[Archive]:
    """The archives among some files; a tar's parts are one."""
    parts: dict[tuple[str, str], list[Path]] = {}
    for file in files:
        if file.name.lower().endswith(_WHOLE):
            yield Archive((file,))
        elif match := _PART.fullmatch(file.name):
            parts.setdefault((str(file.parent / match[1]), match[2]), []).append(file)
    yield from (Archive(tuple(sorted(files))) for files in parts.values())


def is_archive(file: Path) -> bool:
    """Whether a file is an archive, or a part of one, by its name."""
    return next(archives([file]), None) is not None


def _absent(files: Sequence[Path]) -> str:
    """The name of the first part that is missing before or between others; empty for none."""
    if not (match := _PART.fullmatch(files[0].name)):
        return ""
    ends = [file.name[match.end(2) :] for file in files]
    first = ends[0] if ends[0].isdigit() and int(ends[0]) <= 1 else "0" * len(ends[0])
    end = first if ends[0].isdigit() else "aa" if ends[0].islower() else "AA"
    for known in ends:
        if known != end:
            return f"{match[1]}{match[2]}{end}"
        end = _after(end)
    return ""


def _after(end: str) -> str:
    """The end of the next part's name: ``ab`` after ``aa``, ``010`` after ``009``."""
    if end.isdigit():
        return str(int(end) + 1).zfill(len(end))
    first, second = end[0], end[1]
    turn = second.lower() == "z"
    return f"{chr(ord(first) + turn)}{chr(ord(second) - 25) if turn else chr(ord(second) + 1)}"


def _joined(files: Sequence[Path]) -> io.BufferedReader:
    """Files, one after the other, as one; a read over an end is whole."""
    return io.BufferedReader(_Joined(files))


class _Joined(io.RawIOBase):
    """The same, of which a read stops at the end of each file."""

    def __init__(self, files: Sequence[Path]) -> None:
        super().__init__()
        with ExitStack() as stack:
            self._files = [stack.enter_context(f.open("rb")) for f in files]
            self._stack = stack.pop_all()
        self._starts = [0, *accumulate(f.stat().st_size for f in files)]
        self._at = 0

    def close(self) -> None:
        self._stack.close()
        super().close()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + (0, self._at, self._starts[-1])[whence]
        return self._at

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        if self._at >= self._starts[-1]:
            return 0
        part = bisect_right(self._starts, self._at) - 1
        file, left = self._files[part], self._starts[part + 1] - self._at
        file.seek(self._at - self._starts[part])
        data = file.read(min(len(buffer), left))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)
