"""A model behind an OpenAI-compatible server: vLLM, SGLang, LMDeploy, llama.cpp, Ollama, ``evalkit
serve``, or a hosted one.

A request that gets no answer is its sample's error with the reason, and is asked again by the next
run: never text, never a zero. Only what a repetition can mend is repeated (time-outs, 408, 409,
429, 5xx, broken connections, replies that are cut short); a 400 is not. What the server is goes
into the fingerprint, and is looked at again after a broken connection and at the end of a run.
docs/openai.md says how each setting is used.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import os
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from evalkit.model_adapters.openai_connection import (
    FULL,
    SENT_OTHERWISE,
    Connection,
    end_of,
    logprobs_of,
    text_of,
    usage_of,
)
from evalkit.model_adapters.openai_messages import (
    Form,
    ImageForm,
    Prepared,
    VideoForm,
    chat,
    chooser,
)
from evalkit.model_adapters.openai_tokens import PromptTokens

from evalkit.adapter import ModelAdapter
from evalkit.errors import EvalkitError, UsageError, reason
from evalkit.media import Times, frame_times
from evalkit.pace import Again, Pace, Patience, ask_all
from evalkit.safe_text import digest_of, is_secret
from evalkit.types import (
    BoxSpace,
    Completion,
    MediaBudget,
    Request,
    Text,
    TokenCounts,
    Video,
    is_box_space,
)

T = TypeVar("T")
Ask = Callable[[Request], Coroutine[Any, Any, Completion]]
DEFAULT_URL = "http://localhost:8000/v1"
CHECKED_FIRST, CHECKED_EVERY = 32, 16
"""Answers whose prompt's tokens are counted here, too: so many at the start of a run, and then one
in so many."""
MOST_REFUSED = 5
"""Requests refused alike for a field that all of them have, before any is answered, that end a
run."""
MOST_MISMATCHES = 3
"""Answers whose token count is another than ours, before any was right, that end a run."""
TAKES_LIMITS = ("vllm", "evalkit")
"""Servers (``owned_by`` in /v1/models) that take pixel limits with a request."""
TAKES_CLIPS = ("evalkit",)
"""Servers whose choice of a clip's frames is ours."""


@dataclass
class Use:
    """What a run used of the server, for the results.

    answered: requests; repeated: further tries of one. most_at_once: requests under way.
    checked: prompts whose token count was compared with the server's; mismatched: those that
    differ. uncounted: answers whose tokens the server did not count. cost: by the prices that were
    given. answered_by: requests by the name that the server gives the model.
    """

    answered: int = 0
    repeated: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    most_at_once: int = 0
    checked: int = 0
    mismatched: int = 0
    uncounted: int = 0
    cost: float = 0.0
    answered_by: dict[str, int] = field(default_factory=dict)


