"""Multiple-choice questions: what all tasks of the kind share.

A task says what the question of a row is (``Question``); prompt, order of media and the reader of
answers are its protocol's. An answer that names no option is wrong and counted as unparsed: no
option is drawn by chance, and no judge is asked.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from evalkit.errors import DataError
from evalkit.metrics.choice import LETTERS
from evalkit.metrics.readers import READERS
from evalkit.protocols import (
    DEFAULT,
    LETTER_ANSWER,
    LMMS_EVAL_STOP,
    LMMS_EVAL_TOKENS,
    Protocol,
)
from evalkit.rows import string, strings
from evalkit.task import Metric, Row, Task
from evalkit.types import Completion, Media, MediaBudget, Sample, Score

LMMS_PIXELS = MediaBudget(min_pixels=4 * 28 * 28, max_pixels=768 * 28 * 28)
"""Of an image, in lmms-eval's wrapper of Qwen2-VL."""

QWEN2_VL_CHOICE = Protocol(
    origin="VLMEvalKit, vlmeval/vlm/qwen2_vl/prompt.py, _build_mcq_prompt",
    prompt="{hint}Question: {question}\nOptions:\n{options}\n{select}",
    max_new_tokens=2048,
    reader="vlmevalkit",
    note="answers that the rule can't read go to a judge there; here they are unparsed",
)
"""``{select}`` is the sentence that asks for an option: in Chinese where the question has Chinese
characters."""
VLMEVALKIT_CHOICE = replace(
    QWEN2_VL_CHOICE,
    origin="VLMEvalKit, vlmeval/dataset/image_mcq.py, ImageMCQDataset.build_prompt",
    prompt="{hint}Question: {question}\nOptions:\n{options}\n"
    "Please select the correct answer from the options above. \n",
    budget=MediaBudget(),
)
LMMS_CHOICE = Protocol(
    origin="lmms-eval 0.7, the task's YAML and utils.py",
    prompt="{question}\n{options}" + LETTER_ANSWER,
    budget=LMMS_PIXELS,
    max_new_tokens=LMMS_EVAL_TOKENS,
    stop=LMMS_EVAL_STOP,
    reader="lmms-eval",
)
EVALSCOPE_CHOICE = Protocol(
    origin="EvalScope 1.x, evalscope/utils/multi_choices.py, SINGLE_ANSWER_TEMPLATE_COT",
    prompt="Answer the following multiple choice question. The last line of your response should "
    "be of the following format: 'ANSWER: [LETTER]' (without quotes) where [LETTER] is one of "
    "{letters}. Think step by step before answering.\n\n{question}\n\n{options}",
    option="{letter}) {text}",
    media="last",
    budget=MediaBudget(),
    max_new_tokens=2048,
    reader="evalscope",
)


def own(published: Protocol) -> Protocol:
    """The same question, read strictly: evalkit's own protocol beside a published one."""
    return replace(published, reader="", note="", max_new_tokens=None)


def choice_protocols(**changed: Protocol) -> Mapping[str, Protocol]:
    """The four harnesses' protocols of multiple-choice questions, some of them changed (``lmms``,
    ``evalscope``, ``qwen2_vl``, ``vlmevalkit``). evalkit's own asks as Qwen2-VL's authors did and
    reads strictly.
    """
    qwen2_vl = changed.get("qwen2_vl", QWEN2_VL_CHOICE)
    return {
        DEFAULT: own(qwen2_vl),
        "qwen2-vl": qwen2_vl,
        "lmms-eval": changed.get("lmms", LMMS_CHOICE),
        "vlmevalkit": changed.get("vlmevalkit", VLMEVALKIT_CHOICE),
        "evalscope": changed.get("evalscope", EVALSCOPE_CHOICE),
    }


@dataclass(frozen=True)
class Question:
    """A question with options, or an open one (no options). ``answer`` is the index of the right
    option, what is right of an open question, or None where it is hidden. ``options`` are texts
    without letters; ``fields`` are further ones of the protocol's prompt.
    """

    media: Sequence[Media]
    text: str
    options: Sequence[str]
    answer: Any
    cluster: str
    id: str = ""
    hint: str = ""
    fields: Mapping[str, str] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)


