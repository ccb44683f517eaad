"""The routes: chat completions, models, health, metrics, and a page to try a picture."""

from __future__ import annotations

import asyncio
import hmac
import re
import socket
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

import uvicorn
from fastapi import Depends, FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from evalkit.adapter import ModelAdapter, digest, recordable
from evalkit.errors import EvalkitError, reason
from evalkit.serve import protocol
from evalkit.serve.backend import Backend, Job
from evalkit.serve.protocol import ApiError
from evalkit.types import Completion, Message, Text
from evalkit.types import Request as Question

PAGE = {"/": "page.html", "/page.js": "page.js", "/page.css": "page.css"}
KINDS = {"html": "text/html", "js": "text/javascript", "css": "text/css"}
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src blob:; media-src blob:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
RAW_HEADERS = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
OF_THE_SERVER = re.compile(
    r"[A-Z]\w*(Error|Exception|Exit|Interrupt)\b|the model computed|the adapter"
)
"""How an adapter's error begins that is not the request's fault (``evalkit.errors.reason``)."""


@dataclass(frozen=True)
class Settings:
    """model: what the served model is called. key: without it, requests need none. most_waiting:
    requests that are not begun; more are turned away. body_bytes: of a request.
    """

    model: str
    key: str = ""
    most_waiting: int = 256
    body_bytes: int = 64 << 20
    limits: protocol.Limits = field(default_factory=protocol.Limits)


