"""What a sample was asked, as digits: a recorded answer counts while its sample would be asked the
same again.
"""

from __future__ import annotations

import hashlib

from evalkit.records import asked
from evalkit.types import Image, Sample, Subtitles, Text, Video


def prompt_hash(sample: Sample) -> str:
    """The first 16 hex digits of SHA-256 over roles, texts and the bytes of media."""

    def part_of(part: Text | Image | Video) -> object:
        if isinstance(part, Subtitles):
            return part
        if isinstance(part, Text):
            return part.text
        try:
            digest = part.digest
        except OSError:
            digest = "unreadable"
        # The class and its other fields: how a clip is cut, how a picture is turned.
        others = {k: v for k, v in vars(part).items() if k not in ("source", "digest") and v}
        return type(part).__name__, digest, sorted(others.items())

    return _prompt_digest([[m.role, *map(part_of, m.content)] for m in sample.messages])


def is_text_alone(prompt: str, question: str) -> bool:
    """Whether a record's prompt is known to have been its question alone, nothing being shown."""
    return prompt == _prompt_digest([["user", question]])


def _prompt_digest(parts: list[list[object]]) -> str:
    return hashlib.sha256(repr(parts).encode("utf-8", "replace")).hexdigest()[:16]


def prompt_hash_of_0_1(sample: Sample) -> str:
    """The 12 digits that evalkit 0.1 recorded: media by kind, name and size."""

    def name(part: Image | Video) -> str:
        kind = type(part).__name__
        if isinstance(part.source, bytes):
            return f"<{kind} of {len(part.source)} bytes>"
        size = part.source.stat().st_size if part.source.is_file() else 0
        return f"<{kind} {part.source.name} of {size} bytes>"

    parts = [
        [m.role, *(p.text if isinstance(p, Text) else name(p) for p in m.content)]
        for m in sample.messages
    ]
    return hashlib.sha256(repr(parts).encode("utf-8", "replace")).hexdigest()[:12]


def asked_before(known: int, sample: Sample, prompt: str) -> bool:
    """Whether ``records.asked`` of a record is that of this sample as it is now."""
    told = sample.target
    return known == asked(prompt, told) or known == asked(prompt_hash_of_0_1(sample), told)
