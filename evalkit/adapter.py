"""Model adapters: requests in, completions out, in any order.

One shape, ``generate(requests) -> completions``, carries continuous batching, concurrent API calls
and remote replicas. Adapters are found by entry point (group ``evalkit.model_adapters``) or given
as a file.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from itertools import takewhile
from pathlib import Path
from typing import Any, ClassVar

from evalkit.bounds import bounds, over
from evalkit.errors import CheckpointError, DataError, UsageError, reason
from evalkit.models.limits import Limits
from evalkit.models.switch import Switch
from evalkit.plugin import class_in, installed, load, unknown
from evalkit.safe_text import digest_of, is_secret, mapped, mask, masked, without_keys
from evalkit.types import (
    BoxSpace,
    Completion,
    Image,
    Interleaved,
    MediaBudget,
    Message,
    Request,
    Subtitles,
    Text,
    Video,
)


class ModelAdapter(ABC):
    """Base class of adapters. Built with a model name, folder or hub id, and keyword arguments:
    switches and the adapter's own settings (already converted: ``4`` is an int, ``true`` a bool).
    An unknown argument raises UsageError.

    A request that can't be answered (unreadable media, too long a prompt) comes back as a
    completion with ``error``; only what makes every further answer impossible raises.

    ``name`` is that of the entry point. ``box_space`` is the unit in which the model writes boxes;
    it holds for every completion that names none itself. ``unnamed`` are the texts among the
    arguments that the signature has no name for; results keep a digest of each.

    ``timeout`` is for adapters that wait on others (a server, a subprocess): seconds without an
    answer after which a request is given up, as its sample's error. The call that hangs is left to
    itself and ``generate`` is called anew, so it must bear two calls at once. None waits for ever.

    ``can_sample`` says whether requests may have a temperature.
    """

    name: ClassVar[str]
    box_space: BoxSpace | None = None
    unnamed: tuple[str, ...] = ()
    timeout: float | None = None
    can_sample: bool = False

    def __init__(self, model: str, **arguments: Any) -> None:  # noqa: B027 - an adapter may need no arguments
        """``model`` as the user names it. Raises UsageError for an argument that the adapter does
        not know.
        """

    @property
    @abstractmethod
    def fingerprint(self) -> Mapping[str, Any]:
        """JSON of everything that can change an answer: weights hash, switches, dtype, pixels,
        generation. What can't change an answer (batch size, device count, worker count) is not in
        it."""

    @classmethod
    def switches(cls, model: Any) -> Mapping[str, Switch]:
        """The ablation switches that this adapter takes for a model (as it is built with one), by
        name. Raises EvalkitError for a model that is not there.
        """
        return {}

    @property
    def blind(self) -> Mapping[str, Any] | None:
        """The switch values that hide all images and videos from the model, the no-vision
        baseline; None where there are none.
        """
        return None

    @property
    def code(self) -> tuple[str, ...]:
        """Names of the modules whose code can change an answer, beside what they import."""
        return (type(self).__module__,)

    @property
    def weight_bytes(self) -> int | None:
        """Bytes of the weights that a process with this adapter holds; None where that is not
        known before they are loaded.
        """
        return None

    @property
    def details(self) -> Mapping[str, Any]:
        """JSON of what people want to read beside a result and what does not change it (device,
        batch size, parameters).
        """
        return {}

    @property
    def lanes(self) -> int:
        """How many calls of ``converse`` are best run at once. May load the model."""
        return 1

    @property
    def stats(self) -> Mapping[str, Any]:
        """JSON of what the last call of ``generate`` or ``rank`` did (tokens, reuse, seconds by
        stage), kept with the results.
        """
        return {}

    def close(self) -> None:  # noqa: B027 - an adapter may hold nothing
        """Gives back memory that is held for the next call of ``generate``, such as a model's
        weights; the next call takes it again.
        """

    @abstractmethod
    def generate(self, requests: Iterable[Request]) -> Iterator[Completion]:
        """Answers each request once. May read ahead of what it has answered, by a bounded
        number.
        """

    def frame_times(self, clip: Video, budget: MediaBudget) -> Sequence[float]:
        """When the frames that the model is shown of a clip are on the screen, in seconds from its
        start: subtitles are chosen by them. Raises DataError for a clip that can't be read.
        """
        raise UsageError(
            f"adapter {self.name!r} doesn't say which frames of a clip it shows, so subtitles "
            "can't be matched with them; run the subset without subtitles, or another adapter"
        )

    def converse(
        self, requests: Iterator[Request | None], said: Callable[[str, Callable[[], str]], bool]
    ) -> Iterator[Completion]:
        """As ``generate``, for requests that come while others are answered, as ``evalkit serve``
        has them; those with choices are ranked. ``requests`` gives None while there is none; the
        call ends when there is none and nothing is under way. ``said`` may be told, after each step
        of an answer, its request's id and a function that gives its text so far; where it says
        True, the answer ends as it is.

        An adapter that does not say otherwise answers together what has come meanwhile. So many
        calls as ``lanes`` says may run at once, each in a thread of its own.
        """
        while there := list(takewhile(lambda request: request is not None, requests)):
            asked = [r for r in there if r is not None]
            if generated := [r for r in asked if not r.choices]:
                yield from self.generate(generated)
            if ranked := [r for r in asked if r.choices]:
                yield from self.rank(ranked)

    def rank(self, requests: Iterable[Request]) -> Iterator[Completion]:
        """Log-likelihood of each of ``request.choices`` as the answer, in ``Completion.logprobs``;
        text is the best one.
        """
        raise UsageError(
            f"adapter {self.name!r} can't rank choices; use one that can, or a task that generates"
        )


def chat_messages(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """A conversation as chat templates take it; media are bare ``image`` and ``video`` parts, in
    the order of ``media_of``. Raises DataError when its texts are over the bound: a tokenizer may
    take any time for them.
    """
    parts = [p for m in messages for p in m.content if isinstance(p, Text)]
    if (length := sum(len(p.text) for p in parts)) > bounds().prompt_chars:
        raise DataError(f"a question of {length:,} characters: {over('prompt_chars')}")
    return [
        {
            "role": m.role,
            "content": [
                {"type": "text", "text": p.text}
                if isinstance(p, Text)
                else {"type": type(p).__name__.lower()}
                for p in m.content
            ],
        }
        for m in messages
    ]


def answer_each(
    requests: Iterable[Request], answer: Callable[[Request], Completion]
) -> Iterator[Completion]:
    """Answers requests one by one, with the time that each took; what one raises is its error, but
    for what makes every further answer impossible.
    """
    from evalkit.media import noted_frames

    for request in requests:
        started = time.perf_counter()
        try:
            with noted_frames() as frames:
                answered = answer(request)
            seconds = time.perf_counter() - started
            yield replace(answered, seconds=seconds, frames=answered.frames or tuple(frames))
        except (CheckpointError, UsageError, KeyboardInterrupt, GeneratorExit):
            raise
        except BaseException as e:  # also a panic of a native library
            yield Completion(request.id, finish_reason="error", error=reason(e))


def media_of(messages: Iterable[Message]) -> list[Image | Video]:
    """Images and videos in the order in which a conversation shows them."""
    return [p for m in messages for p in m.content if isinstance(p, Image | Video)]


def with_subtitles(
    adapter: ModelAdapter, messages: tuple[Message, ...], budget: MediaBudget
) -> tuple[Message, ...]:
    """The messages with those lines of their subtitles that belong to the frames which the adapter
    shows, and with pictures and lines in place of interleaved clips. Raises DataError for a clip
    that can't be read.
    """
    parts = [p for m in messages for p in m.content]
    if any(isinstance(p, Interleaved) for p in parts):
        from evalkit.media import laid_out  # it imports numpy

        return tuple(
            replace(m, content=tuple(q for p in m.content for q in laid_out(p, budget)))
            for m in messages
        )
    if not any(isinstance(p, Subtitles) for p in parts):
        return messages
    clips = [p for p in parts if isinstance(p, Video)]
    if len(clips) > 1:
        raise DataError(f"subtitles belong to one clip, and the question shows {len(clips)}")
    times = [time for clip in clips for time in adapter.frame_times(clip, budget)]
    return tuple(
        replace(m, content=tuple(p.at(times) if isinstance(p, Subtitles) else p for p in m.content))
        for m in messages
    )


def limits_of(budget: MediaBudget) -> Limits:
    """A task's budget as model families take it: they know nothing of tasks and their types."""
    return Limits(budget.min_pixels, budget.max_pixels, budget.fps, budget.max_frames)