def make_app(adapter: ModelAdapter, settings: Settings) -> FastAPI:
    """The application over an adapter, whose threads live as long as it."""
    backend = Backend(adapter)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        backend.start()
        yield
        await asyncio.to_thread(backend.close)

    # No pages of FastAPI's own: they load scripts from elsewhere.
    app = FastAPI(lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    service = _Service(adapter, backend, settings)
    guarded = [Depends(service.check_key)]
    app.add_api_route(
        "/v1/chat/completions", service.chat, methods=["POST"], dependencies=guarded,
        response_model=None,
    )  # fmt: skip
    app.add_api_route("/v1/models", service.models, dependencies=guarded)
    app.add_api_route("/v1/models/{name:path}", service.one_model, dependencies=guarded)
    app.add_api_route("/metrics", service.metrics, dependencies=guarded)
    app.add_api_route("/health", service.health)
    for path, name in PAGE.items():
        app.add_api_route(path, _page(name), include_in_schema=False)
    app.add_exception_handler(ApiError, _refused)
    app.add_exception_handler(HTTPException, _not_found)
    app.add_exception_handler(Exception, _broken)

    app.add_middleware(_Counted, statuses=service.statuses)
    return app


class _Counted:
    """Counts replies by their status, and adds the headers that each has. Without Starlette's class
    for such, which takes as long as reading a request.
    """

    def __init__(self, app: ASGIApp, statuses: Counter[int]) -> None:
        self.app, self.statuses = app, statuses

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def sent(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *RAW_HEADERS]
                if scope["path"].startswith("/v1/"):
                    self.statuses[message["status"]] += 1
            await send(message)

        await self.app(scope, receive, sent)


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return JSONResponse(error.body, error.status, error.headers)


async def _not_found(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    what = f"{request.method} {request.url.path}: {error.detail}"
    return await _refused(request, ApiError(error.status_code, what))


async def _broken(request: Request, error: Exception) -> Response:
    return await _refused(request, ApiError(500, reason(error), "server_error"))


def _page(name: str) -> Callable[[], Response]:
    content = files("evalkit.serve").joinpath(name).read_bytes()
    kind = KINDS[name.rpartition(".")[2]]

    def page() -> Response:
        return Response(content, media_type=kind)

    return page


class _Service:
    """What the routes share."""

    def __init__(self, adapter: ModelAdapter, backend: Backend, settings: Settings) -> None:
        self.backend, self.settings = backend, settings
        self.statuses: Counter[int] = Counter()
        self.entry = {
            "id": settings.model,
            "object": "model",
            "created": int(time.time()),
            "owned_by": "evalkit",
            "adapter": adapter.name,
            "fingerprint": digest(recordable(adapter, adapter.fingerprint)),
            "box_space": adapter.box_space,
        }

    async def check_key(self, request: Request) -> None:
        """Raises ApiError for a request without the key, where there is one."""
        given = request.headers.get("authorization", "").removeprefix("Bearer ").encode()
        if self.settings.key and not hmac.compare_digest(given, self.settings.key.encode()):
            raise ApiError(401, "a wrong API key, or none", code="invalid_api_key")

    def models(self) -> dict[str, Any]:
        return {"object": "list", "data": [self.entry]}

    def one_model(self, name: str) -> dict[str, Any]:
        if name != self.settings.model:
            raise ApiError(404, f"no model {name!r:.200}", code="model_not_found", param="model")
        return self.entry

    def health(self) -> dict[str, str]:
        if not self.backend.works:
            raise ApiError(503, "a thread that answers has ended", "server_error")
        return {"status": "ok"}

    async def chat(self, request: Request) -> Response:
        body = await self._body(request)
        asked = await asyncio.to_thread(
            protocol.read, body, self.settings.model, self.settings.limits
        )
        if asked.request.temperature and not self.backend.adapter.can_sample:
            raise ApiError(400, "temperature: this adapter is greedy", param="temperature")
        if self.backend.waiting >= self.settings.most_waiting:
            raise ApiError(
                429, f"{self.backend.waiting} requests wait already", "rate_limit_error",
                code="queue_full", headers={"Retry-After": "1"},
            )  # fmt: skip
        job = Job(asked.request, asked.media, asked.stop)
        if asked.stream:
            stream = self._streamed(job, asked.include_usage)
            # what is refused at once has its status; what fails later is an event
            return StreamingResponse(stream, media_type="text/event-stream")
        self.backend.ask(job)
        watcher = asyncio.create_task(_gone(request, job))
        try:
            completion = await job.done
        finally:
            watcher.cancel()
        if error := _error(completion):
            raise error
        if asked.request.choices:
            return JSONResponse(protocol.ranked(completion, self.settings.model))
        text = job.until_stop(completion.text)
        return JSONResponse(protocol.reply(completion, self.settings.model, text))

    async def _body(self, request: Request) -> bytes:
        most, parts, size = self.settings.body_bytes, [], 0
        async for part in request.stream():
            size += len(part)
            if size > most:
                raise ApiError(413, f"a body of more than {most:,} bytes", code="body_too_large")
            parts.append(part)
        return b"".join(parts)

    async def _streamed(self, job: Job, include_usage: bool) -> AsyncIterator[bytes]:
        """The answer in pieces, each as soon as it stands: a text that may yet change (half a
        letter, the beginning of a stop word) is held back.
        """
        heard: asyncio.Queue[str | None] = asyncio.Queue()
        job.heard = heard.put_nowait
        job.done.add_done_callback(lambda _: heard.put_nowait(None))
        id, model = job.request.id, self.settings.model
        self.backend.ask(job)
        sent = ""
        try:
            yield protocol.chunk(id, model, {"role": "assistant", "content": ""})
            while (text := await heard.get()) is not None:
                stands = _standing(text, job.stop)
                if len(stands) > len(sent):
                    yield protocol.chunk(id, model, {"content": stands[len(sent) :]})
                    sent = stands
            completion = job.done.result()
            if error := _error(completion):
                yield protocol.error_event(error)
                return
            if rest := job.until_stop(completion.text)[len(sent) :]:
                yield protocol.chunk(id, model, {"content": rest})
            yield protocol.chunk(id, model, {}, completion.finish_reason)
            if include_usage:
                yield protocol.usage_chunk(completion, model)
            yield protocol.DONE
        finally:
            job.gone = True

    def metrics(self) -> Response:
        """In the text format of Prometheus."""
        counts, backend = self.backend.counts, self.backend
        lines = [f'evalkit_http_responses_total{{status="{s}"}} {n}' for s, n in
                 sorted(self.statuses.items())]  # fmt: skip
        values: dict[str, float] = {
            "requests_answered_total": counts.answered,
            "requests_failed_total": counts.failed,
            "requests_waiting": backend.waiting,
            "requests_running": len(backend.under_way),
            "text_tokens_total": counts.text_tokens,
            "vision_tokens_total": counts.vision_tokens,
            "generated_tokens_total": counts.generated_tokens,
            "request_seconds_sum": counts.seconds,
            "request_seconds_count": counts.answered + counts.failed,
            "first_token_seconds_sum": counts.first_token_seconds,
            "first_token_seconds_count": counts.first_tokens,
        }
        lines += [f"evalkit_{name} {value:g}" for name, value in values.items()]
        return Response("\n".join(lines) + "\n", media_type="text/plain; version=0.0.4")


async def _gone(request: Request, job: Job) -> None:
    """Notices that whoever asked has hung up."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
    job.gone = True


def _error(completion: Completion) -> ApiError | None:
    if (why := completion.error) is None:
        return None
    if why.startswith("out of memory"):
        return ApiError(503, why, "server_error")
    if OF_THE_SERVER.match(why):
        return ApiError(500, why, "server_error")
    return ApiError(400, why, param="messages")


def _standing(text: str, stop: tuple[str, ...]) -> str:
    """The part of a growing text that no further token changes."""
    text = text.rstrip("\ufffd")
    held = max(
        (n for word in stop for n in range(1, len(word)) if text.endswith(word[:n])), default=0
    )
    return text[: len(text) - held]


def warm(adapter: ModelAdapter) -> None:
    """Has an adapter load its model. Raises EvalkitError when it can't answer a word."""
    message = Message("user", (Text("Hello"),))
    for completion in adapter.generate([Question("warm", (message,), 1)]):
        if completion.error:
            raise EvalkitError(completion.error)


@contextmanager
def running(app: FastAPI, host: str = "127.0.0.1", port: int = 0) -> Iterator[str]:
    """Serves an application from a thread; gives its address (``http://127.0.0.1:41234``). Raises
    EvalkitError where it can't be served.
    """
    server, listening = _server(app), _listening(host, port)
    thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
    thread.start()
    try:
        yield _address(listening)
    finally:
        server.should_exit = True
        thread.join(timeout=30)


def serve(app: FastAPI, host: str, port: int, started: Callable[[str], None]) -> None:
    """Serves an application until it is interrupted; ``started`` is told its address. Raises
    EvalkitError where it can't be served.
    """
    listening = _listening(host, port)
    started(_address(listening))
    _server(app).run([listening])


def _server(app: FastAPI) -> Any:
    return uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False))


def _listening(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=1024)
    except OSError as e:
        raise EvalkitError(f"{host}:{port}: can't be served on ({e.strerror})") from e


def _address(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"
