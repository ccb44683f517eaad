"""Twins: models trained alike but for one choice, and what the choice was worth, with intervals
over seeds.

Every arm of a seed has the same initialisation, data order and number of steps, so that their
difference is the choice's. Difficulty must not follow accuracy here (no gates): better arms would
see harder data.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import pandas as pd
import yaml
from pydantic import Field, model_validator
from scipy import stats

from evalkit.config_files import Strict, find_shipped, read_yaml
from evalkit.engine import Engine, Media, Prompt, Visual
from evalkit.files import remove_parts, replace
from evalkit.metrics.boxes import from_xywh, iou, parse_box
from evalkit.models.qwen2_vl.checkpoint import load
from evalkit.models.qwen2_vl.config import Qwen2VLConfig
from evalkit.models.qwen2_vl.model import Qwen2VL
from evalkit.models.qwen2_vl.processing import Processor
from evalkit.models.qwen2_vl.rope import grid_tokens
from evalkit.nano import tokenizer
from evalkit.nano.batches import BOXES, HEAD, TURN, encode, pixels, prompt
from evalkit.nano.families import Family, draw
from evalkit.nano.recipe import Recipe
from evalkit.nano.scene import Question, Scene, stream
from evalkit.nano.train import train

logger = logging.getLogger(__name__)
SHIPPED = Path(__file__).parent / "recipes" / "twins"


class Condition(Strict):
    """Scenes on which the arms are compared."""

    family: Family
    """What kind of scene."""
    difficulty: float = Field(ge=0, le=1)
    """From 0, the easiest, to 1."""
    seconds: float | None = Field(default=None, gt=0)
    """Length of the clips (clips only); goes with the difficulty by default."""
    scenes: int = Field(default=200, gt=0)
    """How many, drawn from a seed of their own."""

    @model_validator(mode="after")
    def _only_clips_have_a_length(self) -> Condition:
        if self.seconds is not None and self.family != "clips":
            raise ValueError(f"seconds: only clips have a length, {self.family} have none")
        return self


class Twins(Strict):
    """A file of twins: models that are trained alike but for one thing."""

    schema_version: Literal[1] = 1
    """Of this layout."""
    name: str
    """Of the folder that the tables go to."""
    question: str
    """What the twins are to answer, shown above the tables."""
    note: str = ""
    """What a reader must know before quoting the tables, shown above them."""
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = (0, 1, 2)
    """Every arm is trained once with each."""
    recipe: dict[str, Any]
    """A training recipe without name and seed, shared by all arms."""
    arms: dict[str, dict[str, Any]] = Field(min_length=2)
    """Arms by name, each with the fields of the recipe that it replaces."""
    baseline: str
    """The arm that the others are compared with."""
    conditions: dict[str, Condition] = Field(min_length=1)
    """Scenes to measure on, by name."""

    @property
    def command(self) -> str:
        """The command that repeats these twins."""
        return shlex.join(["evalkit", "twins", self.file(SHIPPED) or self.name])

    def arm(self, name: str, seed: int) -> Recipe:
        return Recipe.model_validate(
            self.recipe | self.arms[name] | {"name": self.name, "seed": seed}
        )

    @model_validator(mode="after")
    def _fits(self) -> Twins:
        if self.baseline not in self.arms:
            raise ValueError(f"baseline: {self.baseline} is not among the arms")
        if len(set(self.seeds)) != len(self.seeds) or not self.seeds:
            raise ValueError("seeds: at least one, each once")
        for name in self.arms:
            recipe = self.arm(name, 0)
            if gated := [f for f, ladder in recipe.families.items() if ladder.gate is not None]:
                raise ValueError(
                    f"arm {name}: families {', '.join(gated)}: twins need gate: null, or "
                    "better arms see harder data"
                )
            if recipe.steps != self.arm(self.baseline, 0).steps:
                raise ValueError(
                    f"arm {name}: {recipe.steps} steps, the baseline has another number: not "
                    "the same compute"
                )
        return self


def find_twins(name: str) -> Path:
    """The file of shipped twins, or the given file. Raises UsageError with the shipped names."""
    return find_shipped(name, SHIPPED, "twins")


def load_twins(path: Path) -> Twins:
    """Reads a YAML file of twins. Raises UsageError that names the file and the field."""
    return read_yaml(path, Twins)


def run_twins(twins: Twins, out: Path) -> pd.DataFrame:
    """Trains what is not trained yet, measures, and writes ``scores.csv``, ``differences.csv`` and
    ``README.md`` to ``out/<name>``.

    Beside the arms, the baseline is run under the other arms' switches: the inference probe, told
    apart by ``run_as``. Models stay under ``out/runs`` by a digest of their recipe, so that arms
    which several files share are trained once. Returns the differences.
    """
    rows = []
    for seed in twins.seeds:
        for arm in twins.arms:
            recipe = twins.arm(arm, seed)
            folder = out / "runs" / digest(recipe)
            if not (folder / "model" / "model.safetensors").is_file():
                logger.info("%s: %s, seed %d: %s", twins.name, arm, seed, folder)
                train(recipe, folder)
            remove_parts(folder / "model")
            probes = (
                {a: twins.arm(a, seed).switches for a in twins.arms if a != arm}
                if arm == twins.baseline
                else {}
            )
            trained = Qwen2VLConfig.load(folder / "model").trained
            for run_as, switches in {arm: {}, **{a: s for a, s in probes.items() if s}}.items():
                model = load(folder / "model", switches=trained.with_(switches))
                for name, condition in twins.conditions.items():
                    where = {
                        "arm": arm,
                        "run_as": run_as,
                        "seed": seed,
                        "model": f"runs/{folder.name}/model",
                        "condition": name,
                        "n_scenes": condition.scenes,
                    }
                    rows.append(where | {"accuracy": measure(model, condition)})
    scores = pd.DataFrame(rows)
    table = differences(scores, twins)
    folder = out / twins.name
    remove_parts(folder)
    for name, frame in (("scores", scores), ("differences", table)):
        replace(folder / f"{name}.csv", frame.round(3).to_csv(index=False))
    replace(folder / "README.md", page(twins, scores, table))
    return table


def digest(recipe: Recipe) -> str:
    """12 hex digits that tell a recipe from others, whatever it is called."""
    content = recipe.model_dump(mode="json") | {"name": ""}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]


def measure(model: Qwen2VL, condition: Condition) -> float:
    """Per cent of questions answered right (exactly; boxes at IoU 0.5 or more), on scenes that all
    arms share.
    """
    key = int.from_bytes(hashlib.sha256(condition.model_dump_json().encode()).digest()[:4])
    scenes = [_scene(condition, key, i) for i in range(condition.scenes)]
    right = total = 0
    for scene, texts in zip(scenes, answer(model, condition.family, scenes)):
        for question, text in zip(scene.questions, texts):
            total += 1
            right += (
                _found(question, text, scene)
                if condition.family in BOXES
                else text == question.answer
            )
    return 100 * right / total


def answer(model: Qwen2VL, family: Family, scenes: Sequence[Scene]) -> list[list[str]]:
    """What the model writes to each question of each scene."""
    processor, words = Processor(switches=model.switches), tokenizer.build()
    stop, pad = (
        encode("<|im_end|>")[0],
        encode("<|video_pad|>" if family == "clips" else "<|image_pad|>"),
    )
    prompts = []
    for i, scene in enumerate(scenes):
        patches, grid = pixels(scene, processor)
        visual = Visual(patches, Media(grid, is_video=family == "clips"), i)
        head = [*encode(HEAD), *pad * grid_tokens(grid)]
        for j, question in enumerate(scene.questions):
            ids = (*head, *encode("<|vision_end|>" + prompt(family, question) + TURN))
            prompts.append(Prompt(f"{i} {j}", ids, (visual,), 32, prefix=len(head)))
    texts = {
        o.id: words.decode(o.ids, skip_special_tokens=False)
        for o in Engine(model, frozenset([stop])).generate(prompts)
    }
    return [[texts[f"{i} {j}"] for j in range(len(s.questions))] for i, s in enumerate(scenes)]


def _found(question: Question, text: str, scene: Scene) -> bool:
    assert question.box is not None and scene.image is not None
    box = parse_box(text, "norm1000", *scene.image.size)
    return box is not None and iou(box, from_xywh(question.box)) >= 0.5


def _scene(condition: Condition, key: int, i: int) -> Scene:
    rng = stream("dev", 1, key, i)
    return draw(condition.family, condition.difficulty, rng, condition.seconds)


def differences(scores: pd.DataFrame, twins: Twins) -> pd.DataFrame:
    """Each trained arm minus the baseline, by condition: the mean over seeds and its 95 % interval
    (Student's t on the paired seeds).
    """
    wide = scores[scores.run_as == scores.arm].pivot(
        index=["condition", "seed"], columns="arm", values="accuracy"
    )
    out = []
    for condition in twins.conditions:
        for arm in twins.arms:
            if arm == twins.baseline:
                continue
            delta = (wide[arm] - wide[twins.baseline]).loc[condition]
            row = {
                "condition": condition,
                "arm": arm,
                "baseline": twins.baseline,
                "difference": delta.mean(),
                "seeds": len(delta),
            }
            low = high = None
            if len(delta) > 1:
                reach = (
                    float(stats.t.ppf(0.975, len(delta) - 1))
                    * float(delta.std(ddof=1))
                    / len(delta) ** 0.5
                )
                low, high = delta.mean() - reach, delta.mean() + reach
            out.append(row | {"ci_low": low, "ci_high": high})
    return pd.DataFrame(out)


def page(twins: Twins, scores: pd.DataFrame, table: pd.DataFrame) -> str:
    """The findings in markdown: scores by seed, differences, and in words which are significant."""
    lines = [
        f"<!-- schema_version: 1; made by: {twins.command} -->",
        f"# {twins.name}",
        "",
        twins.question,
        "",
    ]
    lines += [f"> {twins.note}", ""] if twins.note else []
    recipe = twins.arm(twins.baseline, twins.seeds[0])
    lines += [
        f"Trained arms, {recipe.steps} steps of {recipe.batch} scenes each, {len(twins.seeds)} "
        "seeds; per cent of answers right (boxes: IoU of 0.5 or more).",
        "",
    ]
    lines += [
        "| condition | arm | " + " | ".join(f"seed {s}" for s in twins.seeds) + " | mean |",
        "|---" * (3 + len(twins.seeds)) + "|",
    ]
    for (condition, arm, run_as), rows in scores.groupby(
        ["condition", "arm", "run_as"], sort=False
    ):
        these = rows.set_index("seed").accuracy
        values = " | ".join(f"{these[s]:.1f}" for s in twins.seeds)
        name = arm if arm == run_as else f"{arm} run as {run_as} (inference probe)"
        lines.append(f"| {condition} | {name} | {values} | {these.mean():.1f} |")
    lines += [
        "",
        "| condition | difference | points | 95 % interval over seeds | |",
        "|---|---|---|---|---|",
    ]
    for row in table.to_dict("records"):
        name = f"{row['arm']} - {row['baseline']}"
        if row["ci_low"] is None:
            lines.append(
                f"| {row['condition']} | {name} | {row['difference']:+.1f} | – | one seed: "
                "no interval |"
            )
            continue
        verdict = (
            "not significant"
            if row["ci_low"] <= 0 <= row["ci_high"]
            else "better"
            if row["difference"] > 0
            else "worse"
        )
        interval = f"[{row['ci_low']:+.1f}, {row['ci_high']:+.1f}]"
        lines.append(
            f"| {row['condition']} | {name} | {row['difference']:+.1f} | {interval} | {verdict} |"
        )
    recipe_text = yaml.safe_dump(twins.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    return "\n".join([*lines, "", "```yaml", recipe_text.strip(), "```", ""])
