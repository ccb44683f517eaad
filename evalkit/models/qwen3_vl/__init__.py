"""The reference implementation of Qwen3-VL (arXiv 2511.21631): what it changes of Qwen2-VL.

``config`` (sizes) · ``switches`` (ablations) · ``processing`` (patches of 16 pixels) · ``chat``
(timestamps) · ``vision`` (position table, DeepStack) · ``decoder`` (norms of queries and keys,
injection) · ``model`` (the whole). Positions, checkpoints and fused layers are those of
``evalkit.models.qwen2_vl``.
"""

from evalkit.models.qwen3_vl.config import RELEASED, Qwen3VLConfig, TextConfig, VisionConfig
from evalkit.models.qwen3_vl.switches import Switches

__all__ = ["RELEASED", "Qwen3VLConfig", "Switches", "TextConfig", "VisionConfig"]
