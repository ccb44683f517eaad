"""The state of a run that a kill can't tear, and the weights that a run may begin with."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as packed
from torch import Tensor

from evalkit.errors import DataError, UsageError
from evalkit.files import remove_parts, replace, replace_json
from evalkit.models.qwen2_vl.checkpoint import load
from evalkit.models.qwen2_vl.model import Qwen2VL
from evalkit.nano.recipe import Recipe

Optimisers = Sequence[torch.optim.Optimizer]


def owned(
    optimisers: Optimisers, model: Qwen2VL
) -> Iterator[tuple[str, torch.nn.Parameter, torch.optim.Optimizer]]:
    """Every parameter that an optimiser steps: its name, itself, and the optimiser."""
    names = {id(p): n for n, p in model.named_parameters()}
    for optimiser in optimisers:
        for group in optimiser.param_groups:
            for p in group["params"]:
                yield names[id(p)], p, optimiser


def remember(
    folder: Path, recipe: Recipe, model: Qwen2VL, optimisers: Optimisers, progress: dict[str, Any]
) -> None:
    """Writes tensors under a new name first, then the small ``state.json`` that points at them.

    ``progress`` is anything JSON with a ``step``; ``restore`` gives it back. Raises EvalkitError
    when the disk refuses; the state of before is then as it was.
    """
    tensors = {f"model.{n}": p.detach() for n, p in model.named_parameters()}
    for name, p, optimiser in owned(optimisers, model):
        for key, value in optimiser.state[p].items():
            tensors[f"optimiser.{key}.{name}"] = value if value.ndim else value.reshape(1)
    file = folder / f"step-{progress['step']}.safetensors"
    replace(file, packed({k: v.contiguous() for k, v in tensors.items()}))
    state = {
        "schema_version": 2,
        **progress,
        "tensors": file.name,
        "recipe": recipe.model_dump(mode="json"),
    }
    replace_json(folder / "state.json", state)
    _remove_others(folder, file.name)


def _remove_others(folder: Path, tensors: str) -> None:
    """Removes the tensors of earlier states, and what a killed run left half-written."""
    remove_parts(folder)
    for old in folder.glob("step-*.safetensors"):
        if old.name != tensors:
            with suppress(OSError):
                old.unlink()


def restore(folder: Path, recipe: Recipe, model: Qwen2VL, optimisers: Optimisers) -> dict[str, Any]:
    """Loads what ``remember`` wrote and returns its progress. Raises UsageError when the state is
    that of another recipe, DataError when it is damaged.
    """
    try:
        state: dict[str, Any] = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        begun_with = dict(state["recipe"])
        tensors = load_file(folder / state["tensors"])
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as e:
        raise DataError(
            f"{folder}: the state of the run can't be read ({type(e).__name__}: {e}); remove the "
            "folder to train anew"
        ) from e
    _remove_others(folder, state["tensors"])
    if begun_with != recipe.model_dump(mode="json"):
        changed = [k for k, v in recipe.model_dump(mode="json").items() if begun_with.get(k) != v]
        raise UsageError(
            f"{folder}: was begun with another recipe ({', '.join(changed)} differ); choose "
            "another --output"
        )
    kept: dict[str, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("optimiser."):
            _, field, name = key.split(".", 2)
            kept.setdefault(name, {})[field] = value.reshape(()) if field == "step" else value
    with torch.no_grad():
        for name, p, optimiser in owned(optimisers, model):
            p.copy_(tensors[f"model.{name}"])
            if name in kept:
                optimiser.state[p] = {
                    k: v if k == "step" else v.to(p.device) for k, v in kept[name].items()
                }
    return state


def begin_with(model: Qwen2VL, folder: Path) -> None:
    """Copies a checkpoint's weights. In a deeper model its blocks are spread out, and those between
    begin as identities.

    Raises UsageError when the checkpoint has another width, or more blocks.
    """
    old = load(folder, "float32", "cpu")
    places = {
        "blocks": spread(len(old.visual.blocks), len(model.visual.blocks)),
        "layers": spread(len(old.model.layers), len(model.model.layers)),
    }

    def placed(name: str) -> str:
        return re.sub(
            r"\b(blocks|layers)\.(\d+)\.", lambda m: f"{m[1]}.{places[m[1]][int(m[2])]}.", name
        )

    weights = model.state_dict()
    for name in weights:
        if name.endswith(
            ("attn.proj.weight", "mlp.fc2.weight", "o_proj.weight", "down_proj.weight")
        ):
            weights[name] = torch.zeros_like(weights[name])
    try:
        model.load_state_dict(weights | {placed(k): w for k, w in old.state_dict().items()})
    except (RuntimeError, IndexError) as e:
        raise UsageError(
            f"{folder}: not a checkpoint of this recipe's shape ({str(e).splitlines()[-1].strip()})"
        ) from e


def spread(few: int, many: int) -> list[int]:
    """Where ``few`` blocks stand among ``many``, at even distances, the last at the end."""
    return [(i + 1) * many // few - 1 for i in range(few)]
