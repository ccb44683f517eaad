"""A checkpoint's chat template, rendered within bounds.

A template is a program by whoever made the checkpoint. Jinja's sandbox keeps it from files and from
Python, but it may loop without end, and a text that doubles 40 times fills any memory. One that is
not known is therefore rendered by a process of its own (this module, run as a program), which is
ended when it takes too long and which the system refuses more memory than the bound.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import subprocess
import sys
import weakref
from collections.abc import Mapping
from functools import cached_property
from threading import Event, Lock, Timer
from typing import Any

from evalkit.bounds import PREFIX, bounds, over
from evalkit.errors import CheckpointError, DataError

START = 60.0
"""Seconds that Python may take to start, beside those for the template."""


class Template:
    """One template. ``known`` says that it is one of our own, which needs no process."""

    def __init__(self, text: str, known: bool = False) -> None:
        self.text, self.known = text, known
        self._process: subprocess.Popen[str] | None = None
        self._lock = Lock()

    @cached_property
    def _compiled(self) -> Any:
        return compiled(self.text)

    def render(self, variables: Mapping[str, Any]) -> str:
        """The text for variables that JSON can hold. Raises DataError when the template refuses
        them, or writes more than a prompt may have; CheckpointError when it can't be rendered.
        """
        reply = outcome(self._compiled, variables) if self.known else self._ask(variables)
        if "refused" in reply:
            raise DataError(f"the chat template refuses these messages: {reply['refused']}")
        if "error" in reply:
            raise CheckpointError(
                f"the checkpoint's chat template can't be rendered: {reply['error']}"
            )
        if "long" in reply:
            raise DataError(
                f"the chat template makes a prompt of {reply['long']:,} characters: "
                f"{over('prompt_chars')}"
            )
        return str(reply["text"])

    def _ask(self, variables: Mapping[str, Any]) -> Mapping[str, Any]:
        """``outcome`` in the process of this template, which is begun where there is none."""
        with self._lock:
            if self._process is None or self._process.poll() is not None:
                self._process = _started()
                weakref.finalize(self, self._process.kill)
                _exchange(self._process, self.text, bounds().template_seconds + START)
            return _exchange(self._process, variables, bounds().template_seconds)


def _exchange(process: subprocess.Popen[str], value: Any, seconds: float) -> Mapping[str, Any]:
    """The process's reply to a value. Raises CheckpointError when it takes longer or ends."""
    late = Event()

    def end() -> None:
        late.set()
        process.kill()

    assert process.stdin and process.stdout
    timer = Timer(seconds, end)
    timer.daemon = True
    timer.start()
    line = ""
    try:
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(json.dumps(value) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
    finally:
        timer.cancel()
    if line.endswith("\n"):
        reply: Mapping[str, Any] = json.loads(line)
        return reply
    process.kill()
    process.wait()
    bound = "template_seconds" if late.is_set() else "template_bytes"
    raise CheckpointError(f"the checkpoint's chat template was stopped: {over(bound)}")


def compiled(text: str) -> Any:
    """A template as jinja runs it. Raises what jinja raises."""
    from jinja2 import nodes
    from jinja2.ext import Extension
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """As in transformers: a block that marks what an assistant says, for training."""

        tags = {"generation"}  # noqa: RUF012 - as in the base class

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.Scope(body, lineno=line)

    env = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", Generation]
    )
    env.globals["raise_exception"] = _refuse
    env.filters["tojson"] = _json
    # A prompt is the same each time.
    del env.filters["random"], env.globals["lipsum"]
    return env.from_string(text)


def _json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """As in transformers: without the HTML escapes of jinja's own."""
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def outcome(template: Any, variables: Mapping[str, Any]) -> dict[str, Any]:
    """What a template makes of variables: ``text``, or why there is none: ``refused`` by it,
    ``error``, or so many characters that it is too ``long``.
    """
    try:
        text = str(template.render(**variables))
    except _Refused as e:
        return {"refused": str(e)[:1000]}
    except MemoryError:
        return {"error": over("template_bytes")}
    except Exception as e:
        return {"error": str(e)[:1000] or type(e).__name__}
    return {"text": text} if len(text) <= bounds().prompt_chars else {"long": len(text)}


class _Refused(Exception):
    """What ``raise_exception`` in a template raises."""


def _refuse(message: object) -> None:
    raise _Refused(message)


def _started() -> subprocess.Popen[str]:
    return subprocess.Popen(
        # -P: what lies in the present folder is not imported
        [sys.executable, "-P", "-m", "evalkit.models.template"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        encoding="utf-8",
        env=_environment(),
        start_new_session=True,  # an interrupt from the keyboard is ours alone
    )


def _environment() -> dict[str, str]:
    """What the process needs of ours, and no more: a template is to see no secret."""
    names = ("PATH", "LD_LIBRARY_PATH", "SYSTEMROOT")
    kept = {k: v for k, v in os.environ.items() if k in names or k.startswith(PREFIX)}
    return kept | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}


def _serve() -> None:
    """A template in the first line, variables in each of the next; each gets a line of reply."""
    template, fault = None, ""
    for number, line in enumerate(sys.stdin):
        value = json.loads(line)
        reply: dict[str, Any] = {}
        if number:
            _limit_seconds()
            reply = {"error": fault} if fault else outcome(template, value)
        else:
            _limit_memory()
            try:
                template = compiled(value)
            except Exception as e:
                fault = str(e)[:1000] or type(e).__name__
        sys.stdout.write(json.dumps(reply) + "\n")
        sys.stdout.flush()


def _limit_memory() -> None:
    with contextlib.suppress(ImportError, OSError, ValueError):  # not on every system
        import resource

        most = bounds().template_bytes
        resource.setrlimit(resource.RLIMIT_AS, (most, most))


def _limit_seconds() -> None:
    """Ends this process even where nobody is left to end it."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        used = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
        most = math.ceil(used + bounds().template_seconds) + 1
        resource.setrlimit(resource.RLIMIT_CPU, (most, resource.getrlimit(resource.RLIMIT_CPU)[1]))


if __name__ == "__main__":
    _serve()
