"""Reading and writing checkpoints in the released Hugging Face format.

A checkpoint is a folder: ``config.json``, one or several ``*.safetensors``, the tokenizer and the
processor's settings. Three namings of the tensors exist in the wild (the hub's, the one that
transformers >= 4.52 keeps in memory, and an intermediate one); all are read, the hub's is written.
What is missing or surplus is reported by name.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.overrides import TorchFunctionMode

from evalkit.errors import CheckpointError
from evalkit.models.device import DTYPES
from evalkit.models.qwen2_vl.config import Qwen2VLConfig
from evalkit.models.qwen2_vl.model import Qwen2VL
from evalkit.models.qwen2_vl.switches import Ablation
from evalkit.models.weights import COMPANIONS, tensors, weight_files

PATCH_EMBED = "visual.patch_embed.proj.weight"
_RENAMES = (
    (re.compile(r"^model\.visual\."), "visual."),
    (re.compile(r"^model\.language_model\."), "model."),
    (re.compile(r"^language_model\.model\."), "model."),
    (re.compile(r"^language_model\.lm_head\."), "lm_head."),
)


class _NoInit(TorchFunctionMode):
    """Leaves weights that are about to be replaced as they are: torch needs a second to learn how
    to fill tensors without data.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if getattr(func, "__module__", None) == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        return func(*args, **(kwargs or {}))


def load(
    folder: Path, dtype: str | None = None, device: str = "cpu", ablation: Ablation = Ablation()
) -> Qwen2VL:
    """The model of a checkpoint folder, in evaluation mode. ``dtype`` None keeps the one that
    ``config.json`` names.

    Raises CheckpointError with the names of missing, surplus and misshapen tensors.
    """
    config = Qwen2VLConfig.load(folder)
    name = dtype or config.dtype
    if name not in DTYPES:
        raise CheckpointError(f"dtype {name!r}: expected one of {', '.join(DTYPES)}")
    with _NoInit(), torch.device("meta"):
        model = Qwen2VL(config, ablation)
    wanted = {k: v.shape for k, v in model.state_dict().items()}
    state: dict[str, Tensor] = {}
    bad: list[str] = []
    for name_in_file, tensor in tensors(weight_files(folder)):
        key = _hub_name(name_in_file)
        if key == PATCH_EMBED:
            tensor = tensor.flatten(1)
        if key not in wanted:
            bad.append(f"surplus {key}")
        elif tensor.shape != wanted[key]:
            bad.append(f"{key} has shape {list(tensor.shape)}, the config says {list(wanted[key])}")
        else:
            state[key] = tensor.to(device=device, dtype=DTYPES[name])
    if config.tie_word_embeddings and "model.embed_tokens.weight" in state:
        state["lm_head.weight"] = state["model.embed_tokens.weight"]
    bad += [
        f"missing {k}"
        for k in wanted
        if k not in state and not any(b.startswith(f"{k} has") for b in bad)
    ]
    if bad:
        more = f" and {len(bad) - 8} more" if len(bad) > 8 else ""
        raise CheckpointError(
            f"{folder}: the weights do not fit config.json: {'; '.join(bad[:8])}{more}"
        )
    model.load_state_dict(state, assign=True)
    if config.tie_word_embeddings:
        model.lm_head.weight = model.model.embed_tokens.weight
    return model.eval().requires_grad_(False)


def save(
    model: Qwen2VL,
    folder: Path,
    companions: Path | None = None,
    dtype: str | None = None,
    shard_bytes: int = 5 << 30,
) -> None:
    """Writes ``config.json`` and the weights under hub names, in shards of at most ``shard_bytes``,
    into ``folder``.

    Tied heads are written once, as released. Tokenizer and processor files are copied from the
    folder ``companions``.
    """
    from dataclasses import replace

    folder.mkdir(parents=True, exist_ok=True)
    name = dtype or str(next(model.parameters()).dtype).removeprefix("torch.")
    state = {
        k: v.detach().to("cpu", DTYPES[name]).contiguous() for k, v in model.state_dict().items()
    }
    if model.config.tie_word_embeddings:
        del state["lm_head.weight"]
    c = model.config.vision
    shape = (c.in_channels, c.temporal_patch_size, c.patch_size, c.patch_size)
    state[PATCH_EMBED] = state[PATCH_EMBED].unflatten(1, shape).contiguous()
    shards: list[dict[str, Tensor]] = [{}]
    room = shard_bytes
    for key, tensor in state.items():
        if tensor.nbytes > room and shards[-1]:
            shards.append({})
            room = shard_bytes
        shards[-1][key] = tensor
        room -= tensor.nbytes
    if len(shards) == 1:
        save_file(shards[0], folder / "model.safetensors", metadata={"format": "pt"})
    else:
        weight_map: dict[str, str] = {}
        for i, shard in enumerate(shards, 1):
            file = f"model-{i:05d}-of-{len(shards):05d}.safetensors"
            save_file(shard, folder / file, metadata={"format": "pt"})
            weight_map |= dict.fromkeys(shard, file)
        index = {
            "metadata": {"total_size": sum(t.nbytes for t in state.values())},
            "weight_map": weight_map,
        }
        (folder / "model.safetensors.index.json").write_text(
            json.dumps(index, indent=1), encoding="utf-8"
        )
    config = replace(model.config, dtype=name)
    (folder / "config.json").write_text(json.dumps(config.to_dict(), indent=1), encoding="utf-8")
    for file in COMPANIONS if companions else ():
        if (companions / file).is_file():  # type: ignore[operator]
            shutil.copyfile(companions / file, folder / file)  # type: ignore[operator]


def _hub_name(key: str) -> str:
    for pattern, new in _RENAMES:
        key, n = pattern.subn(new, key)
        if n:
            break
    return key
