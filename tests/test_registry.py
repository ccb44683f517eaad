"""Families are found by their model_type."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest

from evalkit.errors import CheckpointError
from evalkit.models.registry import family, model_type, register
from tests.tiny import write_tiny


def test_a_checkpoint_is_loaded_by_the_family_that_its_config_names(tmp_path: Path) -> None:
    folder = write_tiny(tmp_path)
    found = family(model_type(folder))
    model = found.load(folder)
    assert model.cache_shape.layers == 2
    assert found.box_space == "norm1000"


def test_a_family_can_be_added_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("toy_family")
    monkeypatch.setitem(sys.modules, "toy_family", module)
    monkeypatch.setattr("evalkit.models.registry.FAMILIES", {})
    register("toy", "toy_family")
    assert family("toy") is module


def test_an_unknown_family_is_refused_with_the_known_ones() -> None:
    with pytest.raises(CheckpointError, match="'llava' is not implemented here.*qwen2_vl"):
        family("llava")


@pytest.mark.parametrize("content", [None, "{", "[]", "{}"])
def test_a_config_without_a_model_type_is_refused_by_its_path(
    tmp_path: Path, content: str | None
) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content, encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"config\.json"):
        model_type(tmp_path)
