"""A model behind the OpenAI protocol: what official clients and browsers meet."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import openai
import pytest
from evalkit.model_adapters.openai import OpenAIAdapter
from evalkit.model_adapters.reference import ReferenceAdapter

import evalkit
from evalkit.plan import build_adapter
from evalkit.serve.app import HEADERS, Settings, make_app, running
from evalkit.serve.backend import MOST_OVERTAKEN, Backend, Job, Lane, Queue
from evalkit.serve.protocol import Limits
from evalkit.types import Image, MediaBudget, Message, Request, Text
from tests.tiny import write_tiny

PAGE = Path(__file__).parents[1] / "examples" / "page.png"
KEY = "planted-key-7741"


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """nano, behind a key."""
    settings = Settings("nano", KEY, most_waiting=100, body_bytes=1 << 20, limits=Limits(256))
    with running(make_app(build_adapter("reference", "nano", {}), settings)) as at:
        yield at


@pytest.fixture
def client(url: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0)


def picture(data: bytes | None = None) -> dict[str, Any]:
    packed = base64.b64encode(PAGE.read_bytes() if data is None else data).decode()
    return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{packed}"}}


def user(*content: Any) -> list[dict[str, Any]]:
    parts = [{"type": "text", "text": c} if isinstance(c, str) else c for c in content]
    return [{"role": "user", "content": parts}]


ASKED = user(picture(), "What is the date?")


def own_answer(**more: Any) -> evalkit.Completion:
    message = Message("user", (Image(PAGE), Text("What is the date?")))
    return next(iter(ReferenceAdapter("nano").generate([Request("1", (message,), 40, **more)])))


def test_an_image_chat_is_answered_as_by_the_engine_itself(client: openai.OpenAI) -> None:
    reply = client.chat.completions.create(model="nano", messages=ASKED, max_tokens=40)
    own = own_answer()
    assert reply.choices[0].message.content == own.text != ""
    assert reply.choices[0].finish_reason == own.finish_reason
    assert reply.usage and reply.usage.prompt_tokens == own.tokens.text_in + own.tokens.vision_in
    assert reply.usage.completion_tokens == own.tokens.out


def test_a_stream_gives_the_same_answer_in_pieces(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(model="nano", messages=ASKED, max_tokens=40)
    stream = client.chat.completions.create(
        model="nano",
        messages=ASKED,
        max_tokens=40,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    pieces = [c.choices[0].delta.content or "" for c in chunks if c.choices]
    assert "".join(pieces) == whole.choices[0].message.content
    assert len(list(filter(None, pieces))) > 1
    assert chunks[-2].choices[0].finish_reason == whole.choices[0].finish_reason
    assert chunks[-1].usage and whole.usage
    assert chunks[-1].usage.total_tokens == whole.usage.total_tokens


def test_an_answer_ends_before_a_stop_word(client: openai.OpenAI) -> None:
    whole = own_answer().text
    word = whole[1]
    for stream in (False, True):
        reply: Any = client.chat.completions.create(
            model="nano", messages=ASKED, max_tokens=40, stop=[word], stream=stream
        )
        text = (
            "".join(c.choices[0].delta.content or "" for c in reply)
            if stream
            else reply.choices[0].message.content
        )
        assert text == whole[: whole.index(word)]


def test_sixty_four_at_once_are_answered_as_one_by_one(url: str) -> None:
    questions = ["What is the date?", "What is the total?", "Who is it from?", "Which number?"]

    async def ask_all() -> list[str]:
        client = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0)
        calls = [
            client.chat.completions.create(
                model="nano",
                messages=user(picture(), questions[i % 4]),
                max_tokens=4,
                extra_body={"mm_processor_kwargs": {"max_pixels": 50176}},
            )
            for i in range(64)
        ]
        return [str(r.choices[0].message.content) for r in await asyncio.gather(*calls)]

    answers = asyncio.run(ask_all())
    messages = [Message("user", (Image(PAGE), Text(q))) for q in questions]
    requests = [
        Request(q, (m,), 4, MediaBudget(max_pixels=50176)) for q, m in zip(questions, messages)
    ]
    own = {c.id: c.text for c in ReferenceAdapter("nano").generate(requests)}
    assert answers == [own[q] for q in questions] * 16


def test_pixel_limits_of_a_request_hold(client: openai.OpenAI) -> None:
    reply = client.chat.completions.create(
        model="nano",
        messages=ASKED,
        max_tokens=1,
        extra_body={"mm_processor_kwargs": {"max_pixels": 7840}},
    )
    assert reply.usage and reply.usage.prompt_tokens_details
    assert reply.usage.prompt_tokens_details.model_dump()["image_tokens"] <= 10


@pytest.mark.parametrize(
    ("body", "status", "told"),
    [
        ({"model": "other"}, 404, "no model 'other'; there is 'nano'"),
        ({"messages": user(picture(b"no picture"), "?")}, 400, "not an image in a known format"),
        ({"messages": user(picture(PAGE.read_bytes()[:900]), "?")}, 400, "unreadable image"),
        ({"messages": user({"type": "image_url", "image_url": {"url": "http://h/x.png"}})}, 400,
         "addresses are not fetched"),
        ({"messages": user({"type": "image_url", "image_url": {"url": "file:///etc/passwd"}})}, 400,
         "addresses are not fetched"),
        ({"messages": []}, 400, "messages"),
        ({"messages": [{"role": "judge", "content": "?"}]}, 400, "role"),
        ({"max_tokens": 257}, 400, "at most 256"),
        ({"temperature": -1}, 400, "temperature"),
        ({"top_p": 0.5}, 400, "top_p: not supported"),
        ({"n": 2}, 400, "n: not supported"),
        ({"mm_processor_kwargs": {"size": 1}}, 400, "mm_processor_kwargs.size"),
        ({"messages": user("x" * 2_000_000)}, 413, "more than 1,048,576 bytes"),
        ({"messages": user("<|image_pad|>")}, 400, "placeholder"),
    ],
)  # fmt: skip
def test_what_cannot_be_answered_gets_the_protocols_error(
    url: str, body: dict[str, Any], status: int, told: str
) -> None:
    with pytest.raises(urllib.error.HTTPError) as e:
        post(url, {"model": "nano", "messages": user("?"), **body})
    error = json.loads(e.value.read())["error"]
    assert (e.value.code, set(error)) == (status, {"message", "type", "param", "code"})
    assert told in error["message"]


def post(url: str, body: Any, key: str = KEY) -> Any:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    request = urllib.request.Request(f"{url}/v1/chat/completions", data, headers)
    with urllib.request.urlopen(request) as reply:
        return json.load(reply)


def test_the_official_client_knows_the_errors(url: str, client: openai.OpenAI) -> None:
    stranger = openai.OpenAI(base_url=f"{url}/v1", api_key="wrong", max_retries=0)
    with pytest.raises(openai.AuthenticationError, match="wrong API key"):
        stranger.chat.completions.create(model="nano", messages=ASKED)
    with pytest.raises(openai.NotFoundError, match="no model"):
        client.models.retrieve("other")
    with pytest.raises(openai.NotFoundError):
        client.embeddings.create(model="nano", input="x")
    assert [m.id for m in client.models.list()] == [client.models.retrieve("nano").id] == ["nano"]
    with pytest.raises(urllib.error.HTTPError, match="400"):
        post(url, b"{")


def test_a_stream_that_fails_says_so(client: openai.OpenAI) -> None:
    broken = user(picture(PAGE.read_bytes()[:900]), "?")
    with pytest.raises(openai.APIError, match="unreadable image"):
        list(client.chat.completions.create(model="nano", messages=broken, stream=True))


def test_a_full_queue_turns_requests_away_and_an_adapters_fault_is_the_servers() -> None:
    class Slow(evalkit.ModelAdapter):
        name = "slow"
        fingerprint = {"adapter": "slow"}

        def generate(self, requests: Any) -> Iterator[evalkit.Completion]:
            for request in requests:
                if request.messages[0].content[0].text == "break":
                    raise RuntimeError("broken inside")
                yield evalkit.Completion(request.id, "done")

    settings = Settings("slow", most_waiting=0)
    with running(make_app(Slow("m"), settings)) as at:
        with pytest.raises(urllib.error.HTTPError) as full:
            post(at, {"model": "slow", "messages": user("?")})
        assert full.value.code == 429 and full.value.headers["Retry-After"] == "1"
    with running(make_app(Slow("m"), Settings("slow"))) as at:
        with pytest.raises(urllib.error.HTTPError) as e:
            post(at, {"model": "slow", "messages": user("break")})
        assert e.value.code == 500 and "broken inside" in e.value.read().decode()
        asked = {"model": "slow", "messages": user("?")}
        with ThreadPoolExecutor(8) as pool:
            replies = list(pool.map(lambda _: post(at, asked), range(20)))
        assert {r["choices"][0]["message"]["content"] for r in replies} == {"done"}
        with pytest.raises(urllib.error.HTTPError, match="400"):
            post(at, {**asked, "temperature": 0.5})


RANKED = [
    Request(f"{n}", (Message("user", (Image(PAGE), Text(question))),), choices=choices)
    for n, (question, choices) in enumerate(
        [
            ("What is the date?", ("12 May", "9 June 2021", "no")),
            ("What is the total?", ("1", "12.50", "the date")),
            ("Which number?", ("yes", "no")),
        ]
    )
]


def test_choices_ranked_through_a_server_are_ranked_as_by_the_reference_itself(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NANO_API_KEY", KEY)
    own = {c.id: c for c in ReferenceAdapter("nano").rank(RANKED)}
    through = OpenAIAdapter("nano", url=f"{url}/v1", key_env="NANO_API_KEY")
    asked = [replace(r, id=f"{r.id}-said", choices=()) for r in RANKED]
    with ThreadPoolExecutor(1) as pool:  # answers under way do not disturb, nor are disturbed
        said = pool.submit(lambda: {c.id: c.text for c in through.generate(asked)})
        again = OpenAIAdapter("nano", url=f"{url}/v1", key_env="NANO_API_KEY")
        ranked = {c.id: c for c in again.rank(RANKED)}
    assert said.result() == {c.id: c.text for c in ReferenceAdapter("nano").generate(asked)}
    assert {i: c.text for i, c in ranked.items()} == {i: c.text for i, c in own.items()}
    for id, completion in ranked.items():
        assert completion.logprobs == pytest.approx(own[id].logprobs, abs=1e-4)


def test_a_prompts_likelihood_is_told_for_the_beginning_of_an_answer_alone(url: str) -> None:
    messages = [*user(picture(), "What is the date?"), {"role": "assistant", "content": "12 May"}]
    body = {"model": "nano", "messages": messages, "prompt_logprobs": 0}
    whole = body | {"add_generation_prompt": False, "continue_final_message": True}
    reply = post(url, whole)
    entries = reply["prompt_logprobs"]
    asked = post(url, {"model": "nano", "messages": messages[:1], "max_tokens": 1})["usage"]
    assert len(entries) == reply["usage"]["prompt_tokens"] > asked["prompt_tokens"]
    assert entries[: asked["prompt_tokens"]] == [None] * asked["prompt_tokens"]
    told = [next(iter(e.values()))["logprob"] for e in entries[asked["prompt_tokens"] :]]
    assert all(p < 0 for p in told)
    for wrong in (body, whole | {"prompt_logprobs": 5}, whole | {"messages": messages[:1]},
                  whole | {"stream": True}, whole | {"prompt_logprobs": None},
                  whole | {"messages": messages[1:]}):  # fmt: skip
        with pytest.raises(urllib.error.HTTPError) as e:
            post(url, wrong)
        assert e.value.code == 400 and "prompt_logprobs" in e.value.read().decode()


def test_an_adapter_that_cannot_rank_says_so_and_answers_what_else_is_asked() -> None:
    class Plain(evalkit.ModelAdapter):
        name, fingerprint = "plain", {"adapter": "plain"}

        def generate(self, requests: Any) -> Iterator[evalkit.Completion]:
            yield from (evalkit.Completion(r.id, "done") for r in requests)

    class Sums(Plain):
        name = "sums"

        def rank(self, requests: Any) -> Iterator[evalkit.Completion]:
            yield from (evalkit.Completion(r.id, logprobs=(-1.0,)) for r in requests)

    asked = {"model": "m", "messages": user("?")}
    turn = {"role": "assistant", "content": "yes"}
    ranked = {**asked, "messages": [*user("?"), turn], "prompt_logprobs": 0,
              "add_generation_prompt": False, "continue_final_message": True}  # fmt: skip
    for adapter, told in ((Plain("m"), "can't rank"), (Sums("m"), "none of single tokens")):
        with running(make_app(adapter, Settings("m"))) as at:
            with pytest.raises(urllib.error.HTTPError) as e:
                post(at, ranked)
            assert e.value.code == 400 and told in e.value.read().decode()
            assert post(at, asked)["choices"][0]["message"]["content"] == "done"


class Lanes(evalkit.ModelAdapter):
    """Two at once: each answers once both have a question, and says which lane it is."""

    name, fingerprint, lanes = "lanes", {"adapter": "lanes"}, 2
    both = threading.Barrier(2)

    def generate(self, requests: Any) -> Iterator[evalkit.Completion]:
        raise NotImplementedError

    def converse(self, requests: Any, said: Any) -> Iterator[evalkit.Completion]:
        request = next(requests)
        self.both.wait(timeout=60)
        yield evalkit.Completion(request.id, threading.current_thread().name)


def test_an_adapters_lanes_answer_side_by_side() -> None:
    with running(make_app(Lanes("m"), Settings("lanes"))) as at, ThreadPoolExecutor(2) as pool:
        asked = {"model": "lanes", "messages": user("?")}
        replies = list(pool.map(lambda _: post(at, asked), range(2)))
    assert {r["choices"][0]["message"]["content"] for r in replies} == {"lane-0", "lane-1"}


def test_questions_about_a_page_are_for_the_lane_that_has_it_but_do_not_go_first_for_ever() -> None:
    async def order() -> None:
        def job(id: str, page: str = "") -> Job:
            return Job(Request(id, ()), (page,) if page else ())

        def taken(lane: Lane) -> str | None:
            found = queue.next(lane)
            return found.request.id if found else None

        queue, one, other = Queue(), Lane(), Lane()
        queue.lanes = [one, other]
        for id, page in ("a1", "a"), ("b1", "b"), ("a2", "a"), ("t", ""), ("b2", "b"):
            queue.put(job(id, page))
        assert [taken(one), taken(other), taken(other), taken(other)] == ["a1", "b1", "b2", "t"]
        assert taken(other) is None, "the lane that has the page will ask for it"
        one.busy = False
        assert taken(other) == "a2"
        queue.put(job("waits"))
        for n in range(100):
            queue.put(job(f"a{n}", "a"))
        assert [taken(one) for _ in range(100)].index("waits") == MOST_OVERTAKEN

    asyncio.run(order())


def test_a_request_whose_client_left_before_it_was_begun_ends() -> None:
    async def ask() -> evalkit.Completion:
        job = Job(Request("1", ()), gone=True)
        backend = Backend(ReferenceAdapter("nano"))
        backend.ask(job)
        backend.start()
        try:
            return await asyncio.wait_for(job.done, 30)
        finally:
            backend.close()

    assert "nobody" in str(asyncio.run(ask()).error)


def test_health_and_metrics_say_what_was_done(url: str, client: openai.OpenAI) -> None:
    with urllib.request.urlopen(f"{url}/health") as reply:
        assert json.load(reply) == {"status": "ok"}
    client.chat.completions.create(model="nano", messages=ASKED, max_tokens=2)
    request = urllib.request.Request(f"{url}/metrics", headers={"Authorization": f"Bearer {KEY}"})
    with urllib.request.urlopen(request) as reply:
        text = reply.read().decode()
    values = {k: float(v) for k, v in (line.rsplit(" ", 1) for line in text.splitlines())}
    assert values["evalkit_requests_answered_total"] >= 1
    assert values["evalkit_vision_tokens_total"] > 10
    assert values['evalkit_http_responses_total{status="200"}'] >= 1


def test_the_page_loads_nothing_from_elsewhere_and_runs_no_inline_code(url: str) -> None:
    content = {}
    for path in ("/", "/page.js", "/page.css"):
        with urllib.request.urlopen(url + path) as reply:
            content[path] = reply.read().decode()
            for name, value in HEADERS.items():
                assert reply.headers[name] == value
    assert "unsafe" not in HEADERS["Content-Security-Policy"]
    assert not re.search(r"""\son\w+=|<script>|style=|https?://|javascript:""", content["/"])
    assert "innerHTML" not in content["/page.js"]


