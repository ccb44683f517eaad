"""A checkpoint's folder, whatever the model: where it lies, what kind of folder it is, which of its
files are read, and the digest that identifies it.

Files are looked for in the order in which transformers looks. A folder that could be read in two
ways, or that holds something other than the weights of a whole model, is refused by name.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from evalkit.bounds import bounds, over
from evalkit.digests import file_digest
from evalkit.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
SHARD = re.compile(r"model-(\d{5})-of-(\d{5})\.safetensors")
TEMPLATE_FOLDERS = ("additional_chat_templates", "chat_templates")
"""Where transformers keeps named chat templates, today and formerly."""
IDENTITY = (
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.json",
    "chat_template.jinja",
    "preprocessor_config.json",
    "processor_config.json",
)
"""Files that decide answers, beside the weights and the named templates."""
COMPANIONS = (
    *IDENTITY[1:],
    "special_tokens_map.json",
    "generation_config.json",
    "video_preprocessor_config.json",
)
"""Files that a copy of a checkpoint needs beside its config and weights."""


def resolve(name: str) -> Path:
    """The folder of a checkpoint: a local one as it is, otherwise a snapshot of the hub repository
    ``owner/name[@revision]``.

    Raises CheckpointError when it is neither, or the hub and its cache don't have it.
    """
    path = Path(name).expanduser()
    try:
        path.exists()
    except (OSError, ValueError) as e:  # a name that is too long, or holds a NUL
        raise CheckpointError(f"{name[:200]!r}: no such folder ({e.__class__.__name__})") from None
    if name and path.is_dir():
        return path
    if path.is_file():
        raise CheckpointError(f"{name}: a file; a model is the folder that holds config.json")
    # What begins like a path is a mistyped folder, and nothing to ask the hub for.
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w.-]+(@[\w./-]+)?", name):
        raise CheckpointError(f"{name}: no such folder, and not a hub id of the form owner/name")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    repo, _, revision = name.partition("@")
    try:
        return Path(
            snapshot_download(
                repo,
                revision=revision or None,
                allow_patterns=["*.json", "*.safetensors", "*.jinja", "*.txt", "*.model"],
            )
        )
    except HFValidationError:
        raise CheckpointError(f"{name}: no such folder, and no valid hub id") from None
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as e:
        why = next(
            (line.strip() for line in str(e).splitlines() if line.strip()), "no reason given"
        )
        raise CheckpointError(
            f"{name}: no such folder, not in the local cache, and the hub did not give it "
            f"({type(e).__name__}: {why})"
        ) from e


def check_size(path: Path) -> None:
    """Raises CheckpointError for a file of a checkpoint, other than its weights, that is over the
    bound.
    """
    if path.is_file() and (size := path.stat().st_size) > bounds().json_bytes:
        raise CheckpointError(f"{path}: {size:,} bytes: {over('json_bytes')}")


def read_text(path: Path) -> str:
    """A checkpoint's file as text. Raises CheckpointError that names the file."""
    check_size(path)
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as e:
        raise CheckpointError(f"{path}: can't be read ({e})") from e


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a checkpoint's file. Raises CheckpointError that names the file."""
    check_size(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as e:
        raise CheckpointError(f"{path}: can't be read as JSON ({e})") from e
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: holds {type(content).__name__}, not a JSON object")
    return content


def refuse_adapter(folder: Path) -> None:
    """Raises CheckpointError for a folder with an adapter (LoRA), whether or not a whole model lies
    beside it: it would be answered by the model without the adapter.
    """
    path = folder / "adapter_config.json"
    if path.is_file():
        base = read_json(path).get("base_model_name_or_path")
        raise CheckpointError(
            f"{folder}: an adapter (LoRA) for {base or 'another model'}, not a whole model: merge "
            "it (peft: merge_and_unload) and save the result. If it is merged already, remove "
            "adapter_config.json"
        )


def read_config(folder: Path) -> dict[str, Any]:
    """``config.json`` of a folder with a whole model in plain float weights.

    Raises CheckpointError that says what the folder is instead: an adapter (LoRA), a GGUF file,
    quantised weights, or no model at all.
    """
    refuse_adapter(folder)
    path = folder / "config.json"
    if not path.is_file():
        hint = "the folder of a checkpoint in the Hugging Face format is needed"
        if any(folder.glob("*.gguf")):
            hint = f"GGUF weights are not read; {hint}"
        elif within := sorted(p.parent.name for p in folder.glob("*/config.json")):
            hint += f"; there are some below it: {', '.join(within)}"
        raise CheckpointError(f"{path}: no such file; {hint}")
    raw = read_json(path)
    for key in ("quantization_config", "compression_config"):
        if raw.get(key) is not None:
            method = raw[key].get("quant_method") if isinstance(raw[key], dict) else None
            raise CheckpointError(
                f"{path}: a quantised checkpoint ({key}: {method or 'of unknown method'}); only "
                "float32, bfloat16 and float16 weights are read here, take the unquantised release"
            )
    for name in ("quantize_config.json", "quant_config.json"):
        if (folder / name).is_file():
            raise CheckpointError(
                f"{folder / name}: a quantised checkpoint (GPTQ, AWQ); only float32, bfloat16 and "
                "float16 weights are read here, take the unquantised release"
            )
    return raw


def companion_files(folder: Path) -> list[str]:
    """Tokenizer, templates and processor settings of a checkpoint, as paths within its folder."""
    templates = (f for n in TEMPLATE_FOLDERS for f in sorted((folder / n).glob("*.jinja")))
    return [n for n in COMPANIONS if (folder / n).is_file()] + [
        f.relative_to(folder).as_posix() for f in templates
    ]


def weight_files(folder: Path) -> list[Path]:
    """The files of a model's weights: ``model.safetensors``, or the shards that the index names, or
    a whole set of shards without an index.

    Other safetensors files (an optimiser's state, an adapter) are not read. Raises CheckpointError
    for an absent shard, for a folder without weights, and where a single file and an index stand
    side by side with different weights.
    """
    single, indexed = folder / SINGLE, _indexed(folder)
    absent = [f.name for f in indexed if not f.is_file()]
    if single.is_file() and single not in indexed:
        # transformers takes the single file. A stale index whose shards are gone is harmless.
        if indexed and not absent and not _equal([single], indexed):
            raise CheckpointError(
                f"{folder}: {SINGLE} and the shards that {INDEX} names hold different weights; "
                "remove the old ones"
            )
        return [single]
    if not indexed:
        shards = {m.group(): m for f in folder.iterdir() if (m := SHARD.fullmatch(f.name))}
        for count in sorted({m[2] for m in shards.values()}):
            indexed = [
                folder / f"model-{i:05d}-of-{count}.safetensors" for i in range(1, int(count) + 1)
            ]
        absent = [f.name for f in indexed if not f.is_file()]
        if len(shards) + len(absent) != len(indexed):
            raise CheckpointError(
                f"{folder}: shards of different sets of weights, without an index"
            )
    if absent:
        raise CheckpointError(
            f"{folder}: missing shards: {', '.join(absent)}; download the checkpoint again"
        )
    if not indexed:
        others = sorted(
            f.name for f in folder.iterdir() if f.suffix in (".safetensors", ".bin", ".pt", ".pth")
        )
        there = f" (there are {', '.join(others[:4])})" if others else ""
        raise CheckpointError(
            f"{folder}: no {SINGLE} and no {INDEX}{there}; pickled weights are not read"
        )
    return indexed


def tensors(files: list[Path]) -> Iterator[tuple[str, Tensor]]:
    """Names and tensors (on the CPU) in safetensors files, one after the other. Raises
    CheckpointError, with the file, for one that is damaged.
    """
    for key, stored in slices(files):
        yield key, stored[...]


def slices(files: list[Path]) -> Iterator[tuple[str, Any]]:
    """Names and tensors that are read when they are indexed, and no more of them than is asked for.
    Raises as ``tensors`` does.
    """
    for file in files:
        with _opened(file) as f:
            for key in f.keys():  # noqa: SIM118 - a safetensors handle is not a dict
                yield key, f.get_slice(key)


@contextmanager
def _opened(file: Path) -> Iterator[Any]:
    try:
        with safe_open(file, framework="pt") as f:
            yield f
    except (SafetensorError, OSError, RuntimeError) as e:
        # torch maps the file, and says of one that it can't open or map RuntimeError
        if isinstance(e, RuntimeError) and not re.search("unable to (open|mmap)", str(e)):
            raise
        raise CheckpointError(
            f"{file}: not a readable safetensors file ({e}); download it again"
        ) from e


@dataclass(frozen=True)
class Header:
    """What a safetensors file says of a tensor before it is read: its name, shape, and kind of
    number (``F32``, ``BF16``, ``I8``, ...).
    """

    name: str
    shape: tuple[int, ...]
    dtype: str


def headers(files: list[Path]) -> list[Header]:
    """Of all tensors in safetensors files; none of their values is read. Raises CheckpointError,
    with the file, for one that is damaged.
    """
    out: list[Header] = []
    for file in files:
        with _opened(file) as f:
            for key in f.keys():  # noqa: SIM118 - a safetensors handle is not a dict
                tensor = f.get_slice(key)
                out.append(Header(key, tuple(tensor.get_shape()), tensor.get_dtype()))
    return out


def weights_digest(folder: Path) -> str:
    """SHA-256 (hex) over config, weights, tokenizer, templates and processor settings: the identity
    of a checkpoint. Files that have not changed are read once.
    """
    files = [folder / n for n in IDENTITY if (folder / n).is_file()]
    files += [f for n in TEMPLATE_FOLDERS for f in sorted((folder / n).glob("*.jinja"))]
    files += weight_files(folder)
    total = hashlib.sha256()
    for file in files:
        total.update(f"{file.relative_to(folder).as_posix()}:{file_digest(file)}\n".encode())
    return total.hexdigest()


def check_unchanged(folder: Path, known: str, now: str) -> None:
    """Raises CheckpointError where a folder's digest was taken (``known``) before its weights were
    read, and is another ``now``: answers would be told of weights that did not make them.
    """
    if known != now:
        raise CheckpointError(
            f"{folder}: was written to while its weights were loaded: repeat it when they are whole"
        )


def tensors_digest(state: Mapping[str, Tensor], *about: str) -> str:
    """SHA-256 (hex) over tensors in memory, by name, and over what else identifies them."""
    from torch import uint8

    total = hashlib.sha256()
    for text in about:
        total.update(f"{text}\n".encode())
    for name, tensor in state.items():
        total.update(f"{name}:{tensor.dtype}:{list(tensor.shape)}\n".encode())
        total.update(tensor.detach().cpu().contiguous().flatten().view(uint8).numpy().data)
    return total.hexdigest()


def _indexed(folder: Path) -> list[Path]:
    """The shards that the index names; none without an index."""
    index = folder / INDEX
    if not index.is_file():
        return []
    names = read_json(index).get("weight_map")
    if not isinstance(names, dict) or not all(isinstance(n, str) for n in names.values()):
        raise CheckpointError(f"{index}: no weight_map from tensors to files; download it again")
    for name in names.values():
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise CheckpointError(f"{index}: {name!r} is no safetensors file of this folder")
    return [folder / n for n in sorted(set(names.values()))]


def _equal(one: list[Path], other: list[Path]) -> bool:
    """Whether two sets of files hold the same tensors, read one at a time."""
    from torch import equal

    files = {h.name: file for file in other for h in headers([file])}
    if files.keys() != {h.name for h in headers(one)}:
        return False
    for name, tensor in tensors(one):
        with _opened(files[name]) as f:
            if not equal(tensor, f.get_tensor(name)):
                return False
    return True
