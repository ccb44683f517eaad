"""Notes of people on samples: this label is wrong, that question is ambiguous.

They lie in ``notes.jsonl`` in the output folder, a JSON object a line. The last line on a sample
counts (``flag`` null takes a note back), so the notes of two people are merged by putting one file
behind the other. docs/viewer.md lists the fields.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from evalkit.errors import EvalkitError, UsageError
from evalkit.safe_text import without_keys

SCHEMA_VERSION = 1
FILE = "notes.jsonl"
FLAGS = ("label wrong", "ambiguous", "bad picture", "other")
MOST_TEXT = 2000
"""Characters of a note's sentence."""


@dataclass(frozen=True)
class Note:
    """What somebody said of one sample."""

    task: str
    """``name:subset``."""
    data: str
    """Digest of the data, as in tables: samples of other data are others."""
    id: str
    flag: str | None
    """One of FLAGS; None takes back what was said before."""
    text: str = ""
    created: str = ""
    """ISO 8601, UTC."""

    @property
    def key(self) -> tuple[str, str, str]:
        return self.task, self.data, self.id


def load_notes(output: Path) -> list[Note]:
    """The notes that count, in the order in which they were made. Lines that are no notes are left
    out: the file may be edited by hand.
    """
    try:
        lines = (output / FILE).read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return []
    except OSError as e:
        raise EvalkitError(f"{output / FILE}: can't be read: {e}") from e
    notes = [note for line in lines if (note := _parsed(line))]
    last: dict[tuple[str, str, str], Note] = {}
    for note in sorted(notes, key=lambda n: n.created):
        last.pop(note.key, None)
        last[note.key] = note
    return [note for note in last.values() if note.flag]


def add_note(output: Path, value: Mapping[str, Any]) -> Note:
    """Checks a note that a page sent and puts it at the end of the file, on disk when this returns.
    Raises UsageError with what is wrong with it.
    """
    note = _checked(value, datetime.now(UTC).isoformat(timespec="microseconds"))
    line = json.dumps({"schema_version": SCHEMA_VERSION, **asdict(note)}, ensure_ascii=False)
    path = output / FILE
    try:
        with path.open("a+b") as file:  # one write of a whole line: writers do not mix
            if file.tell() and os.pread(file.fileno(), 1, file.tell() - 1) != b"\n":
                line = f"\n{line}"
            file.write(f"{without_keys(line)}\n".encode())
            file.flush()
            os.fsync(file.fileno())
    except OSError as e:
        raise EvalkitError(f"{path}: can't be written ({e.strerror})") from e
    return note


def notes_document(notes: list[Note]) -> dict[str, Any]:
    """What the page reads."""
    return {"schema_version": SCHEMA_VERSION, "flags": FLAGS, "notes": [asdict(n) for n in notes]}


def _checked(value: Mapping[str, Any], created: str) -> Note:
    texts = {k: value.get(k, "") for k in ("task", "data", "id", "text")}
    if wrong := [k for k, v in texts.items() if not isinstance(v, str)]:
        raise UsageError(f"a note's {', '.join(wrong)} must be text")
    flag = value.get("flag")
    if flag is not None and flag not in FLAGS:
        raise UsageError(f"a note's flag is one of {', '.join(FLAGS)}, or null")
    if not texts["task"] or not texts["id"]:
        raise UsageError("a note names a task and a sample's id")
    if len(texts["text"]) > MOST_TEXT:
        raise UsageError(f"a note has at most {MOST_TEXT} characters")
    return Note(**texts, flag=flag, created=created)


def _parsed(line: str) -> Note | None:
    try:
        value = json.loads(line)
        return _checked(value, str(value.get("created", "")))
    except (ValueError, AttributeError, TypeError, RecursionError, UsageError):
        return None
