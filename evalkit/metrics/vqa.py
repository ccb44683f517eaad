"""VQA accuracy, the metric of TextVQA and VQAv2: an answer is right to the degree to which people
gave it.

Antol et al., "VQA" (ICCV 2015), section 3; leave-one-out form and text clean-up of the EvalAI
evaluation. A prediction is compared with each group of nine of ten human answers, and is right in a
group that has it at least three times.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

Variant = Literal["evalai", "fixed"]

_WHOLE = """
ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't
haven't he'd he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've
might've mustn't must've needn't not've o'clock oughtn't 'ow's'at shan't she'd've should've
shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd someone'd've someone'll
someone's something'd something'd've something'll that's there'd there'd've there're there's
they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's
what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's
won't would've wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've
""".split()
_CONTRACTIONS = {w[:i] + w[i + 1 :]: w for w in _WHOLE for i, c in enumerate(w) if c == "'"} | {
    "somebody'd": "somebodyd"
}
_NUMBERS = dict(
    zip(
        "none zero one two three four five six seven eight nine ten".split(),
        map(str, (0, *range(11))),
    )
)
_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_PERIOD = {"evalai": re.compile(r"\.(?!\d)"), "fixed": re.compile(r"(?<!\d)\.(?!\d)")}


def vqa_accuracy(prediction: str, answers: Sequence[str], variant: Variant = "evalai") -> float:
    """Mean over the answers of min(1, how many of the *other* answers equal the prediction / 3), in
    [0, 1].

    ``evalai`` is the clean-up of the TextVQA challenge (lmms-eval copies it): commas, question
    marks and a possessive 's are split off first, and every full stop that no digit follows is
    dropped. ``fixed`` (as VLMEvalKit does) keeps a full stop after a digit too, and does not split.
    Raises ValueError when there are fewer than two answers.
    """
    if len(answers) < 2:
        raise ValueError(
            "vqa_accuracy needs at least two answers: each is compared with the others"
        )
    said = normalise(prediction, variant)
    matches = [normalise(answer, variant) == said for answer in answers]
    return sum(min(1.0, (sum(matches) - match) / 3) for match in matches) / len(matches)


def normalise(text: str, variant: Variant = "evalai") -> str:
    """The form in which answers are compared: lower case, punctuation out, number words as digits,
    no articles.
    """
    text = text.lower()
    if variant == "evalai":
        text = text.replace(",", "").replace("?", "").replace("'s", " 's")
    text = text.replace("\n", " ").replace("\t", " ").strip()
    grouped = re.search(r"\d,\d", text) is not None
    cleaned = text
    for mark in _PUNCTUATION:
        touches_blank = f"{mark} " in text or f" {mark}" in text
        cleaned = cleaned.replace(mark, "" if grouped or touches_blank else " ")
    words = _PERIOD[variant].sub("", cleaned).split()
    words = [_NUMBERS.get(w, w) for w in words]
    return " ".join(_CONTRACTIONS.get(w, w) for w in words if w not in ("a", "an", "the"))
