"""The four words everything else speaks: Sample, Request, Completion, Score.

A task turns dataset rows into samples and scores answers; an adapter answers requests. Both sides
know only these frozen values, so a task never sees a model and an adapter never sees a metric.
Media stay encoded (bytes or a path) until the adapter decodes them, so that one bad file costs one
sample.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from evalkit.digests import media_digest
from evalkit.metrics.boxes import is_space
from evalkit.subtitles import Cue, spoken

BoxSpace = str
"""Names how a model writes box corners, unit and form: ``norm1000``, ``norm1:list``,
``resized:json@616x476``, ... (``evalkit.metrics.boxes`` has all).
"""
is_box_space = is_space

UNSCORED = -1e9
"""Stands among the log-likelihoods of choices for one that a model can't score: it has no such
label.
"""
FinishReason = Literal["stop", "length", "rank", "error"]
Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True)
class Text:
    """A run of text in a message."""

    text: str


@dataclass(frozen=True)
class Subtitles(Text):
    """What is said in the one clip of a conversation, as far as a model is to read it: the lines
    spoken while a frame that it is shown is on the screen, each once, or with ``repeat`` once a
    frame. ``text`` is a form with ``{subtitles}`` in it. The runner puts a plain text in its
    place, by the times of the frames that the adapter shows.
    """

    cues: tuple[Cue, ...] = ()
    repeat: bool = False

    def at(self, times: Iterable[float]) -> Text:
        """The text for frames that are shown at these times, in seconds."""
        lines = spoken(self.cues, times, self.repeat)
        return Text(self.text.replace("{subtitles}", "\n".join(lines)))


@dataclass(frozen=True)
class Media:
    """One encoded file: its bytes, or the path it is read from when first needed (a string is
    taken for a path).

    ``upright`` turns the picture as its orientation tag says (EXIF, or the display matrix of a
    clip); by default pixels are seen as they are stored. Raises TypeError for anything but bytes
    and paths, a decoded picture for instance.
    """

    source: bytes | Path
    upright: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        source: object = self.source
        if isinstance(source, str | bytearray | memoryview):
            source = Path(source) if isinstance(source, str) else bytes(source)
            object.__setattr__(self, "source", source)
        if not isinstance(source, bytes | Path):
            raise TypeError(
                f"{type(self).__name__} takes the bytes of an encoded file, or its path, not "
                f"{type(source).__name__}"
            )

    def read(self) -> bytes:
        """The encoded bytes. Raises OSError when the file can't be read, or is not a regular
        one (reading a pipe or a device may never end).
        """
        if isinstance(self.source, bytes):
            return self.source
        if self.source.exists() and not self.source.is_file():
            raise OSError(f"{self.source}: not a regular file")
        return self.source.read_bytes()

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the encoded bytes, in hex: the identity of the pixels. Raises OSError."""
        if isinstance(self.source, bytes):
            return hashlib.sha256(self.source).hexdigest()
        return media_digest(self.source)


@dataclass(frozen=True)
class Image(Media):
    """An encoded still image (PNG, JPEG, ...)."""


@dataclass(frozen=True)
class Video(Media):
    """An encoded clip; ``start`` and ``end`` in seconds cut it, None means from the first or to the
    last frame. A clip may also be a folder of pictures, in the order of the numbers in their names:
    ``fps`` says how many are shown a second.
    """

    start: float | None = None
    end: float | None = None
    fps: float | None = None


@dataclass(frozen=True)
class Interleaved(Video):
    """A clip that is asked about as pictures with what is said between them, as LongVideoBench has
    it: the runner puts pictures and texts in its place, as many as the budget's ``max_frames`` and
    no more than the clip has whole seconds. ``apart``: all pictures, and then the texts, a line for
    each picture and each cue (those of pictures empty), which is what is left of it in harnesses
    that put pictures first.
    """

    cues: tuple[Cue, ...] = ()
    apart: bool = False


Part = Text | Image | Video


@dataclass(frozen=True)
class Message:
    """One turn of a conversation; parts are in the order in which the model meets them."""

    role: Role
    content: tuple[Part, ...]


@dataclass(frozen=True)
class MediaBudget:
    """How much of the media a model may see. None leaves the setting to the adapter.

    ``min_pixels`` and ``max_pixels`` bound the area of an image (of a frame, for video); ``fps`` is
    frames per second of video, ``max_frames`` the most of one.
    """

    min_pixels: int | None = None
    max_pixels: int | None = None
    fps: float | None = None
    max_frames: int | None = None