def test_the_key_appears_in_no_reply_and_no_output(
    url: str, client: openai.OpenAI, capfd: pytest.CaptureFixture[str]
) -> None:
    seen = []
    for key in (KEY, "wrong"):
        for path in ("/v1/models", "/metrics", "/health", "/", "/v1/nothing"):
            request = urllib.request.Request(url + path, headers={"Authorization": f"Bearer {key}"})
            try:
                with urllib.request.urlopen(request) as reply:
                    seen += [reply.read().decode(), str(reply.headers)]
            except urllib.error.HTTPError as e:
                seen += [e.read().decode(), str(e.headers)]
    out, err = capfd.readouterr()
    assert KEY not in "".join([*seen, out, err])


def test_drawn_answers_depend_on_the_seed_and_on_nothing_beside_them(tmp_path: Path) -> None:
    adapter = ReferenceAdapter(str(write_tiny(tmp_path)))
    message = Message("user", (Text("Tell me"),))

    def asked(id: str, **more: Any) -> Request:
        return Request(id, (message,), 12, **more)

    wanted = [asked(f"s{i}", temperature=1.0, seed=i) for i in range(6)]
    others = [asked(f"greedy{i}") for i in range(3)]
    alone = {r.id: next(iter(adapter.generate([r]))).text for r in [*wanted, *others]}
    together = {c.id: c.text for c in adapter.generate([*others, *wanted])}
    assert together == alone
    assert len({alone[f"s{i}"] for i in range(6)}) > 3
    assert len({alone[f"greedy{i}"] for i in range(3)}) == 1


@pytest.mark.parametrize(
    ("task", "limit"),
    [
        ("docvqa", 6),
        ("video_qa", 3),
        *(
            pytest.param(task, None, marks=pytest.mark.slow)
            for task in ("docvqa", "refcoco", "video_qa", "multilingual_ocr")
        ),
    ],
)
def test_a_served_model_scores_as_the_reference_itself(
    task: str, limit: int | None, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NANO_API_KEY", KEY)
    settings: Any = {"output": tmp_path, "limit": limit, "progress": False}
    own = evalkit.evaluate(task, "nano", **settings)
    served = evalkit.evaluate(
        task, "nano", adapter="openai", url=f"{url}/v1", key_env="NANO_API_KEY", **settings
    )
    assert served.scores == own.scores and not served.errors
    (mine,), (theirs,) = own.cells, served.cells
    assert {i: (r.text, r.parsed) for i, r in theirs.scored().items()} == {
        i: (r.text, r.parsed) for i, r in mine.scored().items()
    }
    assert theirs.results.stats["mismatched"] == 0 < theirs.results.stats["checked"]
