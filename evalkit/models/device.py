"""On which device, and in which number format, a model computes."""

from __future__ import annotations

import torch

from evalkit.errors import UsageError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_NATIVE_ON_CPU = {
    "bfloat16": "_is_mkldnn_bf16_supported",
    "float16": "_is_mkldnn_fp16_supported",
}


def checked_device(name: str | None) -> str:
    """The device of that name; without one a GPU where there is one. Raises UsageError for one that
    is not here.
    """
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
    except RuntimeError:
        device = torch.device("meta")  # a name that torch doesn't know, refused with the others
    if device.type not in ("cpu", "cuda"):
        raise UsageError(f"device {name!r}: expected cpu, cuda or cuda:N")
    if device.type == "cpu":
        return "cpu"
    if (device.index or 0) >= torch.cuda.device_count():
        raise UsageError(
            f"device {name!r}: torch {torch.__version__} sees {torch.cuda.device_count()} "
            "CUDA devices here"
        )
    return str(device)


def join_ranks(device: str, rank: int, ranks: int, meeting: str) -> None:
    """Makes this process one of several that hold a model together: ``rank`` of ``ranks``, from 0.
    They meet at ``meeting``, an address of torch.distributed (``tcp://HOST:PORT``,
    ``file://PATH``).
    """
    import torch.distributed as dist

    kind = torch.device(device).type
    if kind == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group(
        "nccl" if kind == "cuda" else "gloo", init_method=meeting, rank=rank, world_size=ranks
    )


def chosen_dtype(given: str | None, own: str, device: str) -> str:
    """The number format to compute in: the ``given`` one, else the checkpoint's ``own``, or float32
    on a CPU that would only emulate that. Raises UsageError for one that is not in DTYPES.
    """
    if given is not None and given not in DTYPES:
        raise UsageError(f"dtype={given!r}: expected one of {', '.join(DTYPES)}")
    return given or without_emulation(own, device)


def without_emulation(dtype: str, device: str) -> str:
    """``dtype``, or float32 on a CPU that only emulates it: bfloat16 products were 150 times slower
    there than float32's.
    """
    if device != "cpu" or dtype not in _NATIVE_ON_CPU:
        return dtype
    return dtype if getattr(torch.ops.mkldnn, _NATIVE_ON_CPU[dtype])() else "float32"
