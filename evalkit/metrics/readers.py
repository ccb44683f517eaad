"""How published evaluations read the letter out of an answer to a multiple-choice question.

evalkit's own reader is strict (``evalkit.metrics.choice``). A published score was made with another
one, and each of these is the rule of the harness or paper that it names, for use under that
protocol. They read more answers, and some of them wrongly: "A cat is on the mat, so D" is A to a
rule that looks for capital letters. Where the original draws an option by chance, or asks a judge,
these give None, so that the answer counts as unparsed; ``docs/metrics.md`` lists such differences.

Every reader takes an answer and the texts of the options (at most 26, without letters), and gives
the index of the option, or None.
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Mapping, Sequence

from evalkit.metrics import image_readers, video_readers
from evalkit.metrics import lmms_eval as lmms_rules
from evalkit.metrics.choice import LETTERS, parse_choice

Reader = Callable[[str, Sequence[str]], int | None]


def vlmevalkit(text: str, options: Sequence[str]) -> int | None:
    """VLMEvalKit's ``can_infer`` (vlmeval/utils/matching_util.py), without a judge behind it: the
    one letter that stands alone among the last four words, else "answer is X" for A to D, else the
    one option whose text is in the answer, if that is at most twice as long as all options
    together. None for refusals.
    """
    letters = LETTERS[: len(options)]
    if any(refusal in text for refusal in image_readers.REFUSALS):
        return None
    words = re.sub(r"[.()[\],:;!*#{}]", " ", text).split()
    named = [c for c in letters if c in words]
    if len(named) == 1 and words.index(named[0]) > len(words) - 5:
        return letters.index(named[0])
    if not named and "Z" in words:  # the harness's mark for "no answer"
        return None
    if (said := _ANSWER_IS.search(text)) and said[1].upper() in letters:
        return letters.index(said[1].upper())
    if len(text) > 2 * sum(map(len, options)):
        return None
    inside = [i for i, option in enumerate(options) if option.lower() in text.lower()]
    return inside[0] if len(inside) == 1 else None


_ANSWER_IS = re.compile(r"(?:correct\s+)?answer\s+is\s+\**([ABCD])\**", re.IGNORECASE)


def lmms_eval(text: str, options: Sequence[str]) -> int | None:
    """lmms-eval's ``extract_mcq_answer`` (lmms_eval/tasks/_task_utils/mcq_extract.py): a letter at
    the start, at the end, after "the answer is" and the like, as ``(B)``, ``B.``, ``B:``, ``B)`` or
    before a blank, in this order; the last of the first kind that occurs. Otherwise any capital
    letter.
    """
    letter = lmms_rules.choice(text, LETTERS[: len(options)])
    return LETTERS.index(letter) if letter else None


def mmmu(text: str, options: Sequence[str]) -> int | None:
    """The MMMU authors' ``parse_multi_choice_response`` (eval/eval_utils.py): letters in brackets,
    else followed by a blank, else by a full stop, else, in answers of more than five words, the
    texts of options; of several the last. The original draws one by chance where there is none.
    """
    return _last_named(text, options, "{} ")


def mmt(text: str, options: Sequence[str]) -> int | None:
    """lmms-eval's reader for MMT-Bench (lmms_eval/tasks/mmt/utils.py): MMMU's, but for a blank on
    both sides of a letter, and without the texts of options.
    """
    return _last_named(text, options, " {} ", texts=False)


def _last_named(text: str, options: Sequence[str], plain: str, texts: bool = True) -> int | None:
    for mark in ",.!?;:'":
        text = text.strip(mark)
    body = f" {text} "
    letters = LETTERS[: len(options)]
    for form in ("({})", plain, "{}."):
        found = [i for i, c in enumerate(letters) if form.format(c) in body]
        if found:
            # the original places letters by their brackets, or with a blank on both sides
            place = form if form == "({})" and texts else " {} "
            return max(found, key=lambda i: (body.rfind(place.format(letters[i])), -i))
    if not texts or len(body.split()) <= 5:
        return None
    lower = body.lower()
    found = [i for i, option in enumerate(options) if option.lower() in lower]
    return max(found, key=lambda i: (lower.rfind(options[i].lower()), -i), default=None)


def ai2d(text: str, options: Sequence[str]) -> int | None:
    """lmms-eval's reader for AI2D (lmms_eval/tasks/ai2d/utils.py): the letter of ``B.`` at the
    start, else the whole answer, which must be the letter but for case and ASCII punctuation.
    """
    start = re.match(r"\s*([A-Z])\.", text)
    letter = start[1] if start else re.sub(f"[{re.escape(string.punctuation)}]", "", text).upper()
    letters = LETTERS[: len(options)]
    return letters.index(letter) if len(letter) == 1 and letter in letters else None


def evalscope(text: str, options: Sequence[str]) -> int | None:
    """EvalScope's ``parse_answers`` (evalscope/utils/multi_choices.py) for one right option: the
    letter after the last ``ANSWER:`` that has one, plain or in brackets; else the last capital
    letter of the answer.
    """
    letters = LETTERS[: len(options)]
    for mark in reversed([*re.finditer(r"(?i)answer\s*:\s*\**\s*", text)]):
        rest = text[mark.end() :]
        for label in (_BRACKETED.match(rest), _PLAIN.match(rest)):
            if label and (named := _leading_letters(label[1], letters)):
                return letters.index(named) if len(named) == 1 else None
    last = next((c for c in reversed(text) if c.isupper()), "")
    return letters.index(last) if last and last in letters else None


_BRACKETED = re.compile(r"[(\[（【]\s*([A-Za-z\d](?:\s*[,，]\s*[A-Za-z\d])*)\s*[)\]）】]")
_PLAIN = re.compile(r"([A-Za-z\d][A-Za-z\d ,]*)")


def _leading_letters(label: str, letters: str) -> str:
    """What stands before the first word that is made of anything but letters of options."""
    end = 0
    for word in re.finditer(r"[A-Za-z\d]+", label):
        if not set(word[0]) <= set(letters):
            break
        end = word.end()
    return label[:end].strip()


def mmbench(text: str, options: Sequence[str]) -> int | None:
    """lmms-eval's ``static`` evaluation of MMBench (lmms_eval/tasks/mmbench/mmbench_evals.py): one
    of A to E alone among the words (unless A may be an article), else in one of the usual marks,
    else the one option whose text is in the answer, else as ``lmms_eval`` reads it.
    """
    words = text.split()
    for before, after in _MMBENCH_MARKS:
        named = [c for c in "ABCDE" if f"{before}{c}{after}" in words]
        article = not before and not after and "A" in words and len(words) > 3
        if len(named) == 1 and not article:
            return LETTERS.index(named[0])  # E names no option: it is never right
    inside = [i for i, option in enumerate(options) if option.lower() in text.lower()]
    return inside[0] if len(inside) == 1 else lmms_eval(text, options)


_MMBENCH_MARKS = (
    *(("", ""), ("", "."), ("", ","), ("", ":"), ("", ")"), ("", ").")),
    *(("(", ")"), ("(", ")."), (":", ""), (":", ","), (":", "."), (":", ")"), (":", ").")),
)


def mlvu_vlmevalkit(text: str, options: Sequence[str]) -> int | None:
    """VLMEvalKit's ``check_ans_with_model`` for MLVU (vlmeval/dataset/utils/mlvu.py), without a
    judge: the letter before the first closing bracket, or the letter that is the whole answer; else
    as ``vlmevalkit``. Where the two name different options the original takes the right one for
    named; that counts as none here.
    """
    before, bracket, _ = text.partition(")")
    letter = before[-1:] if bracket else text
    letters = [*LETTERS[: len(options)]]
    named = {letters.index(letter)} if letter in letters else set()
    if (inferred := vlmevalkit(text, options)) is not None:
        named.add(inferred)
    return named.pop() if len(named) == 1 else None


def lmms_eval_four(text: str, options: Sequence[str]) -> int | None:
    """``lmms_eval``, with A to D alone for letters also where there are more options (lmms-eval's
    MLVU).
    """
    return lmms_eval(text, options[:4])


READERS: Mapping[str, Reader] = {
    "": parse_choice,
    "vlmevalkit": vlmevalkit,
    "lmms-eval": lmms_eval,
    "lmms-eval-four": lmms_eval_four,
    "mlvu-vlmevalkit": mlvu_vlmevalkit,
    "mmmu": mmmu,
    "mmt": mmt,
    "mmbench": mmbench,
    "ai2d": ai2d,
    "evalscope": evalscope,
    "videomme": video_readers.videomme,
    "blink": image_readers.blink,
    "cv_bench": image_readers.cv_bench,
    "hrbench": image_readers.hrbench,
    "mmvp": image_readers.mmvp,
    "muirbench": image_readers.dotted,
    "seedbench": image_readers.first_sign,
    "visulogic-lmms-eval": image_readers.visulogic_lmms_eval,
    "visulogic-vlmevalkit": image_readers.visulogic_vlmevalkit,
    "vstar": image_readers.vstar,
    "mvbench-vlmevalkit": video_readers.mvbench_vlmevalkit,
    "mvbench-lmms-eval": video_readers.mvbench_lmms_eval,
    "egoschema": video_readers.egoschema,
    "mmvu": video_readers.mmvu,
    "videommmu-vlmevalkit": video_readers.videommmu_vlmevalkit,
    "tempcompass": video_readers.tempcompass,
    "tempcompass-captions": video_readers.tempcompass_captions,
    "longvideobench": video_readers.longvideobench,
    "longvideobench-vlmevalkit": video_readers.longvideobench_vlmevalkit,
    "perceptiontest": video_readers.perceptiontest,
    "mmmu-pro-vision": video_readers.bare_letter,
}
"""By the names that protocols use; the empty one is evalkit's strict reader."""
