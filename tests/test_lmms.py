"""evalkit as a model of lmms-eval, against the parts of lmms-eval 0.7.3 that it touches, rebuilt
here (lmms-eval itself pulls 1.5 GB).
"""

from __future__ import annotations

import io
import sys
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from PIL import Image as PILImage

from evalkit.errors import DataError, UsageError
from evalkit.types import Completion, Image, Request, Text, TokenCounts, Video


@dataclass
class Instance:
    arguments: tuple[Any, ...]
    task_name: str = "task"
    doc_id: int = 0

    @property
    def args(self) -> tuple[Any, ...]:
        return self.arguments


@dataclass
class Counts:
    input_tokens: int | None = None
    output_tokens: int | None = None


@dataclass
class Result:
    text: str
    token_counts: Counts | None = None


@dataclass(frozen=True)
class Manifest:
    model_id: str
    simple_class_path: str | None = None
    chat_class_path: str | None = None


class Base:
    def __init__(self) -> None:
        self.task_dict: dict[str, Any] = {}


@pytest.fixture
def lmms(monkeypatch: pytest.MonkeyPatch) -> Any:
    """evalkit.integrations.lmms_eval, imported over stand-ins."""
    contents: dict[str, dict[str, Any]] = {
        "lmms_eval": {},
        "lmms_eval.api": {},
        "lmms_eval.models": {},
        "lmms_eval.api.instance": {
            "GenerationResult": Result,
            "Instance": Instance,
            "TokenCounts": Counts,
        },
        "lmms_eval.api.model": {"lmms": Base},
        "lmms_eval.models.registry_v2": {"ModelManifest": Manifest},
    }
    for name, names in contents.items():
        module = ModuleType(name)
        vars(module).update(names)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.delitem(sys.modules, "evalkit.integrations.lmms_eval", raising=False)
    import evalkit.integrations.lmms_eval

    yield evalkit.integrations.lmms_eval
    sys.modules.pop("evalkit.integrations.lmms_eval")


class Answers:
    """An adapter that answers last things first, and says ``answers[id]``."""

    def __init__(self, *answers: str | Completion) -> None:
        self.answers = answers
        self.asked: list[Request] = []

    def generate(self, requests: Any) -> Any:
        self.asked = list(requests)
        for r in reversed(self.asked):
            answer = self.answers[int(r.id)]
            yield (
                Completion(r.id, answer, tokens=TokenCounts(3, 4, 5))
                if isinstance(answer, str)
                else answer
            )


def model(lmms: Any, adapter: Any, docs: list[Any]) -> Any:
    made = lmms.Evalkit.__new__(lmms.Evalkit)
    made.task_dict, made.adapter = {"task": {"test": docs}}, adapter
    return made


def instances(n: int, **settings: Any) -> list[Instance]:
    return [
        Instance(
            ("", lambda doc: doc, {"max_new_tokens": 7, **settings}, i, "task", "test"), doc_id=i
        )
        for i in range(n)
    ]


def user(*parts: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"role": "user", "content": list(parts)}]


def test_the_entry_point_names_a_chat_model(lmms: Any) -> None:
    (entry,) = entry_points(group="lmms_eval.models", name="evalkit")
    manifest = entry.load()()
    assert manifest.model_id == "evalkit"
    module, _, name = manifest.chat_class_path.rpartition(".")
    assert getattr(sys.modules[module], name).is_simple is False


def test_answers_come_back_in_order_with_their_tokens(lmms: Any) -> None:
    docs = [user({"type": "text", "text": str(i)}) for i in range(3)]
    adapter = Answers("a", "b", "c")
    out = model(lmms, adapter, docs).generate_until(instances(3))
    assert [r.text for r in out] == ["a", "b", "c"]
    assert out[0].token_counts == Counts(7, 5)
    assert [r.max_new_tokens for r in adapter.asked] == [7, 7, 7]


def test_pictures_arrive_bit_for_bit(lmms: Any) -> None:
    picture = PILImage.effect_noise((40, 30), 90).convert("RGB")
    adapter = Answers("x")
    doc = user(
        {"type": "image", "url": picture},
        {"type": "text", "text": "What?"},
        {"type": "video", "url": "a.mp4", "start_time": 1.0},
    )
    model(lmms, adapter, [doc]).generate_until(instances(1))
    image, text, video = adapter.asked[0].messages[0].content
    assert isinstance(image, Image)
    assert PILImage.open(io.BytesIO(image.read())).tobytes() == picture.tobytes()
    assert text == Text("What?")
    assert video == Video(Path("a.mp4"), 1.0, None)


@pytest.mark.parametrize(
    ("until", "text"),
    [
        ("END", "one\n\ntwo "),
        (["two", "one"], ""),
        (["\n\n"], "one\n\ntwo END"),
        ([""], "one\n\ntwo END"),
        (None, "one\n\ntwo END"),
    ],
)
def test_an_answer_ends_before_the_first_stop_but_the_default(
    lmms: Any, until: Any, text: str
) -> None:
    out = model(lmms, Answers("one\n\ntwo END"), [user()]).generate_until(instances(1, until=until))
    assert out[0].text == text


@pytest.mark.parametrize(
    "settings", [{"temperature": 0.7}, {"num_beams": 4}, {"temperature": 1, "do_sample": True}]
)
def test_what_is_not_greedy_is_refused_before_anything_runs(
    lmms: Any, settings: dict[str, Any]
) -> None:
    adapter = Answers("x")
    with pytest.raises(UsageError, match="greedily"):
        model(lmms, adapter, [user()]).generate_until(instances(1, **settings))
    assert not adapter.asked


def test_a_request_without_an_answer_is_named(lmms: Any) -> None:
    failing = Answers("x", Completion("1", finish_reason="error", error="unreadable image"))
    with pytest.raises(DataError, match="task, document 1: unreadable image"):
        model(lmms, failing, [user(), user()]).generate_until(instances(2))


def test_sound_is_refused_by_name(lmms: Any) -> None:
    with pytest.raises(UsageError, match="sends audio"):
        model(lmms, Answers("x"), [user({"type": "audio", "url": b""})]).generate_until(
            instances(1)
        )


def test_it_is_the_reference_adapter_with_its_switches(lmms: Any) -> None:
    made = lmms.Evalkit("nano", batch_size=1, device="cpu", position="rope1d")
    assert made.adapter.fingerprint["switches"] == {"position": "rope1d"}
    picture = PILImage.new("RGB", (56, 56), "red")
    made.task_dict = {
        "task": {
            "test": [
                user({"type": "image", "url": picture}, {"type": "text", "text": "What colour?"})
            ]
        }
    }
    assert isinstance(made.generate_until(instances(1))[0].text, str)
    with pytest.raises(UsageError, match="unknown argument"):
        lmms.Evalkit("nano", speed=3)
