"""Reading and writing checkpoints in the released Hugging Face format.

A checkpoint is a folder: ``config.json``, one or several ``*.safetensors``, the tokenizer and the
processor's settings. Three namings of the tensors exist in the wild (the hub's, the one that
transformers >= 4.52 keeps in memory, and an intermediate one); all are read, the hub's is written.
What is missing or surplus is reported by name.
"""

from __future__ import annotations

import json
import logging
import math
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from evalkit.errors import CheckpointError
from evalkit.files import part_of, remove_parts, sync
from evalkit.models.device import DTYPES
from evalkit.models.qwen2_vl.config import Qwen2VLConfig, Tower
from evalkit.models.qwen2_vl.model import Qwen2VL
from evalkit.models.qwen2_vl.switches import Switches
from evalkit.models.weights import (
    INDEX,
    SHARD,
    SINGLE,
    Header,
    companion_files,
    headers,
    slices,
    weight_files,
)

log = logging.getLogger(__name__)

PATCH_EMBED = "visual.patch_embed.proj.weight"
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
EXPERTS = re.compile(r"\.mlp\.experts\.(gate_up|down)_proj$")
"""Stacked weights: [experts, outputs, inputs] here and in transformers 5, which tell them by their
shape from the releases' [experts, inputs, outputs].
"""
FLOATS = frozenset(("F64", "F32", "F16", "BF16"))
"""The kinds of numbers that weights are read from, as safetensors calls them."""
MOST_LAYERS = 1000
"""More are not built to say which of their weights are missing."""
WRAPPERS = ("base_model.model.", "module.", "_orig_mod.", "_fsdp_wrapped_module.")
_RENAMES = (
    (re.compile(r"^model\.visual\."), "visual."),
    (re.compile(r"^model\.language_model\."), "model."),
    (re.compile(r"^language_model\.model\."), "model."),
    (re.compile(r"^language_model\.lm_head\."), "lm_head."),
)


Model = TypeVar("Model", bound=Qwen2VL)


