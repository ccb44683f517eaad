"""An adapter that looks at all media, frames included, and says always the same."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from evalkit.adapter import ModelAdapter, answer_each, media_of
from evalkit.media import decode_image, decode_video, frame_times
from evalkit.types import Completion, Image, MediaBudget, Request, Video


class Looker(ModelAdapter):
    """Four frames of a clip are shown, evenly spaced."""

    name = "looker"
    box_space = "norm1000"

    def __init__(self, model: str, *, answer: str = "A") -> None:
        self.model, self.answer = model, answer

    @property
    def fingerprint(self) -> Mapping[str, Any]:
        return {"adapter": self.name, "model": self.model, "answer": self.answer}

    def frame_times(self, clip: Video, budget: MediaBudget) -> Sequence[float]:
        return frame_times(clip, spaced)

    def generate(self, requests: Iterable[Request]) -> Iterator[Completion]:
        return answer_each(requests, self._answer)

    def _answer(self, request: Request) -> Completion:
        for part in media_of(request.messages):
            seen = decode_image(part) if isinstance(part, Image) else decode_video(part, spaced)
            assert np.asarray(seen).size
        return Completion(request.id, self.answer)


def spaced(total: int, fps: float) -> list[int]:
    return [int(i) for i in np.linspace(0, total - 1, 4)]
