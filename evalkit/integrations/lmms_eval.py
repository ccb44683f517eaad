"""evalkit's models inside lmms-eval: `lmms-eval --model evalkit --model_args
pretrained=FOLDER,position=rope1d --tasks NAME`.

lmms-eval 0.7 finds it by the entry point group ``lmms_eval.models``. Its tasks, prompts and metrics
stay its own; images reach the model as they are (nothing is re-encoded), and the arguments of the
reference adapter, switches included, are the model's.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lmms_eval.api.instance import GenerationResult, Instance, TokenCounts
from lmms_eval.api.model import lmms
from lmms_eval.models.registry_v2 import ModelManifest
from PIL import Image as PILImage

from evalkit.adapter import make_adapter
from evalkit.errors import DataError, UsageError
from evalkit.types import Image, Message, Request, Text, Video

DEFAULT_STOP = "\n\n"
"""What lmms-eval takes where a task names nothing; its own Qwen2-VL wrapper leaves it out too."""


def manifest() -> ModelManifest:
    """What lmms-eval reads from the entry point."""
    return ModelManifest("evalkit", chat_class_path="evalkit.integrations.lmms_eval.Evalkit")


class Evalkit(lmms):  # type: ignore[misc]
    """Greedy generation through the reference adapter.

    ``pretrained`` is a shipped name, a folder or a hub id; other arguments are those of
    ``ReferenceAdapter``, switches included. ``batch_size`` and ``max_batch_size`` are not read: the
    engine chooses how much runs at once.
    """

    is_simple = False

    def __init__(
        self,
        pretrained: str = "nano",
        batch_size: Any = None,
        max_batch_size: Any = None,
        device: str | None = None,
        **arguments: Any,
    ) -> None:
        super().__init__()
        self.adapter = make_adapter("reference", pretrained, {"device": device, **arguments})

    def generate_until(self, requests: Sequence[Instance]) -> list[GenerationResult]:
        """One answer a request, in order, cut before the first of the task's ``until``. Raises
        UsageError where a task asks for sampling or beams, and DataError for a request that can't
        be answered: lmms-eval has no place for a sample without an answer."""
        until = [_stops(r.args[2]) for r in requests]
        out: dict[int, GenerationResult] = {}
        for done in self.adapter.generate(self._asked(requests)):
            number = int(done.id)
            if done.error is not None:
                raise DataError(
                    f"{requests[number].task_name}, document {requests[number].doc_id}: "
                    f"{done.error}"
                )
            ends = [at for stop in until[number] if (at := done.text.find(stop)) >= 0]
            counts = TokenCounts(done.tokens.text_in + done.tokens.vision_in, done.tokens.out)
            out[number] = GenerationResult(done.text[: min(ends, default=None)], counts)
        return [out[n] for n in range(len(requests))]

    def generate_until_multi_round(self, requests: Sequence[Instance]) -> list[str]:
        """Raises UsageError: a request is one question."""
        raise UsageError("evalkit answers lmms-eval's tasks of one round only")

    def loglikelihood(self, requests: Sequence[Instance]) -> list[tuple[float, bool]]:
        """Raises UsageError: lmms-eval asks it of models without chat messages only."""
        raise UsageError(
            "evalkit generates for lmms-eval; for ranked choices use `evalkit run` with a "
            "task of its own (Task.rank)"
        )

    def _asked(self, requests: Sequence[Instance]) -> Iterator[Request]:
        for number, request in enumerate(requests):
            _, messages_of, settings, doc_id, task, split = request.args
            messages = tuple(_message(m) for m in messages_of(self.task_dict[task][split][doc_id]))
            yield Request(str(number), messages, int(settings.get("max_new_tokens", 128)))


def _stops(settings: Mapping[str, Any]) -> list[str]:
    sampled = settings.get("do_sample", True) and (settings.get("temperature") or 0) > 0
    if sampled or (settings.get("num_beams") or 1) > 1:
        raise UsageError(
            f"evalkit decodes greedily; the task asks for {dict(settings)} (give "
            "`--gen_kwargs temperature=0,num_beams=1`)"
        )
    until = settings.get("until") or []
    return [u for u in ([until] if isinstance(until, str) else until) if u and u != DEFAULT_STOP]


def _message(message: Any) -> Message:
    """One of lmms-eval's chat messages, a dict or a ``ChatMessage``."""
    given = message if isinstance(message, Mapping) else message.model_dump()
    content = given["content"]
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    return Message(given["role"], tuple(_part(p) for p in parts))


def _part(part: Mapping[str, Any]) -> Text | Image | Video:
    kind, url = part["type"], part.get("url")
    if kind == "text":
        return Text(part["text"])
    if kind == "image" and isinstance(url, PILImage.Image):
        packed = io.BytesIO()
        (url if url.mode in ("RGB", "L") else url.convert("RGB")).save(
            packed, "PNG", compress_level=1
        )
        return Image(packed.getvalue())
    if kind in ("image", "video") and isinstance(url, str | Path):
        return (
            Image(Path(url))
            if kind == "image"
            else Video(Path(url), part.get("start_time"), part.get("end_time"))
        )
    raise UsageError(
        f"evalkit reads text, images and videos; the task sends {kind} as {type(url).__name__}"
    )
