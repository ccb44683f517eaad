"""Devices and number formats: only those that are here, and none that a CPU would emulate."""

from __future__ import annotations

import pytest
import torch

from evalkit.errors import UsageError
from evalkit.models.device import checked_device, chosen_dtype, without_emulation


@pytest.mark.parametrize("name", ["gpu", "meta", "mps", "cuda:x", "cpu:cpu", "tpu:0"])
def test_a_device_that_evalkit_does_not_run_on_is_refused_with_those_it_does(name: str) -> None:
    with pytest.raises(UsageError, match=f"'{name}': expected cpu, cuda or cuda:N"):
        checked_device(name)


def test_a_gpu_that_is_not_here_is_refused_with_the_number_there_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert checked_device("cuda:1") == "cuda:1"
    with pytest.raises(UsageError, match="'cuda:2'.* sees 2 CUDA devices"):
        checked_device("cuda:2")


@pytest.mark.parametrize(("gpu", "device"), [(True, "cuda"), (False, "cpu")])
def test_without_a_name_a_gpu_is_taken_where_there_is_one(
    monkeypatch: pytest.MonkeyPatch, gpu: bool, device: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: int(gpu))
    assert checked_device(None) == device
    assert checked_device("cpu:0") == "cpu"


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_cpu_that_would_emulate_half_precision_computes_in_single(
    monkeypatch: pytest.MonkeyPatch, dtype: str
) -> None:
    name = {"bfloat16": "_is_mkldnn_bf16_supported", "float16": "_is_mkldnn_fp16_supported"}[dtype]
    for supported, taken in ((False, "float32"), (True, dtype)):
        monkeypatch.setattr(torch.ops.mkldnn, name, lambda supported=supported: supported)
        assert without_emulation(dtype, "cpu") == taken
        assert without_emulation(dtype, "cuda:0") == dtype
    assert without_emulation("float32", "cpu") == "float32"


def test_a_number_format_that_is_none_is_refused_with_those_there_are() -> None:
    assert chosen_dtype("float16", "float32", "cpu") == "float16"
    assert chosen_dtype(None, "float32", "cpu") == "float32"
    with pytest.raises(UsageError, match="dtype='int8': expected one of float32, bfloat16"):
        chosen_dtype("int8", "float32", "cpu")
