"""Reading and writing checkpoints in the released Hugging Face format.

A checkpoint is a folder: ``config.json``, one or several ``*.safetensors``, the tokenizer and the
processor's settings. Three namings of the tensors exist in the wild (the hub's, the one that
transformers >= 4.52 keeps in memory, and an intermediate one); all are read, the hub's is written.
What is missing or surplus is reported by name.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.overrides import TorchFunctionMode

from evalkit.errors import CheckpointError, UsageError
from evalkit.models.qwen2_vl.config import Qwen2VLConfig, read_json
from evalkit.models.qwen2_vl.model import Qwen2VL
from evalkit.models.qwen2_vl.switches import Ablation

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
PATCH_EMBED = "visual.patch_embed.proj.weight"
COMPANIONS = (
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.json",
    "chat_template.jinja",
    "preprocessor_config.json",
    "generation_config.json",
)
_EMULATED = {"bfloat16": "_is_mkldnn_bf16_supported", "float16": "_is_mkldnn_fp16_supported"}
_RENAMES = (
    (re.compile(r"^model\.visual\."), "visual."),
    (re.compile(r"^model\.language_model\."), "model."),
    (re.compile(r"^language_model\.model\."), "model."),
    (re.compile(r"^language_model\.lm_head\."), "lm_head."),
)


def without_emulation(dtype: str, device: str) -> str:
    """``dtype``, or float32 on a CPU that only emulates it: bfloat16 products were 150 times slower
    there than float32's.
    """
    if device != "cpu" or dtype not in _EMULATED or getattr(torch.ops.mkldnn, _EMULATED[dtype])():
        return dtype
    return "float32"


def resolve(name: str) -> Path:
    """The folder of a checkpoint: a local one as it is, otherwise a snapshot of the hub repository
    ``owner/name[@revision]``.

    Raises CheckpointError when it is neither, or the hub and its cache don't have it.
    """
    if Path(name).is_dir():
        return Path(name)
    if not re.fullmatch(r"[\w.-]+/[\w.-]+(@[\w./-]+)?", name):
        raise CheckpointError(f"{name}: no such folder, and not a hub id of the form owner/name")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    repo, _, revision = name.partition("@")
    try:
        return Path(
            snapshot_download(
                repo,
                revision=revision or None,
                allow_patterns=["*.json", "*.safetensors", "*.jinja"],
            )
        )
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as e:
        raise CheckpointError(
            f"{name}: not in the local cache, and the hub did not give it ({type(e).__name__}: {e})"
        ) from e


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a checkpoint, the sharded ones as their index lists them. Raises
    CheckpointError.
    """
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        shards = read_json(index).get("weight_map")
        if not isinstance(shards, dict) or not all(isinstance(n, str) for n in shards.values()):
            raise CheckpointError(
                f"{index}: no weight_map from tensors to files; download it again"
            )
        files = [folder / n for n in sorted(set(shards.values()))]
    else:
        files = sorted(folder.glob("*.safetensors"))
    absent = [f.name for f in files if not f.is_file()]
    if absent or not files:
        what = f"missing shards: {', '.join(absent)}" if absent else "no *.safetensors file"
        raise CheckpointError(
            f"{folder}: {what}; a whole released checkpoint is needed (pickled .bin weights "
            "are not read)"
        )
    return files


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
    for key, tensor in _tensors(weight_files(folder)):
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


def checked_device(name: str | None) -> str:
    """The device of that name; without one a GPU where there is one. Raises UsageError for one that
    is not here.
    """
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
    except RuntimeError:
        raise UsageError(f"device {name!r}: expected cpu, cuda or cuda:N") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UsageError(
            f"device {name!r}: torch {torch.__version__} sees {torch.cuda.device_count()} "
            "CUDA devices here"
        )
    return str(device)


def weights_digest(folder: Path) -> str:
    """SHA-256 (hex) over config, weights, tokenizer and processor settings: the identity of a
    checkpoint.

    Reading gigabytes takes seconds, so each file's hash is remembered by path, size and time in the
    user's cache folder.
    """
    total = hashlib.sha256()
    names = ("config.json", *COMPANIONS)
    files = [
        folder / n for n in names if n != "generation_config.json" and (folder / n).is_file()
    ] + weight_files(folder)
    cache_file = (
        Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "evalkit" / "digests.json"
    )
    try:
        cache = json.loads(cache_file.read_text(encoding="utf-8"))
        known = dict(cache)
    except (OSError, ValueError, TypeError):
        cache, known = {}, {}
    for file in files:
        stat = file.stat()
        key = f"{file.resolve()}|{stat.st_size}|{stat.st_mtime_ns}"
        if key not in known:
            with file.open("rb") as f:
                known[key] = hashlib.file_digest(f, "sha256").hexdigest()
        total.update(f"{file.name}:{known[key]}\n".encode())
    if known != cache:
        try:
            cache_file.parent.mkdir(parents=True, exist_ok=True)
            part = cache_file.with_suffix(f".{os.getpid()}")
            part.write_text(json.dumps(known), encoding="utf-8")
            part.replace(cache_file)
        except OSError:
            pass
    return total.hexdigest()


def _tensors(files: list[Path]) -> Iterator[tuple[str, Tensor]]:
    for file in files:
        try:
            with safe_open(file, framework="pt") as f:
                for key in f.keys():  # noqa: SIM118 - a safetensors handle is not a dict
                    yield _hub_name(key), f.get_tensor(key)
        except SafetensorError as e:
            raise CheckpointError(
                f"{file}: not a readable safetensors file ({e}); download it again"
            ) from e


def _hub_name(key: str) -> str:
    for pattern, new in _RENAMES:
        key, n = pattern.subn(new, key)
        if n:
            break
    return key
