"""Parsers of what others wrote, given what nobody would write: each takes it or says what is wrong
with it in an error of our own. ``make fuzz`` tries many more examples.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from evalkit.config_files import Strict, read_yaml
from evalkit.contents import parsed, read
from evalkit.errors import CheckpointError, DataError, EvalkitError, UsageError
from evalkit.imports.cells import import_answers
from evalkit.imports.readers import read_answers
from evalkit.imports.scales import with_scales
from evalkit.lab.study import Study
from evalkit.metrics.anls import anls
from evalkit.metrics.boxes import iou, parse_box
from evalkit.metrics.choice import parse_choice
from evalkit.metrics.ocr import character_error_rate, mtvqa, ocrbench
from evalkit.metrics.relaxed import relaxed_accuracy
from evalkit.metrics.vqa import vqa_accuracy
from evalkit.models import qwen2_5_vl, qwen3_vl, qwen3_vl_moe
from evalkit.models.qwen2_5_vl import Qwen2_5VLConfig
from evalkit.models.qwen2_vl.config import Qwen2VLConfig
from evalkit.models.qwen3_vl import Qwen3VLConfig
from evalkit.models.qwen3_vl_moe import Qwen3VLMoeConfig
from evalkit.nano import shipped
from evalkit.nano.recipe import Recipe
from evalkit.nano.twins import Twins
from evalkit.records import Record
from evalkit.sweeps import Sweep
from evalkit.task import RowError, Subset, load_task, read_samples, registered, task_class
from evalkit.types import Sample
from tests.runs import run

EXAMPLES = int(os.environ.get("EVALKIT_FUZZ", "25"))
fuzz = settings(
    max_examples=EXAMPLES,
    derandomize="EVALKIT_FUZZ" not in os.environ,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
JSON = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)
NUMBERS = st.sampled_from(["nan", "inf", "-1e308", "9" * 400, "１２", "1,000", "1_0", "٣", "5%"])
ANSWERS = st.text(max_size=60) | st.lists(
    st.sampled_from(list("()[]{}<>,.:;|-% ABCDabcd0123456789\n\x00\u202e")) | NUMBERS, max_size=30
).map("".join)


@st.composite
def damaged(draw: st.DrawFn, whole: bytes) -> bytes:
    """Bytes with some cut out, put in or changed, several times over."""
    data = bytearray(whole)
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(data)))
        stop = min(len(data), start + draw(st.integers(0, 12)))
        data[start:stop] = draw(st.binary(max_size=12) | st.sampled_from([b"\n", b"\x00", b"null"]))
    return bytes(data)


@st.composite
def replaced(draw: st.DrawFn, value: Any) -> Any:
    """A JSON value in which one thing, anywhere, is something else."""
    places = list(_places(value))
    target = draw(st.sampled_from(places))
    new = draw(JSON)

    def copied(inner: Any, at: tuple[Any, ...]) -> Any:
        if at == target:
            return new
        if isinstance(inner, Mapping):
            return {k: copied(v, (*at, k)) for k, v in inner.items()}
        if isinstance(inner, list):
            return [copied(v, (*at, i)) for i, v in enumerate(inner)]
        return inner

    return copied(value, ())


def _places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield at
    pairs = value.items() if isinstance(value, Mapping) else ()
    for key, inner in enumerate(value) if isinstance(value, list) else pairs:
        yield from _places(inner, (*at, key))


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """The lines of a journal that a run wrote."""
    cell = run(tmp_path_factory.mktemp("run")).cell.stored
    return cell.journal_path.read_bytes().splitlines(keepends=True)[:12]


@fuzz
@given(st.data())
def test_a_damaged_journal_loses_no_line_that_is_whole(
    lines: list[bytes], tmp_path: Path, data: st.DataObject
) -> None:
    which = data.draw(st.integers(0, len(lines) - 1))
    line = data.draw(damaged(lines[which].rstrip(b"\n")))
    path = tmp_path / "lines.jsonl"
    path.write_bytes(b"".join([*lines[:which], line, b"\n", *lines[which + 1 :]]))
    try:
        contents = read(path)
    except DataError:
        return
    whole = [parsed(other) for i, other in enumerate(lines) if i != which]
    ids = {r.id for r in whole if isinstance(r, Record)}
    missing = ids - contents.records.keys()
    assert not missing or b"withdrawn" in line, "a whole line was lost"
    for record in contents.records.values():
        assert record.to_json()


@fuzz
@given(st.data())
def test_a_record_with_anything_in_it_is_valid_or_damaged(
    lines: list[bytes], tmp_path: Path, data: st.DataObject
) -> None:
    value = next(v for v in map(json.loads, lines) if "scores" in v)
    path = tmp_path / "lines.jsonl"
    changed = json.dumps(data.draw(replaced(value)), ensure_ascii=True)
    path.write_bytes(lines[0] + changed.encode() + b"\n")
    try:
        contents = read(path)
    except DataError:
        return
    for record in contents.records.values():
        assert isinstance(record.id, str) and isinstance(record.text, str)
        assert all(math.isfinite(v) for v in record.scores.values())
        json.dumps(record.to_json())


KINDS: dict[type[Strict], Path] = {
    Sweep: Path("evalkit/sweeps/mrope.yaml"),
    Study: Path("evalkit/lab/studies/positions.yaml"),
    Recipe: Path("evalkit/nano/recipes/smoke.yaml"),
    Twins: Path("evalkit/nano/recipes/twins/position.yaml"),
}


@fuzz
@given(st.data())
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_a_yaml_file_is_read_or_refused(
    kind: type[Strict], tmp_path: Path, data: st.DataObject
) -> None:
    source = (Path(__file__).parents[1] / KINDS[kind]).read_bytes()
    path = tmp_path / "file.yaml"
    path.write_bytes(data.draw(damaged(source) | st.binary(max_size=60)))
    try:
        assert isinstance(read_yaml(path, kind), kind)
    except UsageError as e:
        assert str(path) in str(e)


CONFIGS: dict[str, tuple[type[Qwen2VLConfig], Qwen2VLConfig]] = {
    "qwen2_vl": (Qwen2VLConfig, Qwen2VLConfig.load(shipped()["nano"])),
    "qwen2_5_vl": (Qwen2_5VLConfig, qwen2_5_vl.RELEASED["Qwen2.5-VL-3B"]),
    "qwen3_vl": (Qwen3VLConfig, qwen3_vl.RELEASED["Qwen3-VL-4B"]),
    "qwen3_vl_moe": (Qwen3VLMoeConfig, qwen3_vl_moe.RELEASED["Qwen3-VL-30B-A3B"]),
}


@fuzz
@given(st.data())
@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_is_read_or_refused(name: str, tmp_path: Path, data: st.DataObject) -> None:
    kind, whole = CONFIGS[name]
    (tmp_path / "config.json").write_text(json.dumps(data.draw(replaced(whole.to_dict()))))
    try:
        config = kind.load(tmp_path)
    except CheckpointError:
        return
    assert config.text.num_hidden_layers > 0 and math.isfinite(config.text.rope_theta)


@fuzz
@given(ANSWERS, ANSWERS, st.lists(ANSWERS, min_size=2, max_size=6))
def test_an_answer_gets_a_score_whatever_it_is(text: str, target: str, options: list[str]) -> None:
    scores: Sequence[float] = [
        anls(text, options),
        relaxed_accuracy(text, target),
        vqa_accuracy(text, options),
        mtvqa(text, target),
        ocrbench(text, options),
    ]
    assert all(0 <= s <= 1 for s in scores), scores
    if target.strip():
        assert 0 <= character_error_rate(text, target) <= 1
    choice = parse_choice(text, options)
    assert choice is None or 0 <= choice < len(options)


@fuzz
@given(ANSWERS, st.sampled_from(["norm1000", "norm1:list", "pixel", "square", "loc1024"]))
def test_a_box_is_read_as_four_finite_numbers_or_not_at_all(text: str, space: Any) -> None:
    try:
        box = parse_box(text, space, 640, 480)
    except ValueError as e:
        pytest.fail(f"{text!r}: {e}")
    if box is not None:
        assert all(map(math.isfinite, box))
        assert 0 <= iou(box, (0.0, 0.0, 640.0, 480.0)) <= 1


EMBEDDED = [name for name in registered() if "mini" in task_class(name).subsets]


class Given:
    """Rows that a test makes."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.given = rows

    def rows(self, override: Path | None = None) -> Iterator[dict[str, Any]]:
        yield from self.given

    def describe(self, override: Path | None = None) -> dict[str, Any]:
        return {"kind": "test"}