class _NoInit(TorchFunctionMode):
    """Skips ``nn.init`` while a model is built on the meta device: every weight is replaced by the
    checkpoint's, and initialising meta tensors costs a second of start-up.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if getattr(func, "__module__", None) == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        return func(*args, **(kwargs or {}))


def load(
    folder: Path,
    dtype: str | None = None,
    device: str = "cpu",
    switches: Switches | None = None,
) -> Qwen2VL:
    """The Qwen2-VL of a checkpoint folder; see ``load_as``."""
    return load_as(Qwen2VL, folder, dtype, device, switches)


def load_as(
    kind: type[Model],
    folder: Path,
    dtype: str | None = None,
    device: str = "cpu",
    switches: Switches | None = None,
    part: Callable[[str, tuple[int, ...]], Any] | None = None,
) -> Model:
    """The model of a checkpoint folder, of one generation, in evaluation mode. ``dtype`` None keeps
    the one that ``config.json`` names, ``switches`` None runs the weights as they were trained.
    ``part`` says of a tensor, by name and shape, which part of it is read (``parallel.Part``).

    Raises CheckpointError with the names of missing, surplus and misshapen tensors.
    """
    config = kind.Config.load(folder)
    name = dtype or config.dtype
    if name not in DTYPES:
        raise CheckpointError(f"{folder}: dtype {name!r}: expected one of {', '.join(DTYPES)}")
    files = weight_files(folder)
    there = headers(files)
    _check_wrapper(folder, [h.name for h in there])
    _check_layers(folder, config, {_hub_name(h.name) for h in there})
    try:
        with _NoInit(), torch.device("meta"):
            model = kind(config, switches)
    except (RuntimeError, OverflowError, TypeError) as e:  # of sizes beyond what can be counted
        raise CheckpointError(f"{folder}: no model has the sizes of config.json: {e}") from e
    wanted = {k: tuple(v.shape) for k, v in model.state_dict().items()}
    _check_headers(folder, there, wanted, config.tie_word_embeddings)
    state: dict[str, Tensor] = {}
    for name_in_file, stored in slices(files):
        key = _hub_name(name_in_file)
        cut = part(key, wanted[key]) if part else None
        tensor = cut.of(stored) if cut else stored[...]
        if EXPERTS.search(key):
            tensor = tensor if tensor.shape[1:] == wanted[key][1:] else tensor.mT
        elif not cut:
            tensor = tensor.reshape(wanted[key])
        state[key] = tensor.to(device=device, dtype=DTYPES[name])
    tied = config.tie_word_embeddings
    if tied and HEAD in state and EMBEDDING in state:
        # Training may have untied them (LoRA with lm_head in modules_to_save, a larger vocabulary)
        # and left the config as it was. The file's head is what was trained.
        tied = torch.equal(state[HEAD], state[EMBEDDING])
        if not tied:
            log.warning(
                "%s: config.json ties the output head to the embedding, but %s differs from it; "
                "the file's is used, as transformers does",
                folder,
                HEAD,
            )
    if tied and EMBEDDING in state:
        state[HEAD] = state[EMBEDDING]
    if part:  # shapes are not those of the whole model
        for key, tensor in state.items():
            owner, _, leaf = key.rpartition(".")
            model.get_submodule(owner).register_parameter(leaf, nn.Parameter(tensor, False))
    else:
        model.load_state_dict(state, assign=True)
    if tied:
        model.lm_head.weight = model.model.embed_tokens.weight
    model.config = replace(config, tie_word_embeddings=tied)
    model.folder = folder
    return model.eval().requires_grad_(False)


def _check_wrapper(folder: Path, there: list[str]) -> None:
    """Raises CheckpointError for weights that were saved inside something else: said in a line,
    where all their names would be surplus.
    """
    if any("lora_" in n or ".base_layer." in n for n in there):
        raise CheckpointError(
            f"{folder}: the weights of an adapter (LoRA) beside those of the model; merge it "
            "(peft: merge_and_unload) and save the result"
        )
    for prefix in WRAPPERS:
        if there and all(n.startswith(prefix) for n in there):
            raise CheckpointError(
                f"{folder}: the names of all weights begin with {prefix!r}: the model was saved "
                "inside a wrapper (peft, DistributedDataParallel, torch.compile); save the model "
                "itself"
            )


def _check_layers(folder: Path, config: Qwen2VLConfig, there: set[str]) -> None:
    """Raises CheckpointError where the files have other numbers of layers than the config: before a
    model of that size is built.
    """
    for prefix, said, key in (
        ("model.layers.", config.text.num_hidden_layers, "num_hidden_layers"),
        ("visual.blocks.", config.vision.depth, "vision depth"),
    ):
        layers = {n.split(".")[2] for n in there if n.startswith(prefix)}
        if len(layers) != said and (layers or said > MOST_LAYERS):
            raise CheckpointError(
                f"{folder}: {key} is {said} in config.json, and the weights have {len(layers)} "
                "layers"
            )


def _check_headers(
    folder: Path, there: list[Header], wanted: Mapping[str, tuple[int, ...]], tied: bool
) -> None:
    """Raises CheckpointError where the weights in the files are not those that the config asks
    for, by name, shape and kind of number: before any of them is read.
    """
    bad: list[str] = []
    seen: set[str] = set()
    turned: dict[bool, str] = {}
    for header in there:
        key = _hub_name(header.name)
        shape = header.shape
        if key == PATCH_EMBED:  # a filter of the Conv3d is a row here
            shape = (*shape[:1], math.prod(shape[1:]))
        if EXPERTS.search(key) and key in wanted:
            if is_turned := shape != wanted[key] == (*shape[:1], *shape[:0:-1]):
                shape = wanted[key]
            turned[is_turned] = key
        if key not in wanted:
            bad.append(f"surplus {key}")
        elif key in seen:
            bad.append(f"{key} is there twice")
        elif shape != wanted[key]:
            bad.append(f"{key} has shape {list(shape)}, the config says {list(wanted[key])}")
        elif header.dtype not in FLOATS:
            bad.append(f"{key} holds {header.dtype}: quantised weights are not read")
        seen.add(key)
    if len(turned) > 1 and not bad:
        bad.append(
            f"{turned[True]} is [experts, inputs, outputs], as released, and {turned[False]} "
            "[experts, outputs, inputs], as transformers 5 writes it; save all with one version"
        )
    absent = wanted.keys() - seen - ({HEAD} if tied and EMBEDDING in seen else set())
    bad += [f"missing {k}" for k in wanted if k in absent]
    if bad:
        more = f" and {len(bad) - 8} more" if len(bad) > 8 else ""
        raise CheckpointError(
            f"{folder}: the weights do not fit config.json: {'; '.join(bad[:8])}{more}"
        )


def save(
    model: Qwen2VL,
    folder: Path,
    companions: Path | None = None,
    dtype: str | None = None,
    shard_bytes: int = 5 << 30,
) -> None:
    """Writes ``config.json`` and the weights under hub names, in shards of at most ``shard_bytes``,
    into ``folder``, in place of the model that it holds.

    Everything is written aside, waits until it is on disk, and is then moved. A head that equals
    the embedding is written once, as released. Tokenizer and processor files are copied from the
    folder ``companions``, and others that ``folder`` has are removed. Raises CheckpointError when
    the disk refuses.
    """
    try:
        _save(model, folder, companions, dtype, shard_bytes)
    except (OSError, SafetensorError) as e:
        raise CheckpointError(f"{folder}: the model can't be saved ({e})") from e


def _save(
    model: Qwen2VL, folder: Path, companions: Path | None, dtype: str | None, shard_bytes: int
) -> None:
    name = dtype or str(next(model.parameters()).dtype).removeprefix("torch.")
    state = {
        k: v.detach().to("cpu", DTYPES[name]).contiguous() for k, v in model.state_dict().items()
    }
    tied = model.config.tie_word_embeddings and torch.equal(state[HEAD], state[EMBEDDING])
    if tied:
        del state[HEAD]
    state[PATCH_EMBED] = state[PATCH_EMBED].unflatten(1, kernel(model.config.vision)).contiguous()
    if model.config.nested:
        state = in_memory_names(state)
    folder.mkdir(parents=True, exist_ok=True)
    remove_parts(folder)
    copied = companions if companions and companions.resolve() != folder.resolve() else None
    new = part_of(folder / ".saving")
    new.mkdir()
    try:
        _write_shards(_shards(state, shard_bytes), new)
        config = replace(model.config, dtype=name, tie_word_embeddings=tied)
        (new / "config.json").write_text(json.dumps(config.to_dict(), indent=1), encoding="utf-8")
        if copied:
            for file in companion_files(copied):
                (new / file).parent.mkdir(exist_ok=True)
                shutil.copyfile(copied / file, new / file)
        written = {str(f.relative_to(new)) for f in new.rglob("*") if f.is_file()}
        for file in written:
            sync(new / file)
        # The old weights go first and the new ones come last: broken off at any point, the folder
        # holds the old model, the new one, or none, but never parts of both.
        old = [f.name for f in folder.iterdir() if _is_weights(f.name)]
        for file in (*old, *(companion_files(folder) if copied else ())):
            (folder / file).unlink()
        for file in sorted(written, key=_is_weights):
            (folder / file).parent.mkdir(exist_ok=True)
            (new / file).replace(folder / file)
            sync((folder / file).parent)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _is_weights(name: str) -> bool:
    return name in (SINGLE, INDEX) or SHARD.fullmatch(name) is not None


def kernel(config: Tower) -> tuple[int, int, int, int]:
    """Shape of a filter of the released Conv3d, which here is a row of a matrix."""
    return config.in_channels, config.temporal_patch_size, config.patch_size, config.patch_size


def transformers_state(model: Qwen2VL) -> dict[str, Tensor]:
    """The weights of a model under the names, and in the shapes, that transformers 5 has in memory;
    none is copied.
    """
    state = model.state_dict()
    state[PATCH_EMBED] = state[PATCH_EMBED].unflatten(1, kernel(model.config.vision))
    return in_memory_names(state)


def in_memory_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors by the names that transformers 5 has in memory, and Qwen3-VL's releases in files."""
    return {
        "model." + key
        if key.startswith("visual.")
        else key.replace("model.", "model.language_model.", 1): tensor
        for key, tensor in state.items()
    }


