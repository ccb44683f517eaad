"""An OpenAI-compatible server for tests, in a thread: it answers, and fails as servers do."""

from __future__ import annotations

import json
import random
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = Callable[[dict[str, Any]], dict[str, Any]]


def question(body: dict[str, Any]) -> str:
    """The last text of a request."""
    content = body["messages"][-1]["content"]
    return content if isinstance(content, str) else str(content[-1].get("text"))


def completion(text: str, **more: Any) -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}}
    return {
        "id": "x",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [{**choice, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 10, "completion_tokens": 2},
        **more,
    }


class ChatServer:
    """bodies: what was asked. faults: of each call, by its number, what goes wrong ("429", "400",
    "reset", "hang", "cut", "html", ...), or None. models: the entries of /v1/models.
    """

    def __init__(
        self,
        answer: Answer | None = None,
        fault: Callable[[int, dict[str, Any]], str | None] = lambda number, body: None,
        seconds: float = 0.0,
    ) -> None:
        self.answer = answer or (lambda body: completion(f"re: {question(body)}"))
        self.fault, self.seconds = fault, seconds
        self.bodies: list[dict[str, Any]] = []
        self.keys: set[str] = set()
        self.models: list[dict[str, Any]] = [{"id": "m", "object": "model", "owned_by": "test"}]
        self.failed: Counter[str] = Counter()
        self.lock, self.at_once, self.most_at_once = threading.Lock(), 0, 0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self.reply(200, {"object": "list", "data": outer.models})

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with outer.lock:
                    outer.keys.add(self.headers.get("Authorization", ""))
                    outer.bodies.append(body)
                    number = len(outer.bodies) - 1
                    outer.at_once += 1
                    outer.most_at_once = max(outer.most_at_once, outer.at_once)
                    fault = outer.fault(number, body)
                    outer.failed[str(fault)] += 1
                try:
                    time.sleep(outer.seconds)
                    self.fail(fault, body) if fault else self.reply(200, outer.answer(body))
                finally:
                    with outer.lock:
                        outer.at_once -= 1

            def fail(self, fault: str, body: dict[str, Any]) -> None:
                if fault == "reset":
                    linger = struct.pack("ii", 1, 0)
                    self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                    self.connection.close()
                    self.close_connection = True
                elif fault == "hang":
                    time.sleep(2.5)
                    self.close_connection = True
                elif fault == "cut":
                    self.reply(200, outer.answer(body), cut=True)
                elif fault == "html":
                    self.reply(200, None)
                elif fault == "plain":
                    self.reply(200, outer.answer(body), {"Content-Type": "text/plain"})
                elif fault == "deep":
                    self.reply(200, None, data=b"[" * 100_000)
                elif fault == "redirect":
                    self.reply(301, {}, {"Location": "https://elsewhere/v1/chat/completions"})
                elif fault == "chunks":  # the last one is missing
                    self.send_response(200)
                    self.send_header("Transfer-Encoding", "chunked")
                    self.end_headers()
                    self.wfile.write(b'7\r\n{"id": \r\n')
                    self.close_connection = True
                else:
                    status = int(fault.split()[0])
                    message = f"no, {fault}: the key is {self.headers.get('Authorization')}"
                    error = {"error": {"message": message, "code": " ".join(fault.split()[1:])}}
                    self.reply(status, error, {"Retry-After": "0.02"} if status == 429 else {})

            def reply(
                self,
                status: int,
                value: Any,
                headers: Any = (),
                cut: bool = False,
                data: bytes = b"<html>hello",
            ) -> None:
                data = json.dumps(value).encode() if value is not None else data
                data = data[: len(data) // 2] if cut else data
                self.send_response(status)
                kind = "application/json" if value is not None else "text/html"
                for name, text in {"Content-Type": kind, **dict(headers)}.items():
                    self.send_header(name, text)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: Any) -> None:
                pass

        class Quiet(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

            def handle_error(self, *_: Any) -> None:
                pass  # a client that went away

        self.httpd = Quiet(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.httpd.server_port}/v1"

    def asked(self) -> Counter[str]:
        """How often each question was asked."""
        return Counter(map(question, self.bodies))


@contextmanager
def serving(*args: Any, **kwargs: Any) -> Iterator[ChatServer]:
    server = ChatServer(*args, **kwargs)
    threading.Thread(target=server.httpd.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield server
    finally:
        server.httpd.shutdown()
        server.httpd.server_close()


def some(share: float, faults: str, seed: int = 0) -> Callable[[int, dict[str, Any]], str | None]:
    """A fault, one of those named, of so large a share of the calls."""
    rng = random.Random(seed)
    kinds = faults.split(",")

    def fault(number: int, body: dict[str, Any]) -> str | None:
        return rng.choice(kinds) if rng.random() < share else None

    return fault