class OpenAIAdapter(ModelAdapter):
    """A model that a server offers as ``model``.

    url: the server's address with its version, from ``OPENAI_BASE_URL`` if not given. key_env: the
    environment variable that holds the key; a server without keys needs none.

    concurrency: the most requests at once; fewer while the server turns requests away, or takes
    more than ``slow`` seconds for an answer. tries: of one request. first_wait: seconds before the
    second one. request_timeout: seconds for one try.

    images: ``png``, ``jpeg`` or ``original`` (each file as it is). videos: ``frames`` or ``url``;
    pixels: ``send`` the limits with each request, ``resize`` pictures here, or ``ignore`` them. All
    three are chosen by the server where not given. min_pixels, max_pixels, fps, max_frames: in
    place of the task's own.

    checkpoint: a folder or shipped name whose tokenizer and image settings are the served model's:
    prompt tokens are then counted exactly here and compared with the server's count. verify=False
    takes answers without that. box_space: how the model writes boxes.

    price_in, price_out: for a million tokens. max_cost: nothing more is asked once so much is
    spent, on all tasks together. chat_template: a file, for servers that take a template with a
    request. extra: a mapping, or a JSON file of one, put into every request's body; null takes a
    field out.
    """

    name = "openai"
    can_sample = True

    def __init__(
        self,
        model: str,
        *,
        url: str | None = None,
        key_env: str = "OPENAI_API_KEY",
        concurrency: int = 32,
        slow: float = 60.0,
        tries: int = 10,
        first_wait: float = 1.0,
        request_timeout: float = 300.0,
        images: ImageForm = "png",
        videos: VideoForm | None = None,
        pixels: Literal["send", "resize", "ignore"] | None = None,
        min_pixels: int | None = None,
        max_pixels: int | None = None,
        fps: float | None = None,
        max_frames: int | None = None,
        checkpoint: str | None = None,
        verify: bool = True,
        box_space: BoxSpace | None = None,
        price_in: float = 0.0,
        price_out: float = 0.0,
        max_cost: float | None = None,
        chat_template: str | None = None,
        extra: str | Mapping[str, Any] | None = None,
    ) -> None:
        given = dict(locals())
        _check(given)
        self.model = model
        address = (url or os.environ.get("OPENAI_BASE_URL") or DEFAULT_URL).rstrip("/")
        self.connection = Connection(address, key_env, float(request_timeout))
        self.concurrency, self.slow = concurrency, float(slow)
        self.patience = Patience(tries, float(first_wait))
        self.images, self.given_videos, self.given_pixels = images, videos, pixels
        self.bounds = MediaBudget(min_pixels, max_pixels, fps, max_frames)
        self.verify = verify
        self.given_box_space = box_space
        self.price_in, self.price_out, self.max_cost = price_in, price_out, max_cost
        self.chat_template = _read(chat_template) if chat_template else None
        self.extra = _json(extra) if isinstance(extra, str) else dict(extra or {})
        self.tokens = PromptTokens.of(model, checkpoint)
        self.prepared = Prepared()
        self.use = Use()
        self.spent, self.answers = 0.0, 0  # of all tasks

    # What the server is.

    @cached_property
    def server(self) -> Mapping[str, Any]:
        """What the server says of the model: its entry in ``/v1/models``, without dates, and the
        server's version. Raises EvalkitError when no server answers, UsageError when it has no such
        model.
        """
        return self.connection.run(self.connection.identity(self.model))

    @property
    def made_by(self) -> str:
        return str(self.server.get("owned_by", ""))

    @cached_property
    def form(self) -> Form:
        """How media are sent to this server."""
        videos = self.given_videos or ("url" if self.made_by in TAKES_CLIPS else "frames")
        return Form(self.images, videos, self.pixels == "resize")

    @cached_property
    def pixels(self) -> str:
        return self.given_pixels or ("send" if self.made_by in TAKES_LIMITS else "resize")

    @cached_property
    def box_space(self) -> BoxSpace | None:  # type: ignore[override]
        """As given, as the server says, or as the family of the checkpoint writes them."""
        told = self.server.get("box_space")
        if self.given_box_space or is_box_space(told):
            return self.given_box_space or str(told)
        return self.tokens.box_space if self.tokens else None

    @property
    def fingerprint(self) -> Mapping[str, Any]:
        sent = {
            "images": self.images,
            "videos": self.form.videos,
            "pixels": self.pixels,
            **{k: v for k, v in vars(self.bounds).items() if v is not None},
        }
        if self.chat_template:
            sent["chat_template"] = hashlib.sha256(self.chat_template.encode()).hexdigest()
        if self.extra:
            sent["extra"] = digest_of(json.dumps(self.extra, sort_keys=True))
        return {
            "adapter": self.name,
            "model": self.model,
            "server": dict(self.server),
            "box_space": self.box_space,
            "sent": sent,
        }

    @property
    def details(self) -> Mapping[str, Any]:
        counted = "exactly" if self.tokens and self.tokens.exact else "roughly"
        return {
            "url": self.connection.shown,
            "concurrency": self.concurrency,
            "prompt_tokens": f"counted {counted}" if self.tokens and self.verify else "not checked",
            "price_in": self.price_in,
            "price_out": self.price_out,
            "max_cost": self.max_cost,
        }

    def close(self) -> None:
        self.connection.close()

    @property
    def stats(self) -> Mapping[str, Any]:
        return {**vars(self.use), "cost": round(self.use.cost, 6)}

    # Questions and answers.

    def generate(self, requests: Iterable[Request]) -> Iterator[Completion]:
        return self._all(requests, self._answer)

    def frame_times(self, clip: Video, budget: MediaBudget) -> Sequence[float]:
        if self.form.videos == "url":
            return super().frame_times(clip, budget)  # the server chooses
        return frame_times(clip, chooser(self._budget(budget)))

    def rank(self, requests: Iterable[Request]) -> Iterator[Completion]:
        return self._all(requests, self._ranked)

    def _all(self, requests: Iterable[Request], ask: Ask) -> Iterator[Completion]:
        self.use, self.connection.lost = Use(), 0
        before = self.server
        pace = Pace(self.concurrency, self.slow)
        out_of_money = False
        refused: list[str] = []

        def go_on(under_way: int) -> bool:
            nonlocal out_of_money
            self.use.most_at_once = max(self.use.most_at_once, under_way + 1)
            each = self.spent / max(self.answers, 1)
            needed = self.spent + (under_way + 1) * each
            out_of_money = self.max_cost is not None and needed > self.max_cost
            return not out_of_money

        def repeated() -> None:
            self.use.repeated += 1

        source = iter(requests)
        asked = ask_all(source, ask, self.connection.loop, pace, self.patience, go_on, repeated)
        for request, answer in asked:
            if isinstance(answer, str):
                yield Completion(request.id, finish_reason="error", error=answer)
                continue
            if self.connection.lost:
                self.connection.lost = 0
                self._check_same(before)
            if not self.use.answered and answer.error:
                refused.append(answer.error)
            yield answer
            if len(refused) == MOST_REFUSED and all(SENT_OTHERWISE in why for why in refused):
                raise EvalkitError(f"{self.connection.shown}: refuses all alike: {refused[-1]}")
            if self.max_cost and self.use.uncounted:
                raise EvalkitError(
                    f"{self.connection.shown}: a reply without usage.prompt_tokens, so that its "
                    "cost is unknown: repeat the run without max_cost"
                )
        if out_of_money:
            raise EvalkitError(
                f"{self.spent:.4g} of max_cost={self.max_cost:g} are spent, and another answer may "
                "pass it: repeat the run with a larger max_cost to ask the rest"
            )
        if self.use.answered:
            self._check_same(before)

    def _check_same(self, before: Mapping[str, Any]) -> None:
        """Raises EvalkitError when the server is another one than at the start."""
        now = self.connection.run(self.connection.identity(self.model))
        if now != before:
            changed = [k for k in {**before, **now} if before.get(k) != now.get(k)]
            told = ", ".join(f"{k}: {before.get(k)!r:.60}, now {now.get(k)!r:.60}" for k in changed)
            raise EvalkitError(
                f"{self.connection.shown}: the server is another one than when the run began "
                f"({told}); answers of both would be mixed: repeat the run with --fresh"
            )

    async def _answer(self, request: Request) -> Completion:
        started = time.perf_counter()
        try:
            sent, frames, body = await asyncio.to_thread(self._as_sent, request)
        except Exception as e:  # media that can't be read or sent: this request alone
            return _failed(request, reason(e))
        reply = await self.connection.reply(body)
        if isinstance(reply, str):
            return _failed(request, reply)
        try:
            choice = reply["choices"][0]
            text, thought, why = text_of(choice)
            usage = usage_of(reply)
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as e:
            raise Again(f"a reply that is no chat completion ({type(e).__name__}: {e})") from None
        self._count(usage, str(reply.get("model", "")))
        if why:
            return _failed(request, why)
        prompt = usage.text_in + usage.vision_in
        if self.verify and self.tokens and prompt and self._is_checked():
            seen, wrong = await asyncio.to_thread(self.tokens.compare, sent, prompt)
            self.use.checked += 1
            if wrong:
                return self._mismatch(request, wrong)
            usage = replace(usage, text_in=prompt - seen, vision_in=seen)
        return Completion(
            request.id,
            text,
            "length" if end_of(choice) in FULL else "stop",
            usage,
            time.perf_counter() - started,
            box_space=self.box_space,
            frames=frames,
            thought=thought,
        )

    def _as_sent(self, request: Request) -> tuple[Request, tuple[Times, ...], dict[str, Any]]:
        """The request with its media as the server gets them and the bounds that it is told of;
        when the frames of its clips are, where they are chosen here; and the body.
        """
        budget = self._budget(request.budget)
        messages, frames = self.prepared(request.messages, self.form, budget)
        told = budget if self.pixels == "send" else MediaBudget()
        sent = replace(request, messages=messages, budget=told)
        return sent, frames, self._body(sent)

    def _body(self, sent: Request) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self.model,
            "messages": chat(sent.messages),
            "max_tokens": sent.max_new_tokens,
            "temperature": sent.temperature,
        }
        if sent.temperature:
            body["seed"] = sent.seed
        if media := {type(p) for m in sent.messages for p in m.content} - {Text}:
            of = ("min_pixels", "max_pixels", *(("fps", "max_frames") if Video in media else ()))
            told = {k: v for k in of if (v := getattr(sent.budget, k)) is not None}
            body |= {"mm_processor_kwargs": told} if told else {}
        if self.chat_template:
            body["chat_template"] = self.chat_template
        body |= self.extra
        return {k: v for k, v in body.items() if v is not None}

    def _budget(self, task: MediaBudget) -> MediaBudget:
        """The task's, but for what the user set."""
        return replace(task, **{k: v for k, v in vars(self.bounds).items() if v is not None})

    async def _ranked(self, request: Request) -> Completion:
        """Choices by their log-likelihood, from a server that gives ``prompt_logprobs`` of chats
        (vLLM): the tokens that a choice adds to the prompt are those after the prompt's own.
        """
        started = time.perf_counter()
        if not request.choices:
            return _failed(request, "nothing to rank: the question has no choices")
        try:
            _, frames, body = await asyncio.to_thread(self._as_sent, request)
        except Exception as e:
            return _failed(request, reason(e))
        scores: list[float] = []
        own = 0
        for choice in ("", *request.choices):
            more: dict[str, Any] = {"max_tokens": 1}
            if choice:
                turn = {"role": "assistant", "content": choice}
                more |= {"messages": [*body["messages"], turn], "prompt_logprobs": 0}
                more |= {"add_generation_prompt": False, "continue_final_message": True}
            reply = await self.connection.reply({**body, **more})
            if isinstance(reply, str):
                return _failed(request, reply)
            usage = usage_of(reply)
            self._count(usage, "")
            if not choice:
                own = usage.text_in + usage.vision_in
                continue
            found = logprobs_of(reply.get("prompt_logprobs"), own)
            if not own or not found:
                raise UsageError(
                    f"{self.connection.shown}: the server gives no log-probabilities of a "
                    "prompt's tokens (prompt_logprobs), so choices can't be ranked; take a task "
                    "that generates"
                )
            scores.append(math.fsum(found))
        best = max(range(len(scores)), key=scores.__getitem__)
        return Completion(
            request.id,
            request.choices[best],
            "rank",
            TokenCounts(own),
            time.perf_counter() - started,
            logprobs=tuple(scores),
            box_space=self.box_space,
            frames=frames,
        )

    def _count(self, usage: TokenCounts, answered_by: str) -> None:
        use = self.use
        use.answered += 1
        tokens_in = usage.text_in + usage.vision_in
        use.tokens_in += tokens_in
        use.uncounted += not tokens_in
        use.tokens_out += usage.out
        cost = (tokens_in * self.price_in + usage.out * self.price_out) / 1e6
        use.cost += cost
        self.spent += cost
        self.answers += 1
        if answered_by:
            use.answered_by[answered_by] = use.answered_by.get(answered_by, 0) + 1

    def _is_checked(self) -> bool:
        return self.use.answered <= CHECKED_FIRST or self.use.answered % CHECKED_EVERY == 0

    def _mismatch(self, request: Request, wrong: str) -> Completion:
        self.use.mismatched += 1
        if self.use.checked == self.use.mismatched == MOST_MISMATCHES:
            raise EvalkitError(f"{self.connection.shown}: {wrong}")
        return _failed(request, wrong)


