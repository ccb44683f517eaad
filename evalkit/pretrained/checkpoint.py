"""A checkpoint that `transformers` loads: its config and its model, whole or not at all.

`transformers` fills what is missing with random numbers and only warns; here that is a refusal. A
LoRA (Hu et al., 2021) is merged into its base by `peft` where both are at hand.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalkit.digests import file_digest
from evalkit.errors import CheckpointError, UsageError
from evalkit.models.weights import (
    check_unchanged,
    read_json,
    refuse_adapter,
    weights_digest,
)
from evalkit.nano import checkpoint_folder

if TYPE_CHECKING:
    from torch import Tensor

LORA = ("adapter_config.json", "adapter_model.safetensors")
FURTHER = (
    *("added_tokens.json", "special_tokens_map.json", "vocab.json", "vocab.txt", "merges.txt"),
    *("*.model", "qformer_tokenizer/*"),
)
"""Files beside a model that decide how its texts are cut, where ``tokenizer.json`` is not all."""
FAILURES = (OSError, ValueError, RuntimeError, ImportError, AttributeError, KeyError, TypeError)
"""What `transformers` raises for folders that it can't read."""


@dataclass(frozen=True)
class Checkpoint:
    """``folder`` holds a whole model; ``lora`` is the folder of an adapter to merge into it."""

    folder: Path
    lora: Path | None = None
    trust_remote_code: bool = False

    @classmethod
    def find(cls, model: str, trust_remote_code: bool = False) -> Checkpoint:
        """What a name or folder stands for. Raises UsageError for a model in memory,
        CheckpointError for an adapter whose base, or `peft`, is not at hand.
        """
        if not isinstance(model, str | Path):
            raise UsageError(
                f"a model in memory, {type(model).__name__}: models of transformers are read from "
                "a folder; save it there (save_pretrained, its processor too) and give the folder"
            )
        folder = checkpoint_folder(model)
        if not (folder / LORA[0]).is_file():
            return cls(folder, None, trust_remote_code)
        base = read_json(folder / LORA[0]).get("base_model_name_or_path")
        try:
            import peft  # noqa: F401 - only whether it is there

            if not isinstance(base, str) or not base:
                raise CheckpointError("its config names no base")
            if not (folder / LORA[1]).is_file():
                raise CheckpointError(f"no {LORA[1]}; pickled weights are not read")
            beside = folder / base
            found = beside if beside.is_dir() and beside != folder else checkpoint_folder(base)
            refuse_adapter(found)
        except ImportError:
            why = "merging needs peft: pip install 'evalkit[peft]'"
        except CheckpointError as e:
            why = f"it can't be merged: {e}"
        else:
            return cls(found, folder, trust_remote_code)
        raise CheckpointError(f"{folder}: an adapter (LoRA) for {base or 'an unnamed base'}; {why}")

    @cached_property
    def digest(self) -> str:
        """SHA-256 (hex) over all that decides answers, of the base and of the adapter."""
        return self._digest()

    def _digest(self) -> str:
        whole = weights_digest(self.folder)
        if self.lora is None:
            return whole
        files = (file_digest(self.lora / name) for name in LORA)
        return hashlib.sha256("\n".join((whole, *files)).encode()).hexdigest()

    @property
    def identity(self) -> Mapping[str, str]:
        """What fingerprints say of it: `transformers`' version, the weights, and what else of its
        folder decides answers.
        """
        import transformers

        return {
            "transformers": transformers.__version__,
            "weights": self.digest,
            **({"further": further} if (further := self._further()) else {}),
        }

    def _further(self) -> str:
        """SHA-256 (hex) over ``FURTHER``, and over code that may run; empty without any."""
        names = [*FURTHER, *(["**/*.py"] if self.trust_remote_code else [])]
        files = sorted({f for name in names for f in self.folder.glob(name) if f.is_file()})
        told = [f"{f.relative_to(self.folder).as_posix()}:{file_digest(f)}" for f in files]
        return hashlib.sha256("\n".join(told).encode()).hexdigest() if told else ""

    def config(self) -> Any:
        """Raises CheckpointError."""
        from transformers import AutoConfig

        try:
            return AutoConfig.from_pretrained(self.folder, trust_remote_code=self.trust_remote_code)
        except FAILURES as e:
            raise CheckpointError(f"{self.folder}: transformers can't read its config: {e}") from e

    def model(self, auto: Any, dtype: str, device: str, **arguments: Any) -> Any:
        """The model, in evaluation mode, by one of `transformers`' auto classes. Raises
        CheckpointError where weights and config do not fit, a back end is missing, or the files
        are others than when their digest was taken.
        """
        method = quantisation(self.config())
        if method:
            arguments["device_map"] = device
        try:
            model, info = auto.from_pretrained(
                self.folder,
                dtype=dtype,
                trust_remote_code=self.trust_remote_code,
                output_loading_info=True,
                **arguments,
            )
        except FAILURES as e:
            what = f"the model, quantised with {method}," if method else "the model"
            raise CheckpointError(f"{self.folder}: transformers can't load {what}: {e}") from e
        _check_fit(self.folder, info)
        if self.lora:
            model = _merged(model, self.lora)
        if "digest" in vars(self):
            check_unchanged(self.folder, self.digest, self._digest())
        return model.eval() if method else model.eval().to(device)

    @cached_property
    def image_processor(self) -> Any:
        """Raises CheckpointError."""
        return self._part("ImageProcessor")

    @cached_property
    def tokenizer(self) -> Any:
        """Raises CheckpointError."""
        return self._part("Tokenizer")

    def _part(self, what: str) -> Any:
        import transformers

        auto = getattr(transformers, f"Auto{what}")
        try:
            return auto.from_pretrained(self.folder, trust_remote_code=self.trust_remote_code)
        except FAILURES as e:
            raise CheckpointError(f"{self.folder}: transformers can't build its {what}: {e}") from e


