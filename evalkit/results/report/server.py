"""``evalkit view``: the page, served on this machine to this machine.

The server listens on the loopback address alone. A request counts only with a Host that names it
(else another site could reach it under a name of its own), and changes something only with an
Origin that is its own. It serves the page, its documents, and media of samples by their places:
no path of a request ever becomes a path of a file.
"""

from __future__ import annotations

import json
import logging
import re
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

from evalkit.errors import EvalkitError, UsageError, reason
from evalkit.results.report.live import Live, clip, media_document, picture
from evalkit.results.report.notes import add_note
from evalkit.results.report.page import packed, render
from evalkit.safe_text import mask

LOG = logging.getLogger("evalkit")
HOST = "127.0.0.1"
NAMES = (HOST, "localhost")
MOST_BODY = 20_000
"""Bytes of a note as it is sent."""
DOCUMENT = re.compile(r"/documents/([a-z0-9-]{1,60})\.json")
MEDIA = re.compile(r"/media/(p\d{1,9})/(\d{1,9})\.json")
PICTURE = re.compile(r"/pictures/(p\d{1,9})/(\d{1,9})/(\d{1,3})\.webp")
THUMBNAIL = re.compile(r"/thumbnails/(p\d{1,9})/(\d{1,9})\.webp")
CLIP = re.compile(r"/clips/(p\d{1,9})/(\d{1,9})/(\d{1,3})")
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": "frame-ancestors 'self' http://localhost:* http://127.0.0.1:*",
    "Cache-Control": "no-store",
}


class Server(ThreadingHTTPServer):
    """Serves one output folder. ``port`` 0 takes a free one. Raises UsageError when the port is
    taken.
    """

    daemon_threads = True

    def __init__(self, live: Live, port: int = 0) -> None:
        self.live, self.warm = live, False
        try:
            super().__init__((HOST, port), Handler)
        except OSError as e:
            raise UsageError(f"port {port} can't be used ({e.strerror}); try --port 0") from e

    @property
    def address(self) -> str:
        return f"http://{HOST}:{self.server_port}/"

    def start(self) -> Server:
        """Serves in a thread, until the process ends or ``shutdown`` is called."""
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def warm_up(self) -> None:
        """Once, after the first document went out."""
        if not self.warm:
            self.warm = True
            threading.Thread(target=self.live.warm, daemon=True).start()

    def _repr_html_(self) -> str:
        """The page inside a notebook."""
        return f'<iframe src="{self.address}" width="100%" height="700" title="evalkit"></iframe>'

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that went away is no news."""


class Handler(BaseHTTPRequestHandler):
    """One request."""

    server: Server
    protocol_version = "HTTP/1.1"
    timeout = 60

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        if not self._trusted(changes=False):
            return
        try:
            self._get(path)
        except (KeyError, IndexError):
            self._fail(HTTPStatus.NOT_FOUND, "there is no such thing here")
        except Exception as e:  # whatever results and data of others make of it, the page says why
            self._fail(HTTPStatus.INTERNAL_SERVER_ERROR, reason(e))

    def _get(self, path: str) -> None:
        live = self.server.live
        if path in ("/", "/index.html"):
            return self._send(render({}, live=True).encode(), "text/html; charset=utf-8")
        if m := DOCUMENT.fullmatch(path):
            self._json(live.document(m[1]))
            return self.server.warm_up()
        if m := MEDIA.fullmatch(path):
            return self._json(media_document(live.sample(m[1], int(m[2])), f"{m[1]}/{m[2]}"))
        if m := PICTURE.fullmatch(path):
            return self._send(picture(live.sample(m[1], int(m[2])), int(m[3])), "image/webp")
        if m := THUMBNAIL.fullmatch(path):
            return self._send(picture(live.sample(m[1], int(m[2])), 0, small=True), "image/webp")
        if m := CLIP.fullmatch(path):
            return self._send_range(clip(live.sample(m[1], int(m[2])), int(m[3])))
        raise KeyError(path)

    def do_POST(self) -> None:
        if not self._trusted(changes=True):
            return None
        if urlsplit(self.path).path != "/notes":
            return self._fail(HTTPStatus.NOT_FOUND, "there is no such thing here")
        if self.headers.get_content_type() != "application/json":
            return self._fail(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "a note is sent as JSON")
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > MOST_BODY:
            self.close_connection = True
            return self._fail(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"a note has at most {MOST_BODY} bytes"
            )
        try:
            value = json.loads(self.rfile.read(int(length)))
            if not isinstance(value, dict):
                raise UsageError("a note is a JSON object")
            add_note(self.server.live.output, value)
        except (ValueError, RecursionError, UsageError) as e:
            return self._fail(HTTPStatus.BAD_REQUEST, reason(e))
        except EvalkitError as e:
            return self._fail(HTTPStatus.INTERNAL_SERVER_ERROR, reason(e))
        return self._json({})

    def _trusted(self, changes: bool) -> bool:
        """Refuses what another site's page sent here, and says so."""
        own = {f"{name}:{self.server.server_port}" for name in NAMES}
        origin = self.headers.get("Origin")
        fits = origin is None and not changes
        if origin is not None:
            fits = origin in {f"http://{host}" for host in own}
        if self.headers.get("Host") in own and fits:
            return True
        self.close_connection = True
        self._fail(HTTPStatus.FORBIDDEN, "this page answers to its own address only")
        return False

    def _json(self, value: dict[str, Any]) -> None:
        self._send(packed(value).encode("utf-8", "replace"), "application/json; charset=utf-8")

    def _fail(self, status: HTTPStatus, why: str) -> None:
        body = packed({"error": mask(why)}).encode("utf-8", "replace")
        self._send(body, "application/json; charset=utf-8", status)

    def _send(self, body: bytes, kind: str, status: int = HTTPStatus.OK, **headers: str) -> None:
        self.send_response(status)
        more = {k.replace("_", "-"): v for k, v in headers.items()}
        about = {"Content-Type": kind, "Content-Length": str(len(body))}
        for name, value in {**HEADERS, **about, **more}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def _send_range(self, body: bytes) -> None:
        """A clip, or the part of it that a player asks for."""
        m = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if m is None or int(m[1]) >= len(body):
            return self._send(body, "video/mp4", Accept_Ranges="bytes")
        start, stop = int(m[1]), min(int(m[2] or len(body) - 1) + 1, len(body))
        return self._send(
            body[start:stop],
            "video/mp4",
            HTTPStatus.PARTIAL_CONTENT,
            Content_Range=f"bytes {start}-{stop - 1}/{len(body)}",
            Accept_Ranges="bytes",
        )

    def log_message(self, format: str, *args: Any) -> None:
        LOG.debug(format, *args)