def _failed(request: Request, why: str) -> Completion:
    return Completion(request.id, finish_reason="error", error=why)


def _read(path: str) -> str:
    try:
        return Path(path).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as e:
        raise UsageError(f"{path}: can't be read ({e})") from e


def _json(path: str) -> dict[str, Any]:
    try:
        value = json.loads(_read(path))
    except ValueError as e:
        raise UsageError(f"extra={path}: not JSON ({e})") from e
    if not isinstance(value, dict):
        raise UsageError(f"extra={path}: expected a JSON object, not {type(value).__name__}")
    return value


def _check(given: Mapping[str, Any]) -> None:
    """Raises UsageError for settings that can't be meant."""
    named: dict[str, tuple[Any, ...]] = {
        "images": get_args(ImageForm),
        "videos": (*get_args(VideoForm), None),
        "pixels": ("send", "resize", "ignore", None),
    }
    for name, values in named.items():
        if given[name] not in values:
            there = ", ".join(v for v in values if v)
            raise UsageError(f"{name}={given[name]!r}: expected one of {there}")
    if given["box_space"] is not None and not is_box_space(given["box_space"]):
        raise UsageError(
            f"box_space={given['box_space']!r}: no space of boxes (norm1000, pixel, ...)"
        )
    for name in ("concurrency", "tries", "min_pixels", "max_pixels", "max_frames"):
        value = given[name]
        if value is not None and (isinstance(value, bool) or int(value) != value or value < 1):
            raise UsageError(f"{name}={value!r}: expected a whole number above 0")
    for name in ("slow", "first_wait", "request_timeout", "fps", "max_cost"):
        if given[name] is not None and not 0 < given[name] < math.inf:
            raise UsageError(f"{name}={given[name]!r}: expected a number above 0")
    if given["max_cost"] is not None and not (given["price_in"] or given["price_out"]):
        raise UsageError("max_cost needs price_in and price_out, for a million tokens each")
    if "@" in str(given["url"] or ""):
        raise UsageError("url: no user or password in an address; the key is read from key_env")
    if not is_secret(str(given["key_env"]), variable=True):
        raise UsageError(
            f"key_env={given['key_env']}: name a variable that ends in _API_KEY or _TOKEN, so that "
            "its value is kept out of everything that is written"
        )
