"""The connection of the ``openai`` adapter: the official client in a thread of its own, what a
server is, and what its replies and refusals mean.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import threading
from collections.abc import Coroutine, Mapping
from typing import Any, TypeVar

from evalkit.errors import EvalkitError, UsageError, reason
from evalkit.pace import Again, retry_after
from evalkit.safe_text import without_keys
from evalkit.types import TokenCounts, thought_apart

T = TypeVar("T")
NOT_REPEATED = "insufficient_quota"
"""The code of a 429 that no waiting mends."""
NOT_MENDED = (400, 403, 404, 413, 422)
"""Codes of errors that no repetition mends."""
BROKEN_OFF = frozenset(
    "abort aborted cancelled error timeout network_error insufficient_system_resource".split()
)
"""Reasons of answers that ended (SGLang, vLLM, OpenRouter, DeepSeek, Zhipu) which are not the
model's."""
WITHHELD = frozenset("content_filter safety recitation prohibited_content sensitive".split())
"""Reasons of answers that a filter ended (Gemini's in capitals, Zhipu's last)."""
FULL = frozenset("length max_tokens model_length model_context_window_exceeded".split())
"""Reasons of answers that were as long as they may be (Mistral's and Zhipu's last)."""
SETTINGS = "max_tokens", "temperature", "seed"
"""Fields of every request that some models don't take."""
SENT_OTHERWISE = " (extra=FILE.json changes the fields that are sent, or takes them out)"
UNSTABLE = {"created", "permission"}
"""Keys of an entry in /v1/models that differ from one look to the next (vLLM's are of the moment
and random).
"""


class Connection:
    """A connection to a server. ``timeout``: seconds for one request; ``lost`` counts the
    connections that broke.
    """

    def __init__(self, url: str, key_env: str, timeout: float) -> None:
        self.url, self.key_env, self.timeout = url, key_env, timeout
        self.shown = without_keys(url)
        self.lost = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._client: Any = None

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop, which another thread runs."""
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            threading.Thread(target=self._loop.run_forever, name="openai", daemon=True).start()
        return self._loop

    @property
    def client(self) -> Any:
        """The official client. Raises UsageError where it is not installed."""
        if self._client is None:
            try:
                import openai
            except ImportError:
                raise UsageError(
                    "the openai adapter needs the official client: pip install 'evalkit[openai]'"
                ) from None
            self._client = openai.AsyncOpenAI(
                base_url=self.url,
                api_key=os.environ.get(self.key_env) or "none",
                timeout=self.timeout,
                max_retries=0,  # repeated by evalkit, where it is counted and paced
            )
        return self._client

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of a coroutine, which runs in the loop."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result()

    def close(self) -> None:
        """Ends the connection; the next use opens it again."""
        if self._loop is None:
            return
        if self._client is not None:
            asyncio.run_coroutine_threadsafe(self._client.close(), self._loop).result(timeout=5)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._loop = self._client = None

    async def identity(self, model: str) -> dict[str, Any]:
        """What the server says of a model: its entry in ``/v1/models``, without what differs from
        one look to the next, and the server's version. Raises EvalkitError when no server answers,
        UsageError when it has no such model.
        """
        client = self.client.with_options(max_retries=3, timeout=30.0)  # says what to install
        import openai

        try:
            listed = (await client.get("/models", cast_to=object)) or {}
        except openai.NotFoundError:
            listed = {}  # a server that lists nothing
        except openai.AuthenticationError as e:
            key = f"the key in {self.key_env}" if self.key_env in os.environ else "no key"
            raise EvalkitError(f"{self.shown}: refuses {key}: {_said(e)}") from None
        except openai.OpenAIError as e:
            raise EvalkitError(
                f"{self.shown}: no server answers ({_said(e)}); start one (evalkit serve, vllm "
                "serve), or give its address with url=..."
            ) from None
        except ValueError as e:
            raise EvalkitError(
                f"{self.shown}: /models gives no JSON ({e}); is it .../v1?"
            ) from None
        entries = listed.get("data") if isinstance(listed, dict) else None
        known = {str(e.get("id")): e for e in entries or () if isinstance(e, dict)}
        entry = known.get(model) or known.get(f"models/{model}")
        if known and entry is None:
            there = ", ".join(sorted(known)[:20])
            raise UsageError(f"{self.shown} has no model {model!r}; it has: {there}")
        own = {k: v for k, v in (entry or {"id": model}).items() if k not in UNSTABLE}
        if own.get("owned_by") in ("vllm", "sglang"):
            own["version"] = await self._version()
        return own

    async def _version(self) -> str:
        import openai

        root = self.url.rsplit("/v", 1)[0]
        try:
            told: Any = await self.client.get(f"{root}/version", cast_to=object)
            return str(told["version"])
        except (openai.OpenAIError, ValueError, KeyError, TypeError):
            return ""

    async def reply(self, body: Mapping[str, Any]) -> dict[str, Any] | str:
        """The server's reply, or why it refuses. Raises Again for what another try may mend."""
        import openai

        try:
            reply = await asyncio.wait_for(
                self.client.post(
                    "/chat/completions",
                    cast_to=object,
                    body=body,
                    # one that is followed asks another address, or with GET, for every sample
                    options={"follow_redirects": False},
                ),
                self.timeout,
            )
            if isinstance(reply, str):  # JSON under another content type
                reply = json.loads(reply)
        except (openai.APITimeoutError, TimeoutError):
            why = f"no answer within {self.timeout:g} seconds (request_timeout)"
            raise Again(why, crowded=True) from None
        except openai.APIConnectionError as e:
            self.lost += 1
            raise Again(f"{self.shown}: {_said(e)}") from None
        except openai.APIStatusError as e:
            return self._refusal(e)
        except (ValueError, RecursionError) as e:
            raise Again(f"a reply that is no whole JSON ({e})") from None
        if not isinstance(reply, dict):
            raise Again(f"a reply that is no JSON object: {reply!r:.100}")
        if error := reply.get("error"):
            return self._error_in(error)
        return reply

    def _error_in(self, error: Any) -> str:
        """As ``_refusal``, of an error that comes as an answer (HTTP 200)."""
        told = error if isinstance(error, dict) else {"message": error}
        said = f"an error for an answer: {_line(str(told.get('message') or error))}"
        if told.get("code") in NOT_MENDED:
            return said
        raise Again(said, crowded=told.get("code") == 429)

    def _refusal(self, e: Any) -> str:
        """Why a request is refused for good. Raises Again, or EvalkitError where every other one
        would be, too.
        """
        status = int(e.status_code)
        said = f"HTTP {status}: {_said(e)}"
        if 300 <= status < 400:
            to = without_keys(e.response.headers.get("location", "nowhere"))
            raise EvalkitError(f"{self.shown}: redirects to {to}; give the address itself: url=...")
        if (status == 429 and getattr(e, "code", None) == NOT_REPEATED) or status in (401, 402):
            raise EvalkitError(f"{self.shown}: {said}")
        if status in (408, 409, 425, 429) or status >= 500:
            asked = retry_after(e.response.headers)
            raise Again(said, asked, crowded=status in (408, 429, 503, 529))
        if status == 400 and "mm_processor_kwargs" in said:
            said += " (this server takes no pixel limits: pixels=resize)"
        elif status in (400, 422) and "context" not in said and any(s in said for s in SETTINGS):
            said += SENT_OTHERWISE  # but where the prompt leaves no room for max_tokens
        return said


