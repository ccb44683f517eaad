"""What the registry of model families offers of Qwen3-VL's mixtures of experts. Imports torch on
use only.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from evalkit.errors import UsageError
from evalkit.models.qwen2_vl.family import on_use
from evalkit.models.qwen3_vl.family import Switches as Switches
from evalkit.models.qwen3_vl.family import blind as blind
from evalkit.models.qwen3_vl.family import box_space as box_space
from evalkit.models.qwen3_vl_moe.config import Qwen3VLMoeConfig as Config

if TYPE_CHECKING:
    from evalkit.models.qwen3_vl.chat import Chat as Chat
    from evalkit.models.qwen3_vl.processing import Processor as Processor
    from evalkit.models.qwen3_vl_moe.model import Qwen3VLMoe as Model

__all__ = ["Config", "Model", "blind"]


def load(
    folder: Path,
    dtype: str | None = None,
    device: str = "cpu",
    switches: Switches | None = None,
) -> Model:
    """The model of a checkpoint folder for inference: its projections are fused. Raises
    CheckpointError.
    """
    from evalkit.models.qwen2_vl.checkpoint import load_as
    from evalkit.models.qwen3_vl_moe.experts import fuse
    from evalkit.models.qwen3_vl_moe.model import Qwen3VLMoe

    return fuse(load_as(Qwen3VLMoe, folder, dtype, device, switches))


def load_parallel(
    folder: Path,
    dtype: str | None = None,
    device: str = "cpu",
    switches: Switches | None = None,
) -> Model:
    """This rank's share of such a model, in the default process group. Raises CheckpointError, and
    UsageError for what can't be shared.
    """
    import torch.distributed as dist

    from evalkit.models.qwen2_vl.parallel import load_parallel as load_share
    from evalkit.models.qwen3_vl_moe.experts import share_out
    from evalkit.models.qwen3_vl_moe.model import Qwen3VLMoe

    ranks, experts = dist.get_world_size(), Config.load(folder).text.num_experts
    if experts % ranks:
        raise UsageError(f"tensor_parallel={ranks}: it must divide the model's {experts} experts")
    model = load_share(Qwen3VLMoe, folder, dtype, device, switches)
    return share_out(model, dist.get_rank())


def compile_parts(model: Model) -> None:
    """Compiles what Qwen3-VL's does, but for the experts, in place."""
    from evalkit.models.qwen3_vl_moe.experts import compile_parts as compile_

    compile_(model)


__getattr__ = on_use(
    {
        "Chat": "evalkit.models.qwen3_vl.chat:Chat",
        "Model": "evalkit.models.qwen3_vl_moe.model:Qwen3VLMoe",
        "Processor": "evalkit.models.qwen3_vl.processing:Processor",
        "bench": "evalkit.models.qwen3_vl_moe.bench",
    }
)
