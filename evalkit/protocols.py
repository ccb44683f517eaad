"""Protocols: what a benchmark is asked and read by, as data.

A score can be compared with a published one only under the same prompt, order of media, pixels,
frames, stop rule and reader of answers. A ``Protocol`` is all of that for one data set, under the
name of whose it is. ``default`` is there for every task: evalkit's own choice. Further names mean
the same everywhere:

=============  =================================================================================
``qwen2-vl``   of the Qwen2-VL paper's authors: VLMEvalKit's ``Qwen2VLPromptMixin`` and its
               configuration of the 2B, 7B and 72B models
``lmms-eval``  what lmms-eval's task files and its Qwen2-VL wrapper set
``vlmevalkit`` what VLMEvalKit asks models that have no prompts of their own
``evalscope``  what EvalScope's adapters set
``authors``    what the benchmark's own script sets, where it is another thing than these
=============  =================================================================================

This module knows no task: a task names its protocols in ``Subset.protocols``, and builds its
messages with ``Task.ask``.
"""

from __future__ import annotations

import re
import string
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from evalkit.errors import DataError
from evalkit.types import Media, MediaBudget, Message, Metric, Text

DEFAULT = "default"
NAMES = (DEFAULT, "qwen2-vl", "lmms-eval", "vlmevalkit", "evalscope", "authors")
"""The names that mean the same everywhere; a task of your own may have others."""

QWEN2_VL_PIXELS = MediaBudget(min_pixels=1280 * 28 * 28, max_pixels=16384 * 28 * 28)
"""Pixels of an image by VLMEvalKit's configuration of Qwen2-VL: 1,280 to 16,384 visual tokens."""
LMMS_EVAL_BUDGET = MediaBudget(4 * 28 * 28, 768 * 28 * 28, fps=2.0, max_frames=32)
"""Pixels and frames by lmms-eval's Qwen2-VL wrapper: 4 to 768 visual tokens, at most 32 frames."""
VIDEO_BUDGET = MediaBudget(fps=2.0)
"""Frames of a video: two a second, as in the Qwen2-VL paper."""

_MARK = re.compile(r"<(?:image|video)(?: (\d+))?>")


@dataclass(frozen=True)
class Protocol:
    """How one data set is asked and read.

    ``prompt`` is a format string; the task supplies its fields (``{question}``, ``{options}``,
    ``{hint}`` ...), which may be stripped, capitalised, or freed of marks ``<image>`` on the way
    (``{question:strip}``, ``:capitalize``, ``:unmarked``). A setting that is None or empty is the
    subset's, and then the task's.
    """

    origin: str
    """Where it comes from: file and version of the harness, or section of the paper."""
    prompt: str = "{question}"
    option: str = "{letter}. {text}"
    """A line of ``{options}``; lines are joined by a line break."""
    hint: str = "Hint: {hint}\n"
    """What ``{hint}`` becomes where the row has one; nothing where it has none."""
    media: Literal["first", "last", "inline"] = "first"
    """Where pictures and clips stand: before the text, after it, or at the marks ``<image 1>``,
    ``<image>``, ``<video>`` in it (those without a mark before it)."""
    system: str = ""
    """The system's turn; empty for the model's own."""
    budget: MediaBudget | None = None
    max_new_tokens: int | None = None
    stop: tuple[str, ...] = ()
    """An answer ends before the first of these."""
    reader: str = ""
    """Names one of the task's readers of answers; empty for evalkit's strict one."""
    metrics: tuple[Metric, ...] = ()
    note: str = ""
    """What to know of scores under it, such as that the published ones had a judge."""

    def settings(self) -> dict[str, Any]:
        """JSON of the prompt, and of what else is set here that can change an answer or a score.
        Budget, length and metrics are not among it: a cell has them by themselves.
        """
        names = ("option", "hint", "media", "system", "stop", "reader")
        given = {f.name: f.default for f in fields(self)}
        changed = {n: v for n in names if (v := getattr(self, n)) != given[n]}
        return {"prompt": self.prompt, **changed} | ({"stop": list(self.stop)} if self.stop else {})

    def text(self, options: Sequence[str] = (), hint: str = "", **fields: Any) -> str:
        """The user's text. ``options`` without letters, at most 26."""
        lines = (
            _FORMATTER.format(self.option, letter=letter, text=text)
            for letter, text in zip(string.ascii_uppercase, options)
        )
        told = self.hint.format(hint=hint) if hint.strip() else ""
        return _FORMATTER.format(self.prompt, options="\n".join(lines), hint=told, **fields)

    def messages(self, media: Sequence[Media], text: str) -> tuple[Message, ...]:
        """The conversation: the system's turn, if any, and the user's with media in their places.
        Raises DataError for a mark without a picture.
        """
        if self.media == "inline":
            parts = [*_inline(media, text)]
        else:
            parts = [Text(text), *media] if self.media == "last" else [*media, Text(text)]
        user = Message("user", tuple(parts))  # type: ignore[arg-type]  # Media are images and videos
        return (Message("system", (Text(self.system),)), user) if self.system else (user,)

    def written(self, answer: str) -> str:
        """A right answer as the prompt wants it: behind ``ANSWER:`` where it names that form."""
        return f"ANSWER: {answer}" if "ANSWER: [" in self.prompt else answer

    def cut(self, answer: str) -> str:
        """An answer up to the first of the texts at which it stops."""
        ends = [i for text in self.stop if (i := answer.find(text)) >= 0]
        return answer[: min(ends, default=None)]


