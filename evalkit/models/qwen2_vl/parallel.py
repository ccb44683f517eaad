"""Tensor parallelism: one model over several processes, each with a share of every matrix
(Megatron-LM, arXiv 1909.08053, section 3), by torch's DTensor.

Matrices that lead into heads, an MLP or the vocabulary are cut by rows, those that lead out of them
by columns; then each rank computes its heads and its part of an MLP alone, and two sums over all
ranks a layer are what is sent. Of a layer's experts each rank has some, whole. Norms, the merger
and activations between layers are whole in every rank. Shares are cut as they are read: no rank
holds the model.

Every rank must be asked the same prompts in the same order. Where heads don't divide evenly, zero
heads fill up, and key-value heads are repeated: both change no number.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    ParallelStyle,
    RowwiseParallel,
    parallelize_module,
)

from evalkit.errors import UsageError
from evalkit.models.qwen2_vl.checkpoint import EXPERTS, load_as
from evalkit.models.qwen2_vl.config import Qwen2VLConfig
from evalkit.models.qwen2_vl.model import Qwen2VL
from evalkit.models.qwen2_vl.switches import Switches

Model = TypeVar("Model", bound=Qwen2VL)
INTO = re.compile(r"\.mlp\.(gate_proj|up_proj|fc1|linear_fc1)\.(weight|bias)$")
OUT_OF = re.compile(r"\.mlp\.(down_proj|fc2|linear_fc2)\.weight$")
BLOCKS = ("model.layers.", "visual.blocks.")
VOCABULARY = ("model.embed_tokens.weight", "lm_head.weight")


@dataclass(frozen=True)
class Part:
    """What a rank has of a tensor: ranges along a dimension, each with zeros behind it up to
    ``size``, one after another.
    """

    dim: int
    ranges: tuple[tuple[int, int], ...]
    size: int

    def of(self, stored: Any) -> Tensor:
        """The part of a tensor, or of a file's slice, of which no more is read; ``size`` times the
        number of ranges long along ``dim``.
        """
        parts = []
        for start, stop in self.ranges:
            part = stored[start:stop] if self.dim == 0 else stored[:, start:stop]
            behind = [0, 0] * (part.dim() - 1 - self.dim) + [0, self.size - (stop - start)]
            parts.append(F.pad(part, behind))
        return torch.cat(parts, self.dim)


@dataclass(frozen=True)
class Share:
    """What one of ``ranks`` processes holds of a model. Raises UsageError where key-value heads
    can't be divided among them.
    """

    config: Qwen2VLConfig
    rank: int
    ranks: int

    def __post_init__(self) -> None:
        kv = self.config.text.num_key_value_heads
        if kv % self.ranks and self.ranks % kv:
            raise UsageError(
                f"tensor_parallel={self.ranks}: the model has {kv} key-value heads, which must "
                "divide it or be divided by it"
            )

    @property
    def kv_heads(self) -> int:
        return max(1, self.config.text.num_key_value_heads // self.ranks)

    @property
    def vision_heads(self) -> int:
        return -(-self.config.vision.num_heads // self.ranks)

    def _even(self, n: int) -> tuple[tuple[int, int], int]:
        """This rank's range of n things, and how many of them a rank has."""
        each = -(-n // self.ranks)
        return (min(self.rank * each, n), min((self.rank + 1) * each, n)), each

    def _heads(self) -> tuple[tuple[int, int], int]:
        """This rank's query heads, all of its own key-value heads, and how many they are."""
        t = self.config.text
        group, copies = t.num_attention_heads // t.num_key_value_heads, self._copies
        if copies == 1:
            return self._even(t.num_attention_heads)
        each = -(-group // copies)
        first = self.rank // copies * group
        start = min(self.rank % copies * each, group)
        return (first + start, first + min(start + each, group)), each

    @property
    def _copies(self) -> int:
        """Ranks that hold the same key-value head."""
        return max(1, self.ranks // self.config.text.num_key_value_heads)

    def part(self, name: str, shape: tuple[int, ...]) -> Part | None:
        """The part of a tensor (by its name in the model) that is this rank's; None for all."""
        t, v = self.config.text, self.config.vision
        if name in VOCABULARY:
            span, each = self._even(shape[0])
            return Part(0, (span,), each) if shape[0] % self.ranks == 0 else None
        if not name.startswith(BLOCKS):
            return None
        if INTO.search(name):
            span, each = self._even(shape[0])
            return Part(0, (span,), each)
        if EXPERTS.search(name):
            span, each = self._even(shape[0])
            return Part(0, (span,), each)
        if OUT_OF.search(name):
            span, each = self._even(shape[1])
            return Part(1, (span,), each)
        (a, b), each = self._heads()
        d = t.head_dim
        if ".self_attn.q_proj." in name:
            return Part(0, ((a * d, b * d),), each * d)
        if ".self_attn.o_proj." in name:
            return Part(1, ((a * d, b * d),), each * d)
        if re.search(r"\.self_attn\.[kv]_proj\.", name):
            first = self.rank // self._copies * self.kv_heads * d
            return Part(0, ((first, first + self.kv_heads * d),), self.kv_heads * d)
        (a, b), each = self._even(v.num_heads)
        d = v.width // v.num_heads
        if ".attn.qkv." in name:
            ranges = tuple((k * v.width + a * d, k * v.width + b * d) for k in range(3))
            return Part(0, ranges, each * d)
        if name.endswith(".attn.proj.weight"):
            return Part(1, ((a * d, b * d),), each * d)
        return None


def load_parallel(
    kind: type[Model],
    folder: Path,
    dtype: str | None = None,
    device: str = "cpu",
    switches: Switches | None = None,
) -> Model:
    """This rank's share of the model of a checkpoint folder, in the default process group. Raises
    CheckpointError as ``load_as``, and UsageError for sizes or switches that can't be shared.
    """
    share = Share(kind.Config.load(folder), dist.get_rank(), dist.get_world_size())
    cut: dict[str, int] = {}

    def part(name: str, shape: tuple[int, ...]) -> Part | None:
        found = share.part(name, shape)
        if found and not EXPERTS.search(name):  # whose layer sums over all ranks itself
            cut[name] = found.dim
        return found

    model = load_as(kind, folder, dtype, device, switches, part)
    cos, _ = model.rotary(model.position_ids([0]))
    if cos.dim() != 2:
        raise UsageError(
            f"tensor_parallel={share.ranks}: not where each head has angles of its own"
        )
    model.kv_heads = share.kv_heads
    for block in model.visual.blocks:
        block.attn.heads = share.vision_heads  # type: ignore[union-attr]
    _distribute(model, cut, init_device_mesh(torch.device(device).type, (share.ranks,)))
    return model.requires_grad_(False)


def _distribute(model: Qwen2VL, cut: Mapping[str, int], mesh: DeviceMesh) -> None:
    """Makes DTensors of the tensors that were cut, by the dimension of the cut."""
    tied = model.lm_head.weight is model.model.embed_tokens.weight
    styles: dict[str, ParallelStyle] = {}
    biases: list[tuple[nn.Module, Tensor]] = []
    for name, dim in cut.items():
        owner, _, leaf = name.rpartition(".")
        module = model.get_submodule(owner)
        whole = DTensor.from_local(getattr(module, leaf), mesh, [Shard(dim)], run_check=False)
        module.register_parameter(leaf, nn.Parameter(whole, requires_grad=False))
        styles[owner] = RowwiseParallel() if dim == 1 else ColwiseParallel()
        if dim == 1 and isinstance(bias := getattr(module, "bias", None), Tensor):
            biases.append((module, bias))  # added once, to the sum
            module.register_parameter("bias", None)
    if "model.embed_tokens" in styles:
        styles["model.embed_tokens"] = RowwiseParallel(input_layouts=Replicate())
        styles["lm_head"] = ColwiseParallel(output_layouts=Replicate())
        if tied:
            model.lm_head.weight = model.model.embed_tokens.weight
    parallelize_module(model, mesh, styles)
    for module, bias in biases:
        module.register_forward_hook(lambda m, inputs, out, bias=bias: out + bias)
