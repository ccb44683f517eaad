"""The examples run; what documents run of them themselves is not repeated here."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from evalkit.adapter import adapter_class
from evalkit.types import Completion, Image, Message, Request, Text, Video

EXAMPLES = Path(__file__).parents[1] / "examples"


class Server(BaseHTTPRequestHandler):
    """Answers with the number of parts it was sent; refuses its first call."""

    bodies: list[dict[str, Any]]

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.bodies.append(body)
        first = len(self.bodies) == 1
        text = str(len(body["messages"][0]["content"]))
        reply = {"choices": [{"message": {"content": text}, "finish_reason": "stop"}]}
        self.send_response(429 if first else 200)
        self.end_headers()
        self.wfile.write(b"" if first else json.dumps(reply).encode())

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    Server.bodies = []
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{httpd.server_port}"
    httpd.shutdown()
    httpd.server_close()


def answers(url: str, parts: list[tuple[Any, ...]], **more: Any) -> dict[str, Completion]:
    adapter = adapter_class(str(EXAMPLES / "adapter.py"))("m", url=url, **more)
    requests = [Request(str(i), (Message("user", p),)) for i, p in enumerate(parts)]
    return {c.id: c for c in adapter.generate(requests)}


def test_the_server_adapter_sends_text_and_images_and_tries_again(
    server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)
    page = Image(EXAMPLES / "page.png")
    done = answers(server, [(page, Text("a")), (Text("b"),)] * 20, concurrency=2)
    assert [done[str(i)].text for i in range(40)] == ["2", "1"] * 20
    parts = next(b for b in Server.bodies if len(b["messages"][0]["content"]) == 2)
    url = parts["messages"][0]["content"][0]["image_url"]["url"]
    assert url.startswith("data:image/png;base64,iVBOR")


def test_the_server_adapter_gives_an_error_for_the_one_request_that_fails(server: str) -> None:
    Server.bodies.append({})
    done = answers(server, [(Text("a"),), (Video(b""),), (Text("b"),)])
    assert done["1"].error and "video can't be sent" in done["1"].error
    assert (done["0"].text, done["2"].text) == ("1", "1")


def test_a_server_that_is_not_there_is_an_error_of_each_request() -> None:
    (only,) = answers("http://127.0.0.1:9", [(Text("a"),)]).values()
    assert only.error and only.error.startswith("http://127.0.0.1:9: ")


def test_the_cells_of_the_notebook_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notebook = json.loads((EXAMPLES / "notebook.ipynb").read_text(encoding="utf-8"))
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    code = [c for c in notebook["cells"] if c["cell_type"] == "code"]
    for cell in code:
        exec("".join(cell["source"]), names)
    assert all(not c["outputs"] for c in code)  # outputs are not committed
    assert len(code) >= 4
