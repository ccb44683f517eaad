"""A model behind an OpenAI-compatible server (vLLM, SGLang, a hosted one): text and images.

Run it: ``evalkit run --tasks docvqa --adapter examples/adapter.py --model MODEL
--model-args url=http://localhost:8000/v1``. A key is read from ``OPENAI_API_KEY``.
"""

import base64
import json
import os
import time
import urllib.error
import urllib.request
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from evalkit.adapter import ModelAdapter
from evalkit.types import Completion, Image, Request, Text, TokenCounts


class ChatServer(ModelAdapter):
    """``concurrency`` requests at a time; each is tried again, ``retries`` times, if refused."""

    name = "chat_server"
    box_space = "norm1000"  # how the model writes boxes: here as Qwen2-VL does

    def __init__(
        self,
        model: str,
        *,
        url: str = "http://localhost:8000/v1",
        concurrency: int = 8,
        retries: int = 3,
    ) -> None:
        self.model, self.url = model, url
        self.concurrency, self.retries = concurrency, retries

    @property
    def fingerprint(self) -> Mapping[str, Any]:
        return {"adapter": self.name, "model": self.model}  # concurrency changes no answer

    def generate(self, requests: Iterable[Request]) -> Iterator[Completion]:
        waiting: deque[Future[Completion]] = deque()
        with ThreadPoolExecutor(self.concurrency) as pool:
            for request in requests:
                waiting.append(pool.submit(self.answer, request))
                if len(waiting) >= 2 * self.concurrency:  # reads ahead by a bounded number
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()

    def answer(self, request: Request) -> Completion:
        """One completion; what goes wrong with one request is that request's error."""
        begin = time.perf_counter()
        try:
            reply = self.send(
                {
                    "model": self.model,
                    "messages": [
                        {"role": m.role, "content": [content(p) for p in m.content]}
                        for m in request.messages
                    ],
                    "max_tokens": request.max_new_tokens,
                    "temperature": 0,
                }
            )
            choice, usage = reply["choices"][0], reply.get("usage", {})
            return Completion(
                request.id,
                choice["message"]["content"],
                "length" if choice.get("finish_reason") == "length" else "stop",
                TokenCounts(usage.get("prompt_tokens", 0), 0, usage.get("completion_tokens", 0)),
                time.perf_counter() - begin,
                box_space=self.box_space,
            )
        except (OSError, KeyError, TypeError, ValueError) as e:
            return Completion(
                request.id, finish_reason="error", error=f"{self.url}: {type(e).__name__}: {e}"
            )

    def send(self, body: Mapping[str, Any], attempt: int = 0) -> Any:
        """The reply to ``body``. Raises OSError once the retries are used up."""
        headers = {"Content-Type": "application/json"}
        if key := os.environ.get("OPENAI_API_KEY"):
            headers["Authorization"] = f"Bearer {key}"
        call = urllib.request.Request(
            f"{self.url}/chat/completions", json.dumps(body).encode(), headers
        )
        try:
            with urllib.request.urlopen(call, timeout=300) as reply:
                return json.load(reply)
        except urllib.error.HTTPError as e:
            if attempt == self.retries or e.code not in (408, 429, 500, 502, 503, 504):
                said = e.read(500).decode(errors="replace").strip()
                raise OSError(f"{self.url}: HTTP {e.code} {e.reason}: {said}") from e
        time.sleep(2**attempt)  # the server is busy: 1, 2, 4 seconds
        return self.send(body, attempt + 1)


def content(part: Any) -> Mapping[str, Any]:
    """A part of a message in the server's format. Raises ValueError for what has no place there."""
    if isinstance(part, Text):
        return {"type": "text", "text": part.text}
    if isinstance(part, Image):
        data = part.read()
        kind = "png" if data.startswith(b"\x89PNG") else "jpeg"
        url = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
        return {"type": "image_url", "image_url": {"url": url}}
    raise ValueError(f"{type(part).__name__.lower()} can't be sent by this adapter")