class _Formatter(string.Formatter):
    """Format strings whose fields may be stripped, capitalised, or freed of marks ``<image>``."""

    def format_field(self, value: Any, spec: str) -> str:
        if spec in ("strip", "capitalize"):
            return str(getattr(value, spec)())
        if spec == "unmarked":  # as lmms-eval's wrappers do with every text
            return str(value).replace("<image>", "")
        return str(super().format_field(value, spec))


_FORMATTER = _Formatter()


def _inline(media: Sequence[Media], text: str) -> Iterator[Media | Text]:
    """Texts and media as the marks of a text order them."""
    marks = list(_MARK.finditer(text))
    places = [int(m[1]) - 1 if m[1] else i for i, m in enumerate(marks)]
    if strange := [m[0] for m, i in zip(marks, places) if i not in range(len(media))]:
        raise DataError(f"the text has {strange[0]}, and there are {len(media)} pictures or clips")
    yield from (m for i, m in enumerate(media) if i not in places)
    end = 0
    for mark, place in zip(marks, places):
        if before := text[end : mark.start()]:
            yield Text(before)
        yield media[place]
        end = mark.end()
    if rest := text[end:]:
        yield Text(rest)


SHORT_ANSWER = "\nPlease try to answer the question with short words or phrases if possible."
WORD_OR_PHRASE = "\nAnswer the question using a single word or phrase."
LETTER_ANSWER = "\nAnswer with the option's letter from the given choices directly."
"""lmms-eval, after the options of EgoSchema, PerceptionTest and other multiple-choice tasks."""

QWEN2_VL_WORDS = Protocol(
    origin="VLMEvalKit, Qwen2VLPromptMixin._build_vqa_prompt",
    prompt="{question}" + SHORT_ANSWER,
)
"""Of questions of every data set of VLMEvalKit's type VQA (DocVQA, InfographicVQA, TextVQA,
ChartQA, OCRBench, MTVQA), in place of the data set's own suffix."""
VLMEVALKIT_WORDS = Protocol(
    origin="VLMEvalKit, ImageVQADataset.build_prompt", prompt="{question}" + WORD_OR_PHRASE
)
QWEN2_VL_BOX = Protocol(
    origin="Qwen2-VL paper, figure 3 (the prompt behind its published scores is not known)",
    prompt='Detect the bounding box of "{expression}".',
)
"""The object that an expression refers to."""
LETTERED = Protocol(
    origin="evalkit; question, options and last line as lmms-eval's EgoSchema has them",
    prompt="{question}\n{options}" + LETTER_ANSWER,
)


def words(**others: Protocol) -> dict[str, Protocol]:
    """The protocols of a task whose questions are answered with words of the picture: the default
    and ``qwen2-vl`` are the same but for the length of an answer; ``others`` by their names, ``_``
    for ``-``.
    """
    return {
        DEFAULT: QWEN2_VL_WORDS,
        "qwen2-vl": replace(QWEN2_VL_WORDS, max_new_tokens=2048),
        **{name.replace("_", "-"): protocol for name, protocol in others.items()},
    }


LMMS_EVAL_STOP = ("\n\n",)
"""Where an answer ends in lmms-eval unless the task file says otherwise."""
LMMS_EVAL_TOKENS = 128
"""The length of an answer in its Qwen2-VL wrapper unless the task file says otherwise."""


def lmms_eval(
    task: str,
    prompt: str,
    max_new_tokens: int = LMMS_EVAL_TOKENS,
    stop: tuple[str, ...] = LMMS_EVAL_STOP,
    reader: str = "lmms-eval",
    **settings: Any,
) -> Protocol:
    """A protocol of lmms-eval: its reader, its wrapper's pixels and frames."""
    return Protocol(
        origin=f"lmms-eval 0.7.3, tasks/{task}, models/simple/qwen2_vl.py",
        prompt=prompt,
        budget=LMMS_EVAL_BUDGET,
        max_new_tokens=max_new_tokens,
        stop=stop,
        reader=reader,
        **settings,
    )


def evalscope(benchmark: str, prompt: str, **settings: Any) -> Protocol:
    """A protocol of EvalScope, which puts the text before the picture; pixels are the model's."""
    return Protocol(
        origin=f"EvalScope 1.x, benchmarks/{benchmark}",
        prompt=prompt,
        media="last",
        budget=MediaBudget(),
        max_new_tokens=2048,
        **settings,
    )


def last_answer(text: str) -> str | None:
    """What stands after the last ``ANSWER:`` of a text, as EvalScope's prompts ask for; None where
    there is none.
    """
    found = re.findall(r"ANSWER:\s*(.*)", text)
    return found[-1].strip() if found else None
