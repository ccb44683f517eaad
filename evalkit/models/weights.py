"""A checkpoint's folder, whatever the model: where it lies, which of its files are read, and the
digest that identifies it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from evalkit.cache_dir import cache_dir
from evalkit.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor

COMPANIONS = (
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.json",
    "chat_template.jinja",
    "preprocessor_config.json",
    "generation_config.json",
)


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


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a checkpoint's file. Raises CheckpointError that names the file."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as e:
        raise CheckpointError(f"{path}: can't be read as JSON ({e})") from e
    if not isinstance(found, dict):
        raise CheckpointError(f"{path}: holds {type(found).__name__}, not a JSON object")
    return found


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
    cache_file = cache_dir() / "digests.json"
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


def tensors(files: list[Path]) -> Iterator[tuple[str, Tensor]]:
    """Names and tensors (on the CPU) in safetensors files, one after the other. Raises
    CheckpointError, with the file, for one that is damaged.
    """
    for file in files:
        try:
            with safe_open(file, framework="pt") as f:
                for key in f.keys():  # noqa: SIM118 - a safetensors handle is not a dict
                    yield key, f.get_tensor(key)
        except SafetensorError as e:
            raise CheckpointError(
                f"{file}: not a readable safetensors file ({e}); download it again"
            ) from e