@fuzz
@given(st.data())
@pytest.mark.parametrize("name", EMBEDDED)
def test_a_row_with_anything_in_it_is_a_sample_or_a_row_error(
    name: str, data: st.DataObject
) -> None:
    task = load_task(name)
    row = _first_row(name)
    column = data.draw(st.sampled_from(sorted(row)))
    strange = JSON | st.sampled_from(["/dev/zero", "../../etc/passwd", "a" * 5000, "\ud800", ""])
    changed = {**row, column: data.draw(strange)}
    if data.draw(st.booleans()):
        del changed[column]
    task.subset = Subset(Given([changed, dict(row)]), task.subset.budget)  # type: ignore[misc]
    seen = list(read_samples(task))
    assert seen and all(isinstance(s, Sample | RowError) for s in seen)
    assert any(isinstance(s, Sample) for s in seen), "the good row is unharmed"


ROWS: dict[str, dict[str, Any]] = {}


def _first_row(name: str) -> dict[str, Any]:
    if name not in ROWS:
        ROWS[name] = dict(next(iter(load_task(name).source.rows(None))))
    return ROWS[name]


_ASKED = {"type": "text", "text": "Which is one of A,B?\nA) x\nB) y"}
_CHAT = [
    {"role": "user", "content": [{"type": "image", "image": "data:x"}, _ASKED]},
    {"role": "assistant", "content": "ANSWER: A"},
]
_SCORE = {
    "value": {"accuracy": 1.0}, "status": "success", "prediction": "ANSWER: A",
    "extracted_prediction": "A", "metadata": {"metric_errors": {"BLEU": "why"}},
}  # fmt: skip
_METRIC = {
    "identity": {"name": "accuracy", "aggregation": "mean", "dimensions": {}},
    "categories": [{"subsets": [{"name": "val", "score": 1.0}]}],
    "semantics": {"value_range": {"min": 0, "max": 1}, "direction": "higher_is_better"},
}
IMPORTED: Mapping[str, Mapping[str, Any]] = {
    "EvalScope": {
        "reviews/m/set_val.jsonl": {
            "index": 0, "target": ["A"], "messages": _CHAT,
            "sample_score": {"score": _SCORE, "group_id": 0, "sample_metadata": {"id": "q"}},
        },
        "predictions/m/set_val.jsonl": {
            "index": 0, "model_output": {"choices": [{"message": _CHAT[1]}], "error": None},
            "messages": _CHAT, "metadata": {"id": "q"},
        },
        "reports/m/set.json": {
            "metrics": [_METRIC],
            "execution_summary": {"subsets": {"val": {"requested": 2, "errored": 1}}},
        },
    },
    "EvalScope 1.0": {
        "reviews/m/set_val.jsonl": {
            "index": 0, "target": '["A"]', "input": "**User**: \nA?\n![image](data:x)",
            "sample_score": {"score": _SCORE, "group_id": 0},
        },
    },
    "lmms-eval": {
        "1_samples_set.jsonl": {
            "doc_id": 0, "doc": {"id": "q", "question": "?"}, "target": "['A', 'B']",
            "filtered_resps": ["A"], "input": "?", "anls": 1.0, "acc": {"score": True},
            "hit": {"pred_answer": "A", "answer": "A"},
        },
        "1_results.json": {"model_name": "m", "higher_is_better": {"set": {"anls": True}}},
    },
    "VLMEvalKit": {
        "m_DocVQA_VAL_results.json": [
            {
                "index": 1, "question": "?", "answer": "['A']", "prediction": "A",
                "eval_match": "[0.0]", "eval_score": 0.0,
            },
        ],
    },
}  # fmt: skip


@pytest.mark.parametrize("harness", IMPORTED)
@fuzz
@given(data=st.data())
def test_a_file_of_another_harness_is_read_or_refused(
    harness: str, tmp_path: Path, data: st.DataObject
) -> None:
    first, *_ = files = list(IMPORTED[harness])
    odd = data.draw(st.sampled_from(files))
    for name, value in IMPORTED[harness].items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        written = data.draw(replaced(value)) if name == odd else value
        (tmp_path / name).write_text(f"{json.dumps(written)}\n")
    try:
        (answers,) = with_scales([read_answers(tmp_path / first)])
        imported = import_answers(answers, tmp_path / "out", metric="anls", model="m")
    except EvalkitError:
        return
    assert all(math.isfinite(v) for r in imported.records for v in r.scores.values())