@dataclass(frozen=True)
class Metric:
    """A named value that ``score`` returns. ``group``: the headline is the mean of the means over
    this metadata key (a macro average). ``scale`` multiplies it where people read it (100 for per
    cent).

    ``units``: metadata keys by whose values samples are counted together. A unit has the least
    value of its samples: it is right when all are. ``""`` stands for each sample by itself; of
    several keys the mean of the means by each is taken. ``weight`` names another value that
    ``score`` returns, by which this one's mean is weighted (a negative one takes the sample out of
    both sums); with a weight the samples of ``units`` count by themselves, where none of a unit
    lacks a value. ``total``: the groups' means are added up, each multiplied by ``scale``.
    """

    name: str
    group: str | None = None
    higher_is_better: bool = True
    scale: float = 100.0
    units: tuple[str, ...] = ()
    weight: str | None = None
    total: bool = False


@dataclass(frozen=True)
class Sample:
    """One question of a task: what is asked, and what counts as right.

    ``id`` is unique in its task subset and stable over versions of evalkit; left out, it is the
    number of the sample's row. ``cluster`` names what the sample shares with others (its image, its
    video): intervals are computed over clusters, and a sample without one is a cluster of its own.
    ``target`` is what counts as right, ``choices`` the options that an answer is one of, if there
    are any. ``metadata`` is JSON and goes into the journal, as ``target`` does; its keys become
    columns to group by.
    """

    id: str = ""
    messages: tuple[Message, ...] = ()
    target: Any = None
    choices: tuple[str, ...] = ()
    cluster: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Request:
    """What one adapter is asked: a conversation, limits, and choices to rank if any.

    ``max_new_tokens`` bounds the answer, ``budget`` what is shown of media. ``temperature`` 0 takes
    the likeliest token each time; above it tokens are drawn, and ``seed`` decides which.
    """

    id: str
    messages: tuple[Message, ...]
    max_new_tokens: int = 128
    budget: MediaBudget = MediaBudget()
    choices: tuple[str, ...] = ()
    temperature: float = 0.0
    seed: int = 0


@dataclass(frozen=True)
class TokenCounts:
    """Tokens of one request: text in (template included), visual in (after merging), out (the end
    token not counted).
    """

    text_in: int = 0
    vision_in: int = 0
    out: int = 0


@dataclass(frozen=True)
class Completion:
    """What came back for one request, or why nothing did (``error``, with
    ``finish_reason='error'``).

    ``logprobs`` holds the summed log-likelihood, in nats, of each choice when the request was
    ranked, ``UNSCORED`` for one that the model has no score for; ``token_logprobs`` (token id,
    log-likelihood) of each of its tokens, where the adapter tells them. ``seconds`` is the
    wall-clock time from the request's entry into the model to its end. ``box_space`` is what the
    adapter declares, None for one that draws no boxes. ``frames``: of each clip, when the frames
    that the model was shown are on the screen, in seconds from the start of its file
    (``evalkit.media.noted_frames``); empty where the adapter doesn't know. ``thought`` is what the
    model thought before its answer, where that is told apart; it is not scored.
    """

    id: str
    text: str = ""
    finish_reason: FinishReason = "stop"
    tokens: TokenCounts = TokenCounts()
    seconds: float = 0.0
    logprobs: tuple[float, ...] = ()
    box_space: BoxSpace | None = None
    error: str | None = None
    frames: tuple[tuple[float, ...], ...] = ()
    token_logprobs: tuple[tuple[tuple[int, float], ...], ...] = ()
    thought: str = ""


def thought_apart(text: str) -> tuple[str, str]:
    """A thought and the answer after it, as Qwen3-VL and others write them: ``<think>``, which a
    chat template may have begun already, and ``</think>``. The one that is not there is empty.
    """
    begin, end = "<think>", "</think>"
    thought, ended, answer = text.partition(end)
    if not ended and not text.lstrip().startswith(begin):
        return "", text
    return thought.strip().removeprefix(begin).strip(), answer.lstrip()


@dataclass(frozen=True)
class Score:
    """Named values of one answer (each finite), the answer as it was read, and whether reading it
    failed.

    An unparsed answer has the lowest value of every metric and ``unparsed=True``, so that it is
    counted and shown.
    """

    values: Mapping[str, float]
    parsed: Any = None
    unparsed: bool = False
