"""What is to be known of each vision-language family of `transformers` beyond what its repository
says: how its models write boxes, and the prompt of those that carry no chat template.

Sources: the papers and model cards; for LLaVA haotian-liu/LLaVA issue 606, for InternVL its own
evaluation script, for BLIP-2 the paper's section 4.3, for PaliGemma its model card.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from evalkit.models.weights import read_json
from evalkit.types import BoxSpace


@dataclass(frozen=True)
class VisionLanguage:
    """A family. ``prompt`` has ``{images}`` and ``{question}``; it is used where the checkpoint has
    no chat template. ``one_image``: its models take no more than one image at a time.
    """

    box_space: BoxSpace | None = None
    prompt: str = ""
    one_image: bool = False


KNOWN = {
    "llava": VisionLanguage("square:list", "USER: {images}\n{question} ASSISTANT:"),
    "llava_next": VisionLanguage("square:list"),
    "llava_onevision": VisionLanguage("norm1:list"),
    "blip-2": VisionLanguage(None, "Question: {question} Answer:", one_image=True),
    "instructblip": VisionLanguage(None, "{question}", one_image=True),
    "idefics": VisionLanguage(None, "User: {images}{question}<end_of_utterance>\nAssistant:"),
    "idefics2": VisionLanguage(None, "User:{images}{question}<end_of_utterance>\nAssistant:"),
    "idefics3": VisionLanguage(None, "User:{images}{question}<end_of_utterance>\nAssistant:"),
    "smolvlm": VisionLanguage(
        None, "<|im_start|>User:{images}{question}<end_of_utterance>\nAssistant:"
    ),
    "internvl": VisionLanguage("norm1000:list"),
    "paligemma": VisionLanguage("loc1024", "{images}answer en {question}", one_image=True),
    "qwen2_vl": VisionLanguage("norm1000"),
    "qwen2_5_vl": VisionLanguage("resized:json"),
    "qwen3_vl": VisionLanguage("norm1000:json"),
    "qwen3_vl_moe": VisionLanguage("norm1000:json"),
}
"""By ``model_type``. Families that are not here run by their chat template and draw no boxes."""


def vision_language(model_type: str) -> VisionLanguage:
    """What is known of a family; for one that is not known, that its models draw no boxes."""
    return KNOWN.get(model_type, VisionLanguage())


def box_space(model_type: str, folder: Path) -> BoxSpace | None:
    """How a checkpoint's model writes boxes. LLaVA-1.5 was trained on images padded to a square; a
    processor that crops the centre instead shows it that square alone.
    """
    space = vision_language(model_type).box_space
    if model_type != "llava":
        return space
    files = [folder / "processor_config.json", folder / "preprocessor_config.json"]
    said = next((read_json(f) for f in files if f.is_file()), {})
    said = said.get("image_processor", said)
    if said.get("do_pad"):
        return space
    return "crop:list" if said.get("do_center_crop", True) else "norm1:list"
