"""The reference implementation of Qwen2-VL (arXiv 2409.12191), in the order in which data meets it:

``config`` (sizes) · ``switches`` (ablations) · ``processing`` (pixels to patches) · ``chat`` (text
to ids) · ``rope`` (rotations) · ``positions`` (where tokens stand) · ``vision`` · ``decoder`` ·
``model`` (the whole) · ``checkpoint`` (reading and writing).
"""

from evalkit.models.qwen2_vl.config import RELEASED, Qwen2VLConfig, TextConfig, VisionConfig
from evalkit.models.qwen2_vl.switches import Switches

__all__ = ["RELEASED", "Qwen2VLConfig", "Switches", "TextConfig", "VisionConfig"]
