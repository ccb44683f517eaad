"""Video-MMMU: what can be learnt from a lecture: perceived, understood, and applied to a new case.

Data: `lmms-lab/VideoMMMU` on the hub (test), configurations Perception, Comprehension and
Adaptation of 300 questions each, one of every kind on each of 300 lectures; columns id, question,
options (up to ten; none for open questions), answer (a letter, or what is right of an open
question), question_type, in Adaptation also image; clips in zip files, named by id, which end with
the quiz as a picture. Access has to be asked for; the clips are their owners'. Paper: Hu et al.,
"Video-MMMU" (2025). Metrics: accuracy; open questions by MMMU's rule with Video-MMMU's further
words. ``knowledge_gain`` asks each question of Adaptation twice, after the lecture and with the
picture alone, and gives the share of what was wrong before that the lecture mends: (after - before)
/ (1 - before), the paper's, which is negative where a lecture confuses. lmms-eval shows a clip made
of the picture there. Prompts: lmms-eval's, which are the authors'. Video is read at 2 frames per
second up to the model's own limit; VLMEvalKit's configuration at 1 (``VideoMMMU_1fps``),
lmms-eval's wrapper 32 frames.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar

from evalkit.errors import DataError
from evalkit.metrics.open_answer import VIDEO_MMMU, open_answer, read
from evalkit.multiple_choice import MultipleChoice, Question, letter_answer
from evalkit.protocols import DEFAULT, VIDEO_BUDGET, Protocol, lmms_eval
from evalkit.rows import identifier, image, string, strings, video
from evalkit.sources import Hub, Joined
from evalkit.task import Metric, Row, Subset
from evalkit.types import Media, MediaBudget, Sample

COLUMNS = ("id", "question", "options", "answer", "question_type")
IGNORE = "\nPlease ignore the Quiz question in last frame of the video."
LEARN = "You should watch and learn the video content. Then apply what you learned to answer the "
AT_END = " question. The image for this question is at the end of the video.\n"
ANSWER = "\nAdd `Answer: {{Your final answer}}` at the end of your reply."
PROMPT, OPEN = "{lead}{question}\n{options}{tail}", "{lead}{question}"

PROTOCOLS = {
    DEFAULT: Protocol(origin="lmms-eval's, read strictly", prompt=PROMPT),
    "lmms-eval": lmms_eval("videommmu", PROMPT, 1024),
}
VLMEVALKIT = Protocol(
    origin="VLMEvalKit, vlmeval/dataset/videommmu.py, its VideoMMMU_1fps",
    prompt=PROMPT + ANSWER,
    budget=MediaBudget(fps=1.0),
    max_new_tokens=2048,
    reader="videommmu-vlmevalkit",
)
GAIN = (
    Metric("knowledge_gain", weight="gain", units=("lecture",)),
    Metric("after", weight="is_after"),
    Metric("before", weight="is_before"),
)


def track(name: str) -> Hub:
    return Hub(
        repository="lmms-lab/VideoMMMU",
        config=name.capitalize(),
        split="test",
        columns=(*COLUMNS, "image") if name == "adaptation" else COLUMNS,
        clips="id",
        archives=("*.zip",),
    )


TRACKS = {name: track(name) for name in ("perception", "comprehension", "adaptation")}


def questions(source: Hub | Joined, size: int = 300) -> Subset:
    protocols = {**PROTOCOLS, "vlmevalkit": VLMEVALKIT}
    return Subset(source, budget=VIDEO_BUDGET, protocols=protocols, size=size)


class VideoMMMU(MultipleChoice):
    """One sample per row, two for the knowledge gain; a lecture is a cluster."""

    name = "videommmu"
    description = "what is learnt from a lecture: accuracy of three tracks, knowledge gain"
    max_new_tokens = 1024
    subsets: ClassVar = {
        "all": questions(Joined(TRACKS), 900),
        **{name: questions(source) for name, source in TRACKS.items()},
        "knowledge_gain": Subset(
            TRACKS["adaptation"],
            metrics=GAIN,
            budget=VIDEO_BUDGET,
            protocols=PROTOCOLS,
            size=300,
        ),
    }
    open_prompts: ClassVar = {DEFAULT: OPEN, "vlmevalkit": OPEN + ANSWER}

    def samples(self, row: Row) -> Iterable[Sample]:
        asked = [self.question(row)]
        if self.subset_name == "knowledge_gain":  # both or none: a half would tilt the gain
            asked.append(self.asked(row, [image(row)], shown="before"))
        return map(self.sample, asked)

    def question(self, row: Row) -> Question:
        name = row.get("part", self.subset_name)
        if name in ("perception", "comprehension"):
            return self.asked(row, [video(row)], name, tail=IGNORE)
        kind = "open-ended" if is_open(row) else "multi-choice"
        media: list[Media] = [video(row)]
        if self.protocol_name == "vlmevalkit":
            media.append(image(row))
        shown = "after" if name == "knowledge_gain" else name
        return self.asked(row, media, shown, lead=f"{LEARN}following {kind}{AT_END}")

    def asked(
        self, row: Row, media: Sequence[Media], shown: str, lead: str = "", tail: str = ""
    ) -> Question:
        """The question of a row about what is shown; ``shown`` is the track, or after or before the
        lecture.
        """
        name, options = identifier(row, "id"), [] if is_open(row) else listed(row)
        answer = letter_answer(row, len(options)) if options else string(row, "answer")
        return Question(
            media=media,
            text=string(row, "question"),
            options=options,
            answer=answer,
            cluster=name,
            id=f"{shown}-{name}",
            fields={"lead": lead, "tail": tail},
            metadata={
                "track": shown,
                "subject": "_".join(name.split("_")[1:-1]),
                "lecture": name,
            },
        )

    def score_open(self, sample: Sample, text: str) -> tuple[float, str | None]:
        said = text.rpartition("Answer:")[2] if self.protocol_name == "vlmevalkit" else text
        if not said.strip():
            return 0.0, None
        found = read(said, VIDEO_MMMU)
        return open_answer(said, [sample.target], VIDEO_MMMU), ", ".join(map(str, found))

    def values(self, sample: Sample, right: float) -> Mapping[str, float]:
        """Of the gain: what is right before the lecture counts against both of its sums."""
        if self.subset_name != "knowledge_gain":
            return super().values(sample, right)
        after = float(sample.metadata["track"] == "after")
        weights = {"is_after": after, "is_before": 1 - after, "gain": after - (1 - after) * right}
        return {**dict.fromkeys((m.name for m in self.metrics), right), **weights}


def is_open(row: Row) -> bool:
    """Whether a question has no options. Raises DataError where its type says otherwise."""
    kind, options = row["question_type"], strings(row, "options")
    if (kind in ("multiple-choice", "perception")) is not (len(options) > 1):
        raise DataError(f"'question_type' is {kind!r:.80}, and there are {len(options)} options")
    return not options


def listed(row: Row) -> list[str]:
    """The options without the letters that some have."""
    options = strings(row, "options")
    if all(o.startswith(f"{chr(65 + i)}.") for i, o in enumerate(options)):
        options = [option[2:].strip() for option in options]
    if not all(option.strip() for option in options):
        raise DataError(f"'options' has an empty one: {options!r:.200}")
    return options
