"""What published scores were measured under: prompts and pixel settings, each named once.

A score can be compared with a published one only under the same protocol. These are VLMEvalKit's
for Qwen2-VL (``Qwen2VLPromptMixin``, and its configuration of the 2B, 7B and 72B models), which the
authors used, and what lmms-eval appends to multiple-choice questions.
"""

from __future__ import annotations

from evalkit.types import MediaBudget

VLMEVALKIT_BUDGET = MediaBudget(min_pixels=1280 * 28 * 28, max_pixels=16384 * 28 * 28)
"""Pixels of an image: 1,280 to 16,384 visual tokens."""
OCRBENCH_BUDGET = MediaBudget(min_pixels=10 * 10 * 28 * 28, max_pixels=16384 * 28 * 28)
"""As above, with VLMEvalKit's lower bound for OCRBench, whose pictures are small."""
VIDEO_BUDGET = MediaBudget(fps=2.0)
"""Frames of a video: two a second, as in the Qwen2-VL paper."""

SHORT_ANSWER = "\nPlease try to answer the question with short words or phrases if possible."
"""VLMEvalKit, after questions of every data set of its type VQA (DocVQA, InfographicVQA, TextVQA,
ChartQA, OCRBench, MTVQA), in place of the data set's own suffix."""
LETTER_ANSWER = "\nAnswer with the option's letter from the given choices directly."
"""lmms-eval, after the options of EgoSchema, PerceptionTest and other multiple-choice tasks."""


def short_answer(question: str) -> str:
    """A question that is answered with words of the picture."""
    return question + SHORT_ANSWER


def detect(expression: str) -> str:
    """The object that an expression refers to; of figure 3 in the Qwen2-VL paper (the prompt behind
    its published scores is not known).
    """
    return f'Detect the bounding box of "{expression}".'
