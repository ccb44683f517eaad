"""The reference implementation of Qwen2.5-VL (arXiv 2502.13923): what it changes of Qwen2-VL.

``config`` (sizes) · ``switches`` (ablations) · ``processing`` (budgets of videos) · ``vision``
(windows, RMSNorm, SwiGLU) · ``model`` (the whole). Decoder, positions, chat and checkpoints are
those of ``evalkit.models.qwen2_vl``.
"""

from evalkit.models.qwen2_5_vl.config import RELEASED, Qwen2_5VLConfig, VisionConfig
from evalkit.models.qwen2_5_vl.switches import Switches

__all__ = ["RELEASED", "Qwen2_5VLConfig", "Switches", "VisionConfig"]
