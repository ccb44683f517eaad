"""Requests and replies of the OpenAI protocol: what a body asks, as an evalkit request, and what
comes back.

What can't be honoured and could change an answer is refused by its name, never ignored. Media are
data URLs: a server that fetches addresses can be sent anywhere.
"""

from __future__ import annotations

import base64
import binascii
import json
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from evalkit.adapter import media_of
from evalkit.formats import HEAD, media_type
from evalkit.types import Completion, Image, MediaBudget, Message, Part, Request, Text, Video

IGNORED = {"user", "store", "metadata", "service_tier", "safety_identifier", "prompt_cache_key"}
"""Fields that change no answer."""
AS_DEFAULT: Mapping[str, tuple[Any, ...]] = {
    "n": (1,),
    "top_p": (1, 1.0),
    "frequency_penalty": (0, 0.0),
    "presence_penalty": (0, 0.0),
    "logprobs": (False,),
    "tools": ([],),
    "response_format": ({"type": "text"},),
}
"""Fields that are taken at the value that changes nothing."""


class ApiError(Exception):
    """A refusal, as the protocol has it: HTTP status, message, type, and what it is about."""

    def __init__(
        self,
        status: int,
        message: str,
        kind: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.headers = status, dict(headers or {})
        self.body = {"error": {"message": message, "type": kind, "param": param, "code": code}}


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class _Url(BaseModel):
    url: str
    detail: Literal["auto", "low", "high"] | None = None


class _TextPart(_Strict):
    type: Literal["text"]
    text: str


class _ImagePart(_Strict):
    type: Literal["image_url"]
    image_url: _Url


class _VideoPart(_Strict):
    type: Literal["video_url"]
    video_url: _Url


_Part = Annotated[_TextPart | _ImagePart | _VideoPart, Field(discriminator="type")]


class _Message(_Strict):
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[_Part]
    name: str | None = None


class _Limits(_Strict):
    min_pixels: int | None = Field(default=None, gt=0)
    max_pixels: int | None = Field(default=None, gt=0)
    fps: float | None = Field(default=None, gt=0)
    max_frames: int | None = Field(default=None, gt=0)


class _StreamOptions(BaseModel):
    include_usage: bool = False


class _Body(BaseModel):
    model_config = ConfigDict(extra="allow")
    model: str
    messages: list[_Message] = Field(min_length=1)
    max_tokens: int | None = Field(default=None, gt=0)
    max_completion_tokens: int | None = Field(default=None, gt=0)
    temperature: float | None = Field(default=None, ge=0, le=2)
    seed: int | None = None
    stop: str | list[str] | None = Field(default=None, max_length=1000)
    stream: bool | None = False
    stream_options: _StreamOptions | None = None
    mm_processor_kwargs: _Limits | None = None
    prompt_logprobs: Literal[0] | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None


@dataclass(frozen=True)
class Limits:
    """What a request may ask: tokens of an answer, pictures and clips."""

    max_tokens: int = 2048
    max_media: int = 64
    default_tokens: int = 512


@dataclass(frozen=True)
class Asked:
    """A request that was read; ``media`` are the digests of what it shows."""

    request: Request
    media: tuple[str, ...]
    stop: tuple[str, ...]
    stream: bool
    include_usage: bool


def read(body: bytes, model: str, limits: Limits) -> Asked:
    """What a body asks of ``model``. Raises ApiError."""
    try:
        asked = _Body.model_validate_json(body)
    except ValidationError as e:
        first = e.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ApiError(400, f"{where or 'body'}: {first['msg']}", param=where or None) from None
    if asked.model != model:
        raise ApiError(
            404, f"no model {asked.model!r:.200}; there is {model!r}", code="model_not_found",
            param="model",
        )  # fmt: skip
    for name, value in (asked.model_extra or {}).items():
        if value is not None and name not in IGNORED and value not in AS_DEFAULT.get(name, ()):
            raise ApiError(400, f"{name}: not supported with this value", param=name)
    default = min(limits.default_tokens, limits.max_tokens)
    tokens = asked.max_completion_tokens or asked.max_tokens or default
    if tokens > limits.max_tokens:
        raise ApiError(400, f"max_tokens: at most {limits.max_tokens} here", param="max_tokens")
    messages = tuple(map(_message, asked.messages))
    media = media_of(messages)
    if len(media) > limits.max_media:
        raise ApiError(400, f"at most {limits.max_media} pictures and clips", param="messages")
    stop = (asked.stop,) if isinstance(asked.stop, str) else tuple(asked.stop or ())
    if len(stop) > 4:
        raise ApiError(400, "stop: at most 4", param="stop")
    ranked = _ranked(asked, messages)
    bounds = asked.mm_processor_kwargs or _Limits()
    return Asked(
        Request(
            f"chatcmpl-{uuid.uuid4().hex}",
            messages[:-1] if ranked else messages,
            tokens,
            MediaBudget(bounds.min_pixels, bounds.max_pixels, bounds.fps, bounds.max_frames),
            ranked,
            temperature=asked.temperature or 0.0,
            seed=asked.seed or 0,
        ),
        tuple(m.digest for m in media),
        tuple(filter(None, stop)),
        bool(asked.stream),
        bool(asked.stream_options and asked.stream_options.include_usage),
    )


def _ranked(asked: _Body, messages: Sequence[Message]) -> tuple[str, ...]:
    """The text whose tokens' likelihood is asked for: the last message, as the beginning of an
    answer. Raises ApiError for any other use of these fields.
    """
    given = asked.prompt_logprobs, asked.add_generation_prompt, asked.continue_final_message
    if given in ((None, None, None), (None, True, None), (None, True, False), (None, None, False)):
        return ()
    last = messages[-1]
    text = last.content[0] if len(last.content) == 1 else None
    fits = given == (0, False, True) and last.role == "assistant" and not asked.stream
    if not fits or not isinstance(text, Text) or not text.text or len(messages) < 2:
        raise ApiError(
            400,
            "prompt_logprobs=0 goes with continue_final_message=true, add_generation_prompt=false, "
            "no stream and a last message of the assistant, a text; none of these goes alone",
            param="prompt_logprobs",
        )
    return (text.text,)


def _message(message: _Message) -> Message:
    role = "system" if message.role == "developer" else message.role
    if isinstance(message.content, str):
        return Message(role, (Text(message.content),))
    return Message(role, tuple(map(_part, message.content)))


def _part(part: _TextPart | _ImagePart | _VideoPart) -> Part:
    if isinstance(part, _TextPart):
        return Text(part.text)
    video = isinstance(part, _VideoPart)
    data = _data(part.video_url.url if isinstance(part, _VideoPart) else part.image_url.url)
    kind = media_type(data[:HEAD])
    if kind is None or (kind == "video" and not video):
        what = "a video" if video else "an image"
        raise ApiError(400, f"not {what} in a known format", param="messages", code="invalid_image")
    return Video(data) if video else Image(data)


def _data(url: str) -> bytes:
    """The bytes of a data URL."""
    head, comma, packed = url.partition(",")
    if not head.startswith("data:") or not head.endswith(";base64") or not comma:
        raise ApiError(
            400, "media must be data URLs (data:image/png;base64,...): addresses are not fetched",
            param="messages", code="invalid_image_url",
        )  # fmt: skip
    try:
        return base64.b64decode(packed, validate=True)
    except (binascii.Error, ValueError):
        raise ApiError(
            400, "a data URL that is no base64", param="messages", code="invalid_image"
        ) from None


def reply(completion: Completion, model: str, text: str) -> dict[str, Any]:
    """The body of a whole answer."""
    message = {"role": "assistant", "content": text, "refusal": None}
    choice = {
        "index": 0,
        "message": message,
        "logprobs": None,
        "finish_reason": completion.finish_reason,
    }
    return {
        "id": completion.id,
        "object": "chat.completion",
        "created": int(time.time()),
        "model": model,
        "choices": [choice],
        "usage": usage(completion),
    }


def ranked(completion: Completion, model: str) -> dict[str, Any]:
    """The body of an answer to ``prompt_logprobs``, as vLLM has it: an entry for each token of the
    prompt, null but for those of the last message. Nothing is generated. Raises ApiError where the
    adapter does not tell the likelihood of single tokens.
    """
    if not completion.token_logprobs:
        raise ApiError(
            400, "prompt_logprobs: this adapter gives none of single tokens",
            param="prompt_logprobs",
        )  # fmt: skip
    own = completion.token_logprobs[0]
    before = completion.tokens.text_in + completion.tokens.vision_in
    tokens = replace(completion.tokens, text_in=completion.tokens.text_in + len(own), out=0)
    body = reply(replace(completion, tokens=tokens, finish_reason="length"), model, "")
    entries = [{str(id): {"logprob": logprob}} for id, logprob in own]
    return {**body, "prompt_logprobs": [None] * before + entries}


def usage(completion: Completion) -> dict[str, Any]:
    """The counts of tokens, as the protocol has them."""
    tokens = completion.tokens
    prompt = tokens.text_in + tokens.vision_in
    return {
        "prompt_tokens": prompt,
        "completion_tokens": tokens.out,
        "total_tokens": prompt + tokens.out,
        "prompt_tokens_details": {"image_tokens": tokens.vision_in},
    }


def chunk(id: str, model: str, delta: Mapping[str, Any], ended: str | None = None) -> bytes:
    """A piece of a streamed answer."""
    choice = {"index": 0, "delta": dict(delta), "logprobs": None, "finish_reason": ended}
    return _event(_chunk(id, model, [choice]))


def usage_chunk(completion: Completion, model: str) -> bytes:
    """The last piece, where it was asked for."""
    return _event({**_chunk(completion.id, model, []), "usage": usage(completion)})


def error_event(error: ApiError) -> bytes:
    """An error of an answer that has begun."""
    return _event(error.body)


DONE = b"data: [DONE]\n\n"


def _chunk(id: str, model: str, choices: Sequence[Any]) -> dict[str, Any]:
    return {
        "id": id,
        "object": "chat.completion.chunk",
        "created": int(time.time()),
        "model": model,
        "choices": list(choices),
    }


def _event(value: Mapping[str, Any]) -> bytes:
    return f"data: {json.dumps(value, ensure_ascii=False)}\n\n".encode()