def check_length(tokens: int, most: int, visual: int | None = None) -> None:
    """Raises DataError for a prompt of more ``tokens`` than the ``most`` that a model is made for:
    what it answers beyond them is noise, and no score of it. ``visual`` of them stand for media,
    where that is known.
    """
    if tokens > most:
        advice = "show it less (switches max_pixels, fps, max_frames)"
        if visual is not None and tokens - visual > most:
            advice = f"its text alone has {tokens - visual:,}: shorten the question"
        raise DataError(
            f"a prompt of {tokens:,} tokens: the model is made for {most:,}; {advice}, or take a "
            "checkpoint made for longer prompts"
        )


def digest(fingerprint: Mapping[str, Any]) -> str:
    """The first 12 hex digits of SHA-256 over the canonical JSON of a fingerprint."""
    return hashlib.sha256(
        json.dumps(fingerprint, sort_keys=True, ensure_ascii=False).encode()
    ).hexdigest()[:12]


def registered() -> dict[str, str]:
    """Names of the installed adapters and where each lives (``module:Class``), without importing
    any.
    """
    return {e.name: e.value for e in installed("evalkit.model_adapters")}


def adapter_class(name: str) -> type[ModelAdapter]:
    """The adapter of that name, or the one that a file ``./my_adapter.py`` defines. Raises
    UsageError with the known names.
    """
    if name.endswith(".py"):
        return class_in(Path(name), ModelAdapter)
    for entry in installed("evalkit.model_adapters"):
        if entry.name == name:
            return load(entry, ModelAdapter)
    raise unknown("adapter", name, registered(), "./my_adapter.py")


