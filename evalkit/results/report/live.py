"""What ``evalkit view`` shows: the documents of an output folder while its journals grow, and the
media of its samples from the tasks' data.

A cell is read again when one of its files changed; of a journal that grew only the new lines are,
and that of a finished cell is read when its samples are asked for. Names of documents stay what
they were, so that an open page keeps its place.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from evalkit.columns import Columns
from evalkit.contents import Contents, check_owner, read
from evalkit.errors import DataError, EvalkitError, UsageError, reason
from evalkit.lab.stored import stamp
from evalkit.malloc import uncollected
from evalkit.media import Times, preview
from evalkit.results.cells import task_of
from evalkit.results.report.documents import (
    answer_chunk,
    cell_index,
    overview,
    part_index,
    sample_chunk,
    studies_document,
)
from evalkit.results.report.media import (
    SIDE,
    made,
    media_of,
    samples_of,
    strip,
    webp,
    with_frames,
)
from evalkit.results.report.notes import load_notes, notes_document
from evalkit.results.report.page import sweep
from evalkit.results.report.parts import CellView, Part, parts_of
from evalkit.results.sweep_tables import load_findings
from evalkit.store import CellFolder, cells
from evalkit.types import Sample, Video

LARGE_SIDE = 2400
"""Longest side in pixels of a picture that is looked at closely."""
MOST_SAMPLES = 200
"""Samples whose media are kept at hand."""
Seen = tuple[Sample, Sequence[Times]]
"""A sample, and when the frames stood that a model was shown of each of its clips."""
State = tuple[tuple[int, int, int], ...]
"""(inode, bytes, time of the last change) of a cell's files."""


@dataclass
class Known:
    """A cell as it was last read."""

    state: State
    contents: Contents | None
    """What the journal holds; None while that was not asked for."""
    view: CellView


@dataclass
class Live:
    """An output folder, read as often as it changes. ``data`` maps ``task:subset`` to a local copy,
    where it is not that of the run. Safe to be asked by several threads.
    """

    output: Path
    data: Mapping[str, Path] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.lock = threading.RLock()
        self.known: dict[Path, Known] = {}
        self.parts: list[Part] = []
        self.faults: list[str] = []
        self.names: dict[str, str] = {}
        self.totals: dict[str, int | None] = {}
        self.media = MediaFinder(self.data)

    def document(self, name: str) -> dict[str, Any]:
        """Raises KeyError for a name that no document has."""
        with self.lock, uncollected():
            if name == "overview":
                self.refresh()
                sweeps, damaged = load_findings(self.output)
                shown, faults = list(map(sweep, sweeps)), self.faults + damaged
                return overview(self.parts, shown, faults, True, stamp(self.output))
            if name == "studies":
                return studies_document(self.output)
            if name == "notes":
                return notes_document(load_notes(self.output))
            return self._documents()[name.partition("-")[0]](name)

    def warm(self) -> None:
        """Reads all journals, so that nobody has to wait for them who has seen the overview."""
        for part in list(self.parts):
            with self.lock, uncollected(), suppress(DataError):
                _ = part.known

    def _documents(self) -> dict[str, Callable[[str], dict[str, Any]]]:
        out: dict[str, Callable[[str], dict[str, Any]]] = {}
        for part in self.parts:
            out[part.doc] = partial(_of_part, part)
            out |= {cell.doc: partial(_of_cell, part, cell) for cell in part.cells}
        return out

    def sample(self, part: str, place: int) -> Seen:
        """The sample at a place of a part, with its media and the frames that were shown of its
        clips. Raises KeyError, IndexError, and what reading its data raises.
        """
        with self.lock:
            found = {p.doc: p for p in self.parts}[part]
            return self.media.find(found, found.known["id"][place]), found.frames(place)

    def refresh(self) -> None:
        """Reads what changed since the last time."""
        changed, self.faults, present = False, [], cells(self.output)
        for path in self.known.keys() - {folder.path for folder in present}:
            del self.known[path]
            changed = True
        for folder in present:
            try:
                changed |= self._read(folder)
            except DataError as e:
                self.faults.append(f"left out: {e}")
                changed |= self.known.pop(folder.path, None) is not None
        if changed:
            self._arrange()

    def _read(self, folder: CellFolder) -> bool:
        """Whether the cell changed. Raises DataError when it can't be read."""
        state = _state(folder)
        before = self.known.get(folder.path)
        if before and before.state == state:
            return False
        contents = None
        if folder.intact:
            view = CellView(folder)
        else:  # a run without an end, or one whose derived files were lost
            contents = self._contents(folder, before, state)
            folder = folder.showing(folder.derived(contents))
            ended = contents.ending is not None
            view = CellView.of(folder, Columns.of(contents.records, ended=ended))
        view.written = state[0][2] / 1e9
        self.known[folder.path] = Known(state, contents, view)
        return True

    def _contents(self, folder: CellFolder, before: Known | None, state: State) -> Contents:
        """What the journals hold; of one that grew, what was added is read."""
        if folder.shard_paths or (before and len(before.state) > len(state)):
            return folder.contents()
        earlier = None
        if before and before.state[0][0] == state[0][0] and before.state[0][1] <= state[0][1]:
            earlier = before.contents  # the same file, longer
        contents = read(folder.journal_path, earlier)
        check_owner(folder.journal_path, contents.header, folder.name)
        return contents

    def _arrange(self) -> None:
        places = {p.name: p.known["id"] for p in self.parts if "known" in vars(p)}
        self.parts = parts_of(known.view for known in self.known.values())
        for part in self.parts:
            part.places = places.get(part.name, ())
            part.doc = self._name("p", part.name)
            part.total = self._total(part)
            for cell in part.cells:
                cell.doc = self._name("c", str(cell.folder.path))

    def _name(self, kind: str, key: str) -> str:
        return self.names.setdefault(f"{kind} {key}", f"{kind}{len(self.names)}")

    def _total(self, part: Part) -> int | None:
        """Samples of the data where a finished cell tells, or rows where the source does."""
        whole = [c.folder.results for c in part.cells if c.ended]
        if counts := [r.n_total for r in whole if r.complete and not r.selection.partial]:
            return max(counts)
        if part.name not in self.totals:
            self.totals[part.name] = None
            with suppress(Exception):  # a plugin of others; only the time left hangs on it
                run = part.cells[0].folder.run
                count = getattr(task_of(part.cells[0].folder).source, "count", None)
                where = Path(run.data_path).expanduser() if run.data_path else None
                self.totals[part.name] = count(where) if count else None
        return self.totals[part.name]


