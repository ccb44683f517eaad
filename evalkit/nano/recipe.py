"""A training recipe: everything that decides what comes out, read from YAML and checked."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from evalkit.config_files import Strict, find_shipped, read_yaml, yaml_quotes
from evalkit.errors import UsageError
from evalkit.models.qwen2_vl.switches import Switches
from evalkit.nano.families import Family


class ModelSize(Strict):
    """Widths and depths; the defaults are those with which ``nano`` begins (3.1 million
    parameters).
    """

    vision_depth: int = Field(default=4, ge=1)
    """Layers of the vision tower."""
    vision_width: int = Field(default=128, ge=16)
    """Its hidden size."""
    vision_heads: int = Field(default=4, ge=1)
    """Its attention heads."""
    depth: int = Field(default=4, ge=1)
    """Layers of the decoder."""
    width: int = Field(default=192, ge=16)
    """Its hidden size."""
    heads: int = Field(default=3, ge=1)
    """Its attention heads."""
    kv_heads: int = Field(default=1, ge=1)
    """Its key-value heads."""
    intermediate: int = Field(default=512, ge=16)
    """Width of its MLPs."""
    rope_theta: float = Field(default=10.0, gt=1)
    """The base of its RoPE."""


class Ladder(Strict):
    """How the difficulty of a family's scenes rises as the model learns."""

    start: float = Field(default=0.0, ge=0, le=1)
    """The difficulty at the beginning."""
    gate: float | None = Field(default=0.55, gt=0, lt=1)
    """The accuracy above which it rises; null: it stays."""
    near: float = Field(default=0.75, ge=0, le=1)
    """The share of scenes within 0.15 below the difficulty; the others are spread evenly from 0."""
    seconds: tuple[float, float] | None = None
    """Shortest and longest clip, in steps of half a second; by default lengths that go with the
    difficulty (clips only)."""


class Stage(Strict):
    """A part of the run: which data, and which parameter groups learn.

    The groups are the paper's (section 2.2): the vision tower and the language model. The merger
    between them learns with the faster.
    """

    name: str
    """Of the stage."""
    steps: int = Field(gt=0)
    """How many."""
    weights: dict[Family, Annotated[float, Field(gt=0)]] = Field(min_length=1)
    """How often each family is drawn, in proportion."""
    vision: float = Field(default=1.0, ge=0, le=1)
    """Factor on the vision tower's learning rate; 0: frozen."""
    language: float = Field(default=1.0, ge=0, le=1)
    """Factor on the language model's learning rate; 0: frozen."""

    @model_validator(mode="after")
    def _learns(self) -> Stage:
        if not (self.vision or self.language):
            raise ValueError("vision and language are both 0: nothing would learn")
        return self


class Recipe(Strict):
    """One training run."""

    schema_version: Literal[2] = 2
    """Of this layout."""
    name: str
    """Of the run."""
    seed: int = Field(default=0, ge=0)
    """Decides initial weights and data."""
    batch: int = Field(default=24, gt=0)
    """Scenes a step, all of one family."""
    ahead: int = Field(default=6, gt=1)
    """Scenes are drawn so many steps before they are needed, with the difficulties of that time."""
    learning_rate: float = Field(default=5e-4, gt=0)
    """AdamW's; constant until `decay_from`, then it falls."""
    muon: float | None = Field(default=2.5e-3, gt=0)
    """Muon's learning rate, for the matrices inside the blocks; null: AdamW for all."""
    warmup: int = Field(default=200, ge=0)
    """Steps in which the learning rates rise."""
    decay_from: float = Field(default=0.5, ge=0, lt=1)
    """The share of the steps after which the learning rates fall."""
    weight_decay: float = Field(default=0.01, ge=0)
    """Of all matrices."""
    bfloat16: bool = True
    """Mixed precision, where it need not be emulated."""
    compile: bool = False
    """Fuses element-wise parts: a tenth less time a step, measured on two CPU threads, for half a
    minute at the start."""
    model: ModelSize = ModelSize()
    """Widths and depths."""
    families: dict[Family, Ladder]
    """Kinds of scenes, and their difficulty."""
    stages: tuple[Stage, ...] = Field(min_length=1)
    """Parts of the run, one after the other."""
    switches: dict[str, Any] = Field(default_factory=dict)
    """Ablation switches that the model is trained with."""

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
            Switches().with_(self.switches).check_trained()
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