def _shards(state: Mapping[str, Tensor], shard_bytes: int) -> list[dict[str, Tensor]]:
    """``state`` in parts of at most ``shard_bytes``, or of one larger tensor."""
    shards: list[dict[str, Tensor]] = [{}]
    free = shard_bytes
    for key, tensor in state.items():
        if tensor.nbytes > free and shards[-1]:
            shards.append({})
            free = shard_bytes
        shards[-1][key] = tensor
        free -= tensor.nbytes
    return shards


def _write_shards(shards: list[dict[str, Tensor]], folder: Path) -> None:
    if len(shards) == 1:
        save_file(shards[0], folder / SINGLE, metadata={"format": "pt"})
        return
    weight_map: dict[str, str] = {}
    for i, shard in enumerate(shards, 1):
        file = f"model-{i:05d}-of-{len(shards):05d}.safetensors"
        save_file(shard, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(shard, file)
    size = sum(t.nbytes for shard in shards for t in shard.values())
    index = {"metadata": {"total_size": size}, "weight_map": weight_map}
    (folder / INDEX).write_text(json.dumps(index, indent=1), encoding="utf-8")


def _hub_name(key: str) -> str:
    for pattern, new in _RENAMES:
        key, n = pattern.subn(new, key)
        if n:
            break
    return key