def read_switches(adapter: type[ModelAdapter], model: Any, given: Iterable[str]) -> dict[str, Any]:
    """Switch values from texts such as ``position=rope1d``. Raises UsageError that says what is
    expected.
    """
    known = adapter.switches(model) if (texts := list(given)) else {}
    out: dict[str, Any] = {}
    for text in texts:
        name, equals, value = (part.strip() for part in text.partition("="))
        if not equals or not name:
            raise UsageError(f"switch {text!r}: expected name=value")
        if "=" in value:
            each = " ".join(f"--switch {part.strip()}" for part in text.split(","))
            raise UsageError(f"switch {text!r}: one each: {each}")
        if name not in known:
            close = get_close_matches(name, known, 1)
            hint = f" (did you mean {close[0]}?)" if close else ""
            raise UsageError(
                f"adapter {adapter.name!r} has no switch {name}{hint}; it has: "
                f"{', '.join(known) or 'none'}"
            )
        if name in out:
            raise UsageError(f"switch {name} is given twice")
        out[name] = known[name].read(value)
    return out


def convert(text: str) -> Any:
    """An adapter's argument as it is meant: ``4`` -> 4, ``0.5`` -> 0.5, ``true`` -> True,
    ``none`` -> None, anything else stays text.
    """
    words = {"true": True, "false": False, "none": None}
    if text.lower() in words:
        return words[text.lower()]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def full_dtype(name: str) -> str:
    """``bfloat16`` for ``bf16``, and so on; other names as they are."""
    return {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16", "half": "float16"}.get(
        name.lower(), name
    )


