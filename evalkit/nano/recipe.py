"""A training recipe: everything that decides what comes out, read from YAML and checked."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from evalkit.errors import UsageError
from evalkit.qwen2vl.ablation import Ablation

from .scene import Family


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelSize(Strict):
    """Widths and depths; the defaults are those of ``nano`` (3.1 million parameters)."""

    vision_depth: int = Field(default=4, ge=1)
    vision_width: int = Field(default=128, ge=16)
    vision_heads: int = Field(default=4, ge=1)
    depth: int = Field(default=4, ge=1)
    width: int = Field(default=192, ge=16)
    heads: int = Field(default=3, ge=1)
    kv_heads: int = Field(default=1, ge=1)
    intermediate: int = Field(default=512, ge=16)
    rope_theta: float = Field(default=10.0, gt=1)


class Ladder(Strict):
    """Where a family's difficulty starts, and the accuracy above which it rises."""

    start: float = Field(default=0.0, ge=0, le=1)
    gate: float = Field(default=0.55, gt=0, lt=1)


def known_switches() -> set[str]:
    return {f.name for f in fields(Ablation)}


class Recipe(Strict):
    """One training run.

    ``weights``: how often each family is drawn, from the step that is the key on. ``learning_rate`` is constant until the share
    ``decay_from`` of the steps, then falls. ``switches`` are ablation switches that the model is trained under.
    """

    schema_version: Literal[1] = 1
    name: str
    seed: int = Field(default=0, ge=0)
    steps: int = Field(gt=0)
    batch: int = Field(default=24, gt=0)
    learning_rate: float = Field(default=5e-4, gt=0)
    warmup: int = Field(default=200, ge=0)
    decay_from: float = Field(default=0.5, ge=0, lt=1)
    weight_decay: float = Field(default=0.01, ge=0)
    bfloat16: bool = True
    model: ModelSize = ModelSize()
    families: dict[Family, Ladder]
    weights: dict[int, dict[Family, float]]
    switches: dict[str, Any] = {}

    @model_validator(mode="after")
    def _fits(self) -> Recipe:
        Ablation(**{k: v for k, v in self.switches.items() if k in known_switches()})
        if unknown := sorted(set(self.switches) - known_switches()):
            raise ValueError(f"switches: {', '.join(unknown)} unknown")
        if 0 not in self.weights:
            raise ValueError("weights: needs an entry for step 0")
        for first, mix in self.weights.items():
            if strange := sorted(set(mix) - set(self.families)):
                raise ValueError(f"weights at step {first}: {', '.join(strange)} not among families")
            if not mix or min(mix.values()) <= 0:
                raise ValueError(f"weights at step {first}: every weight must be above 0")
        return self


def find_recipe(name: str) -> Path:
    """The file of a shipped recipe, or the given file. Raises UsageError with the shipped names."""
    shipped = {p.stem: p for p in (Path(__file__).parent / "recipes").glob("*.yaml")}
    path = shipped.get(name, Path(name))
    if not path.is_file():
        raise UsageError(f"{name}: no such file, and not one of the shipped recipes: {', '.join(sorted(shipped))}")
    return path


def load_recipe(path: Path) -> Recipe:
    """Reads a YAML recipe. Raises UsageError that names the file and the field."""
    try:
        return Recipe.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except OSError as e:
        raise UsageError(f"{path}: {e.strerror}") from None
    except yaml.YAMLError as e:
        raise UsageError(f"{path}: not YAML: {e}") from None
    except ValidationError as e:
        faults = "; ".join(f"{'.'.join(map(str, f['loc']))}: {f['msg']}" for f in e.errors())
        raise UsageError(f"{path}: {faults}") from None
