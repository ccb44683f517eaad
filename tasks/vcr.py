"""VCR: restore the words of a caption that are half covered in a picture.

Data: `vcr-org/VCR-wiki-en-easy-test` on the hub and its sisters ``hard`` and ``zh`` (test, 5,000
rows each), with samples of 500 of each (``-test-500``). Columns: question_id, stacked_image (the
picture above its covered caption), caption, crossed_text (the covered texts). Licence: CC BY-SA
4.0. Paper: Zhang et al., "VCR: Visual Caption Restoration" (2024). Metrics: exact match and Jaccard
index, over all covered texts; tokens are evalkit's own, where the authors' script uses spaCy.
Prompt: the authors' (lmms-eval asks Chinese rows in English too).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from evalkit.errors import DataError
from evalkit.metrics.vcr import Language, restored, tokens
from evalkit.multiple_choice import LMMS_PIXELS
from evalkit.protocols import DEFAULT, LMMS_EVAL_STOP, QWEN2_VL_PIXELS, SHORT_ANSWER, Protocol
from evalkit.rows import identifier, image, sides, strings
from evalkit.sources import Hub
from evalkit.task import Metric, Row, Subset, Task
from evalkit.types import Completion, Sample, Score

ENGLISH = (
    "What is the covered texts in the image? Please restore the covered texts without outputting "
    "the explanations."
)
CHINESE = "图像中被覆盖的文本是什么？请在不输出解释的情况下还原被覆盖的文本。"
PROTOCOLS = {
    DEFAULT: Protocol(origin="the authors' evaluation", prompt="{ask}"),
    "qwen2-vl": Protocol(
        origin="VLMEvalKit, Qwen2VLPromptMixin._build_vqa_prompt, behind the authors' question",
        prompt="{ask}" + SHORT_ANSWER,
        max_new_tokens=2048,
    ),
    "lmms-eval": Protocol(
        origin="lmms-eval 0.7, tasks/vcr_wiki",
        prompt=ENGLISH,
        budget=LMMS_PIXELS,
        stop=LMMS_EVAL_STOP,
        max_new_tokens=120,
    ),
}


def subset(language: str, level: str, size: str = "") -> Subset:
    source = Hub(
        repository=f"vcr-org/VCR-wiki-{language}-{level}-test{size}",
        split="test",
        columns=("question_id", "stacked_image", "caption", "crossed_text"),
    )
    return Subset(source, budget=QWEN2_VL_PIXELS, protocols=PROTOCOLS, size=500 if size else 5000)


class VCR(Task):
    """One sample a picture; its covered texts are the target, each counts once."""

    name = "vcr"
    description = "covered words of captions, English and Chinese (exact match, Jaccard)"
    metrics = (Metric("exact_match", weight="blanks"), Metric("jaccard", weight="blanks"))
    max_new_tokens = 120
    subsets: ClassVar = {
        f"{language}_{level}{size.replace('-', '_')}": subset(language, level, size)
        for size in ("", "-500")
        for language in ("en", "zh")
        for level in ("easy", "hard")
    }

    @property
    def language(self) -> Language:
        return "zh" if self.subset_name.startswith("zh") else "en"

    def samples(self, row: Row) -> Iterable[Sample]:
        picture, covered = image(row, "stacked_image"), strings(row, "crossed_text")
        if not covered or not all(tokens(text, self.language) for text in covered):
            raise DataError(f"'crossed_text' is {covered!r:.80}, not a list of texts to restore")
        yield Sample(
            id=identifier(row, "question_id"),
            messages=self.ask(picture, ask=CHINESE if self.language == "zh" else ENGLISH),
            target=covered,
            cluster=picture.digest[:16],
            metadata={"blanks": len(covered), **sides(picture)},
        )

    def right_answer(self, sample: Sample) -> str:
        return "\n".join(sample.target)

    def score(self, sample: Sample, completion: Completion) -> Score:
        text = completion.text.strip()
        pairs = [restored(text, covered, self.language) for covered in sample.target]
        exact, jaccard = (sum(values) / len(pairs) for values in zip(*pairs))
        values = {"exact_match": exact, "jaccard": jaccard, "blanks": float(len(pairs))}
        return Score(values, parsed=text, unparsed=not text)