def make_adapter(
    adapter: str | type[ModelAdapter], model: Any, arguments: Mapping[str, Any]
) -> ModelAdapter:
    """An adapter (a name, a file or a class) for a model, named or, where the adapter takes one, in
    memory, its arguments checked; a ``dtype`` may be given in short (``bf16``). Raises UsageError
    for arguments that it does not take, with those that it does.
    """
    if isinstance(dtype := arguments.get("dtype"), str):
        arguments = {**arguments, "dtype": full_dtype(dtype)}
    cls = adapter_class(adapter) if isinstance(adapter, str) else adapter
    check_arguments(cls, model, arguments)
    try:
        inspect.signature(cls).bind(model, **arguments)
    except TypeError as e:
        raise UsageError(
            f"adapter {cls.name!r}: {e}; its __init__ is given the model, and --model-args by name"
        ) from e
    built = cls(model, **arguments)
    if texts := tuple(_texts(unnamed_arguments(cls, model, arguments))):
        vars(built)["unnamed"] = texts
    return built


def recordable(adapter: ModelAdapter, value: Mapping[str, Any]) -> dict[str, Any]:
    """What an adapter says of itself, as results may keep it: no secrets, and of what it was given
    under names that its signature lacks a digest. Raises TypeError for what is no mapping.
    """

    def known(text: str) -> str:
        for given in adapter.unnamed:
            if text == given or (len(given) >= 8 and given in text):
                text = text.replace(given, digest_of(given))
        text = without_keys(text)
        # Two prompts that differ in a word that looks like a password are still two.
        return text if mask(text) == text else f"{mask(text)} ({digest_of(text)})"

    out: dict[str, Any] = masked(mapped(dict(value), known))
    return {**out, "adapter": value["adapter"]} if "adapter" in out else out


def unnamed_arguments(
    adapter: type[ModelAdapter], model: Any, given: Mapping[str, Any]
) -> dict[str, Any]:
    """Those of an adapter's arguments that neither its signature nor its switches name: what they
    hold is not known to be harmless.
    """
    named, _ = _parameters(adapter)
    others = {k: v for k, v in given.items() if k not in named}
    switches = adapter.switches(model) if others else {}
    return {k: v for k, v in others.items() if k not in switches}


def refuse_secret(name: str, value: Any) -> None:
    """Raises UsageError for an argument that is named like a secret and is not just on or off."""
    if is_secret(name) and not isinstance(value, bool | None):
        raise UsageError(
            f"the argument {name!r} looks like a secret, and arguments are kept with results: set "
            f"it in the environment (as {name.upper()}, say), and let the adapter read it there"
        )


def _parameters(adapter: type[ModelAdapter]) -> tuple[list[str], bool]:
    """Names of an adapter's own arguments, and whether it takes others."""
    parameters = list(inspect.signature(adapter).parameters.values())[1:]
    named = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    return named, any(p.kind is p.VAR_KEYWORD for p in parameters)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str) and value:
        yield value
    elif isinstance(value, Mapping):
        yield from (text for v in value.values() for text in _texts(v))
    elif isinstance(value, list | tuple):
        yield from (text for v in value for text in _texts(v))


def check_arguments(adapter: type[ModelAdapter], model: Any, given: Mapping[str, Any]) -> None:
    """Raises UsageError for names that an adapter does not take for a model, with those that it
    does, for invalid switch values, and for secrets: they belong in the environment.
    """
    switches = adapter.switches(model)
    for name in set(given) - set(switches):
        refuse_secret(name, given[name])
    named, takes_others = _parameters(adapter)
    open_ended = not switches and takes_others
    if (unknown := sorted(set(given) - {*named, *switches})) and not open_ended:
        close = get_close_matches(unknown[0], [*named, *switches], 1)
        hint = f" (did you mean {close[0]}?)" if close else ""
        raise UsageError(
            f"unknown argument {', '.join(unknown)} for adapter {adapter.name!r}{hint}; it takes: "
            f"{', '.join(named) or 'none'}; switches: {', '.join(switches) or 'none'}"
        )
    for name in set(given) & set(switches):
        switches[name].check(given[name])