class MultipleChoice(Task):
    """One sample a row; its target is the index of the right option. Every metric of the task has
    the same value of a sample: they differ in what they count.

    Of tasks that have open questions too, ``open_prompts`` are their prompts by protocol, and
    ``score_open`` scores them.
    """

    metrics: tuple[Metric, ...] = (Metric("accuracy"),)
    max_new_tokens: int = 64
    open_prompts: ClassVar[Mapping[str, str]] = {}

    @abstractmethod
    def question(self, row: Row) -> Question:
        """The question of a row. Raises DataError when it can't be used."""

    def samples(self, row: Row) -> Iterable[Sample]:
        yield self.sample(self.question(row))

    def sample(self, question: Question) -> Sample:
        """The question as the protocol asks it."""
        options, told = question.options, f"{question.hint}{question.text}"
        protocol = self.protocol
        if not options:
            prompt = self.open_prompts.get(self.protocol_name, self.open_prompts[DEFAULT])
            protocol = replace(protocol, prompt=prompt)
        chinese = re.search("[\u4e00-\u9fff]", told + "".join(options))
        text = protocol.text(
            options,
            question.hint,
            question=question.text,
            select=CHINESE_SELECT if chinese else SELECT,
            letters=",".join(LETTERS[: len(options)]),
            **question.fields,
        )
        return Sample(
            id=question.id,
            messages=protocol.messages(question.media, text),
            target=question.answer,
            choices=lettered(options),
            cluster=question.cluster,
            metadata={**({"chance": 1 / len(options)} if options else {}), **question.metadata},
        )

    def score(self, sample: Sample, completion: Completion) -> Score:
        text = completion.text
        if self.protocol_name == "lmms-eval":
            text = text.strip()  # it does so before every task's own rule
        if not sample.choices:
            value, parsed = self.score_open(sample, text)
        else:
            index = READERS[self.protocol.reader](text, texts(sample.choices))
            value = float(index is not None and index == sample.target)
            parsed = None if index is None else LETTERS[index]
        values = {} if sample.target is None else self.values(sample, value)
        return Score(values, parsed=parsed, unparsed=parsed is None)

    def score_open(self, sample: Sample, text: str) -> tuple[float, str | None]:
        """The value of an answer to an open question, and what was read; None where it is
        unreadable.
        """
        raise NotImplementedError(f"{self.name} has no open questions")

    def values(self, sample: Sample, right: float) -> Mapping[str, float]:
        """The value of each metric."""
        return dict.fromkeys((m.name for m in self.metrics), right)


SELECT = "Please select the correct answer from the options above."
CHINESE_SELECT = "请直接回答选项字母。"


def lettered(options: Sequence[str]) -> tuple[str, ...]:
    """``("A. a dog", "B. a cat")``, as ``Sample.choices`` holds them."""
    return tuple(f"{LETTERS[i]}. {option}" for i, option in enumerate(options))


def texts(choices: Sequence[str]) -> list[str]:
    """The options of lettered choices."""
    return [choice[3:] for choice in choices]


def inline_options(row: Row, column: str = "question") -> tuple[str, list[str]]:
    """A question without the options that it ends with, and these, stripped: ``(A) a dog``, each
    from the beginning of a line. Raises DataError where the lines don't go from A on in order.
    """
    question, *parts = re.split(r"^\(([A-Z])\)", string(row, column), flags=re.MULTILINE)
    marks, options = "".join(parts[::2]), [part.strip() for part in parts[1::2]]
    if len(marks) < 2 or marks != LETTERS[: len(marks)]:
        raise DataError(f"{column!r} lists the options {marks or 'none'}, not (A), (B) and so on")
    return question.strip(), options


def listed_options(row: Mapping[str, Any], column: str) -> list[str]:
    """The options of a column that holds a list of texts. Raises DataError for another value,
    unless there are 2 to 26, and for an empty one, which some readers find in every answer.
    """
    options = strings(row, column)
    if not 2 <= len(options) <= 26:
        raise DataError(f"{column!r} has {len(options)} options, not 2 to 26")
    if not all(option.strip() for option in options):
        raise DataError(f"{column!r} has an empty option: {options!r:.200}")
    return options


def letter_columns(row: Row, letters: str = "ABCD") -> list[str]:
    """The options of columns A, B, ... up to the first that is null, empty or "nan". Raises
    DataError for one of another kind, a gap, or fewer than two options.
    """
    values = [row[c] for c in letters]
    absent = [
        v is None or v != v or (isinstance(v, str) and v.strip() in ("", "nan")) for v in values
    ]
    n = absent.index(True) if True in absent else len(values)
    for letter, value in zip(letters, values[:n]):
        if not isinstance(value, str):
            raise DataError(f"{letter!r} is {value!r:.80}, not a text")
    if not all(absent[n:]):
        raise DataError(f"option {letters[n]} is empty, and a later one is not")
    if n < 2:
        raise DataError(f"it has {n} options")
    return values[:n]


def letter_answer(
    row: Mapping[str, Any], n: int, hidden: bool = False, column: str = "answer"
) -> int | None:
    """The index that the letter in a column, plain or in brackets, names among ``n`` options.
    ``hidden``: where it is null, empty, "nan" or a question mark, the answer is not known. Raises
    DataError for anything else.
    """
    value = row[column]
    if hidden and (value is None or value != value or value in ("", "?", "nan", "None")):
        return None
    named = re.fullmatch(r"([A-Z])|\(([A-Z])\)", value.strip()) if isinstance(value, str) else None
    index = LETTERS.index(named[1] or named[2]) if named else n
    if index >= n:
        raise DataError(f"{column!r} is {value!r:.80}, not one of {', '.join(LETTERS[:n])}")
    return index