def dtype_of(config: Any) -> str:
    """The number format of a checkpoint's weights by its config; float32 where it says none."""
    return str(getattr(config, "dtype", None) or "float32").removeprefix("torch.")


def on_device(inputs: Mapping[str, Any], model: Any) -> dict[str, Tensor]:
    """The tensors among a model's inputs on its device, numbers with a point in its own format."""
    import torch

    return {
        name: value.to(model.device, model.dtype if value.is_floating_point() else value.dtype)
        for name, value in inputs.items()
        if torch.is_tensor(value)
    }


def quantisation(config: Any) -> str | None:
    """The method by which a config says that its weights are quantised."""
    said = getattr(config, "quantization_config", None)
    if said is None:
        return None
    method = said.get("quant_method") if isinstance(said, dict) else said.quant_method
    return str(getattr(method, "value", method) or "an unnamed method")


def _merged(model: Any, lora: Path) -> Any:
    """A model with an adapter's weights added to its own."""
    from peft import PeftModel
    from safetensors import safe_open

    try:
        wrapped = PeftModel.from_pretrained(model, str(lora), autocast_adapter_dtype=False)
        known = {_plain(name) for name, _ in wrapped.named_parameters()}
        with safe_open(lora / LORA[1], framework="pt") as file:
            stored = {_plain(name) for name in file.keys()}  # noqa: SIM118 - a handle is no dict
    except FAILURES as e:
        raise CheckpointError(f"{lora}: peft can't apply this adapter: {e}") from e
    wanted = {name for name in known if ".lora_" in name}
    if faults := (wanted - stored) | (stored - known):
        raise CheckpointError(
            f"{lora}: its tensors are not those of an adapter for {model.config.model_type}: "
            f"{', '.join(sorted(faults)[:3])}"
        )
    return wrapped.merge_and_unload()


def _plain(name: str) -> str:
    """The name of an adapter's tensor, as it is the same on disk and in the model."""
    for part in (".default", ".modules_to_save"):
        name = name.replace(part, "")
    return name.removesuffix(".weight")


def _check_fit(folder: Path, info: Mapping[str, Any]) -> None:
    """Raises CheckpointError for tensors that are missing, surplus or of another shape."""
    faults = {
        what: sorted(str(n) for n in info.get(key) or ())
        for what, key in (
            ("missing", "missing_keys"),
            ("surplus", "unexpected_keys"),
            ("of another shape", "mismatched_keys"),
        )
    }
    if any(faults.values()):
        told = "; ".join(
            f"{len(names)} {what} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
            for what, names in faults.items()
            if names
        )
        raise CheckpointError(
            f"{folder}: its weights are not those of the model that config.json describes: {told}; "
            "a LoRA or a wrapped model must be merged and saved again"
        )