def _state(folder: CellFolder) -> State:
    out = []
    for path in (
        folder.journal_path,
        folder.run_path,
        folder.results_path,
        *folder.shard_paths,
    ):
        try:
            status = path.stat()
            out.append((status.st_ino, status.st_size, status.st_mtime_ns))
        except OSError:
            out.append((0, 0, 0))
    return tuple(out)


def _of_part(part: Part, name: str) -> dict[str, Any]:
    _, _, rest = name.partition("-samples-")
    return sample_chunk(part, _number(rest)) if rest else part_index(part)


def _of_cell(part: Part, cell: CellView, name: str) -> dict[str, Any]:
    _, _, rest = name.partition("-answers-")
    return answer_chunk(part, cell, _number(rest)) if rest else cell_index(part, cell)


def _number(text: str) -> int:
    """Of a chunk, as its address has it. Raises KeyError for what no chunk is called."""
    if not text.isdecimal() or len(text) > 9:
        raise KeyError(text)
    return int(text)


class MediaFinder:
    """Samples with their media, by id: read from the task's data in the order of its rows, as far
    as the one that is asked for. The last ones are kept; going back further reads from the first.
    """

    def __init__(self, data: Mapping[str, Path]) -> None:
        self.data = data
        self.readers: dict[str, Iterator[Sample]] = {}
        self.kept: dict[str, OrderedDict[str, Sample]] = {}

    def find(self, part: Part, id: str) -> Sample:
        """Raises EvalkitError when the data no longer have the sample, or can't be read."""
        kept = self.kept.setdefault(part.name, OrderedDict())
        for fresh in (False, True):
            if id in kept:
                kept.move_to_end(id)
                return kept[id]
            try:
                if fresh or part.name not in self.readers:
                    folders = [c.folder for c in part.cells]
                    self.readers[part.name] = samples_of(folders, self.data.get(folders[0].task))
                for sample in self.readers[part.name]:
                    kept[sample.id] = sample
                    if len(kept) > MOST_SAMPLES:
                        kept.popitem(last=False)
                    if sample.id == id:
                        return sample
            except (Exception, SystemExit) as e:
                self.readers.pop(part.name, None)
                raise EvalkitError(f"the data can't be read: {reason(e)}") from e
        raise EvalkitError("this sample is no longer in the data")


def media_document(seen: Seen, base: str) -> dict[str, Any]:
    """What the page shows of a sample's media; ``base`` begins the addresses of the files."""
    media = []
    for i, (part, shown) in enumerate(with_frames(*seen)):
        address = f"pictures/{base}/{i}.webp"
        item = made(part, shown, lambda _, at=address: at, side=1).to_json()  # type: ignore[misc]
        media.append(item | ({"play": f"clips/{base}/{i}"} if item.get("clip") else {}))
    return {"media": media}


def picture(seen: Seen, number: int, small: bool = False) -> bytes:
    """A picture, or a strip of a clip's frames, as WebP. Raises IndexError, DataError."""
    part, shown = list(with_frames(*seen))[number]
    if isinstance(part, Video):
        return webp(strip(part, shown).picture)
    return webp(preview(part, SIDE // 3 if small else LARGE_SIDE)[0])


def clip(seen: Seen, number: int) -> bytes:
    """The bytes of a clip. Raises IndexError, UsageError, OSError."""
    part = media_of(seen[0])[number]
    if not isinstance(part, Video):
        raise UsageError("this is no clip")
    return part.read()