def usage_of(reply: Mapping[str, Any]) -> TokenCounts:
    """The server's own counts; all of the prompt as text where it does not tell them apart."""
    usage = _mapping(reply.get("usage"))
    prompt = _count(usage.get("prompt_tokens"))
    details = _mapping(usage.get("prompt_tokens_details"))
    seen = min(_count(details.get("image_tokens")), prompt)
    return TokenCounts(prompt - seen, seen, _count(usage.get("completion_tokens")))


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _count(value: Any) -> int:
    """A number of tokens; 0 for what is none: it does not make an answer worth less."""
    try:
        return max(int(value or 0), 0)
    except (TypeError, ValueError, OverflowError):
        return 0


def end_of(choice: Mapping[str, Any]) -> str:
    """Why an answer ended, as the server says; in lower case."""
    return str(choice.get("finish_reason")).lower()


def text_of(choice: Mapping[str, Any]) -> tuple[str, str, str]:
    """An answer's text, the thought before it, and why there is no answer. A refusal is what the
    model says; what a filter withholds is no answer, nor is one without content beside a call or a
    thought. Raises Again for one that was broken off, TypeError for content that is no text.
    """
    message, ended = choice["message"], end_of(choice)
    if ended in WITHHELD:
        return "", "", f"the server withheld the answer (finish_reason {ended})"
    if ended in BROKEN_OFF or isinstance(choice.get("finish_reason"), dict):
        raise Again(f"the server broke the answer off (finish_reason {ended:.100})")
    text = message.get("content")
    if isinstance(text, list):
        texts = [part["text"] for part in text if part.get("type") in ("text", "output_text")]
        text = "".join(texts) if texts else None
    if not text and (message.get("tool_calls") or message.get("function_call")):
        return "", "", "the model called a tool instead of answering"
    text = text or message.get("refusal") or text
    thought = message.get("reasoning_content") or message.get("reasoning")
    whole = text
    if isinstance(text, str):
        own, text = thought_apart(text)
        thought = thought or own
    if text is None or (text == "" and (thought or whole)):
        advice = ": all tokens went into its reasoning?" if ended in FULL else ""
        return "", "", f"a reply without content (finish_reason {ended}){advice}"
    if not isinstance(text, str):
        raise TypeError(f"content is {text!r:.80}")
    return _whole(text), _whole(thought) if isinstance(thought, str) else "", ""


def _whole(text: str) -> str:
    """Half a surrogate pair is no text, and can't be written."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def logprobs_of(entries: Any, own: int) -> list[float]:
    """The natural log-probabilities of a prompt's tokens after the first ``own``, as vLLM gives
    them: a mapping for each token, its own entry first. Empty where the server gives none. Raises
    Again for a token that has none, or none that is a number.
    """
    if not isinstance(entries, list):
        return []
    try:
        found = [float(next(iter(entry.values()))["logprob"]) for entry in entries[own:]]
    except (AttributeError, StopIteration, TypeError, KeyError, ValueError, OverflowError) as e:
        raise Again(f"prompt_logprobs without one of each token ({type(e).__name__})") from None
    if not all(map(math.isfinite, found)):
        raise Again("prompt_logprobs with one that is no finite number")
    return found


def _said(e: Exception) -> str:
    """What a server or a connection said, in a line."""
    body = getattr(e, "body", None)
    inner = body.get("error", body) if isinstance(body, dict) else body
    text = inner.get("message") if isinstance(inner, dict) else inner
    cause = e.__cause__
    told = text if isinstance(text, str) and text else str(cause or e) or type(cause or e).__name__
    return _line(told)


def _line(text: str) -> str:
    return reason(EvalkitError(" ".join(text.split())[:500]))
