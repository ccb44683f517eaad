"""A model behind a server: a failure is never an answer, an answer is asked for once, and what the
server is stands with the results.
"""

from __future__ import annotations

import base64
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from evalkit.model_adapters import openai_messages
from evalkit.model_adapters.openai import OpenAIAdapter
from evalkit.model_adapters.openai_connection import Connection
from evalkit.model_adapters.openai_messages import bounded, frame_indices
from evalkit.model_adapters.reference import ReferenceAdapter
from PIL import Image as Pillow

import evalkit
from evalkit.cell import Cell
from evalkit.cli.main import main
from evalkit.errors import EvalkitError, UsageError
from evalkit.executor import executor_for
from evalkit.media import decode_image
from evalkit.pace import Again, Pace, Patience, ask_all, retry_after, wait_before
from evalkit.plan import tasks_of
from evalkit.store import cells
from evalkit.types import Completion, Image, MediaBudget, Message, Request, Text, Video
from tests.chat_server import ChatServer, completion, question, serving, some
from tests.runs import SUMS

PNG = "data:image/png;base64,"


@pytest.fixture
def server() -> Iterator[ChatServer]:
    with serving() as running:
        yield running


def adapter(server: ChatServer, model: str = "m", **arguments: Any) -> OpenAIAdapter:
    return OpenAIAdapter(model, url=server.url, **{"first_wait": 0.01, **arguments})


def ask(id: str, *parts: Any, **more: Any) -> Request:
    return Request(id, (Message("user", parts),), **more)


def answers(server: ChatServer, *requests: Request, **arguments: Any) -> dict[str, Completion]:
    return {c.id: c for c in adapter(server, **arguments).generate(iter(requests))}


def png(width: int = 30, height: int = 20, mode: str = "RGB", form: str = "PNG") -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    out = io.BytesIO()
    Pillow.fromarray(pixels).convert(mode).save(out, form)
    return out.getvalue()


def sent_picture(body: dict[str, Any]) -> bytes:
    url = body["messages"][0]["content"][0]["image_url"]["url"]
    assert url.startswith(PNG)
    return base64.b64decode(url.removeprefix(PNG))


def test_without_the_official_client_the_command_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "openai", None)
    assert main(["run", "docvqa", "--adapter", "openai", "--model", "m", "--limit", "1"]) == 2
    assert "pip install 'evalkit[openai]'" in capsys.readouterr().err


def test_parts_are_sent_in_their_order_with_the_limits_of_the_request(server: ChatServer) -> None:
    parts = Text("a"), Image(png()), Text("b"), Image(png())
    messages = (Message("system", (Text("Be brief."),)), Message("user", parts))
    (done,) = adapter(server).generate([Request("1", messages, max_new_tokens=7)])
    (body,) = server.bodies
    system, user = body["messages"]
    assert system == {"role": "system", "content": "Be brief."}
    assert [p["type"] for p in user["content"]] == ["text", "image_url", "text", "image_url"]
    assert (body["max_tokens"], body["temperature"], body["model"]) == (7, 0.0, "m")
    assert (done.tokens.text_in, done.tokens.out, done.finish_reason) == (10, 2, "stop")


def test_a_png_is_sent_byte_for_byte_and_any_other_file_as_the_pixels_that_we_see(
    server: ChatServer,
) -> None:
    answers(server, ask("png", Image(png()), Text("?")))
    assert sent_picture(server.bodies[0]) == png()
    for data in (png(form="JPEG"), png(mode="LA"), png(mode="P"), png(form="TIFF")):
        server.bodies.clear()
        answers(server, ask("other", Image(data), Text("?")))
        sent = Pillow.open(io.BytesIO(sent_picture(server.bodies[0])))
        assert (np.asarray(sent) == np.asarray(decode_image(Image(data)))).all()


def test_files_go_as_they_are_only_when_asked(server: ChatServer) -> None:
    jpeg = png(form="JPEG")
    answers(server, ask("1", Image(jpeg), Text("?")), images="original")
    url = server.bodies[0]["messages"][0]["content"][0]["image_url"]["url"]
    assert url == "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()


