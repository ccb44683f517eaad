"""A checkpoint's prompts: text by its chat template and tokenizer, patches by its processor, as the
engine takes them. No weights are needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalkit.adapter import chat_messages, check_length, limits_of, media_of
from evalkit.media import decode_image, decode_video, frame_times, noted_frames
from evalkit.models.registry import Family, family_of
from evalkit.models.sampling import Sampling
from evalkit.models.template import Template
from evalkit.nano import checkpoint_folder
from evalkit.types import BoxSpace, Image, MediaBudget, Request, Video

if TYPE_CHECKING:
    from evalkit.engine import Prompt, Visual


class Prompts:
    """Prompts for the checkpoint in ``folder``, of a family, under its ``switches``. ``template``
    takes the place of its chat template. Raises CheckpointError.

    chat: its tokenizer and template; processor: its image settings.
    """

    def __init__(
        self, family: Family, folder: Path, config: Any, switches: Any, template: str | None = None
    ) -> None:
        self.max_tokens, self.box_space = config.max_tokens, family.box_space
        self.chat = family.Chat(folder, config, switches)
        if template is not None:
            self.chat.template = Template(template)
        self.processor = family.Processor.load(folder, switches)
        self._visual = lru_cache(maxsize=4)(self._process)

    @classmethod
    def of(cls, model: str) -> Prompts:
        """Of a checkpoint by its name, as it was trained. Raises EvalkitError."""
        folder = checkpoint_folder(model)
        family = family_of(folder)
        config = family.Config.load(folder)
        return cls(family, folder, config, config.trained)

    def make(self, request: Request) -> Prompt:
        """What the engine gets for a request. Raises DataError."""
        from evalkit.engine import Prompt

        # by their bytes: a file may have become another since it was last read
        visuals = tuple(
            self._visual(part, part.digest, request.budget) for part in media_of(request.messages)
        )
        text = self.chat.render(chat_messages(request.messages))
        ids = self.chat.encode(text, [v.media for v in visuals])
        choices = tuple(tuple(self.chat.encode(c)) for c in request.choices)
        longest_choice = max(map(len, choices), default=0)
        seen = self.visual_tokens(ids)
        check_length(len(ids) + longest_choice, self.max_tokens, seen)
        # Prompts with the same media and the same text before them share what they have up to
        # the last visual token.
        prefix = len(ids) - next(
            (i for i, t in enumerate(reversed(ids)) if t in self.chat.visual_ids), len(ids)
        )
        return Prompt(
            request.id,
            tuple(ids),
            visuals,
            min(request.max_new_tokens, max(self.max_tokens - len(ids), 1)),
            choices,
            prefix,
            request.temperature,
            request.seed,
        )

    def frame_times(self, clip: Video, budget: MediaBudget) -> Sequence[float]:
        task = limits_of(budget)
        return frame_times(clip, lambda total, fps: self.processor.frames(total, fps, task))

    def visual_tokens(self, ids: Sequence[int]) -> int:
        """How many of a prompt's tokens stand for media."""
        return sum(token in self.chat.visual_ids for token in ids)

    def _process(self, part: Image | Video, digest: str, budget: MediaBudget) -> Visual:
        """An image's or a video's patches, under a key of all that decides them."""
        from evalkit.engine import Visual

        task = limits_of(budget)
        key = (
            type(part).__name__,
            digest,
            getattr(part, "start", None),
            getattr(part, "end", None),
            getattr(part, "fps", None),
            part.upright,
            budget,
        )
        if isinstance(part, Image):
            patches, media = self.processor.image_patches(decode_image(part), task)
            return Visual(patches, media, key, self.processor.normalise)
        samplings: list[Sampling] = []  # of the frames that are shown, known as they are chosen

        def choose(total: int, fps: float) -> list[int]:
            chosen = self.processor.frames(total, fps, task)
            samplings.append(Sampling(tuple(chosen), total, fps))
            return chosen

        with noted_frames() as times:
            frames = decode_video(
                part, choose, lambda frame, total: self.processor.resize_frame(frame, total, task)
            )
        patches, media = self.processor.video_patches(frames, samplings[-1])
        return Visual(patches, media, key, self.processor.normalise, times[0])

    def boxes(self, prompt: Prompt) -> BoxSpace | None:
        """How boxes in the answer are written; one in pixels of the resized image says its size."""
        if not (self.box_space or "").startswith("resized") or not prompt.media:
            return self.box_space
        width, height = self.processor.size(prompt.media[0])
        return f"{self.box_space}@{width}x{height}"
