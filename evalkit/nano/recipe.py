"""A training recipe: everything that decides what comes out, read from YAML and checked."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from evalkit.config_files import Strict, find_shipped, read_yaml, yaml_quotes
from evalkit.errors import UsageError
from evalkit.models.qwen2_vl.switches import Switches

from .families import Family


class ModelSize(Strict):
    """Widths and depths; the defaults are those with which ``nano`` begins (3.1 million
    parameters).
    """

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
    """Where a family's difficulty starts, and the accuracy above which it rises; without a gate it
    stays.

    ``near``: the share of scenes within 0.15 below that difficulty; the others are spread evenly
    from 0 up to it. ``seconds``: shortest and longest clip, in half seconds, instead of lengths
    that go with the difficulty (clips only).
    """

    start: float = Field(default=0.0, ge=0, le=1)
    gate: float | None = Field(default=0.55, gt=0, lt=1)
    near: float = Field(default=0.75, ge=0, le=1)
    seconds: tuple[float, float] | None = None


class Stage(Strict):
    """A part of the run: how often each family is drawn, and how fast each half of the model learns
    (0: frozen).

    The halves are the paper's (section 2.2): the vision tower and the language model. The merger
    between them learns with the faster.
    """

    name: str
    steps: int = Field(gt=0)
    weights: dict[Family, Annotated[float, Field(gt=0)]] = Field(min_length=1)
    vision: float = Field(default=1.0, ge=0, le=1)
    language: float = Field(default=1.0, ge=0, le=1)

    @model_validator(mode="after")
    def _learns(self) -> Stage:
        if not (self.vision or self.language):
            raise ValueError("vision and language are both 0: nothing would learn")
        return self


class Recipe(Strict):
    """One training run.

    ``learning_rate`` is AdamW's; with ``muon`` set, matrices inside the blocks are Muon's, at that
    rate. Both are constant until the share ``decay_from`` of the steps, then fall. ``batch``:
    scenes a step, all of one family, drawn ``ahead`` steps before they are needed with the
    difficulties of that time. ``bfloat16``: mixed precision, where it need not be emulated.
    ``compile`` fuses element-wise parts: a tenth less time a step, measured on two CPU threads, for
    half a minute at the start. ``switches`` are ablation switches that the model is trained under.
    """

    schema_version: Literal[2] = 2
    name: str
    seed: int = Field(default=0, ge=0)
    batch: int = Field(default=24, gt=0)
    ahead: int = Field(default=6, gt=1)
    learning_rate: float = Field(default=5e-4, gt=0)
    muon: float | None = Field(default=2.5e-3, gt=0)
    warmup: int = Field(default=200, ge=0)
    decay_from: float = Field(default=0.5, ge=0, lt=1)
    weight_decay: float = Field(default=0.01, ge=0)
    bfloat16: bool = True
    compile: bool = False
    model: ModelSize = ModelSize()
    families: dict[Family, Ladder]
    stages: tuple[Stage, ...] = Field(min_length=1)
    switches: dict[str, Any] = Field(default_factory=dict)

    @property
    def steps(self) -> int:
        return sum(stage.steps for stage in self.stages)

    def stage(self, step: int) -> Stage:
        """The stage that a step belongs to."""
        for stage in self.stages:
            if step < stage.steps:
                return stage
            step -= stage.steps
        return self.stages[-1]

    @model_validator(mode="after")
    def _fits(self) -> Recipe:
        try:
            Switches().with_(self.switches)
        except UsageError as e:
            raise ValueError(f"switches: {e}{yaml_quotes(self.switches)}") from None
        for family, ladder in self.families.items():
            if ladder.seconds and (
                family != "clips" or not 2 <= ladder.seconds[0] <= ladder.seconds[1]
            ):
                raise ValueError(
                    f"families.{family}.seconds: only clips have a length, of 2 seconds or "
                    "more, shortest first"
                )
        for stage in self.stages:
            if strange := sorted(set(stage.weights) - set(self.families)):
                raise ValueError(
                    f"stage {stage.name}: weights: {', '.join(strange)} not among families"
                )
        return self


def find_recipe(name: str) -> Path:
    """The file of a shipped recipe, or the given file. Raises UsageError with the shipped names."""
    return find_shipped(name, Path(__file__).parent / "recipes", "recipes")


def load_recipe(path: Path) -> Recipe:
    """Reads a YAML recipe. Raises UsageError that names the file and the field."""
    return read_yaml(path, Recipe)
