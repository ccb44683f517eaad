"""The reference implementation of Qwen3-VL's mixtures of experts (arXiv 2511.21631): what they
change of dense Qwen3-VL.

``config`` (sizes) · ``experts`` (the MLP: routing, experts) · ``model`` (the whole). All else is
that of ``evalkit.models.qwen3_vl``.
"""

from evalkit.models.qwen3_vl.switches import Switches
from evalkit.models.qwen3_vl_moe.config import RELEASED, Qwen3VLMoeConfig, TextConfig

__all__ = ["RELEASED", "Qwen3VLMoeConfig", "Switches", "TextConfig"]
