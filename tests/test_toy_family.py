"""A model family from outside runs through everything without a line changed elsewhere."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import evalkit
from evalkit.adapter import make_adapter
from evalkit.engine import Engine, Media, Prompt, Visual
from evalkit.errors import CheckpointError, UsageError
from evalkit.models.registry import family_of
from tests import toy_family

SWEEP = """
name: toy
question: Does a toy see colours?
tasks: [docvqa]
limit: 2
baseline: {colour: "on"}
axes:
  colour: ["on", "off"]
"""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy_family.write(tmp_path_factory.mktemp("toy") / "toy-1")


def prompts() -> list[Prompt]:
    out = []
    for i in range(5):
        patches = torch.full((1, 3), 40 * i, dtype=torch.uint8)
        visual = Visual(patches, Media((1, 1, 1)), i, toy_family.Processor().normalise)
        ids = (toy_family.IMAGE, *range(60, 63 + i))
        out.append(Prompt(str(i), ids, (visual,), max_new_tokens=6))
    return out


def test_the_engine_gives_each_prompt_the_answer_it_gives_it_alone(checkpoint: Path) -> None:
    model = family_of(checkpoint).load(checkpoint)
    answers = {o.id: o.ids for o in Engine(model, frozenset()).generate(prompts())}
    for prompt in prompts():
        (alone,) = Engine(model, frozenset()).generate([prompt])
        assert answers[prompt.id] == alone.ids
    assert len(set(answers.values())) > 1


def test_its_switches_are_those_of_the_adapter(checkpoint: Path) -> None:
    adapter = make_adapter("reference", str(checkpoint), {"colour": "off"})
    assert list(type(adapter).switches(str(checkpoint))) == ["colour"]
    assert adapter.fingerprint["switches"] == adapter.blind == {"colour": "off"}
    assert adapter.fingerprint["inference_probe"]
    with pytest.raises(UsageError, match="position"):
        make_adapter("reference", str(checkpoint), {"position": "rope1d"})


def test_it_is_evaluated_swept_and_reported(checkpoint: Path, tmp_path: Path) -> None:
    result = evalkit.evaluate(
        ["docvqa", "video_qa"],
        model=str(checkpoint),
        output=tmp_path / "a",
        limit=2,
        progress=False,
    )
    assert len(evalkit.load_samples(tmp_path / "a")) == 4
    assert result is not None
    (tmp_path / "toy.yaml").write_text(SWEEP)
    swept = evalkit.sweep(tmp_path / "toy.yaml", model=str(checkpoint), output=tmp_path / "b")
    assert list(swept.frame["settings"]) == ["colour=on", "colour=off"]
    assert list(swept.frame["kind"]) == ["baseline", "inference probe"]
    assert not swept.errors
    assert "toy" in (tmp_path / "b" / "report.html").read_text(encoding="utf-8")


def test_a_type_that_no_family_has_is_named_with_those_there_are(
    checkpoint: Path, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "mamba"}')
    with pytest.raises(CheckpointError, match="'mamba' is not implemented here.*qwen2_vl.*toy"):
        family_of(tmp_path)
