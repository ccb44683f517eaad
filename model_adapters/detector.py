"""Detectors that answer referring expressions with a box: Grounding DINO (Liu et al., 2024) and
OWLv2 (Minderer et al., 2023) by the expression's text; DETR (Carion et al., 2020), RT-DETR (Zhao et
al., 2024) and their kin by the first of their classes that the expression names.

The likeliest box is the answer, in pixels, whatever its score: an expression always refers to
something. A detector of classes knows no relations; it is a baseline, and an expression that names
none of its classes is answered with no box.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import torch
from PIL import Image as PILImage
from torch import Tensor

from evalkit.adapter import ModelAdapter, answer_each, media_of
from evalkit.errors import DataError, UsageError
from evalkit.media import decode_image
from evalkit.models.device import checked_device, chosen_dtype
from evalkit.pretrained.checkpoint import Checkpoint, dtype_of, on_device
from evalkit.pretrained.labels import name_of
from evalkit.types import BoxSpace, Completion, Image, Request, Text, TokenCounts

GROUNDED = ("grounding-dino", "mm-grounding-dino")
OPEN_WORLD = ("owlv2", "owlvit")
SOFTMAX = ("detr", "yolos")
"""Detectors of classes with a class for nothing; the others score each class by itself."""
CLASSES = (
    *SOFTMAX,
    "conditional_detr",
    "deformable_detr",
    "rt_detr",
    "rt_detr_v2",
    "d_fine",
)
KNOWN = (*GROUNDED, *OPEN_WORLD, *CLASSES)
EXPRESSION = (r'"([^"]+)"', r"<ref>\s*(.+?)\s*</ref>", r"\bdescribes?:\s*(.+?)\s*$")
"""Where prompts hold the expression: in quotes, in tags, or after `describes:`; else it is all."""
PEOPLE = "man woman boy girl guy lady child kid baby player people men women men's person".split()


class Found(NamedTuple):
    """What a model says of each of its boxes: scores [boxes], and the boxes [boxes, 4] as centre,
    width and height, in parts of the picture.
    """

    scores: Tensor
    boxes: Tensor


class DetectorAdapter(ModelAdapter):
    """A detector. ``template`` has ``{expression}``, what OWLv2 is asked for. Expressions beyond
    what a model takes (16 tokens for OWLv2) are cut, and counted in the results' ``stats``.
    Raises UsageError for a model of another kind.
    """

    name = "detector"
    box_space: BoxSpace | None = "pixel"

    def __init__(
        self,
        model: str,
        *,
        template: str = "{expression}",
        dtype: str | None = None,
        device: str | None = None,
    ) -> None:
        self.checkpoint = Checkpoint.find(model)
        raw = _named(self.checkpoint)
        if "rcnn" in raw.replace("-", "").replace("_", ""):
            raise UsageError(
                f"{model}: {raw!r} is not available: neither transformers nor evalkit has Faster "
                "or Mask R-CNN; DETR with a ResNet-50 has the same backbone"
            )
        self.config = self.checkpoint.config()
        self.kind = self.config.model_type
        if self.kind not in KNOWN:
            raise UsageError(
                f"{model}: model_type {self.kind!r}; adapter {self.name!r} runs {', '.join(KNOWN)}"
            )
        if "{expression}" not in template:
            raise UsageError(f"template={template!r}: it has no place for the {{expression}}")
        self.template = template
        self.device = checked_device(device)
        self.dtype = chosen_dtype(dtype, dtype_of(self.config), self.device)
        self.cut = 0

    @cached_property
    def fingerprint(self) -> Mapping[str, Any]:
        return {
            "adapter": self.name,
            **self.checkpoint.identity,
            "dtype": self.dtype,
            "template": self.template,
            "box_space": self.box_space,
            "image_processor": type(self.checkpoint.image_processor).__name__,
        }

    @property
    def details(self) -> Mapping[str, Any]:
        reads = "its classes' names only" if self.kind in CLASSES else "the expression"
        return {"device": self.device, "model_type": self.kind, "reads": reads}

    @property
    def stats(self) -> Mapping[str, Any]:
        return {"expressions_cut": self.cut}

    @cached_property
    def model(self) -> Any:
        from transformers import AutoModelForObjectDetection, AutoModelForZeroShotObjectDetection

        by_text = self.kind not in CLASSES
        auto = AutoModelForZeroShotObjectDetection if by_text else AutoModelForObjectDetection
        return self.checkpoint.model(auto, self.dtype, self.device)

    @cached_property
    def classes(self) -> dict[str, int]:
        """Names of what a detector of classes knows, and of people if it knows a person."""
        ids = {name_of(str(label)): int(i) for i, label in self.config.id2label.items()}
        return {**dict.fromkeys(PEOPLE, ids["person"]), **ids} if "person" in ids else ids

    def generate(self, requests: Iterable[Request]) -> Iterator[Completion]:
        self.cut = 0
        return answer_each(requests, self._answer)

    @torch.inference_mode()
    def _answer(self, request: Request) -> Completion:
        media = media_of(request.messages)
        if len(media) != 1 or not isinstance(media[0], Image):
            raise DataError(
                f"adapter {self.name!r} takes one image, and there are {len(media)} media"
            )
        said = [p.text for m in request.messages for p in m.content if isinstance(p, Text)]
        picture = decode_image(media[0]).convert("RGB")
        found = self._found(picture, expression_of("\n".join(said)))
        if found is None:
            return Completion(request.id, "", box_space=self.box_space)
        best = int(found.scores.argmax())
        # OWLv2 pads a picture to a square before anything else
        square = self.kind == "owlv2"
        width, height = (max(picture.size),) * 2 if square else picture.size
        x, y, across, down = found.boxes[best].float().tolist()
        left, right = ((x + side * across / 2) * width for side in (-1, 1))
        top, bottom = ((y + side * down / 2) * height for side in (-1, 1))
        text = f"({left:.2f},{top:.2f}),({right:.2f},{bottom:.2f})"
        return Completion(request.id, text, tokens=TokenCounts(), box_space=self.box_space)

    def _found(self, picture: PILImage.Image, expression: str) -> Found | None:
        """All boxes with their scores for an expression; None where it names nothing known."""
        made = self.checkpoint.image_processor(images=[picture], return_tensors="pt")
        pixels = {
            k: v
            for k, v in on_device(made, self.model).items()
            if k in ("pixel_values", "pixel_mask")
        }
        if self.kind in CLASSES:
            named = first_named(expression, self.classes)
            if named is None:
                return None
            out = self.model(**pixels)
            logits = out.logits[0]
            soft = self.kind in SOFTMAX
            scores = logits.softmax(-1)[:, named] if soft else logits[:, named].sigmoid()
            return Found(scores, out.pred_boxes[0])
        asked = self.template.format(expression=expression)
        if self.kind in GROUNDED:
            asked = asked.lower().rstrip(" .") + "."
        tokens = self._tokens(asked)
        out = self.model(**pixels, **tokens)
        logits = out.logits[0]
        if self.kind in GROUNDED:
            logits = logits[:, : tokens["input_ids"].shape[1]][:, self._words(tokens)]
        return Found(logits.amax(-1).sigmoid(), out.pred_boxes[0])

    def _tokens(self, text: str) -> dict[str, Tensor]:
        grounded = self.kind in GROUNDED
        text_config = self.config.text_config
        most = self.config.max_text_len if grounded else text_config.max_position_embeddings
        self.cut += len(self.checkpoint.tokenizer(text)["input_ids"]) > most
        out = self.checkpoint.tokenizer(
            [text],
            padding=True if grounded else "max_length",
            truncation=True,
            max_length=most,
            padding_side="right",
            return_tensors="pt",
        )
        return {k: out[k].to(self.device) for k in ("input_ids", "attention_mask")}

    def _words(self, tokens: Mapping[str, Tensor]) -> Tensor:
        """Which tokens are the expression's: not those that stand around it, nor the full stop."""
        t = self.checkpoint.tokenizer
        around = {*t.all_special_ids, *t.convert_tokens_to_ids(["."])}
        ids = tokens["input_ids"][0].tolist()
        return torch.tensor([i not in around for i in ids], device=self.device)


def _named(checkpoint: Checkpoint) -> str:
    """What a folder's config calls its model, in lower case."""
    from evalkit.models.weights import read_json

    path = checkpoint.folder / "config.json"
    raw = read_json(path) if path.is_file() else {}
    return str(raw.get("model_type") or raw.get("architecture") or "").lower()


def expression_of(question: str) -> str:
    """The expression in a question about where something is."""
    for pattern in EXPRESSION:
        if found := re.search(pattern, question, re.DOTALL):
            return found[1].strip()
    return question.strip()


def first_named(expression: str, classes: Mapping[str, int]) -> int | None:
    """The class that an expression names first (of two that begin together the longer one):
    what a phrase is about comes before what it is related to. None when it names none.
    """
    words = re.findall(r"[\w']+", expression.casefold())
    for start in range(len(words)):
        for end in range(len(words), start, -1):
            if (found := _class(words[start:end], classes)) is not None:
                return found
    return None


def _class(words: Sequence[str], classes: Mapping[str, int]) -> int | None:
    phrase = " ".join(words)
    forms = (phrase, phrase.removesuffix("s"), phrase.removesuffix("es"))
    return next((classes[form] for form in forms if form in classes), None)