def clip(frames: int = 16) -> bytes:
    out = io.BytesIO()
    pictures = [Pillow.new("RGB", (28, 28), (i * 10, 0, 0)) for i in range(frames)]
    pictures[0].save(out, "GIF", save_all=True, append_images=pictures[1:], duration=250)
    return out.getvalue()


def test_a_clip_is_sent_as_frames_or_whole(server: ChatServer) -> None:
    budget = MediaBudget(fps=1.0, max_frames=3)
    request = ask("1", Video(clip()), Text("?"), budget=budget)
    assert answers(server, request)["1"].frames == ((0.0, 2.0, 3.75),)
    kinds = [p["type"] for p in server.bodies[0]["messages"][0]["content"]]
    assert kinds == ["image_url"] * 3 + ["text"]
    assert answers(server, request, videos="url", pixels="send")["1"].frames == ()
    assert server.bodies[1]["messages"][0]["content"][0]["type"] == "video_url"
    assert server.bodies[1]["mm_processor_kwargs"] == {"fps": 1.0, "max_frames": 3}
    cut = answers(server, ask("2", Video(clip(), start=1.0), Text("?")), videos="url")["2"]
    assert cut.error and "videos=frames" in cut.error


def test_what_several_questions_show_is_made_once(
    server: ChatServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[object] = []
    make = openai_messages._made

    def counted(part: Any, *more: Any) -> Any:
        made.append(part)
        time.sleep(0.05)  # others ask for it meanwhile
        return make(part, *more)

    monkeypatch.setattr(openai_messages, "_made", counted)
    page, scene = png(form="TIFF"), clip()
    budget = MediaBudget(fps=1.0, max_frames=3)
    asked = [ask(f"i{n}", Image(page), Text(f"{n}?")) for n in range(6)]
    asked += [ask(f"v{n}", Video(scene), Text(f"{n}?"), budget=budget) for n in range(4)]
    done = answers(server, *asked, ask("other", Video(scene, end=2.0), Text("?"), budget=budget))
    assert len(made) == 3 and not any(c.error for c in done.values())
    assert {done[f"v{n}"].frames for n in range(4)} == {((0.0, 2.0, 3.75),)}
    broken = Image(b"no picture")
    failed = answers(server, ask("1", broken, Text("a")), ask("2", broken, Text("b")))
    assert all("image" in str(c.error) for c in failed.values())


@pytest.mark.parametrize(
    ("total", "rate", "fps", "most", "indices"),
    [
        (16, 4, 1, 3, [0, 8, 15]),
        (16, 4, 1, 32, [0, 5, 10, 15]),
        (3, 30, 1, 8, [0]),
        (2, 1, 9, 9, [0, 1]),
    ],
)
def test_frames_are_even_and_never_more_than_there_are(
    total: int, rate: float, fps: float, most: int, indices: list[int]
) -> None:
    assert frame_indices(total, rate, fps, most) == indices


def test_pixel_limits_are_sent_to_servers_that_take_them_and_kept_here_for_others(
    server: ChatServer,
) -> None:
    budget = MediaBudget(min_pixels=100, max_pixels=150)
    answers(server, ask("1", Image(png()), Text("?"), budget=budget))
    assert "mm_processor_kwargs" not in server.bodies[0]
    width, height = Pillow.open(io.BytesIO(sent_picture(server.bodies[0]))).size
    assert 100 <= width * height <= 150
    server.models[0]["owned_by"] = "vllm"
    answers(server, ask("1", Image(png()), Text("?"), budget=budget), max_pixels=140)
    assert server.bodies[1]["mm_processor_kwargs"] == {"min_pixels": 100, "max_pixels": 140}
    assert sent_picture(server.bodies[1]) == png()


@pytest.mark.parametrize("size", [(1000, 10), (7, 3000), (20, 30), (3, 4)])
def test_a_resized_picture_lies_within_its_bounds(size: tuple[int, int]) -> None:
    width, height = bounded(size, MediaBudget(min_pixels=600, max_pixels=900))
    assert 600 <= width * height <= 1300 and width * height <= max(900, 1000)


def test_failed_calls_lose_no_answer_and_double_none() -> None:
    faults = some(0.3, "429,500,503,reset,cut,html,408,500,reset,cut,html,hang")
    with serving(fault=faults) as flaky:
        done = list(
            adapter(flaky, request_timeout=2.0, tries=30).generate(
                ask(str(i), Text(f"q{i}")) for i in range(80)
            )
        )
        assert sorted(c.id for c in done) == sorted(map(str, range(80)))
        assert {c.id: c.text for c in done} == {str(i): f"re: q{i}" for i in range(80)}
        answered = flaky.failed.pop("None")
        assert answered == 80, "a question that has its answer is not asked again"
        assert sum(flaky.failed.values()) > 20 and len(flaky.failed) > 4


def test_a_400_is_asked_once_and_is_its_samples_error() -> None:
    with serving(fault=lambda n, body: "400" if question(body) == "bad" else None) as picky:
        done = answers(picky, *(ask(t, Text(t)) for t in ("a", "bad", "b")))
        assert done["bad"].finish_reason == "error" and done["bad"].text == ""
        assert "HTTP 400: no, 400" in str(done["bad"].error)
        assert (done["a"].text, done["b"].text) == ("re: a", "re: b")
        assert picky.asked()["bad"] == 1


@pytest.mark.parametrize("fault", ["401", "429 insufficient_quota"])
def test_what_no_waiting_mends_ends_the_run_at_once(fault: str) -> None:
    with serving(fault=lambda n, body: fault) as closed, pytest.raises(EvalkitError, match="no, 4"):
        answers(closed, ask("1", Text("a")))
    assert len(closed.bodies) == 1


def test_an_outage_ends_the_run_after_a_few_questions_not_after_all() -> None:
    got: list[Completion] = []
    asked = (ask(str(i), Text("a")) for i in range(1000))
    with serving(fault=lambda n, body: "503") as down, pytest.raises(EvalkitError, match="a row"):
        got.extend(adapter(down, tries=2, concurrency=2).generate(asked))
    assert len(got) == 5 and all("HTTP 503" in str(c.error) for c in got)
    assert "(asked 2 times)" in str(got[0].error) and len(down.bodies) < 20


def paced(ask: Any, tries: int) -> Iterator[tuple[int, str]]:
    """Three questions, one at a time."""
    connection = Connection("http://localhost", "A_TOKEN", 1.0)
    try:
        yield from ask_all(iter(range(3)), ask, connection.loop, Pace(1, 60.0), Patience(tries))
    finally:
        connection.close()


def test_a_server_that_wants_to_be_left_alone_for_long_ends_the_run() -> None:
    async def closed(number: int) -> str:
        raise Again("HTTP 429: tomorrow", 86400.0, crowded=True)

    asked = paced(closed, tries=9)
    assert next(asked) == (0, "HTTP 429: tomorrow (asked once)")
    with pytest.raises(EvalkitError, match="asks to wait 86,400 seconds: repeat the run then"):
        next(asked)


def test_the_others_are_asked_after_one_was_given_up_that_was_to_wait() -> None:
    async def first_fails(number: int) -> str:
        if number == 0:
            raise Again("HTTP 429: no", 0.1, crowded=True)
        return "yes"

    got = [*paced(first_fails, tries=1)]
    assert got == [(0, "HTTP 429: no (asked once)"), (1, "yes"), (2, "yes")]


def test_an_error_is_no_answer_but_length_and_refusals_are() -> None:
    replies = {
        "filter": {"finish_reason": "content_filter", "message": {"content": None}},
        "long": {"finish_reason": "length", "message": {"content": "and so"}},
        "refused": {"finish_reason": "stop", "message": {"content": None, "refusal": "I can't"}},
        "empty": {"finish_reason": "stop", "message": {"content": ""}},
        "cut": {"finish_reason": "MAX_TOKENS", "message": {"content": "and so"}},
        "no": {"finish_reason": "stop", "message": {"content": "", "refusal": "I can't"}},
    }
    with serving(lambda body: completion("") | {"choices": [replies[question(body)]]}) as odd:
        done = answers(odd, *(ask(name, Text(name)) for name in replies))
    assert "withheld" in str(done["filter"].error)
    assert (done["long"].text, done["long"].finish_reason) == ("and so", "length")
    assert (done["cut"].finish_reason, done["no"].text) == ("length", "I can't")
    assert (done["refused"].text, done["empty"].text) == ("I can't", "")


def replying(message: Any = None, ended: Any = "stop", **more: Any) -> dict[str, Any]:
    return completion("") | {"choices": [{"message": message, "finish_reason": ended}], **more}


@pytest.mark.parametrize(
    ("reply", "told", "times"),
    [
        (completion("") | {"choices": []}, "no chat completion", 2),
        (completion("") | {"choices": None}, "no chat completion", 2),
        (replying(None), "no chat completion", 2),
        (replying({"content": 5}), "no chat completion", 2),
        ({"choices": [{"text": "as before chats"}]}, "no chat completion", 2),
        (replying({"content": None}), "without content", 1),
        (replying({"content": None, "reasoning_content": "hm"}, "length"), "its reasoning", 1),
        (replying({"content": [{"type": "thinking", "thinking": "hm"}]}), "without content", 1),
        (replying({"content": "", "reasoning": "hm"}, "length"), "its reasoning", 1),
        (replying({"content": "<think>\nhm, 6"}, "length"), "its reasoning", 1),
        (replying({"content": "hm, 6</think>\n\n"}, "length"), "its reasoning", 1),
        (replying({"content": None, "tool_calls": [{}]}), "called a tool", 1),
        (replying({"content": "", "tool_calls": [{}]}, "tool_calls"), "called a tool", 1),
        (replying({"content": "", "function_call": {"name": "f"}}), "called a tool", 1),
        (replying({"content": "half an"}, "SAFETY"), "withheld", 1),
        (replying({"content": "half an"}, "insufficient_system_resource"), "broke", 2),
        (replying({"content": "half an"}, error={"message": "cut"}), "cut", 2),
        (replying({"content": "half an"}, "abort"), "broke the answer off", 2),
        (replying({"content": "half an"}, {"type": "abort"}), "broke the answer off", 2),
        ({"error": {"message": "overloaded", "code": 502}}, "overloaded", 2),
        ({"error": {"message": "bad picture", "code": 400}}, "bad picture", 1),
        ({"error": "rate limited"}, "rate limited", 2),
    ],
)
def test_a_reply_without_an_answer_is_an_error_that_says_why(
    reply: dict[str, Any], told: str, times: int
) -> None:
    with serving(lambda body: reply) as odd:
        (done,) = answers(odd, ask("1", Text("a")), tries=2).values()
    assert (done.finish_reason, done.text) == ("error", "") and told in str(done.error)
    assert len(odd.bodies) == times


@pytest.mark.parametrize(
    ("reply", "text", "tokens"),
    [
        (replying({"content": [{"type": "text", "text": "yes, "}, {"type": "text", "text": "12"}]}),
         "yes, 12", (10, 0, 2)),
        (replying({"content": "<think>\nhm, 6\n</think>\n\n610"}), "610", (10, 0, 2)),
        (replying({"content": "hm, 6\n</think>\n\n610"}), "610", (10, 0, 2)),
        (replying({"content": "a\ud800b"}), "a\ufffdb", (10, 0, 2)),
        (replying({"content": "\U0001f600\0\x1b[31m"}), "\U0001f600\0\x1b[31m", (10, 0, 2)),
        (replying({"content": "x"}, usage=None), "x", (0, 0, 0)),
        (replying({"content": "x"}, usage=[3]), "x", (0, 0, 0)),
        (replying({"content": "x"}, usage={"prompt_tokens": float("nan")}), "x", (0, 0, 0)),
        (replying({"content": "x"}, usage={"prompt_tokens": "7", "completion_tokens": -1,
                  "prompt_tokens_details": {"image_tokens": 9}}), "x", (0, 7, 0)),
        (replying({"content": "x"}, None, model=["m"], système="é"), "x", (10, 0, 2)),
    ],
)  # fmt: skip
def test_an_answer_in_an_odd_reply_is_taken(
    reply: dict[str, Any], text: str, tokens: tuple[int, int, int]
) -> None:
    with serving(lambda body: reply) as odd:
        (done,) = answers(odd, ask("1", Text("a"))).values()
    assert (done.error, done.text) == (None, text)
    assert (done.tokens.text_in, done.tokens.vision_in, done.tokens.out) == tokens


def test_json_by_another_name_is_read_and_a_broken_stream_asked_again() -> None:
    faults = {"named": "plain", "deep": "deep", "cut": "chunks"}
    with serving(fault=lambda n, body: faults[question(body)]) as odd:
        done = answers(odd, *(ask(name, Text(name)) for name in faults), tries=2)
    assert done["named"].text == "re: named"
    assert "no whole JSON" in str(done["deep"].error) and done["cut"].error
    assert odd.asked() == {"named": 1, "deep": 2, "cut": 2}


def test_a_server_that_lives_elsewhere_is_named_and_not_followed() -> None:
    asked = (ask(str(i), Text("a")) for i in range(50))
    with serving(fault=lambda n, body: "redirect") as moved, pytest.raises(EvalkitError) as e:
        list(adapter(moved, concurrency=1).generate(asked))
    assert "redirects to https://elsewhere/v1" in str(e.value) and len(moved.bodies) == 1


def test_fewer_are_asked_at_once_after_refusals_and_more_after_answers() -> None:
    clock = [0.0]
    pace = Pace(32, slow=10.0, clock=lambda: clock[0])
    for _ in range(60):
        clock[0] += 1
        pace.answered(clock[0] - 1)
    assert pace.limit == 32
    clock[0] += 1
    pace.refused(clock[0], closed_for=5.0)
    for _ in range(20):  # sent before the cut: one objection, not twenty
        pace.refused(clock[0] - 0.5)
    assert (pace.limit, pace.wait) == (16, 5.0)
    clock[0] += 6
    for _ in range(16):
        pace.answered(clock[0] - 0.1)
    assert pace.limit == 16 and pace.wait == 0
    pace.answered(clock[0] - 0.1)
    assert pace.limit == 17
    for _ in range(40):
        clock[0] += 30
        pace.answered(clock[0] - 30)
    assert pace.limit < 8, "a slow server is asked less at once"


def test_a_server_is_asked_many_things_at_once_and_no_more_than_allowed() -> None:
    with serving(seconds=0.1) as slow:
        answers(slow, *(ask(str(i), Text("a")) for i in range(50)), concurrency=10)
    assert 5 < slow.most_at_once <= 10


def test_waits_grow_are_drawn_and_heed_the_server() -> None:
    assert 4 <= wait_before(4, 1.0) <= 8
    assert wait_before(1, 1.0, asked=30.0) > 30
    assert len({wait_before(3, 1.0) for _ in range(9)}) > 1
    assert retry_after({"retry-after": "7"}) == 7
    assert retry_after({"retry-after-ms": "1500"}) == 1.5
    date = "Wed, 21 Oct 2015 07:28:00 GMT"
    assert retry_after({"retry-after": date}, now=1445412470.0) == 10
    for odd in ("soon", "nan", "inf", "9" * 400, "Wed, 99 Oct 2015 99:28:00 GMT"):
        assert retry_after({"retry-after": odd}) is None
    assert retry_after({"retry-after": "-5"}) == 0 and retry_after({}) is None


def test_the_models_identity_is_in_the_fingerprint_and_settings_of_haste_are_not(
    server: ChatServer,
) -> None:
    base = adapter(server).fingerprint
    assert base["server"] == {"id": "m", "object": "model", "owned_by": "test"}
    assert adapter(server, concurrency=2, tries=3, request_timeout=9.0).fingerprint == base
    others: list[dict[str, Any]] = [
        {"max_pixels": 900},
        {"max_pixels": 800},
        {"images": "jpeg"},
        {"extra": {"top_k": 1}},
    ]
    prints = [json.dumps(adapter(server, **o).fingerprint, sort_keys=True) for o in [{}, *others]]
    assert len(set(prints)) == len(prints)
    server.models[0]["root"] = "/models/other"
    assert adapter(server).fingerprint != base


@pytest.mark.slow
def test_a_model_or_server_that_is_not_there_is_named(server: ChatServer) -> None:
    with pytest.raises(UsageError, match=r"no model 'n'; it has: m"):
        _ = adapter(server, "n").fingerprint
    with pytest.raises(EvalkitError, match=r"127\.0\.0\.1:9/v1: no server answers"):
        _ = OpenAIAdapter("m", url="http://127.0.0.1:9/v1").fingerprint


def test_another_model_under_the_same_name_is_found_out(server: ChatServer) -> None:
    def restarted(n: int, body: dict[str, Any]) -> str | None:
        if n == 3:
            server.models[0]["root"] = "/models/other"
        return "reset" if n == 3 else None

    server.fault = restarted
    before = adapter(server)
    with pytest.raises(EvalkitError, match="another one than when the run began .*root"):
        list(before.generate(ask(str(i), Text("a")) for i in range(50)))
    assert len(server.bodies) < 50, "found out at the broken connection, not at the end"


def test_a_token_count_that_is_not_ours_is_an_error_that_names_both() -> None:
    request = ask("1", Image(png(200, 200)), Text("?"), budget=MediaBudget(max_pixels=3600))
    right = len(ReferenceAdapter("nano").prompts.make(request).ids)
    for counted, wrong in ((right, False), (right + 45, True)):
        usage = {"usage": {"prompt_tokens": counted, "completion_tokens": 1}}
        with serving(lambda body, usage=usage: completion("x", **usage)) as it:
            it.models[0]["owned_by"] = "vllm"
            (done,) = answers(it, request, checkpoint="nano").values()
            if wrong:
                assert f"counts {counted} tokens" in str(done.error) and str(right) in str(
                    done.error
                )
                (taken,) = answers(it, request, checkpoint="nano", verify=False).values()
                assert taken.error is None
            else:
                assert done.error is None and done.tokens.vision_in == 4


def test_a_family_that_is_known_by_name_has_its_visual_tokens_checked() -> None:
    request = ask("1", Image(png(600, 600)), Text("?"), budget=MediaBudget(max_pixels=3600))
    for counted, wrong in ((4 + 30, False), (441 + 500, True), (3, True)):
        usage = {"usage": {"prompt_tokens": counted, "completion_tokens": 1}}
        with serving(lambda body, usage=usage: completion("x", **usage)) as it:
            it.models = [{"id": "Qwen/Qwen2-VL-2B-Instruct", "owned_by": "vllm"}]
            out = adapter(it, "Qwen/Qwen2-VL-2B-Instruct").generate([request])
            assert bool(next(iter(out)).error) == wrong


def test_a_server_that_ignores_the_limits_ends_the_run_before_it_costs_much() -> None:
    with serving() as it, pytest.raises(EvalkitError, match="the server counts 10 tokens"):
        got = adapter(it, checkpoint="nano", concurrency=1)
        list(got.generate(ask(str(i), Image(png(90, 90)), Text("?")) for i in range(100)))
    assert len(it.bodies) < 10


def test_tokens_and_costs_are_counted_and_a_budget_ends_the_run(server: ChatServer) -> None:
    rich = adapter(server, price_in=1e5, price_out=5e5, concurrency=1)  # 2 an answer
    assert len(list(rich.generate(ask(str(i), Text("a")) for i in range(5)))) == 5
    assert rich.stats["cost"] == 10 and rich.stats["tokens_in"] == 50
    poor = adapter(server, price_in=1e5, price_out=5e5, max_cost=7.0, concurrency=1)
    got = []
    with pytest.raises(EvalkitError, match=r"6 of max_cost=7 are spent"):
        got.extend(poor.generate(ask(str(i), Text("a")) for i in range(5)))
    with pytest.raises(UsageError, match="price_in"):
        adapter(server, max_cost=1.0)


def test_a_budget_is_that_of_all_tasks_and_a_cost_that_of_one(server: ChatServer) -> None:
    both = adapter(server, price_in=1e5, price_out=5e5, max_cost=13.0, concurrency=1)
    assert len(list(both.generate(ask(str(i), Text("a")) for i in range(4)))) == 4
    assert both.stats["cost"] == 8
    got = []
    with pytest.raises(EvalkitError, match=r"12 of max_cost=13 are spent"):
        got.extend(both.generate(ask(str(i), Text("a")) for i in range(4)))
    assert both.stats["cost"] == 4


def test_workers_have_no_budget_each() -> None:
    recipe = ("openai", "m", {"price_in": 1.0, "max_cost": 5.0})
    for executor in ("", "local", "ray"):
        with pytest.raises(UsageError, match=r"max_cost: each worker would spend as much"):
            executor_for(recipe, "cpu:2", executor)


def test_answers_whose_tokens_are_not_counted_are_said_and_end_a_budget() -> None:
    with serving(lambda body: completion("x", usage=None)) as silent:
        unbound = adapter(silent, price_in=1.0)
        assert len(list(unbound.generate(ask(str(i), Text("a")) for i in range(3)))) == 3
        assert unbound.stats["uncounted"] == 3
        with pytest.raises(EvalkitError, match="its cost is unknown"):
            bound = adapter(silent, price_in=1.0, max_cost=1.0, concurrency=1)
            list(bound.generate(ask(str(i), Text("a")) for i in range(50)))
    assert len(silent.bodies) == 4


@pytest.mark.parametrize("field", ["temperature", "max_tokens", "seed"])
def test_a_field_that_the_model_does_not_take_ends_the_run_and_says_how_to_leave_it_out(
    field: str,
) -> None:
    def fault(number: int, body: dict[str, Any]) -> str | None:
        return f"400 {field}" if field in body else None

    def asked() -> Iterator[Request]:
        return (ask(str(i), Text("a"), temperature=0.5) for i in range(50))

    with serving(fault=fault) as strict:
        with pytest.raises(EvalkitError, match=rf"{field}.*extra=FILE\.json"):
            list(adapter(strict, concurrency=1).generate(asked()))
        assert len(strict.bodies) == 5
        done = list(adapter(strict, extra={field: None}).generate(asked()))
    assert len(done) == 50 and not any(d.error for d in done)


@pytest.mark.parametrize("why", ["", "max_tokens is over what the context length leaves"])
def test_questions_that_are_refused_at_the_start_end_no_run(why: str) -> None:
    refused = {str(i) for i in range(8)}
    with serving(fault=lambda n, body: f"400 {why}" if question(body) in refused else None) as it:
        done = answers(it, *(ask(str(i), Text(str(i))) for i in range(10)))
    assert {id for id, d in done.items() if d.error} == refused


def test_choices_are_ranked_by_the_prompts_log_probabilities() -> None:
    scores = {"yes": [-0.5, -0.25], "no": [-3.0]}

    def answer(body: dict[str, Any]) -> dict[str, Any]:
        last = body["messages"][-1]
        if last["role"] == "user":
            return completion("", usage={"prompt_tokens": 3, "completion_tokens": 1})
        assert body["continue_final_message"] and not body["add_generation_prompt"]
        found = [None, *({"5": {"logprob": p}} for p in (-9.0, -9.0, *scores[last["content"]]))]
        return completion("", prompt_logprobs=found)

    with serving(answer) as it:
        (done,) = adapter(it).rank([ask("1", Text("?"), choices=("yes", "no"))])
    assert (done.text, done.logprobs, done.finish_reason) == ("yes", (-0.75, -3.0), "rank")
    with serving() as plain, pytest.raises(UsageError, match="no log-probabilities"):
        list(adapter(plain).rank([ask("1", Text("?"), choices=("yes", "no"))]))
    for odd in (None, float("nan"), "x"):  # of a token of the choice, not of the prompt
        scores["yes"] = [-0.5, odd]  # type: ignore[list-item]
        with serving(answer) as it:
            (failed,) = adapter(it, tries=1).rank([ask("1", Text("?"), choices=("yes", "no"))])
        assert "prompt_logprobs" in str(failed.error) and not failed.logprobs


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"images": "gif"}, "images='gif'"),
        ({"pixels": "drop"}, "pixels='drop'"),
        ({"concurrency": 0}, "concurrency=0"),
        ({"key_env": "HOME"}, "_API_KEY"),
        ({"url": "http://me:secret@h/v1"}, "no user or password"),
        ({"extra": "/nowhere.json"}, "nowhere"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(arguments: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        OpenAIAdapter("m", **arguments)


def test_a_key_is_in_the_environment_only_and_appears_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    key = "planted-key-2931"
    monkeypatch.setenv("MY_SERVER_API_KEY", key)
    with pytest.raises(UsageError, match="looks like a secret"):
        evalkit.evaluate(SUMS, "m", adapter="openai", api_key=key)
    with serving(fault=lambda n, body: "400" if n % 3 else None) as it:
        settings: Any = {"url": it.url, "key_env": "MY_SERVER_API_KEY"}
        evalkit.evaluate(SUMS, "m", adapter="openai", output=tmp_path, **settings)
        assert it.keys == {f"Bearer {key}"}
    (cell,) = cells(tmp_path)
    assert cell.results.errors and "Bearer" in cell.journal_path.read_text()
    written = b"".join(f.read_bytes() for f in tmp_path.rglob("*") if f.is_file())
    out, err = capfd.readouterr()
    assert key.encode() not in written and key not in out + err


@pytest.mark.slow
def test_a_run_killed_with_many_under_way_asks_only_the_rest(tmp_path: Path) -> None:
    with serving(seconds=0.15) as it:
        command = [sys.executable, "-m", "evalkit", "run", "--tasks", SUMS, "--adapter", "openai"]
        command += ["--model", "m", "--output", str(tmp_path), "--model-args", f"url={it.url}"]
        process = subprocess.Popen(command, env=os.environ, stderr=subprocess.PIPE)
        while len(it.bodies) < 20:
            assert process.poll() is None
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        (cell,) = cells(tmp_path)
        kept = set(cell.scored())
        it.bodies.clear()
        evaluation = evalkit.evaluate(SUMS, "m", adapter="openai", output=tmp_path, url=it.url)
        assert not evaluation.errors
        assert len(it.bodies) == 40 - len(kept) and 0 < len(kept) < 40
        lines = map(json.loads, cell.journal_path.read_text().splitlines())
        assert sum("id" in line for line in lines) == 40


def test_what_was_not_answered_is_asked_by_the_next_run(tmp_path: Path) -> None:
    def run(it: ChatServer) -> evalkit.Evaluation:
        return evalkit.evaluate(
            SUMS, "m", adapter="openai", output=tmp_path, url=it.url, first_wait=0.01, tries=1
        )

    with serving(fault=lambda n, body: "500" if n in (3, 9) else None) as it:
        assert run(it).outcomes[0].results.errors == 2
        it.bodies.clear()
        assert not run(it).errors and len(it.bodies) == 2


def test_two_runs_of_other_pixel_limits_share_no_cell(server: ChatServer, tmp_path: Path) -> None:
    task = tasks_of("docvqa")[0]
    made = [
        Cell.make(task, adapter(server, max_pixels=n), "m", tmp_path).folder for n in (900, 901)
    ]
    assert made[0] != made[1]
